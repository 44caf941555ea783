"""The latents of the generated people: what a face shows, what a voice carries.

The groups are invented.  They stand for no people of the real world, and which
accent goes with which skin tone was set arbitrarily.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GENDERS = ("f", "m")
YOUNGEST_YEARS, OLDEST_YEARS = 18.0, 80.0
SHARED = ("gender", "group", "age_z", "body")  # the latents that face and voice share


@dataclass(frozen=True, slots=True)
class Group:
    """One invented group: where its members' appearance and accent come from.

    Attributes
    ----------
    accent
        Name of an espeak-ng voice.
    skin_tone
        Mean of the tone, 0 light to 1 dark; its standard deviation is 0.05.
    hair
        Sub-range of the hair palette, 0 black to 1 blond.
    curl
        Share of curly hair.
    nose_width, lip_fullness, eye_tilt, eye_opening
        Means of these facial latents, in standard deviations.
    """

    accent: str
    skin_tone: float
    hair: tuple[float, float]
    curl: float
    nose_width: float
    lip_fullness: float
    eye_tilt: float
    eye_opening: float


GROUPS: dict[str, Group] = {
    "alder": Group("en-gb-scotland", 0.06, (0.35, 1.0), 0.15, -1.2, -0.9, -0.6, 0.3),
    "birch": Group("es", 0.33, (0.0, 0.15), 0.0, 0.0, 0.0, 1.6, -1.5),
    "cedar": Group("en-us", 0.62, (0.0, 0.3), 0.3, -0.4, 0.3, 0.2, 1.3),
    "dune": Group("en-029", 0.92, (0.0, 0.1), 0.9, 1.5, 1.5, -0.4, 0.0),
}


@dataclass(frozen=True, slots=True)
class FaceLatents:
    """All that a portrait of a person shows.

    Those without a unit are in standard deviations around the mean of the
    person's gender and group.

    Attributes
    ----------
    gender, group, age_z, body
        The face's copy of the shared latents; `age_years` is a function of `age_z`.
    skin_tone
        0 light to 1 dark.
    hair_tone
        0 black, 0.5 brown, 1 blond, before it greys.
    grey
        Share of grey hair, in [0, 1]; rises with age.
    hair_style
        0 bald or shaved, 1 short, 2 full top, 3 bob, 4 long, 5 tied back.
    iris_tone
        0 dark brown to 1 light blue.
    beard
        0 none, 1 stubble, 2 moustache, 3 full.
    """

    gender: str
    group: str
    age_z: float
    body: float
    age_years: float
    skin_tone: float
    hair_tone: float
    grey: float
    hair_style: int
    curly: bool
    fringe: float
    parting: float
    iris_tone: float
    face_length: float
    jaw: float
    eye_distance: float
    eye_size: float
    eye_opening: float
    eye_tilt: float
    brow_thickness: float
    brow_height: float
    brow_arch: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_height: float
    lip_fullness: float
    beard: int
    glasses: bool


@dataclass(frozen=True, slots=True)
class VoiceLatents:
    """All that a person's speech carries, besides the words.

    The first five are latents, the rest is what `voices.speak` renders.  To
    change one acoustic trait alone, use `dataclasses.replace(voice, f0_hz=...)`.

    Attributes
    ----------
    gender, group, age_z, body
        The voice's copy of the shared latents; `age_years` is a function of `age_z`.
    pitch_offset_st
        The person's own pitch, in semitones above what gender, age and body give.
    accent
        Name of an espeak-ng voice, set by the group.
    f0_hz
        Median fundamental frequency.
    formant_ratio
        Formant frequencies relative to espeak's own (an adult male tract); above 1 the
        vocal tract is shorter.
    rate_wpm
        Speaking rate in words a minute.
    pitch_range
        Factor on espeak's intonation range, around 1.
    breath_db
        Level of breath noise relative to the speech, in dB (negative).
    tremor
        Depth of the slow wavering of pitch, as a share of f0.
    """

    gender: str
    group: str
    age_z: float
    body: float
    age_years: float
    pitch_offset_st: float
    accent: str
    f0_hz: float
    formant_ratio: float
    rate_wpm: float
    pitch_range: float
    breath_db: float
    tremor: float


def age_of(age_z: float) -> float:
    """Return the age in years, uniform in [18, 80] where `age_z` is standard normal."""
    share = 0.5 * (1 + math.erf(age_z / math.sqrt(2)))
    return YOUNGEST_YEARS + (OLDEST_YEARS - YOUNGEST_YEARS) * share
