"""The protocol of the public pairs, on invented arrays with a known answer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s2f_lib.config import IntervalSettings, load_config
from s2f_lib.errors import InputError
from s2f_lib.evaluation.statistics import GroupBootstrap, Interval
from s2f_lib.pairs.data import PairData, load_pair_data
from s2f_lib.pairs.faces import FaceFeatures
from s2f_lib.pairs.protocol import compare_ranks, evaluate_pairs, face_from_face, hits
from s2f_lib.sources.public_pairs import Pair, find_pairs, group_ids_of
from s2f_lib.sources.splits import PairSplit, draw_splits
from tests.pairs_folder import avspeech_name, voxceleb_name, write_pairs

TINY = {
    "training.epochs": 1,
    "training.batch_size": 4,
    "training.precision": "'no'",
    "encoder.width": 0.02,
    "encoder.hidden": 8,
    "spectrogram.duration_s": 3.0,
    "encoder.frequency_bins": 4,
    "evaluation.n_bootstrap": 50,
}


def evaluate(data: PairData, splits: list[PairSplit], models: Path, **options: Any) -> dict[str, Any]:
    """Evaluate with tiny settings."""
    config = load_config("pairs", TINY)
    return evaluate_pairs(
        data,
        splits,
        spectrogram=config.spectrogram,
        encoder=config.encoder,
        training=config.training,
        interval=config.evaluation.interval,
        models=models,
        **options,
    )


def made_up(n: int, *, voxceleb: int = 0, strength: float = 1.0) -> PairData:
    """Return pairs whose voices depend on the face by `strength`; the reconstructions are the faces."""
    from s2f_lib.sources.public_pairs import identify

    rng = np.random.default_rng(4)
    ids = [avspeech_name(i) for i in range(n)]
    ids += [voxceleb_name(person, video) for person in range(voxceleb) for video in (1, 2)]
    nowhere = Path("nowhere")
    pairs = tuple(
        Pair(clip_id, "avspeech" if i < n else "voxceleb", *identify(clip_id), nowhere, nowhere, nowhere)
        for i, clip_id in enumerate(ids)
    )
    latents = rng.standard_normal((len(ids), 4))
    faces = (2 + latents @ rng.standard_normal((4, 128)) + 0.3 * rng.standard_normal((len(ids), 128))).astype(
        "f4"
    )
    heard = strength * latents @ rng.standard_normal((4, 40)) + rng.standard_normal((len(ids), 40))
    voices = {"speaker": heard.astype("f4")}
    face_features = FaceFeatures(faces, faces, np.ones(len(ids), bool))
    audio = rng.integers(-3_000, 3_000, (len(ids), 96_000)).astype(np.int16)
    return PairData(
        pairs, np.array(group_ids_of(pairs)), audio, voices, face_features, faces.copy(), {"speaker": "0"}
    )


def test_evaluate_pairs_all_systems_rank_the_same_galleries(tmp_path):
    data = made_up(60)
    splits = draw_splits(data.pairs, n_splits=2, test_share=0.25, seed=0)
    results = evaluate(data, splits, tmp_path, control=True, report_splits=1)
    systems = results["systems"]
    assert list(systems) == ["speech2face", "report", "ridge", "ours", "shuffled"]
    for numbers in systems.values():
        assert numbers["gallery"] == 15
        assert numbers["n"] == 15 * numbers["n_splits"] == 15 * len(numbers["per_split"])
        assert numbers["chance"]["recall@5"] == pytest.approx(5 / 15)
        assert numbers["recall@50"] == 1.0
        low, high = numbers["intervals"]["recall@5"]
        assert low <= numbers["recall@5"] <= high
        assert len(numbers["curve"]["k"]) == 15
    assert {name: numbers["n_splits"] for name, numbers in systems.items()} == {
        "speech2face": 2,
        "report": 1,
        "ridge": 2,
        "ours": 2,
        "shuffled": 2,
    }
    # the invented reconstructions are the faces themselves
    assert systems["speech2face"]["recall@1"] == 1.0
    assert systems["speech2face"]["median_rank"] == 1.0
    assert systems["ours"]["recall@5"] > 0.6
    assert systems["ours"]["p_above_chance_in_first_split"] < 0.01
    assert systems["shuffled"]["p_above_chance_in_first_split"] > 0.01
    assert set(results["comparisons"]) == {"speech2face", "report", "ridge", "shuffled"}
    assert results["comparisons"]["shuffled"]["p_log_rank"] < 0.01
    assert results["comparisons"]["shuffled"]["log_rank_difference"] < 0
    ratio, low, high = results["sets"]["avspeech"]["ratios"]["report"]["recall@5"]
    assert low <= ratio <= high
    assert [split["n_test"] for split in results["splits"]] == [15, 15]
    json.dumps(results, allow_nan=False)


def test_evaluate_pairs_other_test_part_keeps_the_settings(tmp_path):
    """Settings are chosen with the train part only."""
    data = made_up(60)
    train = np.arange(40)
    options = {"models": tmp_path, "systems": ["ridge", "ours"]}
    one = evaluate(data, [PairSplit(train, np.arange(40, 50))], **options)
    other = evaluate(data, [PairSplit(train, np.arange(50, 60))], **options)
    assert one["settings"] == other["settings"]
    both = evaluate(data, [PairSplit(train, np.arange(40, 60))], **options)
    assert both["settings"] == one["settings"]


def test_evaluate_pairs_voxceleb_has_its_own_gallery(tmp_path):
    data = made_up(40, voxceleb=8)
    split = PairSplit(np.arange(30), np.arange(30, 56))
    results = evaluate(data, [split], tmp_path, systems=["speech2face", "ours"])
    assert list(results["sets"]) == ["avspeech", "voxceleb"]
    assert results["set"] == "avspeech"
    vox = results["sets"]["voxceleb"]
    assert (vox["n"], vox["people"], vox["gallery"]) == (16, 8, 16)
    apart = vox["systems"]["ours"]["without_other_faces_of_the_person"]
    assert apart["recall@5"] >= vox["systems"]["ours"]["recall@5"]


def test_evaluate_pairs_missing_network_leaves_its_system_out(tmp_path):
    data = made_up(40)
    voices = {"acoustic": data.voices["speaker"]}
    plain = PairData(data.pairs, data.group_ids, data.audio, voices, data.faces, data.reconstructions)
    split = draw_splits(plain.pairs)[0]
    results = evaluate(plain, [split], tmp_path, systems=["ridge", "ours"])
    assert list(results["systems"]) == ["ours"]
    assert "speaker embedding" in results["left_out_systems"]["ridge"]
    assert results["settings"]["ours"][0]["blocks"] == ["acoustic"]


def test_evaluate_pairs_leak_or_unknown_system_refused(tmp_path):
    data = made_up(20, voxceleb=2)
    same_person = PairSplit(np.arange(21), np.array([21, 22]))
    with pytest.raises(InputError, match="1 videos or people are in train and in test"):
        evaluate(data, [same_person], tmp_path)
    with pytest.raises(InputError, match="unknown system 'theirs'"):
        evaluate(data, [PairSplit(np.arange(15), np.arange(15, 20))], tmp_path, systems=["theirs"])
    with pytest.raises(InputError, match="7 training pairs"):
        evaluate(data, [PairSplit(np.arange(7), np.arange(15, 20))], tmp_path, systems=["ours"])


def test_face_from_face_known_reconstructions_have_known_recall(tmp_path):
    write_pairs(tmp_path, avspeech=5)
    folder = tmp_path / "avspeech_res"
    faces = sorted((folder / "Face_ori").iterdir())
    images_dir = folder / "Face_f2f"
    images_dir.mkdir(exist_ok=True)
    for old in images_dir.iterdir():
        old.unlink()
    for face in faces[:4]:  # the fifth face has no reconstruction
        Image.open(face).save(images_dir / f"{face.stem}.png")
    interval = IntervalSettings(n_resamples=50)
    data, _ = load_pair_data(find_pairs(tmp_path), cache=tmp_path / "cache")
    numbers = face_from_face(data, interval, cache=tmp_path / "cache")["avspeech"]
    assert (numbers["n"], numbers["gallery"]) == (4, 5)
    assert numbers["recall@1"] == 1.0
    assert numbers["chance"]["recall@1"] == pytest.approx(0.2)
    for face, other in itertools.pairwise(faces):
        Image.open(other).save(images_dir / f"{face.stem}.png")
    assert face_from_face(data, interval, cache=tmp_path / "cache")["avspeech"]["recall@1"] == 0.0
    assert np.isfinite(numbers["intervals"]["recall@1"]).all()


def recall(
    group_ids: list[np.ndarray], ranks: list[np.ndarray], ks: list[int], *, n_resamples: int = 50
) -> list[Interval]:
    """Return recall at each K with its interval over splits."""
    settings = IntervalSettings(n_resamples=n_resamples)
    return GroupBootstrap(group_ids, settings).means(hits(ranks, ks))


def test_recall_unequal_splits_have_equal_weight():
    group_ids = [np.array([0, 1]), np.array([0, 2, 3, 4])]
    ranks = [np.array([1.0, 2.0]), np.array([1.0, 1.0, 1.0, 4.0])]
    at_1, at_2, _ = recall(group_ids, ranks, [1, 2, 4])
    assert at_1.value == pytest.approx((0.5 + 0.75) / 2)
    assert at_2.value == pytest.approx((1 + 0.75) / 2)
    bootstrap = GroupBootstrap(group_ids, IntervalSettings(n_resamples=50))
    assert bootstrap.median(ranks).value == pytest.approx((1.5 + 1.0) / 2)
    reciprocal = bootstrap.means([1 / each[:, None] for each in ranks])[0]
    assert reciprocal.value == pytest.approx((0.75 + 3.25 / 4) / 2)


def test_recall_clips_of_one_person_are_resampled_together():
    """Ten people with ten equal clips each have the interval of 10 values, not of 100."""
    found = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    ranks = np.where(np.repeat(found, 10), 1.0, 50.0)
    (wide,) = recall([np.repeat(np.arange(10), 10)], [ranks], [1], n_resamples=4_000)
    (narrow,) = recall([np.arange(100)], [ranks], [1], n_resamples=4_000)
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low == pytest.approx(4 * np.sqrt(0.25 / 10), rel=0.1)
    assert narrow.high - narrow.low == pytest.approx(4 * np.sqrt(0.25 / 100), rel=0.1)


def test_recall_repeated_splits_keep_the_interval():
    rng = np.random.default_rng(0)
    ranks = rng.integers(1, 40, 60).astype(float)
    (once,) = recall([np.arange(60)], [ranks], [10], n_resamples=500)
    (often,) = recall([np.arange(60)] * 5, [ranks] * 5, [10], n_resamples=500)
    assert (once.value, once.low, once.high) == pytest.approx((often.value, often.low, often.high))


def test_recall_ratio_uses_the_same_resamples():
    first, second = np.array([1.0, 1, 9, 9, 9, 9]), np.array([1.0, 9, 9, 9, 9, 9])
    bootstrap = GroupBootstrap([np.arange(6)], IntervalSettings(n_resamples=200))
    same = bootstrap.ratios(hits([first], [1]), hits([first], [1]))[0]
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    assert bootstrap.ratios(hits([first], [1]), hits([second], [1]))[0].value == 2.0


def test_recall_one_group_refused():
    with pytest.raises(InputError, match="at least 2 videos or people"):
        recall([np.array([0])], [np.array([1.0])], [1])


def test_compare_ranks_counts_each_person_once():
    n = 12
    better, worse = np.full(2 * n, 1.0), np.full(2 * n, np.e)
    group_ids = np.repeat(np.arange(n), 2)
    found = compare_ranks([group_ids] * 2, [better] * 2, [worse] * 2)
    assert found["log_rank_difference"] == pytest.approx(-1)
    # all twelve signs are equal: two of 2^12 sign patterns are as extreme
    assert found["p_log_rank"] == pytest.approx(2 / 2**12, abs=3e-4)
    assert found["p_recall@10"] == 1.0  # both systems find all faces
    assert compare_ranks([group_ids], [better], [better])["p_log_rank"] == 1.0
