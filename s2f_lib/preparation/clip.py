"""A clip's state between the stages of preparation, and the stages: decode, detect, align, features.

For recordings without faces, one stage decodes the sound. Local processes and a cluster run the same stages,
so both write the same rows. A fault of a clip refuses that clip with a reason. A fault of the set-up, such as
missing weights or a full disk, ends the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from s2f_lib.config import SAMPLE_RATE_HZ, FeatureConfig, PreparationConfig
from s2f_lib.errors import ClipRefused, InputError, RefusalReason, StudyError
from s2f_lib.faces.alignment import align_face, choose_face
from s2f_lib.faces.detection import Detection, FaceDetector
from s2f_lib.faces.detector import make_detector
from s2f_lib.faces.extractor import FaceFeatureExtractor, make_extractor
from s2f_lib.media import decode as media
from s2f_lib.media.jpeg import encode_jpeg
from s2f_lib.preparation.shards import PreparedRow
from s2f_lib.sources.clip import MIN_CLIP_S, ClipRef

logger = logging.getLogger(__name__)

Stage = Literal["decode", "detect", "align", "features", "sound"]
T = TypeVar("T")

_CLIP_SLACK_S = 2.0  # cutting tools add less to a clip; a file that is longer by more is the whole video


@dataclass(slots=True)
class ClipState:
    """A clip between two stages. Data that no later stage needs is dropped.

    Attributes
    ----------
    position
        Position in the ledger.
    clip
        Clip and its media file.
    audio
        `(samples,)` int16, mono, at most `preparation.audio_s` long, after "decode".
    frames, times_s
        `(height, width, 3)` uint8 RGB each, and their times in the file in seconds, after "decode". After
        "detect" only the best frame is left, and none after "align".
    detection
        Speaker's face in the best frame, after "detect".
    row
        Prepared row after "align", with features after "features".
    reason, detail
        Why the clip was refused, with a detail of one line. Stages skip a refused clip.
    seconds
        Time spent, by stage.
    """

    position: int
    clip: ClipRef
    audio: np.ndarray | None = None
    frames: list[np.ndarray] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    detection: Detection | None = None
    row: PreparedRow | None = None
    reason: RefusalReason | None = None
    detail: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def refuse(self, reason: RefusalReason, detail: str) -> None:
        """End the clip's preparation."""
        self.reason, self.detail = reason, detail
        self.row = None
        self.drop_media()

    def drop_media(self) -> None:
        """Free the sound and the frames."""
        self.audio = self.detection = None
        self.frames, self.times_s = [], []


class ClipStages:
    """Some of the stages, with the networks that they need.

    Parameters
    ----------
    stages
        Names of the stages, in order.
    preparation, features
        Settings.
    device
        Torch device of the networks; "auto" is the GPU if there is one.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        preparation: PreparationConfig,
        features: FeatureConfig,
        *,
        device: str = "cpu",
    ) -> None:
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        make: dict[Stage, Callable[[], Callable[[Sequence[ClipState]], None]]] = {
            "decode": lambda: partial(decode, preparation=preparation),
            "detect": lambda: partial(
                detect,
                preparation=preparation,
                detector=make_detector(
                    preparation.detector, width_px=preparation.detection_width_px, device=device
                ),
            ),
            "sound": lambda: partial(decode_sound, preparation=preparation),
            "align": lambda: partial(align, preparation=preparation),
            "features": lambda: partial(compute_features, extractor=make_extractor(features, device=device)),
        }
        self._functions = [make[stage]() for stage in stages]

    def run(self, states: Sequence[ClipState]) -> list[ClipState]:
        """Run the stages on the states in place, and return them."""
        for function in self._functions:
            function(states)
        return list(states)


def decode(states: Sequence[ClipState], preparation: PreparationConfig) -> None:
    """Decode the sound and the frames in which a face is searched."""
    for state in _accepted(states):
        with _stage(state, "decode"):
            path, start_s, end_s = _located(state.clip, video=True)
            state.audio = _read_audio(path, start_s, end_s, preparation)
            positions = sorted(preparation.frame_positions)
            state.times_s = [start_s + share * (end_s - start_s) for share in positions]
            state.frames = media.read_frames(path, times_s=state.times_s)


def decode_sound(states: Sequence[ClipState], preparation: PreparationConfig) -> None:
    """Decode the sound of recordings, and make their rows, which have no face."""
    for state in _accepted(states):
        with _stage(state, "decode"):
            audio = _read_audio(*_located(state.clip, video=False), preparation)
            state.row = _make_row(state.clip, audio, preparation)


def detect(states: Sequence[ClipState], preparation: PreparationConfig, detector: FaceDetector) -> None:
    """Find the speakers' faces, all frames in one batch, and keep the best frame of each clip."""

    def detect_batch(batch: Sequence[ClipState]) -> list[list[list[Detection]]]:
        found = iter(detector.detect([frame for state in batch for frame in state.frames]))
        return [[next(found) for _ in state.frames] for state in batch]

    for state, found in _run_batch(_accepted(states), "detect", detect_batch):
        with _stage(state, "detect"):
            index, face = choose_face(
                found,
                faces=preparation.faces,
                x=state.clip.x,
                y=state.clip.y,
                frame_sizes=[frame.shape[:2] for frame in state.frames],
            )
            width_px = face.right - face.left
            if width_px < preparation.min_face_px:
                raise ClipRefused(
                    RefusalReason.FACE_TOO_SMALL,
                    f"the face is {width_px:.0f} px wide; expected at least {preparation.min_face_px} px",
                )
            state.detection = face
            state.frames, state.times_s = [state.frames[index]], [state.times_s[index]]


