"""Reconstruction with a tiny run, and errors of one line for bad input."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import s2f_lib
from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.reconstruction.kit import kit_of_run
from s2f_lib.reconstruction.voice import read_voice
from s2f_lib.study import Study

RATE_HZ = 16_000
TINY = {
    "source.synthetic.n_train": 8,
    "source.synthetic.n_test": 3,
    "source.synthetic.duration_s": 3.0,
    "preparation.workers": 2,
    "training.epochs": 1,
    "training.batch_size": 4,
    "training.validation_share": 0.0,
    "decoder.residual_channels": [8, 8, 8, 8, 8],
    "decoder_training.epochs": 1,
    "decoder_training.batch_size": 4,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return the folder of a small finished run of the profile quick, in its own workspace."""
    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S2F_WORKSPACE", str(workspace))
        study = Study.open("quick", run_dir=workspace / "runs" / "quick", settings=TINY)
        kit_of_run(study.paths.root, train=True)
        yield study.paths.root


@pytest.fixture(scope="module")
def voices(run, tmp_path_factory) -> list[Path]:
    """Return recordings of two of the run's people."""
    folder = tmp_path_factory.mktemp("voices")
    clips = Study.open("quick", settings=TINY).split("test")
    files = [_write(folder / f"voice{index}.wav", clips.audio[index, : 3 * RATE_HZ]) for index in range(2)]
    return files


