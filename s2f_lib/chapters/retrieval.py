"""What of retrieval is gender, age and group alone, and for whom it fails: tables of chapter 05.

Attributes are known of generated people; of others the tables say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from s2f_lib.config import EvaluationConfig, SimilarityName, StudyConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.matching import matching_accuracy, ranks_within, verification_interval
from s2f_lib.evaluation.probes import ProbeData, probe_table
from s2f_lib.evaluation.retrieval import chance_recall, expected_hits, similarity_matrix
from s2f_lib.evaluation.statistics import Interval, hit_interval
from s2f_lib.evaluation.tables import Predictions

CANDIDATES = (2, 5, 10)  # of 1:N matching, as in SVHF and DIMNet
_AGE_BANDS = (18, 40, 60, 81)  # years; each band holds about a third of the generated people
_UNKNOWN = "unknown of these people"
_TOO_FEW = "too few"
_ANYONE = "anyone"
#: Whom the others are drawn from, those who share most last: name to what they share.
_KINDS = {
    "same gender": ["gender"],
    "same age": ["age"],
    "same gender and age": ["gender", "age"],
    "same gender and group": ["gender", "group"],
    "same gender, group and age": ["gender", "group", "age"],
}


def known_attributes(config: StudyConfig, clip_ids: Sequence[str]) -> pd.DataFrame | None:
    """Return gender, group, age in years and age band of each clip's person; None where they are unknown."""
    if config.source.kind != "synthetic":
        return None
    from s2f_lib.sources.synthetic.people import draw_population

    people = draw_population(config.source.synthetic).table().set_index("clip_id").loc[list(clip_ids)]
    bands = pd.cut(people["age_years"], _AGE_BANDS, right=False)
    names = [f"{band.left:.0f} to {band.right - 1:.0f}" for band in bands]
    return people[["gender", "group", "age_years"]].assign(age=names)


def verification_areas(
    predictions: Predictions,
    attributes: pd.DataFrame | None,
    config: EvaluationConfig,
    *,
    measure: SimilarityName,
) -> dict[str, Interval]:
    """Return the area under the ROC curve against others of each kind; where these are too few, none.

    Returns
    -------
    dict of Interval
        "anyone" and, where attributes are known, "same gender" and so on, those who share most last.
    """
    similarity = similarity_matrix(predictions.predicted, predictions.true, measure)
    areas = {}
    for name, labels in _strata(attributes).items():
        with contextlib.suppress(InputError):  # not two people in any stratum
            areas[name] = verification_interval(
                similarity,
                strata=labels,
                group_ids=predictions.group_ids,
                settings=config.interval,
            )
    return areas


def most_alike(areas: Mapping[str, Interval]) -> tuple[Interval, str]:
    """Return the area against those who share most with the true face, and who these are, for the prose."""
    name = next(name for name in [*reversed(_KINDS), _ANYONE] if name in areas)
    if name == _ANYONE:
        return areas[
            name
        ], "against anyone once more, for too little is known of these people's gender, group and age"
    return areas[name], f"against others of the {name}"


def matching_table(
    predictions: Predictions,
    attributes: pd.DataFrame | None,
    config: EvaluationConfig,
    *,
    measure: SimilarityName,
    areas: Mapping[str, Interval],
) -> pd.DataFrame:
    """Return 1:N matching, verification and mean rank against others who share more and more.

    Parameters
    ----------
    areas
        As `verification_areas` gives them.

    Returns
    -------
    pandas.DataFrame
        A row for whom the others are drawn from: `others`, `people` (with enough others), a column
        a number of candidates, `area under ROC`, and `rank share`: how far down among
        the others of that kind the true face stands on average, 0 first, 0.5 by guessing, 1 last.
    """
    similarity = similarity_matrix(predictions.predicted, predictions.true, measure)
    person_ids = np.asarray(predictions.person_ids)
    rows = []
    for name, labels in _strata(attributes).items():
        wins = {n: matching_accuracy(similarity, n, strata=labels) for n in CANDIDATES}
        ranks, sizes = ranks_within(similarity, labels or [_ANYONE] * len(predictions))
        with_others = sizes > 1
        share = (ranks[with_others] - 1) / (sizes[with_others] - 1)
        row = {"others": name, "people": int(np.isfinite(wins[CANDIDATES[0]]).sum())}
        for n, values in wins.items():
            counted = np.isfinite(values)
            row[f"1 of {n}"] = _in_interval(values[counted], person_ids[counted], config)
        row["area under ROC"] = f"{areas[name]:.3f}" if name in areas else _TOO_FEW
        rows.append(row | {"rank share": _in_interval(share, person_ids[with_others], config)})
    chance = {"others": "by guessing", "people": None} | {f"1 of {n}": f"{1 / n:.3f}" for n in CANDIDATES}
    rows.append(chance | {"area under ROC": "0.500", "rank share": "0.500"})
    if attributes is None:
        rows.append({"others": f"same gender, group or age: {_UNKNOWN}"})
    return pd.DataFrame(rows, dtype=object)  # counts stay whole beside what is missing


