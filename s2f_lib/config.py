"""The settings of the study: frozen pydantic models.

A profile (`book/profiles/NAME.yaml`) lists only the settings that differ from these defaults. An unknown
key or a wrong type is refused; the message gives the dotted name of the key. The resolved settings are
written into the run folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from s2f_lib import paths, registry
from s2f_lib.errors import ConfigError
from s2f_lib.storage import digest


def _known(kind: registry.Kind) -> AfterValidator:
    def check(name: str) -> str:
        if not registry.is_known(kind, name):
            raise ValueError(f"unknown name {name!r}{suggest(name, registry.names(kind))}")
        return name

    return AfterValidator(check)


ExtractorName = Annotated[str, _known("extractors")]
LossName = Annotated[str, _known("losses")]
EncoderKind = Annotated[str, _known("encoders")]
DecoderKind = Annotated[str, _known("decoders")]
SourceName = Annotated[str, _known("sources")]
SimilarityName = Literal["l1", "l2", "cosine"]
Precision = Literal["auto", "no", "bf16", "fp16"]

RECALL_AT = (1, 5, 10, 20, 50)  # the report's values of K

_MAX_LISTED = 12  # number of names that a message lists

# upper bounds: a larger value is a mistake
_MANY = 10_000_000  # clips, people, values of K
_WIDEST = 1_048_576  # units, channels, samples, clips per batch
_LONGEST_S = 600.0  # seconds of audio per clip
_DAY_S = 86_400.0  # seconds

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # NumPy's legacy generators take 32 bits
Channels = Annotated[int, Field(ge=1, le=_WIDEST)]
SAMPLE_RATE_HZ = 16_000  # sample rate of all decoded audio (Speech2Face section 3)


class Settings(BaseModel):
    """Base of all settings: immutable, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=False,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def digest(self, length: int = 12, *, exclude: Set[str] = frozenset()) -> str:
        """Return a short hexadecimal digest of these settings, for the names of folders.

        Parameters
        ----------
        length
            Number of digits.
        exclude
            Fields that do not count, such as the number of processes.

        Examples
        --------
        >>> ControlsConfig().digest() == ControlsConfig(epochs=3).digest()
        False
        """
        return digest(self._digested(exclude), length=length)

    #: Fields that are part of a digest only if they are not at their default: folders keep their names.
    _ONLY_IF_SET: ClassVar[frozenset[str]] = frozenset()

    def _digested(self, exclude: Set[str]) -> dict[str, Any]:
        values = self.model_dump(mode="json", exclude=set(exclude))
        for name in list(values):
            value = getattr(self, name)
            if isinstance(value, Settings):
                values[name] = value._digested(frozenset())
            elif name in self._ONLY_IF_SET and value == type(self).model_fields[name].default:
                del values[name]
        return values

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a dict of options cannot be hashed

    def with_(self, **changes: Any) -> Self:
        """Return a copy with some settings changed, checked like every other.

        Parameters
        ----------
        **changes
            Field to value; two underscores separate the section from its field.

        Raises
        ------
        ConfigError
            A field is unknown or a value is invalid; the message names it.

        Examples
        --------
        >>> StudyConfig().with_(training__seed=1).training.seed
        1
        """
        values = self.model_dump()
        for name, value in changes.items():
            _set_dotted(values, name.replace("__", "."), value, known=setting_keys(type(self), sections=True))
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(error)) from None


SomeSettings = TypeVar("SomeSettings", bound=Settings)


class _WithOptions(Settings):
    """Base of the sections that choose a part by its name: a built-in one, or a custom one with options."""

    _ONLY_IF_SET: ClassVar[frozenset[str]] = frozenset({"options"})
    _REGISTRY: ClassVar[registry.Kind]
    _NAME: ClassVar[str] = "kind"

    options: dict[str, Any] = {}
    """Keyword arguments of a custom part."""

    @model_validator(mode="after")
    def _options_are_for_custom_parts(self) -> Self:
        name = getattr(self, self._NAME)
        if self.options and registry.is_built_in(self._REGISTRY, name):
            raise ValueError(f"{name} takes no options: they are for custom {self._REGISTRY}")
        return self


