"""Controls and ceilings: runs whose outcome is known beforehand, and what bounds the rest.

All retrieval here is by the cosine similarity after the mean training face was
taken off both sides, normalised against the training people: faces have much in
common, which says nothing of a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV

from s2f_lib.config import EvaluationConfig, StudyConfig
from s2f_lib.evaluation.retrieval import chance_recall, expected_hits, similarity_matrix, unit
from s2f_lib.evaluation.statistics import hit_interval, recall_test
from s2f_lib.evaluation.tables import Predictions
from s2f_lib.pairs.model import normalize_by_cohort
from s2f_lib.preparation.shards import PreparedClips
from s2f_lib.sources.synthetic.people import draw_population, log_likelihood
from s2f_lib.study import Study
from s2f_lib.training.encoder import TrainedEncoder

#: In `rho_sweep`: what was trained or fitted on all clips, beside those of a part of them.
ALL_CLIPS, ALL_LATENTS = "encoder, all clips", "voice latents, all clips"

#: A language that no person of the generated world speaks.
FOREIGN_ACCENT = "fr"


def rho_sweep(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall against how much a voice can tell of a face, with what bounds it.

    Each `rho` is a world of the same faces with other voices, and an encoder trained anew, on
    `controls.rho_share` of the training clips.

    Returns
    -------
    pandas.DataFrame
        Columns rho, name ("encoder", "voice latents", "likelihood", and where `rho_share` is below 1
        `ALL_CLIPS` and `ALL_LATENTS`: those of the world's own `rho` on all), value, low, high,
        chance, n, and p_value (of the encoder, by permutation).  "voice latents" is a
        ridge regression from the voice's true latents to the face features, fitted on the same
        training people: what is left when hearing is perfect.  "likelihood" ranks the faces'
        true latents by the voice's: nobody does better.
    """
    world = study.config.source.synthetic
    every, test = study.split("train"), study.split("test")
    train = _first_of(every, study.config.controls.rho_share)
    rows = []
    for rho in study.config.controls.rhos:
        # the world's own clips are there, and so is their encoder
        own = rho == world.rho
        heard = test if own else study.recorded("test", rho=rho)
        trained_on = train if own else study.recorded("train", first=len(train), rho=rho)
        encoder = (
            _encoder_of_part(study, train) if own else study.control_encoder(trained_on, name=f"rho-{rho:g}")
        )
        table = draw_population(world.model_copy(update={"rho": rho})).table().set_index("clip_id")
        fitted_on, queries = table.loc[train.clip_ids], table.loc[test.clip_ids]
        similarities = {
            "encoder": normalized_similarity(
                study.predicted(encoder, heard), study.predicted(encoder, trained_on)
            ),
            "voice latents": _from_latents(fitted_on, train, queries, test),
            "likelihood": log_likelihood(queries, queries, rho=rho),
        }
        if own and len(train) < len(every):
            encoder = study.control_encoder(None, name="own")
            similarities[ALL_CLIPS] = normalized_similarity(
                study.predicted(encoder, test), study.predicted(encoder, every)
            )
            similarities[ALL_LATENTS] = _from_latents(table.loc[every.clip_ids], every, queries, test)
        for system, similarity in similarities.items():
            row = {"rho": rho, "name": system} | recall_row(similarity, k, study.config.evaluation)
            rows.append(row)
    return pd.DataFrame(rows)


