"""The protocol of the public pairs: numbers with intervals, as one JSON document.

Systems are trained on the train part of a split. Each test voice is matched against all test faces of its
set (AVSpeech or VoxCeleb). Numbers are means over splits. Intervals resample groups (videos or people),
because several splits share people and a video can have two clips.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.config import RECALL_AT, IntervalSettings, SpectrogramConfig, TrainingConfig, VoiceEncoderConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import chance_recall, similarity_matrix, true_ranks
from s2f_lib.evaluation.statistics import (
    GroupBootstrap,
    Interval,
    chance_reciprocal_rank,
    mean_reciprocal_rank,
    paired_test,
    permutation_test_against_chance,
)
from s2f_lib.pairs.data import PairData, Progress
from s2f_lib.pairs.faces import extract_faces
from s2f_lib.pairs.systems import CONTROL, SYSTEMS, Systems, SystemUnavailableError
from s2f_lib.sources.splits import PairSplit
from s2f_lib.storage import digest

logger = logging.getLogger(__name__)

OURS = "ours"
_KEYS = (*(f"recall@{k}" for k in RECALL_AT), "median_rank", "mrr")
FORMAT_VERSION = 1
_ANCHOR_RECALL_AT = (1, 10)
_MAX_K = 60  # largest K of the curves
_MIN_TEST_GROUPS = 2  # an interval needs at least two groups


def evaluate_pairs(
    data: PairData,
    splits: Sequence[PairSplit],
    *,
    spectrogram: SpectrogramConfig,
    encoder: VoiceEncoderConfig,
    training: TrainingConfig,
    interval: IntervalSettings,
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
        Splits; rows of `data`.
    spectrogram, encoder, training
        Settings of the report's encoder.
    interval
        Settings of the intervals.
    models
        Folder of the trained encoders. An encoder that exists is not trained again.
    systems
        Names from `SYSTEMS`. A system whose network is not installed is left out, with the reason.
    control
        Also test `ours` trained on the faces of other people: its result must be at chance.
    report_splits
        Number of splits, from the first, in which the report's encoder is trained (minutes each).
        None: all.
    progress
        Called with (done, total, name of the step).

    Returns
    -------
    dict
        Plain values, ready for JSON: "sets" (each with "systems", "comparisons" and "ratios"), "systems" and
        "comparisons" of the first set, "splits", "settings", "left_out_systems" and "seconds".

    Raises
    ------
    InputError
        A system is unknown, or there are too few pairs.

    See Also
    --------
    run_pairs : The same from the settings of a study.

    Examples
    --------
    >>> from s2f_lib.config import load_config
    >>> from s2f_lib.pairs.faces import FaceFeatures
    >>> from s2f_lib.sources.public_pairs import Pair
    >>> pairs = tuple(Pair(str(n), "avspeech", str(n), str(n), *[Path()] * 3) for n in range(40))
    >>> features = np.random.default_rng(0).standard_normal((40, 128))  # reconstructions are the faces
    >>> faces = FaceFeatures(features, features, np.ones(40, dtype=bool))
    >>> data = PairData(pairs, np.arange(40), np.zeros((40, 1)), {}, faces, features)
    >>> sections = {name: getattr(load_config(), name) for name in ("spectrogram", "encoder", "training")}
    >>> split = PairSplit(np.arange(20), np.arange(20, 40))
    >>> found = evaluate_pairs(
    ...     data, [split], **sections, interval=IntervalSettings(), models=Path(), systems=["speech2face"]
    ... )
    >>> found["systems"]["speech2face"]["recall@1"]
    1.0
    """
    names = [*dict.fromkeys(systems), *([CONTROL] if control else [])]
    for name in names:
        if name not in (*SYSTEMS, CONTROL):
            raise InputError(f"unknown system {name!r}: expected one of {', '.join(SYSTEMS)}")
    for split in splits:
        _check_split(data, split)
    report = progress or (lambda *_: None)
    tests: dict[str, list[_Test]] = {}  # set -> one test per split
    settings: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for number, split in enumerate(splits):
        fitted = Systems(
            data,
            split.train,
            spectrogram=spectrogram,
            encoder=encoder,
            training=training,
            models=models,
            seed=number,
        )
        parts = _rows_by_set(data, split.test)
        for set_name, rows in parts.items():
            tests.setdefault(set_name, []).append(_Test(data.group_ids[rows], {}))
        for index, name in enumerate(names):
            report(number * len(names) + index, len(splits) * len(names), f"{name}, split {number + 1}")
            skipped = name == "report" and report_splits is not None and number >= report_splits
            if name in left_out or skipped:
                continue
            started = time.perf_counter()
            try:
                for set_name, rows in parts.items():
                    tests[set_name][-1].scores[name] = fitted.score(name, rows)
            except SystemUnavailableError as error:
                left_out[name] = str(error)
                logger.warning("system %s is left out: %s", name, error)
                continue
            settings.setdefault(name, []).append(fitted.settings(name))
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
    report(len(splits) * len(names), len(splits) * len(names), "")
    sets = {name: _summarize(tests_of_set, interval) for name, tests_of_set in tests.items()}
    first = next(iter(sets))
    return {
        "format": FORMAT_VERSION,
        "unit": "recall and reciprocal rank: shares in [0, 1]; ranks: 1 is first; intervals: [low, high]",
        "set": first,
        "systems": sets[first]["systems"],
        "comparisons": sets[first]["comparisons"],
        "sets": sets,
        "splits": [
            {
                "n_train": len(split.train),
                "n_test": len(split.test),
                # equal digests are the same test
                "test_sha256": digest("\n".join(data.pairs[row].clip_id for row in split.test), length=16),
            }
            for split in splits
        ],
        "settings": settings,
        "left_out_systems": left_out,
        "voice_networks": dict(data.fingerprints),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def face_from_face(
    data: PairData, interval: IntervalSettings, *, cache: Path | None
) -> dict[str, dict[str, Any]]:
    """Measure how well the reconstructions of Speech2Face's authors keep a face.

    Their `Face_f2f` images are reconstructed from the features of the true face, without a voice; their
    recall is what a good decoder can reach. Faces without a reconstruction are only part of the gallery. Sets
    with reconstructions of fewer than two videos or people are left out.
    """
    sets = np.array([pair.set_name for pair in data.pairs])
    found = {}
    for name in dict.fromkeys(sets.tolist()):
        gallery = np.flatnonzero(sets == name)
        files = {row: file for row in gallery if (file := data.pairs[row].face_from_face) is not None}
        rows = np.array(list(files), dtype=int)
        if len(set(data.group_ids[rows])) < _MIN_TEST_GROUPS:
            continue
        queries = extract_faces(list(files.values()), mirrored=False, cache=cache).upright
        similarity = similarity_matrix(queries, data.faces.upright[gallery], "cosine")
        ranks = true_ranks(similarity, np.searchsorted(gallery, rows))
        recall = GroupBootstrap([data.group_ids[rows]], interval).means(hits([ranks], _ANCHOR_RECALL_AT))
        found[name] = {
            **_with_intervals([f"recall@{k}" for k in _ANCHOR_RECALL_AT], recall),
            "chance": {f"recall@{k}": chance_recall(k, len(gallery)) for k in _ANCHOR_RECALL_AT},
            "n": len(rows),
            "gallery": len(gallery),
        }
    return found


def hits(ranks: Sequence[np.ndarray], ks: Sequence[int]) -> list[np.ndarray]:
    """Return whether the face is among the first K, one `(n, len(ks))` bool array per split."""
    return [of_split[:, None] <= np.asarray(ks) for of_split in ranks]


def compare_ranks(
    group_ids: Sequence[np.ndarray],
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Test whether two systems differ on the same queries, with one value per group and random signs.

    Each argument has one `(n,)` array per split. A negative "log_rank_difference" means that the first system
    ranks better. The p-values are two-sided and not corrected for multiple tests.
    """
    numbers = np.unique(np.concatenate(group_ids), return_inverse=True)[1]
    ranks = [np.concatenate(first), np.concatenate(second)]

    def by_group(values: np.ndarray) -> np.ndarray:
        return np.bincount(numbers, values) / np.bincount(numbers)

    logs = [by_group(np.log(r)) for r in ranks]
    result = {
        "log_rank_difference": float(np.mean(logs[0] - logs[1])),
        "p_log_rank": paired_test(*logs, seed=seed),
    }
    for k in (10, 20):
        found = [by_group((r <= k).astype(np.float64)) for r in ranks]
        result[f"p_recall@{k}"] = paired_test(*found, seed=seed)
    return result


@dataclass(frozen=True)
class _Test:
    """Scores of the systems that were tested on one set of one split: system to `(n, n)`."""

    group_ids: np.ndarray
    scores: dict[str, np.ndarray]

    def ranks(self, name: str, *, exclude_own_group: bool = False) -> np.ndarray:
        """Return the ranks, with or without the other faces of the query's own group in the gallery."""
        scores = self.scores[name]
        if exclude_own_group:
            hidden = self.group_ids[:, None] == self.group_ids[None]
            np.fill_diagonal(hidden, False)
            scores = np.where(hidden, -np.inf, scores)
        return true_ranks(scores)

    def p_above_chance(self, name: str, *, seed: int) -> float:
        """Return a permutation p-value over one clip per person: clips of one person are not independent."""
        one_each = np.unique(self.group_ids, return_index=True)[1]
        scores = self.scores[name][np.ix_(one_each, one_each)]
        return permutation_test_against_chance(scores, mean_reciprocal_rank, seed=seed)[1]


def _rows_by_set(data: PairData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the test rows of AVSpeech and of VoxCeleb, if they hold enough groups."""
    names = np.array([data.pairs[row].set_name for row in rows])
    return {
        name: rows[names == name]
        for name in ("avspeech", "voxceleb")
        if len(set(data.group_ids[rows[names == name]])) >= _MIN_TEST_GROUPS
    }


def _check_split(data: PairData, split: PairSplit) -> None:
    shared = set(data.group_ids[split.train]) & set(data.group_ids[split.test])
    if shared:
        raise InputError(f"{len(shared)} videos or people are in train and in test: split by video")
    if not _rows_by_set(data, split.test):
        raise InputError(
            f"{len(split.test)} test pairs: expected at least {_MIN_TEST_GROUPS} videos or people of a set"
        )


def _summarize(tests: Sequence[_Test], interval: IntervalSettings) -> dict[str, Any]:
    """Return the numbers of one set: its systems, their comparisons with `ours`, and ratios of recall."""
    names = list(dict.fromkeys(name for test in tests for name in test.scores))
    galleries = [len(test.group_ids) for test in tests]

    @functools.cache
    def bootstrap(indices: tuple[int, ...]) -> GroupBootstrap:
        return GroupBootstrap([tests[i].group_ids for i in indices], interval)

    def tested(*systems: str) -> tuple[int, ...]:
        return tuple(i for i, test in enumerate(tests) if all(name in test.scores for name in systems))

    def system(name: str) -> dict[str, Any]:
        indices = tested(name)
        ranks = [tests[i].ranks(name) for i in indices]
        apart = [_numbers(tests[i].ranks(name, exclude_own_group=True)) for i in indices]
        own_galleries = [galleries[i] for i in indices]
        resampled = bootstrap(indices)
        found = resampled.means(hits(ranks, RECALL_AT))
        found += [resampled.median(ranks), *resampled.means([1 / of_split[:, None] for of_split in ranks])]
        ks = list(range(1, min(_MAX_K, *own_galleries) + 1))
        curve = resampled.means(hits(ranks, ks))
        return {
            **_with_intervals(_KEYS, found),
            "n": sum(own_galleries),
            "n_splits": len(indices),
            "gallery": float(np.mean(own_galleries)),
            "chance": _chance(own_galleries),
            "p_above_chance_in_first_split": tests[indices[0]].p_above_chance(name, seed=interval.seed),
            "per_split": [_numbers(of_split) for of_split in ranks],
            "without_other_faces_of_the_person": {
                key: float(np.mean([numbers[key] for numbers in apart])) for key in _KEYS
            },
            "curve": {"k": ks}
            | {key: [round(getattr(v, key), 5) for v in curve] for key in ("value", "low", "high")},
        }

    def compare(name: str) -> tuple[dict[str, float], dict[str, list[float | None]]]:
        indices = tested(OURS, name)
        ours, other = ([tests[i].ranks(system) for i in indices] for system in (OURS, name))
        found = compare_ranks([tests[i].group_ids for i in indices], ours, other, seed=interval.seed)
        ratios = bootstrap(indices).ratios(hits(ours, RECALL_AT), hits(other, RECALL_AT))
        rows = [[r if np.isfinite(r) else None for r in (v.value, v.low, v.high)] for v in ratios]
        return found, dict(zip(_KEYS, rows, strict=False))

    compared = {name: compare(name) for name in names if name != OURS} if OURS in names else {}
    return {
        "n": sum(galleries),
        "people": len(np.unique(np.concatenate([test.group_ids for test in tests]))),
        "gallery": float(np.mean(galleries)),
        "galleries": galleries,
        "chance": _chance(galleries),
        "systems": {name: system(name) for name in names},
        "comparisons": {name: found for name, (found, _) in compared.items()},
        "ratios": {name: ratios for name, (_, ratios) in compared.items()},
    }


def _with_intervals(keys: Sequence[str], found: Sequence[Interval]) -> dict[str, Any]:
    named = dict(zip(keys, found, strict=True))
    values = {key: interval.value for key, interval in named.items()}
    return values | {"intervals": {key: [v.low, v.high] for key, v in named.items()}}


def _numbers(ranks: np.ndarray) -> dict[str, float]:
    recall = [float(np.mean(ranks <= k)) for k in RECALL_AT]
    return dict(zip(_KEYS, [*recall, float(np.median(ranks)), mean_reciprocal_rank(ranks)], strict=True))


def _chance(galleries: Sequence[int]) -> dict[str, float]:
    recall = [np.mean([chance_recall(k, size) for size in galleries]) for k in RECALL_AT]
    median_rank = np.mean([(size + 1) / 2 for size in galleries])
    mrr = np.mean([chance_reciprocal_rank(size) for size in galleries])
    return dict(zip(_KEYS, map(float, (*recall, median_rank, mrr)), strict=True))
