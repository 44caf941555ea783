"""VGG-Face: VGG16 with 2,622 identities, whose fc7 is the report's 4096-D feature.

The weights cannot be shipped.  Here they are read from a safetensors file in
torchvision's VGG16 names, RGB order; `vgg_face_weights` makes such a file from
the public forms.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.faces.extractor import check_faces
from s2f_lib.faces.vgg_face.network import MEAN_RGB

if TYPE_CHECKING:
    import torch

N_IDENTITIES = 2_622  # Parkhi et al. 2015

_WHAT_TO_DO = (
    "the weights of VGG-Face cannot be shipped: get vgg_face_dag.pth, VGG_FACE.t7 or vgg_face_weights.h5, "
    "type `s2f weights import PATH`, and give the .safetensors file that it writes as features.weights; "
    "or set features.extractor to dlib_resnet"
)


class VGGFace:
    """The extractor `vgg_face`; see `base.FaceFeatureExtractor`.

    Parameters
    ----------
    network
        torchvision's VGG16 with `N_IDENTITIES` classes, in its training's RGB order.
    device
        A torch device; "auto" is a GPU where there is one.
    batch_size
        Faces a pass.
    fingerprint
        Names the weights; computed from them where not given.
    """

    name = "vgg_face"
    dimension = 4096
    runs_in_workers = False  # 550 MB of weights

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        device: str = "cpu",
        batch_size: int = 32,
        fingerprint: str | None = None,
    ) -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_size = batch_size
        self.fingerprint = fingerprint or fingerprint_of(network)
        self._network = network.to(device).eval()

    @classmethod
    def from_file(cls, path: Path | None, *, device: str = "cpu", batch_size: int = 32) -> VGGFace:
        """Load the weights from a safetensors file; errors as `load_vgg_face`."""
        return cls(load_vgg_face(path), device=device, batch_size=batch_size)

    @property
    def network(self) -> torch.nn.Module:
        """torchvision's VGG16 with the weights, on the device."""
        return self._network

    @property
    def device(self) -> torch.device:
        """Where the network is now: who moves it, moves the extractor."""
        return next(self._network.parameters()).device

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        """Compute (n, 4096) float32 features, >= 0, of (n, 224, 224, 3) uint8 RGB faces."""
        import torch

        check_faces(faces)
        out = np.zeros((len(faces), self.dimension), np.float32)
        device = self.device
        mean = torch.tensor(MEAN_RGB, device=device).view(1, 3, 1, 1)
        with torch.inference_mode():
            for first in range(0, len(faces), self.batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(faces[first : first + self.batch_size]))
                pixels = batch.to(device).permute(0, 3, 1, 2).float() - mean  # (b, 3, 224, 224)
                out[first : first + len(batch)] = self._fc7(pixels).float().cpu().numpy()
        return out

    def _fc7(self, pixels: torch.Tensor) -> torch.Tensor:
        network = self._network
        hidden = network.avgpool(network.features(pixels)).flatten(1)  # (b, 512 * 7 * 7)
        return network.classifier[:5](hidden)  # FC6, ReLU, dropout (off), FC7, ReLU


def load_vgg_face(path: Path | None) -> torch.nn.Module:
    """Load VGG16 from a safetensors file.

    Parameters
    ----------
    path
        State of torchvision's `vgg16(num_classes=2622)`, RGB order.

    Raises
    ------
    MissingFileError
        No path is set, or nothing is there; the message says where weights come from.
    DataError
        The file is not safetensors, or lacks or misshapes a tensor; the message names it.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    if path is None:
        raise MissingFileError(f"features.weights is not set: {_WHAT_TO_DO}")
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no weights at {path}: {_WHAT_TO_DO}")
    try:
        state = safetensors.torch.load_file(path)
    except (SafetensorError, ValueError) as error:
        raise DataError(
            f"{path} is not a safetensors file ({error}); type `s2f weights import {path}`"
        ) from None
    network = _empty_vgg16()
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        found = tuple(state[name].shape) if name in state else None
        if found != tuple(tensor.shape):
            raise DataError(
                f"{path}: {name} is {found or 'missing'}; expected {tuple(tensor.shape)}, VGG16's"
            )
    extra = sorted(set(state) - set(wanted))
    if extra:
        raise DataError(
            f"{path}: unknown tensors {', '.join(extra[:3])}; expected VGG16's {len(wanted)} alone"
        )
    network.load_state_dict(state, assign=True)
    return network


def random_vgg_face(seed: int) -> torch.nn.Module:
    """Return VGG16 with random weights, for tests and for timing; its features mean nothing."""
    import torch

    network = _empty_vgg16().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # biases
                parameter.zero_()
            else:  # He's scale keeps activations alive through 15 layers
                bound = (6 / parameter[0].numel()) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
    return network


def fingerprint_of(network: torch.nn.Module) -> str:
    """Return 16 hexadecimal digits that name a network's weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).data)
    return digest.hexdigest()[:16]


def _empty_vgg16() -> torch.nn.Module:
    import torch
    import torchvision

    with torch.device("meta"):  # no memory, no random start: the weights come from elsewhere
        return torchvision.models.vgg16(weights=None, num_classes=N_IDENTITIES)
