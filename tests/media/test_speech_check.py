"""The speech check on speech and on other sounds."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.errors import InputError
from s2f_lib.media.decode import probe, read_audio
from s2f_lib.media.speech_check import check_speech, measure_speech

RATE_HZ = 16_000
TIME_S = np.arange(3 * RATE_HZ) / RATE_HZ


def _int16(samples: np.ndarray, peak: int = 20_000) -> np.ndarray:
    return (samples / np.abs(samples).max() * peak).astype(np.int16)


def _chord(*frequencies_hz: float, duration_s: float = 3.0) -> np.ndarray:
    time_s = TIME_S[: round(duration_s * RATE_HZ)]
    return sum(np.sin(2 * np.pi * f * n * time_s) / n for f in frequencies_hz for n in (1, 2, 3))


def _progression() -> np.ndarray:
    """Return chords that are struck and fade, two per second."""
    struck = [
        (220, 277, 330),
        (246, 311, 370),
        (196, 247, 294),
        (220, 262, 330),
        (175, 220, 262),
        (196, 247, 294),
    ]
    fade = np.exp(-3 * TIME_S[: RATE_HZ // 2])
    return np.concatenate([_chord(*notes, duration_s=0.5) * fade for notes in struck])


def _noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=len(TIME_S))


NO_SPEECH = {
    "white noise": (_noise(), "of it is voiced"),
    "noise in syllables": (_noise() * (1 + np.sin(2 * np.pi * 4 * TIME_S)), "of it is voiced"),
    "tone": (np.sin(2 * np.pi * 220 * TIME_S), "pitch does not move and its loudness"),
    "held chord": (_chord(220, 277, 330), "pitch does not move and its loudness"),
    "chords one after the other": (_progression(), "pitch does not move"),
    "siren": (np.sin(2 * np.pi * (300 * TIME_S + 30 * np.sin(np.pi * TIME_S))), "loudness varies by"),
}


@pytest.mark.parametrize("what", NO_SPEECH)
def test_check_speech_other_sounds_raise_with_the_reason(what):
    samples, reason = NO_SPEECH[what]
    with pytest.raises(InputError, match=f"it.wav does not sound like speech: .*{reason}"):
        check_speech(_int16(samples), sample_rate_hz=RATE_HZ, name="it.wav")


def test_check_speech_silence_or_faint_hum_raises():
    for audio in (
        np.zeros(len(TIME_S), np.int16),
        _int16(_noise(), peak=20),
        np.full(len(TIME_S), 9_000, np.int16),
    ):
        with pytest.raises(InputError, match=r"is silent: .*expected at least -55 dB"):
            check_speech(audio, sample_rate_hz=RATE_HZ)


def test_check_speech_under_a_second_raises():
    with pytest.raises(InputError, match=r"too short: 0\.99 s, expected at least 1 s"):
        check_speech(_int16(_noise()[: round(0.99 * RATE_HZ)]), sample_rate_hz=RATE_HZ)


@pytest.mark.parametrize("f0_hz", [95.0, 230.0])
def test_check_speech_accepts_generated_voices(f0_hz):
    from dataclasses import replace

    from s2f_lib.config import SyntheticConfig
    from s2f_lib.sources.synthetic.people import draw_person
    from s2f_lib.sources.synthetic.voices import speak_for

    voice = replace(draw_person(SyntheticConfig(), 0, "test").voice, f0_hz=f0_hz)
    audio = speak_for(voice, ["She had your dark suit in greasy wash water all year."], duration_s=3.0)
    found = check_speech(_int16(audio), sample_rate_hz=22_050)
    assert 0.4 < found.voiced_share <= 1
    assert found.duration_s == pytest.approx(3.0, abs=0.01)


def test_measure_speech_level_and_loudness_by_hand():
    tone = np.sin(2 * np.pi * 200 * TIME_S)
    found = measure_speech((tone * 16384).astype(np.int16), sample_rate_hz=RATE_HZ)
    assert found.level_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
    half = np.where(TIME_S < 1.5, 1.0, 0.1)  # 20 dB apart, equally often: 10 dB deviation
    assert measure_speech(_int16(tone * half), sample_rate_hz=RATE_HZ).movement_db == pytest.approx(
        10, abs=0.2
    )


def test_check_speech_accepts_real_voices(shared_data):
    for path in sorted((shared_data / "clips").glob("*.m*"))[::3]:
        audio = read_audio(
            path, start_s=0, end_s=min(6.0, probe(path).duration_s - 0.3), sample_rate_hz=RATE_HZ
        )
        check_speech(audio, sample_rate_hz=RATE_HZ, name=path.name)
