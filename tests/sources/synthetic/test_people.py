"""The generative model: correlations, independence of the settings, and the likelihood."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.clip import VIDEO_ID
from s2f_lib.sources.synthetic.people import GROUPS, age_of, draw_population, log_likelihood


def _table(**settings: object) -> pd.DataFrame:
    return draw_population(SyntheticConfig(n_test=1, **settings)).table()


def _correlations(table: pd.DataFrame) -> dict[str, float]:
    found = {
        name: np.corrcoef(table[f"face_{name}"], table[f"voice_{name}"])[0, 1] for name in ("age_z", "body")
    }
    male = [(table[f"{side}_gender"] == "m").astype(float) for side in ("face", "voice")]
    found["gender"] = np.corrcoef(*male)[0, 1]
    for group in GROUPS:
        member = [(table[f"{side}_group"] == group).astype(float) for side in ("face", "voice")]
        found[group] = np.corrcoef(*member)[0, 1]
    return found


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_draw_population_shared_latents_correlate_by_rho(rho: float) -> None:
    for name, found in _correlations(_table(n_train=3000, rho=rho)).items():
        # standard error of a correlation: (1 - rho^2) / sqrt(n); of indicators a little more
        assert found == pytest.approx(rho, abs=5 / math.sqrt(3000)), name


def test_draw_population_rho_one_copies_the_face() -> None:
    table = _table(n_train=200, rho=1.0)
    for name in ("gender", "group", "age_z", "body", "age_years"):
        assert (table[f"face_{name}"] == table[f"voice_{name}"]).all()


def test_draw_population_rho_keeps_faces_and_noise() -> None:
    low, high = _table(n_train=50, rho=0.0), _table(n_train=50, rho=0.9)
    faces = [name for name in low.columns if name.startswith("face_")]
    pd.testing.assert_frame_equal(low[faces], high[faces])
    # the noise is shared: at rho = 0 the voice is the noise itself
    rebuilt = 0.9 * low["face_body"] + math.sqrt(1 - 0.81) * low["voice_body"]
    np.testing.assert_allclose(high["voice_body"], rebuilt)


def test_draw_population_depends_on_the_seed() -> None:
    first, again, other = _table(n_train=20, seed=3), _table(n_train=20, seed=3), _table(n_train=20, seed=4)
    pd.testing.assert_frame_equal(first, again)
    assert not np.isclose(first["face_body"], other["face_body"]).any()
    assert set(first["video_id"]).isdisjoint(other["video_id"])


def test_draw_population_more_people_keep_the_others() -> None:
    few = draw_population(SyntheticConfig(n_train=5, n_test=3))
    many = draw_population(SyntheticConfig(n_train=9, n_test=4))
    assert few[:5] == many[:5]
    assert few[5:] == many[9:12]


def test_draw_population_ids_are_unique_video_ids() -> None:
    table = _table(n_train=2000)
    assert table["video_id"].is_unique
    assert table["person_id"].is_unique
    assert all(re.fullmatch(VIDEO_ID, video_id) for video_id in table["video_id"])
    assert table["duration_s"].between(3.0, 6.0).all()


def test_age_of_standard_normal_is_uniform() -> None:
    assert age_of(0.0) == pytest.approx(49.0)  # halfway from 18 to 80
    assert age_of(-8.0) == pytest.approx(18.0)
    shares, _ = np.histogram(_table(n_train=4000)["age_years"], bins=np.linspace(18, 80, 5))
    np.testing.assert_allclose(shares / 4001, 0.25, atol=0.04)


def test_log_likelihood_by_hand() -> None:
    voice = pd.DataFrame(
        [{"voice_gender": "f", "voice_group": "alder", "voice_age_z": 1.0, "voice_body": 0.0}]
    )
    face = pd.DataFrame(
        [
            {"face_gender": "f", "face_group": "alder", "face_age_z": 1.0, "face_body": 0.0},
            {"face_gender": "m", "face_group": "birch", "face_age_z": 0.0, "face_body": 0.0},
        ]
    )
    found = log_likelihood(voice, face, rho=0.6)
    # variance 0.64; same gender: 0.6 + 0.4/2, other: 0.4/2; same group: 0.6 + 0.4/4, other: 0.4/4
    normal = -0.5 * math.log(2 * math.pi * 0.64)
    same = math.log(0.8) + math.log(0.7) + 2 * normal - 0.5 * 0.4**2 / 0.64
    other = math.log(0.2) + math.log(0.1) + 2 * normal - 0.5 * 1.0 / 0.64
    np.testing.assert_allclose(found, [[same, other]])


def test_log_likelihood_rho_zero_is_constant() -> None:
    table = _table(n_train=30, rho=0.0)
    found = log_likelihood(table, table, rho=0.0)
    np.testing.assert_allclose(found, np.broadcast_to(found[:, :1], found.shape))


def test_log_likelihood_high_rho_finds_the_own_face() -> None:
    table = _table(n_train=99, rho=0.99)
    found = log_likelihood(table, table, rho=0.99)
    ranks = (found > np.diag(found)[:, None]).sum(axis=1)
    assert (ranks == 0).mean() > 0.5
    assert (ranks < 10).mean() > 0.9
    certain = _table(n_train=99, rho=1.0)
    assert (log_likelihood(certain, certain, rho=1.0).argmax(axis=1) == np.arange(100)).all()


def test_log_likelihood_is_highest_at_the_true_rho() -> None:
    table = _table(n_train=1500, rho=0.7)
    totals = {
        rho: np.diag(log_likelihood(table, table, rho=rho)).sum() for rho in (0.4, 0.55, 0.7, 0.85, 0.95)
    }
    assert max(totals, key=totals.get) == 0.7


def test_log_likelihood_bad_input_raises() -> None:
    table = _table(n_train=3)
    with pytest.raises(InputError, match="no column voice_body"):
        log_likelihood(table.drop(columns="voice_body"), table, rho=0.5)
    with pytest.raises(InputError, match="expected a correlation"):
        log_likelihood(table, table, rho=1.5)
