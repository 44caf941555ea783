"""The settings of the study: frozen pydantic models, one field a line.

A profile (`book/profiles/NAME.yaml`) holds only what differs from the defaults
here.  An unknown key or a wrong type is refused with the key's dotted name.
The resolved settings are written into the run folder.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from s2f_lib import paths
from s2f_lib.errors import ConfigError

# the report's four, then symmetric InfoNCE and Speech2Face's full loss
LossName = Literal["l1", "l2", "l1_l2", "contrastive", "info_nce", "speech2face"]
SourceName = Literal["synthetic", "avspeech", "pairs"]
SimilarityName = Literal["l1", "l2", "cosine"]
DecoderKind = Literal["report", "residual"]


class Settings(BaseModel):
    """Base of all settings: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True)

    def digest(self, length: int = 12) -> str:
        """Return a short hexadecimal digest of these settings, for folder names."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:length]


SomeSettings = TypeVar("SomeSettings", bound=Settings)


class SyntheticConfig(Settings):
    """The generated population (design section 3.1)."""

    n_train: int = Field(480, ge=1)  # people, one clip each
    n_test: int = Field(120, ge=1)  # people, one clip each; none of them in train
    rho: float = Field(0.9, ge=0.0, le=1.0)  # how much of the face a voice can tell
    width_px: int = Field(480, ge=160)  # of the video frame
    height_px: int = Field(360, ge=120)
    frame_rate_hz: float = Field(12.5, gt=0)
    duration_s: float = Field(6.0, ge=0.5, le=10.0)  # AVSpeech's clips last 3 to 10 s
    seed: int = Field(0, ge=0)


class DownloadConfig(Settings):
    """Fetching clips with yt-dlp; see `sources.download.run`."""

    url_template: str = "https://www.youtube.com/watch?v={id}"  # also {clip_id}, {start_s}, {end_s}
    whole_file: bool | None = None  # None: yes for links to a file (.../{id}.mp4), else the clip's seconds
    max_height_px: int = Field(360, ge=144)  # faces of AVSpeech are large; 720p is four times the bytes
    cookies: Path | None = None  # Netscape cookies.txt of a signed-in browser, for age-gated videos
    concurrency: int = Field(4, ge=1, le=64)  # clips in work at once, a thread each
    max_clips_per_s: float | None = Field(None, ge=0)  # None: 300 an hour from YouTube; 0: no limit
    max_bytes_per_s: float = Field(0, ge=0)  # of all threads together, whole files only; 0: no limit
    max_attempts: int = Field(4, ge=1, le=20)  # of a clip in one run, the first included
    backoff_s: float = Field(1.0, ge=0)  # before the second attempt; doubles each time, with jitter
    max_backoff_s: float = Field(60.0, ge=0)
    max_retry_after_s: float = Field(120.0, ge=0)  # a server that asks for a longer wait gets a later run
    socket_timeout_s: float = Field(20.0, gt=0)  # without a byte: a stall
    max_clip_s: float = Field(600.0, gt=0)  # by the clock, with all attempts; a slow trickle ends here
    stop_after_throttled: int = Field(20, ge=1)  # refusals in a row, then no more is asked in this run
    duration_tolerance_s: float = Field(0.5, gt=0)  # how far a file may be from the clip's length

    @model_validator(mode="after")
    def _template_names_the_clip(self) -> DownloadConfig:
        example = {"id": "0" * 11, "clip_id": "0" * 11 + "_0-1", "start_s": 0.0, "end_s": 1.0}
        known = "{" + "}, {".join(example) + "}"
        try:
            url = self.url_template.format_map(example)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(f"url_template may hold {known}; found {error}") from None
        if not url.startswith(("http://", "https://")) or example["id"] not in url:
            raise ValueError("url_template has to start with http(s):// and to hold {id} or {clip_id}")
        return self


class AVSpeechConfig(Settings):
    """Clips of AVSpeech: a CSV and the media that it names."""

    csv: Path | None = None  # rows `youtube_id,start_s,end_s,x,y`
    media: Path | None = None  # folder of `<id>.<ext>` files, each one clip or one whole video
    splits: Path | None = None  # a stored split, CSV `clip_id,split`; where absent, drawn by video id
    test_share: float = Field(0.05, gt=0, lt=1)  # of the videos; the report: 400 of 8,400
    fetch_missing: bool = False  # download clips that `media` does not hold; `s2f prepare` has --download
    download: DownloadConfig = DownloadConfig()  # how they are fetched


class PairsConfig(Settings):
    """The face-voice pairs that Speech2Face's authors publish; see `sources.public_pairs`."""

    root: Path | None = None  # holds avspeech_res/ and perhaps voxceleb/, or is a clone of their repository
    voxceleb: bool = False  # also the pairs of VoxCeleb
    split: Path | None = None  # a stored split, CSV `clip_id,split`; where absent, drawn by video and person
    n_splits: int = Field(1, ge=1)  # how many are drawn; chapters 01 to 06 use the first
    test_share: float = Field(0.2, gt=0, lt=1)  # of the videos and persons
    seed: int = Field(0, ge=0)


