"""Shards: rows come back as they were written, stay on disk, and damage is found."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from s2f_lib.config import SpectrogramConfig
from s2f_lib.errors import DataError, InputError, MissingFileError
from s2f_lib.media.jpeg import encode_jpeg
from s2f_lib.preparation import shards
from s2f_lib.preparation.shards import (
    FORMAT_VERSION,
    PreparedClips,
    PreparedRow,
    read_prepared,
    rows_from_bytes,
    rows_to_bytes,
    shard_name,
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
        crop=encode_jpeg(face),
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
    write_shard(tmp_path / shard_name(0), [_row(0), _row(1, split="test")], provenance={"a": 1})
    write_shard(tmp_path / shard_name(1), [_row(2)], provenance={"a": 1})
    return tmp_path


@pytest.mark.parametrize("features", ["given", "missing"])
def test_rows_to_bytes_and_back_are_equal(features):
    rows = [_row(0), replace(_row(1), split=None)]
    if features == "missing":
        rows = [replace(row, features=None) for row in rows]
    for before, after in zip(rows, rows_from_bytes(rows_to_bytes(rows)), strict=True):
        _assert_equal(before, after)
        assert after.features is None or after.features.dtype == np.float16
        assert after.audio.dtype == np.int16


def test_read_prepared_returns_what_was_written(folder):
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
    table = clips.to_pandas()
    assert table.loc[1, ["start_s", "end_s", "media", "box_right"]].tolist() == [1.0, 4.5, "1.mp4", 3.5]
    assert table["n_audio_samples"].tolist() == [6, 7, 8]


def test_read_prepared_of_a_split_returns_its_clips(folder):
    test = read_prepared(str(folder), split="test")
    assert test.clip_ids == ["clip-1"]
    np.testing.assert_array_equal(test.audio, [np.arange(1, 13)])
    with pytest.raises(DataError, match="no prepared clip is in split 'validation'"):
        read_prepared(folder, split="validation")


def test_clips_index_like_a_list_and_like_an_array(folder):
    clips = read_prepared(folder)
    mask = np.array([True, False, True])
    for key in (mask, mask.tolist(), [0, 2], np.array([0, 2]), np.array([-3, -1]), slice(None, None, 2)):
        chosen = clips[key]
        assert chosen.clip_ids == ["clip-0", "clip-2"]
        assert chosen.to_pandas()["start_s"].tolist() == [0.0, 2.0]
        assert isinstance(chosen.audio, shards.MappedAudio)  # nothing is read
    assert len(clips[[]]) == 0
    assert [clip.clip_id for clip in clips[1:]] == ["clip-1", "clip-2"]
    for key in (3, -4):
        with pytest.raises(IndexError, match=f"clip {key} of 3"):
            clips[key]


def test_one_clip_is_the_row_that_was_written(folder):
    for key in (2, -1, np.int64(2)):
        clip = read_prepared(folder)[key]
        _assert_equal(clip, _row(2))
        assert int(clip.face.mean()) == 20
        assert len(repr(clip)) < 400


def test_repr_of_clips_counts_splits_and_shows_no_array(folder):
    assert repr(read_prepared(folder)) == "PreparedClips(3 clips of 0.00075 s: 2 train, 1 test; 4-D features)"


def test_shards_of_recordings_have_no_faces(tmp_path):
    sound = PreparedRow("a", "a", None, np.arange(12, dtype=np.int16), end_s=2.0, media="a.wav")
    write_shard(tmp_path / shard_name(0), rows_from_bytes(rows_to_bytes([sound])), provenance={})
    clips = read_prepared(tmp_path)
    assert (len(clips), clips.features.shape, clips.audio.shape) == (1, (1, 0), (1, 12))
    _assert_equal(clips[0], sound)
    assert "1 no split; no faces" in repr(clips[:1])
    assert "crop" not in pd.read_feather(tmp_path / shard_name(0)).columns
    assert set(clips.to_torch()[0]) == {"clip_id", "video_id", "audio"}
    with pytest.raises(DataError, match="recordings without faces"):
        clips.crops()
    write_shard(tmp_path / shard_name(1), [_row(1)], provenance={})
    with pytest.raises(DataError, match=r"shard-00001.arrow has .* features, unlike the first"):
        read_prepared(tmp_path)


def test_pickled_clips_are_mapped_again(tmp_path):
    long = np.zeros(500_000, np.int16)
    for number in range(2):
        write_shard(tmp_path / shard_name(number), [replace(_row(number), audio=long)], provenance={})
    clips = read_prepared(tmp_path)[::-1]
    packed = pickle.dumps(clips)
    assert len(packed) < 100_000
    again = pickle.loads(packed)
    assert again.digest == clips.digest
    assert again.audio.shape == (2, 500_000)
    assert list(again.crops_jpeg) == list(clips.crops_jpeg)


@pytest.mark.parametrize("workers", [0, 2])
def test_to_torch_works_in_a_data_loader(folder, workers):
    clips = read_prepared(folder)
    small = SpectrogramConfig(duration_s=0.05)
    for spectrogram, shape in ((None, (3, 12)), (small, (3, 2, small.n_frames, small.n_bins))):
        loader = DataLoader(clips.to_torch(spectrogram), batch_size=3, num_workers=workers)
        (batch,) = loader
        assert batch["clip_id"] == clips.clip_ids
        np.testing.assert_array_equal(batch["features"], clips.features)
        np.testing.assert_array_equal(batch["face"], clips.crops())
        assert batch["audio" if spectrogram is None else "spectrogram"].shape == shape
    assert "face" not in clips.to_torch(faces=False)[0]


def test_shards_are_readable_by_hugging_face_datasets(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets  # reads the environment when it is imported

    files = [str(folder / shard_name(number)) for number in range(2)]
    found = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert found["clip_id"] == ["clip-0", "clip-1", "clip-2"]
    np.testing.assert_array_equal(found[1]["audio"], np.arange(1, 13))
    np.testing.assert_array_equal(found[2]["features"], [2, 2.125, 2.25, 2.375])


def test_digest_changes_with_clips_features_and_sound(folder):
    clips = read_prepared(folder)
    assert clips.digest == read_prepared(folder).digest
    assert clips.digest != clips[:2].digest
    assert clips.digest != replace(clips, features=clips.features + 1).digest
    assert clips.digest != replace(clips, audio=np.asarray(clips.audio) + 1).digest
    loaded = replace(clips, audio=np.asarray(clips.audio), crops_jpeg=list(clips.crops_jpeg))
    assert clips.digest == loaded.digest
    assert clips[[2, 0]].digest == loaded[[2, 0]].digest


def test_shard_is_readable_by_pyarrow_and_pandas(folder):
    with pa.ipc.open_file(folder / shard_name(0)) as reader:
        schema = reader.schema
    assert str(schema.field("audio").type) == "fixed_size_list<item: int16>[12]"
    assert str(schema.field("features").type) == "fixed_size_list<item: halffloat>[4]"
    assert schema.metadata[b"s2f_provenance"] == b'{"a": 1}'
    table = pd.read_feather(folder / shard_name(0))
    assert table["clip_id"].tolist() == ["clip-0", "clip-1"]
    np.testing.assert_array_equal(table["audio"][1], np.arange(1, 13))


def test_mapped_audio_indexes_like_an_array(folder):
    clips = read_prepared(folder)
    audio, array = clips.audio, np.asarray(clips.audio)
    assert (audio.shape, audio.dtype, len(audio)) == (array.shape, array.dtype, 3)
    mask = np.array([True, False, True])
    for key in (1, -1, slice(None, None, -1), np.array([2, 0, 2]), [1, 2], mask, (2, slice(3, 5)),
                (slice(None), slice(4)), np.array([], int)):  # fmt: skip
        np.testing.assert_array_equal(audio[key], array[key])
    np.testing.assert_array_equal(np.stack(list(audio)), array)
    with pytest.raises(IndexError):
        audio[3]
    later = clips[[2, 1]]
    np.testing.assert_array_equal(later[1:].audio, array[[1]])
    jpegs = list(clips.crops_jpeg)
    assert list(clips.crops_jpeg[1:]) == jpegs[1:]
    assert clips.crops_jpeg[-1] == jpegs[2]
    assert list(later.crops_jpeg) == [jpegs[2], jpegs[1]]


def test_read_prepared_maps_sound_and_leaves_files_closed(tmp_path):
    long = np.zeros(500_000, np.int16)
    for number in range(4):
        write_shard(tmp_path / shard_name(number), [replace(_row(number), audio=long)], provenance={})
    before, n_open = pa.total_allocated_bytes(), psutil.Process().num_fds()
    clips = read_prepared(tmp_path)
    assert pa.total_allocated_bytes() - before < long.nbytes  # 4 MB of sound are not in memory
    assert psutil.Process().num_fds() == n_open
    n_files = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert n_files < 4 * (long.nbytes + 10_000)  # no second copy
    assert clips.audio[3].shape == (500_000,)


def test_checksums_are_compared_once_until_a_shard_changes(folder, monkeypatch):
    compared = []

    def verify(path):
        compared.append(path.name)
        return True

    monkeypatch.setattr(shards, "verify_shard", verify)
    read_prepared(folder)
    read_prepared(folder)
    assert compared == [shard_name(0), shard_name(1)]
    os.utime(folder / shard_name(1), (0, 0))
    read_prepared(folder)
    assert compared[2:] == [shard_name(1)]


def test_shards_of_another_version_are_refused_with_advice(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "FORMAT_VERSION", FORMAT_VERSION + 1)
    with pytest.raises(DataError, match=r"format 2, expected 3: remove the folder and run `s2f prepare`"):
        read_prepared(folder)
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(folder / shard_name(0), old / "shard-00000.parquet")
    with pytest.raises(DataError, match=r"older version \(Parquet\): remove the folder and run"):
        read_prepared(old)


def test_write_shard_leaves_shard_and_checksum_only(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"shard-0000{i}.arrow{end}" for i in (0, 1) for end in ("", ".sha256")]
    said, name = (folder / "shard-00001.arrow.sha256").read_text().split()
    assert name == "shard-00001.arrow"
    assert said == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_read_prepared_finds_a_flipped_bit(folder):
    read_prepared(folder)
    path = folder / "shard-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-00001.arrow does not match its checksum.*delete it and run"):
        read_prepared(folder)


def test_read_prepared_finds_truncated_and_missing_shards(folder):
    read_prepared(folder)
    path = folder / "shard-00000.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="does not match its checksum"):
        read_prepared(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"shard-00000.arrow is missing: run `s2f prepare`"):
        read_prepared(folder)


def test_read_prepared_refuses_shards_of_two_extractors(folder):
    write_shard(folder / shard_name(2), [_row(3, dimension=5)], provenance={"a": 1})
    with pytest.raises(DataError, match=r"shard-00002.arrow has .*\[5\] features, unlike the first"):
        read_prepared(folder)


def test_read_prepared_without_folder_or_shards_is_an_error(tmp_path):
    with pytest.raises(MissingFileError, match="run `s2f prepare"):
        read_prepared(tmp_path / "none")
    with pytest.raises(DataError, match="holds no shard"):
        read_prepared(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.zeros((3, 4), np.float32)}, "features: found 3 for 16 clip ids"),
        ({"features": np.zeros(16, np.float32)}, r"features: found shape \(16,\)"),
        ({"splits": ["train"] * 15}, "splits: found 15 for 16 clip ids"),
        ({"columns": {"x": np.zeros(2)}}, "x: found 2 for 16 clip ids"),
    ],
)
def test_prepared_clips_refuse_unequal_numbers(changes, message):
    ids, audio = [str(number) for number in range(16)], np.zeros((16, 8), np.int16)
    features = np.zeros((16, 4), np.float32)
    clips = PreparedClips(ids, ids, ["train"] * 16, audio, features, [b""] * 16, {}, {})
    with pytest.raises(InputError, match=message):
        replace(clips, **changes)
