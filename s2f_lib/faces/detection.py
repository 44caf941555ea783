"""Detected faces and what all detectors share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from s2f_lib.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Detection:
    """A detected face.

    Attributes
    ----------
    left, top, right, bottom
        Face box in pixels of the frame that was given to the detector. It may extend beyond the frame.
    confidence
        Score of the network. dlib reports faces above 0; clear faces have a score near 1.

    Examples
    --------
    >>> Detection(left=10, top=20, right=50, bottom=60, confidence=1.0).centre
    (30.0, 40.0)
    """

    left: float
    top: float
    right: float
    bottom: float
    confidence: float

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box, x and y in pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def scaled(self, factor: float) -> Detection:
        """Return the same face in a frame that is `factor` times as large."""
        return Detection(
            self.left * factor, self.top * factor, self.right * factor, self.bottom * factor, self.confidence
        )


class FaceDetector(Protocol):
    """Interface of a face detector."""

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Find the faces in each frame.

        Parameters
        ----------
        frames
            Frames, each `(height, width, 3)` uint8 RGB. Their sizes may differ.

        Returns
        -------
        list of list of Detection
            One list per frame, the most confident face first, with boxes in pixels of that frame.
        """
        ...


def scale_to_width(frame: np.ndarray, width_px: int) -> tuple[np.ndarray, float]:
    """Scale a frame, `(height, width, 3)` uint8, to a width and keep its aspect ratio.

    Returns the contiguous frame and the factor, `width_px / width`.
    """
    import cv2

    height, width = frame.shape[:2]
    factor = width_px / width
    if width == width_px:
        return np.ascontiguousarray(frame), 1.0
    size = (width_px, max(1, round(height * factor)))  # cv2 takes the width first
    # INTER_AREA avoids aliasing in smaller frames, but it cannot enlarge
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, size, interpolation=interpolation), factor


def resolve_device(name: str) -> torch.device:
    """Return the torch device of a name; "auto" is a GPU if there is one and the CPU otherwise."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}: expected auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} is set, but torch finds no GPU; use cpu or auto")
    return device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Limit torch's CPU threads inside a block and restore their number afterwards.

    Without effect if torch is not imported yet, because the import takes seconds.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
