"""Trained models in use: voices to features, and features to faces, one batch at a time.

This module does not import the training loop, whose libraries take seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from s2f_lib.config import SpectrogramConfig
from s2f_lib.faces.extractor import compute_in_batches
from s2f_lib.media.spectrogram import complex_spectrogram
from s2f_lib.preparation.shards import MappedAudio


def predict_features(
    model: nn.Module,
    audio: np.ndarray | MappedAudio,
    spectrogram: SpectrogramConfig,
    *,
    batch_size: int = 64,
    windows: int = 1,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Predict face features from voices.

    Parameters
    ----------
    model
        A `VoiceEncoder`, or one that is wrapped for several processes.
    audio
        `(n, samples)` int16 at 16 kHz, in memory or mapped from disk.
    spectrogram
        Settings of the spectrogram that the encoder was trained on.
    batch_size
        Clips per batch.
    windows
        Number of windows of the spectrogram's length, spread evenly over each clip. The mean of their
        predicted directions is returned. 1: only the start of the clip, as in Speech2Face.
    rows
        `(m,)` int, indices of the clips. None: all.

    Returns
    -------
    numpy.ndarray
        `(m, dimension)` float32, not normalised.

    See Also
    --------
    render_faces : Faces from these features.

    Examples
    --------
    >>> from s2f_lib.models.voice_encoder import DEBUG_ENCODER, VoiceEncoder
    >>> encoder = VoiceEncoder(DEBUG_ENCODER, feature_dimension=128)
    >>> predict_features(encoder, np.zeros((2, 96_000), np.int16), SpectrogramConfig()).shape
    (2, 128)
    """
    rows = np.arange(len(audio)) if rows is None else rows
    spare = max(0, audio.shape[1] - spectrogram.n_samples)
    starts = np.linspace(0, spare, windows).round().astype(int) if windows > 1 and spare else [0]
    with _evaluating(model) as device:

        def predict(batch: slice) -> Tensor:
            voices = torch.from_numpy(audio[rows[batch]]).to(device)
            parts = [model(complex_spectrogram(voices[:, s:], spectrogram)).float().cpu() for s in starts]
            mean = torch.stack([normalize(part, dim=1) for part in parts]).mean(dim=0)
            return parts[0] if len(parts) == 1 else mean

        return compute_in_batches(predict, len(rows), batch_size)


def render_faces(model: nn.Module, features: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
    """Render faces from features.

    Parameters
    ----------
    model
        A `FaceDecoder` or `ResidualDecoder`, or one that is wrapped for several processes.
    features
        `(n, dimension)` float, true or predicted.
    batch_size
        Faces per batch.

    Returns
    -------
    numpy.ndarray
        `(n, 224, 224, 3)` uint8 RGB.

    See Also
    --------
    predict_features : Features from voices.

    Examples
    --------
    >>> from s2f_lib.models.face_decoders import DEBUG_DECODER, FaceDecoder
    >>> decoder = FaceDecoder(DEBUG_DECODER, feature_dimension=128)
    >>> render_faces(decoder, np.ones((2, 128), np.float32)).shape
    (2, 224, 224, 3)
    """
    with _evaluating(model) as device:

        def render(batch: slice) -> Tensor:
            inputs = torch.from_numpy(np.ascontiguousarray(features[batch])).float().to(device)
            images = model(inputs).float()  # (B, 3, 224, 224)
            return (images * 255).round().byte().permute(0, 2, 3, 1)

        return compute_in_batches(render, len(features), batch_size)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Set a model to evaluation mode without gradients, and yield its device."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield next(model.parameters()).device
    model.train(was_training)
