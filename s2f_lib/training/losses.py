"""The losses on features of unit length: the report's four ("Loss Function"), and InfoNCE.

Each takes the true face features v_f and the predicted speech features v_s,
`(batch, dimension)` both, normalises them, and returns the mean over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from s2f_lib.config import LossName
from s2f_lib.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]

#: Losses that set each pair against the others of its batch: they need the batch of all processes.
IN_BATCH_LOSSES: frozenset[LossName] = frozenset({"contrastive", "info_nce"})

MAX_LOGIT_SCALE = 100.0  # the largest 1/temperature (Radford et al. 2021, section 2.5)


def l1_loss(face: Tensor, speech: Tensor) -> Tensor:
    """Return the mean of ``|v_f/|v_f| - v_s/|v_s||_1``, in [0, 2 sqrt(dimension)]."""
    unit_face, unit_speech = _unit(face, speech)
    return (unit_face - unit_speech).abs().sum(dim=1).mean()


def l2_loss(face: Tensor, speech: Tensor) -> Tensor:
    """Return the mean of ``|v_f/|v_f| - v_s/|v_s||_2^2``, in [0, 4]."""
    unit_face, unit_speech = _unit(face, speech)
    return (unit_face - unit_speech).square().sum(dim=1).mean()


def l1_l2_loss(face: Tensor, speech: Tensor, *, l2_weight: float = 10.0) -> Tensor:
    """Return ``l1 + lambda l2``; the report's lambda is 10."""
    return l1_loss(face, speech) + l2_weight * l2_loss(face, speech)


def contrastive_loss(face: Tensor, speech: Tensor) -> Tensor:
    """Return the report's contrastive loss.

    ``-1/N sum_i log( exp(q_i.v_i) / sum_{j != i} exp(q_i.v_j) )`` with q the
    speech and v the face features.  As in the report, the positive is not in
    the denominator, so the value can be negative, and no temperature is used.

    Raises
    ------
    InputError
        The batch holds one pair alone: there is no negative.
    """
    similarity = _similarity(face, speech)  # row i holds q_i . v_j
    positive = similarity.diagonal()
    own = torch.eye(len(face), dtype=torch.bool, device=face.device)
    negatives = similarity.masked_fill(own, float("-inf"))
    return (negatives.logsumexp(dim=1) - positive).mean()


class InfoNCE(nn.Module):
    """Symmetric InfoNCE with a learned temperature T (van den Oord et al. 2018; Radford et al. 2021).

    ``-1/2N sum_i [ log softmax_j(q_i.v_j / T)_i + log softmax_j(q_j.v_i / T)_i ]``:
    each voice is to find its face among the batch's, and each face its voice.
    Unlike the report's contrastive loss it is bounded below by 0.

    Parameters
    ----------
    temperature
        Where T starts.

    Raises
    ------
    InputError
        The batch holds one pair alone: there is no negative.
    """

    def __init__(self, *, temperature: float = 0.07) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def temperature(self) -> float:
        """T, at least 0.01."""
        return 1 / min(math.exp(self.log_sharpness.item()), MAX_LOGIT_SCALE)

    def forward(self, face: Tensor, speech: Tensor) -> Tensor:
        """Return the loss of `(batch, dimension)` true face and predicted speech features."""
        logit_scale = self.log_sharpness.exp().clamp(max=MAX_LOGIT_SCALE).to(face.device)
        logits = logit_scale * _similarity(face, speech)
        own = torch.arange(len(face), device=face.device)
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def make_loss(name: LossName, *, l2_weight: float = 10.0, temperature: float = 0.07) -> Loss:
    """Return the loss of that name.

    Parameters
    ----------
    name
        "l1", "l2", "l1_l2", "contrastive" or "info_nce".  ("speech2face" needs the face
        decoder and VGG-Face: see `speech2face_loss`.)
    l2_weight
        Lambda of "l1_l2".
    temperature
        Where that of "info_nce" starts.
    """
    if name == "l1_l2":
        return lambda face, speech: l1_l2_loss(face, speech, l2_weight=l2_weight)
    if name == "info_nce":
        return InfoNCE(temperature=temperature)
    losses: dict[str, Loss] = {"l1": l1_loss, "l2": l2_loss, "contrastive": contrastive_loss}
    if name not in losses:
        raise InputError(f"unknown loss {name!r}: expected one of l1, l2, l1_l2, contrastive, info_nce")
    return losses[name]


def _similarity(face: Tensor, speech: Tensor) -> Tensor:
    """Return the cosine of each speech (row) with each face (column), `(N, N)`."""
    if len(face) < 2:
        raise InputError("a contrastive loss needs at least 2 pairs in a batch, found 1: raise batch_size")
    unit_face, unit_speech = _unit(face, speech)
    with torch.autocast(unit_face.device.type, enabled=False):  # bf16 has 3 digits: too few for 1/T = 100
        return unit_speech @ unit_face.T


def _unit(face: Tensor, speech: Tensor) -> tuple[Tensor, Tensor]:
    if face.shape != speech.shape or face.ndim != 2:
        raise InputError(
            f"a loss takes two tensors (batch, dimension) of one shape, "
            f"found {tuple(face.shape)} and {tuple(speech.shape)}"
        )
    # float32 under autocast: differences of unit vectors lose too much in bf16
    return normalize(face.float(), dim=1), normalize(speech.float(), dim=1)
