"""Splits of the pairs into train and test: stored as CSV, or drawn by video and person."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.public_pairs import Pair, group_ids_of

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")
_LISTED = 3  # examples in a message


@dataclass(frozen=True)
class PairSplit:
    """Which pairs are trained on, and which are tested.

    Attributes
    ----------
    train, test
        `(n,)` int, places in the list of pairs, ascending.
    """

    train: np.ndarray
    test: np.ndarray


def draw_splits(
    pairs: Sequence[Pair], *, n_splits: int = 1, test_share: float = 0.2, seed: int = 0
) -> list[PairSplit]:
    """Draw splits that divide no video and no person, each set (AVSpeech, VoxCeleb) by itself.

    Parameters
    ----------
    pairs
        All pairs.
    n_splits
        How many, each drawn anew; their test parts overlap.
    test_share
        Of the groups of each set, in (0, 1).
    seed
        The first of several splits is the one that is drawn alone.

    Raises
    ------
    InputError
        There are fewer than two groups in a set.
    """
    from sklearn.model_selection import GroupShuffleSplit

    groups = np.array(group_ids_of(pairs))
    names = np.array([pair.person for pair in pairs])
    # the set of a group is that of its first pair, so that a video in both sets stays whole
    first = {group: pairs[index].set_name for index, group in reversed(list(enumerate(groups)))}
    set_of = np.array([first[group] for group in groups])
    drawn: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for set_name in sorted(set(set_of)):
        indices = np.flatnonzero(set_of == set_name)
        if len(np.unique(groups[indices])) < 2:
            raise InputError(
                f"{len(indices)} pairs of {set_name} are of one video or person: a split needs at least two"
            )
        labels = _named(groups[indices], names[indices])
        shuffle = GroupShuffleSplit(n_splits, test_size=test_share, random_state=seed)
        drawn.append([(indices[a], indices[b]) for a, b in shuffle.split(indices, groups=labels)])
    return [
        PairSplit(*(np.sort(np.concatenate([parts[i][side] for parts in drawn])) for side in (0, 1)))
        for i in range(n_splits)
    ]


def read_pair_split(path: Path, pairs: Sequence[Pair], *, known: Sequence[str] = ()) -> PairSplit:
    """Read a stored split, a CSV `clip_id,split` (header or not; spaces and a BOM do no harm).

    Pairs that it does not name are left out, but for a set of which it names none at all: that
    set is then test as a whole, as when VoxCeleb's pairs test what was trained on AVSpeech.

    Parameters
    ----------
    path
        The CSV.
    pairs
        All pairs that can be used.
    known
        Further clip ids that are no mistake: incomplete pairs, and those of a set that is not used.

    Raises
    ------
    MissingFileError
        There is no such file.
    InputError
        A row is malformed, an id or a split is unknown, an id has two splits, a video or person
        is on both sides, or a side is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no split at {path}: expected a CSV clip_id,split with train or test")
    index_of = {pair.clip_id: index for index, pair in enumerate(pairs)}
    side_of = _read_rows(path)
    unknown = sorted(set(side_of) - set(index_of) - set(known))
    if unknown:
        raise InputError(
            f"{path.name}: {len(unknown)} of {len(side_of)} clip ids are of no pair in the folder "
            f"({_examples(unknown)}): an id is the files' name without its ending"
        )
    chosen = {index_of[clip_id]: side for clip_id, side in side_of.items() if clip_id in index_of}
    if len(chosen) < len(side_of):
        logger.warning(
            "%s names %d clips that are not used: a file is missing, or the set was not asked for",
            path.name,
            len(side_of) - len(chosen),
        )
    _check_disjoint(path, pairs, chosen)
    groups = group_ids_of(pairs)
    for set_name in sorted({pair.set_name for pair in pairs}):
        indices = [index for index, pair in enumerate(pairs) if pair.set_name == set_name]
        if chosen and not any(index in chosen for index in indices):
            blocked = {groups[index] for index, side in chosen.items() if side == "train"}
            free = [index for index in indices if groups[index] not in blocked]
            logger.warning("%s names no pair of %s: all %d are test", path.name, set_name, len(free))
            chosen |= dict.fromkeys(free, "test")
    sides = {side: np.array(sorted(p for p, s in chosen.items() if s == side), dtype=int) for side in SPLITS}
    for side, indices in sides.items():
        if not len(indices):
            raise InputError(f"{path.name}: no pair is in {side}; expected both train and test")
    n_left = len(pairs) - len(chosen)
    if n_left:
        logger.warning("%d of %d pairs are not named in %s and left out", n_left, len(pairs), path.name)
    return PairSplit(sides["train"], sides["test"])


def _read_rows(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not a text file: expected a CSV clip_id,split in UTF-8") from None
    side_of: dict[str, str] = {}
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and [cell.lower() for cell in cells] == ["clip_id", "split"]):
            continue
        if len(cells) != 2 or not cells[0]:
            raise InputError(f"{path.name}: row {number} has {len(cells)} columns; expected clip_id,split")
        clip_id, side = cells[0], cells[1].lower()
        if side not in SPLITS:
            raise InputError(f"{path.name}: row {number}: unknown split {cells[1]!r}; expected train or test")
        if side_of.setdefault(clip_id, side) != side:
            raise InputError(f"{path.name}: {clip_id} is in train and in test")
    if not side_of:
        raise InputError(f"{path.name} holds no row: expected a CSV clip_id,split with train or test")
    return side_of


def _check_disjoint(path: Path, pairs: Sequence[Pair], chosen: dict[int, str]) -> None:
    sides: dict[int, set[str]] = {}
    groups = group_ids_of(pairs)
    for index, side in chosen.items():
        sides.setdefault(groups[index], set()).add(side)
    both = {group for group, found in sides.items() if len(found) > 1}
    if both:
        shared = sorted({pairs[index].person for index in chosen if groups[index] in both})
        raise InputError(
            f"{path.name}: {len(both)} videos or persons are in train and in test "
            f"({_examples(shared)}): split by video, never by clip"
        )


def _named(groups: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Name each group by its first name, so that its place in the draw follows from the names alone."""
    first: dict[int, str] = {}
    for group, name in zip(groups, names, strict=True):
        first.setdefault(int(group), str(name))
    return np.array([first[int(group)] for group in groups])


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return f"{shown}, ..." if len(names) > _LISTED else shown