class SyntheticConfig(Settings):
    """The generated population; see `sources.synthetic.people`."""

    n_train: int = Field(480, ge=1, le=_MANY)
    """Number of training people, one clip each."""
    n_test: int = Field(120, ge=1, le=_MANY)
    """Number of test people, one clip each; nobody is in both splits."""
    rho: float = Field(0.9, ge=0.0, le=1.0)
    """How much of the face the voice can tell: 0 is no link, 1 the strongest."""
    width_px: int = Field(480, ge=160, le=8192)
    """Width of the video frames, in pixels."""
    height_px: int = Field(360, ge=120, le=8192)
    """Height of the video frames, in pixels."""
    frame_rate_hz: float = Field(12.5, gt=0, le=240)
    """Frames per second of the video."""
    duration_s: float = Field(6.0, ge=0.5, le=10.0)
    """Length of a clip, in seconds; AVSpeech's clips last 3 to 10 s."""
    seed: Seed = 0
    """Seed of the population."""


class DownloadConfig(Settings):
    """Download of clips with yt-dlp; see `sources.download`."""

    url_template: str = "https://www.youtube.com/watch?v={id}"
    """Address of a clip; {id}, {clip_id}, {start_s} and {end_s} are filled in."""
    whole_file: bool | None = None
    """Whether to fetch the whole file. None: yes for links to a file (.../{id}.mp4), otherwise only the
    seconds of the clip."""
    max_height_px: int = Field(360, ge=144, le=8192)
    """Largest height of the video, in pixels; 720p costs four times the bytes of 360p."""
    cookies: Path | None = None
    """Netscape cookies.txt of a signed-in browser, for age-gated videos."""
    concurrency: int = Field(4, ge=1, le=64)
    """Clips that are downloaded at the same time, one thread each."""
    max_clips_per_s: float | None = Field(None, ge=0, le=10_000)
    """Limit of clips per second. None: 300 per hour from YouTube; 0: no limit."""
    max_bytes_per_s: float = Field(0, ge=0, le=1e12)
    """Limit of bytes per second over all threads, for whole files only; 0: no limit."""
    max_attempts: int = Field(4, ge=1, le=20)
    """Attempts per clip in one run, the first included."""
    backoff_s: float = Field(1.0, ge=0, le=_DAY_S)
    """Wait before the second attempt, in seconds; it doubles each time, with jitter."""
    max_backoff_s: float = Field(60.0, ge=0, le=_DAY_S)
    """Longest wait between two attempts, in seconds."""
    socket_timeout_s: float = Field(20.0, gt=0, le=_DAY_S)
    """Seconds without a byte after which a connection counts as stalled."""
    max_clip_s: float = Field(600.0, gt=0, le=_DAY_S)
    """Longest time for one clip with all its attempts, in seconds; ends a slow trickle."""
    stop_after_throttled: int = Field(20, ge=1, le=_MANY)
    """Consecutive rate-limit answers after which the run sends no more requests."""

    @model_validator(mode="after")
    def _template_names_the_clip(self) -> DownloadConfig:
        example: dict[str, Any] = {"id": "0" * 11, "clip_id": "0" * 11 + "_0-1", "start_s": 0.0, "end_s": 1.0}
        known = "{" + "}, {".join(example) + "}"
        try:
            url = self.url_template.format_map(example)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(f"url_template may contain {known}; found {error}") from None
        if not url.startswith(("http://", "https://")) or example["id"] not in url:
            raise ValueError("url_template must start with http(s):// and contain {id} or {clip_id}")
        return self


class AVSpeechConfig(Settings):
    """Clips of AVSpeech: a CSV and the media that it names."""

    csv: Path | None = None
    """Clip list with rows `youtube_id,start_s,end_s,x,y`."""
    media: Path | None = None
    """Folder of `<id>.<ext>` files, each one clip or one whole video."""
    split: Path | None = None
    """Stored split, CSV `clip_id,split`. None: the split is drawn by video id."""
    test_share: float = Field(0.05, gt=0, lt=1)
    """Share of the videos that go into the test split; the report has 400 of 8,400 clips."""
    fetch_missing: bool = False
    """Download the clips that `media` does not hold (`s2f prepare` has --download)."""
    download: DownloadConfig = DownloadConfig()
    """How clips are downloaded."""


