"""Training of the voice encoder, and its predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from s2f_lib.config import LossName, SpectrogramConfig, StudyConfig
from s2f_lib.errors import TrainingError
from s2f_lib.models.voice_encoder import VoiceEncoder
from s2f_lib.preparation.shards import PreparedClips
from s2f_lib.preparation.spectrogram import complex_spectrogram
from s2f_lib.training import checkpoint
from s2f_lib.training.data import PairedArrays, validation_mask
from s2f_lib.training.loop import Progress, Task, fit
from s2f_lib.training.losses import make_loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedEncoder:
    """A voice encoder and how it was trained."""

    model: VoiceEncoder
    metrics: pd.DataFrame  # a row an epoch
    folder: Path
    loss: LossName


def encoder_digest(config: StudyConfig, *, loss: LossName, data_digest: str) -> str:
    """Return the digest of everything that decides a trained encoder."""
    training = config.training.model_copy(update={"losses": (loss,), "main_loss": loss})
    parts = (data_digest, config.spectrogram.digest(), config.encoder.digest(), training.result_digest())
    return "-".join(parts)


def train_voice_encoder(
    clips: PreparedClips,
    config: StudyConfig,
    *,
    loss: LossName,
    out: Path,
    progress: Progress | None = None,
) -> TrainedEncoder:
    """Train the encoder with one of the report's losses, or load it where it is trained already.

    Parameters
    ----------
    clips
        The training clips; a share of their videos is held out for validation.
    config
        Spectrogram, encoder and training settings are used.
    loss
        "l1", "l2", "l1_l2" or "contrastive".
    out
        The model's folder.
    progress
        Called after each epoch.

    Raises
    ------
    TrainingError
        There are too few clips, or the loss is not finite.
    """
    settings = config.training
    digest = encoder_digest(config, loss=loss, data_digest=clips.digest)
    held_out = validation_mask(clips.video_ids, share=settings.validation_share, seed=settings.seed)
    train, validation = clips.subset(~held_out), clips.subset(held_out)
    if not len(train):
        raise TrainingError(f"none of {len(clips)} clips is left for training: lower validation_share")

    torch.manual_seed(settings.seed)  # the initial weights
    model = VoiceEncoder(
        config.encoder, feature_dimension=clips.features.shape[1], spectrogram=config.spectrogram
    )
    _start_at_mean(model, train.features)
    loss_of_pair = make_loss(loss, l2_weight=settings.l2_weight)

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        audio, face = batch
        return loss_of_pair(face, network(complex_spectrogram(audio, config.spectrogram)))

    def validate(network: nn.Module) -> dict[str, float]:
        if len(validation) < 2:
            return {}
        speech = torch.from_numpy(predict_features(network, validation.audio, config.spectrogram))
        face = torch.from_numpy(validation.features)
        cosine = cosine_similarity(face, speech, dim=1).mean()
        return {"validation_loss": float(loss_of_pair(face, speech)), "validation_cosine": float(cosine)}

    task = Task(model, PairedArrays(train.audio, train.features), batch_loss, validate)
    metrics = fit(task, settings, out=out, digest=digest, progress=progress)
    checkpoint.load_model(out / checkpoint.MODEL_FILE, model)
    return TrainedEncoder(model.eval(), metrics, out, loss)


def predict_features(
    model: nn.Module,
    audio: np.ndarray,
    spectrogram: SpectrogramConfig,
    *,
    batch_size: int = 64,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """Predict face features from voices.

    Parameters
    ----------
    model
        A `VoiceEncoder`, or one wrapped by accelerate.
    audio
        `(n, samples)` int16 at the spectrogram's sample rate.
    transform
        Applied to each batch of audio first, for controls.

    Returns
    -------
    numpy.ndarray
        `(n, dimension)` float32, not normalised.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    predicted = []
    with torch.no_grad():
        for start in range(0, len(audio), batch_size):
            batch = torch.from_numpy(audio[start : start + batch_size]).to(device)
            if transform is not None:
                batch = transform(batch)
            predicted.append(model(complex_spectrogram(batch, spectrogram)).float().cpu())
    model.train(was_training)
    return torch.cat(predicted).numpy()


def _start_at_mean(model: VoiceEncoder, features: np.ndarray) -> None:
    """Set the last bias to the mean direction of the faces.

    Face descriptors share a large mean; starting there leaves the encoder to
    learn what tells people apart.  It changes no layer and no loss.
    """
    mean = normalize(torch.from_numpy(features), dim=1).mean(dim=0)
    with torch.no_grad():
        model.head[-1].bias.copy_(mean)
