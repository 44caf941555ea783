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
from torch.nn.functional import cosine_similarity

from s2f_lib.config import LossName, StudyConfig
from s2f_lib.errors import TrainingError
from s2f_lib.media.spectrogram import complex_spectrogram
from s2f_lib.models.face_decoder import FaceDecoder
from s2f_lib.models.inference import predict_features
from s2f_lib.models.voice_encoder import VoiceEncoder
from s2f_lib.preparation.shards import PreparedClips
from s2f_lib.training import checkpoint
from s2f_lib.training.augment import augment_audio, clip_keys, epoch_keys, mask_spectrogram
from s2f_lib.training.data import (
    PairedArrays,
    covariance_of_directions,
    mean_direction,
    validation_mask,
)
from s2f_lib.training.distributed import gather
from s2f_lib.training.loop import Augment, Progress, Task, fit
from s2f_lib.training.losses import IN_BATCH_LOSSES, make_loss
from s2f_lib.training.speech2face_loss import make_speech2face_loss

__all__ = ["TrainedEncoder", "encoder_digest", "predict_features", "train_voice_encoder"]

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
    decoder: FaceDecoder | None = None,
    after_step: Callable[[int, float], None] | None = None,
) -> TrainedEncoder:
    """Train the encoder with one of the losses, or load it where it is trained already.

    Parameters
    ----------
    clips
        The training clips, in memory or mapped from disk; a share of their videos is held
        out for validation.
    config
        Spectrogram, encoder and training settings are used.
    loss
        "l1", "l2", "l1_l2", "contrastive", "info_nce" or "speech2face".
    out
        The model's folder.
    progress
        Called after each epoch.
    decoder
        A trained face decoder, for "speech2face" alone, which needs `features.weights`, too.
    after_step
        Called after each step with its number, from 1, and its loss over all processes.

    Raises
    ------
    TrainingError
        There are too few clips, or the loss is not finite.
    ConfigError
        "speech2face" without decoder or with features other than VGG-Face's.
    """
    settings = config.training
    digest = encoder_digest(config, loss=loss, data_digest=clips.digest)
    held_out = validation_mask(clips.video_ids, share=settings.validation_share, seed=settings.seed)
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(train):
        raise TrainingError(f"none of {len(clips)} clips is left for training: lower validation_share")

    torch.manual_seed(settings.seed)  # the initial weights
    model = VoiceEncoder(
        config.encoder, feature_dimension=clips.features.shape[1], spectrogram=config.spectrogram
    )
    _start_at_mean(model, clips.features, train)
    if loss == "speech2face":
        loss_of_pair = make_speech2face_loss(decoder, config.features.weights)
    else:
        loss_of_pair = make_loss(loss, l2_weight=settings.l2_weight, temperature=settings.temperature)

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        spectrogram, face = batch
        speech = network(spectrogram)
        if loss in IN_BATCH_LOSSES:  # each pair against those of all processes
            face, speech = gather(face), gather(speech.float())
        return loss_of_pair(face, speech)

    def validate(network: nn.Module) -> dict[str, float]:
        if len(validation) < 2:
            return {}
        speech = predict_features(network, clips.audio, config.spectrogram, rows=validation)
        speech, face = torch.from_numpy(speech), torch.from_numpy(clips.features[validation])
        cosine = cosine_similarity(face, speech, dim=1).mean()
        device = next(network.parameters()).device
        value = loss_of_pair(face.to(device), speech.to(device))
        return {"validation_loss": float(value), "validation_cosine": float(cosine)}

    ids = [clips.clip_ids[row] for row in train]
    task = Task(
        model,
        PairedArrays(clips.audio, clips.features, rows=train),
        batch_loss,
        validate,
        names=ids,
        loss_parameters=loss_of_pair if isinstance(loss_of_pair, nn.Module) else None,
        augment=_to_spectrogram(config, ids),
    )
    metrics = fit(task, settings, out=out, digest=digest, progress=progress, after_step=after_step)
    trained = VoiceEncoder(
        config.encoder, feature_dimension=clips.features.shape[1], spectrogram=config.spectrogram
    ).to(next(model.parameters()).device)  # the one that was trained may be spread over processes
    checkpoint.load_model(out / checkpoint.MODEL_FILE, trained)
    return TrainedEncoder(trained.eval(), metrics, out, loss)


def _to_spectrogram(config: StudyConfig, clip_ids: list[str]) -> Augment:
    """Return what turns a training batch of audio into spectrograms on the device, changed where asked."""
    changes, seed = config.training.augmentation, config.training.seed
    keys_of_all = clip_keys(clip_ids) if changes.active else None
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format

    def prepare(tensors: tuple[Tensor, ...], indices: Tensor, epoch: int) -> tuple[Tensor, ...]:
        audio, face = tensors
        if keys_of_all is None:
            return complex_spectrogram(audio, config.spectrogram).contiguous(memory_format=layout), face
        keys = epoch_keys(keys_of_all[indices].to(audio.device), seed=seed, epoch=epoch)
        audio = augment_audio(audio, keys, changes, n_samples=config.spectrogram.n_samples)
        spectrogram = mask_spectrogram(complex_spectrogram(audio, config.spectrogram), keys, changes)
        return spectrogram.contiguous(memory_format=layout), face

    return prepare


def _start_at_mean(model: VoiceEncoder, features: np.ndarray, rows: np.ndarray) -> None:
    """Let the encoder start from the mean direction of the faces.

    Face descriptors share a large mean; starting there leaves the encoder to
    learn what tells people apart.  It changes no trained layer and no loss.
    """
    mean = torch.from_numpy(mean_direction(features, rows))
    with torch.no_grad():
        if model.face_axes is not None:
            model.face_axes.fit(mean, torch.from_numpy(covariance_of_directions(features, rows)))
            model.head[-1].bias.zero_()
        else:
            model.head[-1].bias.copy_(mean)