class PairsConfig(Settings):
    """The face-voice pairs that Speech2Face's authors publish; see `sources.public_pairs`."""

    root: Path | None = None
    """Folder with avspeech_res/ and perhaps voxceleb/, or a clone of the authors' repository."""
    voxceleb: bool = False
    """Use the VoxCeleb pairs, too."""
    split: Path | None = None
    """Stored split, CSV `clip_id,split`. None: splits are drawn by video and person."""
    n_splits: int = Field(1, ge=1, le=10_000)
    """Number of splits that are drawn; chapters 01 to 06 use the first."""
    test_share: float = Field(0.2, gt=0, lt=1)
    """Share of the videos and people that go into the test split."""
    seed: Seed = 0
    """Seed of the drawn splits."""


class SourceConfig(_WithOptions):
    """Where the clips come from."""

    _REGISTRY = "sources"

    kind: SourceName = "synthetic"
    """The source in use: synthetic, avspeech, pairs, or a custom source (see `s2f_lib.register`)."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """The generated population."""
    avspeech: AVSpeechConfig = AVSpeechConfig()
    """Clips of AVSpeech."""
    pairs: PairsConfig = PairsConfig()
    """Public face-voice pairs."""


class PreparationConfig(Settings):
    """From media files to shards."""

    audio_s: float = Field(6.0, gt=0, le=_LONGEST_S)
    """Length of the stored audio, in seconds: shorter clips are repeated, longer ones cut."""
    frame_positions: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field((0.25, 0.5, 0.75), min_length=1)
    """Positions of the frames that are searched for a face, as shares of the clip."""
    detection_width_px: int = Field(640, ge=80, le=8192)
    """Width to which frames are scaled for the detector, in pixels."""
    detector: Literal["dlib", "torch"] = "torch"
    """Implementation of the same network: dlib itself is the slow reference."""
    faces: Literal["one", "at-xy"] = "one"
    """Accept exactly one face per frame, or the face nearest to the x, y of the clip list."""
    min_face_px: int = Field(32, ge=1, le=8192)
    """Smallest accepted face width, in pixels of the file; smaller faces are all blur."""
    clips_per_shard: int = Field(256, ge=1, le=1_000_000)
    """Clips per shard."""
    workers: int = Field(0, ge=0, le=4096)
    """Number of processes; 0: one per core."""


class FeatureConfig(_WithOptions):
    """The face feature extractor, the target of the voice encoder."""

    _REGISTRY = "extractors"
    _NAME = "extractor"

    extractor: ExtractorName = "dlib_resnet"
    """Network that computes the features: dlib_resnet, vgg_face, or a custom one (see `s2f_lib.register`)."""
    weights: Path | None = None
    """For vgg_face: a safetensors file of VGG16 with 2,622 classes."""
    batch_size: int = Field(32, ge=1, le=_WIDEST)
    """Faces per batch."""


class SpectrogramConfig(Settings):
    """The complex spectrogram (Speech2Face section 3 and supplement)."""

    duration_s: float = Field(6.0, gt=0, le=_LONGEST_S)
    """Length of the audio, in seconds: shorter clips are repeated, longer ones cut."""
    window_samples: int = Field(400, ge=16, le=_WIDEST)
    """Length of the Hann window: 25 ms."""
    hop_samples: int = Field(160, ge=1, le=_WIDEST)
    """Distance between frames: 10 ms."""
    fft_samples: int = Field(512, ge=16, le=_WIDEST)
    """Length of the Fourier transform."""
    compression: float = Field(0.3, gt=0, le=1)
    """Exponent p of sign(x)|x|^p, applied to the real and the imaginary part."""
    max_frequency_hz: float = Field(8_000.0, gt=0, le=1e6)
    """Bins above this frequency are dropped; 8 kHz keeps all 257."""

    @model_validator(mode="after")
    def _window_fits(self) -> SpectrogramConfig:
        if self.window_samples > self.fft_samples:
            raise ValueError(
                f"window_samples is {self.window_samples} and fft_samples {self.fft_samples}: "
                "the window must not be longer than the Fourier transform"
            )
        return self

    @property
    def n_samples(self) -> int:
        """Audio samples per spectrogram."""
        return round(self.duration_s * SAMPLE_RATE_HZ)

    @property
    def n_frames(self) -> int:
        """Frames, by TensorFlow's framing: 598 for 6 s."""
        return 1 + (self.n_samples - self.window_samples) // self.hop_samples

    @property
    def n_bins(self) -> int:
        """Frequency bins kept: 257 for 8 kHz, 129 for 4 kHz."""
        full = self.fft_samples // 2 + 1
        return min(full, 1 + int(self.max_frequency_hz * self.fft_samples / SAMPLE_RATE_HZ))


