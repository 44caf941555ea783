"""Face feature extractors: dlib's face network and VGG-Face, as functions of images or with gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from s2f_lib import registry
from s2f_lib.config import FeatureConfig
from s2f_lib.errors import ConfigError, InputError
from s2f_lib.faces.detection import resolve_device
from s2f_lib.storage import file_digest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@runtime_checkable
class FaceFeatureExtractor(Protocol):
    """Interface of a feature extractor: aligned faces in, one vector per face out.

    Attributes
    ----------
    name
        Name in the settings.
    dimension
        Length of a vector. Encoder and decoder use it.
    fingerprint
        Digest of the weights: the same fingerprint gives the same features.
    runs_in_workers
        Whether each worker process loads the extractor. If it is False, or if a custom extractor lacks this
        attribute, the main process runs the extractor, in batches.
    """

    name: str
    dimension: int
    runs_in_workers: bool

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Compute the features of faces.

        Parameters
        ----------
        faces
            `(n, 224, 224, 3)` uint8 RGB, aligned by `align_face`.

        Returns
        -------
        numpy.ndarray
            `(n, dimension)` float32, not normalised.
        """
        ...


class _NetworkExtractor:
    """Extractor that runs a network over batches of faces. To move it to a device, move its `network`."""

    dimension: int

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        self.network = network
        self.batch_size = batch_size

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Compute the features; see `FaceFeatureExtractor`."""
        import torch

        if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[3] != 3:
            raise ValueError(f"faces are {faces.shape} {faces.dtype}; expected (n, 224, 224, 3) uint8 RGB")
        if not len(faces):
            return np.zeros((0, self.dimension), np.float32)

        def compute(rows: slice) -> Tensor:
            batch = torch.from_numpy(self._resized(faces[rows]))
            pixels = batch.to(self.device).permute(0, 3, 1, 2).float()  # (batch, 3, size, size)
            return self._forward(pixels).float()

        with torch.inference_mode():
            return compute_in_batches(compute, len(faces), self.batch_size)

    def _resized(self, faces: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(faces)

    def _forward(self, pixels: Tensor) -> Tensor:
        """Return the features of pixels from 0 to 255."""
        return self.network(pixels)


class DlibResNet(_NetworkExtractor):
    """dlib's face network: a residual network of 29 layers, 128 features per face.

    It is the default, because its weights ship with the distribution `face_recognition_models`. Two faces
    with a distance (L2) below 0.6 usually show the same person. The network runs in torch
    (`dlib_port.resnet`), faster than dlib's own on a CPU and equal to it within 1e-5. All extractors in a
    process share the network.
    """

    name = "dlib_resnet"
    dimension = 128
    runs_in_workers = True

    def __init__(self) -> None:
        from s2f_lib.faces.dlib_port.resnet import dlib_face_network

        super().__init__(dlib_face_network(), batch_size=32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights file, 16 digits."""
        from s2f_lib.faces.dlib_port.resnet import RESNET_FILE
        from s2f_lib.faces.dlib_port.weights import dlib_weights

        return file_digest(dlib_weights(RESNET_FILE), length=16)

    def _resized(self, faces: np.ndarray) -> np.ndarray:
        import cv2

        size = (150, 150)  # input of the network in pixels
        return np.stack([cv2.resize(face, size, interpolation=cv2.INTER_AREA) for face in faces])

    def _forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels / 255)


class VGGFace(_NetworkExtractor):
    """VGG-Face: the rectified fc7 layer of VGG16, 4096 features per face.

    `network` is torchvision's VGG16 with VGG-Face's identities, in RGB order.
    """

    name = "vgg_face"
    dimension = 4096
    runs_in_workers = False  # the weights take 550 MB

    def __init__(self, network: nn.Module, *, device: str = "cpu", batch_size: int = 32) -> None:
        from s2f_lib.faces.vgg_face.network import VGGFaceFC7, fingerprint_of

        self.fingerprint = fingerprint_of(network.state_dict())[:16]
        self.vgg16 = network
        super().__init__(VGGFaceFC7(network).to(resolve_device(device)), batch_size)


