"""Prepared clips on disk: Parquet shards, each with its checksum, never pickle.

A shard is written under a temporary name, fsynced and renamed; its sidecar
`NAME.sha256` is there before it.  So a shard that has its name is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.media.jpeg import decode_jpeg

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_PROVENANCE_KEY = b"s2f_provenance"
_AGAIN = "delete it and run `s2f prepare` again with the same arguments"


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """One prepared clip: a row of a shard.

    Attributes
    ----------
    clip_id, video_id, split, start_s, end_s, x, y
        As the clip's `ClipRef`.
    media
        Name of the media file.
    audio
        (samples,) int16 mono, `preparation.audio_s` long, repeated or cut.
    n_audio_samples
        How many of them came from the clip, before repetition.
    crop
        The aligned face, JPEG.
    box
        The face in the frame: left, top, right, bottom in pixels.
    detection_confidence
        The detector's score of it.
    eye_angle_deg
        Slope of the eyes before they were levelled.
    frame_time_s
        The frame that the face was taken from, in seconds of the media file.
    features
        (dimension,) float16 of the stored crop; None until they are computed.
    """

    clip_id: str
    video_id: str
    split: str | None
    start_s: float
    end_s: float
    x: float
    y: float
    media: str
    audio: np.ndarray
    n_audio_samples: int
    crop: bytes
    box: tuple[float, float, float, float]
    detection_confidence: float
    eye_angle_deg: float
    frame_time_s: float
    features: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedClips:
    """Prepared clips in memory: about 200 kB each.

    Attributes
    ----------
    clip_ids, video_ids, splits
        A text each a clip; a split is "train", "test" or None.
    audio
        (n, samples) int16 mono; times 1/32,768 it is in [-1, 1].
    features
        (n, dimension) float32.
    crops_jpeg
        The aligned faces, JPEG; `crops` decodes them.
    provenance
        How they were made: version, settings, extractor and its weights' fingerprint.
    columns
        The other columns, name to (n,) array.
    """

    clip_ids: list[str]
    video_ids: list[str]
    splits: list[str | None]
    audio: np.ndarray
    features: np.ndarray
    crops_jpeg: list[bytes]
    provenance: dict[str, Any]
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @cached_property
    def digest(self) -> str:
        """Names these clips and what was made of them, 16 hexadecimal digits."""
        digest = hashlib.sha256("\n".join(self.clip_ids).encode())
        digest.update(np.ascontiguousarray(self.features).data)
        digest.update(np.ascontiguousarray(self.audio).data)
        return digest.hexdigest()[:16]

    def crops(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Decode the faces.

        Parameters
        ----------
        indices
            Which clips; all by default.

        Returns
        -------
        numpy.ndarray
            (n, 224, 224, 3) uint8 RGB.
        """
        chosen = range(len(self)) if indices is None else indices
        images = [decode_jpeg(self.crops_jpeg[int(index)]) for index in chosen]
        return np.stack(images) if images else np.zeros((0, 224, 224, 3), np.uint8)

    def subset(self, mask: np.ndarray) -> PreparedClips:
        """Return the clips where a (n,) boolean mask is true, or at the given (m,) indices."""
        mask = np.asarray(mask)
        indices = np.flatnonzero(mask) if mask.dtype == bool else mask
        return PreparedClips(
            clip_ids=[self.clip_ids[i] for i in indices],
            video_ids=[self.video_ids[i] for i in indices],
            splits=[self.splits[i] for i in indices],
            audio=self.audio[indices],
            features=self.features[indices],
            crops_jpeg=[self.crops_jpeg[i] for i in indices],
            provenance=self.provenance,
            columns={name: values[indices] for name, values in self.columns.items()},
        )

    def table(self) -> pd.DataFrame:
        """Return all columns but sound, faces and features, a row a clip."""
        import pandas as pd

        ids = {"clip_id": self.clip_ids, "video_id": self.video_ids, "split": self.splits}
        return pd.DataFrame(ids | self.columns)


def shard_schema(*, dimension: int | None, provenance: Mapping[str, Any] | None = None) -> pa.Schema:
    """Return the columns of a shard; without a dimension, of a row whose features are still missing."""
    import pyarrow as pa

    columns = [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("media", pa.string()),
        ("audio", pa.list_(pa.int16())),
        ("n_audio_samples", pa.int32()),
        ("crop", pa.binary()),
        ("box", pa.list_(pa.float32(), 4)),
        ("detection_confidence", pa.float32()),
        ("eye_angle_deg", pa.float32()),
        ("frame_time_s", pa.float64()),
        ("features", pa.list_(pa.float16(), dimension) if dimension else pa.list_(pa.float16())),
    ]
    metadata = {_PROVENANCE_KEY: json.dumps(provenance, sort_keys=True)} if provenance is not None else None
    return pa.schema(columns, metadata=metadata)


def rows_to_bytes(rows: Sequence[PreparedRow]) -> bytes:
    """Pack rows as an Arrow stream: how a row waits in the ledger for its shard."""
    import pyarrow as pa

    table = _to_table(rows, shard_schema(dimension=None))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def rows_from_bytes(data: bytes) -> list[PreparedRow]:
    """Unpack what `rows_to_bytes` packed."""
    import pyarrow as pa

    table = pa.ipc.open_stream(data).read_all()
    names = [field.name for field in fields(PreparedRow)]
    rows = []
    for index in range(table.num_rows):
        values = {name: table.column(name)[index] for name in names}
        audio, features = values.pop("audio").values, values.pop("features").values
        plain = {name: value.as_py() for name, value in values.items()}
        plain["box"] = tuple(plain["box"])
        rows.append(
            PreparedRow(
                **plain,
                audio=audio.to_numpy(),
                features=None if features is None else features.to_numpy(),
            )
        )
    return rows


