"""Clips on their way through the stages: alone, or several together where a device wants batches.

A clip's own fault ends its way with a reason; a fault of the set-up (missing weights,
a full disk) ends the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from s2f_lib.config import PreparationConfig, StudyConfig
from s2f_lib.errors import ClipRefused, RefusalReason, StudyError
from s2f_lib.faces.alignment import align_face
from s2f_lib.faces.detection import Detection, FaceDetector
from s2f_lib.faces.detector import make_detector
from s2f_lib.faces.extractor import FaceFeatureExtractor, make_extractor
from s2f_lib.preparation.shards import PreparedRow
from s2f_lib.preparation.stages import (
    DecodedClip,
    decode_clip,
    find_speaker,
    make_row,
    with_features,
)
from s2f_lib.sources.clip import ClipRef

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a clip: a row, or a reason with one line for a person; and seconds by stage."""

    row: PreparedRow | None
    reason: RefusalReason | None = None
    detail: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class ClipWork:
    """A clip between two stages; what a stage has used up is let go.

    Attributes
    ----------
    clip
        The clip, with its media file.
    decoded
        After "decode": sound and full frames, by far the largest part; after "detect" the best frame alone.
    detection
        After "detect": the speaker's face in that frame.
    row
        After "align", without features before "features".
    refusal
        Why the way ended early.
    seconds
        By stage.
    """

    clip: ClipRef
    decoded: DecodedClip | None = None
    detection: Detection | None = None
    row: PreparedRow | None = None
    refusal: tuple[RefusalReason, str] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """What came of it."""
        reason, detail = self.refusal or (None, "")
        return Outcome(None if self.refusal else self.row, reason, detail, self.seconds)


class ClipWorker:
    """All stages in one process: the tools are loaded once, clips come one by one.

    Parameters
    ----------
    config
        Settings of preparation and features.
    with_features
        Whether "features" is one of the stages; else the rows have none.
    """

    def __init__(self, config: StudyConfig, *, with_features: bool) -> None:
        self._config = config.preparation
        self._detector = _detector(self._config, device="cpu")
        self._extractor = make_extractor(config.features) if with_features else None

    def __call__(self, clip: ClipRef) -> Outcome:
        return prepare_clip(clip, self._config, detector=self._detector, extractor=self._extractor)


class GpuStages:
    """The stages that a device does for several clips at once, after "decode".

    Parameters
    ----------
    config
        As `ClipWorker`.
    device
        A torch device for the detector and the extractor.
    with_features
        Whether it aligns the faces and computes features, too: for an extractor that wants the device.
    """

    def __init__(self, config: StudyConfig, *, device: str, with_features: bool = False) -> None:
        self._config = config.preparation
        self._detector = _detector(self._config, device=device)
        self._extractor = make_extractor(config.features, device=device) if with_features else None

    def __call__(self, works: Sequence[ClipWork]) -> list[ClipWork]:
        detect(works, self._config, self._detector)
        if self._extractor is not None:
            for work in works:
                align(work, self._config)
            compute_features(works, self._extractor)
        return list(works)


class AlignAndEmbed:
    """What is left after a device: alignment and, with a light extractor, features; clip by clip.

    Parameters
    ----------
    config, with_features
        As `ClipWorker`.
    """

    def __init__(self, config: StudyConfig, *, with_features: bool) -> None:
        self._config = config.preparation
        self._extractor = make_extractor(config.features) if with_features else None

    def __call__(self, work: ClipWork) -> Outcome:
        align(work, self._config)
        if self._extractor is not None:
            compute_features([work], self._extractor)
        return work.outcome


def prepare_clip(
    clip: ClipRef,
    config: PreparationConfig,
    *,
    detector: FaceDetector,
    extractor: FaceFeatureExtractor | None = None,
) -> Outcome:
    """Take one clip through all stages; never raises for the clip's own sake.

    Parameters
    ----------
    clip
        With its media file.
    config
        How to prepare.
    detector
        Finds the faces.
    extractor
        Computes the features; without one the row's `features` are None.

    Raises
    ------
    StudyError
        Something is wrong that is not the clip's fault, such as missing weights.
    """
    work = decode(clip, config)
    detect([work], config, detector)
    align(work, config)
    if extractor is not None:
        compute_features([work], extractor)
    return work.outcome


