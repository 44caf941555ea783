"""Chapter 07: controls, whose outcome is known beforehand, and ceilings, which bound the other results.

Retrieval uses the cosine similarity of features minus the mean training face, normalised against the training
people: the large part that faces have in common does not distinguish people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV

from s2f_lib import paths
from s2f_lib.config import SAMPLE_RATE_HZ, ControlsConfig, EvaluationConfig
from s2f_lib.errors import ConfigError
from s2f_lib.evaluation.retrieval import chance_recall, expected_hits, similarity_matrix, unit
from s2f_lib.evaluation.statistics import hit_interval, recall_test
from s2f_lib.evaluation.tables import Predictions
from s2f_lib.pairs.model import normalize_by_cohort
from s2f_lib.preparation.shards import PreparedClips
from s2f_lib.sources.synthetic.people import GENDERS, GROUPS, draw_population, log_likelihood
from s2f_lib.storage import cached_array, digest
from s2f_lib.study import Study
from s2f_lib.training.encoder import TrainedEncoder

#: Names in `rho_sweep` for what was trained or fitted on all clips instead of `controls.rho_share` of them.
ALL_CLIPS, ALL_LATENTS = "encoder, all clips", "voice latents, all clips"

#: Language that no person of the generated world speaks.
FOREIGN_ACCENT = "fr"


def rho_sweep(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall over rho, the strength of the link between voice and face, with its upper bounds.

    Each rho is a world of the same faces with other voices, and has its own encoder, trained on
    `controls.rho_share` of the training clips. The columns are rho, name and those of `recall_row`. Names are
    "encoder"; "voice latents", a ridge regression from the voice's true latents to the face features;
    "likelihood", the best possible ranking; and, if `rho_share` is below 1, `ALL_CLIPS` and `ALL_LATENTS`.
    """
    world = study.config.source.synthetic
    every, test = study.split("train"), study.split("test")
    train = _first_of(every, study.config.controls.rho_share)
    rows = []
    for rho in study.config.controls.rhos:
        own = rho == world.rho  # clips and encoder of the world's own rho exist
        if own:
            heard, trained_on, encoder = test, train, _encoder_of_part(study, train)
        else:
            heard = resynthesized_clips(study, test, rho=rho)
            trained_on = resynthesized_clips(study, train, rho=rho)
            encoder = control_encoder(study, trained_on, name=f"control-rho-{rho:g}")
        table = draw_population(world.with_(rho=rho)).table().set_index("clip_id")
        fitted_on, queries = table.loc[train.clip_ids], table.loc[test.clip_ids]
        similarities = {
            "encoder": normalized_similarity(
                study.predicted(encoder, heard), study.predicted(encoder, trained_on)
            ),
            "voice latents": _from_latents(fitted_on, train, queries, test),
            "likelihood": log_likelihood(queries, queries, rho=rho),
        }
        if own and len(train) < len(every):
            encoder = _encoder_of_part(study, every)
            similarities[ALL_CLIPS] = normalized_similarity(
                study.predicted(encoder, test), study.predicted(encoder, every)
            )
            similarities[ALL_LATENTS] = _from_latents(table.loc[every.clip_ids], every, queries, test)
        for system, similarity in similarities.items():
            rows.append({"rho": rho, "name": system} | recall_row(similarity, k, study.config.evaluation))
    return pd.DataFrame(rows)


