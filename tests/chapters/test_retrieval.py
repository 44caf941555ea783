"""What of retrieval is gender alone, and for whom it fails, on predictions made up to tell just that."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.chapters import retrieval as attributes
from s2f_lib.config import load_config
from s2f_lib.evaluation.tables import Predictions
from s2f_lib.sources.synthetic.people import draw_population

CONFIG = load_config("quick", {"source.synthetic.n_train": 120, "source.synthetic.n_test": 80})


@pytest.fixture(scope="module")
def people():
    """Faces that show gender and who it is; predictions that tell gender alone."""
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
        known[split] = attributes.known_attributes(CONFIG, predictions[split].clip_ids)
    return predictions, known


def test_matching_falls_to_chance_among_people_of_the_same_gender(people):
    predictions, known = people
    arguments = predictions["test"], known["test"], CONFIG.evaluation
    areas = attributes.verification_areas(*arguments, measure="cosine")
    table = attributes.matching_table(*arguments, measure="cosine", areas=areas).set_index("others")
    kinds = ["same gender", "same age", "same gender and age", "same gender and group"]
    assert list(table.index) == ["anyone", *kinds, "same gender, group and age", "by guessing"]
    assert areas["anyone"].value > 0.7
    assert areas["same age"].value > 0.7  # gender tells of these, too
    assert areas["same gender"].value == pytest.approx(0.5, abs=0.1)
    assert areas["same gender"].low < 0.5 < areas["same gender"].high
    assert table.loc["anyone", "area under ROC"] == f"{areas['anyone']:.3f}"
    alike, words = attributes.most_alike(areas)
    assert alike == areas["same gender, group and age"]
    assert words == "against others of the same gender, group and age"
    # half of the others are of the other gender, and lose: 1/2 + 1/2 * 1/2
    assert float(table.loc["anyone", "1 of 2"].split()[0]) == pytest.approx(0.75, abs=0.06)
    assert float(table.loc["same gender", "1 of 2"].split()[0]) == pytest.approx(0.5, abs=0.1)
    assert table.loc["by guessing", "1 of 5"] == "0.200"
    assert table.loc["anyone", "people"] == 80


def test_probes_read_from_the_prediction_what_it_tells(people):
    table = attributes.probes_table(*people, CONFIG.evaluation).set_index(["attribute", "read from"])
    assert table.loc[("gender", "the voice's prediction"), "result"].startswith("1.00")
    group = table.loc[("group", "the voice's prediction")]
    assert float(group["result"].split()[0]) == pytest.approx(0.25, abs=0.15)


def test_recall_is_given_for_each_kind_of_people(people):
    predictions, known = people
    table = attributes.recall_by_group(
        predictions["test"], known["test"], CONFIG.evaluation, measure="cosine", k=10
    )
    assert table["n"].iloc[0] == 80
    for kind in ("gender", "group", "age"):
        assert table.loc[table["people"].str.startswith(kind), "n"].sum() == 80


def test_of_real_people_the_tables_say_that_nothing_is_known(people):
    predictions, _ = people
    real = load_config("quick", {"source.kind": "avspeech"})
    assert attributes.known_attributes(real, predictions["test"].clip_ids) is None
    arguments = predictions["test"], None, CONFIG.evaluation
    areas = attributes.verification_areas(*arguments, measure="cosine")
    assert list(areas) == ["anyone"]
    assert "too little is known" in attributes.most_alike(areas)[1]
    tables = (
        attributes.matching_table(*arguments, measure="cosine", areas=areas),
        attributes.probes_table(predictions, {"train": None, "test": None}, CONFIG.evaluation),
        attributes.recall_by_group(*arguments, measure="cosine", k=10),
    )
    assert all("unknown of these people" in table.to_string() for table in tables)
