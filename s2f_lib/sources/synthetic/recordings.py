"""The speech of the generated people without faces and files, for controls."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from s2f_lib.config import SAMPLE_RATE_HZ, SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.clips import parallel_map
from s2f_lib.sources.synthetic.people import Person, draw_population
from s2f_lib.sources.synthetic.performance import utterance


def resynthesize_speech(
    config: SyntheticConfig,
    clip_ids: Sequence[str],
    *,
    rho: float | None = None,
    take: int = 0,
    accent: str | None = None,
    audio_s: float = 6.0,
    workers: int = 0,
) -> np.ndarray:
    """Re-synthesise the speech of selected speakers.

    Faces do not depend on `rho` (see `people`), so worlds of different `rho` differ only in the voices.

    Parameters
    ----------
    config
        Settings of the world.
    clip_ids
        Clips of the speakers, as in `Population.table`.
    rho
        Draw the voices as in a world of this `rho`. None: the world's own.
    take
        0: the sentences of the clip; other numbers give other sentences by the same voice.
    accent
        Name of an espeak-ng voice for all speakers. None: each speaker's own.
    audio_s
        Length of the result, in seconds. Shorter speech is repeated, as in the preparation.
    workers
        Number of processes. 0: one per core; 1: no other process.

    Returns
    -------
    numpy.ndarray
        `(n, samples)` int16 at 16 kHz. Unlike the sound of a clip, it was never compressed.

    Raises
    ------
    InputError
        A clip is not part of this world.

    Examples
    --------
    >>> from s2f_lib.config import SyntheticConfig
    >>> from s2f_lib.sources.synthetic.people import draw_population
    >>> world = SyntheticConfig(n_train=1, n_test=1, duration_s=0.5)
    >>> resynthesize_speech(world, [draw_population(world)[0].clip_id], audio_s=1.0, workers=1).shape
    (1, 16000)
    """
    world = config if rho is None else config.with_(rho=rho)
    people = {person.clip_id: person for person in draw_population(world)}
    unknown = [clip_id for clip_id in clip_ids if clip_id not in people]
    if unknown:
        raise InputError(f"clip {unknown[0]} is not part of the synthetic world of seed {config.seed}")
    chosen = [people[clip_id] for clip_id in clip_ids]
    if accent is not None:
        chosen = [replace(person, voice=replace(person.voice, accent=accent)) for person in chosen]
    n_samples = round(audio_s * SAMPLE_RATE_HZ)
    record = functools.partial(_record, seed=config.seed, take=take, n_samples=n_samples)
    audio = np.empty((len(chosen), n_samples), np.int16)
    for index, samples in enumerate(parallel_map(record, chosen, workers=workers, what="recordings")):
        audio[index] = samples
    return audio


def _record(person: Person, *, seed: int, take: int, n_samples: int) -> np.ndarray:
    samples = utterance(person, seed=seed, take=take, sample_rate_hz=SAMPLE_RATE_HZ)
    return np.resize((samples * 32_767).round().astype(np.int16), n_samples)  # repeats short speech
