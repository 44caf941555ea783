"""The anchor: the authors' drawings from faces, on pictures for which the answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from s2f_lib.config import EvaluationConfig
from s2f_lib.pairs.anchor import face_from_face
from s2f_lib.pairs.data import load_pair_data
from s2f_lib.sources.public_pairs import find_pairs
from tests.pairs_folder import write_pairs


def test_drawings_that_are_the_face_find_it_and_those_of_others_do_not(tmp_path):
    write_pairs(tmp_path, avspeech=5)
    folder = tmp_path / "avspeech_res"
    faces = sorted((folder / "Face_ori").iterdir())
    images_dir = folder / "Face_f2f"
    images_dir.mkdir(exist_ok=True)
    for old in images_dir.iterdir():
        old.unlink()
    for face in faces[:4]:  # the fifth has none
        Image.open(face).save(images_dir / f"{face.stem}.png")
    config = EvaluationConfig(n_bootstrap=50)
    data, _ = load_pair_data(find_pairs(tmp_path), cache=tmp_path / "cache")
    numbers = face_from_face(data, config, cache=tmp_path / "cache")["avspeech"]
    assert (numbers["n"], numbers["gallery"]) == (4, 5)
    assert numbers["recall@1"] == 1.0
    assert numbers["chance"]["recall@1"] == pytest.approx(0.2)
    for face, other in itertools.pairwise(faces):
        Image.open(other).save(images_dir / f"{face.stem}.png")
    assert face_from_face(data, config, cache=tmp_path / "cache")["avspeech"]["recall@1"] == 0.0
    assert np.isfinite(numbers["intervals"]["recall@1"]).all()
