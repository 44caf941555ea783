"""Chapter 06: reconstructions, effects of a changed voice, average faces and retrieved faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from s2f_lib.chapters.measures import even_steps, mean_image
from s2f_lib.chapters.tables import interval_of
from s2f_lib.config import SAMPLE_RATE_HZ, EvaluationConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.decoders import Triptychs, reconstruction_cosine
from s2f_lib.evaluation.retrieval import nearest, similarity_matrix, unit
from s2f_lib.evaluation.statistics import bootstrap_interval
from s2f_lib.evaluation.voice_changes import ChangedVoices, change_voices
from s2f_lib.reconstruction.kit import Probe, ReconstructionKit
from s2f_lib.study import Study


def make_triptychs(study: Study, split: str = "test") -> Triptychs:
    """Return the original faces, and reconstructions from their true and from their predicted features."""
    from s2f_lib.models.inference import render_faces

    predictions = study.features(split)
    model = study.decoder().model
    from_face = render_faces(model, predictions.true)
    from_voice = render_faces(model, predictions.predicted)
    cosine = reconstruction_cosine(from_face, from_voice, study.extractor)
    return Triptychs(predictions.clip_ids, study.split(split).crops(), from_face, from_voice, cosine)


def best_median_worst(triptychs: Triptychs, *, each: int) -> tuple[np.ndarray, list[str]]:
    """Return the rows of the best, the middle and the worst people by cosine, and one note for each.

    `each` is the number of people of each kind; it is limited to a third of all people.
    """
    order = np.argsort(-triptychs.cosine, kind="stable")
    each = max(1, min(each, len(order) // 3))
    first = (len(order) - each) // 2
    groups = {"best": order[:each], "median": order[first : first + each], "worst": order[-each:]}
    rows = np.concatenate(list(groups.values()))
    names = [name for name, group in groups.items() for _ in group]
    return rows, [
        f"{name},\ncosine {triptychs.cosine[row]:.2f}" for name, row in zip(names, rows, strict=True)
    ]


def changed_voices(study: Study, *, n_voices: int) -> ChangedVoices:
    """Change test voices at even steps of the list, and predict features from them."""
    from s2f_lib.models.inference import predict_features

    test, encoder, config = study.split("test"), study.encoder().model, study.config
    chosen = even_steps(len(test), n_voices)
    changed = change_voices(
        test.audio[chosen],
        lambda audio: predict_features(encoder, audio, config.spectrogram, windows=config.evaluation.windows),
        sample_rate_hz=SAMPLE_RATE_HZ,
    )
    return replace(changed, group_ids=[test.video_ids[row] for row in chosen])


def median_voice(study: Study, triptychs: Triptychs, *, n_voices: int) -> int:
    """Return the index in `changed_voices` of the voice whose reconstructions have the median cosine."""
    cosines = triptychs.cosine[even_steps(len(study.split("test")), n_voices)]
    return int(np.argsort(cosines, kind="stable")[len(cosines) // 2])


def change_tables(changed: ChangedVoices, kit: ReconstructionKit) -> dict[str, pd.DataFrame]:
    """Return the effects of the changes: one table per measure, by the measure's name.

    The measures are the cosine to the unchanged voice's features and, if the attributes of the run's people
    are known, the probability of "male" and the guessed age.
    """
    tables = {"cosine to the unchanged voice": changed.table()}
    probes = {probe.name: probe for probe in kit.probes}
    if "gender" in probes:
        index = probes["gender"].classes.index("male")
        tables["probability of male"] = changed.table(lambda f: probes["gender"].scores(f)[:, index])
    if "age_years" in probes:
        tables["guessed age, years"] = changed.table(lambda f: probes["age_years"].scores(f)[:, 0])
    return tables


def change_table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one table for readers: one row per change, one column per measure."""
    first = next(iter(tables.values()))
    rows = pd.DataFrame({"changed": first["changed"], "semitones": [f"{s:+.0f}" for s in first["semitones"]]})
    for name, table in tables.items():
        digits = 0 if "age" in name else 3 if "cosine" in name else 2
        rows[name] = [format(interval_of(row), f".{digits}f") for row in table.itertuples()]
    return rows


def changed_faces(study: Study, changed: ChangedVoices, *, voice: int) -> np.ndarray:
    """Return reconstructions from one changed voice, `(2, changes, height, width, 3)`: pitch, then tract."""
    from s2f_lib.models.inference import render_faces

    decoder = study.decoder().model
    return np.stack([render_faces(decoder, features[:, voice]) for features in changed.features.values()])


def attribute_groups(predicted: np.ndarray, kit: ReconstructionKit) -> dict[str, np.ndarray]:
    """Return groups of people by the attributes that probes read from their voices: {name: `(n,)` bool}.

    If the attributes of the run's people are unknown, the groups are the two ends of the first principal
    direction of the predicted features.
    """
    probes = {probe.name: probe for probe in kit.probes}
    if not probes:
        centred = unit(predicted) - unit(predicted).mean(axis=0)
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        return {
            "one end": along <= np.quantile(along, 1 / 3),
            "other end": along >= np.quantile(along, 2 / 3),
        }
    groups = _classes(probes["gender"], predicted)
    age = probes["age_years"].scores(predicted)[:, 0]
    groups |= {
        "youngest third": age <= np.quantile(age, 1 / 3),
        "oldest third": age >= np.quantile(age, 2 / 3),
    }
    return {name: members for name, members in groups.items() if members.any()}


