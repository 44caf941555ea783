"""Prepared clips mapped from disk, for sets larger than memory.

Parquet is made to be read in large pieces; training reads a few clips from
anywhere.  So the shards are unpacked once, each checked against its checksum, into
flat arrays which the operating system maps: a batch reads its own clips alone,
what was read stays in the free memory, and all processes on a machine share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.preparation.shards import PreparedClips, list_shards, read_shard, sidecar

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_IDS = ("clip_id", "video_id", "split")
_BLOBS = {*_IDS, "audio", "crop", "features", "box"}


class JpegRows(Sequence[bytes]):
    """The faces, JPEG, as slices of one mapped file.

    Parameters
    ----------
    data
        `(bytes,)` uint8, mapped.
    spans
        `(n, 2)` int64: where each clip's bytes start, and how many they are.
    rows
        `(m,)` int, which clips, in order.
    """

    def __init__(self, data: np.ndarray, spans: np.ndarray, rows: np.ndarray) -> None:
        self._data, self._spans, self._rows = data, spans, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        start, length = self._spans[self._rows[index]]
        return self._data[start : start + length].tobytes()

    def at(self, indices: np.ndarray) -> JpegRows:
        """Return those of some places, without reading them."""
        return JpegRows(self._data, self._spans, self._rows[indices])


@dataclass(frozen=True)
class MappedClips(PreparedClips):
    """Prepared clips whose sound, features and faces stay on disk until they are used.

    Attributes
    ----------
    first
        Place of the first clip in the store, where they lie one after the other; else -1.
    known_digests
        (first, length) to digest, of the whole store and of each split.

    Both are set by `map_clips` and `subset` alone: `dataclasses.replace` leaves them behind, since
    clips with other sound or features have another digest.
    """

    first: int = field(default=-1, init=False)
    known_digests: dict[tuple[int, int], str] = field(default_factory=dict, init=False)

    @cached_property
    def digest(self) -> str:
        """As `PreparedClips.digest`; known without reading for the whole store and its splits."""
        known = self.known_digests.get((self.first, len(self)))
        return known or PreparedClips.digest.func(self)

    def subset(self, mask: np.ndarray) -> MappedClips:
        """Return the clips where a mask is true, or at some indices.

        Clips that lie one after the other, such as a split's, stay on disk; others are read.
        """
        mask = np.asarray(mask)
        indices = np.flatnonzero(mask) if mask.dtype == bool else mask
        in_a_row = len(indices) > 0 and bool((np.diff(indices) == 1).all())
        rows = slice(indices[0], indices[-1] + 1) if in_a_row else indices
        chosen = MappedClips(
            clip_ids=[self.clip_ids[i] for i in indices],
            video_ids=[self.video_ids[i] for i in indices],
            splits=[self.splits[i] for i in indices],
            audio=self.audio[rows],
            features=self.features[rows],
            crops_jpeg=self.crops_jpeg.at(indices),
            provenance=self.provenance,
            columns={name: values[rows] for name, values in self.columns.items()},
        )
        first = self.first + int(indices[0]) if in_a_row and self.first >= 0 else -1
        return _placed(chosen, first=first, known_digests=self.known_digests)


def map_clips(folder: Path, *, split: str | None = None) -> MappedClips:
    """Map the clips of a folder of shards; the first time, unpack them beside the shards.

    Parameters
    ----------
    folder
        What `pipeline.prepare` wrote.  About 200 kB a clip are added, in `mapped-DIGEST/`.
    split
        "train" or "test" to keep only those clips.

    Returns
    -------
    MappedClips
        Ordered by split, and within it as in the clip list.

    Raises
    ------
    MissingFileError
        The folder is not there.
    DataError
        It holds no shard, a shard is damaged, shards do not belong together, or the
        split is empty.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no prepared clips at {folder}: run `s2f prepare --out {folder}` first")
    shards = list_shards(folder)
    store = folder / f"mapped-{_shards_digest(shards)}"
    with FileLock(folder / ".mapped.lock"):  # the processes of one run ask at the same time
        if not (store / "index.json").is_file():
            _unpack(shards, store)
    clips = _open(store)
    if split is None:
        return clips
    chosen = np.array([name == split for name in clips.splits])
    if not chosen.any():
        raise DataError(
            f"no prepared clip is in split {split!r}: splits are {sorted(set(clips.splits), key=str)}"
        )
    return clips.subset(chosen)


