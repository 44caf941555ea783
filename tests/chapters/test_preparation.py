"""Tests of the costs of AVSpeech, worked out by hand from a benchmark of round numbers."""

from __future__ import annotations

import json

import pytest

from s2f_lib.chapters.preparation import (
    avspeech_cost,
    download_days,
    measured_preparation,
    recipe_vs_ours,
    shared_videos,
)
from s2f_lib.errors import MissingFileError


@pytest.fixture
def measured(tmp_path):
    way = {"kept": 20, "processes": 3}
    found = {
        "measured_on": "2026-01-01",
        "cpu": "a processor",
        "cores": 2,
        "workers": 2,
        "load_average": 0.2,
        "real_clips": 12,
        "generated_clips": 10,
        "start": way | {"clips": 2, "seconds": 5.0, "cpu_seconds": 10.0},
        "frames_3": {
            "the recipe": way
            | {
                "clips": 22,
                "seconds": 110.0,
                "cpu_seconds": 99.0,
                "bytes_per_clip": 1e6,
                "peak_mb": 600.0,
            },
            "ours": way
            | {
                "clips": 22,
                "seconds": 11.0,
                "cpu_seconds": 28.0,
                "bytes_per_clip": 2e5,
                "peak_mb": 1500.0,
            },
        },
    }
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(found))
    return measured_preparation(path)


def test_measured_preparation_leaves_start_out_of_rates(measured):
    assert measured.core_seconds_per_clip == pytest.approx(0.9)  # (28 - 10) / (22 - 2)
    assert measured.times_faster == pytest.approx(10)
    assert measured.bytes_share == pytest.approx(0.2)
    assert measured.where == "12 real and 10 generated clips, 2 cores of a processor, 2026-01-01"
    table = recipe_vs_ours(measured)
    assert table["clips/s"].tolist() == ["0.20", "2.00", "10.00"]
    assert table["seconds of a core a clip"].tolist() == ["4.50", "0.90", "0.20"]
    assert table["peak memory, MB"].tolist() == ["600", "1,500", "2.50"]
    assert table["bytes a clip"].tolist() == ["1,000,000", "200,000", "0.20"]


def test_avspeech_cost_matches_hand_computation(measured):
    table = avspeech_cost(measured, cores=(10,))
    first, whole = table.to_dict("records")
    assert first["clips"] == 290_000
    assert first["days of download, one address"] == 40  # at 300 an hour
    assert first["core hours"] == round(290_000 * 0.9 / 3_600)  # 72 or 73
    assert first["hours on 10 cores"] == 7.2
    assert (first["GB of shards"], first["GB as the report's pickles"]) == (58, 290)
    assert whole["clips"] == 2_600_000
    assert download_days(290_000, addresses=10) == pytest.approx(4.03, abs=0.01)


def test_published_benchmark_meets_its_targets():
    published = measured_preparation()
    assert published.times_faster >= 5
    assert published.bytes_share <= 0.2
    assert 0 < published.core_seconds_per_clip < published.recipe_core_seconds_per_clip


def test_missing_benchmark_says_how_to_make_one(tmp_path):
    with pytest.raises(MissingFileError, match="bench_preparation"):
        measured_preparation(tmp_path / "none.json")


def test_shared_videos_counts_videos_in_both_splits():
    class Clips:
        video_ids = ("a", "a", "b", "c")
        splits = ("train", "test", "train", "test")

    assert shared_videos(Clips) == 1
