"""Speech follows the voice latents, as measured with Praat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import parselmouth
import pytest

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.people import GROUPS, VoiceLatents, draw_population
from s2f_lib.sources.synthetic.performance import utterance
from s2f_lib.sources.synthetic.voices import SENTENCES, speak, synthesize

RATE_HZ = 22_050


@pytest.fixture(scope="module")
def voice() -> VoiceLatents:
    """Return a voice of the population."""
    return draw_population(SyntheticConfig(n_train=1, n_test=1))[0].voice


def _f0_hz(samples: np.ndarray) -> float:
    pitch = parselmouth.Sound(samples.astype(np.float64), RATE_HZ).to_pitch(pitch_floor=60, pitch_ceiling=420)
    values = pitch.selected_array["frequency"]
    return float(np.median(values[values > 0]))


def _log_envelope(samples: np.ndarray) -> np.ndarray:
    """Return the smoothed long-term spectrum in dB, at steps of 1/100 octave from 400 to 5,000 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256] * np.hanning(1024)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0)
    power = np.convolve(power, np.hanning(13) / np.hanning(13).sum(), mode="same")  # over 250 Hz
    octaves = np.arange(0, np.log2(5000 / 400), 0.01)
    frequencies_hz = np.fft.rfftfreq(1024, 1 / RATE_HZ)
    return np.interp(400 * 2**octaves, frequencies_hz, 10 * np.log10(power + 1e-12))


def _envelope_ratio(low: np.ndarray, high: np.ndarray) -> float:
    """Return the factor on the frequency axis that best aligns two spectral envelopes."""
    first, second = _log_envelope(low), _log_envelope(high)

    def fit(shift: int) -> float:
        return float(np.corrcoef(first[: len(first) - shift], second[shift:])[0, 1])

    return 2 ** (0.01 * max(range(0, 100), key=fit))


@pytest.mark.parametrize("f0_hz", [100.0, 140.0, 200.0, 240.0])
def test_speak_median_pitch_is_the_latent(voice: VoiceLatents, f0_hz: float) -> None:
    samples = speak(replace(voice, f0_hz=f0_hz), SENTENCES[2])
    assert _f0_hz(samples) == pytest.approx(f0_hz, rel=0.04)


def test_speak_shorter_tract_raises_formants_not_pitch(voice: VoiceLatents) -> None:
    base = replace(voice, f0_hz=120.0, breath_db=-50.0, tremor=0.0)
    low, high = (speak(replace(base, formant_ratio=ratio), SENTENCES[0]) for ratio in (0.95, 1.25))
    assert _envelope_ratio(low, high) == pytest.approx(1.25 / 0.95, rel=0.06)
    assert _f0_hz(high) == pytest.approx(_f0_hz(low), rel=0.02)


def test_speak_slower_rate_takes_longer(voice: VoiceLatents) -> None:
    quick, slow = (speak(replace(voice, rate_wpm=rate), SENTENCES[1]) for rate in (200.0, 130.0))
    assert len(slow) / len(quick) == pytest.approx(200 / 130, rel=0.15)


def test_speak_breath_lowers_harmonicity(voice: VoiceLatents) -> None:
    def harmonicity(level_db: float) -> float:
        samples = speak(replace(voice, breath_db=level_db, tremor=0.0), SENTENCES[0])
        values = parselmouth.Sound(samples.astype(np.float64), RATE_HZ).to_harmonicity().values
        return float(values[values > -200].mean())

    assert harmonicity(-15.0) < harmonicity(-40.0) - 3


def test_speak_does_not_depend_on_earlier_calls(voice: VoiceLatents) -> None:
    first = speak(voice, SENTENCES[3], sample_rate_hz=16_000, noise_seed=5)
    speak(replace(voice, accent="en-us", f0_hz=110.0), SENTENCES[4])
    np.testing.assert_array_equal(first, speak(voice, SENTENCES[3], sample_rate_hz=16_000, noise_seed=5))
    other = speak(voice, SENTENCES[3], sample_rate_hz=16_000, noise_seed=6)
    assert not np.array_equal(first[: len(other)], other[: len(first)])


@pytest.mark.parametrize("group", list(GROUPS))
def test_synthesize_groups_have_different_accents(group: str) -> None:
    own = synthesize(SENTENCES[0], voice=GROUPS[group].accent)
    others = [
        synthesize(SENTENCES[0], voice=traits.accent) for name, traits in GROUPS.items() if name != group
    ]
    assert all(len(own) != len(other) or not np.array_equal(own, other) for other in others)


def test_utterance_has_the_clip_length_and_takes_differ() -> None:
    person = draw_population(SyntheticConfig(n_train=1, n_test=1))[0]
    clip = utterance(person, seed=0, sample_rate_hz=16_000)
    assert len(clip) == round(person.duration_s * 16_000)
    assert np.abs(clip).max() <= 1
    assert np.sqrt(np.mean(clip**2)) > 0.02
    again = utterance(person, seed=0, take=1, sample_rate_hz=16_000)
    assert len(again) == len(clip)
    assert np.corrcoef(clip[:48_000], again[:48_000])[0, 1] < 0.5


def test_speak_bad_input_raises(voice: VoiceLatents) -> None:
    with pytest.raises(InputError, match="f0_hz is 900"):
        speak(replace(voice, f0_hz=900.0), "Hello.")
    with pytest.raises(InputError, match="no voice 'xx-yy'"):
        speak(replace(voice, accent="xx-yy"), "Hello.")
    with pytest.raises(InputError, match="nothing to say"):
        speak(voice, "")


def test_sentences_are_many_and_different() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES) >= 40