class SourceConfig(Settings):
    """Where the clips come from."""

    kind: SourceName = "synthetic"
    synthetic: SyntheticConfig = SyntheticConfig()
    avspeech: AVSpeechConfig = AVSpeechConfig()
    pairs: PairsConfig = PairsConfig()


class PreparationConfig(Settings):
    """From media files to shards."""

    sample_rate_hz: int = Field(16_000, ge=8_000)  # Speech2Face section 3
    min_audio_s: float = Field(1.0, gt=0)  # refuse clips with less
    audio_s: float = Field(6.0, gt=0)  # shorter clips are repeated up to this, longer ones cut
    frame_positions: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.25, 0.5, 0.75), min_length=1
    )  # frames looked at, as shares of the clip
    detection_width_px: int = Field(640, ge=80)  # frames are scaled to this width for the detector
    detection_threshold: float = 0.0  # dlib's own threshold on its confidence
    detector: Literal["dlib", "torch"] = "torch"  # the same network: dlib itself is the slow reference
    faces: Literal["one", "at-xy"] = "one"  # exactly one face, or the one nearest the CSV's x, y
    min_face_px: int = Field(32, ge=1)  # of the file's own pixels; a smaller face would be all blur
    crop_px: int = Field(224, ge=64)  # VGG-Face's input
    crop_margin: float = Field(0.25, ge=0)  # dlib's face-chip padding: share of the face box added a side
    jpeg_quality: int = Field(92, ge=50, le=100)
    clips_per_shard: int = Field(256, ge=1)
    workers: int = Field(0, ge=0)  # processes; 0: one a core


class FeatureConfig(Settings):
    """The face feature extractor, the target of the voice encoder."""

    extractor: Literal["dlib_resnet", "vgg_face"] = "dlib_resnet"
    weights: Path | None = None  # vgg_face only: a safetensors file of VGG16, 2,622 classes
    batch_size: int = Field(32, ge=1)


class SpectrogramConfig(Settings):
    """The complex spectrogram (Speech2Face section 3 and supplement)."""

    sample_rate_hz: int = Field(16_000, ge=8_000)
    duration_s: float = Field(6.0, gt=0)  # shorter clips are repeated, longer ones cut
    window_samples: int = Field(400, ge=16)  # Hann, 25 ms
    hop_samples: int = Field(160, ge=1)  # 10 ms
    fft_samples: int = Field(512, ge=16)
    compression: float = Field(0.3, gt=0, le=1)  # sign(x)|x|^0.3, of re and im each
    max_frequency_hz: float = Field(8_000.0, gt=0)  # bins above are dropped; 8 kHz keeps all 257

    @model_validator(mode="after")
    def _window_fits(self) -> SpectrogramConfig:
        if self.window_samples > self.fft_samples:
            raise ValueError(
                f"window_samples is {self.window_samples} and fft_samples {self.fft_samples}: "
                "a window may not be longer than its Fourier transform"
            )
        return self

    @property
    def n_samples(self) -> int:
        """Samples of audio that one spectrogram covers."""
        return round(self.duration_s * self.sample_rate_hz)

    @property
    def n_frames(self) -> int:
        """Frames, by TensorFlow's framing: 598 for 6 s."""
        return 1 + (self.n_samples - self.window_samples) // self.hop_samples

    @property
    def n_bins(self) -> int:
        """Frequency bins kept: 257 for 8 kHz, 129 for 4 kHz."""
        full = self.fft_samples // 2 + 1
        return min(full, 1 + int(self.max_frequency_hz * self.fft_samples / self.sample_rate_hz))


class VoiceEncoderConfig(Settings):
    """The report's table, at any width (report, "Voice Encoder Architecture")."""

    width: float = Field(1.0, gt=0)  # multiplies the channels of all convolutions
    hidden: int = Field(4096, ge=1)  # units of the first fully connected layer
    frequency_bins: int = Field(9, ge=1)  # N: 9 is nearest the report's count, 57 is Speech2Face's
    face_axes: bool = False  # count the output along the training faces' principal axes; no more to train


class FaceDecoderConfig(Settings):
    """Features to a 224x224 face: the report's decoder, or one with residual upsampling beside it."""

    kind: DecoderKind = "residual"  # that the chapters after 04 use
    width: float = Field(1.0, gt=0)  # report: multiplies the channels
    base_channels: int = Field(256, ge=8)  # report: of the 14x14 map; four transposed convolutions follow
    residual_channels: tuple[int, int, int, int, int] = (128, 96, 64, 32, 16)  # at 7, 14, 28, 56, 112 px
    residual_hidden: int = Field(512, ge=4)  # residual: units between the features and the maps


