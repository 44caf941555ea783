"""The command `s2f pairs` on generated pairs, and on some real ones if they are available."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from s2f_lib.cli.main import main
from tests.pairs_folder import avspeech_name, write_pair, write_pairs

QUICK = ["-p", "training.epochs=1", "-p", "training.batch_size=4", "-p", "encoder.width=0.02"]
QUICK += ["-p", "encoder.hidden=16", "-p", "evaluation.n_bootstrap=100"]


def s2f(*arguments: object, workspace: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in its own process and workspace."""
    command = [
        sys.executable,
        "-c",
        "from s2f_lib.cli.main import main; main()",
        "pairs",
        *map(str, arguments),
    ]
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    environment |= {"S2F_WORKSPACE": str(workspace), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen AVSpeech pairs, of which one has no sound, and three people of VoxCeleb."""
    root = tmp_path_factory.mktemp("pairs") / "clone"
    write_pairs(root / "figures", avspeech=16, voxceleb=3)
    (root / "figures" / "avspeech_res" / "Wav" / f"{avspeech_name(15)}.flac").unlink()
    return root


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Workspace whose cached features several runs share."""
    return tmp_path_factory.mktemp("workspace")


def test_pairs_stored_split_runs_and_repeats(folder, workspace, tmp_path):
    split = tmp_path / "split.csv"
    rows = [f"{avspeech_name(i)},{'test' if i % 4 == 0 else 'train'}" for i in range(16)]
    split.write_text("clip_id,split\n" + "\n".join(rows) + "\n")
    out = tmp_path / "results.json"
    arguments = ["--root", folder, "--split", split, "--voxceleb", "--control", "--out", out, *QUICK]
    done = s2f(*arguments, workspace=workspace)
    assert done.returncode == 0, done.stderr
    assert "median rank" in done.stdout
    results = json.loads(out.read_text())
    assert list(results["systems"]) == ["speech2face", "report", "ridge", "ours", "shuffled"]
    assert results["systems"]["ours"]["n"] == results["systems"]["ours"]["gallery"] == 4
    assert results["sets"]["voxceleb"]["n"] == 6  # the split names none of them: all are test
    assert results["data"]["left_out"] == {avspeech_name(15): "no file in Wav"}
    assert results["data"]["pairs"] == {"avspeech": 15, "voxceleb": 6}
    assert results["settings"]["ours"][0]["blocks"][-1] == "speaker"
    assert "encoder4" in results["settings"]["ours"][0]["blocks"]
    assert str(folder) not in out.read_text()
    assert results["face_from_face"]["avspeech"]["gallery"] == 15
    # the written split gives the same numbers again
    again = tmp_path / "again.json"
    stored = ["--split", tmp_path / "results_splits" / "0.csv", "--out", again]
    arguments = ["--root", folder, *stored, "--voxceleb", "--control", *QUICK]
    done = s2f(*arguments, workspace=workspace)
    assert done.returncode == 0, done.stderr
    assert json.loads(again.read_text())["sets"] == results["sets"]


def test_pairs_bad_input_is_one_line_and_status_two(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path / "work"))
    monkeypatch.setenv("COLUMNS", "400")
    out = tmp_path / "results.json"
    split = tmp_path / "split.csv"
    split.write_text(f"{avspeech_name(0)},train\nnobody,test\n")
    few = tmp_path / "few"
    for number in range(5):
        write_pair(few / "avspeech_res", avspeech_name(number), number)
    cases = {
        "no folder of pairs": ["--root", tmp_path / "nowhere", "--out", out],
        "of no pair in the folder (nobody)": ["--root", folder, "--split", split, "--out", out],
        "leave --voxceleb out": ["--root", few, "--voxceleb", "--out", out],
        "too few pairs: 4 videos or people": ["--root", few, "--out", out],
        "unknown system 'theirs'": ["--root", folder, "--system", "theirs", "--out", out],
        "give one of the two": ["--root", folder, "--split", split, "--splits", 3, "--out", out],
        "is a folder": ["--root", folder, "--out", tmp_path],
    }
    for message, arguments in cases.items():
        monkeypatch.setattr(sys, "argv", ["s2f", "pairs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2, message
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()
    assert not (tmp_path / "work").exists()  # every error is found before anything is computed


def test_pairs_real_pairs_run_to_the_end(shared_data, workspace, tmp_path):
    """Two dozen real pairs are too few to compare systems, but enough to run all steps."""
    root = tmp_path / "some"
    source = shared_data / "speech2face_pairs" / "avspeech_res"
    names = sorted(path.stem for path in (source / "Wav").iterdir())[:24]
    for member in source.iterdir():
        (root / "avspeech_res" / member.name).mkdir(parents=True)
        for path in member.iterdir():
            if path.stem in names:
                (root / "avspeech_res" / member.name / path.name).symlink_to(path)
    out = tmp_path / "results.json"
    arguments = ["--root", root, "--out", out, "--system", "speech2face", "--system", "ours"]
    done = s2f(*arguments, workspace=workspace)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert results["splits"][0]["n_train"] + results["splits"][0]["n_test"] == 24
    for numbers in results["systems"].values():
        assert 0 < numbers["mrr"] <= 1
