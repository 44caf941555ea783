"""Evaluation of decoders: perfect and useless reconstructions have known scores."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from s2f_lib.config import IntervalSettings
from s2f_lib.errors import InputError
from s2f_lib.evaluation.decoders import AppearanceFeatures, evaluate_reconstructions, likeness, sharpness

SETTINGS = IntervalSettings(n_resamples=50)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(face, (0, 0), 2) for face in noise])


def _pixels(images: np.ndarray) -> np.ndarray:
    """Stand for an extractor: 8x8 pixels of grey."""
    return np.stack(
        [cv2.resize(p, (8, 8), interpolation=cv2.INTER_AREA).mean(axis=2).ravel() for p in images]
    )


def _evaluated(reconstructions, faces):
    return evaluate_reconstructions(
        reconstructions,
        faces,
        extractor=_pixels,
        mean_features=_pixels(faces).mean(axis=0),
        second_extractor=AppearanceFeatures(faces, components=10),
        settings=SETTINGS,
    )


def test_evaluate_reconstructions_perfect_and_useless(faces):
    same_for_all = np.repeat(faces[:1], len(faces), axis=0)
    evaluated = _evaluated({"perfect": faces, "one for all": same_for_all}, faces)
    table = evaluated.pivot(index="decoder", columns="measure", values="value")
    perfect, useless = table.loc["perfect"], table.loc["one for all"]
    for measure in ("identity_cosine", "recall_1", "recall_10", "second_recall_1", "ssim", "sharpness"):
        assert perfect[measure] == pytest.approx(1.0, abs=1e-6), measure
    assert perfect["l1"] == 0
    assert perfect["psnr_db"] == pytest.approx(100)  # capped
    assert useless["recall_1"] == pytest.approx(1 / 20)  # only face 0
    assert useless["second_recall_1"] == pytest.approx(1 / 20)
    assert useless["recall_10"] == pytest.approx(10 / 20)


def test_evaluate_reconstructions_chance_and_intervals(faces):
    table = _evaluated({"blurred": np.stack([cv2.blur(face, (9, 9)) for face in faces])}, faces)
    chance = table.set_index("measure")["chance"]
    assert chance["recall_5"] == 5 / 20
    assert chance["second_recall_10"] == 10 / 20
    assert np.isnan(chance["ssim"])
    assert (table["low"] <= table["value"] + 1e-12).all()
    assert (table["value"] <= table["high"] + 1e-12).all()
    assert table.set_index("measure").loc["sharpness", "value"] < 0.5


def test_likeness_by_hand():
    first = np.full((1, 32, 32, 3), 100, np.uint8)
    second = np.full((1, 32, 32, 3), 151, np.uint8)  # a fifth of the range away
    found = likeness(first, second)
    assert found["l1"][0] == pytest.approx(0.2, abs=1e-6)
    assert found["psnr_db"][0] == pytest.approx(-20 * np.log10(0.2), abs=1e-4)


def test_sharpness_of_bright_spot_and_checkerboard():
    face = np.zeros((2, 18, 18, 3), np.uint8)
    face[0, 8:10, 8:10] = 10  # one pixel of the half size
    face[1] = 100 + 50 * (np.indices((18, 18)).sum(axis=0) % 2)[..., None]
    # the Laplacian is -40 there, 10 at its four neighbours and 0 elsewhere: mean 0
    assert sharpness(face) == pytest.approx([(40**2 + 4 * 10**2) / 81, 0])


def test_evaluate_reconstructions_distractors_grow_gallery(faces):
    table = evaluate_reconstructions(
        {"perfect": faces},
        faces,
        extractor=_pixels,
        mean_features=_pixels(faces).mean(axis=0),
        second_extractor=AppearanceFeatures(faces, components=10),
        settings=SETTINGS,
        distractors=np.repeat(_pixels(faces[:1]), 30, axis=0),  # the first face, 30 times more
    ).set_index("measure")
    assert table.loc["large_recall_1", "gallery"] == 50
    assert table.loc["large_recall_1", "chance"] == pytest.approx(1 / 50)
    assert table.loc["large_recall_1", "value"] == pytest.approx(19 / 20)  # a tie does not count as rank 1
    assert table.loc["recall_1", "gallery"] == 20


def test_evaluate_reconstructions_refuses_bad_input(faces):
    with pytest.raises(InputError, match="gallery of 5 faces is too small"):
        _evaluated({"a": faces[:5]}, faces[:5])
    with pytest.raises(InputError, match="reconstructions of a are"):
        _evaluated({"a": faces[:, ::2]}, faces)
