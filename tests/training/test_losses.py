"""The four losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from s2f_lib.errors import InputError
from s2f_lib.training.losses import contrastive_loss, l1_l2_loss, l1_loss, l2_loss, make_loss

# unit vectors after normalisation: faces (1, 0) and (0, 1); voices (0.6, 0.8) and (0, 1)
FACE = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
SPEECH = torch.tensor([[3.0, 4.0], [0.0, 9.0]])


def test_l1():
    # |1 - 0.6| + |0 - 0.8| = 1.2 and 0
    assert l1_loss(FACE, SPEECH).item() == pytest.approx(0.6)


def test_l2_is_squared():
    # 0.16 + 0.64 = 0.8 and 0
    assert l2_loss(FACE, SPEECH).item() == pytest.approx(0.4)


def test_l1_plus_ten_l2():
    assert l1_l2_loss(FACE, SPEECH).item() == pytest.approx(0.6 + 10 * 0.4)
    assert make_loss("l1_l2", l2_weight=2.0)(FACE, SPEECH).item() == pytest.approx(0.6 + 2 * 0.4)


def test_contrastive_leaves_the_positive_out_of_the_denominator():
    # q1.v1 = 0.6, q1.v2 = 0.8; q2.v2 = 1, q2.v1 = 0: -(0.6 - 0.8) and -(1 - 0)
    assert contrastive_loss(FACE, SPEECH).item() == pytest.approx((0.2 - 1.0) / 2)


def test_contrastive_of_three():
    face = torch.eye(3)
    expected = -math.log(math.e / (1 + 1))  # each: exp(1) over two exp(0)
    assert contrastive_loss(face, face).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["l1", "l2", "l1_l2", "contrastive"])
def test_losses_do_not_depend_on_length_or_order_and_are_lowest_at_the_truth(name):
    loss = make_loss(name)
    generator = torch.Generator().manual_seed(0)
    face, speech = torch.randn(2, 8, 5, generator=generator)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    torch.testing.assert_close(loss(face, speech), loss(3 * face, 0.1 * speech))
    torch.testing.assert_close(loss(face, speech), loss(face[order], speech[order]))
    assert loss(face, face) < loss(face, speech)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="at least 2 pairs"):
        contrastive_loss(FACE[:1], SPEECH[:1])
    with pytest.raises(InputError, match=r"found \(2, 2\) and \(1, 2\)"):
        l1_loss(FACE, SPEECH[:1])
    with pytest.raises(InputError, match="unknown loss 'l3'"):
        make_loss("l3")
