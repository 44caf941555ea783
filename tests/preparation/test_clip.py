"""The stages on one clip: its part of the file, the reasons of refusal, and batches that fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2f_lib.config import PreparationConfig
from s2f_lib.errors import ClipRefused, MissingFileError, RefusalReason
from s2f_lib.faces.detector import make_detector
from s2f_lib.media.jpeg import decode_jpeg
from s2f_lib.preparation.clip import ClipState, align, decode, detect, locate_clip
from s2f_lib.sources.clip import ClipRef, make_clip_id
from tests.faces_tools import measure_eyes

CONFIG = PreparationConfig(detection_width_px=320, frame_positions=(0.25, 0.75), audio_s=6.0)


def prepare_clip(clip: ClipRef, config: PreparationConfig, *, detector) -> ClipState:
    states = [ClipState(0, clip)]
    decode(states, config)
    detect(states, config, detector)
    align(states, config)
    return states[0]


@pytest.fixture(scope="module")
def detector():
    return make_detector("torch", width_px=320)


def _clip(media, start_s=0.0, end_s=2.0) -> ClipRef:
    clip_id = make_clip_id("AAAAAAAAAAA", start_s, end_s)
    return ClipRef(clip_id, "AAAAAAAAAAA", start_s, end_s, 0.5, 0.5, media=media, split="train")


@pytest.mark.parametrize(
    ("start_s", "end_s", "duration_s", "expected"),
    [
        (0.0, 3.0, 3.0, (0.0, 3.0)),  # the clip itself
        (100.0, 103.0, 3.0, (0.0, 3.0)),
        (100.0, 103.0, 3.04, (0.0, 3.0)),  # with the last frame's slack
        (100.0, 103.0, 2.9, (0.0, 2.9)),  # a little short
        (100.0, 103.0, 240.0, (100.0, 103.0)),  # the whole video
        (100.0, 103.0, 102.8, (100.0, 102.8)),  # the whole video, the clip at its very end
        (100.0, 103.0, 0.0, (0.0, 3.0)),  # a file that does not say
        (0.2, 3.2, 3.0, (0.0, 3.0)),  # too short to be the whole video
    ],
)
def test_locate_clip_returns_the_seconds_in_the_file(start_s, end_s, duration_s, expected):
    assert locate_clip(_clip(None, start_s, end_s), duration_s) == pytest.approx(expected)


@pytest.mark.parametrize(("start_s", "duration_s"), [(100.0, 2.0), (100.0, 60.0), (0.0, 1.0)])
def test_locate_clip_file_ends_before_clip_is_truncated(start_s, duration_s):
    with pytest.raises(ClipRefused) as caught:
        locate_clip(_clip(None, start_s, start_s + 3.0), duration_s)
    assert caught.value.reason == RefusalReason.TRUNCATED


def test_stages_good_clip_gives_a_row(good_clip, detector):
    outcome = prepare_clip(_clip(good_clip), CONFIG, detector=detector)
    row = outcome.row
    assert row.audio.shape == (96_000,)
    assert 31_000 <= row.n_audio_samples <= 32_000
    repeated = row.audio[row.n_audio_samples : 2 * row.n_audio_samples]
    np.testing.assert_array_equal(repeated, row.audio[: row.n_audio_samples])
    face = decode_jpeg(row.crop)
    assert face.shape == (224, 224, 3)
    assert abs(measure_eyes(face).angle_deg) < 6
    assert row.frame_time_s in (0.5, 1.5)
    assert row.media == "good.mp4"
    assert row.features is None
    assert set(outcome.seconds) == {"decode", "detect", "align"}


def test_stages_whole_video_uses_the_clip_seconds(tmp_path, media_writer, tone_maker, portrait, detector):
    empty = np.full_like(portrait, 120)
    path = media_writer(
        tmp_path / "whole.mp4",
        duration_s=6.0,
        image=lambda number: portrait if 30 <= number < 50 else empty,  # 3 to 5 s
        sound=np.concatenate([np.zeros(48_000, np.int16), tone_maker(3.0)]),
    )
    row = prepare_clip(_clip(path, 3.0, 5.0), CONFIG, detector=detector).row
    assert row.n_audio_samples == 32_000
    assert np.abs(row.audio[2_000:4_000]).max() > 5_000  # the tone, not the silence before it
    outside = prepare_clip(_clip(path, 0.0, 2.0), CONFIG, detector=detector)
    assert outside.reason == RefusalReason.SILENT


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_media", RefusalReason.MEDIA_MISSING),
        ("mute", RefusalReason.NO_AUDIO),
        ("blind", RefusalReason.NO_VIDEO),
        ("text", RefusalReason.NOT_MEDIA),
        ("cut", RefusalReason.TRUNCATED),
        ("cut_mpg", RefusalReason.TRUNCATED),
        ("silent", RefusalReason.SILENT),
        ("short", RefusalReason.TOO_SHORT),
        ("two", RefusalReason.SEVERAL_FACES),
        ("none", RefusalReason.NO_FACE),
        ("one_frame_only", RefusalReason.NO_FACE),
    ],
)
def test_stages_faulty_media_are_refused_with_the_reason(
    tmp_path, name, reason, media_writer, tone_maker, portrait, portrait_drawer, good_clip, detector
):
    path, end_s = tmp_path / f"{name}.mp4", 2.0
    if name == "no_media":
        path = None
    elif name == "mute":
        media_writer(path, image=portrait)
    elif name == "blind":
        media_writer(path, sound=tone_maker(2.0))
    elif name == "text":
        path.write_text("not a film")
    elif name == "cut":
        path.write_bytes(good_clip.read_bytes()[:-600])
    elif name == "cut_mpg":
        path = path.with_suffix(".mpg")
        codecs = {"video_codec": "mpeg1video", "audio_codec": "mp2", "frame_rate_hz": 25}
        media_writer(
            path, image=portrait, sound=tone_maker(2.0, rate_hz=44_100), sound_rate_hz=44_100, **codecs
        )
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name == "silent":
        media_writer(path, image=portrait, sound=np.zeros(32_000, np.int16))
    elif name == "short":
        media_writer(path, image=portrait, sound=tone_maker(0.6), duration_s=0.6)
        end_s = 0.6
    else:
        faces = {"two": ((80, 120), (240, 120)), "none": (), "one_frame_only": ((160, 120),)}[name]
        drawn, empty = portrait_drawer(faces), portrait_drawer(())
        first_half = name == "one_frame_only"
        media_writer(path, image=lambda n: empty if first_half and n >= 10 else drawn, sound=tone_maker(2.0))
    outcome = prepare_clip(_clip(path, end_s=end_s), CONFIG, detector=detector)
    assert outcome.row is None
    assert outcome.reason == reason
    assert outcome.detail


def test_detect_at_xy_takes_the_nearest_face(tmp_path, media_writer, tone_maker, portrait_drawer, detector):
    path = media_writer(
        tmp_path / "two.mp4", image=portrait_drawer(((80, 120), (240, 120))), sound=tone_maker(2.0)
    )
    config = CONFIG.with_(faces="at-xy")
    for x in (0.25, 0.75):
        clip = replace(_clip(path), x=x)
        left, _, right, _ = prepare_clip(clip, config, detector=detector).row.box
        assert (left + right) / 2 == pytest.approx(x * 320, abs=20)


def test_detect_small_face_is_refused(good_clip, detector):
    config = CONFIG.with_(min_face_px=200)
    outcome = prepare_clip(_clip(good_clip), config, detector=detector)
    assert outcome.reason == RefusalReason.FACE_TOO_SMALL
    assert "at least 200 px" in outcome.detail


class _Broken:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def detect(self, frames):
        raise self.error


def test_detect_crash_refuses_clip_but_missing_weights_raise(good_clip):
    outcome = prepare_clip(_clip(good_clip), CONFIG, detector=_Broken(RuntimeError("dlib: out of luck")))
    assert (outcome.reason, outcome.detail) == (RefusalReason.CRASHED, "RuntimeError: dlib: out of luck")
    with pytest.raises(MissingFileError):
        prepare_clip(_clip(good_clip), CONFIG, detector=_Broken(MissingFileError("no weights")))


class _Chokes:
    """A detector that fails on any batch with a frame of one width, and finds no face elsewhere."""

    def __init__(self, error: Exception, width_px: int) -> None:
        self.error, self.width_px = error, width_px

    def detect(self, frames):
        if any(frame.shape[1] == self.width_px for frame in frames):
            raise self.error
        return [[] for _ in frames]


def test_detect_failing_batch_is_tried_clip_by_clip(good_clip, caplog):
    states = [ClipState(number, _clip(good_clip)) for number in range(4)]
    decode(states, CONFIG)
    states[2].frames[:] = [np.zeros((120, 161, 3), np.uint8)] * 2
    detect(states, CONFIG, _Chokes(RuntimeError("out of luck"), 161))
    assert [state.reason for state in states] == ["no-face", "no-face", "crashed", "no-face"]
    assert states[2].detail == "RuntimeError: out of luck"
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line == "a clip failed (RuntimeError): the ledger says which"
    assert all(state.audio is None and state.frames == [] for state in states)  # frames are dropped

    states = [ClipState(number, _clip(good_clip)) for number in range(2)]
    decode(states, CONFIG)
    with pytest.raises(MissingFileError):  # not a fault of the clip: the run ends
        detect(states, CONFIG, _Chokes(MissingFileError("no weights"), 320))
