"""Tests of the audits of printed recalls, and of retrieval by predictions that hold only gender."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.chapters import retrieval
from s2f_lib.config import load_config
from s2f_lib.evaluation.tables import Predictions
from s2f_lib.sources.synthetic.people import draw_population

CONFIG = load_config("quick", {"source.synthetic.n_train": 120, "source.synthetic.n_test": 80})


@pytest.fixture(scope="module")
def people():
    """Faces that show gender and identity; predictions that hold only gender."""
    population = draw_population(CONFIG.source.synthetic).table()
    rng = np.random.default_rng(0)
    predictions, known = {}, {}
    for split in ("train", "test"):
        table = population[population["split"] == split]
        female = (table["gender"] == "f").to_numpy(float)
        gender = np.column_stack([female, 1 - female])
        own = rng.normal(size=(len(table), 30)) / 30
        nothing = rng.normal(size=own.shape) / 3000
        true, predicted = np.hstack([gender, own]), np.hstack([gender, nothing])
        predictions[split] = Predictions(tuple(table["clip_id"]), true, predicted)
        known[split] = retrieval.known_attributes(CONFIG.source, predictions[split].clip_ids)
    return predictions, known


def test_matching_table_same_gender_is_at_chance(people):
    predictions, known = people
    arguments = predictions["test"], known["test"], CONFIG.evaluation
    areas = retrieval.verification_areas(*arguments, measure="cosine")
    table = retrieval.matching_table(*arguments, measure="cosine", areas=areas).set_index("others")
    kinds = ["same gender", "same age", "same gender and age", "same gender and group"]
    assert list(table.index) == ["anyone", *kinds, "same gender, group and age", "by guessing"]
    assert areas["anyone"].value > 0.7
    assert areas["same age"].value > 0.7  # gender tells of these, too
    assert areas["same gender"].value == pytest.approx(0.5, abs=0.1)
    assert areas["same gender"].low < 0.5 < areas["same gender"].high
    assert table.loc["anyone", "area under ROC"] == f"{areas['anyone']:.3f}"
    alike, words = retrieval.most_alike(areas)
    assert alike == areas["same gender, group and age"]
    assert words == "against others of the same gender, group and age"
    # half of the others are of the other gender, and lose: 1/2 + 1/2 * 1/2
    assert float(table.loc["anyone", "1 of 2"].split()[0]) == pytest.approx(0.75, abs=0.06)
    assert float(table.loc["same gender", "1 of 2"].split()[0]) == pytest.approx(0.5, abs=0.1)
    assert table.loc["by guessing", "1 of 5"] == "0.200"
    assert table.loc["anyone", "people"] == 80


def test_probes_table_reads_only_what_predictions_hold(people):
    table = retrieval.probes_table(*people, CONFIG.evaluation).set_index(["attribute", "read from"])
    assert table.loc[("gender", "the voice's prediction"), "result"].startswith("1.00")
    group = table.loc[("group", "the voice's prediction")]
    assert float(group["result"].split()[0]) == pytest.approx(0.25, abs=0.15)


def test_recall_by_group_covers_all_people(people):
    predictions, known = people
    table = retrieval.recall_by_group(
        predictions["test"], known["test"], CONFIG.evaluation, measure="cosine", k=10
    )
    assert table["n"].iloc[0] == 80
    for kind in ("gender", "group", "age"):
        assert table.loc[table["people"].str.startswith(kind), "n"].sum() == 80


def test_tables_of_real_people_say_unknown(people):
    predictions, _ = people
    real = load_config("quick", {"source.kind": "avspeech"})
    assert retrieval.known_attributes(real.source, predictions["test"].clip_ids) is None
    arguments = predictions["test"], None, CONFIG.evaluation
    areas = retrieval.verification_areas(*arguments, measure="cosine")
    assert list(areas) == ["anyone"]
    assert "are unknown" in retrieval.most_alike(areas)[1]
    tables = (
        retrieval.matching_table(*arguments, measure="cosine", areas=areas),
        retrieval.probes_table(predictions, {"train": None, "test": None}, CONFIG.evaluation),
        retrieval.recall_by_group(*arguments, measure="cosine", k=10),
    )
    assert all("unknown of these people" in table.to_string() for table in tables)


def test_audits_match_values_worked_out_by_hand():
    # design section 4: all train recalls are counts over 393, the test ones over 395
    assert retrieval.fitting_queries("train") == retrieval.Fit([393], misprints=0)
    assert retrieval.fitting_queries("test") == retrieval.Fit([395], misprints=1)
    assert retrieval.recall_audit("test", n_queries=395)["within guessing"].all()
    assert not retrieval.recall_audit("train", n_queries=393)["within guessing"].any()
    assert retrieval.format_counts([393, 395]) == "393 or 395"
