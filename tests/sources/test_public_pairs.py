"""The pairs in a folder, and the people in them."""

from __future__ import annotations

import logging
import shutil

import pytest

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.public_pairs import find_pairs, find_root, group_ids_of, identify
from tests.pairs_folder import avspeech_name, write_pair, write_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve AVSpeech pairs, and four people of VoxCeleb with two clips each."""
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
def test_identify_returns_video_and_person(clip_id, video, person):
    assert identify(clip_id) == (video, person)


def test_find_pairs_accepts_all_suffixes(folder):
    found = find_pairs(folder)
    assert [pair.clip_id for pair in found.pairs] == sorted(avspeech_name(i) for i in range(12))
    assert not found.missing
    assert {pair.audio.suffix for pair in found.pairs} == {".wav", ".flac"}
    assert {pair.face.suffix for pair in found.pairs} == {".png", ".jpg"}
    assert all(pair.face_from_face is not None for pair in found.pairs)
    both = find_pairs(folder, voxceleb=True)
    assert sum(pair.set_name == "voxceleb" for pair in both.pairs) == 8


def test_find_root_in_a_clone_returns_figures(folder, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "avspeech_res").symlink_to(folder / "avspeech_res")
    assert find_root(tmp_path) == tmp_path / "figures"
    assert len(find_pairs(tmp_path).pairs) == 12


def test_find_pairs_missing_file_leaves_one_pair_out(folder, tmp_path, caplog):
    shutil.copytree(folder / "avspeech_res", tmp_path / "avspeech_res")
    lost = avspeech_name(3)
    (tmp_path / "avspeech_res" / "Face_exg0" / f"{lost}.png").unlink()
    (tmp_path / "avspeech_res" / "Face_f2f" / f"{avspeech_name(4)}.jpg").unlink()  # this file may be missing
    with caplog.at_level(logging.WARNING):
        found = find_pairs(tmp_path)
    assert found.missing == {lost: ("Face_exg0",)}
    assert len(found.pairs) == 11
    assert "1 of 12 names" in caplog.text


def test_find_pairs_unusable_folder_is_refused(folder, tmp_path):
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


def test_group_ids_of_joins_videos_and_people(folder):
    found = find_pairs(folder, voxceleb=True).pairs
    groups = group_ids_of(found)
    assert len(set(groups)) == 12 + 4
    by_person = {}
    for pair, group in zip(found, groups, strict=True):
        by_person.setdefault(pair.person, set()).add(group)
    assert all(len(numbers) == 1 for numbers in by_person.values())
