"""Mapped clips are the clips of the shards, and are unpacked once."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.training.clip_store import map_clips
from s2f_lib.training.encoder import train_voice_encoder

from .conftest import tiny_config, write_clips


@pytest.mark.parametrize("split", ["train", "test"])
def test_mapped_clips_equal_those_in_memory(prepared, split):
    mapped, loaded = map_clips(prepared, split=split), read_prepared(prepared, split=split)
    assert mapped.clip_ids == loaded.clip_ids
    assert mapped.splits == loaded.splits
    np.testing.assert_array_equal(mapped.audio, loaded.audio)
    np.testing.assert_array_equal(mapped.features, loaded.features)
    np.testing.assert_array_equal(mapped.crops([0, 3]), loaded.crops([0, 3]))
    assert list(mapped.crops_jpeg[2:4]) == loaded.crops_jpeg[2:4]
    assert mapped.digest == loaded.digest
    assert mapped.provenance == loaded.provenance
    assert (mapped.columns["eye_angle_deg"] == loaded.columns["eye_angle_deg"]).all()


def test_a_split_stays_on_disk_and_a_scattered_choice_is_right(prepared):
    clips = map_clips(prepared)
    train = map_clips(prepared, split="train")
    assert np.shares_memory(train.audio, train.subset(np.arange(3, 9)).audio)
    chosen = clips.subset(np.array([7, 2, 30]))
    assert chosen.clip_ids == [clips.clip_ids[i] for i in (7, 2, 30)]
    np.testing.assert_array_equal(chosen.audio, clips.audio[[7, 2, 30]])
    assert chosen.crops_jpeg[1] == clips.crops_jpeg[2]
    in_memory = read_prepared(prepared)
    again = in_memory.subset(np.array([in_memory.clip_ids.index(i) for i in chosen.clip_ids]))
    assert chosen.digest == again.digest


def test_clips_with_other_sound_or_features_have_another_digest(prepared):
    train, loaded = map_clips(prepared, split="train"), read_prepared(prepared, split="train")
    for part in ("audio", "features"):
        other = {part: getattr(loaded, part)[::-1].copy()}
        assert replace(train, **other).digest == replace(loaded, **other).digest != train.digest
    assert replace(train).digest == train.digest  # read, not known


def test_training_from_disk_equals_training_from_memory(tmp_path, prepared):
    losses = {}
    for name, clips in {
        "mapped": map_clips(prepared, split="train"),
        "memory": read_prepared(prepared, split="train"),
    }.items():
        trained = train_voice_encoder(clips, tiny_config(), loss="l1", out=tmp_path / name)
        losses[name] = list(trained.metrics["train_loss"]) + list(trained.metrics["validation_loss"])
    assert losses["mapped"] == losses["memory"]


def test_unpacked_once_and_anew_when_shards_change(tmp_path):
    folder = write_clips(tmp_path / "clips", n=20)
    map_clips(folder)
    (store,) = folder.glob("mapped-*")
    before = (store / "audio.npy").stat().st_mtime_ns
    map_clips(folder)
    assert (store / "audio.npy").stat().st_mtime_ns == before
    write_clips(folder, n=24)
    assert len(map_clips(folder)) == 24
    assert [path.name for path in folder.glob("mapped-*")] != [store.name]


def test_damage_is_named(tmp_path, prepared):
    with pytest.raises(MissingFileError, match="no prepared clips at"):
        map_clips(tmp_path / "none")
    with pytest.raises(DataError, match="no prepared clip is in split 'validation'"):
        map_clips(prepared, split="validation")
    folder = tmp_path / "copy"
    folder.mkdir()
    with pytest.raises(DataError, match="holds no shard"):
        map_clips(folder)
    for path in prepared.glob("shard-*"):
        shutil.copy(path, folder)
    shard = folder / "shard-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"shard-00001.parquet does not match its checksum"):
        map_clips(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00001.parquet is missing"):
        map_clips(folder)
    assert not list(folder.glob("mapped-*"))
