"""What chapter 06 picks and counts."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.evaluation.reconstruction import Triptychs
from s2f_lib.reconstruction_kit import Probe, ReconstructionKit
from s2f_lib.report import voice_effects


def _triptychs(cosines) -> Triptychs:
    n = len(cosines)
    pictures = np.zeros((n, 4, 4, 3), np.uint8)
    return Triptychs(tuple(map(str, range(n))), pictures, pictures, pictures, np.array(cosines))


def _kit(*probes: Probe) -> ReconstructionKit:
    return ReconstructionKit(None, None, None, probes, (), np.zeros((0, 2)), ())


def test_best_median_and_worst_are_by_rank():
    cosines = [0.1, 0.9, 0.5, 0.7, 0.3, 0.8, 0.2]
    rows, notes = voice_effects.best_median_worst(_triptychs(cosines), each=1)
    assert [cosines[row] for row in rows] == [0.9, 0.5, 0.1]
    assert notes == ["best,\ncosine 0.90", "median,\ncosine 0.50", "worst,\ncosine 0.10"]
    rows, _ = voice_effects.best_median_worst(_triptychs(cosines), each=2)
    assert [cosines[row] for row in rows] == [0.9, 0.8, 0.7, 0.5, 0.2, 0.1]
    assert len(voice_effects.best_median_worst(_triptychs(cosines[:3]), each=5)[0]) == 3


def test_groups_by_what_a_voice_is_taken_for():
    gender = Probe("gender", ("female", "male"), np.array([[5.0], [-5.0]]), np.zeros(1), np.ones(2), 9)
    age = Probe("age_years", (), np.array([[10.0], [40.0]]), np.zeros(1), np.zeros(2), 9)
    predicted = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    groups = voice_effects.attribute_groups(predicted, _kit(gender, age))
    assert groups["taken for male"].tolist() == [True, False, False]
    assert groups["taken for female"].tolist() == [False, True, True]
    assert groups["oldest third"].tolist() == [False, False, True]  # 40 and about 40.8 years
    assert groups["youngest third"].tolist() == [True, False, False]


def test_without_known_attributes_the_groups_are_two_ends():
    predicted = np.array([[1.0, 0.0], [1.0, 0.1], [0.1, 1.0], [0.0, 1.0], [0.7, 0.7], [0.7, 0.6]])
    one, other = voice_effects.attribute_groups(predicted, _kit()).values()
    assert one.sum() == other.sum() == 2
    assert {tuple(np.flatnonzero(one)), tuple(np.flatnonzero(other))} == {(0, 1), (2, 3)}


def test_average_faces_by_hand():
    pictures = np.zeros((3, 2, 2, 3), np.uint8)
    pictures[1], pictures[2] = 100, 201
    groups = {"a": np.array([True, True, False]), "b": np.array([False, False, True])}
    means = voice_effects.average_faces(groups, [pictures, pictures[::-1]])
    assert means.shape == (2, 2, 2, 2, 3)
    assert means[0, 0].max() == 50
    assert means[0, 1].min() == 201
    assert means[1, 0].max() == 150  # of 201 and 100, halves go to the even number
    assert means[1, 1].max() == 0


@pytest.mark.parametrize("known", [True, False])
def test_the_nearest_faces_agreement_for_the_prose(known):
    import pandas as pd

    table = pd.DataFrame(
        [{"attribute": "gender", "nearest face, %": 91.7} if known else {"attribute": "unknown"}]
    )
    assert voice_effects.nearest_agreement(table, "gender") == ("92%" if known else "an unknown share")
