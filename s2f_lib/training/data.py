"""Training data: pairs of arrays, the batches of an epoch, and the validation share of the videos.

The order of the batches depends only on seed and epoch. Threads gather batches before the step that needs
them; their number changes only the speed. Slicing an array, in memory or mapped from disk, releases Python's
interpreter lock, so worker processes are not needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from s2f_lib.errors import DataError, InputError
from s2f_lib.faces.extractor import unit_rows
from s2f_lib.media.spectrogram import INT16_SCALE, check_audio
from s2f_lib.preparation.shards import MappedAudio
from s2f_lib.storage import digest

#: Decoded faces are kept in memory up to this size. Above it each batch decodes its own faces.
FACES_IN_MEMORY_BYTES = 4 * 2**30

AHEAD = 3  # batches that each thread keeps ready
MAX_LEVEL = 2.0  # largest floating-point audio value: resampling can exceed 1, other scales are far above


class Clips(Protocol):
    """Names, videos, `(n, dimension)` float32 face features, and a digest of all data."""

    @property
    def clip_ids(self) -> Sequence[str]: ...
    @property
    def video_ids(self) -> Sequence[str]: ...
    @property
    def features(self) -> np.ndarray: ...
    @property
    def digest(self) -> str: ...


class VoiceClips(Clips, Protocol):
    """Data for the voice encoder, such as `PreparedClips`: with `(n, samples)` int16 audio at 16 kHz."""

    @property
    def audio(self) -> np.ndarray | MappedAudio: ...


class Faces(Clips, Protocol):
    """Data for a face decoder, such as `PreparedClips` or `FaceSet`: with `(n, 224, 224, 3)` uint8 faces."""

    def crops(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class VoiceArrays:
    """Arrays of audio and features, as training data for the voice encoder.

    Parameters
    ----------
    audio
        `(n, samples)` int16, or floating point in [-1, 1], which is rounded to int16; mono at 16 kHz.
    features
        `(n, dimension)` floating point, the face features of the same clips.
    clip_ids, video_ids
        `n` names of the clips and of their videos. Clips of one video are never divided between training and
        validation. By default, a clip id is the clip's index, and the video ids are the clip ids.

    Raises
    ------
    InputError
        A shape or type is wrong, or a number is not finite. The message names the argument.

    Examples
    --------
    >>> data = VoiceArrays(np.zeros((2, 48_000), np.int16), np.eye(2))
    >>> data.clip_ids, data.features.dtype
    (('0', '1'), dtype('float32'))
    """

    audio: np.ndarray
    features: np.ndarray
    clip_ids: Sequence[str] = ()
    video_ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        audio, features = to_int16(self.audio), np.asarray(self.features, np.float32)
        if features.ndim != 2 or len(features) != len(audio):
            raise InputError(
                f"features have the shape {features.shape}, audio {audio.shape}: expected (n, dimension) "
                "and (n, samples) with the same n"
            )
        if not np.isfinite(features).all():
            raise InputError("features contain numbers that are not finite")
        clip_ids = tuple(map(str, self.clip_ids if len(self.clip_ids) else range(len(audio))))
        video_ids = tuple(map(str, self.video_ids)) if len(self.video_ids) else clip_ids
        for name, ids in (("clip_ids", clip_ids), ("video_ids", video_ids)):
            if len(ids) != len(audio):
                raise InputError(f"{name} holds {len(ids)} names for {len(audio)} clips")
        values = {"audio": audio, "features": features, "clip_ids": clip_ids, "video_ids": video_ids}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @cached_property
    def digest(self) -> str:
        """Digest of all data, 16 hexadecimal digits."""
        ids = "\n".join([*self.clip_ids, *self.video_ids])
        return digest(ids, self.features, self.audio, length=16)


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Return `(n, samples)` audio as int16; raise an InputError if it is not in [-1, 1] or int16."""
    audio = np.asarray(audio)
    check_audio(audio)
    if audio.dtype == np.int16:
        return audio
    if not np.isfinite(audio).all():
        raise InputError("audio contains numbers that are not finite")
    largest = float(np.abs(audio).max(initial=0))
    if largest > MAX_LEVEL:
        raise InputError(
            f"audio has values up to {largest:.4g}: expected floating point in [-1, 1], or int16"
        )
    return (audio / INT16_SCALE).round().clip(-32_768, 32_767).astype(np.int16)