def align(states: Sequence[ClipState], preparation: PreparationConfig) -> None:
    """Cut the faces out and make the rows; the sound is repeated or cut to `audio_s`."""
    for state in _accepted(states):
        with _stage(state, "align"):
            audio, detection = state.audio, state.detection
            assert audio is not None
            assert detection is not None
            crop = align_face(state.frames[0], detection)
            state.row = replace(
                _make_row(state.clip, audio, preparation),
                crop=encode_jpeg(crop.image),
                box=(detection.left, detection.top, detection.right, detection.bottom),
                detection_confidence=detection.confidence,
                eye_angle_deg=crop.eye_angle_deg,
                frame_time_s=state.times_s[0],
            )
            state.drop_media()


def compute_features(states: Sequence[ClipState], extractor: FaceFeatureExtractor) -> None:
    """Compute the features of the stored faces, in one batch."""

    def compute_batch(batch: Sequence[ClipState]) -> list[PreparedRow]:
        return with_features([state.row for state in batch if state.row is not None], extractor)

    for state, row in _run_batch(_accepted(states), "features", compute_batch):
        state.row = row


def with_features(rows: Sequence[PreparedRow], extractor: FaceFeatureExtractor) -> list[PreparedRow]:
    """Return the rows with features of their stored faces.

    The JPEG files are decoded for it, so an extractor that is run on the shards later gets the same pixels.
    """
    faces = np.stack([row.face for row in rows])
    with np.errstate(over="ignore"):  # checked below
        features = np.asarray(extractor(faces)).astype(np.float16)  # (n, dimension)
    if features.shape != (len(faces), extractor.dimension) or not np.isfinite(features).all():
        raise InputError(
            f"extractor {extractor.name!r} returned {features.shape} for {len(faces)} faces; expected "
            f"({len(faces)}, {extractor.dimension}) finite numbers of at most 65,504, which float16 can hold"
        )
    return [replace(row, features=vector) for row, vector in zip(rows, features, strict=True)]


def locate_clip(clip: ClipRef, duration_s: float) -> tuple[float, float]:
    """Return the start and end of a clip in its file, in seconds.

    The file is the whole video if it lasts until the end of the clip, or more than 2 s longer than the clip.
    Otherwise, and if its duration is unknown (0), the file contains only the clip.

    Raises
    ------
    ClipRefused
        TRUNCATED: the file ends more than 0.5 s before the clip.

    Examples
    --------
    >>> clip = ClipRef("a", "video", 100.0, 103.0, 0.5, 0.5)
    >>> locate_clip(clip, 240.0), locate_clip(clip, 3.0)
    ((100.0, 103.0), (0.0, 3.0))
    """
    if duration_s <= 0:
        return 0.0, clip.duration_s  # the decoder finds the end
    is_whole = duration_s >= clip.end_s or duration_s > clip.duration_s + _CLIP_SLACK_S
    start_s, end_s = (clip.start_s, clip.end_s) if is_whole else (0.0, clip.duration_s)
    if duration_s < end_s - media.SHORTFALL_S:
        raise ClipRefused(
            RefusalReason.TRUNCATED,
            f"{clip.media.name if clip.media else clip.clip_id} lasts {duration_s:.2f} s, "
            f"expected the clip to end at {end_s:.2f} s",
        )
    return start_s, min(end_s, duration_s)


