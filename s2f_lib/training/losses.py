"""The report's four losses, on features of unit length (report, "Loss Function").

Each takes the true face features v_f and the predicted speech features v_s,
`(batch, dimension)` both, normalises them, and returns the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s2f_lib.config import LossName
from s2f_lib.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]


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
    if len(face) < 2:
        raise InputError("the contrastive loss needs at least 2 pairs in a batch, found 1: raise batch_size")
    unit_face, unit_speech = _unit(face, speech)
    similarity = unit_speech @ unit_face.T  # (N, N): row i holds q_i . v_j
    positive = similarity.diagonal()
    own = torch.eye(len(face), dtype=torch.bool, device=face.device)
    negatives = similarity.masked_fill(own, float("-inf"))
    return (negatives.logsumexp(dim=1) - positive).mean()


def make_loss(name: LossName, *, l2_weight: float = 10.0) -> Loss:
    """Return the loss of that name: "l1", "l2", "l1_l2" or "contrastive"."""
    if name == "l1_l2":
        return lambda face, speech: l1_l2_loss(face, speech, l2_weight=l2_weight)
    losses: dict[str, Loss] = {"l1": l1_loss, "l2": l2_loss, "contrastive": contrastive_loss}
    if name not in losses:
        raise InputError(f"unknown loss {name!r}: expected one of l1, l2, l1_l2, contrastive")
    return losses[name]


def _unit(face: Tensor, speech: Tensor) -> tuple[Tensor, Tensor]:
    if face.shape != speech.shape or face.ndim != 2:
        raise InputError(
            f"a loss takes two tensors (batch, dimension) of one shape, "
            f"found {tuple(face.shape)} and {tuple(speech.shape)}"
        )
    # float32 under autocast: differences of unit vectors lose too much in bf16
    return normalize(face.float(), dim=1), normalize(speech.float(), dim=1)
