"""The voice encoder: complex spectrogram to face features (report, "Voice Encoder Architecture").

Nine 4x4 convolutions without padding, pooled only along time, then the average over time and two fully
connected layers. Sizes in comments are time x frequency for 6 s at 8 kHz bandwidth (598 x 257).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2f_lib.config import SpectrogramConfig, VoiceEncoderConfig
from s2f_lib.errors import ConfigError
from s2f_lib.models.layers import FaceAxes, TimeMaxPool

# (channels, stride, whether a 2x1 max pool along time follows)
_LAYERS: tuple[tuple[int, int, bool], ...] = (
    (64, 1, False),  # 595 x 254
    (64, 1, False),  # 592 x 251
    (128, 1, True),  # 589 x 248, pool 294
    (128, 1, True),  # 291 x 245, pool 145
    (128, 1, True),  # 142 x 242, pool 71
    (256, 1, True),  # 68 x 239, pool 34
    (512, 1, False),  # 31 x 236
    (512, 2, False),  # 14 x 117
    (512, 2, False),  # 6 x 57, then the average over time: 1 x 57
)

#: Smallest spectrogram for the nine layers: 2.6 s at 10 ms per frame, and 31 bins.
MIN_FRAMES, MIN_BINS = 259, 31

#: A debug size: the same layers with a few channels.
DEBUG_ENCODER = VoiceEncoderConfig(width=1 / 16, hidden=32, frequency_bins=3)


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
        _, bins = encoder_output_size(spectrogram.n_frames, spectrogram.n_bins)
        if config.frequency_bins > bins:
            raise ConfigError(
                f"encoder.frequency_bins is {config.frequency_bins}, but a spectrogram of "
                f"{spectrogram.n_frames} x {spectrogram.n_bins} leaves {bins} bins: choose at most {bins}"
            )
        self.config = config
        self.feature_dimension = feature_dimension
        layers: list[nn.Module] = []
        previous = 2  # real and imaginary part
        for index, (channels, stride, pooled) in enumerate(_LAYERS):
            channels = max(1, round(channels * config.width))
            layers.append(nn.Conv2d(previous, channels, kernel_size=4, stride=stride))
            if index < len(_LAYERS) - 1:  # ReLU and batch norm of the last layer follow the average pool
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


def encoder_output_size(frames: int, bins: int) -> tuple[int, int]:
    """Return the size (time, frequency) of the last convolution's map.

    Raises
    ------
    ConfigError
        The spectrogram of `frames` x `bins` is too small for the nine layers.

    Examples
    --------
    >>> encoder_output_size(598, 257)
    (6, 57)
    """
    time, frequency = frames, bins
    for _, stride, pooled in _LAYERS:
        time, frequency = (time - 4) // stride + 1, (frequency - 4) // stride + 1
        if pooled:
            time //= 2
        if min(time, frequency) < 1:
            raise ConfigError(
                f"a spectrogram of {frames} frames x {bins} bins is too small for the encoder's nine "
                f"convolutions: use at least {MIN_FRAMES} frames and {MIN_BINS} bins"
            )
    return time, frequency


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