def _write(path: Path, audio: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(audio.astype("<i2").tobytes())
    return path


def s2f(*arguments: object, workspace: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from s2f_lib.cli.main import main; main()", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "S2F_WORKSPACE": str(workspace)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)


def test_reconstruct_returns_face_guesses_and_found_faces(run, voices):
    first, again, other = (s2f_lib.reconstruct(voices[index], run=run) for index in (0, 0, 1))
    assert first.face.shape == (224, 224, 3)
    assert first.face.dtype == np.uint8
    np.testing.assert_array_equal(first.features, again.features)
    assert not np.array_equal(first.features, other.features)
    similarities = [found.similarity for found in first.found]
    assert len(similarities) == 5
    assert similarities == sorted(similarities, reverse=True)
    assert first.gallery_size == len(Study.open("quick", settings=TINY).clips)
    guesses = {guess.name: guess for guess in first.attributes}
    assert list(guesses) == ["gender", "age_years", "group"]
    assert guesses["gender"].value in ("female", "male")
    assert 0.5 <= guesses["gender"].probability <= 1
    low, high = guesses["age_years"].interval
    assert low < high
    assert "80% of test people" in guesses["age_years"].format_guess()


@pytest.mark.parametrize(
    ("suffix", "codec", "options"), [("webm", "libopus", {"live": "1"}), ("aiff", "pcm_s16be", {})]
)
def test_read_voice_reads_formats_without_length(voices, tmp_path, suffix, codec, options):
    path = tmp_path / f"voice.{suffix}"
    with av.open(str(voices[0])) as source, av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=RATE_HZ)
        stream.layout = "mono"
        for frame in source.decode(audio=0):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    audio, expected = read_voice(path), read_voice(voices[0])
    assert len(audio) == pytest.approx(len(expected), abs=0.02 * RATE_HZ)
    assert np.std(audio) == pytest.approx(np.std(expected), rel=0.05)


def test_kit_probe_equals_fitted_probe(run):
    from s2f_lib.evaluation.probes import fit_probe
    from s2f_lib.evaluation.retrieval import unit
    from s2f_lib.sources.synthetic.people import draw_population

    study = Study.open("quick", settings=TINY)
    people = draw_population(study.config.source.synthetic).table().set_index("clip_id")
    train, test = study.split("train"), study.split("test")
    probes = {probe.name: probe for probe in kit_of_run(run).probes}
    gender = fit_probe(train.features, people.loc[train.clip_ids, "gender"].to_numpy())
    expected = gender.predict_proba(unit(test.features))
    np.testing.assert_allclose(probes["gender"].scores(test.features), expected, atol=1e-4)
    group = fit_probe(train.features, people.loc[train.clip_ids, "group"].to_numpy())
    np.testing.assert_allclose(
        probes["group"].scores(test.features), group.predict_proba(unit(test.features)), atol=1e-4
    )
    age = fit_probe(train.features, people.loc[train.clip_ids, "age_years"].to_numpy())
    np.testing.assert_allclose(
        probes["age_years"].scores(test.features)[:, 0], age.predict(unit(test.features)), rtol=1e-3
    )


def test_kit_of_run_damaged_is_made_again(run, voices):
    before = s2f_lib.reconstruct(voices[0], run=run)
    (file,) = (run / "models").glob("reconstruction-kit-*.npz")
    file.write_bytes(b"not an archive")
    after = s2f_lib.reconstruct(voices[0], run=run)
    np.testing.assert_array_equal(before.face, after.face)
    assert after.attributes == before.attributes


def test_reconstruct_with_gallery_folder(run, voices, tmp_path):
    test = Study.open("quick", settings=TINY).split("test")
    for index, crop in enumerate(test.crops([0, 1])):
        wide = cv2.copyMakeBorder(crop, 60, 60, 60, 60, cv2.BORDER_REPLICATE)
        cv2.imwrite(str(tmp_path / f"face{index}.png"), cv2.cvtColor(wide, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((200, 200, 3), 127, np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    result = s2f_lib.reconstruct(voices[0], run=run, gallery=tmp_path)
    assert {found.name for found in result.found} == {"face0.png", "face1.png"}
    assert result.gallery_size == 2
    (tmp_path / "only").mkdir()
    cv2.imwrite(str(tmp_path / "only" / "grey.png"), np.full((200, 200, 3), 127, np.uint8))
    with pytest.raises(InputError, match="none of the 1 images"):
        s2f_lib.reconstruct(voices[0], run=run, gallery=tmp_path / "only")
    with pytest.raises(MissingFileError, match="no folder"):
        s2f_lib.reconstruct(voices[0], run=run, gallery=tmp_path / "absent")


def test_reconstruct_other_settings_opened_same_model(run, voices):
    before, stored = s2f_lib.reconstruct(voices[0], run=run), (run / "settings.yaml").read_bytes()
    models = sorted((run / "models").iterdir())
    other = TINY | {"training.seed": 1}
    changed = Study.open("quick", settings=other)
    Study.open("quick", run_dir=run, settings=other)
    assert changed.paths.root.parent == run.parent
    assert changed.paths.root != run
    assert (run / "settings.yaml").read_bytes() == stored
    after = s2f_lib.reconstruct(voices[0], run=run)
    assert after.encoder == before.encoder
    assert after.encoder.parent == run / "models"
    np.testing.assert_array_equal(before.features, after.features)
    assert sorted((run / "models").iterdir()) == models


def test_reconstruct_trains_only_if_told(run, voices, tmp_path):
    workspace, models = run.parents[1], set((run / "models").glob("*coder-*"))
    folder = Study.open("quick", settings=TINY | {"training.seed": 2}).paths.root
    with pytest.raises(MissingFileError, match=r"no trained models .* `s2f reconstruct --train`"):
        s2f_lib.reconstruct(voices[0], run=folder)
    unprepared = Study.open("quick", settings=TINY | {"source.synthetic.seed": 1}).paths.root
    with pytest.raises(MissingFileError, match="no trained models"):
        s2f_lib.reconstruct(voices[0], run=unprepared)
    assert len(list((workspace / "data").glob("prepared-*"))) == 1
    assert set((run / "models").glob("*coder-*")) == models
    out = tmp_path / "face.png"
    done = s2f("reconstruct", voices[0], "-o", out, "--run", folder, "--train", workspace=workspace)
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of 1" in done.stderr
    trained = s2f_lib.reconstruct(voices[0], run=folder).encoder
    assert trained not in models
    assert f"model: {trained}\n" in done.stdout


def _noise(duration_s: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3000, round(duration_s * RATE_HZ))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("silence.wav", np.zeros(2 * RATE_HZ), "silence"),
        ("short.wav", _noise(0.6), "too short: 0.60 s, expected at least 1 s"),
        ("noise.wav", _noise(2), "does not sound like speech"),
        ("tone.wav", 9000 * np.sin(np.arange(2 * RATE_HZ) / 12), "does not sound like speech"),
        ("notes.txt", b"hello", "is not a media file"),
    ],
)
def test_reconstruct_bad_recording_raises_one_line(run, tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        _write(path, content)
    with pytest.raises(InputError, match=message) as caught:
        s2f_lib.reconstruct(path, run=run)
    assert "\n" not in str(caught.value)


def test_reconstruct_missing_file_or_run_says_what_to_do(run, voices, tmp_path):
    with pytest.raises(MissingFileError, match=r"no file .*absent\.wav"):
        s2f_lib.reconstruct(tmp_path / "absent.wav", run=run)
    with pytest.raises(MissingFileError, match="make book"):
        s2f_lib.reconstruct(voices[0], run=tmp_path)


def test_command_writes_image_and_exit_status(run, voices, tmp_path):
    workspace = run.parents[1]
    done = s2f("reconstruct", voices[0], "-o", tmp_path / "face.png", workspace=workspace)  # runs/quick
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "face.png")).std() > 10
    for wanted in ("gender:", "age:", "1. ", "5. ", "not a portrait"):
        assert wanted in done.stdout
    bad = s2f(
        "reconstruct",
        _write(tmp_path / "noise.wav", _noise(2)),
        "-o",
        tmp_path / "x.png",
        workspace=workspace,
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("s2f: noise.wav does not sound like speech")
    assert len(bad.stderr.splitlines()) == 1
    assert not (tmp_path / "x.png").exists()
    for out, message in {"x.jpg": "expected a .png file", "new/x.png": "make it first"}.items():
        bad = s2f("reconstruct", voices[0], "-o", tmp_path / out, workspace=workspace)
        assert bad.returncode == 2
        assert message in bad.stderr
    assert not (tmp_path / "new").exists()
