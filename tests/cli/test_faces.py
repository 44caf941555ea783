"""The command `s2f faces` on a small folder of artificial faces with UTKFace's file names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from s2f_lib.chapters import decoders as report

SETTINGS = {
    "decoder.residual_channels": "[8,8,8,8,8]",
    "decoder.residual_hidden": 16,
    "decoder.width": 0.0625,
    "decoder_training.epochs": 1,
    "decoder_training.batch_size": 4,
    "evaluation.n_bootstrap": 20,
}


def s2f(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from s2f_lib.cli.main import main; main()", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """24 artificial faces of 200 x 200 pixels; the file name of one of them has no race."""
    folder = tmp_path_factory.mktemp("utkface")
    rng = np.random.default_rng(0)
    for number in range(24):
        face = np.full((200, 200, 3), 90, np.uint8)
        colour = tuple(int(value) for value in rng.integers(120, 230, 3))
        cv2.ellipse(face, (100, 105), (int(rng.integers(50, 85)), 95), 0, 0, 360, colour, -1)
        for side in (-1, 1):
            cv2.circle(face, (100 + side * 38, 62), int(rng.integers(5, 11)), (40, 30, 25), -1)
        name = f"{20 + number}_{number % 2}_{number % 5}_{20170101000000000 + number}.jpg.chip.jpg"
        cv2.imwrite(str(folder / (name if number else "61_1_20170109142408075.jpg.chip.jpg")), face)
    return folder


def test_faces_compares_both_decoders_and_writes_no_image(folder, tmp_path):
    parameters = [part for key, value in SETTINGS.items() for part in ("-p", f"{key}={value}")]
    sizes = ["--n-train", 12, "--n-gallery", 10, "--fold", 1, "--report-epochs", 2]
    out = tmp_path / "published" / "decoders.json"
    out.parent.mkdir()
    done = s2f(
        "faces",
        "--utkface",
        folder,
        "--out",
        out,
        "--work",
        tmp_path / "work",
        *sizes,
        *parameters,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    about = content["provenance"]
    assert (about["files"], about["refused"], about["train"], about["gallery"]) == (24, 1, 12, 10)
    assert (about["fold"], about["epochs"]) == (1, {"report": 2, "residual": 1})
    epochs = pd.read_csv(out.with_name("decoders_training.csv")).groupby("decoder").size().to_dict()
    assert epochs == about["epochs"]
    assert set(about["training_min"]) == {"report", "residual"}
    assert str(tmp_path) not in out.read_text()
    assert str(folder) not in out.read_text()
    table = pd.DataFrame(content["decoders"])
    assert set(table["decoder"]) == {"report", "residual"}
    chance = table[table["measure"] == "recall_1"]["chance"]
    assert chance.tolist() == [0.1, 0.1]
    written = sorted(path.name for path in out.parent.iterdir())
    assert written == ["decoders.json", "decoders_measures.csv", "decoders_training.csv"]
    shown = report.evaluation_table(table)
    assert list(shown.columns) == ["measure", "as in the report", "residual", "chance"]
    assert shown.set_index("measure")["chance"]["R@1, %"] == "10.00"
    assert pd.isna(shown.set_index("measure")["chance"]["SSIM"])
    assert 0 <= report.value(table, "report", "recall_10") <= 1


def test_faces_missing_folder_is_one_line_and_status_two(tmp_path):
    missing = s2f("faces", "--utkface", tmp_path / "absent", "--out", "x.json", cwd=tmp_path)
    assert missing.returncode == 2
    assert "no folder" in missing.stderr
    assert len(missing.stderr.strip().splitlines()) == 1


def test_reconstructions_side_by_side_even_identity_steps():
    originals = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    identity = np.array([0.1, 0.9, 0.5, 0.7, 0.3])
    faces, headings, notes = report.reconstructions_side_by_side(
        originals, {"report": originals + 10, "residual": originals + 20}, identity, n_rows=3
    )
    assert faces[:, 0, 0, 0, 0].tolist() == [1, 2, 0]  # best, middle, worst
    assert faces[0, :, 0, 0, 0].tolist() == [1, 11, 21]
    assert headings == ["original", "as in the report", "residual"]
    assert notes == ["identity 0.90", "identity 0.50", "identity 0.10"]
