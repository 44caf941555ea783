"""Train and test splits: one CSV format, `clip_id,split`, and the rules by which a split is drawn.

No split divides a video or a person. For AVSpeech, whose list is too long to be held in memory, a hash of the
video id decides the split. The split of the public pairs is random, by groups of videos and people.
"""

from __future__ import annotations

import csv
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.public_pairs import Pair, group_ids_of
from s2f_lib.storage import digest, write_atomically

logger = logging.getLogger(__name__)

SPLITS = ("train", "test")

_HEADER = ["clip_id", "split"]
_SECONDS = re.compile(r"_\d{3,}\.\d{6}-\d{3,}\.\d{6}$")  # the end of `make_clip_id`
_N_EXAMPLES = 3  # number of names in an error message


@dataclass(frozen=True)
class PairSplit:
    """The pairs for training and for testing: ascending indices into the list of pairs, `(n,)` int."""

    train: np.ndarray
    test: np.ndarray

    def by_clip(self, pairs: Sequence[Pair]) -> dict[str, str]:
        """Return clip id to "train" or "test", in the order of the pairs."""
        split_of = dict.fromkeys(self.train, "train") | dict.fromkeys(self.test, "test")
        return {pairs[index].clip_id: split_of[index] for index in sorted(split_of)}


def split_of_video(video_id: str, *, test_share: float, seed: int = 0) -> str:
    """Return "train" or "test"; it depends only on the video id and the seed, not on the order of a list.

    `test_share` is the expected share of the videos in the test split, in (0, 1).
    """
    position = int(digest(f"{seed}:{video_id}", length=16), 16) / 2**64  # uniform in [0, 1)
    return "test" if position < test_share else "train"


def draw_splits(
    pairs: Sequence[Pair], *, n_splits: int = 1, test_share: float = 0.2, seed: int = 0
) -> list[PairSplit]:
    """Draw splits of the public pairs, separately for AVSpeech and VoxCeleb.

    Parameters
    ----------
    pairs
        All pairs.
    n_splits
        Number of splits. They are drawn independently, so their test parts overlap. The first split does not
        depend on `n_splits`.
    test_share
        Share of the groups (videos or people) in the test split, in (0, 1).
    seed
        Seed of the splits.

    Returns
    -------
    list of PairSplit
        Splits that divide no video and no person.

    Raises
    ------
    InputError
        A data set has fewer than two groups.

    See Also
    --------
    read_pair_split : Reads a stored split.

    Examples
    --------
    >>> from pathlib import Path
    >>> from s2f_lib.sources.public_pairs import Pair
    >>> file = Path("unused")
    >>> pairs = [Pair(f"{n}", "avspeech", f"{n}", f"{n}", file, file, file) for n in range(10)]
    >>> (split,) = draw_splits(pairs)
    >>> len(split.train), len(split.test)
    (8, 2)
    """
    from sklearn.model_selection import GroupShuffleSplit

    groups = group_ids_of(pairs)
    first = {group: pair for group, pair in reversed(list(zip(groups, pairs, strict=True)))}
    set_names = np.array([first[group].set_name for group in groups])  # one data set per group
    labels = np.array([first[group].person for group in groups])  # the draw depends only on the names
    splits: list[tuple[list[int], list[int]]] = [([], []) for _ in range(n_splits)]
    for set_name in np.unique(set_names):
        indices = np.flatnonzero(set_names == set_name)
        if len(np.unique(labels[indices])) < 2:
            raise InputError(
                f"{len(indices)} pairs of {set_name} are of one video or person: a split needs two groups"
            )
        shuffle = GroupShuffleSplit(n_splits, test_size=test_share, random_state=seed)
        for split, chosen in zip(splits, shuffle.split(indices, groups=labels[indices]), strict=True):
            for part, rows in zip(split, chosen, strict=True):
                part.extend(indices[rows])
    return [PairSplit(np.sort(train), np.sort(test)) for train, test in splits]


def read_split(path: Path) -> dict[str, str]:
    """Read a stored split: clip id to "train" or "test", in the order of the file.

    The file is a CSV `clip_id,split`, with or without a header and a byte order mark. An InputError names a
    row that is malformed or that gives a clip a second split.

    Examples
    --------
    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile() as file:
    ...     write_split(file.name, {"AAAAAAAAAAA_1": "train", "BBBBBBBBBBB_1": "test"})
    ...     read_split(file.name)
    {'AAAAAAAAAAA_1': 'train', 'BBBBBBBBBBB_1': 'test'}
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no split at {path}: expected a CSV clip_id,split with train or test")
    split_of: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for number, row in enumerate(csv.reader(stream), 1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and [cell.lower() for cell in cells] == _HEADER):
                    continue
                where = f"{path.name}: row {number}"
                if len(cells) != 2 or not cells[0]:
                    raise InputError(f"{where} has {len(cells)} columns; expected clip_id,split")
                clip_id, split = cells[0], cells[1].lower()
                if split not in SPLITS:
                    raise InputError(f"{where}: unknown split {cells[1]!r}; expected train or test")
                if split_of.setdefault(clip_id, split) != split:
                    raise InputError(f"{where}: {clip_id} is in train and in test")
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not a text file: expected a CSV clip_id,split in UTF-8") from None
    if not split_of:
        raise InputError(f"{path.name} holds no row: expected a CSV clip_id,split with train or test")
    return split_of


def read_video_split(path: Path) -> dict[str, str]:
    """Read a stored split that divides no video: video id (first 11 characters of a clip id) to split."""
    split_of: dict[str, str] = {}
    for clip_id, split in read_split(path).items():
        if split_of.setdefault(clip_id[:11], split) != split:
            raise InputError(
                f"{Path(path).name}: video {clip_id[:11]} is in train and in test; split by video"
            )
    return split_of


def normalize_name(name: str) -> str:
    """Return a file name in Unicode's form NFC; macOS stores an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)