class LoopConfig(Settings):
    """What the training loops of encoder and decoder share."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(32, ge=2)  # pairs a step, over all processes
    accumulation_steps: int = Field(1, ge=1)  # a batch is computed in so many parts, one after the other
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)  # the peak, after warm-up
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # of SGD; AdamW's beta1
    adam_eps: float = Field(1e-8, gt=0)
    schedule: Literal["cosine", "exponential"] = "cosine"  # after the warm-up: to zero, or by steps
    warmup_share: float = Field(0.05, ge=0, lt=1)  # of the steps
    decay_factor: float = Field(0.95, gt=0, le=1)  # exponential: each decay_steps; Speech2Face's
    decay_steps: int = Field(10_000, ge=1)
    clip_norm: float | None = Field(None, gt=0)  # longest gradient over all parameters; None: as it is
    ema_decay: float | None = Field(None, gt=0, lt=1)  # moving average of the weights, a step; None: off
    validation_share: float = Field(0.1, ge=0, lt=0.9)  # of the training videos, never of test
    patience: int | None = Field(None, ge=1)  # epochs without a better validation loss; None: all epochs
    precision: Literal["no", "bf16", "fp16"] = "no"  # autocast
    channels_last: bool = False  # memory format of maps; on CPUs torch's norms are then only exact to 1e-4
    compile: bool = False  # torch.compile
    device: Literal["auto", "cpu", "cuda"] = "auto"
    loader_threads: int = Field(1, ge=0)  # that gather batches ahead; 0: in step with training
    checkpoint_every_steps: int | None = Field(None, ge=1)  # beside one at each epoch's end
    checkpoint_every_s: float | None = Field(300.0, gt=0)
    keep_checkpoints: int = Field(2, ge=1)  # the last ones; the best is kept too
    tensorboard: bool = False  # event files beside metrics.csv
    seed: int = Field(0, ge=0)

    @field_validator("precision", mode="before")
    @classmethod
    def _read_no(cls, value: object) -> object:
        return "no" if value is False else value  # YAML reads a bare `no` as false

    def result_digest(self) -> str:
        """Return a digest of the settings that decide the result, not of those that say how it is kept."""
        bookkeeping = {
            "loader_threads",
            "checkpoint_every_steps",
            "checkpoint_every_s",
            "keep_checkpoints",
            "tensorboard",
            "utkface",  # where the folder lies; what is in it is in the digest of its faces
        }
        text = json.dumps(self.model_dump(mode="json", exclude=bookkeeping), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class AugmentationConfig(Settings):
    """Random changes of the training batches, made on the device; all off in the report's set-up."""

    random_crop: bool = False  # of clips longer than the spectrogram; else their start
    gain_db: float = Field(0.0, ge=0)  # uniform in -gain_db to gain_db
    noise_snr_db: tuple[float, float] | None = None  # white noise, ratio uniform between the two
    time_masks: int = Field(0, ge=0)  # SpecAugment (Park et al. 2019, section 2)
    time_mask_frames: int = Field(40, ge=1)  # the longest mask; 40 frames are 0.4 s
    frequency_masks: int = Field(0, ge=0)
    frequency_mask_bins: int = Field(24, ge=1)  # the widest mask; 24 bins are 750 Hz

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return bool(
            self.random_crop or self.gain_db or self.noise_snr_db or self.time_masks or self.frequency_masks
        )


class TrainingConfig(LoopConfig):
    """Training of the voice encoder."""

    losses: tuple[LossName, ...] = ("l1", "l2", "l1_l2", "contrastive")
    main_loss: LossName = "l1"  # used by the chapters after 03: the report's best
    l2_weight: float = Field(10.0, ge=0)  # lambda of l1 + lambda l2
    temperature: float = Field(0.07, gt=0)  # info_nce: where the learned one starts (Radford et al. 2021)
    augmentation: AugmentationConfig = AugmentationConfig()


class DecoderTrainingConfig(LoopConfig):
    """Training of the face decoder on true features and their faces.

    The weights are of the residual decoder's losses; the report's is trained by L1 alone.
    """

    l1_weight: float = Field(1.0, ge=0)  # mean absolute difference of the pictures
    ssim_weight: float = Field(0.25, ge=0)  # 1 - structural similarity, at half the size
    identity_weight: float = Field(0.05, ge=0)  # 1 - cosine of the extractor's features
    adversarial_weight: float = Field(0.0, ge=0)  # of a discriminator's judgement of patches; 0: none
    utkface: Path | None = None  # a folder of UTKFace to train on first; None: the clips' faces alone
    utkface_epochs: int | None = Field(None, ge=1)  # on UTKFace; None: as `epochs`, which are then the clips'


