"""Losses of the voice encoder: the report's four ("Loss Function"), InfoNCE, and Speech2Face's own.

Each takes the true face features v_f and the predicted speech features v_s, `(batch, dimension)` both, and
returns the mean over the batch. All losses except Speech2Face's normalise them first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from s2f_lib import registry
from s2f_lib.config import LossName
from s2f_lib.errors import ConfigError, InputError
from s2f_lib.models.face_decoders import FaceDecoder, ResidualDecoder

Loss = Callable[[Tensor, Tensor], Tensor]

#: Losses that compare each pair with the others of its batch. They need the batch of all processes.
IN_BATCH_LOSSES: tuple[LossName, ...] = ("contrastive", "info_nce")

MAX_LOGIT_SCALE = 100.0  # largest 1/temperature (Radford et al. 2021, section 2.5)

# Speech2Face's loss
L2_WEIGHT = 0.025  # the paper's lambda 1
DISTILLATION_WEIGHT = 200.0  # the paper's lambda 2
DISTILLATION_TEMPERATURE = 2.0


def l1_loss(face: Tensor, speech: Tensor) -> Tensor:
    """Return the mean of ``|v_f/|v_f| - v_s/|v_s||_1``, in [0, 2 sqrt(dimension)].

    Examples
    --------
    >>> l1_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))  # |1 - 0.6| + |0 - 0.8|
    tensor(1.2000)
    """
    unit_face, unit_speech = _unit(face, speech)
    return (unit_face - unit_speech).abs().sum(dim=1).mean()


def l2_loss(face: Tensor, speech: Tensor) -> Tensor:
    """Return the mean of ``|v_f/|v_f| - v_s/|v_s||_2^2``, in [0, 4].

    Examples
    --------
    >>> l2_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))  # 0.4^2 + 0.8^2
    tensor(0.8000)
    """
    unit_face, unit_speech = _unit(face, speech)
    return (unit_face - unit_speech).square().sum(dim=1).mean()


def contrastive_loss(face: Tensor, speech: Tensor) -> Tensor:
    """Return the report's contrastive loss.

    ``-1/N sum_i log( exp(q_i.v_i) / sum_{j != i} exp(q_i.v_j) )`` with the speech features q and the face
    features v. As in the report, the positive is not in the denominator, so the value can be negative, and
    there is no temperature.

    Raises
    ------
    InputError
        The batch holds only one pair, so it has no negatives.

    Examples
    --------
    >>> contrastive_loss(torch.eye(2), torch.eye(2))  # log(exp(0)) - 1
    tensor(-1.)
    """
    similarity = _similarity(face, speech)  # row i holds q_i . v_j
    positive = similarity.diagonal()
    own = torch.eye(len(face), dtype=torch.bool, device=face.device)
    negatives = similarity.masked_fill(own, float("-inf"))
    return (negatives.logsumexp(dim=1) - positive).mean()


class InfoNCE(nn.Module):
    """Symmetric InfoNCE with a learned temperature T (van den Oord et al. 2018; Radford et al. 2021).

    ``-1/2N sum_i [ log softmax_j(q_i.v_j / T)_i + log softmax_j(q_j.v_i / T)_i ]``: each voice has to find
    its face in the batch, and each face its voice. Unlike the report's contrastive loss it is at least 0.

    Parameters
    ----------
    temperature
        Initial value of T.

    Raises
    ------
    InputError
        The batch holds only one pair, so it has no negatives.

    Examples
    --------
    >>> InfoNCE(temperature=0.5)(torch.eye(2), torch.eye(2)).item()  # log(exp(2) + exp(0)) - 2
    0.126928...
    """

    def __init__(self, *, temperature: float = 0.07) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def temperature(self) -> float:
        """T, at least 0.01."""
        return 1 / min(math.exp(self.log_logit_scale.item()), MAX_LOGIT_SCALE)

    def forward(self, face: Tensor, speech: Tensor) -> Tensor:
        """Return the loss of `(batch, dimension)` true face and predicted speech features."""
        logit_scale = self.log_logit_scale.exp().clamp(max=MAX_LOGIT_SCALE).to(face.device)
        logits = logit_scale * _similarity(face, speech)
        own = torch.arange(len(face), device=face.device)
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


class Speech2FaceLoss(nn.Module):
    """Speech2Face's own loss (Oh et al. 2019, section 3, "Training", and supplement).

    ``|f_dec(v_f) - f_dec(v_s)|_1 + 0.025 |v_f/|v_f| - v_s/|v_s||_2^2 + 200 L_distill`` with the first layer
    f_dec of the trained face decoder. L_distill is the cross entropy between the outputs of VGG-Face's last
    layer (fc8, the `classifier`) for both features, at temperature 2. Decoder and fc8 are not trained.

    The |.|_1 is a sum over the units of the first layer, as in the paper. The paper's first layer has 1,000
    units, and this decoder's has 256 x 14 x 14, so the first term has more weight here.
    """

    def __init__(self, decoder: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        if not isinstance(decoder, FaceDecoder | ResidualDecoder):
            raise ConfigError(
                "the speech2face loss compares the first layer of this package's face decoders: "
                f"{type(decoder).__name__} is not one of them"
            )
        if decoder.feature_dimension != classifier.in_features:
            raise ConfigError(
                f"the face decoder takes {decoder.feature_dimension}-D features and VGG-Face's last layer "
                f"{classifier.in_features}-D ones: the speech2face loss needs features.extractor=vgg_face"
            )
        self.decoder = decoder.eval().requires_grad_(False)
        self.classifier = classifier.eval().requires_grad_(False)

    def forward(self, face: Tensor, speech: Tensor) -> Tensor:
        """Return the loss of `(batch, 4096)` true face and predicted speech features."""
        face, speech = face.float(), speech.float()
        with torch.autocast(face.device.type, enabled=False):
            layer = (self.decoder.first_layer(face) - self.decoder.first_layer(speech)).abs()
            distilled = distillation(self.classifier(face), self.classifier(speech))
        l1 = layer.sum(dim=1).mean()
        return l1 + L2_WEIGHT * l2_loss(face, speech) + DISTILLATION_WEIGHT * distilled


def distillation(target: Tensor, predicted: Tensor) -> Tensor:
    """Return ``-sum_i p_i(target) log p_i(predicted)`` of `(batch, classes)` logits; p is a softmax."""
    wanted = (target / DISTILLATION_TEMPERATURE).softmax(dim=1)
    return -(wanted * (predicted / DISTILLATION_TEMPERATURE).log_softmax(dim=1)).sum(dim=1).mean()


def make_loss(loss: LossName | Loss, *, l2_weight: float = 10.0) -> Loss:
    """Return the loss with that name, or a custom loss that is ready for a training.

    Parameters
    ----------
    loss
        "l1", "l2", "l1_l2", "contrastive", "info_nce" or the name of a custom loss; or a custom loss: a
        function, a class that is called without arguments, or a module, which is copied.
    l2_weight
        Weight lambda of "l1_l2", which is l1 + lambda l2; the report's lambda is 10.

    Returns
    -------
    callable
        Function of (face, speech) features, `(batch, dimension)` both.

    Raises
    ------
    ConfigError
        The name is unknown.

    See Also
    --------
    make_speech2face_loss : The loss "speech2face", which needs a face decoder and VGG-Face's weights.

    Examples
    --------
    >>> loss = make_loss("l1_l2", l2_weight=2.0)
    >>> loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]]))  # 1.2 + 2 * 0.8
    tensor(2.8000)
    """
    if loss == "l1_l2":
        return lambda face, speech: l1_loss(face, speech) + l2_weight * l2_loss(face, speech)
    if isinstance(loss, str):
        losses: dict[str, Any] = {"l1": l1_loss, "l2": l2_loss, "contrastive": contrastive_loss}
        losses["info_nce"] = InfoNCE
        return make_loss(losses[loss] if loss in losses else registry.load("losses", loss))
    if isinstance(loss, type):
        return registry.make("losses", loss)
    return copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss


def make_speech2face_loss(decoder: nn.Module | None, weights: Path | None) -> Speech2FaceLoss:
    """Return Speech2Face's loss with fc8 from a file of VGG-Face weights.

    `ConfigError` if the decoder is missing or takes other features, `MissingFileError` without weights.
    """
    from s2f_lib.faces.vgg_face.network import load_vgg_face

    network = load_vgg_face(weights)
    if decoder is None:
        raise ConfigError(
            "the speech2face loss compares the face decoder's first layer: train the decoder first, "
            "and give it as `decoder` to train_voice_encoder"
        )
    return Speech2FaceLoss(decoder, cast(nn.Linear, network.get_submodule("classifier.6")))


def _similarity(face: Tensor, speech: Tensor) -> Tensor:
    """Return the cosine of each speech (row) with each face (column), `(N, N)`."""
    if len(face) < 2:
        raise InputError("a contrastive loss needs at least 2 pairs in a batch, found 1: raise batch_size")
    unit_face, unit_speech = _unit(face, speech)
    with torch.autocast(unit_face.device.type, enabled=False):  # bf16's 3 digits are too few for 1/T = 100
        return unit_speech @ unit_face.T


def _unit(face: Tensor, speech: Tensor) -> tuple[Tensor, Tensor]:
    if face.shape != speech.shape or face.ndim != 2:
        raise InputError(
            "a loss takes two tensors (batch, dimension) of one shape, "
            f"found {tuple(face.shape)} and {tuple(speech.shape)}"
        )
    # float32 under autocast, because differences of unit vectors are too inexact in bf16
    return normalize(face.float(), dim=1), normalize(speech.float(), dim=1)
