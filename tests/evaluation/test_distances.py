"""Distances on unit vectors, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import pair_distances, unit


def test_three_measures_by_hand():
    result = pair_distances(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 4.0], [0.0, -1.0]]))
    np.testing.assert_allclose(result["l1"], [0.4 + 0.8, 2.0])
    np.testing.assert_allclose(result["l2"], [np.sqrt(0.16 + 0.64), 2.0])
    np.testing.assert_allclose(result["cosine"], [0.6, -1.0])


def test_l2_and_cosine_of_unit_vectors_are_tied():
    rng = np.random.default_rng(0)
    result = pair_distances(rng.normal(size=(50, 7)), rng.normal(size=(50, 7)))
    np.testing.assert_allclose(result["l2"] ** 2, 2 - 2 * result["cosine"])
    assert (result["l1"] >= result["l2"]).all()
    assert (result["l1"] <= np.sqrt(7) * result["l2"] + 1e-12).all()


def test_rows_without_direction_and_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"1 of 2 feature vectors are zero .*first: row 1"):
        unit(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(InputError, match="not finite"):
        unit(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match=r"found \(2, 3\) and \(2, 4\)"):
        pair_distances(np.ones((2, 3)), np.ones((2, 4)))
