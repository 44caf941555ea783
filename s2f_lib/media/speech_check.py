"""A check whether audio is speech, so that silence, noise, tones and music are refused with a clear message.

Speech consists of syllables: its loudness rises and falls a few times per second, the loud parts are mostly
voiced, and their pitch glides. Noise is not voiced. A tone or a held chord is voiced, but neither its
loudness nor its pitch moves. The check requires all three properties, on the loud frames only, with bounds
that real and generated speech exceed (see the tests).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2f_lib.errors import InputError

_MIN_DURATION_S = 1.0
_FRAME_S = 0.02
_STEP_S = 0.01  # step of the pitch analysis
_RANGE_DB = 30.0  # frames this far below the loudest frames are pauses
_SILENCE_DBFS = -55.0  # level of the loudest frames
_PITCH_HZ = (60.0, 500.0)
# Bounds. The comments give the lowest value measured in speech and the highest in other sounds.
_MIN_VOICED = 0.2  # share of loud frames; 60 real voices of AVSpeech 0.33, noise 0.02
_MIN_GLIDE = 0.035  # semitones per step of 10 ms, median over voiced frames; speech 0.044, held chords 0.024
_MIN_MOVEMENT_DB = 3.0  # standard deviation of the loudness of loud frames; AVSpeech 3.7, tones 0.2


@dataclass(frozen=True, slots=True)
class SpeechMeasures:
    """Measurements of the speech check."""

    duration_s: float
    level_dbfs: float  # 95th percentile of the frames' levels; full scale is 0
    voiced_share: float  # share of the loud frames that are voiced
    glide_semitones: float  # median change of the pitch in 10 ms within voiced stretches
    movement_db: float  # standard deviation of the loudness of the loud frames


def measure_speech(audio: np.ndarray, *, sample_rate_hz: int) -> SpeechMeasures:
    """Measure loudness and voicing, and how much they vary, of `(n,)` int16 mono of at least 0.1 s."""
    samples = audio.astype(np.float64) / 32768
    duration_s = len(samples) / sample_rate_hz
    size = round(_FRAME_S * sample_rate_hz)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    level = 10 * np.log10(frames.var(axis=1) + 1e-10)  # dBFS per frame; the variance ignores an offset
    loudest = float(np.quantile(level, 0.95))
    if loudest < _SILENCE_DBFS:
        return SpeechMeasures(duration_s, loudest, 0.0, 0.0, 0.0)
    loud = level > loudest - _RANGE_DB
    pitch_hz, times_s = _pitch(samples, sample_rate_hz)
    is_loud = loud[np.clip((times_s / _FRAME_S).astype(int), 0, len(loud) - 1)]
    voiced = (pitch_hz > 0) & is_loud
    together = voiced[1:] & voiced[:-1]
    steps = np.abs(12 * np.diff(np.log2(np.maximum(pitch_hz, 1.0))))[together]
    return SpeechMeasures(
        duration_s=duration_s,
        level_dbfs=loudest,
        voiced_share=float(voiced.sum() / max(1, is_loud.sum())),
        glide_semitones=float(np.median(steps)) if len(steps) else 0.0,
        movement_db=float(level[loud].std()),
    )


def check_speech(audio: np.ndarray, *, sample_rate_hz: int, name: str = "the sound") -> SpeechMeasures:
    """Refuse audio that is not speech.

    Parameters
    ----------
    audio
        `(n,)` int16 mono.
    sample_rate_hz
        Sample rate of the audio.
    name
        Name of the audio in the error message.

    Returns
    -------
    SpeechMeasures
        The measurements behind the decision.

    Raises
    ------
    InputError
        The audio is too short, silent, or not speech. The message gives the measured and the expected values.

    Examples
    --------
    >>> tone = 9_000 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)
    >>> check_speech(tone.astype(np.int16), sample_rate_hz=16_000, name="tone.wav")
    Traceback (most recent call last):
    s2f_lib.errors.InputError: tone.wav does not sound like speech: its pitch does not move and ...
    """
    duration_s = len(audio) / sample_rate_hz
    if duration_s < _MIN_DURATION_S:
        raise InputError(f"{name} is too short: {duration_s:.2f} s, expected at least {_MIN_DURATION_S:g} s")
    found = measure_speech(audio, sample_rate_hz=sample_rate_hz)
    if found.level_dbfs < _SILENCE_DBFS:
        raise InputError(
            f"{name} is silent: its loudest parts are at {found.level_dbfs:.0f} dB of full scale, expected "
            f"at least {_SILENCE_DBFS:.0f} dB"
        )
    problems = []
    if found.voiced_share < _MIN_VOICED:
        problems.append(f"{found.voiced_share:.0%} of it is voiced (expected at least {_MIN_VOICED:.0%})")
    elif found.glide_semitones < _MIN_GLIDE:
        problems.append("its pitch does not move")
    if found.movement_db < _MIN_MOVEMENT_DB:
        problems.append(
            f"its loudness varies by {found.movement_db:.1f} dB (expected at least {_MIN_MOVEMENT_DB:g} dB)"
        )
    if problems:
        raise InputError(
            f"{name} does not sound like speech: {' and '.join(problems)}; "
            "give a recording of one person speaking"
        )
    return found


def _pitch(samples: np.ndarray, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pitch in Hz (0 if unvoiced) and the times in seconds, by Praat's autocorrelation."""
    import parselmouth

    sound = parselmouth.Sound(samples, sample_rate_hz)
    pitch = sound.to_pitch_ac(time_step=_STEP_S, pitch_floor=_PITCH_HZ[0], pitch_ceiling=_PITCH_HZ[1])
    return pitch.selected_array["frequency"], pitch.xs()
