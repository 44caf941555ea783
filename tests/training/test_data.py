"""Batches: their order depends only on seed and epoch, not on threads, processes or interruptions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from s2f_lib.config import LoopConfig
from s2f_lib.errors import ConfigError, DataError, TrainingError
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.training.data import (
    BatchLoader,
    FeaturesAndFaces,
    PairedArrays,
    mean_direction,
    validation_mask,
)
from s2f_lib.training.loop import Task, fit

from .conftest import tiny_config, train_encoder

CPU = torch.device("cpu")


def _loader(**options) -> BatchLoader:
    data = PairedArrays(np.arange(100) * 10, rows=np.arange(50, 100))  # 50 rows, from the middle on
    return BatchLoader(data, **({"batch_size": 8, "seed": 3, "device": CPU} | options))


def _epoch(loader: BatchLoader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [batch.tensors[0].tolist() for batch in loader.epoch(epoch, start=start)]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_loader_threads_change_nothing_each_row_once(threads):
    expected = _epoch(_loader(threads=0))
    batches = _epoch(_loader(threads=threads))
    assert batches == expected
    assert len(batches) == len(_loader()) == 6
    seen = [value for batch in batches for value in batch]
    assert len(set(seen)) == 48
    assert set(seen) <= {10 * row for row in range(50, 100)}
    assert _epoch(_loader(threads=threads), epoch=1) != expected
    assert _epoch(_loader(threads=threads, seed=4)) != expected


def test_loader_epoch_starts_in_the_middle():
    assert _epoch(_loader(), start=4) == _epoch(_loader())[4:]


def test_loader_processes_share_each_batch():
    whole = list(_loader().epoch(0))
    shares = [list(_loader(rank=rank, processes=2).epoch(0)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        pieces = [share[step] for share in shares]
        assert torch.equal(torch.cat([piece.indices for piece in pieces]), batch.indices)
        assert torch.equal(torch.cat([piece.tensors[0] for piece in pieces]), batch.tensors[0])


def test_loader_order_gives_rows_of_each_step():
    loader = _loader()
    batches = list(loader.epoch(2))
    assert torch.equal(loader.order(2)[5], batches[5].indices)


def test_loader_order_is_permutation_that_changes_by_epoch():
    loader = _loader(batch_size=10)
    first, second = loader.order(0).flatten().tolist(), loader.order(1).flatten().tolist()
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert loader.order(0).flatten().tolist() == first


def test_loader_epoch_left_early_ends_threads():
    batches = _loader(threads=2).epoch(0)
    next(batches)
    batches.close()
    assert _epoch(_loader(threads=2)) == _epoch(_loader(threads=0))


def test_loader_error_in_thread_reaches_caller():
    class Broken:
        def __len__(self) -> int:
            return 16

        def __getitems__(self, indices):
            raise DataError("shard gone")

    with pytest.raises(DataError, match="shard gone"):
        list(BatchLoader(Broken(), batch_size=8, seed=0, device=CPU, threads=2).epoch(0))


def test_faces_decoded_once_or_per_batch_are_equal(prepared, monkeypatch):
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


def test_validation_mask_whole_videos_stable_when_clips_added():
    videos = [f"video{i // 3:06d}" for i in range(3000)]
    mask = validation_mask(videos, share=0.2, seed=0)
    assert mask.mean() == pytest.approx(0.2, abs=0.05)
    for start in range(0, 3000, 3):
        assert len(set(mask[start : start + 3])) == 1
    assert (validation_mask(videos[:30], share=0.2, seed=0) == mask[:30]).all()
    assert (validation_mask(videos, share=0.2, seed=1) != mask).any()
    assert not validation_mask(videos, share=0.0, seed=0).any()


def test_paired_arrays_of_other_lengths_are_refused():
    with pytest.raises(DataError, match=r"one length, found \[2, 3\]"):
        PairedArrays(np.zeros(2), np.zeros(3))


def test_fit_impossible_batch_device_or_precision_is_refused(tmp_path, monkeypatch):
    task = Task(torch.nn.Linear(1, 1), PairedArrays(np.zeros((9, 1), np.float32)), None, lambda _: {})
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device is cuda, but torch sees no GPU"):
            fit(task, LoopConfig(batch_size=8, device="cuda"), out=tmp_path, digest="d")
    with pytest.raises(ConfigError, match="precision is fp16, which needs a GPU"):
        fit(task, LoopConfig(batch_size=8, device="cpu", precision="fp16"), out=tmp_path, digest="d")
    monkeypatch.setattr("s2f_lib.training.loop.world_size", lambda: 3)
    with pytest.raises(TrainingError, match="batch_size 8 cannot be divided among 3 processes"):
        fit(task, LoopConfig(batch_size=8, device="cpu"), out=tmp_path, digest="d")


def test_train_encoder_mapped_and_loaded_audio_are_equal(tmp_path, prepared):
    mapped = read_prepared(prepared, split="train")
    losses = {}
    for name, clips in {"mapped": mapped, "memory": replace(mapped, audio=np.asarray(mapped.audio))}.items():
        trained = train_encoder(clips, tiny_config(), "l1", tmp_path / name)
        losses[name] = list(trained.metrics["train_loss"]) + list(trained.metrics["validation_loss"])
    assert losses["mapped"] == losses["memory"]
