"""Prepared clips on disk: Arrow files with checksums, which training maps into memory as they are.

A shard is an Arrow IPC file ("Feather") without compression, so sound and JPEG bytes can be used where they
lie: no clip is stored twice, and the operating system reads the pages of those clips that are indexed.
`pandas.read_feather`, `pyarrow.ipc` and Hugging Face's `load_dataset("arrow", data_files=...)` read a shard,
too. Shards of recordings have no columns of faces.

The checksum `NAME.sha256` is written before its shard, and both are renamed into place when they are
complete. So a shard that has its name is complete.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.errors import DataError, InputError, MissingFileError
from s2f_lib.media.jpeg import decode_jpeg
from s2f_lib.storage import digest, file_digest, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from s2f_lib.config import SpectrogramConfig
    from s2f_lib.preparation.torch_dataset import ClipDataset

#: Version of the columns and of the file format. Version 1 was Parquet.
FORMAT_VERSION = 2

_PROVENANCE_KEY, _VERSION_KEY = b"s2f_provenance", b"s2f_format"
_CHECKED = ".checked.json"  # shards whose checksum was right, with their size and time of change
_FACE_COLUMNS = ("crop", "box", "detection_confidence", "eye_angle_deg", "frame_time_s", "features")
_SIDES = ("left", "top", "right", "bottom")  # sides of a box
_PREPARE_AGAIN = "delete it and run `s2f prepare` again with the same arguments"


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """One prepared clip: a row of a shard. Without a face, the face's fields have their defaults.

    Attributes
    ----------
    clip_id, video_id, split
        Names of the clip and its video; "train", "test" or None.
    audio
        `(samples,)` int16, mono, `preparation.audio_s` long; a shorter clip is repeated.
    crop
        Aligned face as JPEG; None for a recording. `face` decodes it.
    features
        `(dimension,)` float16, computed from the stored crop; float32 in a clip of `PreparedClips`. None
        until they are computed, and for a recording.
    start_s, end_s, x, y
        The clip's part of the video in seconds, and the speaker's position in it in [0, 1], if it is known.
    media
        Name of the media file.
    n_audio_samples
        Number of samples before repetition.
    box
        Left, top, right and bottom of the face in its frame, in pixels.
    detection_confidence
        Score of the detector.
    eye_angle_deg
        Slope of the line between the eyes before alignment.
    frame_time_s
        Time of the frame in the media file, in seconds.
    """

    clip_id: str
    video_id: str
    split: str | None
    audio: np.ndarray = field(repr=False)
    crop: bytes | None = field(default=None, repr=False)
    features: np.ndarray | None = field(default=None, repr=False)
    start_s: float = 0.0
    end_s: float = 0.0
    x: float | None = None
    y: float | None = None
    media: str = ""
    n_audio_samples: int = 0
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    detection_confidence: float = 1.0
    eye_angle_deg: float = 0.0
    frame_time_s: float = 0.0

    @property
    def face(self) -> np.ndarray:
        """Aligned face, `(224, 224, 3)` uint8 RGB."""
        if self.crop is None:
            raise DataError(f"{self.clip_id} is a recording without a face")
        return decode_jpeg(self.crop)


class _MappedRows:
    """Rows of several mapped arrays, one array per shard; `rows` are indices over all shards.

    If `paths` is given, a pickle contains the paths and not the arrays. Worker processes then map the files.
    """

    def __init__(
        self, shards: Sequence[Any], rows: np.ndarray | None = None, paths: Sequence[Path] | None = None
    ) -> None:
        self._shards, self._paths = shards, paths
        self._starts = np.cumsum([0, *map(len, shards)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows

    @staticmethod
    def _column(table: pa.Table) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ if self._paths is None else self.__dict__ | {"_shards": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._paths is not None:
            self._shards = [self._column(_map_shard(path)) for path in self._paths]

    def __len__(self) -> int:
        return len(self._rows)

    def _values(self, rows: np.ndarray) -> Iterator[Any]:
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard, row in zip(shards, rows - self._starts[shards], strict=True):
            yield self._shards[shard][int(row)]


class MappedAudio(_MappedRows):
    """Sound of prepared clips that stays on disk: a `(n, samples)` int16 array, read when it is indexed.

    Indexing works as with NumPy (integer, slice, mask, index array; then slices within a clip) and returns a
    new array. `numpy.asarray` reads everything. All processes of a machine share the memory of the pages.

    Parameters
    ----------
    shards
        `(clips, samples)` int16, one mapped array per shard.
    digests
        `(n,)` str, one digest per row: it tells whether two clips have the same sound without reading it.
    rows
        `(n,)` int64, indices over all shards in their order. All rows by default.
    paths
        Files of the shards.
    """

    dtype = np.dtype(np.int16)

    def __init__(
        self,
        shards: Sequence[Any],
        digests: np.ndarray,
        rows: np.ndarray | None = None,
        paths: Sequence[Path] | None = None,
    ) -> None:
        super().__init__(shards, rows, paths)
        self.digests = digests

    @staticmethod
    def _column(table: pa.Table) -> np.ndarray:
        return _matrix(table, "audio")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of clips and of samples."""
        return len(self), self._shards[0].shape[1]

    def at(self, indices: np.ndarray) -> MappedAudio:
        """Return the clips at `(m,)` indices without reading them."""
        return MappedAudio(self._shards, self.digests[indices], self._rows[indices], self._paths)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        chosen = np.atleast_1d(self._rows[first])
        audio = np.empty((len(chosen), self.shape[1]), self.dtype)
        for target, values in zip(audio, self._values(chosen), strict=True):
            target[:] = values  # a copy of one row lets other threads run, unlike fancy indexing
        return audio[(0 if np.ndim(self._rows[first]) == 0 else slice(None), *rest)]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


