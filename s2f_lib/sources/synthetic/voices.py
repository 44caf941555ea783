"""How the generated people speak: espeak-ng, then Praat for vocal tract and pitch.

espeak-ng gives the words, the accent and the rate.  Praat's "Change gender"
moves all formants by one factor (vocal-tract length) and sets the median pitch.
Age adds tremor, a slow wavering of the pitch, and breath noise.
"""

from __future__ import annotations

import numpy as np

from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.espeak import SAMPLE_RATE_HZ, synthesize
from s2f_lib.sources.synthetic.latents import VoiceLatents

_ESPEAK_F0_HZ = 100.0  # espeak-ng's median pitch at its setting 50
_PEAK = 0.7  # of the finished waveform
_F0_BOUNDS_HZ = (50.0, 500.0)
_FORMANT_BOUNDS = (0.6, 1.6)
_GAP_S = 0.12  # of silence between two sentences


def speak(
    voice: VoiceLatents, text: str, *, sample_rate_hz: int = SAMPLE_RATE_HZ, noise_seed: int = 0
) -> np.ndarray:
    """Let a voice say a text.

    Parameters
    ----------
    voice
        Its acoustic fields are rendered (`accent`, `f0_hz`, `formant_ratio`, `rate_wpm`,
        `pitch_range`, `breath_db`, `tremor`); to change one alone use `dataclasses.replace`.
    text
        English; a voice of another language reads it with that language's sounds.
    sample_rate_hz
        Of the result; espeak-ng itself gives 22,050 Hz, so nothing is heard above 11 kHz.
    noise_seed
        Seeds breath and tremor; equal arguments give equal samples.

    Returns
    -------
    (n,) numpy.ndarray of float32
        Mono, peak 0.7.

    Raises
    ------
    InputError
        `f0_hz` is outside 50 to 500, `formant_ratio` outside 0.6 to 1.6, the accent is unknown,
        or the text is empty.
    """
    _check(voice)
    rng = np.random.default_rng(noise_seed)
    # espeak speaks as near the wanted pitch as it can, which leaves Praat less to do
    near = int(np.clip(50 + 57 * np.log2(voice.f0_hz / _ESPEAK_F0_HZ), 0, 99))
    samples = synthesize(
        text,
        voice=voice.accent,
        rate_wpm=voice.rate_wpm,
        pitch=near,
        pitch_range=int(np.clip(50 * voice.pitch_range, 0, 99)),
    )
    samples = _trim(samples)
    samples = _set_tract_and_pitch(
        samples, f0_hz=voice.f0_hz, formant_ratio=voice.formant_ratio, seed=noise_seed
    )
    samples = _add_tremor(samples, voice.tremor, rng)
    samples = _add_breath(samples, voice.breath_db, rng)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        samples = _resample(samples, sample_rate_hz)
    return (samples * (_PEAK / max(float(np.abs(samples).max()), 1e-6))).astype(np.float32)


def speak_for(
    voice: VoiceLatents,
    sentences: list[str],
    *,
    duration_s: float,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    noise_seed: int = 0,
) -> np.ndarray:
    """Let a voice say sentences until the time is over, as a cut from a longer talk.

    Returns
    -------
    (round(duration_s * sample_rate_hz),) numpy.ndarray of float32
    """
    wanted = round(duration_s * sample_rate_hz)
    gap = np.zeros(round(_GAP_S * sample_rate_hz), np.float32)
    parts: list[np.ndarray] = []
    have = 0
    for index, sentence in enumerate(sentences):
        # a seed a sentence, so that each has breath and tremor of its own
        part = speak(voice, sentence, sample_rate_hz=sample_rate_hz, noise_seed=noise_seed * 1000 + index)
        parts += [part, gap]
        have += len(part) + len(gap)
        if have >= wanted:
            break
    samples = np.concatenate(parts)[:wanted]
    samples = np.pad(samples, (0, wanted - len(samples)))
    fade = min(round(0.02 * sample_rate_hz), len(samples))
    samples[len(samples) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return samples


def _check(voice: VoiceLatents) -> None:
    for name, (least, most) in (("f0_hz", _F0_BOUNDS_HZ), ("formant_ratio", _FORMANT_BOUNDS)):
        value = getattr(voice, name)
        if not least <= value <= most:
            raise InputError(f"voice.{name} is {value}: expected {least:g} to {most:g}")


def _trim(samples: np.ndarray) -> np.ndarray:
    """Cut espeak's silence before and after the words."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if not len(loud):
        return samples
    margin = SAMPLE_RATE_HZ // 50
    words = samples[max(0, loud[0] - margin) : loud[-1] + margin]
    # Praat's pitch analysis needs three periods of its lowest pitch
    missing = max(0, SAMPLE_RATE_HZ // 10 - len(words))
    return np.pad(words, (missing // 2, missing - missing // 2))


def _set_tract_and_pitch(
    samples: np.ndarray, *, f0_hz: float, formant_ratio: float, seed: int = 0
) -> np.ndarray:
    """Apply Praat's "Change gender": move the formants, set the median pitch."""
    import parselmouth

    sound = parselmouth.Sound(samples.astype(np.float64), SAMPLE_RATE_HZ)
    # Praat fills unvoiced stretches with randomly chosen periods
    parselmouth.praat.run(f"random_initializeWithSeedUnsafelyButPredictably ({seed})")
    try:
        changed = parselmouth.praat.call(sound, "Change gender", 50, 300, formant_ratio, f0_hz, 1.0, 1.0)
    finally:
        parselmouth.praat.run("random_initializeSafelyAndUnpredictably ()")
    return changed.values[0]


def _add_tremor(samples: np.ndarray, depth: float, rng: np.random.Generator) -> np.ndarray:
    """Waver the pitch by `depth` (a share of f0), at about 5 Hz, by reading at an uneven pace."""
    time_s = np.arange(len(samples)) / SAMPLE_RATE_HZ
    rate_hz = rng.uniform(4.5, 5.5)
    # the reading position's derivative is 1 + depth * cos(...)
    phase = 2 * np.pi * rate_hz * time_s + rng.uniform(0, 2 * np.pi)
    shift_s = depth * (np.sin(phase) - np.sin(phase[0])) / (2 * np.pi * rate_hz)
    return np.interp(time_s + shift_s, time_s, samples)


def _add_breath(samples: np.ndarray, level_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise that follows the speech's loudness, `level_db` below it, brighter than the voice."""
    from scipy.signal import lfilter

    # 20 ms loudness follower; then noise through a first difference, which lifts high frequencies
    pole = np.exp(-1 / (0.02 * SAMPLE_RATE_HZ))
    loudness = np.sqrt(np.maximum(lfilter([1 - pole], [1, -pole], samples**2), 0))
    noise = rng.standard_normal(len(samples) + 1)
    bright = (noise[1:] - 0.6 * noise[:-1]) / np.sqrt(1 + 0.36)
    return samples + 10 ** (level_db / 20) * loudness * bright


def _resample(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Resample from 22,050 Hz by a polyphase filter."""
    from math import gcd

    from scipy.signal import resample_poly

    common = gcd(sample_rate_hz, SAMPLE_RATE_HZ)
    return resample_poly(samples, sample_rate_hz // common, SAMPLE_RATE_HZ // common)
