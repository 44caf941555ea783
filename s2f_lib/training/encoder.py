"""Training of the voice encoder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from scipy.signal import resample_poly
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from s2f_lib import registry
from s2f_lib.config import SAMPLE_RATE_HZ, LossName, SpectrogramConfig, TrainingConfig, VoiceEncoderConfig
from s2f_lib.errors import InputError, TrainingError
from s2f_lib.media.spectrogram import INT16_SCALE, complex_spectrogram
from s2f_lib.models.inference import predict_features
from s2f_lib.models.voice_encoder import VoiceEncoder, make_encoder
from s2f_lib.storage import digest
from s2f_lib.training import checkpoint
from s2f_lib.training.augment import augment_audio, clip_keys, epoch_keys
from s2f_lib.training.data import (
    PairedArrays,
    VoiceArrays,
    VoiceClips,
    covariance_of_directions,
    mean_direction,
    to_int16,
    validation_mask,
)
from s2f_lib.training.decoder import TrainedDecoder
from s2f_lib.training.distributed import gather
from s2f_lib.training.loop import METRICS_FILE, AfterStep, Augment, Progress, Task, fit
from s2f_lib.training.losses import IN_BATCH_LOSSES, Loss, make_loss, make_speech2face_loss

EncoderFactory = Callable[..., nn.Module]

DESCRIPTION_FILE = "encoder.json"  # what `load_encoder` needs besides the weights


@dataclass(frozen=True)
class TrainedEncoder:
    """A trained voice encoder.

    Attributes
    ----------
    model
        The encoder, in evaluation mode: `VoiceEncoder`, or a custom encoder.
    metrics
        One row per epoch; see `fit`.
    folder
        Folder of checkpoints, metrics and weights. `load_encoder` reads it.
    loss
        Name of the loss.
    spectrogram
        Settings of the input.
    """

    model: nn.Module
    metrics: pd.DataFrame
    folder: Path
    loss: LossName
    spectrogram: SpectrogramConfig

    def predict(
        self, audio: np.ndarray | Tensor, sample_rate_hz: float = SAMPLE_RATE_HZ, *, windows: int = 1
    ) -> np.ndarray:
        """Predict face features from recordings.

        Parameters
        ----------
        audio
            `(samples,)` or `(n, samples)`, mono, int16 or floating point in [-1, 1]. Audio that is shorter
            than the spectrogram is repeated.
        sample_rate_hz
            Sample rate of the audio, which is resampled to 16 kHz.
        windows
            As in `s2f_lib.models.predict_features`: 1 uses the start of the audio.

        Returns
        -------
        numpy.ndarray
            `(n, dimension)` float32, not normalised.

        Raises
        ------
        InputError
            The audio has another shape, type or scale; the message names the argument.

        Examples
        --------
        >>> spectrogram = SpectrogramConfig(duration_s=2.7, max_frequency_hz=1000)
        >>> settings = VoiceEncoderConfig(width=1 / 64, hidden=8, frequency_bins=1)
        >>> model = VoiceEncoder(settings, feature_dimension=4, spectrogram=spectrogram)
        >>> trained = TrainedEncoder(model, pd.DataFrame(), Path("."), "l1", spectrogram)
        >>> trained.predict(np.zeros((2, 22_050), np.int16), 22_050).shape
        (2, 4)
        """
        voices = np.asarray(audio.detach().cpu() if isinstance(audio, Tensor) else audio)
        voices = to_int16(voices[None] if voices.ndim == 1 else voices)
        if not 1_000 <= sample_rate_hz <= 1_000_000:
            raise InputError(f"sample_rate_hz is {sample_rate_hz}: expected 1,000 to 1,000,000 Hz")
        if voices.shape[1] < self.spectrogram.window_samples:
            raise InputError(
                f"audio has the shape {voices.shape}, clips of {voices.shape[1]} samples: expected "
                f"(samples,) or (n, samples), mono, with at least {self.spectrogram.window_samples} samples"
            )
        ratio = Fraction(SAMPLE_RATE_HZ, round(sample_rate_hz))
        if ratio != 1:
            resampled = resample_poly(voices * INT16_SCALE, ratio.numerator, ratio.denominator, axis=1)
            voices = to_int16(resampled)
        return predict_features(self.model, voices, self.spectrogram, windows=windows)


def train_voice_encoder(
    clips: VoiceClips | tuple[np.ndarray, np.ndarray],
    *,
    parent: str | Path,
    spectrogram: SpectrogramConfig | None = None,
    encoder: VoiceEncoderConfig | EncoderFactory | None = None,
    training: TrainingConfig | None = None,
    loss: LossName | Loss | None = None,
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
        Training clips such as `PreparedClips`, in memory or mapped from disk; `VoiceArrays`; or a tuple of
        its audio and features. A share of the videos is held out for validation.
    parent
        Folder of the models. The model's own folder in it is called `NAME-DIGEST`, after a digest of
        everything that decides the weights. An interrupted training in it is resumed.
    spectrogram, encoder, training
        Settings of the input, the network and the training. None: the library's defaults. `encoder` may also
        be a custom encoder: a class or function that is called with `feature_dimension` and `spectrogram`
        (`SpectrogramConfig`) and returns a module from `(batch, 2, frames, bins)` to `(batch, dimension)`.
        If the module has a method `output_bias`, the bias that it returns starts at the mean of the features.
    loss
        "l1", "l2", "l1_l2", "contrastive", "info_nce", "speech2face", the name of a custom loss, or a custom
        loss itself: a function of (face, speech), both `(batch, dimension)`, that returns a scalar. A loss
        with the attribute `in_batch = True` gets the pairs of all processes. None: `training.main_loss`.
    name
        First part of the folder's name. None: `encoder-LOSS`.
    decoder, vgg_face_weights
        Trained face decoder and file of VGG-Face's weights, for the loss "speech2face".
    progress
        Called after each epoch with its number, the number of epochs, and its row of metrics (a dict).
    after_step
        Called after each step with its number and its loss.

    Returns
    -------
    TrainedEncoder
        The encoder, its metrics and its folder.

    Raises
    ------
    InputError
        The arrays do not fit together, or a custom encoder or loss lacks a name or a fingerprint.
    TrainingError
        There are too few clips, or the loss is not finite.
    ConfigError
        The loss is "speech2face", and the decoder is missing or the features are not VGG-Face's.

    Notes
    -----
    The name and the fingerprint of a custom encoder or loss are part of the digest. The fingerprint is its
    attribute `fingerprint`, or a digest of its source code and of the values that the code uses.

    See Also
    --------
    load_encoder : Reads a trained encoder from its folder.
    train_face_decoder : Training of the decoder.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> audio, features = np.ones((4, 48_000), np.int16), np.eye(4, dtype=np.float32)
    >>> trained = train_voice_encoder(
    ...     (audio, features),
    ...     parent=mkdtemp(),
    ...     spectrogram=SpectrogramConfig(duration_s=2.7, max_frequency_hz=1000),
    ...     encoder=VoiceEncoderConfig(width=1 / 64, hidden=8, frequency_bins=1),
    ...     training=TrainingConfig(epochs=1, batch_size=4, validation_share=0),
    ...     loss="info_nce",
    ... )
    >>> trained.predict(audio[0]).shape
    (1, 4)
    """
    spectrogram, training = spectrogram or SpectrogramConfig(), training or TrainingConfig()
    encoder, loss = encoder or VoiceEncoderConfig(), loss or training.main_loss
    data = VoiceArrays(*clips) if isinstance(clips, tuple) else clips
    if not data.features.shape[1]:
        raise TrainingError("the clips are recordings without faces: prepare videos, with `prepare_folder`")
    loss_name, loss_fingerprint = registry.identity("losses", loss)
    encoder_name, encoder_fingerprint = checkpoint.network_identity("encoders", encoder)
    decides = [data.digest, spectrogram.digest()]
    decides += [encoder.digest() if isinstance(encoder, VoiceEncoderConfig) else encoder_name]
    named = "l1" if loss_fingerprint else loss_name  # settings cannot name a loss that is given directly
    decides += [training.with_(losses=(named,), main_loss=named).result_digest()]
    if decoder is not None:
        decides.append(decoder.folder.name)
    if loss_fingerprint:
        decides += ["loss", loss_name, loss_fingerprint]
    if encoder_fingerprint:
        decides += ["encoder", encoder_fingerprint]
    name_digest = "-".join(decides)
    folder = Path(parent) / f"{name or f'encoder-{loss_name}'}-{digest(name_digest, length=8)}"

    held_out = validation_mask(data.video_ids, share=training.validation_share, seed=training.seed)
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(train):
        raise TrainingError(f"all {len(held_out)} clips are held out for validation: lower validation_share")
    make = functools.partial(
        make_encoder, encoder, feature_dimension=data.features.shape[1], spectrogram=spectrogram
    )
    torch.manual_seed(training.seed)  # seeds the initial weights
    model = make()
    _start_at_mean(model, data.features, train)
    loss_of_pair: Loss
    if loss == "speech2face":
        loss_of_pair = make_speech2face_loss(decoder.model if decoder else None, vgg_face_weights)
    else:
        loss_of_pair = make_loss(loss, l2_weight=training.l2_weight)
    in_batch = loss in IN_BATCH_LOSSES or getattr(loss_of_pair, "in_batch", False)

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, face = batch
        speech = network(inputs)
        if speech.shape != face.shape:
            raise InputError(
                f"encoder {encoder_name!r} returned {tuple(speech.shape)}: expected {tuple(face.shape)}"
            )
        if in_batch:  # compares with the pairs of all processes
            face, speech = gather(face), gather(speech.float())
        value = loss_of_pair(face, speech)
        if value.ndim:
            raise InputError(f"loss {loss_name!r} returned the shape {tuple(value.shape)}: expected a scalar")
        return value

    def validate(network: nn.Module) -> dict[str, float]:
        if len(validation) < 2:
            return {}
        speech = torch.from_numpy(predict_features(network, data.audio, spectrogram, rows=validation))
        face = torch.from_numpy(data.features[validation])
        cosine = cosine_similarity(face, speech, dim=1).mean()
        device = next(network.parameters()).device
        value = loss_of_pair(face.to(device), speech.to(device))
        return {"validation_loss": float(value), "validation_cosine": float(cosine)}

    ids = [data.clip_ids[row] for row in train.tolist()]
    task = Task(
        model,
        PairedArrays(data.audio, data.features, rows=train),
        batch_loss,
        validate,
        names=ids,
        loss_parameters=loss_of_pair if isinstance(loss_of_pair, nn.Module) else None,
        augment=_to_spectrogram(spectrogram, training, ids),
    )
    metrics = fit(task, training, out=folder, digest=name_digest, progress=progress, after_step=after_step)
    trained = make().to(next(model.parameters()).device)
    checkpoint.load_model(folder / checkpoint.MODEL_FILE, trained)  # the best epoch may not be the last
    description = {"loss": loss_name, "spectrogram": spectrogram.model_dump(mode="json")}
    checkpoint.write_description(
        "encoders",
        folder / DESCRIPTION_FILE,
        encoder,
        feature_dimension=data.features.shape[1],
        **description,
    )
    return TrainedEncoder(trained.eval(), metrics, folder, loss_name, spectrogram)


