"""The choice of a face detector, and dlib's own as the reference.

Both detectors run the network of dlib's `mmod_human_face_detector.dat` on frames that are scaled to one
width, so their boxes mean the same. `dlib_port.detector` is the fast one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from s2f_lib.errors import ConfigError
from s2f_lib.faces.detection import Detection, FaceDetector, scale_to_width
from s2f_lib.faces.dlib_port.weights import dlib_weights


class DlibFaceDetector:
    """dlib's CNN face detector, the reference. It scales frames to a width of `width_px` pixels."""

    def __init__(self, width_px: int = 640) -> None:
        self.width_px = width_px
        self._model = _load_dlib_detector()

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Find the faces in each frame; see `FaceDetector.detect`."""
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
        ]
        return sorted(found, key=lambda face: -face.confidence)


def make_detector(name: str, *, width_px: int = 640, device: str = "cpu") -> FaceDetector:
    """Return a face detector by its name in the settings.

    Parameters
    ----------
    name
        "dlib" for dlib itself, "torch" for the same network in torch.
    width_px
        Width in pixels to which frames are scaled for the network.
    device
        A torch device, or "auto". The dlib detector ignores it.

    Returns
    -------
    FaceDetector
        The detector, with its network loaded.

    Raises
    ------
    ConfigError
        The name is unknown.

    See Also
    --------
    align_face : Crops a detected face.

    Examples
    --------
    >>> detector = make_detector("torch", width_px=80)
    >>> detector.detect([np.zeros((60, 80, 3), np.uint8)])  # one black frame
    [[]]
    """
    if name == "dlib":
        return DlibFaceDetector(width_px)
    if name == "torch":
        from s2f_lib.faces.dlib_port.detector import TorchFaceDetector

        return TorchFaceDetector(width_px=width_px, device=device)
    raise ConfigError(f"unknown face detector {name!r}: expected dlib or torch")


@lru_cache(maxsize=1)
def _load_dlib_detector() -> Any:
    import dlib

    return dlib.cnn_face_detection_model_v1(str(dlib_weights("mmod_human_face_detector.dat")))
