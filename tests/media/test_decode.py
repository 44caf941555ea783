"""Sound and frames of real files, complete and damaged."""

from __future__ import annotations

import av
import numpy as np
import pytest

from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.media.decode import probe, read_audio, read_frames, read_recording, repeat_to
from tests.media_files import draw_portraits, tone, write_media


def _numbered(number: int) -> np.ndarray:
    """Return a frame whose brightness encodes its number."""
    return np.full((64, 96, 3), _brightness(number), np.uint8)


def _brightness(number: int) -> int:
    return 20 + 4 * number % 200


@pytest.fixture(scope="module", params=["mp4", "mpg", "webm"])
def numbered_clip(request, tmp_path_factory):
    """Five seconds, 50 frames of rising brightness; the tone's frequency doubles at 3 s."""
    suffix = request.param
    codecs = {"mp4": ("libx264", "aac"), "mpg": ("mpeg1video", "mp2"), "webm": ("libvpx-vp9", "libopus")}
    video_codec, audio_codec = codecs[suffix]
    rate_hz = {"mp4": 16_000, "mpg": 44_100, "webm": 48_000}[suffix]
    sound = tone(5.0, rate_hz=rate_hz)
    sound[3 * rate_hz :] = tone(2.0, rate_hz=rate_hz, frequency_hz=880.0)
    return write_media(
        tmp_path_factory.mktemp("numbered") / f"clip.{suffix}",
        duration_s=5.0,
        image=_numbered,
        sound=sound,
        sound_rate_hz=rate_hz,
        video_codec=video_codec,
        audio_codec=audio_codec,
        frame_rate_hz=25 if suffix == "mpg" else 10,  # MPEG-1 knows few rates
    )


@pytest.fixture(scope="module")
def good_clip(tmp_path_factory):
    """Two seconds of one face and a tone."""
    path = tmp_path_factory.mktemp("good") / "good.mp4"
    return write_media(path, image=draw_portraits(((160, 120),)), sound=tone(2.0))


def _pitch_hz(audio: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(spectrum) * rate_hz / len(audio))


def test_probe_returns_length_and_tracks(numbered_clip):
    info = probe(numbered_clip)
    assert info.has_audio
    assert info.has_video
    assert info.duration_s == pytest.approx(5.0, abs=0.15)


def test_read_audio_returns_mono_part_at_the_rate(numbered_clip):
    audio = read_audio(numbered_clip, start_s=0.0, end_s=5.0, sample_rate_hz=16_000)
    assert audio.dtype == np.int16
    assert audio.ndim == 1
    assert len(audio) == pytest.approx(80_000, abs=1_600)
    assert _pitch_hz(audio[16_000:32_000], 16_000) == pytest.approx(440, abs=2)
    before = read_audio(numbered_clip, start_s=2.4, end_s=2.9, sample_rate_hz=16_000)
    after = read_audio(numbered_clip, start_s=3.1, end_s=3.6, sample_rate_hz=16_000)
    assert len(before) == len(after) == 8_000
    assert _pitch_hz(before, 16_000) == pytest.approx(440, abs=3)
    assert _pitch_hz(after, 16_000) == pytest.approx(880, abs=3)


def test_read_audio_after_seek_equals_whole(numbered_clip):
    whole = read_audio(numbered_clip, start_s=0.0, end_s=5.0, sample_rate_hz=16_000).astype(float)
    part = read_audio(numbered_clip, start_s=3.5, end_s=4.5, sample_rate_hz=16_000).astype(float)
    middle = part[1_600:14_400]  # the resampler and the codec settle at the cut
    # Matroska rounds its time stamps to a millisecond: 16 samples
    lags = range(-16, 17)
    agreement = [np.corrcoef(whole[57_600 + lag : 70_400 + lag], middle)[0, 1] for lag in lags]
    assert max(agreement) > 0.999


@pytest.mark.parametrize("times_s", [[0.0, 1.2, 2.4], [4.4], [0.4, 4.8], [1.2, 1.2]])
def test_read_frames_returns_frames_at_the_times(numbered_clip, times_s):
    rate_hz = 25 if numbered_clip.suffix == ".mpg" else 10
    frames = read_frames(numbered_clip, times_s=times_s)
    for time_s, frame in zip(times_s, frames, strict=True):
        assert frame.shape == (64, 96, 3)
        assert frame.dtype == np.uint8
        # half a step is still the right frame; MPEG-1 blurs the jump back to dark a little
        assert frame.mean() == pytest.approx(_brightness(round(time_s * rate_hz)), abs=2.5)