def write_shard(path: Path, rows: Sequence[PreparedRow], *, provenance: Mapping[str, Any]) -> str:
    """Write a shard, whole or not at all.

    Parameters
    ----------
    path
        Its name, `shard-NNNNN.parquet`; what stood there is replaced.
    rows
        At least one, all with features of one dimension.
    provenance
        Goes into the schema's metadata as JSON.

    Returns
    -------
    str
        The SHA-256 of the file.
    """
    import pyarrow.parquet as pq

    schema = shard_schema(dimension=len(rows[0].features), provenance=provenance)
    buffer = io.BytesIO()
    # sound and JPEG hardly shrink: zstd at its fastest, and no dictionaries
    pq.write_table(
        _to_table(rows, schema), buffer, compression="zstd", compression_level=1, use_dictionary=False
    )
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_durably(sidecar(path), f"{digest}  {path.name}\n".encode())  # as `sha256sum -c` reads it
    _write_durably(path, data)
    return digest


def read_prepared(folder: Path, *, split: str | None = None) -> PreparedClips:
    """Read all shards of a folder, each checked against its checksum.

    Parameters
    ----------
    folder
        What `pipeline.prepare` wrote.
    split
        "train" or "test" to keep only those clips.

    Returns
    -------
    PreparedClips
        In the order of the clip list.

    Raises
    ------
    MissingFileError
        The folder is not there.
    DataError
        It holds no shard, a shard is missing or damaged, or shards do not belong together.
    """
    import pyarrow as pa

    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no prepared clips at {folder}: run `s2f prepare --out {folder}` first")
    shards = list_shards(folder)
    tables = [read_shard(path) for path in shards]
    provenance = _provenance(tables[0])
    for path, table in zip(shards, tables, strict=True):
        if table.schema.field("features").type != tables[0].schema.field("features").type:
            raise DataError(
                f"{path.name} has {table.schema.field('features').type} features, unlike the first shard"
            )
    table = pa.concat_tables(tables).combine_chunks()
    if split is not None:
        table = table.filter(pa.compute.equal(table.column("split"), split)).combine_chunks()
    return _from_table(table, provenance)


def list_shards(folder: Path) -> list[Path]:
    """Return the shards of a folder in order, with those that their sidecars alone still name.

    Raises
    ------
    DataError
        There is none.
    """
    names = {path.name for path in folder.glob("shard-*.parquet")}
    names |= {path.name.removesuffix(".sha256") for path in folder.glob("shard-*.parquet.sha256")}
    if not names:
        raise DataError(
            f"{folder} holds no shard: no clip was prepared there; see its ledger for the reasons"
        )
    return [folder / name for name in sorted(names)]


def read_shard(path: Path) -> pa.Table:
    """Read one shard, checked against its sidecar.

    Raises
    ------
    DataError
        The shard or its sidecar is missing, or they differ.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not verify_shard(path):
        if not path.is_file():
            raise DataError(f"{path} is missing: run `s2f prepare` again with the same arguments")
        raise DataError(f"{path} does not match its checksum in {sidecar(path).name}: {_AGAIN}")
    try:
        return pq.read_table(path)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a shard of this study ({error}): {_AGAIN}") from None


def verify_shard(path: Path) -> bool:
    """Return whether a shard is there and matches its sidecar."""
    if not path.is_file() or not sidecar(path).is_file():
        return False
    said = sidecar(path).read_text(encoding="utf-8", errors="replace").split()
    with path.open("rb") as stream:
        return bool(said) and hashlib.file_digest(stream, "sha256").hexdigest() == said[0]


def _to_table(rows: Sequence[PreparedRow], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    def column(name: str, kind: pa.DataType) -> pa.Array:
        values = [getattr(row, name) for row in rows]
        if name == "features" and pa.types.is_fixed_size_list(kind):
            flat = np.concatenate([np.asarray(value, np.float16) for value in values])
            return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
        return pa.array(values, type=kind)  # numpy arrays within go in without a copy a number

    return pa.table([column(field.name, field.type) for field in schema], schema=schema)


def _from_table(table: pa.Table, provenance: dict[str, Any]) -> PreparedClips:
    n = table.num_rows
    blobs = {"clip_id", "video_id", "split", "audio", "crop", "features", "box"}
    columns = {
        name: table.column(name).to_numpy(zero_copy_only=False)
        for name in table.column_names
        if name not in blobs
    }
    boxes = _stack(table, "box", np.float32)
    columns |= {f"box_{side}": boxes[:, i] for i, side in enumerate(("left", "top", "right", "bottom")) if n}
    return PreparedClips(
        clip_ids=table.column("clip_id").to_pylist(),
        video_ids=table.column("video_id").to_pylist(),
        splits=table.column("split").to_pylist(),
        audio=_stack(table, "audio", np.int16),
        features=_stack(table, "features", np.float16).astype(np.float32),
        crops_jpeg=table.column("crop").to_pylist(),
        provenance=provenance,
        columns=columns,
    )


def _stack(table: pa.Table, name: str, dtype: type) -> np.ndarray:
    """Return a list column as (n, length)."""
    if table.num_rows == 0:
        return np.zeros((0, 0), dtype)
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table.column(name).chunks]
    return np.concatenate(chunks).astype(dtype, copy=False).reshape(table.num_rows, -1)


def _provenance(table: pa.Table) -> dict[str, Any]:
    return json.loads((table.schema.metadata or {}).get(_PROVENANCE_KEY, b"{}"))


def sidecar(path: Path) -> Path:
    """Return the file that holds a shard's checksum."""
    return path.with_name(f"{path.name}.sha256")


def _write_durably(path: Path, data: bytes) -> None:
    """Write, fsync, rename, and fsync the folder, so that the name survives a power cut."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
