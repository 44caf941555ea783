"""Chapter 08: the published results are consistent and anonymous, and every table comes from them."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest

from s2f_lib import paths
from s2f_lib.chapters import pairs
from s2f_lib.chapters.pairs import PairComparison, ratio_figure, recall_figure
from s2f_lib.errors import DataError
from s2f_lib.study import Study


@pytest.fixture(scope="module")
def published():
    """The published results."""
    return PairComparison(pairs.read_published(), from_this_run=False)


def test_load_comparison_without_pairs_is_published(tmp_path, published):
    study = Study.open("quick", run_dir=tmp_path)
    comparison = pairs.load_or_run_comparison(study)
    assert not comparison.from_this_run
    assert comparison.label == "kept results"
    assert comparison.results == published.results
    assert published.results["provenance"]["environment"]["commit"] in pairs.describe_source(comparison)


def test_published_files_are_small_and_anonymous():
    files = [path for path in pairs.published_dir().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert {path.suffix for path in files} <= {".json", ".csv", ".png"}
    clip_id = re.compile(r"[A-Za-z0-9_-]{11}_\d+(\.\d+-\d+\.\d+)?\b")
    for path in files:
        if path.suffix != ".png":
            text = path.read_text(encoding="utf-8")
            assert not clip_id.search(text), path.name
            assert "/" not in json.dumps(text) or not re.search(r"/(?:home|root|tmp|work)\b", text)


def test_published_numbers_are_consistent(published):
    numbers = published.of()
    for system in numbers["systems"].values():
        for key in ("recall@1", "recall@10", "recall@50", "median_rank", "mrr"):
            low, high = system["intervals"][key]
            assert low <= system[key] <= high
            assert system[key] == pytest.approx(np.mean([split[key] for split in system["per_split"]]))
        curve = system["curve"]
        assert curve["value"][9] == pytest.approx(system["recall@10"], abs=1e-4)
        assert np.all(np.diff(curve["value"]) >= 0)
    for name, ratios in numbers["ratios"].items():
        if numbers["systems"][name]["n_splits"] == len(published.results["splits"]):
            expected = numbers["systems"]["ours"]["recall@10"] / numbers["systems"][name]["recall@10"]
            assert ratios["recall@10"][0] == pytest.approx(expected)


def test_published_control_is_at_chance(published):
    control = published.system("shuffled")
    for key in ("recall@10", "recall@20", "median_rank"):
        low, high = control["intervals"][key]
        assert low <= control["chance"][key] <= high


def test_tables_have_one_column_per_system_and_chance(published):
    table = pairs.systems_table(published)
    assert list(table.columns)[1:] == [*map(pairs.SHORT_NAMES.get, published.of()["systems"]), "chance"]
    row = table.set_index("").loc["R@10, %"]
    assert row["ours"].startswith(f"{100 * published.system('ours')['recall@10']:.1f} [")
    compared = pairs.comparison_table(published)
    assert len(compared.columns) == len(published.of()["systems"])
    assert "commit" in set(pairs.settings_table(published)["what"])
    for step in ("inside", "outside"):
        tried = pairs.tried_table(step)
        assert tried.drop(columns="what was tried").notna().all(axis=None)


def test_tables_two_sets_have_labels(published):
    results = copy.deepcopy(dict(published.results))
    results["sets"]["voxceleb"] = results["sets"]["avspeech"]
    table = pairs.systems_table(PairComparison(results, from_this_run=True))
    assert list(table["pairs"].unique()) == ["AVSpeech", "VoxCeleb"]
    assert len(pairs.comparison_table(PairComparison(results, from_this_run=True))) == 14


def test_numbers_for_prose_verdict_follows_the_interval(published):
    found = pairs.numbers_for_prose(published, against="speech2face")
    low, high = found["ratio_low"], found["ratio_high"]
    assert found["verdict"] == (
        "better than" if low > 1 else "worse than" if high < 1 else "about as well as"
    )
    worse = copy.deepcopy(dict(published.results))
    worse["sets"]["avspeech"]["ratios"]["speech2face"]["recall@10"] = [0.5, 0.4, 0.6]
    worse["sets"]["avspeech"]["systems"]["report"]["intervals"]["recall@10"] = [0.0, 1.0]
    found = pairs.numbers_for_prose(PairComparison(worse, from_this_run=True), against="speech2face")
    assert found["verdict"] == "worse than"
    assert found["report_verdict"] == "not told apart from chance"


def test_figures_draw_every_system(published):
    figure = recall_figure(published)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == [*map(pairs.SHORT_NAMES.get, published.of()["systems"]), "chance"]
    ratios = ratio_figure(published)
    assert [text.get_text() for text in ratios.axes[0].get_xticklabels()] == [
        f"K = {k}" for k in (1, 5, 10, 20, 50)
    ]


def test_publish_comparison_counts_left_out_clips(published, tmp_path):
    results = copy.deepcopy(dict(published.results))
    results["data"]["left_out"] = {"_-vid000001_010.000000-014.500000": "no file in Wav"}
    pairs.publish_comparison(results, tmp_path / "kept")
    written = json.loads((tmp_path / "kept" / "results.json").read_text())
    assert written["data"]["left_out"] == 1
    assert results["data"]["left_out"] != 1  # the argument is not changed
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert names == {"results.json", "systems.csv", "comparisons.csv", "recall.png", "ratios.png"}


def test_read_published_missing_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "book_dir", lambda: tmp_path)
    with pytest.raises(DataError, match="s2f pairs --publish"):
        pairs.read_published()
