"""What the model hears: the same voice with its pitch or its vocal tract's length changed alone.

Praat's "Change gender" moves one and leaves the other, so that what happens to the
predicted features has one cause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2f_lib.evaluation.distances import pair_distances
from s2f_lib.evaluation.statistics import bootstrap_interval

#: Changes in semitones; 4 is a fourth of the way from most women's pitch to most men's, and more than
#: the difference of their tracts (about 3).
SEMITONES = (-4.0, -2.0, 0.0, 2.0, 4.0)
_PITCH_HZ = (60.0, 500.0)


@dataclass(frozen=True)
class ChangedVoices:
    """Features predicted from changed voices.

    Attributes
    ----------
    semitones
        (s,) changes.
    features
        "pitch" and "tract" to (s, n, d) predicted features of n voices.
    group_ids
        n ids of persons or videos, which intervals resample; None: each voice is another person's.
    """

    semitones: np.ndarray
    features: dict[str, np.ndarray]
    group_ids: Sequence[str] | None = None

    def table(self, measure: Callable[[np.ndarray], np.ndarray] | None = None) -> pd.DataFrame:
        """Return what a change does, a row a change.

        Parameters
        ----------
        measure
            (n, d) features to (n,) values; by default the cosine to the unchanged voice's features.

        Returns
        -------
        pandas.DataFrame
            Columns changed ("pitch", "tract"), semitones, n, value, low, high.
        """
        rows = []
        for changed, features in self.features.items():
            unchanged = features[int(np.flatnonzero(self.semitones == 0)[0])]
            for step, found in zip(self.semitones, features, strict=True):
                values = pair_distances(unchanged, found)["cosine"] if measure is None else measure(found)
                interval = bootstrap_interval(values, group_ids=self.group_ids)
                row = {"changed": changed, "semitones": float(step), "n": len(values)}
                rows.append(row | {"value": interval.value, "low": interval.low, "high": interval.high})
        return pd.DataFrame(rows)


def change_voices(
    audio: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    sample_rate_hz: int,
    semitones: Sequence[float] = SEMITONES,
) -> ChangedVoices:
    """Change each voice's pitch alone and tract alone, and predict features from it.

    Parameters
    ----------
    audio
        (n, samples) int16.
    predict
        (m, samples) int16 to (m, d) features.
    semitones
        Changes; 0 has to be one of them: the voice taken apart and put together as it was.
    """
    predicted: dict[str, list[np.ndarray]] = {"pitch": [], "tract": []}
    for step in semitones:
        ratio = 2 ** (step / 12)
        for changed in predicted:
            ratios = {"pitch_ratio": ratio} if changed == "pitch" else {"formant_ratio": ratio}
            if step == 0 and changed == "tract":
                predicted["tract"].append(predicted["pitch"][-1])  # nothing is changed in either
                continue
            voices = np.stack([change_voice(one, sample_rate_hz=sample_rate_hz, **ratios) for one in audio])
            predicted[changed].append(predict(voices))
    return ChangedVoices(np.array(semitones), {name: np.stack(parts) for name, parts in predicted.items()})


def change_voice(
    audio: np.ndarray, *, sample_rate_hz: int, pitch_ratio: float = 1.0, formant_ratio: float = 1.0
) -> np.ndarray:
    """Change a voice's pitch or tract by Praat's "Change gender".

    Parameters
    ----------
    audio
        (n,) int16.
    pitch_ratio
        Of the median pitch; a voice without any is left as it is.
    formant_ratio
        Of the formants; above 1 is a shorter tract.

    Returns
    -------
    numpy.ndarray
        (n,) int16.
    """
    import parselmouth

    sound = parselmouth.Sound(audio.astype(np.float64) / 32768, sample_rate_hz)
    pitch_hz = sound.to_pitch_ac(pitch_floor=_PITCH_HZ[0], pitch_ceiling=_PITCH_HZ[1])
    pitch_hz = pitch_hz.selected_array["frequency"]
    if not (pitch_hz > 0).any():
        return audio
    median_hz = float(np.median(pitch_hz[pitch_hz > 0])) * pitch_ratio
    # Praat fills unvoiced stretches with randomly chosen periods
    parselmouth.praat.run("random_initializeWithSeedUnsafelyButPredictably (0)")
    try:
        changed = parselmouth.praat.call(
            sound, "Change gender", *_PITCH_HZ, formant_ratio, median_hz, 1.0, 1.0
        )
    finally:
        parselmouth.praat.run("random_initializeSafelyAndUnpredictably ()")
    samples = np.resize(changed.values[0], len(audio)) * 32768
    return np.clip(samples, -32768, 32767).astype(np.int16)
