"""A pretrained speaker embedding: 256 numbers that identify the speaker.

The GE2E network (Wan et al. 2018) of `resemblyzer`: three LSTM layers over 40 mel bands of 1.6 s windows,
trained on thousands of speakers. The embedding of an utterance is the mean over its windows. The weights
come with that distribution (Apache-2.0), whose code is not imported.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.storage import digest
from s2f_lib.voices.embedding import as_waves
from s2f_lib.voices.pretrained import distribution_file, read_checked

_WEIGHTS_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"

_N_MELS, _HIDDEN, _LAYERS = 40, 256, 3
_WINDOW_SAMPLES, _HOP_SAMPLES = 400, 160  # 25 and 10 ms
_PARTIAL_FRAMES, _PARTIAL_STEP = 160, 40  # a window of 1.6 s every 0.4 s
_TARGET_DBFS = -30.0  # quieter audio is raised to this level, louder audio stays as it is
_METHOD = "mean of 1.6 s windows, 1"  # part of the fingerprint


class SpeakerEmbedding:
    """Voice embedding of the speaker network; see `VoiceEmbedding`.

    Raises
    ------
    MissingFileError
        The distribution `resemblyzer` is not installed.
    DataError
        The weights differ from those that this study was made with.

    Examples
    --------
    >>> SpeakerEmbedding.dimension
    256
    """

    name = "speaker"
    dimension = _HIDDEN
    blocks: Mapping[str, slice] = {"speaker": slice(0, _HIDDEN)}
    fingerprint = digest(f"{_WEIGHTS_SHA256} {_METHOD}", length=16)

    def __init__(self) -> None:
        data = read_checked([distribution_file("resemblyzer", "pretrained.pt")], _WEIGHTS_SHA256)
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["model_state"]
        self._lstm = torch.nn.LSTM(_N_MELS, _HIDDEN, _LAYERS, batch_first=True).eval()
        self._linear = torch.nn.Linear(_HIDDEN, _HIDDEN).eval()
        for prefix, module in (("lstm.", self._lstm), ("linear.", self._linear)):
            own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            module.load_state_dict(own)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Compute `(n, 256)` float32, not negative, of `(n, samples)` audio at 16 kHz."""
        waves = as_waves(audio)
        if not len(waves):
            return np.zeros((0, self.dimension), np.float32)
        windows = np.stack([_windows(_mel(wave)) for wave in waves])  # (n, windows, 160, 40)
        flat = torch.from_numpy(windows.reshape(-1, _PARTIAL_FRAMES, _N_MELS))
        with torch.no_grad(), _without_onednn():
            _, (hidden, _) = self._lstm(flat)
            raw = torch.relu(self._linear(hidden[-1]))
        raw = raw / raw.norm(dim=1, keepdim=True).clamp(min=1e-8)
        return raw.reshape(*windows.shape[:2], -1).mean(dim=1).numpy()


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Run the LSTM with torch's own kernel: oneDNN's can hang on CPUs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the flag warns about missing hardware
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _mel(wave: np.ndarray) -> np.ndarray:
    """Return `(frames, 40)` float32 mel energies; quiet audio is raised to the level of the training data."""
    import librosa

    level_dbfs = 20 * np.log10(np.sqrt(np.mean(wave.astype(np.float64) ** 2)) + 1e-9)
    gain = max(10 ** ((_TARGET_DBFS - level_dbfs) / 20), 1.0)
    mel = librosa.feature.melspectrogram(
        y=(wave * gain).astype(np.float32),
        sr=SAMPLE_RATE_HZ,
        n_fft=_WINDOW_SAMPLES,
        hop_length=_HOP_SAMPLES,
        n_mels=_N_MELS,
    )
    return mel.astype(np.float32).T


def _windows(mel: np.ndarray) -> np.ndarray:
    """Return `(windows, 160, 40)`: overlapping windows, without an incomplete one at the end."""
    starts = range(0, len(mel) - _PARTIAL_FRAMES + 1, _PARTIAL_STEP)
    return np.stack([mel[start : start + _PARTIAL_FRAMES] for start in starts])
