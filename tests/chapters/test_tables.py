"""The report's tables beside a run's: each number in its row, and what follows from print alone."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.chapters import architecture, measures, tables
from s2f_lib.chapters import losses as audits
from s2f_lib.chapters.reference import REPORT
from s2f_lib.config import EvaluationConfig, load_config
from s2f_lib.evaluation.tables import Predictions, distance_table, rank_table, recall_table

CONFIG = EvaluationConfig(n_bootstrap=50, recall_at=(1, 5))


def predictions_of(n: int, *, noise: float, seed: int = 0) -> Predictions:
    """Return features of `n` people, and the same with noise as the predicted ones."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(n, 16))
    ids = tuple(f"clip{i}" for i in range(n))
    return Predictions(ids, true, true + noise * rng.normal(size=true.shape))


def test_distances_stand_beside_the_report():
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


def test_recall_stands_beside_its_own_chance():
    recall = recall_table(rank_table({"test": predictions_of(20, noise=0.0)}), CONFIG)
    table = tables.recall_vs_report(recall, split="test")
    assert len(table) == 6
    row = table[(table["similarity"] == "cosine similarity") & (table["K"] == 5)].iloc[0]
    assert row["the report, %"] == "1.01"
    assert row["chance in 400, %"] == "1.25"
    assert row["this run, %"] == "100.0 [83.2, 100.0]"  # 20 of 20
    assert row["chance in 20, %"] == "25.0"
    assert row["normalised, %"] == "100.0 [77.5, 100.0]"


def test_normalised_recall_is_nought_at_chance_and_nothing_where_all_faces_are_taken():
    recall = recall_table(rank_table({"test": predictions_of(20, noise=1.0)}), CONFIG)
    at_chance = recall.assign(value=recall["chance"], low=0.0, high=1.0)
    shown = tables.recall_vs_report(at_chance, split="test")["normalised, %"]
    assert shown[1] == "0.0 [-33.3, 100.0]"  # chance is 5 of 20
    whole = tables.recall_vs_report(at_chance.assign(chance=1.0), split="test")
    assert whole["normalised, %"].isna().all()


def test_a_k_that_the_report_does_not_have_stands_alone():
    config = EvaluationConfig(n_bootstrap=50, recall_at=(2,))
    recall = recall_table(rank_table({"test": predictions_of(8, noise=0.0)}), config)
    table = tables.recall_vs_report(recall, split="test")
    assert table["the report, %"].isna().all()


def test_every_number_of_the_report_is_as_printed(request):
    report = request.config.rootpath.parent / "shared" / "report.md"
    if not report.is_file():
        pytest.skip("needs the report's text beside the checkout")
    text = report.read_text(encoding="utf-8")
    for rows in (REPORT.distances, REPORT.losses):
        for values in rows.values():
            assert all(f"{value:.2f}" in text for value in values.values())
    for measure in ("l1", "l2", "cosine"):
        row = [*REPORT.recall_percent["train"][measure], *REPORT.recall_percent["test"][measure]]
        assert "\t".join(f"{value:.2f}" for value in row) in text
    assert str(REPORT.parameters) in text


def test_parameter_counts_of_the_reports_table():
    counts = architecture.encoder_parameter_counts().set_index("N")["parameters"]
    # design section 4: 28,525,312 + 2,097,152 N
    assert dict(counts) == {
        1: 30_622_464,
        8: 45_302_528,
        9: 47_399_680,
        57: 148_062_976,
        342: 745_751_296,
    }
    assert architecture.bins_that_the_report_implies() == pytest.approx((46_593_664 - 28_525_312) / 2_097_152)
    assert REPORT.parameters not in set(counts)


def test_the_architecture_adds_up():
    table = architecture.encoder_architecture(load_config("quick"), feature_dimension=128)
    full = table["parameters, report's size"]
    assert full.iloc[-1] == 47_399_680 == full.iloc[:-1].sum()
    # design section 4: sizes from 598 x 257
    sizes = (
        "595x254 592x251 589x248 294x248 291x245 145x245 142x242 71x242 68x239 34x239 31x236 14x117 6x57 1x9"
    )
    shown = ["x".join(size.split(" x ")[1:]) for size in table["output, report's size"].iloc[:14]]
    assert shown == sizes.split()


def test_audits_of_the_printed_numbers():
    # design section 4: all train recalls are counts over 393, the test ones over 395
    assert audits.fitting_queries("train") == audits.Fit([393], misprints=0)
    assert audits.fitting_queries("test") == audits.Fit([395], misprints=1)
    assert list(audits.loss_audit()["can be"]) == [True, False, False, False]
    assert audits.recall_audit("test", n_queries=395)["within guessing"].all()
    assert not audits.recall_audit("train", n_queries=393)["within guessing"].any()
    assert audits.format_counts([393, 395]) == "393 or 395"


