"""Chapter 05: what the report's recalls can be, and what retrieval owes to gender, age and group.

The attributes of generated people are known. For other people the tables say that they are unknown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2f_lib.chapters.reference import MEASURE_NAMES, REPORT
from s2f_lib.chapters.tables import interval_of
from s2f_lib.config import RECALL_AT, EvaluationConfig, SimilarityName, SourceConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.audit import audit_recall, query_counts_that_fit
from s2f_lib.evaluation.matching import matching_accuracy, ranks_within, verification_interval
from s2f_lib.evaluation.probes import ProbeData, probe_table
from s2f_lib.evaluation.retrieval import chance_recall, expected_hits, similarity_matrix
from s2f_lib.evaluation.statistics import Interval, chance_interval, hit_interval
from s2f_lib.evaluation.tables import Predictions

CANDIDATES = (2, 5, 10)  # of 1:N matching, as in SVHF and DIMNet
_AGE_BANDS = (18, 40, 60, 81)  # years; each band holds about a third of the generated people
_UNKNOWN = "unknown of these people"
_TOO_FEW = "too few"
_ANYONE = "anyone"
#: Attributes that the other people share with the true person; the strictest stratum is the last.
_STRATA = {
    "same gender": ["gender"],
    "same age": ["age"],
    "same gender and age": ["gender", "age"],
    "same gender and group": ["gender", "group"],
    "same gender, group and age": ["gender", "group", "age"],
}
_WITHIN = 20  # largest difference between the number of queries and the gallery's size


@dataclass(frozen=True)
class Fit:
    """Numbers of queries that printed recalls fit, and how many recalls must be misprints for that."""

    counts: list[int]
    misprints: int


def queries_near_gallery() -> dict[str, int]:
    """Return the "smallest" and the "largest" number of queries that is considered."""
    return {"smallest": REPORT.gallery - _WITHIN, "largest": REPORT.gallery + _WITHIN}


def fitting_queries(split: str) -> Fit:
    """Return the numbers of queries, near the gallery's size, that the report's recalls of a split fit.

    If no number fits all recalls, one misprint is allowed, then two, and so on.
    """
    percents = [percent for row in REPORT.recall_percent[split].values() for percent in row]
    for misprints in range(len(percents)):
        counts = query_counts_that_fit(percents, misprints=misprints, **queries_near_gallery())
        if counts:
            return Fit(counts, misprints)
    return Fit([], len(percents))


def format_counts(counts: Sequence[int]) -> str:
    """Return numbers as a phrase: `393`, or `393 or 395`."""
    return " or ".join(str(count) for count in counts)


def recall_audit(split: str = "test", *, n_queries: int, confidence: float = 0.95) -> pd.DataFrame:
    """Return the report's recalls of a split, and the recalls of guessing among 400 faces."""
    rows = []
    for measure, percents in REPORT.recall_percent[split].items():
        verdicts = audit_recall(
            percents, RECALL_AT, gallery_size=REPORT.gallery, n_queries=n_queries, confidence=confidence
        )
        for verdict in verdicts:
            rows.append(
                {
                    "similarity": MEASURE_NAMES[measure],
                    "K": verdict.k,
                    "the report, %": f"{verdict.recall_percent:.2f}",
                    "guessing, %": f"{verdict.chance:.2f}",
                    "within guessing": verdict.within_chance,
                }
            )
    return pd.DataFrame(rows)


