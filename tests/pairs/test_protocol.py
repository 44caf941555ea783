"""The protocol of the real pairs, on arrays that are made up so that the right answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2f_lib.config import load_config
from s2f_lib.errors import InputError
from s2f_lib.pairs.faces import FaceFeatures
from s2f_lib.pairs.protocol import evaluate_pairs
from s2f_lib.pairs.systems import PairData
from s2f_lib.sources.public_pairs import Pair, group_ids_of
from s2f_lib.sources.splits import PairSplit, draw_splits
from tests.pairs_folder import avspeech_name, voxceleb_name

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


def made_up(n: int, *, voxceleb: int = 0, strength: float = 1.0) -> PairData:
    """Return pairs whose voices tell of the face as much as `strength`; the drawings tell all."""
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


def test_all_systems_rank_the_same_galleries(tmp_path):
    data = made_up(60)
    splits = draw_splits(data.pairs, n_splits=2, test_share=0.25, seed=0)
    config = load_config("pairs", TINY)
    results = evaluate_pairs(data, splits, config, models=tmp_path, control=True, report_splits=1)
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
    # the made-up drawings are the faces themselves
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


def test_settings_do_not_change_with_the_test_part(tmp_path):
    """What is chosen and fitted depends on train alone: another test part leaves it as it is."""
    data = made_up(60)
    train = np.arange(40)
    config = load_config("pairs", TINY)
    options = {"models": tmp_path, "systems": ["ridge", "ours"]}
    one = evaluate_pairs(data, [PairSplit(train, np.arange(40, 50))], config, **options)
    other = evaluate_pairs(data, [PairSplit(train, np.arange(50, 60))], config, **options)
    assert one["settings"] == other["settings"]
    both = evaluate_pairs(data, [PairSplit(train, np.arange(40, 60))], config, **options)
    assert both["settings"] == one["settings"]


def test_voxceleb_has_a_gallery_of_its_own_and_a_person_may_be_there_twice(tmp_path):
    data = made_up(40, voxceleb=8)
    split = PairSplit(np.arange(30), np.arange(30, 56))
    config = load_config("pairs", TINY)
    results = evaluate_pairs(data, [split], config, models=tmp_path, systems=["speech2face", "ours"])
    assert list(results["sets"]) == ["avspeech", "voxceleb"]
    assert results["set"] == "avspeech"
    vox = results["sets"]["voxceleb"]
    assert (vox["n"], vox["people"], vox["gallery"]) == (16, 8, 16)
    apart = vox["systems"]["ours"]["without_other_faces_of_the_person"]
    assert apart["recall@5"] >= vox["systems"]["ours"]["recall@5"]


def test_a_system_that_lacks_its_network_is_left_out_with_the_reason(tmp_path):
    data = made_up(40)
    voices = {"acoustic": data.voices["speaker"]}
    plain = PairData(data.pairs, data.group_ids, data.audio, voices, data.faces, data.reconstructions)
    config = load_config("pairs", TINY)
    split = draw_splits(plain.pairs)[0]
    results = evaluate_pairs(plain, [split], config, models=tmp_path, systems=["ridge", "ours"])
    assert list(results["systems"]) == ["ours"]
    assert "speaker embedding" in results["left_out_systems"]["ridge"]
    assert results["settings"]["ours"][0]["blocks"] == ["acoustic"]


def test_leaks_and_unknown_systems_are_refused(tmp_path):
    data = made_up(20, voxceleb=2)
    config = load_config("pairs", TINY)
    same_person = PairSplit(np.arange(21), np.array([21, 22]))
    with pytest.raises(InputError, match="1 videos or persons are in train and in test"):
        evaluate_pairs(data, [same_person], config, models=tmp_path)
    with pytest.raises(InputError, match="unknown system 'theirs'"):
        evaluate_pairs(
            data, [PairSplit(np.arange(15), np.arange(15, 20))], config, models=tmp_path, systems=["theirs"]
        )
    with pytest.raises(InputError, match="7 training pairs"):
        evaluate_pairs(
            data, [PairSplit(np.arange(7), np.arange(15, 20))], config, models=tmp_path, systems=["ours"]
        )