#: The nine 4x4 convolutions of the voice encoder: channels, stride, whether a 2x1 max pool along time
#: follows. Sizes are time x frequency for 6 s at 8 kHz bandwidth (598 x 257).
ENCODER_LAYERS: tuple[tuple[int, int, bool], ...] = (
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
    for _, stride, pooled in ENCODER_LAYERS:
        time, frequency = (time - 4) // stride + 1, (frequency - 4) // stride + 1
        if pooled:
            time //= 2
        if min(time, frequency) < 1:
            raise ConfigError(
                f"a spectrogram of {frames} frames x {bins} bins is too small for the encoder's nine "
                f"convolutions: use at least {MIN_FRAMES} frames and {MIN_BINS} bins"
            )
    return time, frequency


class VoiceEncoderConfig(_WithOptions):
    """The encoder of the report's table ("Voice Encoder Architecture") at any width, or a custom encoder."""

    _REGISTRY = "encoders"
    _ONLY_IF_SET = frozenset({"kind", "options"})

    kind: EncoderKind = "report"
    """report, or a custom encoder (see `s2f_lib.register`), for which only `options` has an effect."""
    width: float = Field(1.0, gt=0, le=64)
    """Factor on the channels of all convolutions."""
    hidden: int = Field(4096, ge=1, le=_WIDEST)
    """Units of the first fully connected layer."""
    frequency_bins: int = Field(9, ge=1, le=_WIDEST)
    """Frequency bins before the first fully connected layer: 9 is nearest to the report's parameter count,
    57 is Speech2Face's."""
    face_axes: bool = False
    """Predict PCA coordinates of the training faces instead of features; adds no trainable parameter."""

    def check_fits(self, spectrogram: SpectrogramConfig) -> None:
        """Raise a ConfigError if the report's encoder is chosen and the spectrogram is too small for it."""
        if self.kind != "report":
            return
        _, bins = encoder_output_size(spectrogram.n_frames, spectrogram.n_bins)
        if self.frequency_bins > bins:
            raise ConfigError(
                f"encoder.frequency_bins is {self.frequency_bins}, but a spectrogram of "
                f"{spectrogram.n_frames} x {spectrogram.n_bins} leaves {bins} bins: choose at most {bins}"
            )


class FaceDecoderConfig(_WithOptions):
    """The network from features to a 224x224 face: the report's, a residual or a custom one."""

    _REGISTRY = "decoders"

    kind: DecoderKind = "residual"
    """Decoder that the chapters after 04 use: report, residual, or a custom one (see `s2f_lib.register`)."""
    width: float = Field(1.0, gt=0, le=64)
    """Factor on the channels of the report's decoder."""
    residual_channels: tuple[Channels, Channels, Channels, Channels, Channels] = (128, 96, 64, 32, 16)
    """Channels of the residual decoder at 7, 14, 28, 56 and 112 px."""
    residual_hidden: int = Field(512, ge=4, le=_WIDEST)
    """Units between the features and the maps of the residual decoder."""


class LoopConfig(Settings):
    """Settings that the training loops of encoder and decoder share."""

    epochs: int = Field(20, ge=1, le=100_000)
    """Passes over the training data."""
    batch_size: int = Field(32, ge=2, le=_WIDEST)
    """Samples per step, over all processes."""
    learning_rate: float = Field(1e-3, gt=0, le=100)
    """Learning rate after the warm-up."""
    weight_decay: float = Field(1e-4, ge=0, le=100)
    """AdamW's weight decay."""
    clip_norm: float | None = Field(None, gt=0, le=1e9)
    """Largest norm of the gradient over all parameters. None: gradients are not clipped."""
    validation_share: float = Field(0.1, ge=0, lt=0.9)
    """Share of the training videos that is held out for validation; never test videos."""
    patience: int | None = Field(None, ge=1, le=100_000)
    """Epochs without a lower validation loss before training stops. None: all epochs run."""
    precision: Precision = "no"
    """Autocast precision; auto: bf16 if the device computes it in hardware, otherwise no."""
    channels_last: bool = False
    """Memory format of the maps; on CPUs torch's norms are then only exact to 1e-4."""
    compile: bool = False
    """Use torch.compile."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto: the GPU if there is one."""
    loader_threads: int = Field(1, ge=0, le=4096)
    """Threads that gather batches in advance; 0: none."""
    checkpoint_every_steps: int | None = Field(None, ge=1, le=10**9)
    """Steps between two checkpoints, in addition to one at the end of each epoch."""
    checkpoint_every_s: float | None = Field(300.0, gt=0, le=_DAY_S)
    """Seconds between two checkpoints, in addition to one at the end of each epoch."""
    seed: Seed = 0
    """Seed of the initial weights, the batches and the validation videos."""

    @field_validator("precision", mode="before")
    @classmethod
    def _read_no(cls, value: object) -> object:
        return "no" if value is False else value  # YAML reads a bare `no` as false

    #: Settings that do not change the trained model.
    _BOOKKEEPING: ClassVar[frozenset[str]] = frozenset(
        {"loader_threads", "checkpoint_every_steps", "checkpoint_every_s"}
    )

    def result_digest(self) -> str:
        """Return a digest of the settings that decide the trained model."""
        return self.digest(exclude=self._BOOKKEEPING)


class AugmentationConfig(Settings):
    """Random changes of the training batches, computed on the device; the report uses none."""

    random_crop: bool = False
    """Take a random part of clips that are longer than the spectrogram, instead of their start."""
    gain_db: float = Field(0.0, ge=0, le=120)
    """Largest change of the level, in dB; uniform in -gain_db to gain_db."""

    @property
    def active(self) -> bool:
        """Whether any change is switched on."""
        return self.random_crop or self.gain_db > 0


class TrainingConfig(LoopConfig):
    """Training of the voice encoder."""

    losses: tuple[LossName, ...] = ("l1", "l2", "l1_l2", "contrastive")
    """Losses that chapter 03 compares."""
    main_loss: LossName = "l1"
    """Loss that the chapters after 03 use; the report's best."""
    l2_weight: float = Field(10.0, ge=0, le=1e6)
    """Weight lambda of the sum l1 + lambda l2."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the training batches."""


class DecoderTrainingConfig(LoopConfig):
    """Training of the face decoder on true features and their faces.

    The loss weights apply to the residual decoder; the report's decoder is trained with L1 only.
    """

    # the path of the faces does not matter: their digest covers their content
    _BOOKKEEPING: ClassVar[frozenset[str]] = LoopConfig._BOOKKEEPING | {"utkface"}

    l1_weight: float = Field(1.0, ge=0, le=1e6)
    """Weight of the mean absolute difference of the pixels."""
    ssim_weight: float = Field(0.25, ge=0, le=1e6)
    """Weight of 1 - structural similarity, at half the size."""
    identity_weight: float = Field(0.05, ge=0, le=1e6)
    """Weight of 1 - cosine of the extractor's features."""
    utkface: Path | None = None
    """UTKFace folder to train on first. None: only the clips' faces."""


class IntervalSettings(Settings):
    """How a bootstrap interval is computed."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence level."""
    n_resamples: int = Field(1_000, ge=10, le=10_000_000)
    """Bootstrap resamples."""
    seed: Seed = 0
    """Seed of the resamples."""


class EvaluationConfig(Settings):
    """Distances, retrieval and examples."""

    recall_at: tuple[Annotated[int, Field(ge=1, le=_MANY)], ...] = Field(RECALL_AT, min_length=1)
    """The report's values of K."""
    n_bootstrap: int = Field(1_000, ge=10, le=10_000_000)
    """Bootstrap resamples per interval."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence level of the intervals."""
    n_examples: int = Field(5, ge=1, le=1_000)
    """Rows of an example figure."""
    top_k: int = Field(5, ge=1, le=1_000)
    """Retrieved faces per voice."""
    windows: int = Field(1, ge=1, le=1_000)
    """Windows of the spectrogram's length that are spread over a clip; their predictions are averaged."""
    seed: Seed = 0
    """Seed of the bootstrap and the permutation tests."""

    @property
    def interval(self) -> IntervalSettings:
        """How intervals are computed."""
        return IntervalSettings(confidence=self.confidence, n_resamples=self.n_bootstrap, seed=self.seed)


class ControlsConfig(Settings):
    """Controls and ceilings: encoders that are trained on data which should change the result."""

    rhos: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.3, 0.6, 0.9)
    """Values of rho: the same faces with other voices."""
    rho_share: float = Field(1.0, gt=0, le=1)
    """Share of the training clips for the encoders of each rho."""
    clip_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.25, 0.5, 1.0)
    """Shares of the training clips for the learning curve."""
    loss: LossName | None = None
    """Loss of the control encoders. None: training.main_loss."""
    epochs: int | None = Field(None, ge=1, le=100_000)
    """Epochs of each control encoder. None: training.epochs."""
    more_seeds: tuple[Seed, ...] = ()
    """Chapter 03 trains each loss again with each of these seeds."""
    shuffled_training: bool = True
    """Train on wrong face-voice pairs, too; of little use where rho = 0 is trained."""


