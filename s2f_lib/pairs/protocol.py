"""The protocol of the real pairs, and its results as one JSON document.

Trained on `train`; every voice of `test` is looked for among the faces of `test`, of AVSpeech
and of VoxCeleb apart.  Numbers are means over splits; `pair_statistics` gives the intervals.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.config import StudyConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import chance_recall, true_ranks
from s2f_lib.evaluation.statistics import (
    Interval,
    chance_reciprocal_rank,
    mean_reciprocal_rank,
    permutation_test_against_chance,
)
from s2f_lib.pairs.statistics import RankBootstrap, SplitRanks, compare_ranks
from s2f_lib.pairs.systems import (
    CONTROL,
    SYSTEMS,
    PairData,
    Systems,
    SystemUnavailableError,
    same_group,
)
from s2f_lib.sources.splits import PairSplit

logger = logging.getLogger(__name__)

RECALL_AT = (1, 5, 10, 20, 50)
OURS = "ours"
_CURVE_TO = 60  # the largest K of the curves
_FEWEST_TEST = 2  # videos or persons: intervals resample them
FORMAT_VERSION = 1

#: Called with (steps done, steps in all, what is being done).
Progress = Callable[[int, int, str], None]


def evaluate_pairs(
    data: PairData,
    splits: Sequence[PairSplit],
    config: StudyConfig,
    *,
    models: Path,
    systems: Sequence[str] = SYSTEMS,
    control: bool = False,
    report_splits: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and test the systems on some splits.

    Parameters
    ----------
    data
        All pairs.
    splits
        One or several.
    config
        Of the report's encoder, and of the intervals.
    models
        Folder for what is trained; a system that is there already is not trained again.
    systems
        Of `SYSTEMS`; those that lack what they need are left out, with the reason.
    control
        Also `ours` trained on voices with other people's faces: it has to be at chance.
    report_splits
        In how many of the splits, from the first, the report's encoder is trained, which takes
        minutes each; None: in all.

    Returns
    -------
    dict
        Plain values, ready for JSON: "sets" (each with "systems", "comparisons", "ratios"), "systems"
        and "comparisons" of the first set, "splits", "settings", "left_out_systems", "seconds".

    Raises
    ------
    InputError
        A system is unknown, or there are too few pairs.
    """
    names = [*dict.fromkeys(systems), *([CONTROL] if control else [])]
    for name in names:
        if name not in (*SYSTEMS, CONTROL):
            raise InputError(f"unknown system {name!r}: expected one of {', '.join(SYSTEMS)}")
    for split in splits:
        _check_split(data, split)
    report = progress or (lambda *_: None)
    steps, n_steps = 0, len(splits) * len(names)
    scored: dict[str, list[dict[str, Any]]] = {}  # set -> a split each
    settings: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for number, split in enumerate(splits):
        fitted = Systems(data, split.train, config, models=models, seed=number)
        parts = _sets_of(data, split.test)
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in parts}
        for name in names:
            report(steps, n_steps, f"{name}, split {number + 1}")
            steps += 1
            if name in left_out or (name == "report" and not _is_due(number, report_splits)):
                continue
            started = time.perf_counter()
            try:
                for set_name, rows in parts.items():
                    found[set_name][name] = fitted.score(name, rows)
            except SystemUnavailableError as error:
                left_out[name] = str(error)
                logger.warning("system %s is left out: %s", name, error)
                continue
            settings.setdefault(name, []).append(fitted.settings(name))
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        for set_name, rows in parts.items():
            scored.setdefault(set_name, []).append({"rows": rows, "scores": found[set_name]})
    report(n_steps, n_steps, "")
    sets = {name: _summary(data, parts, config) for name, parts in scored.items()}
    first = sets[next(iter(sets))]
    return {
        "format": FORMAT_VERSION,
        "unit": "recall and reciprocal rank: shares in [0, 1]; ranks: 1 is first; intervals: [low, high]",
        "set": next(iter(sets)),
        "systems": first["systems"],
        "comparisons": first["comparisons"],
        "sets": sets,
        "splits": [_describe_split(data, split) for split in splits],
        "settings": settings,
        "left_out_systems": left_out,
        "voice_networks": dict(data.fingerprints),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def _sets_of(data: PairData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the test rows of AVSpeech and of VoxCeleb, where there are any."""
    names = np.array([data.pairs[row].set_name for row in rows])
    return {
        name: rows[names == name]
        for name in ("avspeech", "voxceleb")
        if len(set(data.group_ids[rows[names == name]])) >= _FEWEST_TEST
    }


def _is_due(number: int, splits: int | None) -> bool:
    return splits is None or number < splits


def _check_split(data: PairData, split: PairSplit) -> None:
    shared = set(data.group_ids[split.train]) & set(data.group_ids[split.test])
    if shared:
        raise InputError(f"{len(shared)} videos or persons are in train and in test: split by video")
    if not _sets_of(data, split.test):
        raise InputError(
            f"{len(split.test)} test pairs: expected at least {_FEWEST_TEST} videos or persons of a set"
        )


def _summary(data: PairData, parts: Sequence[dict[str, Any]], config: StudyConfig) -> dict[str, Any]:
    names = list(dict.fromkeys(name for part in parts for name in part["scores"]))
    splits = [_ranked(data, part, exclude_own_group=False) for part in parts]
    apart = [_ranked(data, part, exclude_own_group=True) for part in parts]
    settings = config.evaluation
    bootstraps: dict[tuple[int, ...], RankBootstrap] = {}

    def tested(*systems: str) -> list[int]:
        return [i for i, split in enumerate(splits) if all(name in split.ranks for name in systems)]

    def resampled(*systems: str) -> RankBootstrap:
        key = tuple(tested(*systems))
        if key not in bootstraps:
            bootstraps[key] = RankBootstrap([splits[i] for i in key], settings.interval)
        return bootstraps[key]

    def of_system(name: str) -> dict[str, Any]:
        own = [splits[i] for i in tested(name)]
        galleries = [split.gallery for split in own]
        first = parts[tested(name)[0]]["scores"][name]
        return _numbers(resampled(name), name) | {
            "n": int(sum(len(split.group_ids) for split in own)),
            "n_splits": len(own),
            "gallery": float(np.mean(galleries)),
            "chance": _chance(galleries),
            "p_above_chance_in_first_split": _p_above_chance(
                first, splits[tested(name)[0]].group_ids, seed=settings.seed
            ),
            "per_split": [_split_numbers(split, name) for split in own],
            "without_other_faces_of_the_person": _mean_numbers([apart[i] for i in tested(name)], name),
            "curve": _curve(resampled(name), name, min(_CURVE_TO, min(galleries))),
        }

    galleries = [split.gallery for split in splits]
    others = [name for name in names if name != OURS] if OURS in names else []
    return {
        "n": int(sum(len(split.group_ids) for split in splits)),
        "people": len(np.unique(np.concatenate([split.group_ids for split in splits]))),
        "gallery": float(np.mean(galleries)),
        "galleries": galleries,
        "chance": _chance(galleries),
        "systems": {name: of_system(name) for name in names},
        "comparisons": {
            name: compare_ranks([splits[i] for i in tested(OURS, name)], OURS, name, seed=settings.seed)
            for name in others
        },
        "ratios": {
            name: {
                f"recall@{k}": _listed(ratio)
                for k, ratio in zip(
                    RECALL_AT, resampled(OURS, name).recall_ratio(OURS, name, RECALL_AT), strict=True
                )
            }
            for name in others
        },
    }


def _ranked(data: PairData, part: dict[str, Any], *, exclude_own_group: bool) -> SplitRanks:
    group_ids = data.group_ids[part["rows"]]
    hidden = same_group(group_ids)
    ranks = {}
    for name, scores in part["scores"].items():
        shown = np.where(hidden, -np.inf, scores) if exclude_own_group else scores
        ranks[name] = true_ranks(shown)
    return SplitRanks(group_ids, len(group_ids), ranks)


def _numbers(bootstrap: RankBootstrap, name: str) -> dict[str, Any]:
    found = {
        f"recall@{k}": interval
        for k, interval in zip(RECALL_AT, bootstrap.recall(name, RECALL_AT), strict=True)
    }
    found["median_rank"] = bootstrap.median_rank(name)
    found["mrr"] = bootstrap.reciprocal_rank(name)
    return {key: interval.value for key, interval in found.items()} | {
        "intervals": {key: [interval.low, interval.high] for key, interval in found.items()}
    }


def _split_numbers(split: SplitRanks, name: str) -> dict[str, float]:
    ranks = split.ranks[name]
    recall = {f"recall@{k}": float(np.mean(ranks <= k)) for k in RECALL_AT}
    return recall | {"median_rank": float(np.median(ranks)), "mrr": float(mean_reciprocal_rank(ranks))}


def _mean_numbers(splits: Sequence[SplitRanks], name: str) -> dict[str, float]:
    each = [_split_numbers(split, name) for split in splits]
    return {key: float(np.mean([values[key] for values in each])) for key in each[0]}


def _chance(galleries: Sequence[int]) -> dict[str, float]:
    recall = {
        f"recall@{k}": float(np.mean([chance_recall(k, size) for size in galleries])) for k in RECALL_AT
    }
    return recall | {
        "median_rank": float(np.mean([(size + 1) / 2 for size in galleries])),
        "mrr": float(np.mean([chance_reciprocal_rank(size) for size in galleries])),
    }


def _curve(bootstrap: RankBootstrap, name: str, k_max: int) -> dict[str, list[float]]:
    ks = list(range(1, k_max + 1))
    values = bootstrap.recall(name, ks)
    rows = {"value": "value", "low": "low", "high": "high"}
    return {"k": ks} | {key: [round(getattr(v, field), 5) for v in values] for key, field in rows.items()}


def _p_above_chance(scores: np.ndarray, group_ids: np.ndarray, *, seed: int) -> float:
    # clips of one person are no independent pairings: one of each
    one_each = np.unique(group_ids, return_index=True)[1]
    alone = scores[np.ix_(one_each, one_each)]
    return permutation_test_against_chance(alone, mean_reciprocal_rank, seed=seed)[1]


def _listed(interval: Interval) -> list[float | None]:
    values = (interval.value, interval.low, interval.high)
    return [value if np.isfinite(value) else None for value in values]


def _describe_split(data: PairData, split: PairSplit) -> dict[str, Any]:
    """Return a split's sizes, and a digest of its test ids: the same digest is the same test."""
    ids = "\n".join(data.pairs[row].clip_id for row in split.test)
    return {
        "n_train": len(split.train),
        "n_test": len(split.test),
        "test_sha256": hashlib.sha256(ids.encode()).hexdigest()[:16],
    }
