"""The voice encoder: complex spectrogram to face features (report, "Voice Encoder Architecture").

Nine 4x4 convolutions without padding, pooled only along time, then the average over time and two fully
connected layers. Sizes in comments are time x frequency for 6 s at 8 kHz bandwidth (598 x 257).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s2f_lib import registry
from s2f_lib.config import ENCODER_LAYERS, SpectrogramConfig, VoiceEncoderConfig
from s2f_lib.config import encoder_output_size as encoder_output_size
from s2f_lib.models.layers import FaceAxes, TimeMaxPool

#: A debug size: the same layers with a few channels.
DEBUG_ENCODER = VoiceEncoderConfig(width=1 / 16, hidden=32, frequency_bins=3)


def make_encoder(
    config: VoiceEncoderConfig | Callable[..., nn.Module],
    *,
    feature_dimension: int,
    spectrogram: SpectrogramConfig,
) -> nn.Module:
    """Return the encoder that the settings name, or that a custom class or function returns.

    Parameters
    ----------
    config
        Kind ("report" or the name of a custom encoder) and size of the encoder; or the class or function of
        a custom encoder, which is called with the arguments below.
    feature_dimension
        Dimension of the predicted face features: 4096 for VGG-Face, 128 for dlib.
    spectrogram
        Settings of the input.

    Returns
    -------
    torch.nn.Module
        `VoiceEncoder`, or the custom encoder, in training mode.

    Raises
    ------
    ConfigError
        The spectrogram is too small, or the custom encoder does not take the options.

    Examples
    --------
    >>> encoder = make_encoder(DEBUG_ENCODER, feature_dimension=128, spectrogram=SpectrogramConfig())
    >>> encoder.feature_dimension
    128
    """
    size: dict[str, Any] = {"feature_dimension": feature_dimension, "spectrogram": spectrogram}
    if not isinstance(config, VoiceEncoderConfig):
        return registry.make("encoders", config, **size)
    if registry.is_built_in("encoders", config.kind):
        return VoiceEncoder(config, **size)
    return registry.make("encoders", registry.load("encoders", config.kind), config.options, **size)


class VoiceEncoder(nn.Module):
    """The report's encoder, with any width and number of frequency bins.

    Parameters
    ----------
    config
        Width, hidden units, and N: the frequency bins that an adaptive average pool leaves.
    feature_dimension
        Dimension of the predicted face features: 4096 for VGG-Face, 128 for dlib.
    spectrogram
        Size of the input, which must be large enough for the layers. None: 6 s at 8 kHz.

    Raises
    ------
    ConfigError
        The spectrogram is too small, or leaves fewer bins than `config.frequency_bins`.

    See Also
    --------
    summarize : Output sizes, parameters and FLOPs of each layer.
    s2f_lib.models.predict_features : Prediction from audio.

    Examples
    --------
    >>> import torch
    >>> encoder = VoiceEncoder(DEBUG_ENCODER, feature_dimension=128)
    >>> encoder(torch.ones(2, 2, 598, 257)).shape
    torch.Size([2, 128])
    """

    def __init__(
        self,
        config: VoiceEncoderConfig,
        *,
        feature_dimension: int,
        spectrogram: SpectrogramConfig | None = None,
    ) -> None:
        super().__init__()
        spectrogram = spectrogram or SpectrogramConfig()
        config.check_fits(spectrogram)
        self.config = config
        self.feature_dimension = feature_dimension
        layers: list[nn.Module] = []
        previous = 2  # real and imaginary part
        for index, (channels, stride, pooled) in enumerate(ENCODER_LAYERS):
            channels = max(1, round(channels * config.width))
            layers.append(nn.Conv2d(previous, channels, kernel_size=4, stride=stride))
            if index < len(ENCODER_LAYERS) - 1:  # those of the last layer follow the average pool
                layers += [nn.ReLU(inplace=True), nn.BatchNorm2d(channels)]
            if pooled:
                layers.append(TimeMaxPool())
            previous = channels
        self.convolutions = nn.Sequential(*layers)
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, config.frequency_bins)), nn.ReLU(inplace=True), nn.BatchNorm2d(previous)
        )
        self.head = nn.Sequential(
            nn.Linear(previous * config.frequency_bins, config.hidden),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden, feature_dimension),
        )
        self.face_axes = FaceAxes(feature_dimension) if config.face_axes else None

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Predict features, `(batch, d)`, not normalised, from `(batch, 2, frames, bins)` spectrograms."""
        maps = self.convolutions(spectrogram)  # (B, 512, 6, 57)
        pooled = self.pool(maps)  # (B, 512, 1, N)
        output = self.head(pooled.flatten(1))  # (B, feature_dimension)
        return output if self.face_axes is None else self.face_axes(output)

    def output_bias(self) -> Tensor:
        """Return the bias of the last layer, `(d,)`, to start training at the mean features."""
        return self.head[-1].get_parameter("bias")


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters.

    Examples
    --------
    >>> count_parameters(torch.nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One row of the summary table."""

    layer: str
    output: str
    parameters: int
    mega_flops: float  # for one clip; a multiplication and an addition count as two


def mega_flops(encoder: nn.Module, spectrogram: SpectrogramConfig) -> float:
    """Return the millions of FLOPs of the forward pass of one clip, without the fixed map `face_axes`.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     encoder = VoiceEncoder(DEBUG_ENCODER, feature_dimension=128)
    >>> round(mega_flops(encoder, SpectrogramConfig()))
    732
    """
    from torch.utils.flop_counter import FlopCounterMode

    if isinstance(encoder, VoiceEncoder):
        return sum(layer.mega_flops for layer in summarize(encoder, spectrogram))
    device = next(encoder.parameters()).device
    x = torch.zeros(1, 2, spectrogram.n_frames, spectrogram.n_bins, device=device)
    was_training = encoder.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.eval()(x)
    encoder.train(was_training)
    return counter.get_total_flops() / 1e6


def summarize(encoder: VoiceEncoder, spectrogram: SpectrogramConfig) -> list[LayerSummary]:
    """Return kind, output size, parameters and FLOPs of each trainable layer, for one clip.

    Parameters
    ----------
    encoder
        Encoder on any device. On torch's "meta" device only the sizes are computed.
    spectrogram
        Size of the input.

    Returns
    -------
    list of LayerSummary
        One row per layer, in order, without the fixed map `face_axes`.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     encoder = VoiceEncoder(DEBUG_ENCODER, feature_dimension=128)
    >>> summarize(encoder, SpectrogramConfig())[0]
    LayerSummary(layer='Conv2d', output='4 x 595 x 254', parameters=132, mega_flops=38.68928)
    """
    from torch.utils.flop_counter import FlopCounterMode

    rows: list[LayerSummary] = []
    was_training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device
    x = torch.zeros(1, 2, spectrogram.n_frames, spectrogram.n_bins, device=device)
    with torch.no_grad():
        for layer in (*encoder.convolutions, *encoder.pool, *encoder.head):
            if layer is encoder.head[0]:
                x = x.flatten(1)
            with FlopCounterMode(display=False) as counter:
                x = layer(x)
            size = " x ".join(str(extent) for extent in x.shape[1:])
            flops = counter.get_total_flops()
            rows.append(LayerSummary(type(layer).__name__, size, count_parameters(layer), flops / 1e6))
    encoder.train(was_training)
    return rows