class StudyConfig(Settings):
    """All settings of one run."""

    profile: str = "default"
    """Name of the profile."""
    source: SourceConfig = SourceConfig()
    """Where the clips come from."""
    preparation: PreparationConfig = PreparationConfig()
    """From media files to shards."""
    features: FeatureConfig = FeatureConfig()
    """The face feature extractor."""
    spectrogram: SpectrogramConfig = SpectrogramConfig()
    """The complex spectrogram."""
    encoder: VoiceEncoderConfig = VoiceEncoderConfig()
    """The voice encoder."""
    decoder: FaceDecoderConfig = FaceDecoderConfig()
    """The face decoder."""
    training: TrainingConfig = TrainingConfig()
    """Training of the voice encoder."""
    decoder_training: DecoderTrainingConfig = DecoderTrainingConfig()
    """Training of the face decoder."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation and examples."""
    controls: ControlsConfig = ControlsConfig()
    """Controls and ceilings."""

    @model_validator(mode="after")
    def _spectrogram_fits_encoder(self) -> StudyConfig:
        self.encoder.check_fits(self.spectrogram)
        return self

    def to_yaml(self) -> str:
        """Return all settings as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def changed_keys(config: StudyConfig, other: StudyConfig) -> list[str]:
    """Return the dotted names of the settings that differ, without those that change no result.

    Examples
    --------
    >>> changed_keys(StudyConfig(), load_config(None, {"training.epochs": 3, "preparation.workers": 2}))
    ['training.epochs']
    """
    ignored = {"profile", "preparation.workers"}
    pairs = {key: (attrgetter(key)(config), attrgetter(key)(other)) for key in setting_keys()}
    return [key for key, (one, two) in pairs.items() if one != two and key not in ignored]


def profile_names() -> list[str]:
    """Return the names of the profiles of the book.

    Examples
    --------
    >>> "quick" in profile_names()
    True
    """
    return sorted(path.stem for path in paths.profiles_dir().glob("*.yaml"))


def load_config(profile: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Resolve a profile and overrides into settings.

    Parameters
    ----------
    profile
        A name in `book/profiles`, the path of a YAML file, or None for the defaults.
    overrides
        Dotted keys to values, for example ``{"training.epochs": 3}``. A text value is read as YAML, so
        ``"3"`` from a command line is a number.

    Raises
    ------
    ConfigError
        The profile, a key or a value is invalid; the message names it.

    Examples
    --------
    >>> load_config("quick", {"training.epochs": 3}).training.epochs
    3
    """
    name, values = ("default", {}) if profile is None else _read_profile(profile)
    for key, value in (overrides or {}).items():
        _set_dotted(
            values, key, _parsed(key, value), known=setting_keys()[1:]
        )  # the profile has a name already
    values["profile"] = name
    try:
        config = StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"profile {name}: {_explain(error)}") from None
    _refuse_unused_source(config.source, overrides or {})
    return config


