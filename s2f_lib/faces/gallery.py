"""A folder of pictures as a gallery to retrieve from: faces found, aligned, described, and kept."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from s2f_lib import paths
from s2f_lib.config import StudyConfig
from s2f_lib.errors import InputError, MissingFileError

logger = logging.getLogger(__name__)

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FORMAT_VERSION = 2  # of the files; another number makes them anew
# A run's width fits its clips, in which faces may fill half of the frame; pictures are of any kind.
_LEAST_WIDTH_PX = 640


def read_gallery(folder: Path, config: StudyConfig) -> tuple[tuple[str, ...], np.ndarray, tuple[bytes, ...]]:
    """Find and describe the faces of a folder of pictures, once.

    Parameters
    ----------
    folder
        Pictures, one face each; of several faces the clearest counts, and pictures
        without one are passed over with a line in the log.
    config
        Detector, crop and feature extractor.

    Returns
    -------
    names, features, images
        n file names, (n, d) float32 and n JPEG files of aligned faces.

    Raises
    ------
    MissingFileError
        There is no such folder.
    InputError
        No picture in it shows a face.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"no folder {folder}: expected pictures with one face each")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    digest = hashlib.sha256(
        json.dumps([FORMAT_VERSION, config.features.digest(), config.preparation.digest()]).encode()
    )
    for path in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    cached = paths.data_dir() / "galleries" / f"{digest.hexdigest()[:12]}.npz"
    if not cached.is_file():
        _extract_folder(files, folder, config, cached)
    with np.load(cached) as found:
        ends, data = found["ends"], found["pictures"].tobytes()
        starts = [0, *ends[:-1]]
        images = tuple(data[start:end] for start, end in zip(starts, ends, strict=True))
        return tuple(str(name) for name in found["names"]), found["features"], images


def _extract_folder(files: list[Path], folder: Path, config: StudyConfig, cached: Path) -> None:
    import cv2

    from s2f_lib.faces.alignment import align_face
    from s2f_lib.faces.detector import make_detector
    from s2f_lib.faces.extractor import make_extractor
    from s2f_lib.media.jpeg import encode_jpeg

    settings = config.preparation
    width_px = max(settings.detection_width_px, _LEAST_WIDTH_PX)
    detector = make_detector(settings.detector, threshold=settings.detection_threshold, width_px=width_px)
    names, crops = [], []
    for path in files:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        faces = [] if image is None else detector.detect([cv2.cvtColor(image, cv2.COLOR_BGR2RGB)])[0]
        if not faces:
            logger.warning("%s: %s", path.name, "no picture" if image is None else "no face found")
            continue
        frame = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        aligned = align_face(frame, faces[0], size_px=settings.crop_px, margin=settings.crop_margin)
        names.append(path.name)
        crops.append(aligned.image)
    if not names:
        raise InputError(f"none of the {len(files)} pictures in {folder} shows a face: expected at least one")
    features = make_extractor(config.features, device="auto")(np.stack(crops))
    images = [encode_jpeg(crop, quality=settings.jpeg_quality) for crop in crops]
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(".part.npz")
    np.savez(
        partial,
        names=np.array(names),
        features=features,
        pictures=np.frombuffer(b"".join(images), np.uint8),
        ends=np.cumsum([len(image) for image in images]),
    )
    partial.replace(cached)