class MappedJpegs(_MappedRows, Sequence[bytes]):
    """Faces of prepared clips as JPEG files that stay on disk.

    As in `PackedJpegs`, an integer index reads one face, and a slice or an array of indices reads nothing.
    """

    @staticmethod
    def _column(table: pa.Table) -> pa.Array:
        return table.column("crop").combine_chunks()

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> MappedJpegs: ...

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            return next(self._values(self._rows[[index]])).as_py()
        return MappedJpegs(self._shards, self._rows[index], self._paths)


@dataclass(frozen=True)
class PreparedClips:
    """Prepared clips. Their sound and faces may stay on disk until they are used.

    `clips[3]` is one clip, a `PreparedRow`. A slice, an index array or a mask returns `PreparedClips`
    and reads no file. A loop yields one clip after the other.

    Attributes
    ----------
    clip_ids, video_ids, splits
        One text per clip. A split is "train", "test" or None.
    audio
        `(n, samples)` int16, mono. Divided by 32,768 it lies in [-1, 1].
    features
        `(n, dimension)` float32, in memory. The dimension is 0 for recordings without faces.
    crops_jpeg
        Aligned faces as JPEG; `crops` decodes them. Empty for recordings.
    provenance
        Version, settings, extractor and fingerprint of its weights.
    columns
        Other columns: name to `(n,)` array.
    folder
        Folder of the shards and the ledger; None if the clips were not read from a folder.

    See Also
    --------
    read_prepared : Reads the clips of a folder.

    Examples
    --------
    >>> audio, features = np.zeros((3, 96_000), np.int16), np.zeros((3, 128), np.float32)
    >>> splits = ["train", "train", "test"]
    >>> clips = PreparedClips(["a", "b", "c"], ["v", "v", "w"], splits, audio, features, [b""] * 3, {}, {})
    >>> clips
    PreparedClips(3 clips of 6 s: 2 train, 1 test; 128-D features)
    >>> clips[features[:, 0] == 0][1:].to_pandas()
      clip_id video_id  split
    0       b        v  train
    1       c        w   test
    >>> clips[-1].clip_id
    'c'
    """

    clip_ids: list[str]
    video_ids: list[str]
    splits: list[str | None]
    audio: np.ndarray | MappedAudio
    features: np.ndarray
    crops_jpeg: Sequence[bytes]
    provenance: dict[str, Any]
    columns: dict[str, np.ndarray]
    folder: Path | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.features) != 2:
            raise InputError(
                f"features: found shape {np.shape(self.features)}, expected (n, dimension), one row per clip"
            )
        own = ("video_ids", "splits", "audio", "features", *(["crops_jpeg"] if len(self.crops_jpeg) else []))
        each = {name: getattr(self, name) for name in own} | self.columns
        for name, values in each.items():
            if len(values) != len(self.clip_ids):
                raise InputError(
                    f"{name}: found {len(values)} for {len(self.clip_ids)} clip ids, expected one per clip"
                )

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __repr__(self) -> str:
        count = Counter(split or "no split" for split in self.splits)
        splits = ", ".join(f"{n} {split}" for split, n in count.items())
        features = f"{self.features.shape[1]}-D features" if self.has_faces else "no faces"
        seconds = f"{self.audio.shape[1] / SAMPLE_RATE_HZ:g} s"
        return f"PreparedClips({len(self)} clips of {seconds}: {splits}; {features})"

    def __iter__(self) -> Iterator[PreparedRow]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, key: int | np.integer) -> PreparedRow: ...

    @overload
    def __getitem__(self, key: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> PreparedClips: ...

    def __getitem__(self, key):
        if isinstance(key, int | np.integer):
            return self._row(int(key))
        everything = np.arange(len(self))
        if isinstance(key, slice):
            indices = everything[key]
        else:
            keys = np.asarray(key)
            indices = everything[keys if keys.size else keys.astype(int)]
        audio, crops = self.audio, self.crops_jpeg
        return PreparedClips(
            clip_ids=[self.clip_ids[i] for i in indices],
            video_ids=[self.video_ids[i] for i in indices],
            splits=[self.splits[i] for i in indices],
            audio=audio.at(indices) if isinstance(audio, MappedAudio) else audio[indices],
            features=self.features[indices],
            crops_jpeg=crops[indices] if isinstance(crops, MappedJpegs) else [crops[i] for i in indices],
            provenance=self.provenance,
            columns={name: values[indices] for name, values in self.columns.items()},
            folder=self.folder,
        )

    def _row(self, index: int) -> PreparedRow:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        values = {name: np.asarray(column)[index] for name, column in self.columns.items()}
        values = {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}
        box = [values[f"box_{side}"] for side in _SIDES if f"box_{side}" in values]
        other = {field.name: values[field.name] for field in fields(PreparedRow) if field.name in values}
        other |= {name: None for name in ("x", "y") if np.isnan(other.get(name, np.nan))}
        return PreparedRow(
            clip_id=self.clip_ids[index],
            video_id=self.video_ids[index],
            split=self.splits[index],
            audio=self.audio[index],
            crop=self.crops_jpeg[index] if self.has_faces else None,
            features=self.features[index] if self.has_faces else None,
            **other | ({"box": tuple(box)} if box else {}),
        )

    @property
    def has_faces(self) -> bool:
        """Whether the clips have features of faces; recordings have none."""
        return self.features.shape[1] > 0

    @cached_property
    def digest(self) -> str:
        """Digest of ids, features and sound, 16 hexadecimal digits."""
        if isinstance(self.audio, MappedAudio):
            sound = self.audio.digests.tolist()
        else:
            sound = [_row_digest(audio) for audio in self.audio]
        return digest("\n".join(self.clip_ids), self.features, "\n".join(sound), length=16)

    def crops(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Decode the faces at `(m,)` indices (default: all) to `(m, 224, 224, 3)` uint8 RGB."""
        if not self.has_faces:
            raise DataError("the clips are recordings without faces: prepare videos, with `prepare_folder`")
        chosen = range(len(self)) if indices is None else indices
        images = [decode_jpeg(self.crops_jpeg[int(index)]) for index in chosen]
        return np.stack(images) if images else np.zeros((0, 224, 224, 3), np.uint8)

    def to_pandas(self) -> pd.DataFrame:
        """Return all columns except sound, faces and features: one row per clip."""
        import pandas as pd

        ids = {"clip_id": self.clip_ids, "video_id": self.video_ids, "split": self.splits}
        return pd.DataFrame(ids | self.columns)

    def to_torch(self, spectrogram: SpectrogramConfig | None = None, *, faces: bool = True) -> ClipDataset:
        """Return the clips as a torch data set, for a `DataLoader` with any number of workers.

        Sound and faces that are mapped from disk are read item by item.

        Parameters
        ----------
        spectrogram
            Settings of the spectrogram that replaces the audio in each item. None: items contain audio.
        faces
            Whether an item has the decoded "face".

        Returns
        -------
        torch.utils.data.Dataset
            Items are dicts: "clip_id", "video_id", "audio" `(samples,)` int16 or "spectrogram"
            `(2, frames, bins)` float32, and for clips with faces "features" `(dimension,)` float32 and
            "face" `(224, 224, 3)` uint8 RGB.
        """
        from s2f_lib.preparation.torch_dataset import ClipDataset

        return ClipDataset(self, spectrogram, faces=faces)

    def refusals(self) -> pd.DataFrame:
        """Return the clips that were refused when the folder was prepared: clip_id, reason, detail."""
        from s2f_lib.preparation.ledger import read_refusals

        if self.folder is None:
            raise DataError("the clips were not read from a folder, so there is no ledger of refusals")
        return read_refusals(self.folder)


def read_prepared(folder: str | Path, *, split: str | None = None) -> PreparedClips:
    """Map the clips of a folder of shards into memory.

    The checksum of a shard is compared when the shard is new or was changed since the last call. Only
    features and small columns are read; sound and faces are read when they are indexed.

    Parameters
    ----------
    folder
        Folder that `prepare` wrote.
    split
        "train" or "test": only the clips of that split.

    Returns
    -------
    PreparedClips
        Clips in the order of the clip list.

    Raises
    ------
    MissingFileError
        The folder does not exist.
    DataError
        The folder holds no shard or shards of an older version, a shard is missing or damaged, shards do
        not belong together, or the split is empty.

    See Also
    --------
    s2f_lib.preparation.pipeline.prepare : Writes the folder.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.media.jpeg import encode_jpeg
    >>> folder = Path(mkdtemp())
    >>> face, features = encode_jpeg(np.zeros((224, 224, 3), np.uint8)), np.ones(2, np.float16)
    >>> row = PreparedRow("clip-a", "video-a", "train", np.arange(4, dtype=np.int16), face, features)
    >>> write_shard(folder / shard_name(0), [row], provenance={})
    >>> read_prepared(folder, split="train").audio[0]
    array([0, 1, 2, 3], dtype=int16)
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no prepared clips at {folder}: run `s2f prepare --out {folder}` first")
    shards = _list_shards(folder)
    _check_changed(folder, shards)
    clips = _from_tables(folder, shards, [_map_shard(path) for path in shards])
    if split is None:
        return clips
    chosen = np.array([name == split for name in clips.splits])
    if not chosen.any():
        raise DataError(
            f"no prepared clip is in split {split!r}: splits are {sorted(set(clips.splits), key=str)}"
        )
    return clips[chosen]


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.arrow"


def sidecar(path: Path) -> Path:
    """Return the file that holds the checksum of a shard."""
    return path.with_name(f"{path.name}.sha256")


def verify_shard(path: Path) -> bool:
    """Return whether a shard exists and matches its checksum."""
    if not path.is_file() or not sidecar(path).is_file():
        return False
    stored = sidecar(path).read_text(encoding="utf-8", errors="replace").split()
    return bool(stored) and file_digest(path) == stored[0]


def write_shard(path: Path, rows: Sequence[PreparedRow], *, provenance: Mapping[str, Any]) -> None:
    """Write a shard and its checksum atomically.

    Parameters
    ----------
    path
        Target file, named by `shard_name`. An existing shard is replaced.
    rows
        At least one row. All have features and sound of the same length, or all are recordings.
    provenance
        Written into the metadata of the schema as JSON.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> row = PreparedRow("clip-a", "video-a", None, np.zeros(4, np.int16), b"", np.ones(2, np.float16))
    >>> path = Path(mkdtemp()) / shard_name(0)
    >>> write_shard(path, [row], provenance={})
    >>> sorted(file.name for file in path.parent.iterdir())
    ['shard-00000.arrow', 'shard-00000.arrow.sha256']
    """
    import pyarrow as pa

    schema = _schema(rows[0], provenance)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:  # uncompressed: it can be mapped, and sound hardly shrinks
        writer.write_table(_to_table(rows, schema))
    data = sink.getvalue()
    write_atomically(sidecar(path), f"{digest(data, length=64)}  {path.name}\n")  # for `sha256sum -c`
    write_atomically(path, data)


def rows_to_bytes(rows: Sequence[PreparedRow]) -> bytes:
    """Pack rows as an Arrow stream: so a row waits in the ledger until its shard is written."""
    import pyarrow as pa

    table = _to_table(rows, _schema(rows[0]))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def rows_from_bytes(data: bytes) -> list[PreparedRow]:
    """Unpack the rows that `rows_to_bytes` packed."""
    import pyarrow as pa

    table = pa.ipc.open_stream(data).read_all()
    names = [field.name for field in fields(PreparedRow) if field.name in table.column_names]
    rows = []
    for index in range(table.num_rows):
        values = {name: table.column(name)[index] for name in names}
        audio = values.pop("audio").values
        features = values.pop("features").values if "features" in values else None
        plain = {name: value.as_py() for name, value in values.items()}
        if "box" in plain:
            plain["box"] = tuple(plain["box"])
        plain["features"] = None if features is None else features.to_numpy()
        rows.append(PreparedRow(**plain, audio=audio.to_numpy()))
    return rows


def _schema(row: PreparedRow, provenance: Mapping[str, Any] | None = None) -> pa.Schema:
    """Return the columns of a shard. If the row has no features, they may be missing in all rows.

    For a recording without a face, there are no columns of faces.
    """
    import pyarrow as pa

    n_features = -1 if row.features is None else len(row.features)  # -1: lists of any length
    columns = [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("media", pa.string()),
        ("audio", pa.list_(pa.int16(), len(row.audio))),
        ("audio_digest", pa.string()),
        ("n_audio_samples", pa.int32()),
        ("crop", pa.binary()),
        ("box", pa.list_(pa.float32(), 4)),
        ("detection_confidence", pa.float32()),
        ("eye_angle_deg", pa.float32()),
        ("frame_time_s", pa.float64()),
        ("features", pa.list_(pa.float16(), n_features)),
    ]
    if row.crop is None:
        columns = [(name, kind) for name, kind in columns if name not in _FACE_COLUMNS]
    metadata = {_VERSION_KEY: str(FORMAT_VERSION), _PROVENANCE_KEY: json.dumps(provenance, sort_keys=True)}
    return pa.schema(columns, metadata=metadata)


def _to_table(rows: Sequence[PreparedRow], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    def column(name: str, kind: pa.DataType) -> pa.Array:
        if name == "audio_digest":
            return pa.array([_row_digest(row.audio) for row in rows])
        values = [getattr(row, name) for row in rows]
        if isinstance(values[0], np.ndarray):  # without a Python object per number
            flat = pa.array(np.concatenate(values), kind.value_type)
            return pa.FixedSizeListArray.from_arrays(flat, type=kind)
        return pa.array(values, kind)

    return pa.table([column(field.name, field.type) for field in schema], schema=schema)


def _row_digest(audio: np.ndarray) -> str:
    return digest(audio, length=16)


def _list_shards(folder: Path) -> list[Path]:
    """Return the shards of a folder in order, also those of which only the checksum is left."""
    names = {path.name.removesuffix(".sha256") for path in folder.glob("shard-*.arrow*")}
    if not names and any(folder.glob("shard-*.parquet")):
        raise DataError(
            f"{folder} holds shards of an older version (Parquet): "
            "remove the folder and run `s2f prepare` again"
        )
    if not names:
        raise DataError(
            f"{folder} holds no shard: no clip was prepared there; see its ledger for the reasons"
        )
    return [folder / name for name in sorted(names)]


def _map_shard(path: Path) -> pa.Table:
    """Return the table of a shard; its columns are views of the mapped file."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:  # closes the file; the mapping lives as long as the table
            table = pa.ipc.open_file(source).read_all()
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a shard of this study ({error}): {_PREPARE_AGAIN}") from None
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(FORMAT_VERSION):
        raise DataError(
            f"{path} has format {version}, expected {FORMAT_VERSION}: "
            "remove the folder and run `s2f prepare` again"
        )
    return table


def _from_tables(folder: Path, shards: Sequence[Path], tables: Sequence[pa.Table]) -> PreparedClips:
    import pyarrow as pa

    def kind(table: pa.Table, name: str) -> str:
        return str(table.schema.field(name).type) if name in table.column_names else "no"

    for path, table in zip(shards, tables, strict=True):
        for name in ("features", "audio"):
            if (found := kind(table, name)) != kind(tables[0], name):
                raise DataError(f"{path.name} has {found} {name}, unlike the first shard")
    has_faces = "features" in tables[0].column_names
    large = ["audio", *(["crop", "features", "box"] if has_faces else [])]
    small = pa.concat_tables([table.drop_columns(large) for table in tables])
    columns = {name: small.column(name).to_numpy() for name in small.column_names}
    if has_faces:
        boxes = np.concatenate([_matrix(table, "box") for table in tables])
        columns |= {f"box_{side}": boxes[:, i] for i, side in enumerate(_SIDES)}
    ids = {name: columns.pop(name).tolist() for name in ("clip_id", "video_id", "split")}
    n_clips = len(ids["clip_id"])
    crops = MappedJpegs([MappedJpegs._column(table) for table in tables], paths=shards) if has_faces else None
    features = [_matrix(table, "features") for table in tables] if has_faces else [np.zeros((n_clips, 0))]
    return PreparedClips(
        clip_ids=ids["clip_id"],
        video_ids=ids["video_id"],
        splits=ids["split"],
        audio=MappedAudio(
            [_matrix(table, "audio") for table in tables], columns.pop("audio_digest"), paths=shards
        ),
        features=np.concatenate(features).astype(np.float32),
        crops_jpeg=[b""] * n_clips if crops is None else crops,
        provenance=json.loads(tables[0].schema.metadata[_PROVENANCE_KEY]),
        columns=columns,
        folder=folder,
    )


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    """Return a column of fixed-size lists as a `(n, length)` view of the mapped file."""
    (chunk,) = table.column(name).chunks
    return chunk.flatten().to_numpy(zero_copy_only=True).reshape(len(table), -1)


def _check_changed(folder: Path, shards: Sequence[Path]) -> None:
    """Compare the checksums of those shards that are new or changed since they were last compared."""
    record = folder / _CHECKED
    try:
        checked = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        checked = {}
    found = {path.name: _state(path) for path in shards}
    for path in shards:
        if found[path.name] is None or checked.get(path.name) != found[path.name]:
            _refuse_damaged(path)
    if checked != found:
        with suppress(OSError):  # a folder that cannot be written to is compared each time
            write_atomically(record, json.dumps(found), durable=False)


def _state(path: Path) -> list[Any] | None:
    """Return the stored checksum, the size and the time of change of a shard."""
    try:
        state = path.stat()
        return [sidecar(path).read_text(encoding="utf-8"), state.st_size, state.st_mtime_ns]
    except (OSError, UnicodeDecodeError):
        return None


def _refuse_damaged(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing: run `s2f prepare` again with the same arguments")
    if not verify_shard(path):
        raise DataError(f"{path} does not match its checksum in {sidecar(path).name}: {_PREPARE_AGAIN}")
