"""The order of batches: by seed and epoch alone, whatever the threads, processes and interruptions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from s2f_lib.config import LoopConfig
from s2f_lib.errors import ConfigError, DataError, TrainingError
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.training.batches import BatchLoader
from s2f_lib.training.data import FeaturesAndFaces, PairedArrays, mean_direction
from s2f_lib.training.encoder import train_voice_encoder
from s2f_lib.training.loop import Task, fit
from s2f_lib.training.optim import make_schedule

from .conftest import tiny_config

CPU = torch.device("cpu")


def _loader(**options) -> BatchLoader:
    data = PairedArrays(np.arange(100) * 10, rows=np.arange(50, 100))  # 50 rows, from the middle on
    return BatchLoader(data, **({"batch_size": 8, "seed": 3, "device": CPU} | options))


def _epoch(loader: BatchLoader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.tensors[0].tolist() for batch in loader.epoch(epoch, start=start)]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_change_nothing_and_each_row_is_drawn_once(threads):
    expected = _epoch(_loader(threads=0))
    batches = _epoch(_loader(threads=threads))
    assert batches == expected
    assert len(batches) == len(_loader()) == 6
    drawn = [value for batch in batches for value in batch]
    assert len(set(drawn)) == 48
    assert set(drawn) <= {10 * row for row in range(50, 100)}
    assert _epoch(_loader(threads=threads), epoch=1) != expected
    assert _epoch(_loader(threads=threads, seed=4)) != expected


def test_an_epoch_goes_on_in_the_middle():
    assert _epoch(_loader(), start=4) == _epoch(_loader())[4:]


def test_processes_share_each_part_of_a_batch():
    whole = list(_loader(parts=2).epoch(0))
    shares = [list(_loader(parts=2, rank=rank, processes=2).epoch(0)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        for number, part in enumerate(batch.split(2)):  # micro-batches: what is normalised together
            pieces = [list(share[step].split(2))[number].indices for share in shares]
            assert torch.equal(torch.cat(pieces), part.indices)


def test_indices_name_the_rows_of_a_step():
    loader = _loader()
    batches = list(loader.epoch(2))
    assert loader.indices(2, 5) == batches[5].indices.tolist()


def test_an_epoch_that_is_left_early_ends_its_threads():
    batches = _loader(threads=2).epoch(0)
    next(batches)
    batches.close()
    assert _epoch(_loader(threads=2)) == _epoch(_loader(threads=0))


def test_an_error_in_a_thread_reaches_the_caller():
    class Broken:
        def __len__(self) -> int:
            return 16

        def __getitems__(self, indices):
            raise DataError("shard gone")

    with pytest.raises(DataError, match="shard gone"):
        list(BatchLoader(Broken(), batch_size=8, seed=0, device=CPU, threads=2).epoch(0))


def test_faces_decoded_at_once_or_a_batch_at_a_time_are_the_same(prepared, monkeypatch):
    clips, rows = read_prepared(prepared), np.array([3, 17, 30])
    at_once = FeaturesAndFaces(clips, rows).__getitems__([2, 0])
    monkeypatch.setattr("s2f_lib.training.data.FACES_IN_MEMORY_BYTES", 0)
    lazily = FeaturesAndFaces(clips, rows).__getitems__([2, 0])
    assert torch.equal(at_once[1], lazily[1])
    assert torch.equal(at_once[0], torch.from_numpy(clips.features[[30, 3]]))
    assert torch.equal(lazily[0], at_once[0])


def test_mean_direction_by_hand():
    features = np.array([[2.0, 0.0], [0.0, 5.0], [9.0, 9.0]], dtype=np.float32)
    np.testing.assert_allclose(mean_direction(features, np.array([0, 1]), chunk=1), [0.5, 0.5])


def test_exponential_schedule_is_speech2faces():
    config = LoopConfig(schedule="exponential", warmup_share=0.0, decay_factor=0.95, decay_steps=10)
    factor = make_schedule(config, steps=100)
    assert [factor(0), factor(9), factor(12), factor(31)] == pytest.approx([1, 1, 0.95, 0.95**3])


def test_what_cannot_be_shared_or_found_is_refused(tmp_path):
    task = Task(torch.nn.Linear(1, 1), PairedArrays(np.zeros((9, 1), np.float32)), None, lambda _: {})
    with pytest.raises(TrainingError, match=r"batch_size 8 does not divide among 1 processes .* 3"):
        fit(task, LoopConfig(batch_size=8, accumulation_steps=3, device="cpu"), out=tmp_path, digest="d")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device is cuda, but torch sees no GPU"):
            fit(task, LoopConfig(batch_size=8, device="cuda"), out=tmp_path, digest="d")
    with pytest.raises(ConfigError, match="precision is fp16, which needs a GPU"):
        fit(task, LoopConfig(batch_size=8, device="cpu", precision="fp16"), out=tmp_path, digest="d")
    with pytest.raises(DataError, match=r"one length, found \[2, 3\]"):
        PairedArrays(np.zeros(2), np.zeros(3))


def test_training_from_mapped_and_loaded_audio_is_the_same(tmp_path, prepared):
    mapped = read_prepared(prepared, split="train")
    losses = {}
    for name, clips in {"mapped": mapped, "memory": replace(mapped, audio=np.asarray(mapped.audio))}.items():
        trained = train_voice_encoder(clips, tiny_config(), loss="l1", out=tmp_path / name)
        losses[name] = list(trained.metrics["train_loss"]) + list(trained.metrics["validation_loss"])
    assert losses["mapped"] == losses["memory"]
