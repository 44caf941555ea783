"""The losses of the encoder against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from s2f_lib.errors import ConfigError, InputError
from s2f_lib.models.face_decoders import DEBUG_DECODER, FaceDecoder
from s2f_lib.training.losses import (
    InfoNCE,
    Speech2FaceLoss,
    contrastive_loss,
    distillation,
    l1_loss,
    l2_loss,
    make_loss,
)

# unit vectors after normalisation: faces (1, 0) and (0, 1); voices (0.6, 0.8) and (0, 1)
FACE = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
SPEECH = torch.tensor([[3.0, 4.0], [0.0, 9.0]])


def test_l1_loss_by_hand():
    # |1 - 0.6| + |0 - 0.8| = 1.2 and 0
    assert l1_loss(FACE, SPEECH).item() == pytest.approx(0.6)


def test_l2_loss_by_hand_is_squared():
    # 0.16 + 0.64 = 0.8 and 0
    assert l2_loss(FACE, SPEECH).item() == pytest.approx(0.4)


def test_l1_l2_loss_by_hand():
    assert make_loss("l1_l2")(FACE, SPEECH).item() == pytest.approx(0.6 + 10 * 0.4)
    assert make_loss("l1_l2", l2_weight=2.0)(FACE, SPEECH).item() == pytest.approx(0.6 + 2 * 0.4)


def test_contrastive_loss_leaves_positive_out_of_denominator():
    # q1.v1 = 0.6, q1.v2 = 0.8; q2.v2 = 1, q2.v1 = 0: -(0.6 - 0.8) and -(1 - 0)
    assert contrastive_loss(FACE, SPEECH).item() == pytest.approx((0.2 - 1.0) / 2)


def test_contrastive_loss_of_three_by_hand():
    face = torch.eye(3)
    expected = -math.log(math.e / (1 + 1))  # each: exp(1) over two exp(0)
    assert contrastive_loss(face, face).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["l1", "l2", "l1_l2", "contrastive"])
def test_losses_ignore_length_and_order_lowest_at_truth(name):
    loss = make_loss(name)
    generator = torch.Generator().manual_seed(0)
    face, speech = torch.randn(2, 8, 5, generator=generator)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    torch.testing.assert_close(loss(face, speech), loss(3 * face, 0.1 * speech))
    torch.testing.assert_close(loss(face, speech), loss(face[order], speech[order]))
    assert loss(face, face) < loss(face, speech)


def test_losses_bad_shapes_and_names_are_refused():
    with pytest.raises(InputError, match="at least 2 pairs"):
        contrastive_loss(FACE[:1], SPEECH[:1])
    with pytest.raises(InputError, match=r"found \(2, 2\) and \(1, 2\)"):
        l1_loss(FACE, SPEECH[:1])
    with pytest.raises(InputError, match="unknown loss 'l3'"):
        make_loss("l3")


def test_info_nce_by_hand():
    loss = InfoNCE(temperature=0.5)
    # rows of q.v / 0.5: voices [1.2, 1.6] and [0, 2]; columns, the faces: [1.2, 0] and [1.6, 2]
    voices = math.log(math.exp(1.2) + math.exp(1.6)) - 1.2 + math.log(1 + math.exp(2)) - 2
    faces = math.log(math.exp(1.2) + 1) - 1.2 + math.log(math.exp(1.6) + math.exp(2)) - 2
    assert loss(FACE, SPEECH).item() == pytest.approx((voices + faces) / 4)
    assert loss.temperature == pytest.approx(0.5)


def test_info_nce_temperature_is_learned_down_to_hundredth():
    loss = InfoNCE(temperature=0.07)
    loss(torch.eye(4), torch.eye(4)).backward()
    assert loss.log_logit_scale.grad < 0  # true pairs are nearest: a sharper softmax lowers the loss
    assert InfoNCE(temperature=0.001).temperature == pytest.approx(0.01)
    with pytest.raises(InputError, match="at least 2 pairs"):
        loss(FACE[:1], SPEECH[:1])


def test_distillation_is_cross_entropy_of_softened_classes():
    target, predicted = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p = math.exp(1) / (math.exp(1) + 1)  # both halved by T = 2
    q = 1 / (1 + math.exp(2))
    expected = -p * math.log(q) - (1 - p) * math.log(1 - q)
    assert distillation(target, predicted).item() == pytest.approx(expected, rel=1e-5)


def test_speech2face_loss_adds_three_terms():
    decoder = FaceDecoder(DEBUG_DECODER, feature_dimension=6)
    loss = Speech2FaceLoss(decoder, nn.Linear(6, 5))
    face, speech = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    layer = (decoder.first_layer(face) - decoder.first_layer(speech)).abs().sum() / 3
    classes = loss.classifier(face), loss.classifier(speech)
    expected = layer + 0.025 * l2_loss(face, speech) + 200 * distillation(*classes)
    assert loss(face, speech).item() == pytest.approx(expected.item(), rel=1e-5)
    speech.requires_grad_()
    loss(face, speech).backward()
    assert speech.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())
    with pytest.raises(ConfigError, match=r"features.extractor=vgg_face"):
        Speech2FaceLoss(decoder, nn.Linear(4096, 5))