def chance_band(gallery: int, n_queries: int, k_max: int, *, confidence: float = 0.95) -> pd.DataFrame:
    """Return the recall of guessing for K = 1 to `k_max`, as columns k, value, low and high."""
    rows = []
    for k in range(1, k_max + 1):
        interval = chance_interval(k, gallery, n_queries, confidence=confidence)
        rows.append({"k": k, "value": interval.value, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def known_attributes(source: SourceConfig, clip_ids: Sequence[str]) -> pd.DataFrame | None:
    """Return gender, group, age in years and age band of each clip's person; None if they are unknown."""
    if source.kind != "synthetic":
        return None
    from s2f_lib.sources.synthetic.people import draw_population

    people = draw_population(source.synthetic).table().set_index("clip_id").loc[list(clip_ids)]
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
    """Return the area under the ROC curve against other people of each stratum.

    The strata are "anyone" and, if attributes are known, "same gender" and so on; the strictest is the last.
    Strata without two people are left out.
    """
    similarity = similarity_matrix(predictions.predicted, predictions.true, measure)
    areas = {}
    for name, labels in _strata(attributes).items():
        with contextlib.suppress(InputError):  # no stratum has two people
            areas[name] = verification_interval(
                similarity, strata=labels, group_ids=predictions.group_ids, settings=config.interval
            )
    return areas


def most_alike(areas: Mapping[str, Interval]) -> tuple[Interval, str]:
    """Return the area in the strictest stratum that has one, and a phrase that names the stratum."""
    name = next(name for name in [*reversed(_STRATA), _ANYONE] if name in areas)
    if name == _ANYONE:
        return areas[name], "against all other people (their gender, group and age are unknown)"
    return areas[name], f"against others of the {name}"


def matching_table(
    predictions: Predictions,
    attributes: pd.DataFrame | None,
    config: EvaluationConfig,
    *,
    measure: SimilarityName,
    areas: Mapping[str, Interval],
) -> pd.DataFrame:
    """Return 1:N matching, verification (`areas`) and mean rank against other people of each stratum.

    The columns are `others`, `people` (those with enough others), one per number of candidates, `area under
    ROC`, and `rank share`, the mean rank of the true face in the stratum: 0 first, 0.5 by guessing, 1 last.
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
    chance: dict[str, object] = {f"1 of {n}": f"{1 / n:.3f}" for n in CANDIDATES}
    rows.append(
        {"others": "by guessing", "people": None}
        | chance
        | {"area under ROC": "0.500", "rank share": "0.500"}
    )
    if attributes is None:
        rows.append({"others": f"same gender, group or age: {_UNKNOWN}"})
    return pd.DataFrame(rows, dtype=object)  # counts stay integers next to missing values


def probes_table(
    predictions: Mapping[str, Predictions],
    attributes: Mapping[str, pd.DataFrame | None],
    config: EvaluationConfig,
) -> pd.DataFrame:
    """Return how well probes read gender, group and age from true and from predicted features.

    Both mappings have the keys "train", whose true features fit the probes, and "test".
    """
    columns = {"gender": "gender", "group": "group", "age, years": "age_years"}
    values = {
        split: {name: table[column].to_numpy() for name, column in columns.items()}
        for split, table in attributes.items()
        if table is not None
    }
    if len(values) < len(attributes):
        return pd.DataFrame([{"attribute": "any", "read from": _UNKNOWN}])
    test = predictions["test"]
    found = probe_table(
        ProbeData(predictions["train"].true, values["train"]),
        {
            "the face's features": ProbeData(test.true, values["test"], test.group_ids),
            "the voice's prediction": ProbeData(test.predicted, values["test"], test.group_ids),
        },
        config.interval,
    )
    shown = [f"{interval_of(row):.2f}" for row in found.itertuples()]
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
    """Return recall at k among all faces for the people of each gender, group and age band."""
    hits = expected_hits(similarity_matrix(predictions.predicted, predictions.true, measure), k)
    chance, person_ids = chance_recall(k, len(predictions)), np.asarray(predictions.person_ids)
    rows = [
        {"people": "all", "n": len(hits), "recall": _in_interval(hits, person_ids, config), "chance": chance}
    ]
    known = pd.DataFrame() if attributes is None else attributes[["gender", "group", "age"]]
    for column in known:
        labels = known[column].to_numpy()
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
    """Return the strata: {name: one label per person, or None for no restriction}."""
    strata: dict[str, list[str] | None] = {_ANYONE: None}
    if attributes is not None:
        for name, columns in _STRATA.items():
            strata[name] = attributes[columns].agg(" ".join, axis=1).tolist()
    return strata


def _in_interval(values: np.ndarray, person_ids: np.ndarray, config: EvaluationConfig) -> str:
    if len(set(person_ids)) < 2:
        return _TOO_FEW
    return f"{hit_interval(values, group_ids=person_ids, settings=config.interval):.3f}"
