"""Where the faces are: one small protocol, the dlib backend, and a choice of backends.

Both backends run the network of dlib's `mmod_human_face_detector.dat` on frames
scaled to one width, so a box means the same whichever found it.  The dlib one
is the reference; `torch_detector` is the fast one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from s2f_lib.errors import ConfigError, InputError, MissingFileError


@dataclass(frozen=True, slots=True)
class Detection:
    """One face, in pixels of the frame that was given to the detector.

    Attributes
    ----------
    left, top, right, bottom
        The box; it may reach beyond the frame.
    confidence
        The network's score; dlib reports faces above 0, clear ones score near 1.
    """

    left: float
    top: float
    right: float
    bottom: float
    confidence: float

    @property
    def centre(self) -> tuple[float, float]:
        """The box's centre, x and y in pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def width(self) -> float:
        """The box's width in pixels."""
        return self.right - self.left

    def scaled(self, factor: float) -> Detection:
        """Return the same face in a frame `factor` times as large."""
        box = (side * factor for side in (self.left, self.top, self.right, self.bottom))
        return Detection(*box, self.confidence)


class FaceDetector(Protocol):
    """Frames in, faces out."""

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Find the faces of each frame.

        Parameters
        ----------
        frames
            Each (height, width, 3) uint8, RGB; sizes may differ.

        Returns
        -------
        list of list of Detection
            A list a frame, the most confident face first, boxes in that frame's pixels.
        """
        ...


class DlibFaceDetector:
    """dlib's CNN detector, the reference backend.

    Parameters
    ----------
    threshold
        Least confidence, >= 0: dlib itself reports none below 0.
    width_px
        Frames are scaled to this width, aspect kept, before the network sees them.

    Raises
    ------
    InputError
        `threshold` is negative.
    MissingFileError
        The network's file is not installed.
    """

    def __init__(self, threshold: float = 0.0, width_px: int = 640) -> None:
        if threshold < 0:
            raise InputError(
                f"detection threshold {threshold}: dlib reports no face below 0; give 0 or more, "
                "or use the torch detector"
            )
        self.threshold = threshold
        self.width_px = width_px
        self._model = _load_dlib_detector()

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Find the faces of each frame; see `FaceDetector.detect`."""
        return [self._detect_one(frame) for frame in frames]

    def _detect_one(self, frame: np.ndarray) -> list[Detection]:
        scaled, factor = scale_to_width(frame, self.width_px)
        found = [
            Detection(
                float(hit.rect.left()),
                float(hit.rect.top()),
                float(hit.rect.right()),
                float(hit.rect.bottom()),
                float(hit.confidence),
            ).scaled(1 / factor)
            for hit in self._model(scaled, 0)
            if hit.confidence >= self.threshold
        ]
        return sorted(found, key=lambda face: -face.confidence)


def make_detector(
    name: str, *, threshold: float = 0.0, width_px: int = 640, device: str = "cpu"
) -> FaceDetector:
    """Return a detector by its name in the settings.

    Parameters
    ----------
    name
        "dlib" or "torch".
    threshold, width_px
        As `DlibFaceDetector`.
    device
        A torch device; only the torch backend looks at it.

    Raises
    ------
    ConfigError
        The name is unknown.
    """
    if name == "dlib":
        return DlibFaceDetector(threshold=threshold, width_px=width_px)
    if name == "torch":
        from s2f_lib.faces.dlib_port.detector import TorchFaceDetector

        return TorchFaceDetector(threshold=threshold, width_px=width_px, device=device)
    raise ConfigError(f"unknown face detector {name!r}: expected dlib or torch")


def scale_to_width(frame: np.ndarray, width_px: int) -> tuple[np.ndarray, float]:
    """Scale a frame to a width, aspect kept.

    Parameters
    ----------
    frame
        (height, width, 3) uint8.
    width_px
        The width wanted.

    Returns
    -------
    scaled
        (round(height * factor), width_px, 3) uint8, contiguous.
    factor
        width_px / width: a box in `scaled` divided by it is in `frame`.
    """
    import cv2

    height, width = frame.shape[:2]
    factor = width_px / width
    if width == width_px:
        return np.ascontiguousarray(frame), 1.0
    size = (width_px, max(1, round(height * factor)))  # cv2 says width first
    # averaging keeps shrunk frames free of aliasing; it cannot enlarge
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, size, interpolation=how), factor


def dlib_weights(file_name: str) -> Path:
    """Return a file of the installed distribution `face_recognition_models`.

    The package itself is never imported: its `__init__` needs `pkg_resources`,
    which new setuptools no longer bring.

    Raises
    ------
    MissingFileError
        The distribution or the file is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / file_name
        if path.is_file():
            return path
    raise MissingFileError(
        f"{file_name} not found: it comes with the distribution face_recognition_models; "
        "install it with `pip install face_recognition_models`"
    )


@lru_cache(maxsize=1)
def _load_dlib_detector():
    import dlib

    return dlib.cnn_face_detection_model_v1(str(dlib_weights("mmod_human_face_detector.dat")))
