"""Tables and pictures of chapter 06: what a change of the voice does, average faces, faces retrieved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import unit
from s2f_lib.evaluation.reconstruction import Triptychs
from s2f_lib.evaluation.retrieval import nearest, similarity_matrix
from s2f_lib.evaluation.voice_changes import ChangedVoices, change_voices
from s2f_lib.reconstruction_kit import Probe, ReconstructionKit
from s2f_lib.report.measures import mean_picture
from s2f_lib.study import Study


def best_median_worst(triptychs: Triptychs, *, each: int) -> tuple[np.ndarray, list[str]]:
    """Return the places of the best, the middle and the worst people by cosine, and a note for each.

    Parameters
    ----------
    each
        People of each kind; fewer where there are not three times as many.
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
    """Change test voices, taken at even steps of the list, and predict features from them."""
    from s2f_lib.training.encoder import predict_features

    test, encoder, config = study.split("test"), study.encoder().model, study.config
    return change_voices(
        test.audio[_even_steps(len(test), n_voices)],
        lambda audio: predict_features(encoder, audio, config.spectrogram, windows=config.evaluation.windows),
        sample_rate_hz=config.preparation.sample_rate_hz,
    )


def median_voice(study: Study, triptychs: Triptychs, *, n_voices: int) -> int:
    """Return which of the voices of `changed_voices` has the median cosine of its two drawings."""
    cosines = triptychs.cosine[_even_steps(len(study.split("test")), n_voices)]
    return int(np.argsort(cosines, kind="stable")[len(cosines) // 2])


def change_tables(changed: ChangedVoices, kit: ReconstructionKit) -> dict[str, pd.DataFrame]:
    """Return tables of what changes do, by the name of what is measured.

    The cosine to the unchanged voice's features is always there; where attributes of the run's
    people are known, so are the probability of "male" and the guessed age.
    """
    tables = {"cosine to the unchanged voice": changed.table()}
    probes = {probe.name: probe for probe in kit.probes}
    if "gender" in probes:
        place = probes["gender"].classes.index("male")
        tables["probability of male"] = changed.table(lambda f: probes["gender"].scores(f)[:, place])
    if "age_years" in probes:
        tables["guessed age, years"] = changed.table(lambda f: probes["age_years"].scores(f)[:, 0])
    return tables


def change_table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one table for readers: a row a change, a column a measure."""
    first = next(iter(tables.values()))
    rows = pd.DataFrame({"changed": first["changed"], "semitones": [f"{s:+.0f}" for s in first["semitones"]]})
    for name, table in tables.items():
        digits = 0 if "age" in name else 3 if "cosine" in name else 2
        rows[name] = [
            f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]"
            for row in table.itertuples()
        ]
    return rows


def changed_faces(study: Study, changed: ChangedVoices, *, voice: int) -> np.ndarray:
    """Draw one of the changed voices, `(2, changes, height, width, 3)`: pitch above, tract below."""
    from s2f_lib.training.decoder import render_faces

    decoder = study.decoder().model
    return np.stack([render_faces(decoder, features[:, voice]) for features in changed.features.values()])


def attribute_groups(predicted: np.ndarray, kit: ReconstructionKit) -> dict[str, np.ndarray]:
    """Return groups of people by what their voices' features are taken for: name to `(n,)` bool.

    Where nothing is known of the run's people, the groups are the two ends of the
    direction in which predicted features differ most.
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


def average_faces(groups: dict[str, np.ndarray], pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean picture of each group and set, `(sets, groups, height, width, 3)` uint8."""
    if not groups:
        raise InputError("no group has anybody in it")
    return np.stack(
        [np.stack([mean_picture(some[members]) for members in groups.values()]) for some in pictures]
    )


def retrieved_faces(
    study: Study, triptychs: Triptychs, predicted: np.ndarray, rows: np.ndarray, *, top_k: int
) -> tuple[np.ndarray, list[str]]:
    """Return rows of pictures: the true face, the drawing from the voice, and the nearest training faces."""
    train = study.split("train")
    found = nearest(similarity_matrix(predicted[rows], train.features, "cosine"), top_k)
    pictures = [
        np.concatenate([triptychs.original[[row]], triptychs.from_voice[[row]], train.crops(places)])
        for row, places in zip(rows, found, strict=True)
    ]
    return np.stack(pictures), ["true face", "drawn", *(f"found {place}" for place in range(1, top_k + 1))]


def agreement(study: Study, predicted: np.ndarray, kit: ReconstructionKit, *, top_k: int) -> pd.DataFrame:
    """Return how far retrieved faces and guesses agree with the test people's true attributes.

    Returns
    -------
    pandas.DataFrame
        Columns attribute, nearest face, majority of the nearest, probe, chance: percent of test
        people; one row that says so where no attribute is known.
    """
    if study.config.source.kind != "synthetic":
        return pd.DataFrame([{"attribute": "unknown of real people"}])
    from s2f_lib.sources.synthetic.people import draw_population

    known = draw_population(study.config.source.synthetic).table().set_index("clip_id")
    train, test = study.split("train"), study.split("test")
    found = nearest(similarity_matrix(predicted, train.features, "cosine"), top_k)
    rows = []
    for column, words in {"gender": {"f": "female", "m": "male"}, "group": None}.items():
        names = known[column].map(words) if words else known[column]
        of_train, truth = names.loc[train.clip_ids].to_numpy(), names.loc[test.clip_ids].to_numpy()
        first = of_train[found[:, 0]]
        most = np.array([pd.Series(of_train[places]).mode()[0] for places in found])
        probe = next(probe for probe in kit.probes if probe.name == column)
        guess = np.array(probe.classes)[probe.scores(predicted).argmax(axis=1)]
        chance = pd.Series(of_train).value_counts(normalize=True)
        rows.append(
            {
                "attribute": column,
                "nearest face, %": 100 * float((first == truth).mean()),
                f"majority of {top_k}, %": 100 * float((most == truth).mean()),
                "probe, %": 100 * float((guess == truth).mean()),
                "chance, %": 100 * float((truth == chance.index[0]).mean()),
            }
        )
    return pd.DataFrame(rows)


def nearest_agreement(table: pd.DataFrame, attribute: str) -> str:
    """Return how often the nearest face agrees with the speaker, in percent, for the prose."""
    if "nearest face, %" not in table:
        return "an unknown share"
    return f"{table.set_index('attribute').loc[attribute, 'nearest face, %']:.0f}%"


def _even_steps(n: int, wanted: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(n, wanted)).round().astype(int)


def _classes(probe: Probe, predicted: np.ndarray) -> dict[str, np.ndarray]:
    best = probe.scores(predicted).argmax(axis=1)
    return {f"taken for {name}": best == place for place, name in enumerate(probe.classes)}


def _ends(values: np.ndarray, names: tuple[str, str]) -> dict[str, np.ndarray]:
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    return {names[0]: values <= low, names[1]: values >= high}
