"""Splits that are drawn, and splits that are stored in a file."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.public_pairs import find_pairs, group_ids_of
from s2f_lib.sources.splits import draw_splits, read_pair_split, read_video_split, split_of_video
from tests.pairs_folder import avspeech_name, voxceleb_name, write_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve AVSpeech pairs, and four people of VoxCeleb with two clips each."""
    root = tmp_path_factory.mktemp("pairs")
    write_pairs(root, avspeech=12, voxceleb=4)
    return root


def test_split_of_video_depends_on_video_and_seed():
    ids = [f"video{n:06d}" for n in range(4000)]
    splits = [split_of_video(video, test_share=0.25, seed=3) for video in ids]
    assert set(splits) == {"train", "test"}
    assert splits != [split_of_video(video, test_share=0.25, seed=4) for video in ids]
    n_test = splits.count("test")
    assert abs(n_test - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5  # five standard deviations


def test_read_video_split_divided_video_is_refused(tmp_path):
    text = "clip_id,split\nAAAAAAAAAAA_1,train\nAAAAAAAAAAA_2,test\n"
    with pytest.raises(InputError, match="AAAAAAAAAAA is in train and in test"):
        read_video_split(_stored(tmp_path, text))
    with pytest.raises(InputError, match="unknown split 'validation'"):
        read_video_split(_stored(tmp_path, "clip_id,split\nAAAAAAAAAAA_1,validation\n"))


def test_draw_splits_keeps_groups_and_depends_on_seed(folder):
    pairs = find_pairs(folder, voxceleb=True).pairs
    groups = np.array(group_ids_of(pairs))
    splits = draw_splits(pairs, n_splits=3, test_share=0.25, seed=1)
    for split in splits:
        assert not set(groups[split.train]) & set(groups[split.test])
        assert sorted([*split.train, *split.test]) == list(range(len(pairs)))
        sets = [pairs[row].set_name for row in split.test]
        assert (sets.count("avspeech"), sets.count("voxceleb")) == (3, 2)  # 3 of 12 videos, 1 of 4 people
    again = draw_splits(pairs, n_splits=1, test_share=0.25, seed=1)[0]
    assert np.array_equal(again.test, splits[0].test)
    other = draw_splits(pairs, n_splits=1, test_share=0.25, seed=2)[0]
    assert not np.array_equal(other.test, splits[0].test)


def _stored(tmp_path, text):
    path = tmp_path / "split.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_pair_split_ignores_bom_header_and_spaces(folder, tmp_path):
    pairs = find_pairs(folder).pairs
    rows = [f"{pair.clip_id}, {'test' if i % 4 == 0 else 'Train'} " for i, pair in enumerate(pairs)]
    split = read_pair_split(_stored(tmp_path, "\ufeffclip_id,split\n" + "\n".join(rows) + "\n\n"), pairs)
    assert list(split.test) == [0, 4, 8]
    assert len(split.train) == 9


def test_read_pair_split_leaves_out_unnamed_pairs(folder, tmp_path, caplog):
    pairs = find_pairs(folder).pairs
    path = _stored(tmp_path, f"{pairs[0].clip_id},train\n{pairs[1].clip_id},test\n")
    with caplog.at_level(logging.WARNING):
        split = read_pair_split(path, pairs)
    assert (list(split.train), list(split.test)) == ([0], [1])
    assert "10 of 12 pairs are not named" in caplog.text


def test_read_pair_split_unnamed_set_is_test(folder, tmp_path):
    pairs = find_pairs(folder, voxceleb=True).pairs
    rows = [f"{avspeech_name(i)},{'test' if i < 3 else 'train'}" for i in range(12)]
    split = read_pair_split(_stored(tmp_path, "\n".join(rows)), pairs)
    assert len(split.train) == 9
    assert [pairs[row].set_name for row in split.test].count("voxceleb") == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_id,split\nnobody,train\n", "of no pair in the folder"),
        (f"{avspeech_name(0)},train\n{avspeech_name(1)},validation\n", "unknown split 'validation'"),
        (f"{avspeech_name(0)}\n", "1 columns"),
        (f"{avspeech_name(0)},train\n{avspeech_name(0)},test\n", "in train and in test"),
        (f"{avspeech_name(0)},train\n{voxceleb_name(0, 1)},train\n", "no pair is in test"),
        ("clip_id,split\n", "holds no row"),
        (
            f"{avspeech_name(0)},test\n{voxceleb_name(1, 1)},train\n{voxceleb_name(1, 2)},test\n",
            "1 videos or people are in train and in test",
        ),
    ],
)
def test_read_pair_split_bad_file_is_refused(folder, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_pair_split(_stored(tmp_path, text), find_pairs(folder, voxceleb=True).pairs)


def test_read_pair_split_missing_or_binary_file_is_refused(folder, tmp_path):
    pairs = find_pairs(folder).pairs
    with pytest.raises(MissingFileError, match="no split at"):
        read_pair_split(tmp_path / "none.csv", pairs)
    (tmp_path / "split.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not a text file"):
        read_pair_split(tmp_path / "split.csv", pairs)