def load_encoder(folder: str | Path, *, encoder: EncoderFactory | None = None) -> TrainedEncoder:
    """Load a trained encoder from its folder, on the CPU.

    Parameters
    ----------
    folder
        Folder of the model: the attribute `folder` of the `TrainedEncoder`, in the folder of the models.
    encoder
        Class or function of the custom encoder, if the training got it directly and not by a name.

    Returns
    -------
    TrainedEncoder
        As `train_voice_encoder` returned it.

    Raises
    ------
    CheckpointError
        The folder does not hold a trained encoder, or the code of its custom encoder has changed.
    ConfigError
        The custom encoder is unknown here.

    See Also
    --------
    TrainedEncoder.predict : Features of recordings.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> trained = train_voice_encoder(
    ...     (np.ones((4, 48_000), np.int16), np.eye(4)),
    ...     parent=mkdtemp(),
    ...     spectrogram=SpectrogramConfig(duration_s=2.7, max_frequency_hz=1000),
    ...     encoder=VoiceEncoderConfig(width=1 / 64, hidden=8, frequency_bins=1),
    ...     training=TrainingConfig(epochs=1, batch_size=4, validation_share=0),
    ... )
    >>> load_encoder(trained.folder).loss
    'l1'
    """
    folder = Path(folder)
    description = checkpoint.read_description(folder / DESCRIPTION_FILE, "a trained voice encoder")
    chosen = checkpoint.described_network("encoders", description, VoiceEncoderConfig, encoder, folder=folder)
    spectrogram = SpectrogramConfig.model_validate(description["spectrogram"])
    model = make_encoder(chosen, feature_dimension=description["feature_dimension"], spectrogram=spectrogram)
    checkpoint.load_model(folder / checkpoint.MODEL_FILE, model)
    metrics = pd.read_csv(folder / METRICS_FILE)
    return TrainedEncoder(model.eval(), metrics, folder, description["loss"], spectrogram)


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


def _start_at_mean(model: nn.Module, features: np.ndarray, rows: np.ndarray) -> None:
    """Set the last bias to the mean direction of the faces, which is large compared with their differences.

    The encoder then has to learn only what differs between people. A custom encoder without
    `output_bias` is not changed.
    """
    if not hasattr(model, "output_bias"):
        return
    mean = torch.from_numpy(mean_direction(features, rows))
    last_bias = cast(VoiceEncoder, model).output_bias()
    with torch.no_grad():
        if isinstance(model, VoiceEncoder) and model.face_axes is not None:
            model.face_axes.fit(mean, torch.from_numpy(covariance_of_directions(features, rows)))
            last_bias.zero_()
        else:
            last_bias.copy_(mean)
