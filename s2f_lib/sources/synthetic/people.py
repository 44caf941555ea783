"""The people of the generated world, with known latents of face and voice.

The generative model in full: each person has four *shared* latents in two copies, one that the face shows and
one that the voice carries.

=========  ====================================  ======================================
latent     population                            voice copy, given the face's
=========  ====================================  ======================================
gender     f or m, 1/2 each                      kept with probability rho, otherwise
                                                 drawn again from the population
group      `GROUPS`, 1/4 each                    as gender
age_z      standard normal;                      rho age_z + sqrt(1 - rho^2) noise
           years = 18 + 62 Phi(age_z)
body       standard normal                       rho body + sqrt(1 - rho^2) noise
=========  ====================================  ======================================

So rho is the correlation of the two copies (of the indicators, for the categories). At 1 the voice determines
all shared latents of the face; at 0 it determines none of them. All other latents depend only on the shared
latents of their own side, so they carry no further information about the other side. Therefore
`log_likelihood` is the exact log p(voice | face) up to a constant per voice, and no retrieval can be better
than ranking the faces by it.

All draws for a person come from generators that are seeded by (seed, person index, purpose). Faces and noise
do not depend on rho, and the people of one split do not depend on the size of the other.

The groups are invented. They stand for no real people, and the assignment of accents to skin tones is
arbitrary.
"""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.clip import make_clip_id
from s2f_lib.storage import digest

GENDERS = ("f", "m")
YOUNGEST_YEARS, OLDEST_YEARS = 18.0, 80.0
SHARED = ("gender", "group", "age_z", "body")  # the latents that face and voice share
_FIRST_TEST_INDEX = 1_000_000  # index of the first test person, for every n_train
_SHORTEST_S = 3.0  # AVSpeech's clips last 3 to 10 s
_MIN_VARIANCE = 1e-9  # variance of the voice's copy given the face's, at rho = 1


@dataclass(frozen=True, slots=True)
class Group:
    """Appearance and accent of one invented group."""

    accent: str  # name of an espeak-ng voice
    skin_tone: float  # mean, 0 light to 1 dark; the standard deviation is 0.05
    hair: tuple[float, float]  # range of the hair palette, 0 black to 1 blond
    curl: float  # share of curly hair
    nose_width: float  # this and the following: means, in standard deviations
    lip_fullness: float
    eye_tilt: float
    eye_opening: float


GROUPS: dict[str, Group] = {
    "alder": Group("en-gb-scotland", 0.06, (0.35, 1.0), 0.15, -1.2, -0.9, -0.6, 0.3),
    "birch": Group("es", 0.33, (0.0, 0.15), 0.0, 0.0, 0.0, 1.6, -1.5),
    "cedar": Group("en-us", 0.62, (0.0, 0.3), 0.3, -0.4, 0.3, 0.2, 1.3),
    "dune": Group("en-029", 0.92, (0.0, 0.1), 0.9, 1.5, 1.5, -0.4, 0.0),
}


# `draw_portrait` seeds a generator with the repr of this class: other names or another order of the fields
# change every image.
@dataclass(frozen=True, slots=True)
class FaceLatents:
    """Everything that a portrait shows of a person.

    Latents without a unit are in standard deviations around the mean of the person's gender and group.
    """

    gender: str  # "f" or "m"; this and the next three: the face's copy of the shared latents
    group: str
    age_z: float
    body: float
    age_years: float  # a function of `age_z`
    skin_tone: float  # 0 light to 1 dark
    hair_tone: float  # 0 black, 0.5 brown, 1 blond, without the grey
    grey: float  # share of grey hair, in [0, 1]; rises with age
    hair_style: int  # 0 bald or shaved, 1 short, 2 full top, 3 bob, 4 long, 5 tied back
    curly: bool
    fringe: float  # in [0, 1]
    parting: float  # in [-1, 1], left to right
    iris_tone: float  # 0 dark brown to 1 light blue
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
    beard: int  # 0 none, 1 stubble, 2 moustache, 3 full
    glasses: bool


