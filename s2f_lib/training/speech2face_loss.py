"""Speech2Face's own loss (Oh et al. 2019, section 3, "Training", and supplement).

``|f_dec(v_f) - f_dec(v_s)|_1 + 0.025 |v_f/|v_f| - v_s/|v_s||_2^2 + 200 L_distill``

with f_dec the face decoder's first layer, and L_distill the cross entropy between
what VGG-Face's last layer (fc8) says of both features, at temperature 2.  It
needs a trained face decoder and VGG-Face's weights; both stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from s2f_lib.errors import ConfigError
from s2f_lib.models.face_decoder import FaceDecoder
from s2f_lib.training.losses import l2_loss

L2_WEIGHT = 0.025  # the paper's lambda 1
DISTILLATION_WEIGHT = 200.0  # the paper's lambda 2
TEMPERATURE = 2.0  # of the distillation


class Speech2FaceLoss(nn.Module):
    """The full loss.

    Parameters
    ----------
    decoder
        A trained face decoder; its first layer is compared.
    classifier
        VGG-Face's fc8: `nn.Linear(4096, identities)`.

    Notes
    -----
    The |.|_1 is a sum over the first layer's units, as the paper writes it.  The
    paper's first layer has 1,000 units and this decoder's 256 x 14 x 14, so the
    first term weighs more here at equal coefficients.
    """

    def __init__(self, decoder: FaceDecoder, classifier: nn.Linear) -> None:
        super().__init__()
        if decoder.feature_dimension != classifier.in_features:
            raise ConfigError(
                f"the face decoder takes {decoder.feature_dimension}-D features and VGG-Face's last layer "
                f"{classifier.in_features}-D ones: the speech2face loss needs features.extractor=vgg_face"
            )
        self.decoder = decoder.eval().requires_grad_(False)
        self.classifier = classifier.eval().requires_grad_(False)

    def forward(self, face: Tensor, speech: Tensor) -> Tensor:
        """Return the mean over the batch, of `(batch, 4096)` true face and predicted speech features."""
        face, speech = face.float(), speech.float()
        with torch.autocast(face.device.type, enabled=False):
            layer = (self.decoder.first_layer(face) - self.decoder.first_layer(speech)).abs()
            distilled = distillation(self.classifier(face), self.classifier(speech))
        l1 = layer.sum(dim=1).mean()
        return l1 + L2_WEIGHT * l2_loss(face, speech) + DISTILLATION_WEIGHT * distilled


def distillation(target: Tensor, predicted: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Return ``-sum_i p_i(target) log p_i(predicted)``, p a softmax at a temperature, mean over the batch.

    Parameters
    ----------
    target, predicted
        `(batch, classes)` logits.
    """
    wanted = (target / temperature).softmax(dim=1)
    return -(wanted * (predicted / temperature).log_softmax(dim=1)).sum(dim=1).mean()


def make_speech2face_loss(decoder: FaceDecoder | None, weights: Path | None) -> Speech2FaceLoss:
    """Return the loss with fc8 from a file of VGG-Face weights.

    Raises
    ------
    ConfigError
        There is no decoder, or the features are not VGG-Face's.
    MissingFileError
        There are no weights; the message says where they come from.
    """
    from s2f_lib.faces.vgg_face.extractor import load_vgg_face

    network = load_vgg_face(weights)
    if decoder is None:
        raise ConfigError(
            "the speech2face loss compares the face decoder's first layer: train the decoder first, "
            "and give it as `decoder` to train_voice_encoder"
        )
    return Speech2FaceLoss(decoder, network.classifier[-1])
