"""The command line as a person types it: a process, its output, its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2f_lib.preparation.shards import read_prepared


def s2f(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "from s2f_lib.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=280)


@pytest.mark.parametrize(
    "command", ["synth", "prepare", "pairs", "run", "book", "info", "weights", "train-vgg-face"]
)
def test_every_command_has_help(command):
    result = s2f(command, "--help")
    assert result.returncode == 0
    assert "Usage: s2f" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synth", "--out", "x", "--rho", "2"], "--rho"),
        (["run", "--profile", "quik"], "unknown profile 'quik' - did you mean quick?"),
        (["run", "-p", "training.epoch=3"], "unknown setting 'training.epoch'"),
        (["run", "-p", "training.epochs=many"], "training.epochs"),
        (["run", "-p", "training.epochs"], "expected KEY=VALUE"),
        (["run", "--only", "99"], "99"),
        (["prepare", "--csv", "nowhere.csv", "--media", ".", "--out", "x"], "nowhere.csv"),
        (
            ["prepare", "--source", "tiktok", "--csv", "a", "--media", ".", "--out", "x"],
            "unknown source 'tiktok'",
        ),
        (["prepare", "--csv"], "--csv"),
        (["bogus"], "bogus"),
        (["weights", "import", "vgg_face_dag.pth"], "s2f weights import"),
    ],
)
def test_bad_input_is_one_line_and_status_two(arguments, message, tmp_path):
    result = s2f(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_info_names_versions_and_profiles():
    result = s2f("info")
    assert result.returncode == 0
    assert "torch" in result.stdout
    assert "quick" in result.stdout


def test_synth_then_prepare(tmp_path):
    made = s2f("synth", "--out", tmp_path / "clips", "--n-train", 3, "--n-test", 2, "--duration-s", 3.2)
    assert made.returncode == 0, made.stderr
    arguments = ["--csv", tmp_path / "clips/clips.csv", "--media", tmp_path / "clips/media"]
    arguments += ["--splits", tmp_path / "clips/splits.csv", "--out", tmp_path / "prepared"]
    arguments += ["-p", "preparation.detection_width_px=240", "-p", "preparation.detector=dlib"]
    prepared = s2f("prepare", *arguments)
    assert prepared.returncode == 0, prepared.stderr
    clips = read_prepared(tmp_path / "prepared")
    assert len(clips) == 5
    assert sorted(clips.splits) == ["test"] * 2 + ["train"] * 3


def test_real_clips_are_prepared_and_two_are_refused(shared_data, tmp_path):
    clips = shared_data / "clips"
    arguments = ["--source", "avspeech", "--csv", clips / "avspeech_clips.csv", "--media", clips]
    result = s2f("prepare", *arguments, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "two_faces_1" in result.stdout
    assert "several-faces" in result.stdout
    assert "no_face_001" in result.stdout
    assert "no-face" in result.stdout
    assert len(read_prepared(tmp_path / "out")) == 15
