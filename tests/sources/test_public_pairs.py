"""Which pairs a folder holds, whose they are, and how they are split."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.public_pairs import find_pairs, find_root, group_ids_of, identify
from s2f_lib.sources.splits import draw_splits, read_pair_split
from tests.pairs_folder import avspeech_name, voxceleb_name, write_pair, write_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve AVSpeech pairs, and four VoxCeleb persons with two clips each."""
    root = tmp_path_factory.mktemp("pairs")
    write_pairs(root, avspeech=12, voxceleb=4)
    return root


@pytest.mark.parametrize(
    ("clip_id", "video", "person"),
    [
        ("-1nRm4tQL0A_024.760000-029.960000", "-1nRm4tQL0A", "-1nRm4tQL0A"),
        ("a_b-c_d-e_f_000.000000-003.000000", "a_b-c_d-e_f", "a_b-c_d-e_f"),
        ("0012Ann_Other__eRbIqzimYk_0000004", "_eRbIqzimYk", "Ann_Other"),
        ("0014Jo_van_Else_Jr._ApGF0U9wXTU_0000004", "ApGF0U9wXTU", "Jo_van_Else_Jr."),
        ("Nobody_1_DbNW3b_Mk_0000001", "1_DbNW3b_Mk", "Nobody"),
        ("someclipofmine", "someclipofm", "someclipofm"),
    ],
)
def test_names_tell_video_and_person(clip_id, video, person):
    assert identify(clip_id) == (video, person)


def test_pairs_are_found_whatever_the_endings(folder):
    found = find_pairs(folder)
    assert [pair.clip_id for pair in found.pairs] == sorted(avspeech_name(i) for i in range(12))
    assert not found.missing
    assert {pair.audio.suffix for pair in found.pairs} == {".wav", ".flac"}
    assert {pair.face.suffix for pair in found.pairs} == {".png", ".jpg"}
    assert all(pair.face_from_face is not None for pair in found.pairs)
    both = find_pairs(folder, voxceleb=True)
    assert sum(pair.set_name == "voxceleb" for pair in both.pairs) == 8


def test_a_clone_is_as_good_as_the_folder_itself(folder, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "avspeech_res").symlink_to(folder / "avspeech_res")
    assert find_root(tmp_path) == tmp_path / "figures"
    assert len(find_pairs(tmp_path).pairs) == 12


def test_a_missing_member_is_reported_by_name_and_the_others_go_on(folder, tmp_path, caplog):
    shutil.copytree(folder / "avspeech_res", tmp_path / "avspeech_res")
    lost = avspeech_name(3)
    (tmp_path / "avspeech_res" / "Face_exg0" / f"{lost}.png").unlink()
    (tmp_path / "avspeech_res" / "Face_f2f" / f"{avspeech_name(4)}.jpg").unlink()  # only looked at
    with caplog.at_level(logging.WARNING):
        found = find_pairs(tmp_path)
    assert found.missing == {lost: ("Face_exg0",)}
    assert len(found.pairs) == 11
    assert "1 of 12 names" in caplog.text


def test_folders_that_cannot_be_used_say_so(folder, tmp_path):
    with pytest.raises(MissingFileError, match="no folder of pairs at"):
        find_pairs(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="neither avspeech_res nor voxceleb"):
        find_pairs(tmp_path)
    (tmp_path / "avspeech_res" / "Wav").mkdir(parents=True)
    with pytest.raises(MissingFileError, match="holds no folder Face_ori"):
        find_pairs(tmp_path)
    for name in ("Face_ori", "Face_exg0"):
        (tmp_path / "avspeech_res" / name).mkdir()
    with pytest.raises(InputError, match="no complete pair"):
        find_pairs(tmp_path)
    only = tmp_path / "only"
    write_pair(only / "avspeech_res", avspeech_name(1), 1)
    with pytest.raises(MissingFileError, match="leave --voxceleb out"):
        find_pairs(only, voxceleb=True)


def test_groups_join_videos_and_persons(folder):
    found = find_pairs(folder, voxceleb=True).pairs
    groups = group_ids_of(found)
    assert len(set(groups)) == 12 + 4
    by_person = {}
    for pair, group in zip(found, groups, strict=True):
        by_person.setdefault(pair.person, set()).add(group)
    assert all(len(numbers) == 1 for numbers in by_person.values())


def test_drawn_splits_divide_no_group_and_depend_on_the_seed_alone(folder):
    pairs = find_pairs(folder, voxceleb=True).pairs
    groups = np.array(group_ids_of(pairs))
    splits = draw_splits(pairs, n_splits=3, test_share=0.25, seed=1)
    for split in splits:
        assert not set(groups[split.train]) & set(groups[split.test])
        assert sorted([*split.train, *split.test]) == list(range(len(pairs)))
        sets = [pairs[row].set_name for row in split.test]
        assert (sets.count("avspeech"), sets.count("voxceleb")) == (3, 2)  # 3 of 12 videos, 1 of 4 persons
    again = draw_splits(pairs, n_splits=1, test_share=0.25, seed=1)[0]
    assert np.array_equal(again.test, splits[0].test)
    other = draw_splits(pairs, n_splits=1, test_share=0.25, seed=2)[0]
    assert not np.array_equal(other.test, splits[0].test)


def _stored(tmp_path, text):
    path = tmp_path / "split.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_stored_split_is_read_with_bom_header_and_spaces(folder, tmp_path):
    pairs = find_pairs(folder).pairs
    rows = [f"{pair.clip_id}, {'test' if i % 4 == 0 else 'Train'} " for i, pair in enumerate(pairs)]
    split = read_pair_split(_stored(tmp_path, "\ufeffclip_id,split\n" + "\n".join(rows) + "\n\n"), pairs)
    assert list(split.test) == [0, 4, 8]
    assert len(split.train) == 9


def test_pairs_that_a_split_does_not_name_are_left_out(folder, tmp_path, caplog):
    pairs = find_pairs(folder).pairs
    path = _stored(tmp_path, f"{pairs[0].clip_id},train\n{pairs[1].clip_id},test\n")
    with caplog.at_level(logging.WARNING):
        split = read_pair_split(path, pairs)
    assert (list(split.train), list(split.test)) == ([0], [1])
    assert "10 of 12 pairs are not named" in caplog.text


def test_a_set_that_a_split_does_not_name_is_test(folder, tmp_path):
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
            "1 videos or persons are in train and in test",
        ),
    ],
)
def test_bad_splits_say_what_is_wrong(folder, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_pair_split(_stored(tmp_path, text), find_pairs(folder, voxceleb=True).pairs)


def test_a_split_that_is_not_there_or_no_text(folder, tmp_path):
    pairs = find_pairs(folder).pairs
    with pytest.raises(MissingFileError, match="no split at"):
        read_pair_split(tmp_path / "none.csv", pairs)
    (tmp_path / "split.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not a text file"):
        read_pair_split(tmp_path / "split.csv", pairs)