def decode(clip: ClipRef, config: PreparationConfig) -> ClipWork:
    """Begin a clip's way: its sound and the frames to look at."""
    work = ClipWork(clip)
    with _stage(work, "decode"):
        work.decoded = decode_clip(clip, config)
    return work


def detect(works: Sequence[ClipWork], config: PreparationConfig, detector: FaceDetector) -> None:
    """Find the speakers' faces, all frames in one batch; of each clip's frames the best is kept."""
    ready = [work for work in works if work.refusal is None]
    for work, found in zip(ready, _detect(ready, detector), strict=True):
        decoded, work.decoded = work.decoded, None
        if work.refusal is None:
            with _stage(work, "detect"):
                index, work.detection = find_speaker(found, decoded, work.clip, config)
                work.decoded = DecodedClip(decoded.audio, [decoded.frames[index]], [decoded.times_s[index]])


def align(work: ClipWork, config: PreparationConfig) -> None:
    """Cut the face out, and put the row together; does nothing where that is done or the way has ended."""
    if work.refusal is not None or work.row is not None:
        return
    decoded, work.decoded = work.decoded, None
    with _stage(work, "align"):
        crop = align_face(decoded.frames[0], work.detection)
        work.row = make_row(work.clip, config, decoded=decoded, index=0, detection=work.detection, crop=crop)


def compute_features(works: Sequence[ClipWork], extractor: FaceFeatureExtractor) -> None:
    """Compute the features of the stored faces, in one batch; those that are there stay."""
    ready = [work for work in works if work.refusal is None and work.row.features is None]
    begun = time.perf_counter()
    rows = _in_batch(ready, lambda batch: with_features([work.row for work in batch], extractor))
    seconds = (time.perf_counter() - begun) / max(len(ready), 1)
    for work, row in zip(ready, rows, strict=True):
        work.row = row
        work.seconds["features"] = round(seconds, 4)


def _detect(works: Sequence[ClipWork], detector: FaceDetector) -> list[list[list[Detection]]]:
    """Return, for each clip, the faces of each of its frames; a clip that fails has its refusal then."""

    def detect(batch: Sequence[ClipWork]) -> list[list[list[Detection]]]:
        found = iter(detector.detect([frame for work in batch for frame in work.decoded.frames]))
        return [[next(found) for _ in work.decoded.frames] for work in batch]

    begun = time.perf_counter()
    found = _in_batch(works, detect)
    seconds = (time.perf_counter() - begun) / max(len(works), 1)
    for work in works:
        work.seconds["detect"] = round(seconds, 4)
    return found


def _in_batch(works: Sequence[ClipWork], function: Callable[[Sequence[ClipWork]], list]) -> list:
    """Return a function's results for a batch; where the batch fails, clip by clip, to find which."""
    try:
        return function(works) if works else []
    except StudyError:
        raise
    except Exception as error:
        if len(works) > 1:
            return [result for work in works for result in _in_batch([work], function)]
        _fail(works[0], error)
        return [None]


def _fail(work: ClipWork, error: Exception) -> None:
    """End a clip's way for a fault of ours or of a codec: it must not stop the other clips."""
    # worker processes write straight to the output, which under a notebook stays in the page: no id there
    logger.error("a clip failed (%s): the ledger says which", type(error).__name__)
    logger.debug("clip %s failed", work.clip.clip_id, exc_info=error)
    work.refusal = RefusalReason.CRASHED, f"{type(error).__name__}: {error}"


def _detector(config: PreparationConfig, *, device: str) -> FaceDetector:
    return make_detector(
        config.detector,
        width_px=config.detection_width_px,
        device=device,
    )


@contextmanager
def _stage(work: ClipWork, name: str) -> Iterator[None]:
    """Time a stage, and end the clip's way where it fails."""
    begun = time.perf_counter()
    try:
        yield
    except ClipRefused as refusal:
        work.refusal = refusal.reason, refusal.detail
    except StudyError:
        raise
    except Exception as error:
        _fail(work, error)
    finally:
        seconds = work.seconds.get(name, 0.0) + time.perf_counter() - begun
        work.seconds[name] = round(seconds, 4)
