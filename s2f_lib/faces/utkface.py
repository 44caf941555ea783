"""UTKFace as aligned faces with features: the decoder's training set and its gallery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from s2f_lib.faces.extractor import FaceFeatureExtractor
from s2f_lib.faces.face_set import FaceSet, face_set_from_files
from s2f_lib.sources.utkface import GALLERY, REPORT_TRAIN, RefusedFace, read_utkface, split_utkface

_SPLITS_FILE = "splits.csv"


@dataclass(frozen=True)
class UTKFaceSets:
    """UTKFace, divided.

    Attributes
    ----------
    train, test
        Aligned faces with features; none is in both.
    table
        Columns name, split, age_years, gender, race, of all faces that were read.
    refused
        Files that could not be used.
    """

    train: FaceSet
    test: FaceSet
    table: pd.DataFrame
    refused: tuple[RefusedFace, ...]


def load_utkface(
    folder: Path,
    extractor: FaceFeatureExtractor,
    *,
    cache: Path,
    n_train: int = REPORT_TRAIN,
    n_gallery: int = GALLERY,
    fold: int = 0,
    progress: Callable[..., Any] | None = None,
) -> UTKFaceSets:
    """Read, divide, align and describe UTKFace; what was made before is read from `cache`.

    Parameters
    ----------
    folder
        Of the pictures; see `sources.utkface`.
    extractor
        Gives the features.
    cache
        Where faces and features are kept, 150 kB a face; the split goes there as CSV.
    n_train, n_gallery, fold
        See `sources.utkface.split_utkface`.
    progress
        Called with (done, total).

    Raises
    ------
    MissingFileError, InputError
        There is no such folder, or too few faces are in it.
    """
    found = read_utkface(folder)
    table = split_utkface(found.faces, n_train=n_train, n_gallery=n_gallery, fold=fold)
    used = table["split"] != ""
    chosen = [face for face, is_used in zip(found.faces, used, strict=True) if is_used]
    faces = face_set_from_files(
        [face.path for face in chosen],
        extractor,
        contents=[face.content for face in chosen],
        cache=cache,
        progress=progress,
    )
    table.to_csv(Path(cache) / _SPLITS_FILE, index=False)
    splits = table.loc[used, "split"].to_numpy()
    return UTKFaceSets(faces.subset(splits == "train"), faces.subset(splits == "test"), table, found.refused)