def test_the_mean_face_is_one_guess_for_all_and_at_chance():
    train, test = predictions_of(30, noise=0.1), predictions_of(10, noise=0.1, seed=1)
    guess = measures.mean_face(train.true, test)
    assert np.ptp(guess.predicted, axis=0).max() == 0
    ranks = rank_table({"test": guess})
    # one order of the faces for all queries: each rank occurs once
    assert sorted(ranks[ranks["measure"] == "cosine"]["rank"]) == list(range(1, 11))


def test_the_best_possible_beats_chance_and_knows_when_it_cannot_know():
    settings = {"source.synthetic.n_train": 1, "source.synthetic.n_test": 40, "evaluation.recall_at": [1, 5]}
    config = load_config("quick", settings)
    from s2f_lib.sources.synthetic.people import draw_population

    ids = [person.clip_id for person in draw_population(config.source.synthetic) if person.split == "test"]
    table = measures.best_possible(config, ids).set_index("ranked by")
    best = table.loc["the true likelihood", "R@1, %"].split()
    assert float(best[0]) > 10 * float(table.loc["chance", "R@1, %"])
    assert len(best) == 3  # with its interval
    nothing = load_config("quick", settings | {"source.synthetic.rho": 0.0})
    table = measures.best_possible(nothing, ids).set_index("ranked by")
    assert table.loc["the true likelihood", "R@5, %"] == "12.5 [12.5, 12.5]"  # all tied: a guess, 5 of 40
    real = load_config("quick", {"source.kind": "avspeech"})
    assert set(measures.best_possible(real, ids).iloc[0]) == {"the true likelihood", "unknown"}


def test_found_faces_are_chosen_by_rank_and_marked():
    similarity = np.array([[3.0, 2, 1], [3, 1, 2], [1, 2, 3]])
    found = measures.found_faces(similarity, n_rows=3, top_k=2)
    assert found.columns.tolist() == [[0, 0, 1], [2, 2, 1], [1, 0, 2]]
    assert found.is_true.tolist() == [[False, True, False], [False, True, False], [False, False, False]]
    assert found.notes == ["rank 1 of 3", "rank 1 of 3", "rank 3 of 3"]
    assert found.headings == ["true face", "1", "2"]


def test_the_mean_of_pictures_does_not_wrap_around():
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    assert measures.mean_image(np.concatenate([black, white])).max() == 128


def test_tests_against_chance_tell_a_signal_from_noise():
    predictions = {"signal": predictions_of(40, noise=0.5), "noise": predictions_of(40, noise=1e6)}
    table = measures.tests_against_chance(predictions, CONFIG, measure="cosine").set_index("set")
    assert table.loc["signal", "p-value"] == pytest.approx(0.001)
    assert table.loc["noise", "p-value"] > 0.01
    assert table["chance"].nunique() == 1
    assert table.loc["noise", "median by guessing"] == "20.5"
    assert table.loc["signal", "median rank"].count(".") == 3  # with its interval


def test_the_test_against_chance_takes_a_person_once(monkeypatch):
    prediction = predictions_of(20, noise=3.0)
    twice = prediction.subset(np.repeat(np.arange(20), 2))
    grouped = Predictions(tuple(map(str, range(40))), twice.true, twice.predicted, twice.clip_ids)
    one, two = (
        measures.tests_against_chance({"a": p}, CONFIG, measure="cosine").iloc[0]
        for p in (prediction, grouped)
    )
    assert two["p-value"] == one["p-value"]
    monkeypatch.setattr(measures, "MOST_TESTED", 5)
    few = measures.tests_against_chance({"a": prediction}, CONFIG, measure="cosine").iloc[0]
    assert few["queries and faces"] == 5


def test_cosines_stand_beside_the_reports_range():
    table = tables.cosines_vs_report({"own voice": np.array([0.0, 0.5, 1.0])}, CONFIG)
    assert table.loc[0, ["smallest", "largest"]].tolist() == [0.25, 0.5]
    assert table.loc[1, ["smallest", "median", "largest"]].tolist() == [0.0, 0.5, 1.0]
    assert table.loc[1, "mean"].startswith("0.50 [0.")


def test_videos_in_both_splits_are_counted():
    class Clips:
        video_ids = ("a", "a", "b", "c")
        splits = ("train", "test", "train", "test")

    assert tables.shared_videos(Clips) == 1


def test_recall_of_losses_is_one_row_a_loss():
    predictions = {"l1": predictions_of(10, noise=0.1), "contrastive": predictions_of(10, noise=5.0)}
    recall = recall_table(rank_table(predictions), CONFIG)
    table = tables.recall_of_losses(recall, measure="cosine", k=5)
    assert list(table["label"]) == ["L1 loss", "contrastive loss"]
    assert table["chance"].tolist() == [0.5, 0.5]