def average_faces(groups: dict[str, np.ndarray], images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean image of each group and set, `(sets, groups, height, width, 3)` uint8."""
    if not groups:
        raise InputError("there is no group of people: expected at least one")
    return np.stack([np.stack([mean_image(some[members]) for members in groups.values()]) for some in images])


def retrieved_faces(
    study: Study, triptychs: Triptychs, predicted: np.ndarray, rows: np.ndarray, *, top_k: int
) -> tuple[np.ndarray, list[str]]:
    """Return rows of images with headings: true face, reconstruction, nearest training faces."""
    train = study.split("train")
    found = nearest(similarity_matrix(predicted[rows], train.features, "cosine"), top_k)
    images = [
        np.concatenate([triptychs.original[[row]], triptychs.from_voice[[row]], train.crops(indices)])
        for row, indices in zip(rows, found, strict=True)
    ]
    return np.stack(images), ["true face", "drawn", *(f"found {index}" for index in range(1, top_k + 1))]


def agreement(study: Study, predicted: np.ndarray, kit: ReconstructionKit, *, top_k: int) -> pd.DataFrame:
    """Return how often retrieved faces and probes agree with the test people's true attributes.

    The columns are attribute, told_by ("nearest face", "majority of K", "probe"), n, value, low, high and
    chance; values are shares of test people. There are no rows if the attributes are unknown.
    """
    columns = ["attribute", "told_by", "n", "value", "low", "high", "chance"]
    if study.config.source.kind != "synthetic":
        return pd.DataFrame(columns=columns)
    from s2f_lib.sources.synthetic.people import draw_population

    known = draw_population(study.config.source.synthetic).table().set_index("clip_id")
    train, test = study.split("train"), study.split("test")
    found = nearest(similarity_matrix(predicted, train.features, "cosine"), top_k)
    rows = []
    for column, words in {"gender": {"f": "female", "m": "male"}, "group": None}.items():
        names = known[column].map(words) if words else known[column]
        of_train, truth = names.loc[train.clip_ids].to_numpy(), names.loc[test.clip_ids].to_numpy()
        probe = next(probe for probe in kit.probes if probe.name == column)
        told = {
            "nearest face": of_train[found[:, 0]],
            f"majority of {top_k}": np.array([pd.Series(of_train[indices]).mode()[0] for indices in found]),
            "probe": np.array(probe.classes)[probe.scores(predicted).argmax(axis=1)],
        }
        most_frequent = pd.Series(of_train).value_counts().index[0]
        rows += _agreement_rows(column, told, truth, most_frequent, study.config.evaluation, test.video_ids)
    return pd.DataFrame(rows, columns=columns)


def agreement_table(found: pd.DataFrame) -> pd.DataFrame:
    """Return `agreement` for readers: one row per attribute, percent with intervals, and chance."""
    if found.empty:
        return pd.DataFrame([{"attribute": "unknown of real people"}])
    rows = []
    for attribute, group in found.groupby("attribute", sort=False):
        row = {"attribute": attribute}
        for told in group.itertuples():
            row[f"{told.told_by}, %"] = f"{interval_of(told).times(100):.1f}"
        rows.append(row | {"chance, %": 100 * group["chance"].iloc[0]})
    return pd.DataFrame(rows)


def nearest_agreement(found: pd.DataFrame, attribute: str) -> tuple[float, int]:
    """Return the share of people whose nearest face has their attribute, and the number of these people.

    Both are 0 if the attribute is unknown.
    """
    rows = found[(found["attribute"] == attribute) & (found["told_by"] == "nearest face")]
    return (float(rows["value"].item()), int(rows["n"].item())) if len(rows) else (0.0, 0)


def _agreement_rows(
    attribute: str,
    told: dict[str, np.ndarray],
    truth: np.ndarray,
    most_frequent: object,
    config: EvaluationConfig,
    group_ids: Sequence[str],
) -> list[dict[str, object]]:
    rows = []
    for name, guess in told.items():
        agrees = (guess == truth).astype(float)
        interval = bootstrap_interval(agrees, group_ids=group_ids, settings=config.interval)
        row = {"attribute": attribute, "told_by": name, "n": len(truth)}
        row |= {"value": interval.value, "low": interval.low, "high": interval.high}
        rows.append(row | {"chance": float((truth == most_frequent).mean())})
    return rows


def _classes(probe: Probe, predicted: np.ndarray) -> dict[str, np.ndarray]:
    best = probe.scores(predicted).argmax(axis=1)
    return {f"taken for {name}": best == index for index, name in enumerate(probe.classes)}
