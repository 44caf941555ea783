"""What a face feature extractor is, and the choice of one by its name."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from s2f_lib.config import FeatureConfig
from s2f_lib.errors import ConfigError


@runtime_checkable
class FaceFeatureExtractor(Protocol):
    """Aligned faces in, one vector each out.

    Attributes
    ----------
    name
        As in the settings.
    dimension
        Length of a vector; encoder and decoder follow it.
    fingerprint
        Names the weights: the same fingerprint gives the same features.
    runs_in_workers
        Whether it is light enough to be loaded once a worker process; else it runs
        in the parent, a batch at a time, on the device there.
    """

    name: str
    dimension: int
    fingerprint: str
    runs_in_workers: bool

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Compute the features.

        Parameters
        ----------
        faces
            (n, 224, 224, 3) uint8 RGB, aligned as `faces.alignment` does.

        Returns
        -------
        numpy.ndarray
            (n, dimension) float32, not normalised.
        """
        ...


def make_extractor(config: FeatureConfig, *, device: str = "cpu") -> FaceFeatureExtractor:
    """Return the extractor that the settings name.

    Parameters
    ----------
    config
        Name and weights.
    device
        A torch device; only `vgg_face` looks at it.

    Raises
    ------
    MissingFileError
        The weights are not there; the message says what to type.
    ConfigError
        The name is unknown.
    """
    if config.extractor == "dlib_resnet":
        from s2f_lib.faces.dlib_port.extractor import DlibResNet

        return DlibResNet()
    if config.extractor == "vgg_face":
        from s2f_lib.faces.vgg_face.extractor import VGGFace

        return VGGFace.from_file(config.weights, device=device, batch_size=config.batch_size)
    raise ConfigError(f"unknown feature extractor {config.extractor!r}: expected dlib_resnet or vgg_face")


def check_faces(faces: np.ndarray) -> None:
    """Refuse anything but (n, height, width, 3) uint8."""
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[3] != 3:
        raise ValueError(f"faces are {faces.shape} {faces.dtype}; expected (n, 224, 224, 3) uint8 RGB")


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return `(n, dimension)` vectors scaled to length one, in their own dtype; zeros stay zeros."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
