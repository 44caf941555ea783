"""The losses of the residual decoder, by hand and against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from s2f_lib.config import DecoderTrainingConfig
from s2f_lib.training.decoder_losses import DecoderLoss, ssim


class MeanColour(nn.Module):
    """A differentiable stand-in for an extractor: three numbers per face."""

    def forward(self, faces):
        return faces.mean(dim=(2, 3))


def _loss(**weights) -> DecoderLoss:
    zero = {"l1_weight": 0.0, "ssim_weight": 0.0, "identity_weight": 0.0}
    torch.manual_seed(0)
    return DecoderLoss(
        DecoderTrainingConfig(**(zero | weights)), extractor=MeanColour(), mean_features=torch.full((3,), 0.5)
    )


def _plain(*colours) -> torch.Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 16, 16).clone()


def test_decoder_loss_l1_by_hand():
    reconstruction, faces = _plain((0.5, 0.5, 0.5)), _plain((0.2, 0.5, 0.9))
    assert float(_loss(l1_weight=2.0)(reconstruction, faces, torch.zeros(1, 3))) == pytest.approx(2 * 0.7 / 3)


def test_identity_is_cosine_around_mean():
    reconstruction = _plain((0.7, 0.5, 0.5), (0.3, 0.5, 0.5))
    features = torch.tensor([[0.9, 0.5, 0.5], [0.9, 0.5, 0.5]])
    loss = _loss(identity_weight=0.5)
    torch.testing.assert_close(loss.identity(reconstruction, features), torch.tensor([1.0, -1.0]))
    assert float(loss(reconstruction, reconstruction, features)) == pytest.approx(0.5 * (0 + 2) / 2)


def test_ssim_of_itself_is_one_and_near_torchmetrics():
    rng = np.random.default_rng(0)
    first = torch.from_numpy(rng.random((2, 3, 64, 64), dtype=np.float32))
    second = (first + 0.2 * torch.from_numpy(rng.random((2, 3, 64, 64), dtype=np.float32))).clamp(0, 1)
    assert float(ssim(first, first)) == pytest.approx(1.0)
    theirs = structural_similarity_index_measure(
        first, second, data_range=1.0, gaussian_kernel=False, kernel_size=7
    )
    assert float(ssim(first, second)) == pytest.approx(float(theirs), abs=0.01)
    assert float(ssim(first, 1 - first)) < 0
