"""File names of UTKFace, refused files, and the split."""

from __future__ import annotations

import pytest

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.utkface import read_utkface, split_utkface


def _folder(tmp_path, names):
    for number, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image %d" % number)
    return tmp_path


def _many(tmp_path, count):
    return _folder(
        tmp_path, [f"{age % 90}_{age % 2}_{age % 5}_{20170101000000000 + age}.jpg" for age in range(count)]
    )


def test_read_utkface_reads_both_forms_of_names(tmp_path):
    names = ["25_0_2_20170116174525125.jpg", "part1/100_1_0_20170112213500903.jpg.chip.jpg"]
    faces = read_utkface(_folder(tmp_path, names)).faces
    assert [(face.age_years, face.gender, face.race) for face in faces] == [
        (25, "male", "Asian"),
        (100, "female", "White"),
    ]


@pytest.mark.parametrize(
    ("name", "reason", "found"),
    [
        ("61_1_20170109142408075.jpg.chip.jpg", "name", "2 of the 3 parts"),  # a real one: no race
        ("39_1_20170116174525125.jpg", "name", "2 of the 3 parts"),
        ("portrait.jpg", "name", "other parts"),
        ("5_0_0_1_20170116174525125.jpg", "name", "4 of the 3 parts"),
        ("25_0_2_2017.jpg", "name", "other parts"),
        ("117_0_2_20170116174525125.jpg", "age", "0 to 116, found 117"),
        ("25_3_2_20170116174525125.jpg", "gender", "found 3"),
        ("25_1_5_20170116174525125.jpg", "race", "found 5"),
    ],
)
def test_read_utkface_malformed_name_is_refused(tmp_path, name, reason, found):
    read = read_utkface(_folder(tmp_path, [name, "25_0_2_20170116174525125.jpg.chip.jpg"]))
    assert len(read.faces) == 1
    assert read.refusals() == {reason: 1}
    assert read.refused[0].name == name
    assert found in read.refused[0].detail


def test_read_utkface_copy_is_refused(tmp_path):
    first, second = "25_0_2_20170116174525125.jpg", "26_0_2_20170116174525126.jpg"
    folder = _folder(tmp_path, [first])
    (folder / second).write_bytes((folder / first).read_bytes())
    read = read_utkface(folder)
    assert read.refusals() == {"copy": 1}
    assert first in read.refused[0].detail


def test_read_utkface_photo_in_two_files_is_one_face(tmp_path):
    photo = "25_0_2_20170116174525125.jpg"
    read = read_utkface(_folder(tmp_path, [f"crop_part1/{photo}.chip.jpg", f"part1/{photo}"]))
    assert (len(read.faces), read.refusals()) == (1, {"copy": 1})


def test_read_utkface_folder_without_faces_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="no folder"):
        read_utkface(tmp_path / "absent")
    with pytest.raises(InputError, match=r"1 images have other names.*expected \[age\]"):
        read_utkface(_folder(tmp_path, ["me.jpg"]))


def test_split_utkface_depends_on_content_only(tmp_path):
    faces = read_utkface(_many(tmp_path, 60)).faces
    small, large = (
        split_utkface(faces, n_train=20, n_gallery=15),
        split_utkface(faces, n_train=45, n_gallery=15),
    )
    assert small["split"].value_counts().to_dict() == {"": 25, "train": 20, "test": 15}
    assert set(small.loc[small.split == "test", "name"]) == set(large.loc[large.split == "test", "name"])
    assert set(small.loc[small.split == "train", "name"]) <= set(large.loc[large.split == "train", "name"])
    shuffled = split_utkface(faces[::-1], n_train=20, n_gallery=15).iloc[::-1].reset_index(drop=True)
    assert shuffled.equals(small)


def test_split_utkface_galleries_of_folds_are_disjoint(tmp_path):
    faces = read_utkface(_many(tmp_path, 60)).faces
    tables = [split_utkface(faces, n_gallery=15, fold=fold) for fold in range(4)]
    galleries = [set(table.loc[table.split == "test", "name"]) for table in tables]
    assert [len(gallery) for gallery in galleries] == [15] * 4
    assert len(set.union(*galleries)) == 60
    for table, gallery in zip(tables, galleries, strict=True):
        assert set(table.loc[table.split == "train", "name"]) == set(table["name"]) - gallery


def test_split_utkface_too_few_faces_is_refused(tmp_path):
    faces = read_utkface(_many(tmp_path, 31)).faces
    with pytest.raises(InputError, match="too few for training and gallery 0 of 15"):
        split_utkface(faces[:16], n_gallery=15)
    with pytest.raises(InputError, match="too few for training and gallery 2 of 15"):
        split_utkface(faces, n_gallery=15, fold=2)


def test_read_utkface_real_excerpt_is_complete(shared_data):
    read = read_utkface(shared_data / "utkface")
    assert len(read.faces) + len(read.refused) == 6300
    table = split_utkface(read.faces)
    assert (table["split"] == "test").sum() == 400
    assert 0 <= table["age_years"].min() < 5
    assert table["age_years"].max() <= 116
