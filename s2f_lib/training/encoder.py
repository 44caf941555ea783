"""Training of the voice encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from s2f_lib.config import LossName, SpectrogramConfig, TrainingConfig, VoiceEncoderConfig
from s2f_lib.errors import TrainingError
from s2f_lib.media.spectrogram import complex_spectrogram
from s2f_lib.models.inference import predict_features
from s2f_lib.models.voice_encoder import VoiceEncoder
from s2f_lib.storage import digest
from s2f_lib.training import checkpoint
from s2f_lib.training.augment import augment_audio, clip_keys, epoch_keys
from s2f_lib.training.data import (
    PairedArrays,
    VoiceClips,
    covariance_of_directions,
    mean_direction,
    validation_mask,
)
from s2f_lib.training.decoder import TrainedDecoder
from s2f_lib.training.distributed import gather
from s2f_lib.training.loop import AfterStep, Augment, Progress, Task, fit
from s2f_lib.training.losses import IN_BATCH_LOSSES, Loss, make_loss, make_speech2face_loss


@dataclass(frozen=True)
class TrainedEncoder:
    """A trained voice encoder.

    Attributes
    ----------
    model
        The encoder, in evaluation mode.
    metrics
        One row per epoch; see `fit`.
    folder
        Folder of checkpoints, metrics and weights.
    loss
        Name of the loss.
    """

    model: VoiceEncoder
    metrics: pd.DataFrame
    folder: Path
    loss: LossName


def train_voice_encoder(
    clips: VoiceClips,
    *,
    spectrogram: SpectrogramConfig,
    encoder: VoiceEncoderConfig,
    training: TrainingConfig,
    loss: LossName,
    parent: Path,
    name: str | None = None,
    decoder: TrainedDecoder | None = None,
    vgg_face_weights: Path | None = None,
    progress: Progress | None = None,
    after_step: AfterStep | None = None,
) -> TrainedEncoder:
    """Train a voice encoder with one of the losses, or load it if it has been trained before.

    Parameters
    ----------
    clips
        Training clips, in memory or mapped from disk. A share of their videos is held out for validation.
    spectrogram, encoder, training
        Settings of the input, the network and the training.
    loss
        "l1", "l2", "l1_l2", "contrastive", "info_nce" or "speech2face".
    parent
        Folder of the models. The model's own folder in it is called `NAME-DIGEST`, after a digest of
        everything that decides the weights. An interrupted training in it is resumed.
    name
        First part of the folder's name. None: `encoder-LOSS`.
    decoder, vgg_face_weights
        Trained face decoder and file of VGG-Face's weights, for the loss "speech2face".
    progress
        Called after each epoch.
    after_step
        Called after each step.

    Returns
    -------
    TrainedEncoder
        The encoder, its metrics and its folder.

    Raises
    ------
    TrainingError
        There are too few clips, or the loss is not finite.
    ConfigError
        The loss is "speech2face", and the decoder is missing or the features are not VGG-Face's.

    See Also
    --------
    s2f_lib.models.predict_features : Use of the trained encoder.
    train_face_decoder : Training of the decoder.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from types import SimpleNamespace
    >>> ids = [f"clip{index}" for index in range(4)]
    >>> audio, features = np.ones((4, 48_000), np.int16), np.eye(4, dtype=np.float32)
    >>> clips = SimpleNamespace(
    ...     clip_ids=ids, video_ids=ids, audio=audio, features=features, digest="example"
    ... )
    >>> trained = train_voice_encoder(
    ...     clips,
    ...     spectrogram=SpectrogramConfig(duration_s=2.7, max_frequency_hz=1000),
    ...     encoder=VoiceEncoderConfig(width=1 / 64, hidden=8, frequency_bins=1),
    ...     training=TrainingConfig(epochs=1, batch_size=4, validation_share=0),
    ...     loss="info_nce",
    ...     parent=Path(mkdtemp()),
    ... )
    >>> predict_features(trained.model, audio, SpectrogramConfig(duration_s=2.7, max_frequency_hz=1000)).shape
    (4, 4)
    """
    decides = [clips.digest, spectrogram.digest(), encoder.digest()]
    decides += [training.with_(losses=(loss,), main_loss=loss).result_digest()]
    if decoder is not None:
        decides.append(decoder.folder.name)
    name_digest = "-".join(decides)
    folder = parent / f"{name or f'encoder-{loss}'}-{digest(name_digest, length=8)}"

    held_out = validation_mask(clips.video_ids, share=training.validation_share, seed=training.seed)
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(train):
        raise TrainingError(f"all {len(held_out)} clips are held out for validation: lower validation_share")
    dimension = clips.features.shape[1]
    torch.manual_seed(training.seed)  # seeds the initial weights
    model = VoiceEncoder(encoder, feature_dimension=dimension, spectrogram=spectrogram)
    _start_at_mean(model, clips.features, train)
    loss_of_pair: Loss
    if loss == "speech2face":
        loss_of_pair = make_speech2face_loss(decoder.model if decoder else None, vgg_face_weights)
    else:
        loss_of_pair = make_loss(loss, l2_weight=training.l2_weight)

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, face = batch
        speech = network(inputs)
        if loss in IN_BATCH_LOSSES:  # compares with the pairs of all processes
            face, speech = gather(face), gather(speech.float())
        return loss_of_pair(face, speech)

    def validate(network: nn.Module) -> dict[str, float]:
        if len(validation) < 2:
            return {}
        speech = torch.from_numpy(predict_features(network, clips.audio, spectrogram, rows=validation))
        face = torch.from_numpy(clips.features[validation])
        cosine = cosine_similarity(face, speech, dim=1).mean()
        device = next(network.parameters()).device
        value = loss_of_pair(face.to(device), speech.to(device))
        return {"validation_loss": float(value), "validation_cosine": float(cosine)}

    ids = [clips.clip_ids[row] for row in train.tolist()]
    task = Task(
        model,
        PairedArrays(clips.audio, clips.features, rows=train),
        batch_loss,
        validate,
        names=ids,
        loss_parameters=loss_of_pair if isinstance(loss_of_pair, nn.Module) else None,
        augment=_to_spectrogram(spectrogram, training, ids),
    )
    metrics = fit(task, training, out=folder, digest=name_digest, progress=progress, after_step=after_step)
    device = next(model.parameters()).device
    trained = VoiceEncoder(encoder, feature_dimension=dimension, spectrogram=spectrogram).to(device)
    checkpoint.load_model(folder / checkpoint.MODEL_FILE, trained)  # the best epoch may not be the last
    return TrainedEncoder(trained.eval(), metrics, folder, loss)


def _to_spectrogram(spectrogram: SpectrogramConfig, training: TrainingConfig, clip_ids: list[str]) -> Augment:
    """Return a function that augments a batch of audio and computes its spectrograms."""
    keys_of_all = clip_keys(clip_ids)
    layout = torch.channels_last if training.channels_last else torch.contiguous_format

    def prepare(tensors: tuple[Tensor, ...], indices: Tensor, epoch: int) -> tuple[Tensor, ...]:
        audio, face = tensors
        if training.augmentation.active:
            keys = epoch_keys(keys_of_all[indices].to(audio.device), seed=training.seed, epoch=epoch)
            audio = augment_audio(audio, keys, training.augmentation, n_samples=spectrogram.n_samples)
        return complex_spectrogram(audio, spectrogram).contiguous(memory_format=layout), face

    return prepare


def _start_at_mean(model: VoiceEncoder, features: np.ndarray, rows: np.ndarray) -> None:
    """Set the last bias to the mean direction of the faces, which is large compared with their differences.

    The encoder then has to learn only what differs between people.
    """
    mean = torch.from_numpy(mean_direction(features, rows))
    last_bias = model.head[-1].get_parameter("bias")
    with torch.no_grad():
        if model.face_axes is not None:
            model.face_axes.fit(mean, torch.from_numpy(covariance_of_directions(features, rows)))
            last_bias.zero_()
        else:
            last_bias.copy_(mean)
