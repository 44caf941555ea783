"""Extractor, loss, encoder, decoder and source of another distribution, used by name in real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

from s2f_lib.config import SyntheticConfig
from s2f_lib.sources.synthetic.clips import make_synthetic_clips

ROOT = Path(__file__).resolve().parents[1]

PACKAGE = """
import csv
from pathlib import Path

from torch import nn
from torch.nn.functional import cosine_similarity, interpolate

from s2f_lib.sources import ClipRef


class MeanColour:
    name, dimension, fingerprint, runs_in_workers = "mean_colour", 12, "1", True

    def __call__(self, faces):
        quarters = faces.reshape(len(faces), 2, 112, 2, 112, 3).mean(axis=(2, 4))
        return quarters.reshape(len(faces), 12).astype("float32")


def angle(face, speech):
    return 1 - cosine_similarity(face.float(), speech.float()).mean()


class MeanSpectrum(nn.Module):
    def __init__(self, *, feature_dimension, spectrogram, hidden):
        super().__init__()
        self.first = nn.Linear(2 * spectrogram.n_bins, hidden)
        self.last = nn.Linear(hidden, feature_dimension)

    def forward(self, spectrogram):
        return self.last(self.first(spectrogram.mean(dim=2).flatten(1)).relu())

    def output_bias(self):
        return self.last.bias


class Blocks(nn.Module):
    def __init__(self, *, feature_dimension):
        super().__init__()
        self.colours = nn.Linear(feature_dimension, 3 * 4)

    def forward(self, features):
        return interpolate(self.colours(features).sigmoid().unflatten(1, (3, 2, 2)), size=(224, 224))


def folder(root):
    for row in csv.DictReader(Path(root, "splits.csv").open()):
        name = row["clip_id"].rpartition("_")[0]
        media = Path(root, "media", f"{name}.mp4")
        yield ClipRef(row["clip_id"], name, 0.0, 2.0, 0.5, 0.5, media, row["split"])
"""

ENTRY_POINTS = """
[s2f_lib.extractors]
mean_colour = foreign_parts:MeanColour
[s2f_lib.losses]
angle = foreign_parts:angle
broken = foreign_parts:missing
[s2f_lib.encoders]
mean_spectrum = foreign_parts:MeanSpectrum
[s2f_lib.decoders]
blocks = foreign_parts:Blocks
[s2f_lib.sources]
folder = foreign_parts:folder
"""

USE = """
import json, sys
from s2f_lib import Study
from s2f_lib.reconstruction import make_kit

if __name__ == "__main__":
    study = Study.open(sys.argv[1], run_dir=sys.argv[2])
    make_kit(study)
    folders = {"encoder": study.encoder().folder, "decoder": study.decoder().folder}
    folders["prepared"] = study.prepared_dir
    print(json.dumps({name: str(folder.resolve()) for name, folder in folders.items()}))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Return a folder with an installed distribution, synthetic clips, a profile and a script."""
    folder = tmp_path_factory.mktemp("foreign")
    info = folder / "site" / "foreign_parts-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "site" / "foreign_parts.py").write_text(PACKAGE)
    people = SyntheticConfig(n_train=4, n_test=2, width_px=240, height_px=180, duration_s=2.0)
    make_synthetic_clips(people, folder / "people", workers=1)
    loop = {"epochs": 1, "batch_size": 2, "validation_share": 0.0, "device": "cpu"}
    profile = {
        "source": {"kind": "folder", "options": {"root": str(folder / "people")}},
        "preparation": {"detection_width_px": 240, "frame_positions": [0.5], "workers": 2},
        "features": {"extractor": "mean_colour"},
        "spectrogram": {"duration_s": 1.0, "max_frequency_hz": 1000},
        "encoder": {"kind": "mean_spectrum", "options": {"hidden": 4}},
        "decoder": {"kind": "blocks"},
        "training": {"main_loss": "angle", **loop},
        "decoder_training": {"identity_weight": 0, **loop},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(profile))
    (folder / "use.py").write_text(USE)
    return folder


def _run(workplace: Path, *command: str | Path) -> subprocess.CompletedProcess:
    search = os.pathsep.join([str(workplace / "site"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": search, "S2F_WORKSPACE": str(workplace / "workspace")}
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=environment, cwd=workplace, capture_output=True, text=True)


@pytest.mark.slow
def test_foreign_parts_work_by_name_in_study_and_commands(workplace):
    done = _run(workplace, "use.py", "mine.yaml", "run")
    assert done.returncode == 0, done.stderr
    folders = {name: Path(folder) for name, folder in json.loads(done.stdout.splitlines()[-1]).items()}
    assert folders["encoder"].name.startswith("encoder-angle-")
    assert folders["decoder"].name.startswith("decoder-blocks-")
    assert folders["prepared"].name.startswith("prepared-folder-")
    about = json.loads((folders["encoder"] / "encoder.json").read_text())
    assert (about["name"], about["settings"]["options"]) == ("mean_spectrum", {"hidden": 4})

    clip = next((workplace / "people" / "media").glob("*.mp4"))
    done = _run(workplace, "-m", "s2f_lib.cli", "reconstruct", clip, "-o", "face.png", "--run", "run")
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(workplace / "face.png")) is not None

    training = ["train", folders["prepared"], "--out", "models", "--profile", "mine.yaml"]
    done = _run(workplace, "-m", "s2f_lib.cli", *training, "--loss", "angle")
    assert done.returncode == 0, done.stderr
    # the same settings and clips give the same name as in the study
    assert [path.name for path in (workplace / "models").glob("encoder-*/")] == [folders["encoder"].name]


def test_broken_and_unknown_names_are_one_line(workplace):
    training = ["-m", "s2f_lib.cli", "train", "nowhere", "--out", "models"]
    done = _run(workplace, *training, "--loss", "angel")
    assert done.returncode == 2
    assert "unknown name 'angel' - did you mean angle?" in " ".join(done.stderr.split())
    script = "from s2f_lib.training import make_loss; make_loss('broken')"
    done = _run(workplace, "-c", script)
    last = done.stderr.splitlines()[-1]
    assert "loss 'broken' of foreign-parts 1.0 cannot be imported from 'foreign_parts:missing'" in last
    assert "repair or uninstall that distribution" in last