def make_extractor(config: FeatureConfig, *, device: str = "cpu") -> FaceFeatureExtractor:
    """Return the feature extractor that the settings name.

    Parameters
    ----------
    config
        Name, weights, batch size, and the options of a custom extractor.
    device
        A torch device, or "auto". dlib's network ignores it and runs on the CPU. A custom extractor chooses
        its device itself.

    Returns
    -------
    FaceFeatureExtractor
        The extractor, with its weights loaded.

    Raises
    ------
    MissingFileError
        The weights do not exist; the message says what to do.
    ConfigError
        The name is unknown, or a custom extractor does not take the options.

    See Also
    --------
    differentiable : The same features with gradients.
    align_face : Crops the faces that an extractor takes.

    Examples
    --------
    >>> extractor = make_extractor(FeatureConfig())
    >>> extractor.name, extractor.dimension
    ('dlib_resnet', 128)
    """
    if config.extractor == "dlib_resnet":
        return DlibResNet()
    if config.extractor == "vgg_face":
        from s2f_lib.faces.vgg_face.network import load_vgg_face

        return VGGFace(load_vgg_face(config.weights), device=device, batch_size=config.batch_size)
    own = registry.make("extractors", registry.load("extractors", config.extractor), config.options)
    return check_extractor(own)


def check_extractor(extractor: Any) -> FaceFeatureExtractor:
    """Return a custom extractor; raise an InputError if it lacks a required attribute."""
    lacking = [name for name in ("name", "dimension", "fingerprint") if not hasattr(extractor, name)]
    if lacking or not callable(extractor):
        raise InputError(
            f"extractor {extractor!r} lacks {', '.join(lacking) or 'a call'}: it needs name, dimension, "
            "fingerprint, and a call from (n, 224, 224, 3) uint8 to (n, dimension) float32"
        )
    return extractor


def differentiable(extractor: FaceFeatureExtractor) -> nn.Module:
    """Return an extractor's network for losses, with gradients with respect to the faces.

    The network is frozen and shares its weights with the extractor in memory. If it is moved to another
    device, the extractor's own network stays.

    Parameters
    ----------
    extractor
        Extractor of `make_extractor`.

    Returns
    -------
    torch.nn.Module
        Network from `(batch, 3, 224, 224)` RGB in [0, 1] to `(batch, dimension)`.

    Raises
    ------
    ConfigError
        The extractor has no such network.

    See Also
    --------
    make_extractor : Returns the extractor that the settings name.

    Examples
    --------
    >>> import torch
    >>> faces = torch.full((1, 3, 224, 224), 0.5, requires_grad=True)
    >>> differentiable(make_extractor(FeatureConfig()))(faces).sum().backward()
    >>> bool(faces.grad.abs().max() > 0)
    True
    """
    if isinstance(extractor, DlibResNet):
        return _alias(extractor.network)
    if isinstance(extractor, VGGFace):
        from s2f_lib.faces.vgg_face.network import VGGFaceFC7

        return VGGFaceFC7(_alias(extractor.vgg16), input_scale=255.0)
    raise ConfigError(
        f"extractor {extractor.name!r} has no gradients: set decoder_training.identity_weight to 0"
    )


def compute_in_batches(compute: Callable[[slice], Tensor], n: int, batch_size: int) -> np.ndarray:
    """Call a function with the slices of n rows, at most `batch_size` rows each, and join its results.

    Each result is copied to the CPU before the next batch, so a GPU holds one batch. n is 1 or more.
    """
    import torch

    return torch.cat([compute(slice(i, i + batch_size)).cpu() for i in range(0, n, batch_size)]).numpy()


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return `(n, dimension)` vectors scaled to length one, in their own dtype; zeros stay zeros."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _alias(network: nn.Module) -> nn.Module:
    """Return a frozen network that shares its memory with another one until it is moved."""
    from torch import nn

    shared: dict[int, object] = {
        id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in network.parameters()
    }
    shared |= {id(tensor): tensor.detach() for tensor in network.buffers()}
    return copy.deepcopy(network, shared)  # deepcopy takes these tensors as already copied
