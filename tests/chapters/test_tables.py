"""Tests of the report's tables next to a run's: each number is in its row."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.chapters import tables
from s2f_lib.chapters.reference import REPORT
from s2f_lib.config import EvaluationConfig
from s2f_lib.evaluation.tables import distance_table, rank_table, recall_table
from tests.chapters.predictions import predictions_of

CONFIG = EvaluationConfig(n_bootstrap=50, recall_at=(1, 5))


def test_distances_vs_report_rows_alternate_report_and_run():
    predictions = {"train": predictions_of(30, noise=0.1), "test": predictions_of(20, noise=0.5)}
    distances = distance_table(predictions | {"extra": predictions["test"]}, CONFIG)
    table = tables.distances_vs_report(distances, dimension=16)
    assert list(zip(table["set"], table["measured by"], strict=True)) == [
        ("train", "the report"),
        ("train", "this run"),
        ("test", "the report"),
        ("test", "this run"),
        ("extra", "this run"),
    ]
    report = table[table["measured by"] == "the report"]
    assert list(report["L2 distance"]) == ["0.56", "0.77"]
    assert list(report["L1 distance"]) == ["18.47", "20.23"]
    assert list(report["cosine similarity"]) == ["0.83", "0.68"]
    assert list(table["people"]) == [8000, 30, 400, 20, 20]
    own = tables.value_of(distances, name="test", measure="l2")
    assert table["L2 distance"][3].startswith(f"{own:.2f} [")


def test_recall_vs_report_has_chance_of_each_gallery():
    recall = recall_table(rank_table({"test": predictions_of(20, noise=0.0)}), CONFIG)
    table = tables.recall_vs_report(recall, split="test")
    assert len(table) == 6
    row = table[(table["similarity"] == "cosine similarity") & (table["K"] == 5)].iloc[0]
    assert row["the report, %"] == "1.01"
    assert row["chance in 400, %"] == "1.25"
    assert row["this run, %"] == "100.0 [83.2, 100.0]"  # 20 of 20
    assert row["chance in 20, %"] == "25.0"
    assert row["normalised, %"] == "100.0 [77.5, 100.0]"


def test_recall_vs_report_normalised_is_zero_at_chance():
    recall = recall_table(rank_table({"test": predictions_of(20, noise=1.0)}), CONFIG)
    at_chance = recall.assign(value=recall["chance"], low=0.0, high=1.0)
    shown = tables.recall_vs_report(at_chance, split="test")["normalised, %"]
    assert shown[1] == "0.0 [-33.3, 100.0]"  # chance is 5 of 20
    whole = tables.recall_vs_report(at_chance.assign(chance=1.0), split="test")
    assert whole["normalised, %"].isna().all()


def test_recall_vs_report_other_k_has_no_report_value():
    config = EvaluationConfig(n_bootstrap=50, recall_at=(2,))
    recall = recall_table(rank_table({"test": predictions_of(8, noise=0.0)}), config)
    table = tables.recall_vs_report(recall, split="test")
    assert table["the report, %"].isna().all()


def test_report_numbers_are_as_printed(request):
    report = request.config.rootpath.parent / "shared" / "report.md"
    if not report.is_file():
        pytest.skip("needs the report's text next to the checkout")
    text = report.read_text(encoding="utf-8")
    for rows in (REPORT.distances, REPORT.losses):
        for values in rows.values():
            assert all(f"{value:.2f}" in text for value in values.values())
    for measure in ("l1", "l2", "cosine"):
        row = [*REPORT.recall_percent["train"][measure], *REPORT.recall_percent["test"][measure]]
        assert "\t".join(f"{value:.2f}" for value in row) in text
    assert str(REPORT.parameters) in text


def test_cosines_vs_report_has_range_and_quartiles():
    table = tables.cosines_vs_report({"own voice": np.array([0.0, 0.5, 1.0])}, CONFIG)
    assert table.loc[0, ["smallest", "largest"]].tolist() == [0.25, 0.5]
    assert table.loc[1, ["smallest", "median", "largest"]].tolist() == [0.0, 0.5, 1.0]
    assert table.loc[1, "mean"].startswith("0.50 [0.")
