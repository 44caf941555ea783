"""A run that is killed at any step, or whose checkpoints are damaged, is resumed bit for bit."""

from __future__ import annotations

import logging
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from s2f_lib.config import LoopConfig
from s2f_lib.errors import CheckpointError, TrainingError
from s2f_lib.training.checkpoint import load_model
from s2f_lib.training.data import PairedArrays
from s2f_lib.training.loop import Task, fit

# 5 steps per epoch, with a checkpoint after each; dropout has a random state
CONFIG = LoopConfig(epochs=3, batch_size=4, learning_rate=0.02, device="cpu", checkpoint_every_steps=1)
STEPS = 15


class Killed(Exception):
    """Simulates a kill: the run does not clean up."""


def _task(*, bad_example: int | None = None) -> Task:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(22, 3)).astype(np.float32)
    targets = inputs.sum(axis=1, keepdims=True)
    if bad_example is not None:
        inputs[bad_example] = np.nan
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
    scale = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(1.0))})

    def loss(network: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return (scale["scale"] * network(batch[0]) - batch[1]).square().mean()

    def validate(network: nn.Module) -> dict[str, float]:
        return {"validation_loss": float(loss(network, (torch.tensor(inputs), torch.tensor(targets))))}

    names = [f"clip{index:02d}" for index in range(22)]
    return Task(model, PairedArrays(inputs, targets), loss, validate, names=names, loss_parameters=scale)


def _run(out, *, kill_at: int | None = None, config: LoopConfig = CONFIG) -> dict[int, float]:
    """Train and return the loss of each step; the run dies after step `kill_at`, before its checkpoint."""
    losses: dict[int, float] = {}

    def after_step(step: int, loss: float) -> None:
        losses[step] = loss
        if step == kill_at:
            raise Killed

    try:
        metrics = fit(_task(), config, out=out, digest="d", after_step=after_step)
        losses |= {-int(row.epoch): row.validation_loss for row in metrics.itertuples()}
    except Killed:
        pass
    return losses


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and losses."""
    out = tmp_path_factory.mktemp("whole")
    return out, _run(out)


@pytest.mark.parametrize("kill_at", [1, 5, 6, *random.Random(0).sample(range(2, STEPS), 3)])
def test_fit_killed_after_any_step_equals_whole_run(tmp_path, whole, kill_at):
    out, expected = whole
    first = _run(tmp_path, kill_at=kill_at)
    assert max(first) == kill_at
    second = _run(tmp_path)
    assert {step for step in second if step > 0} == set(range(kill_at, STEPS + 1))
    assert first | second == expected
    ours, theirs = _task().model, _task().model
    load_model(tmp_path / "model.safetensors", ours)
    load_model(out / "model.safetensors", theirs)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_fit_killed_many_times_equals_whole_run(tmp_path, whole):
    config = CONFIG.with_(checkpoint_every_steps=3)
    losses: dict[int, float] = {}
    for kill_at in (2, 4, 7, 9, 12, 14):
        losses |= _run(tmp_path, kill_at=kill_at, config=config)
    assert losses | _run(tmp_path, config=config) == whole[1]


def test_store_keeps_last_two_and_best(whole):
    names = sorted(path.name for path in (whole[0] / "checkpoints").iterdir())
    assert names == ["best", "step-000000014", "step-000000015"]


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_fit_damaged_checkpoint_previous_is_used(tmp_path, whole, caplog, file, damage):
    _run(tmp_path, kill_at=9)
    path = tmp_path / "checkpoints" / "step-000000008" / file
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    else:
        path.unlink()
    with caplog.at_level(logging.INFO, logger="s2f_lib.training"):
        resumed = _run(tmp_path)
    assert "checkpoint refused" in caplog.text
    assert "step-000000008" in caplog.text
    assert "from step-000000007" in caplog.text
    assert min(step for step in resumed if step > 0) == 8
    assert all(whole[1][step] == loss for step, loss in resumed.items())


def test_fit_foreign_checkpoint_is_skipped(tmp_path, whole, caplog):
    _run(tmp_path, kill_at=9)
    foreign = tmp_path / "checkpoints" / "step-000000099"
    shutil.copytree(tmp_path / "checkpoints" / "step-000000008", foreign)
    manifest = foreign / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"d"', '"other"'))
    resumed = _run(tmp_path)
    assert "other settings or data (digest other, expected d)" in caplog.text
    assert all(whole[1][step] == loss for step, loss in resumed.items())


def test_fit_checkpoint_of_other_format_is_refused(tmp_path):
    _run(tmp_path, kill_at=3)
    for path in (tmp_path / "checkpoints").glob("*/manifest.json"):
        path.write_text(path.read_text().replace('"form": 2', '"form": 1'))
    with pytest.raises(CheckpointError, match="has format 1, expected 2"):
        fit(_task(), CONFIG, out=tmp_path, digest="d")


def test_fit_no_usable_checkpoint_says_what_to_do(tmp_path):
    _run(tmp_path, kill_at=9)
    for path in (tmp_path / "checkpoints").glob("*/state.pt"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"truncated or changed.*Delete the folder to train again"):
        fit(_task(), CONFIG, out=tmp_path, digest="d")


def test_load_model_bad_files_are_refused(tmp_path, whole):
    path = whole[0] / "model.safetensors"
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_model(path, nn.Linear(2, 2))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_model(cut, _task().model)
    with pytest.raises(CheckpointError, match="train the model first"):
        load_model(tmp_path / "none.safetensors", _task().model)


def test_fit_loss_not_finite_names_clips_and_checkpoint(tmp_path):
    # example 5 is in some batch of each epoch, or in the incomplete last one
    with pytest.raises(TrainingError) as caught:
        fit(_task(bad_example=5), CONFIG, out=tmp_path, digest="d")
    message = str(caught.value)
    assert "the loss is nan at epoch 1, step" in message
    assert "clip05" in message
    step = int(message.split("step ")[1].split(",")[0])
    last = f"step-{step - 1:09d}" if step > 1 else "none yet"
    assert last in message
    # the checkpoints are from before, so training can be resumed from them
    for path in (tmp_path / "checkpoints").glob("step-*/model.safetensors"):
        model = _task().model
        load_model(path, model)
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_fit_weights_not_finite_are_not_saved(tmp_path):
    task = _task()

    def loss(network: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        value = task.loss(network, batch)
        return value + torch.sqrt((network(batch[0]) * 0).abs().sum())  # finite, with an infinite slope

    broken = Task(task.model, task.data, loss, task.validate, names=task.names)
    with pytest.raises(TrainingError, match=r"is not finite at epoch 1, step 1, in the batch of clip"):
        fit(broken, CONFIG, out=tmp_path, digest="d")
    assert not list((tmp_path / "checkpoints").glob("step-*"))