class PairedArrays(Dataset):
    """Arrays of one length, `(n, ...)` each, that are indexed together, one batch at a time.

    `rows` are `(m,)` int, indices of the examples (None: all). Mapped audio stays on disk, and only the rows
    of a batch are read. `DataError` if the arrays differ in length.
    """

    def __init__(self, *arrays: np.ndarray | MappedAudio, rows: np.ndarray | None = None) -> None:
        lengths = {len(array) for array in arrays}
        if len(lengths) != 1:
            raise DataError(f"paired arrays must have one length, found {sorted(lengths)}")
        self._arrays = [
            array if isinstance(array, MappedAudio) else torch.from_numpy(np.ascontiguousarray(array))
            for array in arrays
        ]
        self._rows = torch.arange(lengths.pop()) if rows is None else torch.from_numpy(np.asarray(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        rows = self._rows[list(indices)]
        # index_select and mapped audio release the interpreter lock, unlike numpy's indexing
        return tuple(
            torch.from_numpy(array[rows.numpy()])
            if isinstance(array, MappedAudio)
            else array.index_select(0, rows)
            for array in self._arrays
        )


class FeaturesAndFaces(Dataset):
    """Features and faces of the clips at `rows`, `(m,)` int.

    All faces are decoded once if they fit into `FACES_IN_MEMORY_BYTES`, otherwise one batch at a time.
    """

    def __init__(self, clips: Faces, rows: np.ndarray) -> None:
        self._clips = clips
        self._rows = rows
        side = clips.crops(rows[:1]).shape[1] if len(rows) else 0
        fits = len(rows) * side * side * 3 <= FACES_IN_MEMORY_BYTES
        self._faces = torch.from_numpy(clips.crops(rows)) if fits else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = self._rows[list(indices)]
        features = torch.from_numpy(np.ascontiguousarray(self._clips.features[rows]))
        if self._faces is not None:
            return features, self._faces.index_select(0, torch.as_tensor(indices))
        return features, torch.from_numpy(self._clips.crops(rows))


@dataclass(frozen=True, slots=True)
class Batch:
    """The examples of one step that this process computes."""

    tensors: tuple[Tensor, ...]  # `(b, ...)` each, on the device
    indices: Tensor  # `(b,)` int64, indices into the data set, on the CPU


class BatchLoader:
    """The batches of each epoch, in the order of the seed, on the device.

    `data` has `__len__` and `__getitems__(indices)`, which returns a tuple of tensors. `batch_size` counts
    the examples of a step over all processes; each process (`rank`) takes its share of every batch. An
    incomplete last batch is dropped. With 0 threads each batch is gathered when it is needed.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        threads: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._data = data
        self._batch_size = batch_size
        self._seed = seed
        self._device = device
        self._threads = threads
        self._rank = rank
        self._processes = processes

    def __len__(self) -> int:
        return len(self._data) // self._batch_size

    def order(self, epoch: int) -> Tensor:
        """Return the examples of an epoch for all processes, `(steps, batch_size)` int64."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._data), generator=generator)
        return order[: len(self) * self._batch_size].view(len(self), self._batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield this process's share of the batches, starting at step `start`; earlier ones are not read."""
        order = self.order(epoch)[start:]
        mine = order.view(len(order), self._processes, -1)[:, self._rank]
        for tensors, indices in self._gathered(mine):
            yield Batch(tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors), indices)

    def _gathered(self, rows: Tensor) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        if not self._threads:
            yield from ((self._gather(indices), indices) for indices in rows)
            return
        waiting: deque[tuple[Future[tuple[Tensor, ...]], Tensor]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="batches") as pool:
            try:
                for indices in rows:
                    waiting.append((pool.submit(self._gather, indices), indices))
                    if len(waiting) > AHEAD * self._threads:
                        future, indices = waiting.popleft()
                        yield future.result(), indices
                while waiting:
                    future, indices = waiting.popleft()
                    yield future.result(), indices
            finally:  # the consumer may have stopped early
                for future, _ in waiting:
                    future.cancel()

    def _gather(self, indices: Tensor) -> tuple[Tensor, ...]:
        tensors = self._data.__getitems__(indices.tolist())
        if self._device.type == "cuda":
            return tuple(tensor.pin_memory() for tensor in tensors)
        return tuple(tensors)


def validation_mask(video_ids: Sequence[str], *, share: float, seed: int) -> np.ndarray:
    """Choose whole videos for validation.

    The choice depends only on seed and video id, so adding clips does not change it for the others.

    Parameters
    ----------
    video_ids
        Video of each training clip.
    share
        Expected share of the videos, in [0, 1).
    seed
        Seed of the choice.

    Returns
    -------
    numpy.ndarray
        `(n,)` bool, true for validation.

    Examples
    --------
    >>> validation_mask(["a", "a", "b", "c"], share=0.5, seed=0)
    array([ True,  True, False,  True])
    """
    limit = int(share * 2**32)
    hashes = (int(digest(f"validation-{seed}-{video}", length=8), 16) for video in video_ids)
    return np.array([value < limit for value in hashes], dtype=bool)


def mean_direction(features: np.ndarray, rows: np.ndarray, *, chunk: int = 4096) -> np.ndarray:
    """Return the mean of the unit features at `rows`, `(dimension,)` float32, computed in chunks."""
    total = np.zeros(features.shape[1])
    for some in _directions(features, rows, chunk):
        total += some.sum(axis=0)
    return (total / max(1, len(rows))).astype(np.float32)


def covariance_of_directions(features: np.ndarray, rows: np.ndarray, *, chunk: int = 4096) -> np.ndarray:
    """Return the covariance of the unit features at `rows`, `(dimension, dimension)` float64."""
    mean = mean_direction(features, rows, chunk=chunk).astype(np.float64)
    total = np.zeros((features.shape[1], features.shape[1]))
    for some in _directions(features, rows, chunk):
        total += (some - mean).T @ (some - mean)
    return total / max(1, len(rows))


def _directions(features: np.ndarray, rows: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), chunk):
        yield unit_rows(np.asarray(features[rows[start : start + chunk]], dtype=np.float64))
