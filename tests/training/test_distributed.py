"""Real processes: two with half a batch each train like one (DDP), and a killed one is resumed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2f_lib.cli.main import main
from s2f_lib.preparation.shards import read_prepared

from .conftest import SETTINGS
from .worker import RUNS, train_all

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, prepared):
    """All runs of `worker`: by one process here, and by two others that are interrupted once."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.training.worker", str(prepared), str(two)],
        env=ENVIRONMENT,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    losses = train_all(read_prepared(prepared, split="train"), one)
    return one, two, losses, json.loads((two / "losses.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_losses_of_one(runs, name):
    one, two, single, together = runs
    together = together["losses"][name]
    assert len(single[name]) == len(together) == (8 if RUNS[name][1]["training__epochs"] == 2 else 52)
    differences = [abs(a - b) for a, b in zip(single[name], together, strict=True)]
    assert max(differences) < 1e-5
    files = [next(folder.glob(f"{name}-*/model.safetensors")) for folder in (one, two)]
    assert files[0].parent.name == files[1].parent.name
    models = [load_file(file) for file in files]
    assert list(models[0]) == list(models[1])
    for key, tensor in models[0].items():  # with the statistics of the norms
        torch.testing.assert_close(models[1][key], tensor, rtol=1e-3, atol=1e-3, msg=f"{name}: {key}")


def test_fifty_steps_are_enough_to_learn(runs):
    for name in ("l1", "contrastive"):
        losses = runs[2][name]
        assert sum(losses[-4:]) < 0.98 * sum(losses[:4])  # one epoch each


@pytest.mark.parametrize("name", RUNS)
def test_two_interrupted_processes_resume_exactly(runs, name):
    # step 6 was computed twice: before the interruption, and from the checkpoint of step 5
    together = runs[3]
    assert together["cut"][name][5] == together["losses"][name][5]


def _command(prepared: Path, out: Path, *arguments: str) -> list[str]:
    profile = out.with_suffix(".yaml")
    profile.write_text("{}", encoding="utf-8")
    settings = {key: value for key, value in SETTINGS.items() if not key.startswith("decoder")}
    settings |= {"training.epochs": 8, "training.checkpoint_every_steps": 1}
    command = [sys.executable, "-m", "s2f_lib.cli", "train", str(prepared), "--out", str(out)]
    command += ["--profile", str(profile), "--log-steps", str(out.with_suffix(".jsonl"))]
    return [*command, *(f"-p{key}={value}" for key, value in settings.items()), *arguments]


def _steps(out: Path) -> list[tuple[int, float]]:
    path = out.with_suffix(".jsonl")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [tuple(json.loads(line)) for line in lines]


def test_killed_process_resumes_with_same_losses(tmp_path, prepared):
    out = tmp_path / "killed"
    with subprocess.Popen(_command(prepared, out), env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        while len(_steps(out)) < 5:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    killed = _steps(out)
    subprocess.run(_command(prepared, out), env=ENVIRONMENT, capture_output=True, check=True)
    both = _steps(out)
    # a step after the last checkpoint is repeated with the same loss
    assert len(dict(both)) == both[-1][0] == 16
    again = both[len(killed) :]
    assert again[0][0] in {len(killed), len(killed) + 1}
    assert all(dict(killed).get(step, loss) == loss for step, loss in again)
    assert len(list(out.glob("encoder-l1-*/model.safetensors"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "info_nec"], "did you mean info_nce?"),
        (["-p", "training.epoch=3"], "did you mean training.epochs?"),
        (["-p", "training.epochs"], "expected KEY=VALUE"),
    ],
)
def test_train_command_bad_input_is_one_line(tmp_path, prepared, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", ["s2f", *_command(prepared, tmp_path / "bad", *arguments)[3:]])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("s2f: ")
    assert message in line
