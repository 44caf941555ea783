"""Voices with changed pitch or tract, as Praat measures them, and the tables."""

from __future__ import annotations

import numpy as np
import parselmouth
import pytest

from s2f_lib.evaluation.voice_changes import ChangedVoices, change_voice, change_voices

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def vowel() -> np.ndarray:
    """2 s of pulses at 120 Hz through resonances at 700 and 1,200 Hz, int16."""
    from scipy.signal import lfilter

    samples = (np.arange(2 * RATE_HZ) % (RATE_HZ // 120) == 0).astype(float)
    for formant_hz, width_hz in ((700, 80), (1200, 100), (2600, 160)):
        radius, angle = np.exp(-np.pi * width_hz / RATE_HZ), 2 * np.pi * formant_hz / RATE_HZ
        samples = lfilter([1.0], [1, -2 * radius * np.cos(angle), radius**2], samples)
    return (samples / np.abs(samples).max() * 15_000).astype(np.int16)


def _pitch_and_formant_hz(audio: np.ndarray) -> tuple[float, float]:
    sound = parselmouth.Sound(audio / 32768, RATE_HZ)
    pitch = sound.to_pitch_ac(pitch_floor=60, pitch_ceiling=500).selected_array["frequency"]
    formants = sound.to_formant_burg(max_number_of_formants=5, maximum_formant=5000)
    times = np.arange(0.3, 1.7, 0.05)
    first = np.median([formants.get_value_at_time(1, time) for time in times])
    return float(np.median(pitch[pitch > 0])), float(first)


@pytest.mark.parametrize(
    ("pitch_ratio", "formant_ratio"), [(1.0, 1.0), (1.3, 1.0), (0.8, 1.0), (1.0, 1.2), (1.0, 0.85)]
)
def test_change_voice_moves_only_one_ratio(vowel, pitch_ratio, formant_ratio):
    before = _pitch_and_formant_hz(vowel)
    changed = change_voice(
        vowel, sample_rate_hz=RATE_HZ, pitch_ratio=pitch_ratio, formant_ratio=formant_ratio
    )
    assert changed.shape == vowel.shape
    assert changed.dtype == np.int16
    after = _pitch_and_formant_hz(changed)
    assert after[0] / before[0] == pytest.approx(pitch_ratio, rel=0.02)
    assert after[1] / before[1] == pytest.approx(formant_ratio, rel=0.06)


def test_change_voice_keeps_noise_and_repeats(vowel):
    noise = np.random.default_rng(0).normal(0, 2000, RATE_HZ).astype(np.int16)
    np.testing.assert_array_equal(change_voice(noise, sample_rate_hz=RATE_HZ, pitch_ratio=1.2), noise)
    first, second = (change_voice(vowel, sample_rate_hz=RATE_HZ, pitch_ratio=1.2) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_change_voices_predicts_every_change(vowel):
    audio = np.stack([vowel, vowel[::-1], vowel // 2])

    def predict(voices: np.ndarray) -> np.ndarray:
        return np.abs(np.fft.rfft(voices[:, :512] / 32768.0))[:, :20]

    changed = change_voices(audio, predict, sample_rate_hz=RATE_HZ, semitones=(-2.0, 0.0, 2.0))
    assert {name: part.shape for name, part in changed.features.items()} == {
        "pitch": (3, 3, 20),
        "tract": (3, 3, 20),
    }
    np.testing.assert_array_equal(changed.features["pitch"][1], changed.features["tract"][1])
    assert not np.array_equal(changed.features["pitch"][2], changed.features["tract"][2])


def test_changed_voices_table_by_hand():
    unchanged = np.array([[1.0, 0.0], [0.0, 1.0]])
    turned = np.array([[0.0, 1.0], [0.0, 2.0]])  # at a right angle, and parallel
    features = {"pitch": np.stack([unchanged, turned]), "tract": np.stack([unchanged, unchanged])}
    changed = ChangedVoices(np.array([0.0, 3.0]), features)
    table = changed.table().set_index(["changed", "semitones"])["value"]
    assert table["pitch", 3.0] == pytest.approx(0.5)
    assert table["tract", 3.0] == pytest.approx(1.0)
    assert table["pitch", 0.0] == pytest.approx(1.0)
    seconds = changed.table(lambda found: found[:, 1]).set_index(["changed", "semitones"])["value"]
    assert seconds["pitch", 3.0] == pytest.approx(1.5)