def test_read_frames_after_seek_equals_full_decoding(numbered_clip):
    step_s = 0.4
    all_frames = read_frames(numbered_clip, times_s=[step_s * i for i in range(12)])
    for i in (7, 11):
        np.testing.assert_array_equal(read_frames(numbered_clip, times_s=[step_s * i])[0], all_frames[i])


def test_read_frames_rotation_mark_turns_upright(tmp_path):
    upright = np.zeros((96, 64, 3), np.uint8)
    upright[:48, :, 0] = 200  # red above
    path = write_media(
        tmp_path / "turned.mp4",
        duration_s=1.0,
        image=np.ascontiguousarray(np.rot90(upright)),  # lies on its side in the file
        sound=tone(1.0),
        rotation_deg=-90,
    )
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation != 0  # the mark is in the file
    (frame,) = read_frames(path, times_s=[0.5])
    assert frame.shape == (96, 64, 3)
    assert frame[10:38, 10:54, 0].mean() > 120
    assert frame[58:86, 10:54, 0].mean() < 60


def test_repeat_to_repeats_and_cuts():
    audio = np.array([1, 2, 3], np.int16)
    np.testing.assert_array_equal(repeat_to(audio, 7), [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(repeat_to(audio, 2), [1, 2])
    assert repeat_to(audio, 7).dtype == np.int16
    with pytest.raises(ValueError, match="at least one"):
        repeat_to(audio[:0], 7)


# -- broken files ------------------------------------------------------------


def _refusal(function, *arguments, **keywords) -> ClipRefused:
    with pytest.raises(ClipRefused) as caught:
        function(*arguments, **keywords)
    return caught.value


def test_probe_missing_file_raises(tmp_path):
    assert _refusal(probe, tmp_path / "none.mp4").reason == RefusalReason.MEDIA_MISSING


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is a text file\n" * 200,
        b"<!DOCTYPE html><html><body>Video unavailable</body></html>",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",  # a playlist must not decide which files are opened
        b"\x00" * 5_000,
    ],
    ids=["empty", "text", "html", "playlist", "zeros"],
)
def test_probe_other_content_raises(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    refusal = _refusal(probe, path)
    assert refusal.reason == RefusalReason.NOT_MEDIA
    assert "clip.mp4" in refusal.detail


def test_read_missing_track_raises(tmp_path):
    mute = write_media(tmp_path / "mute.mp4", duration_s=1.0, image=_numbered)
    blind = write_media(tmp_path / "blind.mp4", sound=tone(1.0))
    span = {"start_s": 0.0, "end_s": 1.0, "sample_rate_hz": 16_000}
    assert _refusal(read_audio, mute, **span).reason == RefusalReason.NO_AUDIO
    assert _refusal(read_frames, blind, times_s=[0.5]).reason == RefusalReason.NO_VIDEO
    assert len(read_audio(blind, **span)) == 16_000
    assert len(read_frames(mute, times_s=[0.5])) == 1


def test_read_audio_silence_raises(tmp_path):
    for name, codec in (("silent.mp4", "aac"), ("silent.mpg", "mp2")):
        path = write_media(
            tmp_path / name, sound=np.zeros(44_100, np.int16), sound_rate_hz=44_100, audio_codec=codec
        )
        refusal = _refusal(read_audio, path, start_s=0.0, end_s=1.0, sample_rate_hz=16_000)
        assert refusal.reason == RefusalReason.SILENT


def test_probe_mp4_without_index_raises(tmp_path, good_clip):
    path = tmp_path / "cut.mp4"
    path.write_bytes(good_clip.read_bytes()[:2_000])
    assert _refusal(probe, path).reason == RefusalReason.TRUNCATED


def test_read_mp4_cut_after_its_index_raises(tmp_path, good_clip):
    whole = tmp_path / "index_first.mp4"
    with (
        av.open(str(good_clip)) as source,
        av.open(str(whole), "w", options={"movflags": "faststart"}) as target,
    ):
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    data = whole.read_bytes()
    media_begins = data.index(b"mdat")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: media_begins + (len(data) - media_begins) // 3])
    assert probe(cut).duration_s == pytest.approx(2.0, abs=0.15)  # the index still states the full length
    span = {"start_s": 0.0, "end_s": 2.0, "sample_rate_hz": 16_000}
    assert _refusal(read_audio, cut, **span).reason == RefusalReason.TRUNCATED
    assert _refusal(read_frames, cut, times_s=[1.9]).reason == RefusalReason.TRUNCATED


def test_read_damaged_middle_returns_or_refuses(tmp_path, numbered_clip):
    data = bytearray(numbered_clip.read_bytes())
    generator = np.random.default_rng(0)
    for position in generator.integers(len(data) // 4, len(data) // 2, 40):
        data[position] ^= 0xFF
    path = tmp_path / numbered_clip.name
    path.write_bytes(data)
    outcomes = []
    for read in (
        lambda: len(read_audio(path, start_s=0.0, end_s=5.0, sample_rate_hz=16_000)) >= 4.5 * 16_000,
        lambda: len(read_frames(path, times_s=[0.5, 4.0])) == 2,
    ):
        try:
            outcomes.append(read())
        except ClipRefused as refusal:
            outcomes.append(refusal.reason)
    assert set(outcomes) <= {True, RefusalReason.TRUNCATED, RefusalReason.NOT_MEDIA}


def _record(path, *, codec, container=None, options=None):
    """Write a tone at 48 kHz, or at 8 kHz for a telephone codec."""
    rate_hz = 8_000 if "amr" in codec else 48_000
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        stream = file.add_stream(codec, rate=rate_hz)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone(3.0, rate_hz=rate_hz)[None], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        file.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("aiff", "pcm_s16be"),
        ("au", "pcm_s16be"),
        ("caf", "alac"),
        ("wv", "wavpack"),
        ("w64", "pcm_s16le"),
        ("tta", "tta"),
        ("voc", "pcm_s16le"),
        ("ac3", "ac3"),
        ("amr", "libopencore_amrnb"),
        ("m4a", "aac"),
        ("ogg", "libopus"),
    ],
)
def test_read_recording_accepts_many_formats(tmp_path, suffix, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg writes no {codec}")
    path = _record(tmp_path / f"voice.{suffix}", codec=codec)
    audio = read_recording(path, longest_s=10.0, sample_rate_hz=16_000)
    assert audio.dtype == np.int16
    assert len(audio) == pytest.approx(48_000, abs=1_600)
    assert _pitch_hz(audio[8_000:40_000], 16_000) == pytest.approx(440, abs=1)
    assert len(read_recording(path, longest_s=2.0, sample_rate_hz=16_000)) == 32_000


def test_read_recording_without_stated_length(tmp_path):
    # as a browser's recorder writes it
    path = _record(tmp_path / "voice.webm", codec="libopus", options={"live": "1"})
    assert probe(path).duration_s == pytest.approx(3.0, abs=0.1)  # measured
    audio = read_recording(path, longest_s=10.0, sample_rate_hz=16_000)
    assert len(audio) == pytest.approx(48_000, abs=1_600)
    assert _pitch_hz(audio[8_000:40_000], 16_000) == pytest.approx(440, abs=1)


def test_probe_measures_an_mp3_whose_length_is_an_estimate(tmp_path):
    path = tmp_path / "voice.mp3"
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 32_000)
    sound = np.concatenate([np.zeros(96_000), noise]).astype(np.int16)  # silence takes few bits
    with av.open(str(path), "w", options={"write_xing": "0", "id3v2_version": "0"}) as file:
        stream = file.add_stream("libmp3lame", rate=16_000, layout="mono")
        stream.codec_context.flags |= 2  # a variable bit rate
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        file.mux([*stream.encode(frame), *stream.encode(None)])
    with av.open(str(path)) as file:
        assert file.duration > 12e6  # what FFmpeg estimates
    assert probe(path).duration_s == pytest.approx(8.0, abs=0.2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile voice.ts\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nvoice.ts\n#EXT-X-ENDLIST\n"),
    ],
)
def test_read_recording_playlist_raises(tmp_path, name, text):
    _record(tmp_path / "voice.ts", codec="mp2")
    path = tmp_path / name
    path.write_text(text)
    with av.open(str(path), options={"allowed_extensions": "ALL", "safe": "0"}) as container:
        assert container.streams.audio  # by default FFmpeg opens the files that it names
    with pytest.raises(ClipRefused, match="not a media file") as caught:
        read_recording(path, longest_s=10.0, sample_rate_hz=16_000)
    assert caught.value.reason == RefusalReason.NOT_MEDIA
