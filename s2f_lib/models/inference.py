"""Trained models in use: voices to features, features to faces, a batch at a time.

Apart from the training loops, whose libraries take longer to import than a face takes to draw.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from s2f_lib.config import SpectrogramConfig
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
        A `VoiceEncoder`, or one wrapped for several processes.
    audio
        `(n, samples)` int16 at the spectrogram's sample rate, in memory or mapped from disk.
    windows
        Parts of the spectrogram's length, spread evenly over each clip: the mean of their
        predicted directions is returned.  1: the clip's start alone, as Speech2Face does.
    rows
        `(m,)` int, which clips; all by default.

    Returns
    -------
    numpy.ndarray
        `(n, dimension)` float32, not normalised.
    """
    rows = np.arange(len(audio)) if rows is None else rows
    spare = max(0, audio.shape[1] - spectrogram.n_samples)
    starts = np.linspace(0, spare, windows).round().astype(int) if windows > 1 and spare else [0]
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    predicted = []
    with torch.no_grad():
        for first in range(0, len(rows), batch_size):
            batch = torch.from_numpy(audio[rows[first : first + batch_size]]).to(device)
            parts = [
                model(complex_spectrogram(batch[:, start:], spectrogram)).float().cpu() for start in starts
            ]
            mean = torch.stack([normalize(part, dim=1) for part in parts]).mean(dim=0)
            predicted.append(parts[0] if len(parts) == 1 else mean)
    model.train(was_training)
    return torch.cat(predicted).numpy()


def render_faces(model: nn.Module, features: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
    """Render faces from features.

    Parameters
    ----------
    features
        `(n, dimension)` float32, true or predicted.

    Returns
    -------
    numpy.ndarray
        `(n, 224, 224, 3)` uint8 RGB.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    faces = []
    with torch.no_grad():
        for start in range(0, len(features), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(features[start : start + batch_size]))
            images = model(batch.float().to(device)).float()  # (B, 3, 224, 224)
            faces.append((images * 255).round().byte().permute(0, 2, 3, 1).cpu())
    model.train(was_training)
    return torch.cat(faces).numpy()
