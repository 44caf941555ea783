"""The whole comparison on the public pairs, from settings to results, for `s2f pairs` and chapter 08."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib import __version__, paths
from s2f_lib.config import StudyConfig
from s2f_lib.errors import InputError
from s2f_lib.pairs.data import PairData, Progress, find_and_split, load_pair_data
from s2f_lib.pairs.model import MIN_GROUPS
from s2f_lib.pairs.protocol import evaluate_pairs, face_from_face
from s2f_lib.pairs.systems import SYSTEMS
from s2f_lib.provenance import environment
from s2f_lib.sources.public_pairs import FoundPairs, group_ids_of
from s2f_lib.sources.splits import PairSplit, write_split


def run_pairs(
    config: StudyConfig,
    *,
    systems: Sequence[str] = SYSTEMS,
    control: bool = False,
    report_splits: int | None = None,
    splits_out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find the pairs, compute their features, and train and test the systems.

    Parameters
    ----------
    config
        Settings of the pairs (`source.pairs`), of the report's encoder and of the intervals.
    systems, control, report_splits
        See `evaluate_pairs`.
    splits_out
        Folder for the splits, one file `<number>.csv` each, in the form that `source.pairs.split` reads.
    progress
        Called with (done, total, name of the step).

    Returns
    -------
    dict
        Results of `evaluate_pairs`, with "face_from_face", "data" (pairs that are used and left out) and
        "provenance". Clip ids occur only under "data", for the pairs that are left out.

    Raises
    ------
    ConfigError
        `source.pairs.root` is not set.
    InputError
        The folder, the split or the pairs cannot be used.

    Examples
    --------
    >>> run_pairs(StudyConfig())
    Traceback (most recent call last):
    s2f_lib.errors.ConfigError: source.pairs.root is not set: ...
    """
    found, splits = find_and_split(config.source.pairs)
    for split in splits:  # a split that is too small is refused before anything is computed
        _check_size(split, group_ids_of(found.pairs))
    cache = paths.data_dir() / "embeddings"
    data, left_out = load_pair_data(found, cache=cache, progress=progress)
    splits = [_without_left_out(split, found, data) for split in splits]
    if splits_out is not None:
        for number, split in enumerate(splits):
            write_split(splits_out / f"{number}.csv", split.by_clip(data.pairs))
    interval = config.evaluation.interval
    results = evaluate_pairs(
        data,
        splits,
        spectrogram=config.spectrogram,
        encoder=config.encoder,
        training=config.training,
        interval=interval,
        models=paths.data_dir() / "pair-models",
        systems=systems,
        control=control,
        report_splits=report_splits,
        progress=progress,
    )
    source = config.source.pairs
    random_split = source.model_dump(include={"n_splits", "test_share", "seed"})
    return results | {
        "face_from_face": face_from_face(data, interval, cache=cache),
        "data": {
            "pairs": dict(sorted(Counter(pair.set_name for pair in data.pairs).items())),
            "videos_or_persons": len(set(data.group_ids.tolist())),
            "faces_without_detection": int((~data.faces.found).sum()),
            "left_out": left_out,
        },
        "provenance": {  # neither a path nor a host name
            "s2f_lib": __version__,
            "profile": config.profile,
            "split": "stored" if source.split is not None else random_split,
            "seeds": {"encoder": config.training.seed, "intervals": interval.seed},
            "environment": environment(),
        },
    }


def _check_size(split: PairSplit, group_ids: Sequence[int]) -> None:
    n_train, n_test = (len({group_ids[row] for row in rows}) for rows in (split.train, split.test))
    if n_train < MIN_GROUPS or n_test < 2:
        raise InputError(
            f"too few pairs: {n_train} videos or people to train on and {n_test} to test; "
            f"expected at least {MIN_GROUPS} and 2"
        )


def _without_left_out(split: PairSplit, found: FoundPairs, data: PairData) -> PairSplit:
    """Return a split of the found pairs as rows of the pairs that could be read."""
    split_of = split.by_clip(found.pairs)
    sides = np.array([split_of.get(pair.clip_id) for pair in data.pairs])
    return PairSplit(np.flatnonzero(sides == "train"), np.flatnonzero(sides == "test"))
