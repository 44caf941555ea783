"""The loop on a tiny regression: it learns, repeats, resumes, and stops when it must."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from s2f_lib.config import LoopConfig
from s2f_lib.errors import CheckpointError, TrainingError
from s2f_lib.training.checkpoint import load_model
from s2f_lib.training.data import PairedArrays
from s2f_lib.training.distributed import resolve_precision
from s2f_lib.training.loop import Task, fit
from s2f_lib.training.optim import warmup_cosine

CONFIG = LoopConfig(epochs=4, batch_size=4, learning_rate=0.02, device="cpu")


def _task(scale: float = 1.0) -> Task:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(18, 3)).astype(np.float32)
    targets = inputs @ np.array([[1.0], [-2.0], [0.5]], dtype=np.float32) * scale
    torch.manual_seed(0)
    # dropout draws random numbers, so a resumed run is equal only if their state is restored
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    def loss(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (network(batch[0]) - batch[1]).square().mean()

    def validate(network: nn.Module) -> dict[str, float]:
        return {"validation_loss": float(loss(network, (torch.tensor(inputs), torch.tensor(targets))))}

    return Task(model, PairedArrays(inputs, targets), loss, validate)


def _losses(metrics: pd.DataFrame) -> list[float]:
    return [*metrics["train_loss"], *metrics["validation_loss"]]


def test_fit_learns_and_writes_one_row_per_epoch(tmp_path):
    metrics = fit(_task(), CONFIG.with_(epochs=30), out=tmp_path, digest="d")
    assert list(metrics["epoch"]) == list(range(1, 31))
    assert metrics["validation_loss"].iloc[-1] < 0.3 * metrics["validation_loss"].iloc[0]
    stored = pd.read_csv(tmp_path / "metrics.csv")
    np.testing.assert_allclose(stored["train_loss"], metrics["train_loss"])


def test_fit_same_seed_same_losses_other_seed_other_losses(tmp_path):
    first = fit(_task(), CONFIG, out=tmp_path / "a", digest="d")
    second = fit(_task(), CONFIG, out=tmp_path / "b", digest="d")
    other = fit(_task(), CONFIG.with_(seed=1), out=tmp_path / "c", digest="d")
    assert _losses(first) == _losses(second)
    assert _losses(first) != _losses(other)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_fit_interrupted_and_resumed_equals_uninterrupted(tmp_path, stop_after):
    whole = fit(_task(), CONFIG, out=tmp_path / "whole", digest="d")

    class Interrupted(Exception):
        pass

    def interrupt(epoch: int, epochs: int, row: dict[str, float]) -> None:
        if epoch == stop_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(_task(), CONFIG, out=tmp_path / "cut", digest="d", progress=interrupt)
    task = _task()
    resumed = fit(task, CONFIG, out=tmp_path / "cut", digest="d")
    assert _losses(resumed) == _losses(whole)
    other = _task()
    load_model(tmp_path / "whole" / "model.safetensors", other.model)
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def test_fit_finished_run_is_not_trained_again(tmp_path):
    fit(_task(), CONFIG, out=tmp_path, digest="d")
    seen = []
    fit(_task(), CONFIG, out=tmp_path, digest="d", progress=lambda *args: seen.append(args))
    assert seen == []


def test_fit_second_run_in_folder_waits_and_finds_model(tmp_path):
    steps: list[str] = []
    started, resume = threading.Event(), threading.Event()

    def train(name: str, *, pause: bool) -> None:
        def after_step(step: int, loss: float) -> None:
            steps.append(name)
            if pause and step == 2:
                started.set()
                resume.wait(60)

        fit(_task(), CONFIG, out=tmp_path, digest="d", after_step=after_step)

    first = threading.Thread(target=train, args=("first",), kwargs={"pause": True})
    second = threading.Thread(target=train, args=("second",), kwargs={"pause": False})
    first.start()
    assert started.wait(60)
    second.start()
    second.join(1)
    assert second.is_alive()
    resume.set()
    first.join(60)
    second.join(60)
    assert set(steps) == {"first"}


def test_fit_checkpoint_of_other_settings_is_refused(tmp_path):
    fit(_task(), CONFIG, out=tmp_path, digest="one")
    with pytest.raises(CheckpointError, match=r"other settings or data \(digest one, expected two\)"):
        fit(_task(), CONFIG, out=tmp_path, digest="two")


def test_fit_kill_between_two_renames_is_repaired(tmp_path):
    whole = fit(_task(), CONFIG, out=tmp_path, digest="d")
    newest = max((tmp_path / "checkpoints").glob("step-*"))
    newest.rename(newest.with_name(f".{newest.name}.old"))
    seen = []
    resumed = fit(_task(), CONFIG, out=tmp_path, digest="d", progress=lambda *args: seen.append(args))
    assert seen == []
    assert _losses(resumed) == _losses(whole)


def test_fit_loss_not_finite_stops_with_step(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at epoch 1, step 1"):
        fit(_task(scale=float("inf")), CONFIG, out=tmp_path, digest="d")


def test_fit_fewer_examples_than_batch_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="18 training examples are fewer than a batch of 32"):
        fit(_task(), CONFIG.with_(batch_size=32), out=tmp_path, digest="d")


def test_warmup_cosine_by_hand():
    factor = warmup_cosine(200)  # 5% are 10 steps
    assert [factor(0), factor(4), factor(9)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(105) == pytest.approx(0.5)
    assert factor(200) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, "no"), ({"amx_bf16": False}, "no"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_resolve_precision_auto_follows_the_cpu(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", device="cpu") == expected
    assert resolve_precision("no", device="cpu") == "no"