@dataclass(frozen=True, slots=True)
class VoiceLatents:
    """Everything that a person's speech carries, apart from the words.

    The first six fields are latents; `voices.speak` uses the others.
    """

    gender: str  # this and the next three: the voice's copy of the shared latents
    group: str
    age_z: float
    body: float
    age_years: float  # a function of `age_z`
    pitch_offset_st: float  # the person's own pitch, in semitones above that of gender, age and body
    accent: str  # name of an espeak-ng voice, set by the group
    f0_hz: float  # median fundamental frequency
    formant_ratio: float  # formants relative to espeak-ng's adult male; above 1: a shorter vocal tract
    rate_wpm: float  # speaking rate, in words per minute
    pitch_range: float  # factor on espeak-ng's intonation range, around 1
    breath_db: float  # level of breath noise relative to the speech, negative
    tremor: float  # depth of the slow variation of the pitch, as a share of f0


@dataclass(frozen=True, slots=True)
class Person:
    """One person with one clip."""

    index: int  # seeds all draws for the person: 0, 1, ... in train, 1,000,000, ... in test
    person_id: str  # "train-00000" and so on
    video_id: str  # 11 characters, as in AVSpeech
    clip_id: str  # in the form of `make_clip_id`
    split: str  # "train" or "test"
    duration_s: float  # length of the clip, from 3 s to the settings' `duration_s`
    face: FaceLatents
    voice: VoiceLatents


class Population(tuple[Person, ...]):
    """The people of one generated world, training people first."""

    def table(self) -> pd.DataFrame:
        """Return one row per person.

        The columns are `person_id, video_id, clip_id, split, duration_s`; `gender, age_years, group` as the
        face shows them; all face latents as `face_*` and all voice latents as `voice_*`.
        """
        rows = []
        for person in self:
            row = asdict(person)
            face, voice = row.pop("face"), row.pop("voice")
            del row["index"]
            row |= {name: face[name] for name in ("gender", "age_years", "group")}
            row |= {f"face_{name}": value for name, value in face.items()}
            rows.append(row | {f"voice_{name}": value for name, value in voice.items()})
        return pd.DataFrame(rows)


def generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Return the random generator for one purpose of one person."""
    return np.random.default_rng([seed, index, zlib.crc32(purpose.encode())])


def draw_population(config: SyntheticConfig) -> Population:
    """Draw the people of a world.

    Parameters
    ----------
    config
        Settings; `n_train`, `n_test`, `rho`, `seed` and `duration_s` are used.

    Returns
    -------
    Population
        The people; equal for equal settings.

    See Also
    --------
    log_likelihood : Log-likelihood of each voice given each face.

    Examples
    --------
    >>> from s2f_lib.config import SyntheticConfig
    >>> population = draw_population(SyntheticConfig(n_train=2, n_test=1))
    >>> [person.person_id for person in population]
    ['train-00000', 'train-00001', 'test-00000']
    """
    people = [draw_person(config, number, "train") for number in range(config.n_train)]
    people += [draw_person(config, number, "test") for number in range(config.n_test)]
    return Population(people)


def draw_person(config: SyntheticConfig, number: int, split: str) -> Person:
    """Draw one person of a split ("train" or "test") by number, without drawing the others."""
    index = number if split == "train" else _FIRST_TEST_INDEX + number
    rng = generator(config.seed, index, "clip")
    shortest_s = min(_SHORTEST_S, config.duration_s)
    # whole tenths of a second, so that frames and audio end together
    duration_s = math.floor(10 * rng.uniform(shortest_s, config.duration_s) + 1e-6) / 10
    video_id = make_video_id(config.seed, index)
    face = draw_face(generator(config.seed, index, "face"))
    voice = draw_voice(generator(config.seed, index, "voice"), face, rho=config.rho)
    clip_id = make_clip_id(video_id, 0.0, duration_s)
    return Person(index, f"{split}-{number:05d}", video_id, clip_id, split, duration_s, face, voice)


def draw_face(rng: np.random.Generator) -> FaceLatents:
    """Draw one face from the population.

    Examples
    --------
    >>> face = draw_face(np.random.default_rng(0))
    >>> face.gender, face.group, round(face.age_years)
    ('m', 'cedar', 46)
    """
    gender, group = _draw_categories(rng)
    age_z, body = (float(z) for z in rng.standard_normal(2))
    age_years = age_of(age_z)
    traits = GROUPS[group]
    male = gender == "m"
    z = [float(value) for value in rng.standard_normal(16)]
    u = [float(value) for value in rng.uniform(size=8)]
    grey = 1 / (1 + math.exp(-(age_years - 52 + 6 * z[0]) / 6))
    styles, weights = _hair_styles(male, age_years)
    beards = (0.45, 0.2, 0.12, 0.23) if male else (1.0, 0.0, 0.0, 0.0)
    return FaceLatents(
        gender=gender,
        group=group,
        age_z=age_z,
        body=body,
        age_years=age_years,
        skin_tone=float(np.clip(traits.skin_tone + 0.05 * z[1], 0, 1)),
        hair_tone=traits.hair[0] + (traits.hair[1] - traits.hair[0]) * u[0],
        grey=grey,
        hair_style=int(rng.choice(styles, p=weights)),
        curly=u[1] < traits.curl,
        fringe=u[2],
        parting=2 * u[3] - 1,
        iris_tone=u[4] * (1.0 if traits.skin_tone < 0.2 else 0.3 if traits.skin_tone < 0.5 else 0.15),
        face_length=z[2],
        jaw=z[3],
        eye_distance=z[4],
        eye_size=z[5],
        eye_opening=0.5 * z[6] + traits.eye_opening,
        eye_tilt=0.5 * z[7] + traits.eye_tilt,
        brow_thickness=z[8],
        brow_height=z[9],
        brow_arch=z[10],
        nose_width=0.5 * z[11] + traits.nose_width,
        nose_length=z[12],
        mouth_width=z[13],
        mouth_height=z[14],
        lip_fullness=0.5 * z[15] + traits.lip_fullness,
        beard=int(rng.choice(4, p=beards)),
        glasses=u[5] < 0.08 + 0.2 * (age_years - YOUNGEST_YEARS) / (OLDEST_YEARS - YOUNGEST_YEARS),
    )


def draw_voice(rng: np.random.Generator, face: FaceLatents, *, rho: float) -> VoiceLatents:
    """Draw the voice of the person with this face, of which only the four shared latents are used.

    The random numbers do not depend on `rho`, so populations of different `rho` share their noise.
    """
    keep = rng.uniform(size=2)
    other_gender, other_group = _draw_categories(rng)
    gender = face.gender if keep[0] < rho else other_gender
    group = face.group if keep[1] < rho else other_group
    noise = rng.standard_normal(2)
    age_z = rho * face.age_z + math.sqrt(1 - rho**2) * float(noise[0])
    body = rho * face.body + math.sqrt(1 - rho**2) * float(noise[1])
    pitch_z, rate_z, range_z, breath_z, tremor_z = (float(z) for z in rng.standard_normal(5))
    age_years = age_of(age_z)
    aged = (age_years - YOUNGEST_YEARS) / (OLDEST_YEARS - YOUNGEST_YEARS)  # 0 to 1
    male = gender == "m"
    # the pitch of women falls with age; the pitch of men rises a little late in life
    pitch_st = 1.5 * max(0.0, aged - 0.5) * 2 if male else -2.5 * aged
    pitch_offset_st = 1.2 * pitch_z
    return VoiceLatents(
        gender=gender,
        group=group,
        age_z=age_z,
        body=body,
        age_years=age_years,
        pitch_offset_st=pitch_offset_st,
        accent=GROUPS[group].accent,
        f0_hz=(112.0 if male else 208.0) * 2 ** ((pitch_st + pitch_offset_st - 0.4 * body) / 12),
        # a female vocal tract is about 15% shorter than a male one; a large body has a longer one
        formant_ratio=(1.0 if male else 1.16) * math.exp(-0.05 * float(np.clip(body, -2.5, 2.5))),
        rate_wpm=(195.0 - 60.0 * aged) * math.exp(0.06 * rate_z),
        pitch_range=math.exp(0.15 * range_z),
        breath_db=-40.0 + 18.0 * aged + 2.0 * breath_z,
        tremor=(0.002 + 0.022 * aged**2) * math.exp(0.2 * tremor_z),
    )


def log_likelihood(voice_table: pd.DataFrame, face_table: pd.DataFrame, *, rho: float) -> np.ndarray:
    """Return log p(voice's shared latents | face's shared latents) of all pairs.

    No retrieval in this world can be better than ranking the faces by it for each voice.

    Parameters
    ----------
    voice_table
        Table with the columns `voice_gender, voice_group, voice_age_z, voice_body`, from `Population.table`.
    face_table
        Table with the columns `face_gender, face_group, face_age_z, face_body`.
    rho
        Correlation of the world, in [0, 1]. At 1 the variance of the normal latents, 0, is replaced by 1e-9.

    Returns
    -------
    numpy.ndarray
        `(n_voices, n_faces)` float64. At rho = 0 every row is constant; at rho = 1 impossible pairs are -inf.

    Raises
    ------
    InputError
        A column is missing, or `rho` is outside [0, 1].

    Examples
    --------
    >>> from s2f_lib.config import SyntheticConfig
    >>> table = draw_population(SyntheticConfig(n_train=4, n_test=1, rho=1.0)).table()
    >>> log_likelihood(table, table, rho=1.0).argmax(axis=1)
    array([0, 1, 2, 3, 4])
    """
    if not 0 <= rho <= 1:
        raise InputError(f"rho is {rho}: expected a correlation in [0, 1]")
    _check_columns(voice_table, "voice")
    _check_columns(face_table, "face")
    total = np.zeros((len(voice_table), len(face_table)))
    for name, share in (("gender", 1 / len(GENDERS)), ("group", 1 / len(GROUPS))):
        voice = voice_table[f"voice_{name}"].to_numpy(dtype=str)[:, None]
        face = face_table[f"face_{name}"].to_numpy(dtype=str)[None, :]
        with np.errstate(divide="ignore"):
            total += np.log(rho * (voice == face) + (1 - rho) * share)
    variance = max(1 - rho**2, _MIN_VARIANCE)
    for name in ("age_z", "body"):
        voice = voice_table[f"voice_{name}"].to_numpy(dtype=float)[:, None]
        face = face_table[f"face_{name}"].to_numpy(dtype=float)[None, :]
        total += -0.5 * ((voice - rho * face) ** 2 / variance + math.log(2 * math.pi * variance))
    return total


def make_video_id(seed: int, index: int) -> str:
    """Return the person's video id: 11 characters of [A-Za-z0-9_-], as on YouTube."""
    code = base64.urlsafe_b64encode(bytes.fromhex(digest(f"s2f synthetic {seed} {index}", length=64)))
    return "s" + code.decode()[:10]  # an id that starts with "-" looks like an option on a command line


def age_of(age_z: float) -> float:
    """Return the age in years, uniform in [18, 80] if `age_z` is standard normal."""
    share = 0.5 * (1 + math.erf(age_z / math.sqrt(2)))
    return YOUNGEST_YEARS + (OLDEST_YEARS - YOUNGEST_YEARS) * share


def _draw_categories(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a gender and a group."""
    return GENDERS[int(rng.integers(len(GENDERS)))], list(GROUPS)[int(rng.integers(len(GROUPS)))]


def _hair_styles(male: bool, age_years: float) -> tuple[list[int], list[float]]:
    if not male:
        return [2, 3, 4, 5], [0.1, 0.3, 0.4, 0.2]
    bald = 0.05 + 0.4 * max(0.0, age_years - 35) / 45
    return [0, 1, 2], [bald, 0.6 * (1 - bald), 0.4 * (1 - bald)]


def _check_columns(table: pd.DataFrame, side: str) -> None:
    missing = [f"{side}_{name}" for name in SHARED if f"{side}_{name}" not in table.columns]
    if missing:
        raise InputError(
            f"the {side} table has no column {', '.join(missing)}: give the table of a synthetic population "
            "(latents.parquet)"
        )