def broken_links(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall for voices that hold no information about the true face, where it must be chance.

    The columns are label and those of `recall_row`.
    """
    train, test = study.split("train"), study.split("test")
    encoder = _encoder_of_part(study, train)
    somebody_else = replace(test, audio=np.roll(test.audio, 1, axis=0))
    noisy = replace(test, audio=noise_like(np.asarray(test.audio)))
    cohort = study.predicted(encoder, train)
    cases = {
        "as it is": (study.predicted(encoder, test), cohort),
        "shuffled pairs: another person's voice": (study.predicted(encoder, somebody_else), cohort),
        "noise in place of the voice": (study.predicted(encoder, noisy), cohort),
    }
    if study.config.controls.shuffled_training:
        rng = np.random.default_rng(study.config.evaluation.seed)
        shuffled = replace(train, features=train.features[rng.permutation(len(train))])
        trained_on_wrong = control_encoder(study, shuffled, name="control-shuffled-pairs")
        cases["trained on shuffled pairs"] = (
            study.predicted(trained_on_wrong, test),
            study.predicted(trained_on_wrong, shuffled),
        )
    return _recall_table(cases, study.config.evaluation, k)


def learning_curve(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall on the test people over the number of training clips, at equal numbers of epochs.

    The columns are n_clips and those of `recall_row`.
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
    # people are sampled independently, so the first clips are a random sample
    return clips if share == 1 else clips[: round(share * len(clips))]


def _encoder_of_part(study: Study, part: PreparedClips) -> TrainedEncoder:
    """Return the control encoder of some training clips. The encoder of all clips is trained only once."""
    is_part = len(part) < len(study.split("train"))
    return control_encoder(study, part, name=f"control-clips-{len(part)}" if is_part else None)


def control_encoder(study: Study, clips: PreparedClips, *, name: str | None) -> TrainedEncoder:
    """Return an encoder that is trained on `clips` with the loss and epochs of `controls`.

    The model folder's name starts with `name`, by default as that of the study's own encoder.
    """
    from s2f_lib.training.encoder import train_voice_encoder

    config = study.config
    return train_voice_encoder(
        clips,
        spectrogram=config.spectrogram,
        encoder=config.encoder,
        training=config.training.with_(epochs=config.controls.epochs or config.training.epochs),
        loss=config.controls.loss or config.training.main_loss,
        parent=study.paths.models,
        name=name,
        vgg_face_weights=config.features.weights,
    )


def resynthesized_clips(
    study: Study, clips: PreparedClips, *, rho: float | None = None, take: int = 0, accent: str | None = None
) -> PreparedClips:
    """Return clips of generated people with re-synthesised voices, which are cached on disk.

    `rho`, `take` and `accent` are arguments of `sources.synthetic.recordings.resynthesize_speech`.
    """
    from s2f_lib.sources.synthetic.recordings import resynthesize_speech

    source, preparation = study.config.source, study.config.preparation
    if source.kind != "synthetic":
        raise ConfigError(f"source.kind is {source.kind!r}: only generated people can be re-synthesised")

    def resynthesize() -> np.ndarray:
        return resynthesize_speech(
            source.synthetic,
            clips.clip_ids,
            rho=rho,
            take=take,
            accent=accent,
            audio_s=clips.audio.shape[1] / SAMPLE_RATE_HZ,
            workers=preparation.workers,
        )

    key = digest([source.synthetic.digest(), clips.clip_ids, clips.audio.shape, rho, take, accent])
    return replace(clips, audio=cached_array(paths.data_dir() / f"recordings-{key}.npz", resynthesize))


def other_speech(study: Study, *, k: int) -> pd.DataFrame:
    """Return recall when the same people say other sentences, or speak with a foreign accent.

    The columns are label and those of `recall_row`.
    """
    train, test = study.split("train"), study.split("test")
    encoder = _encoder_of_part(study, train)
    cases = {
        "the clip": test,
        "the clip's sentences, recorded without a film": resynthesized_clips(study, test),
        "other sentences": resynthesized_clips(study, test, take=1),
        "other sentences, foreign accent": resynthesized_clips(study, test, take=1, accent=FOREIGN_ACCENT),
    }
    cohort = study.predicted(encoder, train)
    predictions = {label: (study.predicted(encoder, clips), cohort) for label, clips in cases.items()}
    return _recall_table(predictions, study.config.evaluation, k)


def count_trained(controls: ControlsConfig, *, rho: float) -> int:
    """Return how many encoders the controls of a world with this rho train or load."""
    parts = {*controls.clip_shares, controls.rho_share, 1.0}
    return len({*controls.rhos} - {rho}) + len(parts) + controls.shuffled_training


def format_significance(p_value: float, *, level: float = 0.05) -> str:
    """Return the outcome of a test against chance, as a phrase."""
    return "above chance" if p_value < level else "not told apart from chance"


def normalized_similarity(queries: Predictions, cohort: Predictions) -> np.ndarray:
    """Return the `(n, n)` similarity of voices to faces, normalised against the training people (s-norm).

    The mean training face is subtracted on both sides. The cosine similarity is then expressed in standard
    deviations above the mean similarity to the training people, `cohort`. Row i's true face is in column i.
    """
    mean = unit(cohort.true).mean(axis=0)

    def cosine(voices: Predictions, faces: Predictions) -> np.ndarray:
        return similarity_matrix(unit(voices.predicted) - mean, unit(faces.true) - mean, "cosine")

    return normalize_by_cohort(cosine(queries, queries), cosine(queries, cohort), cosine(cohort, queries))


def recall_row(similarity: np.ndarray, k: int, config: EvaluationConfig) -> dict[str, float]:
    """Return value, low and high of recall at k, chance, n, and p_value against chance by permutation."""
    interval = hit_interval(expected_hits(similarity, k), settings=config.interval)
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
    """Return white noise as loud as each clip, `(n, samples)` int16 like the clips."""
    rng = np.random.default_rng(seed)
    noise = np.empty_like(audio)
    for row, clip in enumerate(audio):  # one clip at a time, because float64 needs four times the memory
        level = np.sqrt(np.mean(clip.astype(np.float64) ** 2))
        noise[row] = np.clip(rng.normal(0, level, clip.shape), -32_768, 32_767).astype(np.int16)
    return noise


def _recall_table(
    cases: Mapping[str, tuple[Predictions, Predictions]], config: EvaluationConfig, k: int
) -> pd.DataFrame:
    """Return recall for each case: its label, and the predictions for queries and cohort."""
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
    """Return the voice's shared latents as numbers, with squares and interactions with gender."""
    named = {"voice_gender": GENDERS, "voice_group": GROUPS}  # a small table may lack one of the classes
    columns = {name: pd.Categorical(table[name], sorted(classes)) for name, classes in named.items()}
    classes = pd.get_dummies(pd.DataFrame(columns)).to_numpy(float)
    numbers = table[["voice_age_z", "voice_body"]].to_numpy(float)
    by_gender = classes[:, :1] * numbers
    return np.hstack([classes, numbers, numbers**2, by_gender])