def _refuse_unused_source(source: SourceConfig, overrides: Mapping[str, Any]) -> None:
    """Refuse overrides of a source that no step reads; a profile may contain settings of several sources.

    Chapters 01 and 07 use the synthetic source in every study, and chapter 08 the pairs if `root` is set.
    """
    unread = {"avspeech", "pairs"} - {source.kind, "pairs" if source.pairs.root is not None else ""}
    for key in overrides:
        section, *rest = key.split(".")
        if section == "source" and rest[0] in unread:
            raise ConfigError(
                f"{key} has no effect: source.kind is {source.kind}; "
                f"add source.kind={rest[0]}, or leave {key} out"
            )


def with_changes(settings: SomeSettings, changes: Mapping[str, Any]) -> SomeSettings:
    """Return settings with changes from a command line.

    Parameters
    ----------
    settings
        One section of the settings.
    changes
        Field to value; a text is read as YAML.

    Raises
    ------
    ConfigError
        A field is unknown or a value is invalid; the message names it.

    Examples
    --------
    >>> with_changes(ControlsConfig(), {"epochs": "3"}).epochs
    3
    """
    known = list(type(settings).model_fields)
    for key in changes:
        if key not in known:
            raise unknown_setting(key, known)
    return settings.with_(**{key: _parsed(key, value) for key, value in changes.items()})