def broken_links(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall where it has to be chance: voices that say nothing of the face they are asked for.

    Returns
    -------
    pandas.DataFrame
        Columns label, value, low, high, chance, n, p_value.
    """
    train, test = study.split("train"), study.split("test")
    encoder = study.control_encoder(None, name="own")
    somebody_else = replace(test, audio=np.roll(test.audio, 1, axis=0))
    noisy = replace(test, audio=noise_like(test.audio))
    cohort = study.predicted(encoder, train)
    cases = {
        "as it is": (study.predicted(encoder, test), cohort),
        "shuffled pairs: another person's voice": (study.predicted(encoder, somebody_else), cohort),
        "noise in place of the voice": (study.predicted(encoder, noisy), cohort),
    }
    if study.config.controls.shuffled_training:
        rng = np.random.default_rng(study.config.evaluation.seed)
        shuffled = replace(train, features=train.features[rng.permutation(len(train))])
        trained_on_wrong = study.control_encoder(shuffled, name="shuffled-pairs")
        cases["trained on shuffled pairs"] = (
            study.predicted(trained_on_wrong, test),
            study.predicted(trained_on_wrong, shuffled),
        )
    return _recall_table(cases, study.config.evaluation, k)


def learning_curve(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall on the test people over the number of training clips, at equal numbers of epochs.

    Returns
    -------
    pandas.DataFrame
        Columns n_clips, value, low, high, chance, n, p_value.
    """
    train, test = study.split("train"), study.split("test")
    rows = []
    for share in sorted(study.config.controls.clip_shares):
        seen = _first_of(train, share)
        encoder = _encoder_of_part(study, seen)
        similarity = normalized_similarity(study.predicted(encoder, test), study.predicted(encoder, seen))
        rows.append({"n_clips": len(seen)} | recall_row(similarity, k, study.config.evaluation))
    return pd.DataFrame(rows)


def _first_of(clips: PreparedClips, share: float) -> PreparedClips:
    # the first of the list: people are drawn one by one, so any part of them is a fair one
    return clips if share == 1 else clips.subset(np.arange(round(share * len(clips))))


def _encoder_of_part(study: Study, part: PreparedClips) -> TrainedEncoder:
    """Return the encoder of some of the training clips; of all, the one that the other controls use."""
    whole = len(part) == len(study.split("train"))
    return study.control_encoder(None if whole else part, name=f"clips-{len(part)}")


def other_speech(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall when the same people say something else, or speak with a foreign accent.

    Returns
    -------
    pandas.DataFrame
        Columns label, value, low, high, chance, n, p_value.
    """
    train = study.split("train")
    encoder = study.control_encoder(None, name="own")
    cases = {
        "the clip": study.split("test"),
        "the clip's sentences, recorded without a film": study.recorded("test"),
        "other sentences": study.recorded("test", take=1),
        "other sentences, foreign accent": study.recorded("test", take=1, accent=FOREIGN_ACCENT),
    }
    cohort = study.predicted(encoder, train)
    predictions = {label: (study.predicted(encoder, clips), cohort) for label, clips in cases.items()}
    return _recall_table(predictions, study.config.evaluation, k)


def count_trained(config: StudyConfig) -> int:
    """Return how many encoders the controls train or load."""
    other_rhos = set(config.controls.rhos) - {config.source.synthetic.rho}
    parts = {*config.controls.clip_shares, config.controls.rho_share, 1.0}
    return len(other_rhos) + len(parts) + config.controls.shuffled_training


def format_significance(p_value: float, *, level: float = 0.05) -> str:
    """Return what a test against chance says, as a phrase."""
    return "above chance" if p_value < level else "not told apart from chance"


def normalized_similarity(queries: Predictions, cohort: Predictions) -> np.ndarray:
    """Return how well each voice and each face fit, normalised against the training people.

    The mean training face is taken off both sides, the cosine similarity computed, and
    expressed in standard deviations above that with the training people (s-norm).

    Parameters
    ----------
    queries, cohort
        True and predicted features of the test and of the training people.

    Returns
    -------
    numpy.ndarray
        `(n, n)` float64, row i's true face in column i.
    """
    mean = unit(cohort.true).mean(axis=0)

    def cosine(voices: Predictions, faces: Predictions) -> np.ndarray:
        return similarity_matrix(unit(voices.predicted) - mean, unit(faces.true) - mean, "cosine")

    return normalize_by_cohort(cosine(queries, queries), cosine(queries, cohort), cosine(cohort, queries))


def recall_row(similarity: np.ndarray, k: int, config: EvaluationConfig) -> dict[str, float]:
    """Return recall at k with interval, chance, n, and the p-value against chance by permutation."""
    interval = hit_interval(
        expected_hits(similarity, k),
        settings=config.interval,
    )
    _, p_value = recall_test(similarity, k, seed=config.seed)
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "chance": chance_recall(k, len(similarity)),
        "n": len(similarity),
        "p_value": p_value,
    }


def noise_like(audio: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return white noise as loud as each clip.

    Parameters
    ----------
    audio
        `(n, samples)` int16.

    Returns
    -------
    numpy.ndarray
        `(n, samples)` int16.
    """
    rng = np.random.default_rng(seed)
    noise = np.empty_like(audio)
    for row, clip in enumerate(audio):  # a clip at a time: float64 is four times the bytes
        level = np.sqrt(np.mean(clip.astype(np.float64) ** 2))
        noise[row] = np.clip(rng.normal(0, level, clip.shape), -32_768, 32_767).astype(np.int16)
    return noise


def _recall_table(
    cases: Mapping[str, tuple[Predictions, Predictions]], config: EvaluationConfig, k: int
) -> pd.DataFrame:
    """Return a row for each label to the people that are asked about and their cohort."""
    rows = [
        {"label": label} | recall_row(normalized_similarity(*predictions), k, config)
        for label, predictions in cases.items()
    ]
    return pd.DataFrame(rows)


def _from_latents(
    fitted_on: pd.DataFrame, train: PreparedClips, queries: pd.DataFrame, test: PreparedClips
) -> np.ndarray:
    model = RidgeCV(np.logspace(-3, 3, 13)).fit(_voice_columns(fitted_on), unit(train.features))
    predicted = [model.predict(_voice_columns(table)) for table in (queries, fitted_on)]
    of_test = Predictions(tuple(test.clip_ids), test.features, predicted[0])
    return normalized_similarity(of_test, Predictions(tuple(train.clip_ids), train.features, predicted[1]))


def _voice_columns(table: pd.DataFrame) -> np.ndarray:
    """Return the voice's shared latents as numbers, with squares and what differs by gender."""
    classes = pd.get_dummies(table[["voice_gender", "voice_group"]].astype(str)).to_numpy(float)
    numbers = table[["voice_age_z", "voice_body"]].to_numpy(float)
    by_gender = classes[:, :1] * numbers
    return np.hstack([classes, numbers, numbers**2, by_gender])
