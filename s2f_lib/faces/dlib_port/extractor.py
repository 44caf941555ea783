"""dlib's face descriptor: a 29-layer residual network, 128 numbers a face.

Its weights ship with the distribution `face_recognition_models`, so it is what
the embedded default uses.  Faces closer than 0.6 (L2) are usually one person.
The network runs in torch (`dlib_resnet_torch`), many times faster than dlib's
own on a CPU and equal to it within 1e-5 (tested).
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from s2f_lib.faces.detector import dlib_weights
from s2f_lib.faces.extractor import check_faces

if TYPE_CHECKING:
    import torch

_CHIP_PX = 150  # what the network was trained on
_BATCH = 32  # faces at once


class DlibResNet:
    """The extractor `dlib_resnet`; see `base.FaceFeatureExtractor`."""

    name = "dlib_resnet"
    dimension = 128
    runs_in_workers = True

    def __init__(self) -> None:
        from s2f_lib.faces.dlib_port.resnet import dlib_face_network

        self._weights = dlib_weights("dlib_face_recognition_resnet_model_v1.dat")
        self._network = dlib_face_network()

    @property
    def network(self) -> torch.nn.Module:
        """The network, which all extractors of this name in the process share."""
        return self._network

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights' file, 16 digits."""
        return hashlib.sha256(self._weights.read_bytes()).hexdigest()[:16]

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Compute (n, 128) float32 descriptors of (n, 224, 224, 3) uint8 RGB faces."""
        import cv2
        import torch

        check_faces(faces)
        if len(faces) == 0:
            return np.zeros((0, self.dimension), np.float32)
        chips = [cv2.resize(face, (_CHIP_PX, _CHIP_PX), interpolation=cv2.INTER_AREA) for face in faces]
        features, device = [], next(self._network.parameters()).device
        for start in range(0, len(chips), _BATCH):
            batch = torch.from_numpy(np.stack(chips[start : start + _BATCH]))
            with torch.inference_mode():
                pixels = batch.to(device).permute(0, 3, 1, 2).float() / 255  # (b, 3, 150, 150)
                features.append(self._network(pixels).cpu())
        return torch.cat(features).numpy()