def read_file_split(path: str | Path) -> dict[str, str]:
    """Read a stored split that divides no file: name of a file to split.

    A clip id of the CSV is the name of a file, perhaps with the seconds of a clip as `make_clip_id` writes
    them. Names are in Unicode's form NFC.
    """
    split_of: dict[str, str] = {}
    for clip_id, split in read_split(Path(path)).items():
        name = normalize_name(_SECONDS.sub("", clip_id))
        if split_of.setdefault(name, split) != split:
            raise InputError(f"{Path(path).name}: {name} is in train and in test; split by file")
    return split_of


def read_pair_split(path: Path, pairs: Sequence[Pair], *, known: Sequence[str] = ()) -> PairSplit:
    """Read a stored split of the public pairs.

    Pairs that the file does not name are left out. There is one exception: if the file names no pair of a
    data set, all pairs of this set are test pairs. So VoxCeleb's pairs can test a model of AVSpeech's.

    Parameters
    ----------
    path
        The CSV; see `read_split`.
    pairs
        All pairs that can be used.
    known
        Other clip ids that the file may name: incomplete pairs, and pairs of a data set that is not used.

    Returns
    -------
    PairSplit
        Indices into `pairs`.

    Raises
    ------
    InputError
        The file cannot be read as a split, an id is unknown, a video or person is in both splits, or a
        split is empty.

    See Also
    --------
    draw_splits : Draws splits instead.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.sources.public_pairs import Pair
    >>> csv = Path(mkdtemp()) / "split.csv"
    >>> pairs = [Pair(name, "avspeech", name, name, csv, csv, csv) for name in "abc"]
    >>> write_split(csv, {"a": "train", "b": "test", "c": "train"})
    >>> read_pair_split(csv, pairs).train
    array([0, 2])
    """
    name = Path(path).name
    stored = read_split(path)
    index_of = {pair.clip_id: index for index, pair in enumerate(pairs)}
    unknown = sorted(set(stored) - set(index_of) - set(known))
    if unknown:
        raise InputError(
            f"{name}: {len(unknown)} of {len(stored)} clip ids are of no pair in the folder "
            f"({_examples(unknown)}): an id is the name of the files without its suffix"
        )
    split_of = {index_of[clip_id]: split for clip_id, split in stored.items() if clip_id in index_of}
    if n_unused := len(stored) - len(split_of):
        logger.warning("%s names %d clips that are not used (no file, or another data set)", name, n_unused)
    groups = group_ids_of(pairs)
    last_split = {groups[index]: split for index, split in split_of.items()}
    both = {groups[index] for index, split in split_of.items() if last_split[groups[index]] != split}
    if both:
        shared = sorted({pairs[index].person for index in split_of if groups[index] in both})
        raise InputError(
            f"{name}: {len(both)} videos or people are in train and in test "
            f"({_examples(shared)}): split by video, never by clip"
        )
    train_groups = {groups[index] for index, split in split_of.items() if split == "train"}
    named_sets = {pairs[index].set_name for index in split_of}
    for set_name in sorted({pair.set_name for pair in pairs} - named_sets):
        in_set = (index for index, pair in enumerate(pairs) if pair.set_name == set_name)
        free = [index for index in in_set if groups[index] not in train_groups]
        logger.warning("%s names no pair of %s: all %d are test pairs", name, set_name, len(free))
        split_of |= dict.fromkeys(free, "test")
    indices = {split: np.array(sorted(i for i, s in split_of.items() if s == split), int) for split in SPLITS}
    for split in SPLITS:
        if not len(indices[split]):
            raise InputError(f"{name}: no pair is in {split}; expected both train and test")
    if n_left := len(pairs) - len(split_of):
        logger.warning("%d of %d pairs are not named in %s and left out", n_left, len(pairs), name)
    return PairSplit(indices["train"], indices["test"])


def write_split(path: Path, split_of: Mapping[str, str]) -> None:
    """Write clip id to "train" or "test" as a CSV `clip_id,split` with a header; see `read_split`."""
    rows = [_HEADER, *split_of.items()]
    write_atomically(path, "".join(f"{clip_id},{split}\n" for clip_id, split in rows))


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_N_EXAMPLES])
    return f"{shown}, ..." if len(names) > _N_EXAMPLES else shown
