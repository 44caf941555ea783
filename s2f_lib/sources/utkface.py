"""UTKFace: 20,000 aligned faces with age, gender and race in their file names; the report's decoder used it.

A file is called ``[age]_[gender]_[race]_[date].jpg`` or, in the aligned and cropped form,
``....jpg.chip.jpg``. Files whose name lacks a part are refused. Copies are refused, too: otherwise one face
could be in the training set and in the gallery.

The licence allows only research. The study publishes numbers about the faces, but no image.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from s2f_lib.errors import NAMES_CLIP, InputError, MissingFileError
from s2f_lib.storage import file_digest

logger = logging.getLogger(__name__)

GENDERS = ("male", "female")
RACES = ("White", "Black", "Asian", "Indian", "Others")
MAX_AGE_YEARS = 116  # as the web page of the data set states

#: Number of training faces in the report, and number of faces in the gallery that evaluates decoders.
REPORT_TRAIN, GALLERY = 5_900, 400

_NAME = re.compile(r"(?P<parts>\d+(?:_\d+)*)_(?P<date>\d{14,20})\.jpe?g(?:\.chip\.jpe?g)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class UTKFace:
    """One face image; age, gender and race as the data set states them."""

    path: Path
    name: str  # file name, unique in the folder
    age_years: int  # 0 to 116
    gender: str  # one of `GENDERS`
    race: str  # one of `RACES`
    content: str  # SHA-256 digest of the file


@dataclass(frozen=True, slots=True)
class RefusedFace:
    """A file that cannot be used."""

    name: str  # file name
    reason: str  # "name", "age", "gender", "race" or "copy"
    detail: str  # what was found and what was expected


@dataclass(frozen=True)
class UTKFaceFolder:
    """The faces of a folder, in the order of their names, and the refused files."""

    faces: tuple[UTKFace, ...]
    refused: tuple[RefusedFace, ...]

    def refusals(self) -> dict[str, int]:
        """Return the number of refused files per reason."""
        return dict(Counter(refused.reason for refused in self.refused))


def read_utkface(folder: Path) -> UTKFaceFolder:
    """Read the file names of a UTKFace folder.

    Parameters
    ----------
    folder
        Folder with the images, or with sub-folders of them (`part1`, `crop_part1`).

    Raises
    ------
    MissingFileError
        The folder does not exist.
    InputError
        No file in the folder is a face of UTKFace.

    See Also
    --------
    split_utkface : Divides the faces into training set and gallery.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> _ = (folder / "25_0_2_20170116174525125.jpg.chip.jpg").write_bytes(b"image")
    >>> (face,) = read_utkface(folder).faces
    >>> face.age_years, face.gender, face.race
    (25, 'male', 'Asian')
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(
            f"no folder {folder}: expected UTKFace's images, [age]_[gender]_[race]_[date].jpg.chip.jpg"
        )
    faces: list[UTKFace] = []
    refused: list[RefusedFace] = []
    seen: dict[str, str] = {}  # photo or content to file name
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")):
        face = _read_name(path)
        photo = path.name.split(".", 1)[0]  # X.jpg and X.jpg.chip.jpg are one photo with different bytes
        if isinstance(face, UTKFace) and (known := seen.get(photo) or seen.get(face.content)):
            face = RefusedFace(path.name, "copy", f"the same image as {known}")
        if isinstance(face, RefusedFace):
            refused.append(face)
        else:
            seen[face.content] = seen[photo] = face.name
            faces.append(face)
    if not faces:
        raise InputError(
            f"{folder} holds no face of UTKFace ({len(refused)} images have other names): "
            "expected [age]_[gender]_[race]_[date].jpg or .jpg.chip.jpg"
        )
    read = UTKFaceFolder(tuple(faces), tuple(refused))
    if refused:
        n_images = len(refused) + len(faces)
        logger.warning("%d of %d images are refused: %s", len(refused), n_images, read.refusals())
        for file in refused[:5]:
            logger.warning("  %s: %s", file.name, file.detail, extra=NAMES_CLIP)
    return read


def split_utkface(
    faces: Sequence[UTKFace], *, n_train: int = REPORT_TRAIN, n_gallery: int = GALLERY, fold: int = 0
) -> pd.DataFrame:
    """Divide faces into training set and gallery by the content of their files.

    The faces are sorted by the SHA-256 digest of their files. The first `n_gallery` faces are the gallery of
    fold 0, the next ones the gallery of fold 1, and so on. So two galleries share no face, and a gallery does
    not depend on the number of training faces.

    Parameters
    ----------
    faces
        Faces of one folder, without copies.
    n_train
        Largest number of training faces; 5,900 in the report.
    n_gallery
        Number of faces in the gallery.
    fold
        Index of the gallery. A choice that was made with one gallery must be evaluated with another.

    Returns
    -------
    pandas.DataFrame
        Columns name, split ("test", "train" or "" for a face that is not used), age_years, gender, race.

    Raises
    ------
    InputError
        No faces are left for training.

    Examples
    --------
    >>> from pathlib import Path
    >>> contents = ["d", "a", "c", "b"]
    >>> faces = [UTKFace(Path("unused"), c, 30, "female", "White", content=c) for c in contents]
    >>> list(split_utkface(faces, n_gallery=2)["split"])
    ['train', 'test', 'train', 'test']
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
    def refused(reason: str, detail: str) -> RefusedFace:
        return RefusedFace(path.name, reason, detail)

    expected = "expected [age]_[gender]_[race]_[date].jpg"
    match = _NAME.fullmatch(path.name)
    if match is None:
        return refused("name", f"{expected}, found other parts")
    parts = [int(part) for part in match["parts"].split("_")]
    if len(parts) != 3:
        return refused("name", f"{expected}, found {len(parts)} of the 3 parts before the date")
    age, gender, race = parts
    if age > MAX_AGE_YEARS:
        return refused("age", f"expected an age of 0 to {MAX_AGE_YEARS}, found {age}")
    if gender >= len(GENDERS):
        return refused("gender", f"expected 0 (male) or 1 (female), found {gender}")
    if race >= len(RACES):
        return refused("race", f"expected 0 to {len(RACES) - 1}, found {race}")
    return UTKFace(path, path.name, age, GENDERS[gender], RACES[race], file_digest(path))