def _parsed(key: str, value: Any) -> Any:
    """Return a text read as YAML, and any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(
            f"{key}: {value!r} is not a YAML value; quote it, for example {key}=\"'text'\""
        ) from None


def setting_keys(
    model: type[BaseModel] = StudyConfig, prefix: str = "", *, sections: bool = False
) -> list[str]:
    """Return the dotted names of all settings; with `sections` those of the groups, too.

    Examples
    --------
    >>> setting_keys(ControlsConfig)[:2]
    ['rhos', 'rho_share']
    """
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if sections or section is None:
            keys.append(f"{prefix}{name}")
        if section is not None:
            keys += setting_keys(section, f"{prefix}{name}.", sections=sections)
    return keys


def suggest(word: str, known: list[str]) -> str:
    """Return " - did you mean X?", or the list of known words if it is short.

    Examples
    --------
    >>> suggest("epoch", ["epochs", "seed"])
    ' - did you mean epochs?'
    >>> suggest("epochs", ["training.epochs", "controls.epochs"])
    ' - did you mean training.epochs or controls.epochs?'
    """
    same_end = [name for name in known if name.endswith(f".{word}")]
    if close := same_end or difflib.get_close_matches(word, known, n=1):
        return f" - did you mean {' or '.join(close)}?"
    if len(known) > _MAX_LISTED:
        return " - the page Settings of the book lists all settings"
    return f" - known: {', '.join(known)}"


def unknown_setting(key: str, known: list[str]) -> ConfigError:
    """Return the error for a name that is not in `known`, or that names a section of the settings."""
    if inner := [name for name in known if name.startswith(f"{key}.")]:
        return ConfigError(f"{key} is a section: name one of its settings, such as {inner[0]}")
    sections = {name.rpartition(".")[0] for name in known} - {""}
    return ConfigError(f"unknown setting {key!r}{suggest(key, sorted(sections) + known)}")


def _read_profile(profile: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(profile)
    if path.suffix not in {".yaml", ".yml"}:
        path = paths.profiles_dir() / f"{profile}.yaml"
        if not path.is_file():
            raise ConfigError(f"unknown profile {str(profile)!r}{suggest(str(profile), profile_names())}")
    if not path.is_file():
        raise ConfigError(f"no profile file at {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return path.stem, values


def _set_dotted(values: dict[str, Any], key: str, value: Any, *, known: list[str]) -> None:
    section, is_option, _ = key.partition(".options.")  # options can have any names
    if key not in known and not (is_option and f"{section}.options" in known):
        raise unknown_setting(key, known)
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"setting {parent!r} is {child!r}: expected a mapping")
        values = child
    values[last] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            lines.append(str(unknown_setting(key, setting_keys())))
        else:
            lines.append(f"{key}: {problem['msg']} (given: {problem['input']!r})")
    return "; ".join(lines)
