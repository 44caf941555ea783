"""UTKFace: 20,000 aligned faces with age, gender and race in their names; the report's decoder saw them.

A file is called ``[age]_[gender]_[race]_[date].jpg`` or, in the aligned and
cropped form, ``....jpg.chip.jpg``.  Some real names lack a part: those are
refused one by one, with the reason.  So are copies: a face that is in the
folder twice would be in training and in the gallery.

The faces may be used for research alone; the study publishes numbers of them
and no picture.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from s2f_lib.errors import NAMES_CLIP, InputError, MissingFileError

logger = logging.getLogger(__name__)

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
MAX_AGE_YEARS = 116  # the oldest that the data set's page names

#: Training faces of the report, and the gallery that decoders are judged on.
REPORT_TRAIN, GALLERY = 5_900, 400

_NAME = re.compile(r"(?P<parts>\d+(?:_\d+)*)_(?P<date>\d{14,20})\.jpe?g(?:\.chip\.jpe?g)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class UTKFace:
    """One picture.

    Attributes
    ----------
    path
        The file.
    name
        The file's name: unique in its folder.
    age_years
        0 to 116.
    gender
        "male" or "female", as the data set has it.
    race
        One of `RACES`, the data set's own terms.
    content
        SHA-256 of the file.
    """

    path: Path
    name: str
    age_years: int
    gender: str
    race: str
    content: str


@dataclass(frozen=True, slots=True)
class RefusedFace:
    """A file that cannot be used.

    Attributes
    ----------
    name
        The file's name.
    reason
        "name", "age", "gender", "race" or "copy".
    detail
        What was found and what was expected.
    """

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class UTKFaceFolder:
    """What a folder holds: faces in order of their names, and refusals."""

    faces: tuple[UTKFace, ...]
    refused: tuple[RefusedFace, ...]

    def refusals(self) -> dict[str, int]:
        """Return how many files were refused for each reason."""
        return dict(Counter(refused.reason for refused in self.refused))


def read_utkface(folder: Path) -> UTKFaceFolder:
    """Read a folder of UTKFace.

    Parameters
    ----------
    folder
        Holds the pictures, itself or in sub-folders (`part1`, `crop_part1`).

    Raises
    ------
    MissingFileError
        There is no such folder.
    InputError
        No file in it is a face of UTKFace.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(
            f"no folder {folder}: expected UTKFace's pictures, [age]_[gender]_[race]_[date].jpg.chip.jpg"
        )
    faces, refused, seen = [], [], {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")):
        found = _read_name(path)
        photo = path.name.split(".", 1)[0]  # X.jpg and X.jpg.chip.jpg are one photo in other bytes
        known = seen.get(photo) or (seen.get(found.content) if isinstance(found, UTKFace) else None)
        if isinstance(found, UTKFace) and known:
            found = RefusedFace(path.name, "copy", f"the same picture as {known}")
        if isinstance(found, RefusedFace):
            refused.append(found)
            continue
        seen[found.content] = seen[photo] = found.name
        faces.append(found)
    if not faces:
        raise InputError(
            f"{folder} holds no face of UTKFace ({len(refused)} pictures have other names): "
            "expected [age]_[gender]_[race]_[date].jpg or .jpg.chip.jpg"
        )
    read = UTKFaceFolder(tuple(faces), tuple(refused))
    if refused:
        logger.warning(
            "%d of %d pictures refused: %s", len(refused), len(refused) + len(faces), read.refusals()
        )
        for one in refused[:5]:
            logger.warning("  %s: %s", one.name, one.detail, extra=NAMES_CLIP)
    return read


def split_utkface(
    faces: Sequence[UTKFace], *, n_train: int = REPORT_TRAIN, n_gallery: int = GALLERY, fold: int = 0
) -> pd.DataFrame:
    """Divide faces into training and gallery, by their content alone.

    The faces are put in the order of the SHA-256 of their files: the first are fold 0's
    gallery, the next fold 1's, so that more training faces never move one into it or out
    of it, and the galleries of two folds share no face.

    Parameters
    ----------
    faces
        Of one folder, without copies.
    n_train
        At most so many are trained on; the report: 5,900.
    n_gallery
        Held out.
    fold
        Which of the galleries, 0 first.  What was chosen by looking at one is judged on another.

    Returns
    -------
    pandas.DataFrame
        Columns name, split ("test", "train" or "" for those left over), age_years, gender, race.

    Raises
    ------
    InputError
        There are no faces left for training.
    """
    first, end = fold * n_gallery, (fold + 1) * n_gallery
    if len(faces) < max(end, n_gallery + 2):
        raise InputError(
            f"{len(faces)} faces are too few for training and gallery {fold} of {n_gallery}: "
            "give a larger folder, a smaller gallery or an earlier fold"
        )
    order = sorted(range(len(faces)), key=lambda index: faces[index].content)
    splits = [""] * len(faces)
    for index in order[first:end]:
        splits[index] = "test"
    for index in (order[:first] + order[end:])[:n_train]:
        splits[index] = "train"
    rows = [
        (face.name, split, face.age_years, face.gender, face.race)
        for face, split in zip(faces, splits, strict=True)
    ]
    return pd.DataFrame(rows, columns=["name", "split", "age_years", "gender", "race"])


def _read_name(path: Path) -> UTKFace | RefusedFace:
    expected = "expected [age]_[gender]_[race]_[date].jpg"
    match = _NAME.fullmatch(path.name)
    if match is None:
        return RefusedFace(path.name, "name", f"{expected}, found no such parts")
    parts = [int(part) for part in match["parts"].split("_")]
    if len(parts) != 3:
        return RefusedFace(
            path.name, "name", f"{expected}, found {len(parts)} of the 3 parts before the date"
        )
    age, gender, race = parts
    if age > MAX_AGE_YEARS:
        return RefusedFace(path.name, "age", f"expected an age of 0 to {MAX_AGE_YEARS}, found {age}")
    if gender >= len(GENDERS):
        return RefusedFace(path.name, "gender", f"expected 0 (male) or 1 (female), found {gender}")
    if race >= len(RACES):
        return RefusedFace(path.name, "race", f"expected 0 to {len(RACES) - 1}, found {race}")
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return UTKFace(path, path.name, age, GENDERS[gender], RACES[race], content)