def _shards_digest(shards: list[Path]) -> str:
    sidecars = [sidecar(path) for path in shards]
    texts = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in sidecars]
    return hashlib.sha256(f"{FORMAT_VERSION}".join(texts).encode()).hexdigest()[:12]


def _unpack(shards: list[Path], store: Path) -> None:
    """Write the arrays, one shard in memory at a time, under a temporary name."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    for lost in (path for path in shards if not path.is_file()):
        read_shard(lost)  # says so
    logger.info("unpacking %d shards once, into %s", len(shards), store)
    ids = pa.concat_tables([pq.read_table(path, columns=list(_IDS)) for path in shards]).to_pandas()
    order = ids["split"].fillna("").argsort(kind="stable").to_numpy()
    positions = np.argsort(order)  # of each clip in the store
    n, first = len(ids), read_shard(shards[0])
    for leftover in store.parent.glob(".mapped-*"):  # of a run that was killed; the lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = store.with_name(f".{store.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    audio = _array(temporary / "audio.npy", np.int16, (n, len(first.column("audio")[0])))
    features = _array(temporary / "features.npy", np.float32, (n, len(first.column("features")[0])))
    faces: list[tuple[int, int]] = []  # start and length in the order of the shards
    tables, done, written = [], 0, 0
    with (temporary / "crops.bin").open("wb") as stream:
        for path in shards:
            table = read_shard(path).combine_chunks()
            rows = positions[done : done + len(table)]
            audio[rows] = _rows(table, "audio", audio.shape[1], path)
            features[rows] = _rows(table, "features", features.shape[1], path)
            for jpeg in table.column("crop").to_pylist():
                stream.write(jpeg)
                faces.append((written, len(jpeg)))
                written += len(jpeg)
            tables.append(table.drop_columns(["audio", "crop", "features", "box"]).to_pandas())
            done += len(table)
    audio.flush()
    features.flush()
    np.save(temporary / "crops.npy", np.array(faces, np.int64)[order])
    table = pd.concat(tables, ignore_index=True).iloc[order]
    table.to_parquet(temporary / "clips.parquet", index=False)
    provenance = json.loads((first.schema.metadata or {}).get(b"s2f_provenance", b"{}"))
    index = {"provenance": provenance, "digests": []}
    _write(temporary / "index.json", index)
    index["digests"] = _digests(_open(temporary))
    _write(temporary / "index.json", index)
    shutil.rmtree(store, ignore_errors=True)
    temporary.rename(store)
    for old in store.parent.glob("mapped-*"):  # of the shards as they were before
        if old != store:
            shutil.rmtree(old, ignore_errors=True)


def _open(store: Path) -> MappedClips:
    import pandas as pd

    index = json.loads((store / "index.json").read_text(encoding="utf-8"))
    table = pd.read_parquet(store / "clips.parquet")
    spans = np.load(store / "crops.npy")
    splits = [None if pd.isna(split) else split for split in table["split"]]
    # mode "c": torch wants arrays that could be written to; what is written stays in memory
    crops = np.memmap(store / "crops.bin", np.uint8, mode="r")
    clips = MappedClips(
        clip_ids=table["clip_id"].tolist(),
        video_ids=table["video_id"].tolist(),
        splits=splits,
        audio=np.load(store / "audio.npy", mmap_mode="c"),
        features=np.load(store / "features.npy", mmap_mode="c"),
        crops_jpeg=JpegRows(crops, spans, np.arange(len(table))),
        provenance=index["provenance"],
        columns={name: table[name].to_numpy() for name in table.columns if name not in _BLOBS},
    )
    known = {(start, length): digest for start, length, digest in index["digests"]}
    return _placed(clips, first=0, known_digests=known)


def _placed(clips: MappedClips, *, first: int, known_digests: dict[tuple[int, int], str]) -> MappedClips:
    object.__setattr__(clips, "first", first)  # frozen for all others
    object.__setattr__(clips, "known_digests", known_digests)
    return clips


def _digests(clips: MappedClips) -> list[tuple[int, int, str]]:
    found = [(0, len(clips), PreparedClips.digest.func(clips))]
    for split in {name for name in clips.splits if name is not None}:
        part = clips.subset(np.array([name == split for name in clips.splits]))
        found.append((part.first, len(part), PreparedClips.digest.func(part)))
    return found


def _array(path: Path, dtype: type, shape: tuple[int, int]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _rows(table: pa.Table, name: str, length: int, path: Path) -> np.ndarray:
    flat = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(flat) != len(table) * length:
        raise DataError(f"{path}: {name} is not {length} long in every row, unlike the first shard")
    return flat.reshape(len(table), length)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
