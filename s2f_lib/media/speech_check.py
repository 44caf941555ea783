"""Is this a voice that speaks?  Silence, noise, tones and music get a clear line instead of a face.

Speech comes in syllables: a few times a second its loudness rises and falls, the
loud parts are mostly voiced, and their pitch glides.  Noise is not voiced;
a tone or a held chord is voiced, and neither its loudness nor its pitch moves
as a voice's does.  The criterion asks for all three, on the loud frames alone,
with bounds far from those of real and of generated speech (see the tests).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2f_lib.errors import InputError

MIN_DURATION_S = 1.0
_FRAME_S = 0.02
_STEP_S = 0.01  # of the pitch's analysis
_RANGE_DB = 30.0  # frames so far below the loudest count as pauses
_SILENCE_DBFS = -55.0  # of the loudest frames
_PITCH_HZ = (60.0, 500.0)
# bounds; after each, the least that was measured of speech and the most of what it has to tell apart
_LEAST_VOICED = 0.2  # share of loud frames; 60 real voices of AVSpeech 0.33, noise 0.02
_LEAST_GLIDE = 0.035  # semitones a step of 10 ms, median over voiced frames; speech 0.044, held chords 0.024
_LEAST_MOVEMENT_DB = 3.0  # standard deviation of the loudness of loud frames; AVSpeech 3.7, tones 0.2


@dataclass(frozen=True, slots=True)
class SpeechMeasures:
    """What the check looks at.

    Attributes
    ----------
    duration_s
        Of the sound.
    level_dbfs
        Of the loudest frames (95th percentile); full scale is 0.
    voiced_share
        Of the loud frames.
    glide_semitones
        Median change of the pitch in 10 ms within voiced stretches.
    movement_db
        Standard deviation of the loudness of the loud frames.
    """

    duration_s: float
    level_dbfs: float
    voiced_share: float
    glide_semitones: float
    movement_db: float


def measure_speech(audio: np.ndarray, *, sample_rate_hz: int) -> SpeechMeasures:
    """Measure loudness, voicing and their movement.

    Parameters
    ----------
    audio
        (n,) int16 mono, at least 0.1 s.
    """
    samples = audio.astype(np.float64) / 32768
    duration_s = len(samples) / sample_rate_hz
    size = round(_FRAME_S * sample_rate_hz)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    level = 10 * np.log10(frames.var(axis=1) + 1e-10)  # dBFS, a frame; an offset is no sound
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
    """Refuse what is no speech.

    Parameters
    ----------
    audio
        (n,) int16 mono.
    name
        What to call it in the message.

    Raises
    ------
    InputError
        It is too short, silent, or not speech; the message says what was found and expected.
    """
    duration_s = len(audio) / sample_rate_hz
    if duration_s < MIN_DURATION_S:
        raise InputError(f"{name} is too short: {duration_s:.2f} s, expected at least {MIN_DURATION_S:g} s")
    found = measure_speech(audio, sample_rate_hz=sample_rate_hz)
    if found.level_dbfs < _SILENCE_DBFS:
        raise InputError(
            f"{name} is silent: its loudest parts are at {found.level_dbfs:.0f} dB of full scale, expected "
            f"at least {_SILENCE_DBFS:.0f} dB"
        )
    wanting = []
    if found.voiced_share < _LEAST_VOICED:
        wanting.append(f"{found.voiced_share:.0%} of it is voiced (expected at least {_LEAST_VOICED:.0%})")
    elif found.glide_semitones < _LEAST_GLIDE:
        wanting.append("its pitch stands still")
    if found.movement_db < _LEAST_MOVEMENT_DB:
        wanting.append(
            f"its loudness moves by {found.movement_db:.1f} dB (expected at least {_LEAST_MOVEMENT_DB:g} dB)"
        )
    if wanting:
        raise InputError(
            f"{name} does not sound like speech: {' and '.join(wanting)}; "
            "give a recording of one person speaking"
        )
    return found


def _pitch(samples: np.ndarray, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pitch in Hz, 0 where unvoiced, and the times in seconds, by Praat's autocorrelation."""
    import parselmouth

    sound = parselmouth.Sound(samples, sample_rate_hz)
    pitch = sound.to_pitch_ac(time_step=_STEP_S, pitch_floor=_PITCH_HZ[0], pitch_ceiling=_PITCH_HZ[1])
    return pitch.selected_array["frequency"], pitch.xs()