def probes_table(
    predictions: Mapping[str, Predictions],
    attributes: Mapping[str, pd.DataFrame | None],
    config: EvaluationConfig,
) -> pd.DataFrame:
    """Return how well gender, group and age are read from the test people's true and predicted features.

    Parameters
    ----------
    predictions, attributes
        Of "train", whose true features the probes are fitted on, and of "test".
    """
    if attributes["train"] is None or attributes["test"] is None:
        return pd.DataFrame([{"attribute": "any", "read from": _UNKNOWN}])
    known = {
        split: {"gender": table["gender"], "group": table["group"], "age, years": table["age_years"]}
        for split, table in attributes.items()
    }
    values = {split: {name: v.to_numpy() for name, v in columns.items()} for split, columns in known.items()}
    test = predictions["test"]
    found = probe_table(
        ProbeData(predictions["train"].true, values["train"]),
        {
            "the face's features": ProbeData(test.true, values["test"], test.group_ids),
            "the voice's prediction": ProbeData(test.predicted, values["test"], test.group_ids),
        },
        config.interval,
    )
    shown = [f"{Interval(row.value, row.low, row.high):.2f}" for row in found.itertuples()]
    table = found[["attribute", "name", "score"]].rename(columns={"name": "read from"})
    return table.assign(result=shown, **{"without features": found["chance"]})


def recall_by_group(
    predictions: Predictions,
    attributes: pd.DataFrame | None,
    config: EvaluationConfig,
    *,
    measure: SimilarityName,
    k: int,
) -> pd.DataFrame:
    """Return recall at k of the people of each gender, group and age band, among all faces.

    Returns
    -------
    pandas.DataFrame
        Columns people, n, recall (share with interval), chance.
    """
    hits = expected_hits(similarity_matrix(predictions.predicted, predictions.true, measure), k)
    chance, person_ids = chance_recall(k, len(predictions)), np.asarray(predictions.person_ids)
    rows = [
        {"people": "all", "n": len(hits), "recall": _in_interval(hits, person_ids, config), "chance": chance}
    ]
    for column in ("gender", "group", "age") if attributes is not None else ():
        labels = attributes[column].to_numpy()
        for label in sorted(set(labels)):
            own = labels == label
            recall = _in_interval(hits[own], person_ids[own], config)
            if recall == _TOO_FEW:
                recall = f"{hits[own].mean():.3f}"
            rows.append(
                {"people": f"{column} {label}", "n": int(own.sum()), "recall": recall, "chance": chance}
            )
    if attributes is None:
        rows.append({"people": f"by gender, group and age: {_UNKNOWN}"})
    return pd.DataFrame(rows, dtype=object)


def _strata(attributes: pd.DataFrame | None) -> dict[str, list[str] | None]:
    """Return whom the others are drawn from: name to a label a person, None for all alike."""
    strata: dict[str, list[str] | None] = {_ANYONE: None}
    if attributes is not None:
        for name, columns in _KINDS.items():
            strata[name] = attributes[columns].agg(" ".join, axis=1).tolist()
    return strata


def _in_interval(values: np.ndarray, person_ids: np.ndarray, config: EvaluationConfig) -> str:
    if len(set(person_ids)) < 2:
        return _TOO_FEW
    interval = hit_interval(
        values,
        group_ids=person_ids,
        settings=config.interval,
    )
    return f"{interval:.3f}"
