"""The generated people's speech alone, without faces and files: for controls.

Faces do not depend on `rho` (see `people`), so worlds that differ in it share
their portraits, and only the voices have to be made again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.latents import GROUPS
from s2f_lib.sources.synthetic.people import Person, draw_population
from s2f_lib.sources.synthetic.performance import utterance
from s2f_lib.sources.synthetic.pool import parallel_map

ACCENTS: tuple[str, ...] = tuple(group.accent for group in GROUPS.values())


def resynthesize_speech(
    config: SyntheticConfig,
    clip_ids: Sequence[str],
    *,
    rho: float | None = None,
    take: int = 0,
    accent: str | None = None,
    sample_rate_hz: int = 16_000,
    audio_s: float = 6.0,
    workers: int = 0,
) -> np.ndarray:
    """Let people of a world speak once more.

    Parameters
    ----------
    config
        The world.
    clip_ids
        Whose voices, as `Population.table` names their clips.
    rho
        Draw the voices as a world of this `rho` would; the world's own by default.
    take
        0: the sentences of the clip; other numbers: other sentences by the same voice.
    accent
        Name of an espeak-ng voice for all, in place of each one's own.
    sample_rate_hz, audio_s
        Of the result: a shorter clip is repeated up to `audio_s`, as preparation does.
    workers
        Processes; 0: one a core.

    Returns
    -------
    (n, samples) numpy.ndarray of int16
        Straight from the voice: unlike a clip's, it was never coded as AAC.

    Raises
    ------
    InputError
        A clip is not of this world.
    """
    world = config if rho is None else config.model_copy(update={"rho": rho})
    people = {person.clip_id: person for person in draw_population(world)}
    unknown = [clip_id for clip_id in clip_ids if clip_id not in people]
    if unknown:
        raise InputError(f"clip {unknown[0]} is not of the synthetic world of seed {config.seed}")
    chosen = [people[clip_id] for clip_id in clip_ids]
    if accent is not None:
        chosen = [replace(person, voice=replace(person.voice, accent=accent)) for person in chosen]
    n_samples = round(audio_s * sample_rate_hz)
    record = functools.partial(
        _record, seed=config.seed, take=take, sample_rate_hz=sample_rate_hz, n_samples=n_samples
    )
    audio = np.empty((len(chosen), n_samples), np.int16)
    for index, samples in parallel_map(record, chosen, workers=workers, what="recordings"):
        audio[index] = samples
    return audio


def _record(person: Person, *, seed: int, take: int, sample_rate_hz: int, n_samples: int) -> np.ndarray:
    samples = utterance(person, seed=seed, take=take, sample_rate_hz=sample_rate_hz)
    return np.resize((samples * 32_767).round().astype(np.int16), n_samples)  # repeats what is too short
