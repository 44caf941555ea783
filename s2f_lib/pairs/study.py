"""The whole of `s2f pairs`: from settings to results, for the command line and for chapter 08."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2f_lib import __version__, paths
from s2f_lib.config import StudyConfig
from s2f_lib.errors import ConfigError, InputError
from s2f_lib.pairs.anchor import face_from_face
from s2f_lib.pairs.data import Progress, load_pair_data
from s2f_lib.pairs.model import FEWEST_GROUPS
from s2f_lib.pairs.protocol import evaluate_pairs
from s2f_lib.pairs.systems import SYSTEMS
from s2f_lib.sources.public_pairs import FoundPairs, Pair, find_pairs, find_root, group_ids_of
from s2f_lib.sources.splits import PairSplit, draw_splits, read_pair_split, write_split
from s2f_lib.voices.embedding import SAMPLE_RATE_HZ


def run_pairs(
    config: StudyConfig,
    *,
    systems: Sequence[str] = SYSTEMS,
    control: bool = False,
    report_splits: int | None = None,
    splits_out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Find, describe, split, train, test.

    Parameters
    ----------
    config
        `source.pairs` says which pairs and splits; the rest is of the report's encoder.
    systems, control, report_splits
        As `pairs.protocol.evaluate_pairs`.
    splits_out
        Folder for the splits, `<number>.csv` with `clip_id,split`, as `source.pairs.split` takes one.
    progress
        Called with (done, of all, what is being done).

    Returns
    -------
    dict
        As `evaluate_pairs`, with "face_from_face" (as `pair_anchor.face_from_face`), "data" (pairs used
        and left out) and "provenance".  Clip ids stand under "data" alone, where something is missing.

    Raises
    ------
    ConfigError
        The settings ask for another sample rate than the 16 kHz that the pretrained voices take.
    InputError
        Folder, split or pairs cannot be used.
    """
    source = config.source.pairs
    if {config.preparation.sample_rate_hz, config.spectrogram.sample_rate_hz} != {SAMPLE_RATE_HZ}:
        raise ConfigError(
            f"the pairs are read at {SAMPLE_RATE_HZ:,} Hz: leave preparation.sample_rate_hz and "
            "spectrogram.sample_rate_hz as they are"
        )
    found = find_pairs(root_of(config), voxceleb=source.voxceleb)
    for split in splits_of(
        config, found.pairs, found
    ):  # a wrong or tiny split is told before anything is read
        check_size(split, group_ids_of(found.pairs))
    cache = paths.data_dir() / "embeddings"
    data, left_out = load_pair_data(found, cache=cache, progress=progress)
    splits = splits_of(config, data.pairs, found)
    if splits_out is not None:
        write_splits(splits, data.pairs, splits_out)
    results = evaluate_pairs(
        data,
        splits,
        config,
        models=paths.data_dir() / "pair-models",
        systems=systems,
        control=control,
        report_splits=report_splits,
        progress=progress,
    )
    names = sorted({pair.set_name for pair in data.pairs})
    return results | {
        "face_from_face": face_from_face(data, config.evaluation, cache=cache),
        "data": {
            "pairs": {name: sum(pair.set_name == name for pair in data.pairs) for name in names},
            "videos_or_persons": len(set(data.group_ids.tolist())),
            "faces_without_detection": int((~data.faces.found).sum()),
            "left_out": left_out,
        },
        "provenance": _provenance(config),
    }


def check_size(split: PairSplit, group_ids: Sequence[int]) -> None:
    """Refuse a split with too few videos or persons to train on or to test."""
    n_train, n_test = (len({group_ids[row] for row in rows}) for rows in (split.train, split.test))
    if n_train < FEWEST_GROUPS or n_test < 2:
        raise InputError(
            f"too few pairs: {n_train} videos or persons to train on and {n_test} to test; "
            f"expected at least {FEWEST_GROUPS} and 2"
        )


def splits_of(config: StudyConfig, pairs: Sequence[Pair], found: FoundPairs) -> list[PairSplit]:
    """Return the stored split, or those that are drawn."""
    source = config.source.pairs
    if source.split is not None:
        return [read_pair_split(source.split, pairs, known=known_ids(config, found))]
    return draw_splits(pairs, n_splits=source.n_splits, test_share=source.test_share, seed=source.seed)


def write_splits(splits: Sequence[PairSplit], pairs: Sequence[Pair], folder: Path) -> None:
    """Write each split as a CSV that another run, or another study, takes."""
    for number, split in enumerate(splits):
        write_split(folder / f"{number}.csv", split.by_clip(pairs))


def known_ids(config: StudyConfig, found: FoundPairs) -> list[str]:
    """Return the clip ids that a split may name though they are not used."""
    ids = [pair.clip_id for pair in found.pairs] + list(found.missing)
    root = find_root(root_of(config))
    if not config.source.pairs.voxceleb and (root / "voxceleb").is_dir():
        both = find_pairs(root, voxceleb=True)
        ids += [pair.clip_id for pair in both.pairs] + list(both.missing)
    return ids


def root_of(config: StudyConfig) -> Path:
    """Return the folder of the pairs, which has to be set."""
    root = config.source.pairs.root
    if root is None:
        raise ConfigError(
            "source.pairs.root is not set: say where the pairs are, for example "
            "-p source.pairs.root=speech2face.github.io"
        )
    return root


def _provenance(config: StudyConfig) -> dict[str, Any]:
    """Return what the numbers were made with; no path and no host."""
    from s2f_lib.provenance import environment

    source = config.source.pairs
    drawn = {"n_splits": source.n_splits, "test_share": source.test_share, "seed": source.seed}
    return {
        "s2f_lib": __version__,
        "profile": config.profile,
        "split": "stored" if source.split is not None else drawn,
        "seeds": {"encoder": config.training.seed, "intervals": config.evaluation.seed},
        "environment": environment(),
    }
