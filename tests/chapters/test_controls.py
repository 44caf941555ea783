"""Tests of controls and ceilings: values worked out by hand, and the negative control with an encoder."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from s2f_lib.chapters import controls
from s2f_lib.config import EvaluationConfig, SyntheticConfig, load_config
from s2f_lib.errors import ConfigError
from s2f_lib.evaluation.statistics import permutation_test_against_chance
from s2f_lib.evaluation.tables import Predictions
from s2f_lib.models.inference import predict_features
from s2f_lib.paths import RunPaths
from s2f_lib.preparation.shards import PreparedClips
from s2f_lib.sources.synthetic.people import draw_population
from s2f_lib.sources.synthetic.recordings import resynthesize_speech
from s2f_lib.study import Study
from s2f_lib.training.encoder import train_voice_encoder

WORLD = SyntheticConfig(n_train=128, n_test=60, duration_s=3.0, seed=5)
#: the shortest input of the nine layers, up to 2 kHz: pitch and the first formants
TINY = {
    "spectrogram.duration_s": 2.7,
    "spectrogram.max_frequency_hz": 2000,
    "encoder.width": 1 / 16,
    "encoder.hidden": 32,
    "encoder.frequency_bins": 9,
    "encoder.face_axes": True,
    "training.epochs": 12,
    "training.batch_size": 16,
    "training.learning_rate": 0.004,
    "training.validation_share": 0.0,
    "training.device": "cpu",
}


def faces_of(table: pd.DataFrame) -> np.ndarray:
    """Return simple face features: a linear mixture of the faces' shared latents around a common mean."""
    numbers = table[["face_age_z", "face_body"]].to_numpy(float)
    female = (table["face_gender"] == "f").to_numpy(float)[:, None]
    groups = pd.get_dummies(table["face_group"]).to_numpy(float)
    latents = np.hstack([2 * female - 1, groups, 0.5 * numbers])
    mixing = np.random.default_rng(0).normal(size=(latents.shape[1], 16))
    return (8 + latents @ mixing).astype(np.float32)


def test_voice_columns_do_not_depend_on_the_other_people():
    table = draw_population(WORLD).table()
    together = controls._voice_columns(table)
    apart = [controls._voice_columns(table.iloc[[row]]) for row in range(len(table))]
    np.testing.assert_array_equal(np.concatenate(apart), together)
    genders, groups = (pd.get_dummies(table[name].astype(str)) for name in ("voice_gender", "voice_group"))
    np.testing.assert_array_equal(together[:, : genders.shape[1] + groups.shape[1]], genders.join(groups))


def clips_of(split: str, *, rho: float, n: int | None = None) -> PreparedClips:
    """Return the first `n` clips of a split with voices of a given rho. None: all clips."""
    table = draw_population(WORLD).table()
    table = table[table["split"] == split].head(n or len(table))
    ids = table["clip_id"].tolist()
    audio = resynthesize_speech(WORLD, ids, rho=rho, audio_s=2.7, workers=1)
    return PreparedClips(
        clip_ids=ids, video_ids=table["video_id"].tolist(), splits=[split] * len(ids), audio=audio,
        features=faces_of(table), crops_jpeg=[], provenance={}, columns={},
    )  # fmt: skip


@pytest.mark.parametrize(("rho", "above_chance"), [(0.0, False), (1.0, True)])
def test_encoder_finds_a_link_only_if_there_is_one(rho, above_chance, tmp_path):
    train, test = clips_of("train", rho=rho), clips_of("test", rho=rho)
    config = load_config(None, TINY)
    model = train_voice_encoder(
        train,
        spectrogram=config.spectrogram,
        encoder=config.encoder,
        training=config.training,
        loss="info_nce",
        parent=tmp_path,
    ).model
    queries, cohort = (
        Predictions(
            tuple(clips.clip_ids), clips.features, predict_features(model, clips.audio, config.spectrogram)
        )
        for clips in (test, train)
    )
    similarity = controls.normalized_similarity(queries, cohort)
    row = controls.recall_row(similarity, 10, EvaluationConfig())
    assert row["chance"] == pytest.approx(10 / 60)
    # for so few people the mean rank has more power than recall
    mean_rank, p_value = permutation_test_against_chance(similarity, lambda ranks: -float(ranks.mean()))
    if above_chance:
        assert p_value < 0.01, (mean_rank, row)
    else:
        assert p_value > 0.01, (mean_rank, row)
        assert row["low"] <= row["chance"] <= row["high"], row


