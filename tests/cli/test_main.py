"""The command line: output and exit status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from s2f_lib.cli import main as cli
from s2f_lib.cli.main import app
from s2f_lib.config import load_config
from s2f_lib.preparation.shards import read_prepared


def s2f(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a new process."""
    command = [sys.executable, "-c", "from s2f_lib.cli.main import main; main()", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=280)


GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


def leaves(command, *names):
    """Return `(names, command)` of a command, or of all commands of a group."""
    if not hasattr(command, "commands"):
        return [(names, command)]
    return [leaf for name, inner in command.commands.items() for leaf in leaves(inner, *names, name)]


def test_help_lists_every_command():
    result = s2f("--help")
    assert result.returncode == 0
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        assert re.search(rf"^\W*{command}  +\w", result.stdout, re.MULTILINE), command
        assert re.search(rf"\b{command}\b", cli.__doc__), command


LEAVES = {" ".join(names): command for names, command in leaves(GROUP)}


@pytest.mark.parametrize("name", LEAVES)
def test_help_has_every_text_whole(name):
    command = LEAVES[name]
    result = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="s2f", env={"COLUMNS": "100"})
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert f"Usage: s2f {name}" in shown
    texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    for text in filter(None, texts):
        assert " ".join(text.split()) in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synth", "--out", "x", "--rho", "2"], "--rho"),
        (["run", "--profile", "quik"], "unknown profile 'quik' - did you mean quick?"),
        (["run", "-p", "training.epoch=3"], "unknown setting 'training.epoch'"),
        (["run", "-p", "training.epochs=many"], "training.epochs"),
        (["run", "-p", "training.epochs"], "expected KEY=VALUE"),
        (["run", "--only", "99"], "99"),
        (["run", "-p", "trainig=3"], "unknown parameter 'trainig' - did you mean training?"),
        (["run", "-p", "qwxyz=3"], "unknown parameter 'qwxyz' - the page Settings of the book lists"),
        (["run", "-p", "source.avspeech.csv=x.csv"], "no effect: source.kind is synthetic; add source.kind="),
        (["run", "-p", "training.learning_rate=.nan"], "training.learning_rate: Input should be a finite"),
        (
            ["run", "--only", "02", "-p", "measure=l1"],
            "'measure' belongs to 03_loss_comparison and 05_retrieval",
        ),
        (["synth", "--out", "x", "--rho", "nan"], "--rho"),
        (["synth", "--out", "x", "--n-train", "1" + 12 * "0"], "n_train: Input should be less than"),
        (["synth", "--out", "x", "--workers", "1000000"], "--workers"),
        (["train", "x", "--out", "y", "-p", "source.synthetic.rho=0"], "no effect on s2f train, which reads"),
        (["faces", "--utkface", ".", "--out", "no/x.json"], "no folder no: make it first"),
        (["book", "--profile", "pairs", "--utkface", "nowhere"], "no folder nowhere: --utkface takes"),
        (["prepare", "--csv", "nowhere.csv", "--media", ".", "--out", "x"], "nowhere.csv"),
        (
            ["prepare", "--source", "tiktok", "--csv", "a", "--media", ".", "--out", "x"],
            "unknown source 'tiktok'",
        ),
        (["prepare", "--csv"], "--csv"),
        (["bogus"], "bogus"),
        (["weights", "import", "vgg_face_dag.pth"], "s2f weights import"),
        (["train-vgg-face", "--out", "x", "-p", "learning_rat=1"], "did you mean learning_rate?"),
    ],
)
def test_bad_input_prints_one_line_and_exits_with_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["s2f", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_file_instead_of_folder_exits_with_2(tmp_path):
    (tmp_path / "taken").write_text("")
    result = s2f("synth", "--out", "taken", "--n-train", "1", "--n-test", "1", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines() == ["s2f: taken/media: Not a directory"]


def test_utkface_option_sets_the_setting(tmp_path):
    parameters = cli.chapter_parameters(["training.epochs=3"], utkface=tmp_path)
    config = load_config("pairs", parameters)
    assert (config.decoder_training.utkface, config.training.epochs) == (tmp_path, 3)
    assert load_config("pairs", cli.chapter_parameters(None, utkface=None)).decoder_training.utkface is None


def test_info_prints_versions_and_profiles():
    result = s2f("info")
    assert result.returncode == 0
    assert "torch" in result.stdout
    assert "quick" in result.stdout


def test_synth_output_can_be_prepared(tmp_path):
    made = s2f("synth", "--out", tmp_path / "clips", "--n-train", 3, "--n-test", 2, "--duration-s", 3.2)
    assert made.returncode == 0, made.stderr
    assert "clips: 5 of 5" in made.stderr.splitlines()[-1]
    arguments = ["--csv", tmp_path / "clips/clips.csv", "--media", tmp_path / "clips/media"]
    arguments += ["--split", tmp_path / "clips/splits.csv", "--out", tmp_path / "prepared"]
    arguments += ["-p", "preparation.detection_width_px=240", "-p", "preparation.detector=dlib"]
    prepared = s2f("prepare", *arguments)
    assert prepared.returncode == 0, prepared.stderr
    assert re.search(r"^\d\d:\d\d:\d\d clips: 5 of 5$", prepared.stderr, re.MULTILINE)
    clips = read_prepared(tmp_path / "prepared")
    assert len(clips) == 5
    assert sorted(clips.splits) == ["test"] * 2 + ["train"] * 3


def test_prepare_real_clips_refuses_two(shared_data, tmp_path):
    clips = shared_data / "clips"
    arguments = ["--source", "avspeech", "--csv", clips / "avspeech_clips.csv", "--media", clips]
    result = s2f("prepare", *arguments, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "two_faces_1" in result.stdout
    assert "several-faces" in result.stdout
    assert "no_face_001" in result.stdout
    assert "no-face" in result.stdout
    assert len(read_prepared(tmp_path / "out")) == 15
