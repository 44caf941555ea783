"""Aligned faces and their features from image files, cached on disk: UTKFace and galleries for retrieval.

`training.decoder` trains on a `FaceSet` as it does on prepared clips.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s2f_lib import paths
from s2f_lib.config import FeatureConfig, PreparationConfig
from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.faces.alignment import CROP_MARGIN, CROP_PX, align_face
from s2f_lib.faces.detection import Detection
from s2f_lib.faces.detector import make_detector
from s2f_lib.faces.extractor import FaceFeatureExtractor, make_extractor
from s2f_lib.media.jpeg import PackedJpegs, encode_jpeg
from s2f_lib.sources.utkface import GALLERY, REPORT_TRAIN, RefusedFace, read_utkface, split_utkface
from s2f_lib.storage import cached_arrays, cached_folder, digest, file_digest

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3  # increase it when the same settings give different faces
_GALLERY_VERSION = 4  # the same for galleries
_BATCH = 64  # faces that are aligned and extracted together
_BORDER = 0.25  # replicated border around an image, as a share of its longer side
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
# the detection width of a run fits its clips, in which a face may fill half of the frame; faces in a gallery
# may be smaller
_MIN_GALLERY_WIDTH_PX = 640


@dataclass(frozen=True)
class FaceSet:
    """Aligned faces and their features.

    Attributes
    ----------
    clip_ids
        Name of each face.
    video_ids
        Group of each face; the validation split never divides a group. For single images: the name.
    features
        `(n, dimension)` float32.
    images
        `(n, 224, 224, 3)` uint8 RGB; may be mapped from the disk.

    Examples
    --------
    >>> names = ["a.jpg", "b.jpg"]
    >>> faces = FaceSet(names, names, np.eye(2, dtype=np.float32), np.zeros((2, 224, 224, 3), np.uint8))
    >>> faces.subset(np.array([False, True])).clip_ids
    ['b.jpg']
    >>> faces.crops([1]).shape
    (1, 224, 224, 3)
    """

    clip_ids: list[str]
    video_ids: list[str]
    features: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.clip_ids)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names and features, 16 hexadecimal digits."""
        return digest("\n".join(self.clip_ids), self.features, length=16)

    def crops(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return the faces at `indices` (default: all) as `(m, 224, 224, 3)` uint8 RGB."""
        return np.array(self.images if indices is None else self.images[np.asarray(indices)])

    def subset(self, mask: np.ndarray) -> FaceSet:
        """Return the faces that a `(n,)` bool mask selects, or those at `(m,)` indices, in memory."""
        mask = np.asarray(mask)
        rows = np.flatnonzero(mask) if mask.dtype == bool else mask
        return FaceSet(
            [self.clip_ids[row] for row in rows],
            [self.video_ids[row] for row in rows],
            self.features[rows],
            self.images[rows],
        )


@dataclass(frozen=True)
class UTKFaceSets:
    """UTKFace, split into training and test faces.

    Attributes
    ----------
    train, test
        Aligned faces with features; no face is in both.
    table
        All faces that were read: columns name, split, age_years, gender, race.
    refused
        Files that could not be used.
    """

    train: FaceSet
    test: FaceSet
    table: pd.DataFrame
    refused: tuple[RefusedFace, ...]


def face_set_from_files(
    files: Sequence[Path],
    extractor: FaceFeatureExtractor,
    *,
    contents: Sequence[str],
    cache: Path,
    progress: Callable[..., Any] | None = None,
) -> FaceSet:
    """Align the faces of image files and compute their features, or read both from the cache.

    Parameters
    ----------
    files
        Images that are filled by one face, such as UTKFace's cropped images. No detector runs: the middle of
        the image is taken as the face box.
    extractor
        Extractor of the features.
    contents
        Digest of each file. These digests, the names and the extractor's fingerprint name the cached folder.
    cache
        Parent folder of the cached results.
    progress
        Function that is called with (done, total).

    Returns
    -------
    FaceSet
        Faces in the order of the files; the images are mapped from the disk.

    Raises
    ------
    InputError
        A file is not an image.

    See Also
    --------
    load_utkface : Reads UTKFace and its split.

    Examples
    --------
    >>> import cv2
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.faces.extractor import DlibResNet
    >>> file = Path(mkdtemp()) / "face.png"
    >>> _ = cv2.imwrite(str(file), np.full((200, 200, 3), 120, np.uint8))
    >>> faces = face_set_from_files([file], DlibResNet(), contents=["1a2b"], cache=file.parent)
    >>> faces.features.shape
    (1, 128)
    """
    names = [path.name for path in files]
    settings = {
        "form": FORMAT_VERSION,
        "margin": CROP_MARGIN,
        "size_px": CROP_PX,
        "extractor": extractor.fingerprint,
    }

    def write(folder: Path) -> None:
        shape = (len(files), CROP_PX, CROP_PX, 3)
        images = np.lib.format.open_memmap(folder / "faces.npy", mode="w+", dtype=np.uint8, shape=shape)
        features = np.zeros((len(files), extractor.dimension), np.float32)
        for start in range(0, len(files), _BATCH):
            rows = slice(start, start + _BATCH)
            images[rows] = [_align_whole_image(path) for path in files[rows]]
            features[rows] = extractor(np.array(images[rows]))
            if progress is not None:
                progress(min(start + _BATCH, len(files)), len(files))
        images.flush()
        np.save(folder / "features.npy", features)

    name = digest(json.dumps([settings, names, list(contents)]))
    folder = cached_folder(Path(cache) / name, write)
    return FaceSet(
        names, names, np.load(folder / "features.npy"), np.load(folder / "faces.npy", mmap_mode="r")
    )


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
    """Read and split UTKFace, align its faces and compute their features; the results are cached.

    Parameters
    ----------
    folder
        Folder of the images; see `read_utkface`.
    extractor
        Extractor of the features.
    cache
        Folder for faces and features (150 kB per face) and for the split as CSV.
    n_train, n_gallery, fold
        Sizes of the training and test sets, and index of the fold; see `split_utkface`.
    progress
        Function that is called with (done, total).

    Returns
    -------
    UTKFaceSets
        Training faces, test faces and the split.

    Raises
    ------
    MissingFileError
        The folder does not exist.
    InputError
        The folder has too few faces.

    See Also
    --------
    face_set_from_files : Aligns the faces.

    Examples
    --------
    >>> import cv2
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.faces.extractor import DlibResNet
    >>> folder = Path(mkdtemp())
    >>> for age in (20, 30, 40):
    ...     image = np.full((200, 200, 3), 3 * age, np.uint8)
    ...     _ = cv2.imwrite(str(folder / f"{age}_0_2_201701161745251{age}.jpg"), image)
    >>> sets = load_utkface(folder, DlibResNet(), cache=folder / "cache", n_train=2, n_gallery=1)
    >>> len(sets.train), len(sets.test), sorted(sets.table["age_years"])
    (2, 1, [20, 30, 40])
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
    table.to_csv(Path(cache) / "splits.csv", index=False)
    splits = table.loc[used, "split"].to_numpy()
    return UTKFaceSets(faces.subset(splits == "train"), faces.subset(splits == "test"), table, found.refused)


def read_gallery(
    folder: Path, *, preparation: PreparationConfig, features: FeatureConfig
) -> tuple[tuple[str, ...], np.ndarray, tuple[bytes, ...]]:
    """Detect and align the faces in a folder of images and compute their features; results are cached.

    If an image shows several faces, the most confident one is used. An image without a face is skipped with a
    warning. Returns the file names, `(n, dimension)` float32 features, and the aligned faces as JPEG files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}: expected images with one face each")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    settings = [_GALLERY_VERSION, features.digest(), preparation.digest()]
    name = digest(settings, *(path.name + file_digest(path) for path in files))
    gallery = cached_arrays(
        paths.data_dir() / "galleries" / f"{name}.npz",
        lambda: _extract_gallery(files, folder, preparation, features),
    )
    images = PackedJpegs(gallery["images"], gallery["spans"])
    return tuple(map(str, gallery["names"])), gallery["features"], tuple(images)


def _extract_gallery(
    files: list[Path], folder: Path, preparation: PreparationConfig, features: FeatureConfig
) -> dict[str, np.ndarray]:
    width_px = max(preparation.detection_width_px, _MIN_GALLERY_WIDTH_PX)
    detector = make_detector(preparation.detector, width_px=width_px)
    names, crops = [], []
    for path in files:
        try:
            frame = _read_rgb(path)
        except InputError as error:
            logger.warning("%s", error)
            continue
        (faces,) = detector.detect([frame])
        if not faces:
            logger.warning("%s shows no face: skipped", path.name)
            continue
        names.append(path.name)
        crops.append(align_face(frame, faces[0]).image)
    if not names:
        raise InputError(f"none of the {len(files)} images in {folder} shows a face: expected at least one")
    images = PackedJpegs.pack(encode_jpeg(crop) for crop in crops)
    vectors = make_extractor(features, device="auto")(np.stack(crops))
    return {"names": np.array(names), "features": vectors, "images": images.data, "spans": images.spans}


def _align_whole_image(path: Path) -> np.ndarray:
    """Return the aligned face of an image that is filled by one face."""
    import cv2

    image = _read_rgb(path)
    height, width = image.shape[:2]
    # the crop may extend beyond the image: pad with replicated edge pixels, because dlib would pad with black
    border = round(_BORDER * max(height, width))
    image = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_REPLICATE)
    # the face box is the middle of the image, without dlib's margin on each side
    near, far = CROP_MARGIN / (1 + 2 * CROP_MARGIN), (1 + CROP_MARGIN) / (1 + 2 * CROP_MARGIN)
    left, right, top, bottom = near * width, far * width, near * height, far * height
    box = Detection(left + border, top + border, right + border, bottom + border, confidence=1.0)
    return align_face(image, box).image


def _read_rgb(path: Path) -> np.ndarray:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path.name} is not an image: expected a file such as JPEG or PNG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