def _located(clip: ClipRef, *, video: bool) -> tuple[Path, float, float]:
    """Return a clip's media file, and its start and end in it; with `video`, a video track is required."""
    if clip.media is None:
        raise ClipRefused(RefusalReason.MEDIA_MISSING, f"no media file for {clip.video_id}")
    path = Path(clip.media)
    info = media.probe(path)
    if video and not info.has_video:
        raise ClipRefused(RefusalReason.NO_VIDEO, f"{path.name} has no video track")
    if not info.has_audio:
        raise ClipRefused(RefusalReason.NO_AUDIO, f"{path.name} has no audio track")
    return path, *locate_clip(clip, info.duration_s)


def _read_audio(path: Path, start_s: float, end_s: float, preparation: PreparationConfig) -> np.ndarray:
    end_s = min(end_s, start_s + preparation.audio_s)
    audio = media.read_audio(path, start_s=start_s, end_s=end_s, sample_rate_hz=SAMPLE_RATE_HZ)
    if len(audio) < MIN_CLIP_S * SAMPLE_RATE_HZ:
        raise ClipRefused(
            RefusalReason.TOO_SHORT,
            f"{len(audio) / SAMPLE_RATE_HZ:.2f} s of sound; expected at least {MIN_CLIP_S:g} s",
        )
    return audio


def _make_row(clip: ClipRef, audio: np.ndarray, preparation: PreparationConfig) -> PreparedRow:
    """Return a row without a face; the sound is repeated or cut to `audio_s`."""
    n_samples = round(preparation.audio_s * SAMPLE_RATE_HZ)
    return PreparedRow(
        clip_id=clip.clip_id,
        video_id=clip.video_id,
        split=clip.split,
        start_s=clip.start_s,
        end_s=clip.end_s,
        x=clip.x,
        y=clip.y,
        media=clip.media.name if clip.media else "",
        audio=media.repeat_to(audio, n_samples),
        n_audio_samples=min(len(audio), n_samples),
    )


def _accepted(states: Sequence[ClipState]) -> list[ClipState]:
    return [state for state in states if state.reason is None]


def _run_batch(
    states: Sequence[ClipState], stage: Stage, function: Callable[[Sequence[ClipState]], list[T]]
) -> list[tuple[ClipState, T]]:
    """Return the clips with a function's results for the batch.

    If the batch fails, each clip is tried by itself, and the clips that fail are refused.
    """
    if not states:
        return []
    begun = time.perf_counter()
    try:
        results = list(zip(states, function(states), strict=True))
    except StudyError:
        raise
    except Exception as error:
        if len(states) > 1:
            return [result for state in states for result in _run_batch([state], stage, function)]
        _refuse_crashed(states[0], error)
        results = []
    seconds = (time.perf_counter() - begun) / len(states)
    for state in states:
        state.seconds[stage] = round(seconds, 4)
    return results


@contextmanager
def _stage(state: ClipState, name: Stage) -> Iterator[None]:
    """Time a stage of one clip, and refuse the clip if the stage fails."""
    begun = time.perf_counter()
    try:
        yield
    except ClipRefused as refusal:
        state.refuse(refusal.reason, refusal.detail)
    except StudyError:
        raise
    except Exception as error:
        _refuse_crashed(state, error)
    finally:
        seconds = state.seconds.get(name, 0.0) + time.perf_counter() - begun
        state.seconds[name] = round(seconds, 4)


def _refuse_crashed(state: ClipState, error: Exception) -> None:
    """Refuse a clip for a fault of this package or of a codec: it must not stop the other clips."""
    # the output of worker processes is shown in pages of the book, which name no clip
    logger.error("a clip failed (%s): the ledger says which", type(error).__name__)
    logger.debug("clip %s failed", state.clip.clip_id, exc_info=error)
    state.refuse(RefusalReason.CRASHED, f"{type(error).__name__}: {error}")