class EvaluationConfig(Settings):
    """Distances, retrieval and the examples that are shown."""

    recall_at: tuple[int, ...] = (1, 5, 10, 20, 50)  # the report's K
    similarities: tuple[SimilarityName, ...] = ("l1", "l2", "cosine")
    n_bootstrap: int = Field(1_000, ge=10)  # resamples of an interval
    confidence: float = Field(0.95, gt=0.5, lt=1)
    n_examples: int = Field(5, ge=1)  # rows of a figure
    top_k: int = Field(5, ge=1)  # faces retrieved for each
    windows: int = Field(1, ge=1)  # of the spectrogram's length, spread over a clip; predictions are averaged
    seed: int = Field(0, ge=0)


class ControlsConfig(Settings):
    """Controls and ceilings: encoders trained once more, on what should change the result."""

    rhos: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.3, 0.6, 0.9)  # same faces, other voices
    rho_share: float = Field(1.0, gt=0, le=1)  # of the training clips, for the encoders of each rho
    clip_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.25, 0.5, 1.0)  # the learning curve
    loss: LossName | None = None  # None: training.main_loss
    epochs: int | None = Field(None, ge=1)  # of each; None: training.epochs
    more_seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()  # chapter 03: each loss again with each of these
    shuffled_training: bool = True  # train on wrong pairs, too, where rho = 0 does not say as much


class StudyConfig(Settings):
    """All settings of one run."""

    profile: str = "default"
    source: SourceConfig = SourceConfig()
    preparation: PreparationConfig = PreparationConfig()
    features: FeatureConfig = FeatureConfig()
    spectrogram: SpectrogramConfig = SpectrogramConfig()
    encoder: VoiceEncoderConfig = VoiceEncoderConfig()
    decoder: FaceDecoderConfig = FaceDecoderConfig()
    training: TrainingConfig = TrainingConfig()
    decoder_training: DecoderTrainingConfig = DecoderTrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    controls: ControlsConfig = ControlsConfig()

    @model_validator(mode="after")
    def _same_sample_rate(self) -> StudyConfig:
        if self.preparation.sample_rate_hz != self.spectrogram.sample_rate_hz:
            raise ValueError(
                f"preparation.sample_rate_hz is {self.preparation.sample_rate_hz} and "
                f"spectrogram.sample_rate_hz is {self.spectrogram.sample_rate_hz}: they must be equal"
            )
        return self

    def to_yaml(self) -> str:
        """Return all settings as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def profile_names() -> list[str]:
    """Return the names of the profiles that the book brings."""
    return sorted(path.stem for path in paths.profiles_dir().glob("*.yaml"))


def load_config(profile: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Resolve a profile and overrides into settings.

    Parameters
    ----------
    profile
        A name in `book/profiles`, the path of a YAML file, or None for the defaults alone.
    overrides
        Dotted keys to values, for example ``{"training.epochs": 3}``.  A text
        value is read as YAML, so that ``"3"`` from a command line is a number.

    Raises
    ------
    ConfigError
        The profile, a key or a value is not valid; the message names it.
    """
    name, values = ("default", {}) if profile is None else _read_profile(profile)
    for key, value in (overrides or {}).items():
        _set_dotted(values, key, _parsed(key, value))
    values["profile"] = name
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"profile {name}: {_explain(error)}") from None


def with_changes(settings: SomeSettings, changes: Mapping[str, Any]) -> SomeSettings:
    """Return a group of settings with some of its fields changed, checked as `load_config` does.

    Parameters
    ----------
    settings
        The group.
    changes
        Field to value; a text is read as YAML.

    Raises
    ------
    ConfigError
        A field or a value is not valid; the message names it.
    """
    known, values = list(type(settings).model_fields), settings.model_dump()
    for key, value in changes.items():
        if key not in known:
            raise ConfigError(f"unknown setting {key!r}{suggest(key, known)}")
        values[key] = _parsed(key, value)
    try:
        return type(settings).model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _parsed(key: str, value: Any) -> Any:
    """Return a text read as YAML, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{key}: {value!r} is no YAML value; quote it, such as {key}=\"'text'\"") from None


def setting_keys(model: type[BaseModel] = StudyConfig, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings."""
    keys = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += setting_keys(kind, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def suggest(word: str, known: list[str]) -> str:
    """Return " - did you mean X?" or a list of what is known."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" - did you mean {close[0]}?" if close else f" - known: {', '.join(known)}"


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


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    if key not in setting_keys() or key == "profile":
        raise ConfigError(f"unknown setting {key!r}{suggest(key, setting_keys())}")
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"setting {parent!r} holds {child!r}, expected a mapping")
        values = child
    values[last] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {key!r}{suggest(key, setting_keys())}")
        else:
            lines.append(f"{key}: {problem['msg']} (given: {problem['input']!r})")
    return "; ".join(lines)
