"""Tests of what chapter 06 chooses and counts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from s2f_lib.chapters import qualitative
from s2f_lib.config import EvaluationConfig, load_config
from s2f_lib.evaluation.decoders import Triptychs
from s2f_lib.paths import RunPaths
from s2f_lib.reconstruction.kit import Probe, ReconstructionKit
from s2f_lib.study import Study


def _triptychs(cosines) -> Triptychs:
    n = len(cosines)
    images = np.zeros((n, 4, 4, 3), np.uint8)
    return Triptychs(tuple(map(str, range(n))), images, images, images, np.array(cosines))


def _kit(*probes: Probe) -> ReconstructionKit:
    return ReconstructionKit(None, None, None, probes, (), np.zeros((0, 2)), ())


def test_best_median_worst_are_by_rank():
    cosines = [0.1, 0.9, 0.5, 0.7, 0.3, 0.8, 0.2]
    rows, notes = qualitative.best_median_worst(_triptychs(cosines), each=1)
    assert [cosines[row] for row in rows] == [0.9, 0.5, 0.1]
    assert notes == ["best,\ncosine 0.90", "median,\ncosine 0.50", "worst,\ncosine 0.10"]
    rows, _ = qualitative.best_median_worst(_triptychs(cosines), each=2)
    assert [cosines[row] for row in rows] == [0.9, 0.8, 0.7, 0.5, 0.2, 0.1]
    assert len(qualitative.best_median_worst(_triptychs(cosines[:3]), each=5)[0]) == 3


def test_attribute_groups_follow_the_probes():
    gender = Probe("gender", ("female", "male"), np.array([[5.0], [-5.0]]), np.zeros(1), np.ones(2), 9)
    age = Probe("age_years", (), np.array([[10.0], [40.0]]), np.zeros(1), np.zeros(2), 9)
    predicted = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    groups = qualitative.attribute_groups(predicted, _kit(gender, age))
    assert groups["taken for male"].tolist() == [True, False, False]
    assert groups["taken for female"].tolist() == [False, True, True]
    assert groups["oldest third"].tolist() == [False, False, True]  # 40 and about 40.8 years
    assert groups["youngest third"].tolist() == [True, False, False]


def test_attribute_groups_without_probes_are_two_ends():
    predicted = np.array([[1.0, 0.0], [1.0, 0.1], [0.1, 1.0], [0.0, 1.0], [0.7, 0.7], [0.7, 0.6]])
    one, other = qualitative.attribute_groups(predicted, _kit()).values()
    assert one.sum() == other.sum() == 2
    assert {tuple(np.flatnonzero(one)), tuple(np.flatnonzero(other))} == {(0, 1), (2, 3)}


def test_average_faces_match_hand_computation():
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[1], images[2] = 100, 201
    groups = {"a": np.array([True, True, False]), "b": np.array([False, False, True])}
    means = qualitative.average_faces(groups, [images, images[::-1]])
    assert means.shape == (2, 2, 2, 2, 3)
    assert means[0, 0].max() == 50
    assert means[0, 1].min() == 201
    assert means[1, 0].max() == 150  # of 201 and 100, halves go to the even number
    assert means[1, 1].max() == 0


def test_agreement_table_has_intervals_and_counts():
    truth = np.array(["f", "m"] * 20)
    told = {"nearest face": np.where(np.arange(40) < 30, truth, "?"), "probe": truth}
    rows = qualitative._agreement_rows("gender", told, truth, "m", EvaluationConfig(), list(range(40)))
    found = pd.DataFrame(rows)
    assert qualitative.nearest_agreement(found, "gender") == (0.75, 40)
    shown = qualitative.agreement_table(found).iloc[0]
    low, high = found.loc[0, ["low", "high"]]
    assert shown["nearest face, %"] == f"75.0 [{100 * low:.1f}, {100 * high:.1f}]"
    assert 0.5 < low < 0.75 < high < 0.95
    assert shown["probe, %"] == "100.0 [100.0, 100.0]"
    assert shown["chance, %"] == 50


def test_agreement_of_real_people_is_unknown(tmp_path):
    study = Study(load_config("quick", {"source.kind": "avspeech"}), RunPaths(tmp_path))
    found = qualitative.agreement(study, np.ones((3, 2)), _kit(), top_k=2)
    assert qualitative.nearest_agreement(found, "gender") == (0.0, 0)
    assert "unknown" in qualitative.agreement_table(found).loc[0, "attribute"]
