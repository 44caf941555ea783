"""The voice encoder: complex spectrogram to face features (report, "Voice Encoder Architecture").

Nine 4x4 convolutions without padding, pooled along time alone, then the
average over time, and two fully connected layers.  Sizes in comments are
time x frequency for 6 s at 8 kHz bandwidth (598 x 257).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2f_lib.config import SpectrogramConfig, VoiceEncoderConfig
from s2f_lib.errors import ConfigError

# (channels, stride, max pool 2x1 along time after it)
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

#: The least that leaves one position after the nine layers: 2.6 s at 10 ms a frame, and 31 bins.
MIN_FRAMES, MIN_BINS = 259, 31

#: The report's table, with N nearest to its count of parameters.
REPORT_ENCODER = VoiceEncoderConfig(width=1.0, hidden=4096, frequency_bins=9)

#: A debug size: the same layers, a few channels.
DEBUG_ENCODER = VoiceEncoderConfig(width=1 / 16, hidden=32, frequency_bins=3)

#: Speech2Face's own size (supplement): all 57 bins enter the first fully connected layer.
SPEECH2FACE_ENCODER = VoiceEncoderConfig(width=1.0, hidden=4096, frequency_bins=57)


class FaceAxes(nn.Module):
    """A fixed linear map after the last layer: outputs are counted along the training faces' own axes.

    ``mean + axes @ output``, with the mean direction and the principal axes of the training faces,
    each as long as the square root of the faces' standard deviation along it (times that of the
    mean one).  Faces differ much along few axes and hardly along the rest; counted so, one learning
    rate suits all.  The encoder can say no more and no less than without it, and nothing of
    it is trained.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("axes", torch.eye(dimension))

    def fit(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the axes from the mean `(d,)` and the covariance `(d, d)` of unit features."""
        variances, directions = torch.linalg.eigh(covariance.double())
        variances = variances.clamp(min=0)
        # The square root of each standard deviation, not all of it: half way to axes that count
        # alike, which learned faster in trials than none of it and than the whole way.
        lengths = (variances * variances.mean()) ** 0.25
        self.mean.copy_(mean)
        self.axes.copy_((directions * lengths).float())

    def forward(self, output: Tensor) -> Tensor:
        """Map `(batch, d)` outputs to features, in float32."""
        device = "cpu" if output.is_meta else output.device.type  # meta knows no autocast
        with torch.autocast(device, enabled=False):
            return self.mean + output.float() @ self.axes.T


class TimeMaxPool(nn.MaxPool2d):
    """The maximum of two frames after each other, as `MaxPool2d` with a kernel of 2 x 1.

    torch's own keeps an index for each maximum and, on a CPU, walks along them one by one; with two
    frames one bit says which it was.  The same values and gradients, about four times as fast there.
    """

    def __init__(self) -> None:
        super().__init__(kernel_size=(2, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """Pool `(batch, channels, frames, bins)` to half the frames, rounded down."""
        return _LargerOfTwoFrames.apply(maps) if maps.device.type == "cpu" else super().forward(maps)


class _LargerOfTwoFrames(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps: Tensor) -> Tensor:
        ctx.frames = maps.shape[2]
        ctx.channels_last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
        even = ctx.frames // 2 * 2
        first, second = maps[:, :, 0:even:2], maps[:, :, 1:even:2]
        second_larger = second > first  # of two that are equal, the first is the one
        ctx.save_for_backward(second_larger)
        return torch.maximum(first, second)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        (second_larger,) = ctx.saved_tensors
        batch, channels, pooled, bins = gradient.shape
        result = torch.empty(
            (batch, channels, ctx.frames, bins),
            dtype=gradient.dtype,
            device=gradient.device,
            # as the maps lie: else the layers below would turn every gradient
            memory_format=torch.channels_last if ctx.channels_last else torch.contiguous_format,
        )
        result[:, :, 2 * pooled :] = 0  # an odd last frame takes no part
        second = result[:, :, 1 : 2 * pooled : 2]
        torch.mul(gradient, second_larger, out=second)
        torch.sub(gradient, second, out=result[:, :, 0 : 2 * pooled : 2])
        return result


class VoiceEncoder(nn.Module):
    """The report's encoder at any width and number of frequency bins.

    Parameters
    ----------
    config
        Width, hidden units, and N, the frequency bins that enter the first
        fully connected layer (an adaptive average pool).
    feature_dimension
        Of the face features to predict: 4096 for VGG-Face, 128 for dlib.
    spectrogram
        Its shape is checked against what the layers need.
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
            if index < len(_LAYERS) - 1:  # the last one's RELU and BN follow the average pool
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
        """Predict face features.

        Parameters
        ----------
        spectrogram
            `(batch, 2, frames, bins)` float, compressed.

        Returns
        -------
        Tensor
            `(batch, feature_dimension)`, not normalised.
        """
        maps = self.convolutions(spectrogram)  # (B, 512, 6, 57)
        pooled = self.pool(maps)  # (B, 512, 1, N)
        output = self.head(pooled.flatten(1))  # (B, feature_dimension)
        return output if self.face_axes is None else self.face_axes(output)


def encoder_output_size(frames: int, bins: int) -> tuple[int, int]:
    """Return the size (time, frequency) of the last convolution's map.

    Raises
    ------
    ConfigError
        The spectrogram is too small for the nine layers.
    """
    size = (frames, bins)
    for _, stride, pooled in _LAYERS:
        size = tuple((extent - 4) // stride + 1 for extent in size)
        if pooled:
            size = (size[0] // 2, size[1])
        if min(size) < 1:
            raise ConfigError(
                f"a spectrogram of {frames} frames x {bins} bins is too small for the encoder's nine "
                f"convolutions: use at least {MIN_FRAMES} frames and {MIN_BINS} bins"
            )
    return size


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One row of the summary table."""

    layer: str
    output: str
    parameters: int
    mega_flops: float  # multiply and add counted as two, for one clip


def summarize(encoder: VoiceEncoder, spectrogram: SpectrogramConfig) -> list[LayerSummary]:
    """Return a row for each layer: kind, output shape, parameters, FLOPs of one clip."""
    rows: list[LayerSummary] = []
    hooks = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        flops = 0
        if isinstance(module, nn.Conv2d):
            flops = 2 * output[0].numel() * module.in_channels * 16
        elif isinstance(module, nn.Linear):
            flops = 2 * module.in_features * module.out_features
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        shape = " x ".join(str(extent) for extent in output.shape[1:])
        rows.append(LayerSummary(type(module).__name__, shape, own, flops / 1e6))

    for module in encoder.modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(record))
    was_training = encoder.training
    try:
        device = next(encoder.parameters()).device
        with torch.no_grad():
            encoder.eval()(torch.zeros(1, 2, spectrogram.n_frames, spectrogram.n_bins, device=device))
    finally:
        encoder.train(was_training)
        for hook in hooks:
            hook.remove()
    return rows
