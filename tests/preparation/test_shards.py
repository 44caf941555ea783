"""Shards: what goes in comes out, and damage is found."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.media.jpeg import encode_jpeg
from s2f_lib.preparation.shards import (
    PreparedRow,
    read_prepared,
    rows_from_bytes,
    rows_to_bytes,
    write_shard,
)


def _row(number: int, *, split: str | None = "train", dimension: int = 4) -> PreparedRow:
    face = np.full((224, 224, 3), 10 * number, np.uint8)
    return PreparedRow(
        clip_id=f"clip-{number}",
        video_id=f"video-{number // 2}",
        split=split,
        start_s=float(number),
        end_s=number + 3.5,
        x=0.25,
        y=0.75,
        media=f"{number}.mp4",
        audio=np.arange(number, number + 12, dtype=np.int16),
        n_audio_samples=6 + number,
        crop=encode_jpeg(face, quality=92),
        box=(1.0, 2.0, 3.5, 4.5),
        detection_confidence=1.0625,
        eye_angle_deg=-2.5,
        frame_time_s=1.75,
        features=np.arange(dimension, dtype=np.float16) / 8 + number,
    )


def _assert_equal(first: PreparedRow, second: PreparedRow) -> None:
    for field in fields(PreparedRow):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), field.name)


@pytest.fixture
def folder(tmp_path):
    write_shard(tmp_path / "shard-00000.parquet", [_row(0), _row(1, split="test")], provenance={"a": 1})
    write_shard(tmp_path / "shard-00001.parquet", [_row(2)], provenance={"a": 1})
    return tmp_path


@pytest.mark.parametrize("features", ["given", "missing"])
def test_a_row_survives_packing(features):
    rows = [_row(0), replace(_row(1), split=None)]
    if features == "missing":
        rows = [replace(row, features=None) for row in rows]
    for before, after in zip(rows, rows_from_bytes(rows_to_bytes(rows)), strict=True):
        _assert_equal(before, after)
        assert after.features is None or after.features.dtype == np.float16
        assert after.audio.dtype == np.int16


def test_what_was_written_is_read(folder):
    clips = read_prepared(folder)
    assert clips.clip_ids == ["clip-0", "clip-1", "clip-2"]
    assert clips.video_ids == ["video-0", "video-0", "video-1"]
    assert clips.splits == ["train", "test", "train"]
    np.testing.assert_array_equal(clips.audio, [np.arange(n, n + 12) for n in range(3)])
    assert clips.audio.dtype == np.int16
    np.testing.assert_array_equal(clips.features[2], [2, 2.125, 2.25, 2.375])
    assert clips.features.dtype == np.float32
    assert clips.provenance == {"a": 1}
    assert clips.crops().shape == (3, 224, 224, 3)
    assert [int(face.mean()) for face in clips.crops([2, 1])] == [20, 10]
    table = clips.table()
    assert table.loc[1, ["start_s", "end_s", "media", "box_right"]].tolist() == [1.0, 4.5, "1.mp4", 3.5]
    assert table["n_audio_samples"].tolist() == [6, 7, 8]


def test_splits_and_subsets(folder):
    test = read_prepared(folder, split="test")
    assert test.clip_ids == ["clip-1"]
    np.testing.assert_array_equal(test.audio, [np.arange(1, 13)])
    clips = read_prepared(folder)
    by_mask = clips.subset(np.array([True, False, True]))
    assert by_mask.clip_ids == clips.subset(np.array([0, 2])).clip_ids == ["clip-0", "clip-2"]
    assert by_mask.table()["start_s"].tolist() == [0.0, 2.0]
    assert len(read_prepared(folder, split="validation")) == 0


def test_the_digest_names_the_data(folder):
    clips = read_prepared(folder)
    assert clips.digest == read_prepared(folder).digest
    assert clips.digest != clips.subset(np.array([True, True, False])).digest
    assert clips.digest != replace(clips, features=clips.features + 1).digest


def test_the_columns_are_compact_and_the_provenance_is_in_the_file(folder):
    schema = pq.read_schema(folder / "shard-00000.parquet")
    assert str(schema.field("audio").type) == "list<element: int16>"
    assert str(schema.field("features").type) == "fixed_size_list<element: halffloat>[4]"
    assert schema.metadata[b"s2f_provenance"] == b'{"a": 1}'


def test_the_sidecar_is_the_checksum_and_no_temporary_file_stays(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"shard-0000{i}.parquet{end}" for i in (0, 1) for end in ("", ".sha256")]
    said, name = (folder / "shard-00001.parquet.sha256").read_text().split()
    assert name == "shard-00001.parquet"
    assert said == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_a_flipped_bit_is_found(folder):
    path = folder / "shard-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=r"shard-00001.parquet does not match its checksum.*delete it and run"
    ):
        read_prepared(folder)


def test_a_truncated_and_a_missing_shard_are_found(folder):
    path = folder / "shard-00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="does not match its checksum"):
        read_prepared(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"shard-00000.parquet is missing: run `s2f prepare`"):
        read_prepared(folder)


def test_shards_of_two_extractors_do_not_mix(folder):
    write_shard(folder / "shard-00002.parquet", [_row(3, dimension=5)], provenance={"a": 1})
    with pytest.raises(DataError, match=r"shard-00002.parquet has .*\[5\] features, unlike the first"):
        read_prepared(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(MissingFileError, match="run `s2f prepare"):
        read_prepared(tmp_path / "none")
    with pytest.raises(DataError, match="holds no shard"):
        read_prepared(tmp_path)
