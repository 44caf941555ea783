"""Effect of the pitch or the vocal tract's length of a voice on the predicted features.

Praat's "Change gender" changes one of them and keeps the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from s2f_lib.evaluation.retrieval import pair_distances
from s2f_lib.evaluation.statistics import bootstrap_interval

#: Changes in semitones. 4 is a quarter of the way from most women's pitch to most men's, and more than
#: the difference of their tracts (about 3).
SEMITONES = (-4.0, -2.0, 0.0, 2.0, 4.0)
_PITCH_HZ = (60.0, 500.0)


@dataclass(frozen=True)
class ChangedVoices:
    """Features predicted from changed voices; intervals resample groups (people or videos)."""

    semitones: np.ndarray  # (s,) changes
    features: dict[str, np.ndarray]  # "pitch" and "tract" to (s, n, d) predicted features of n voices
    group_ids: Sequence[str] | None = None  # n ids; None: each voice is another person

    def table(self, measure: Callable[[np.ndarray], np.ndarray] | None = None) -> pd.DataFrame:
        """Return one row per change: changed ("pitch", "tract"), semitones, n, value, low, high.

        `measure` maps `(n, d)` features to `(n,)` values. None: the cosine to the features of the unchanged
        voice.
        """
        rows = []
        for changed, features in self.features.items():
            unchanged = features[int(np.flatnonzero(self.semitones == 0)[0])]
            for step, found in zip(self.semitones, features, strict=True):
                values = pair_distances(unchanged, found)["cosine"] if measure is None else measure(found)
                row = {"changed": changed, "semitones": float(step), "n": len(values)}
                rows.append(row | asdict(bootstrap_interval(values, group_ids=self.group_ids)))
        return pd.DataFrame(rows)


def change_voices(
    audio: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    sample_rate_hz: int,
    semitones: Sequence[float] = SEMITONES,
) -> ChangedVoices:
    """Predict features from voices with changed pitch, and from voices with a changed tract.

    `audio` is `(n, samples)` int16, and `predict` maps `(m, samples)` int16 to `(m, d)` features. The
    changes must contain 0, which passes the voice through Praat without a change.
    """
    predicted: dict[str, list[np.ndarray]] = {"pitch": [], "tract": []}
    for step in semitones:
        ratio = 2 ** (step / 12)
        for changed in predicted:
            if step == 0 and changed == "tract":
                predicted["tract"].append(predicted["pitch"][-1])  # the same audio in both
                continue
            ratios = {"pitch_ratio": ratio} if changed == "pitch" else {"formant_ratio": ratio}
            voices = np.stack([change_voice(one, sample_rate_hz=sample_rate_hz, **ratios) for one in audio])
            predicted[changed].append(predict(voices))
    return ChangedVoices(np.array(semitones), {name: np.stack(parts) for name, parts in predicted.items()})


def change_voice(
    audio: np.ndarray, *, sample_rate_hz: int, pitch_ratio: float = 1.0, formant_ratio: float = 1.0
) -> np.ndarray:
    """Change a voice's pitch or tract with Praat's "Change gender".

    Parameters
    ----------
    audio
        `(n,)` int16. Audio without pitch is returned unchanged.
    sample_rate_hz
        Sample rate.
    pitch_ratio, formant_ratio
        Factors on the median pitch and on the formants; a formant ratio above 1 means a shorter tract.

    Returns
    -------
    numpy.ndarray
        `(n,)` int16.

    Examples
    --------
    >>> silence = np.zeros(16_000, np.int16)
    >>> change_voice(silence, sample_rate_hz=16_000, pitch_ratio=1.2).any()
    np.False_
    """
    import parselmouth

    sound = parselmouth.Sound(audio.astype(np.float64) / 32768, sample_rate_hz)
    pitch = sound.to_pitch_ac(pitch_floor=_PITCH_HZ[0], pitch_ceiling=_PITCH_HZ[1])
    pitch_hz = pitch.selected_array["frequency"]
    if not (pitch_hz > 0).any():
        return audio
    median_hz = float(np.median(pitch_hz[pitch_hz > 0])) * pitch_ratio
    # Praat fills unvoiced stretches with random periods
    parselmouth.praat.run("random_initializeWithSeedUnsafelyButPredictably (0)")
    try:
        arguments = (*_PITCH_HZ, formant_ratio, median_hz, 1.0, 1.0)
        changed = parselmouth.praat.call(sound, "Change gender", *arguments)
    finally:
        parselmouth.praat.run("random_initializeSafelyAndUnpredictably ()")
    samples = np.resize(changed.values[0], len(audio)) * 32768
    return np.clip(samples, -32768, 32767).astype(np.int16)