def test_normalized_similarity_subtracts_the_mean_face():
    mean = np.array([3.0, 0, 0, 4]) / 5
    own = np.array([0, 0.1, 0, 0])
    faces = np.stack([mean + own, mean - own])
    cohort = Predictions(("c", "d"), faces, faces)
    opposite = Predictions(("a", "b"), faces, faces[::-1].copy())
    # without the mean the two are opposite: every voice prefers the other's face
    similarity = controls.normalized_similarity(opposite, cohort)
    assert similarity[0, 0] < -1.9
    assert similarity[0, 1] > 1.9
    np.testing.assert_allclose(controls.normalized_similarity(cohort, cohort), -similarity, atol=1e-9)


def test_noise_like_is_as_loud_and_uncorrelated():
    rng = np.random.default_rng(7)
    audio = (rng.normal(size=(2, 50_000)) * [[300], [4_000]]).astype(np.int16)
    noise = controls.noise_like(audio)
    np.testing.assert_allclose(noise.std(axis=1), audio.std(axis=1), rtol=0.02)
    for voice, other in zip(audio, noise, strict=True):
        assert abs(np.corrcoef(voice, other)[0, 1]) < 0.02


def test_count_trained_counts_each_encoder_once():
    config = load_config(None, {"controls.rhos": [0.0, 0.5, 0.9], "controls.clip_shares": [0.25, 1.0]})
    assert (
        controls.count_trained(config.controls, rho=0.9) == 3 + 1 + 1
    )  # three rhos, a quarter of the clips, shuffled pairs


def study_in(folder, monkeypatch, **settings) -> Study:
    """Return a study of the generated world in a workspace of its own."""
    monkeypatch.setenv("S2F_WORKSPACE", str(folder))
    config = load_config(None, TINY | {"preparation.workers": 1} | settings)
    return Study(config.with_(source__synthetic=WORLD), RunPaths(folder / "run"))


def test_control_encoder_uses_loss_and_epochs_of_controls(tmp_path, monkeypatch):
    study = study_in(tmp_path, monkeypatch, **{"controls.loss": "l1", "controls.epochs": 1})
    clips = clips_of("train", rho=1.0, n=16)
    trained = controls.control_encoder(study, clips, name="control-few")
    assert trained.loss == "l1"
    assert len(trained.metrics) == 1
    assert trained.folder.parent == study.paths.models
    assert trained.folder.name.startswith("control-few-")


def test_resynthesized_clips_are_cached_by_arguments(tmp_path, monkeypatch):
    study = study_in(tmp_path, monkeypatch)
    clips = clips_of("test", rho=0.9, n=2)
    heard = controls.resynthesized_clips(study, clips, take=1)
    assert heard.audio.shape == clips.audio.shape
    assert not np.array_equal(heard.audio, clips.audio)
    assert heard.clip_ids == clips.clip_ids

    def fail(*_, **__):
        raise AssertionError("synthesised again")

    monkeypatch.setattr("s2f_lib.sources.synthetic.recordings.resynthesize_speech", fail)
    np.testing.assert_array_equal(controls.resynthesized_clips(study, clips, take=1).audio, heard.audio)
    with pytest.raises(AssertionError, match="synthesised again"):
        controls.resynthesized_clips(study, clips, take=2)


def test_resynthesized_clips_refuse_real_people(tmp_path, monkeypatch):
    study = study_in(tmp_path, monkeypatch)
    real = Study(study.config.with_(source__kind="avspeech"), study.paths)
    with pytest.raises(ConfigError, match="only generated people"):
        controls.resynthesized_clips(real, clips_of("test", rho=0.9, n=1))
