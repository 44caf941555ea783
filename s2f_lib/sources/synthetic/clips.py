"""The generated world as files: MP4 clips, an AVSpeech CSV, latents and splits.

out/
    media/<video id>.mp4    H.264 and AAC, one clip per file
    clips.csv               youtube_id,start_s,end_s,x,y without a header, as AVSpeech's
    latents.parquet, .csv   one row per person: `Population.table`
    splits.csv              clip_id,split
    synthetic.json          the settings, and whether all files are finished
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
import pandas as pd

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import DataError, InputError, check_main_process
from s2f_lib.sources.splits import write_split
from s2f_lib.sources.synthetic.people import Person, Population, draw_population
from s2f_lib.sources.synthetic.performance import AUDIO_RATE_HZ, face_centre, perform
from s2f_lib.storage import atomic_path, write_atomically

FORMAT_VERSION = 1  # raise it when equal settings give other clips
_AAC_SAMPLES = 1024  # samples of one AAC frame
_AUDIO_BIT_RATE = 96_000
_CHUNK = 4  # items that a process gets at once

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SyntheticClips:
    """Paths of the files of a generated world."""

    root: Path  # folder that holds all files
    n_clips: int  # clips in `csv`
    n_made: int  # clips that the call made; the others existed

    @property
    def media(self) -> Path:
        """Folder of `<video id>.mp4`."""
        return self.root / "media"

    @property
    def csv(self) -> Path:
        """The clip list in AVSpeech's form."""
        return self.root / "clips.csv"


def make_synthetic_clips(
    config: SyntheticConfig,
    out: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SyntheticClips:
    """Generate a population and write its clips.

    Existing clips are kept, so an interrupted call can be resumed, and people can be added. The files do not
    depend on the number of processes.

    Parameters
    ----------
    config
        Settings of the world.
    out
        Output folder. It is created if needed.
    workers
        Number of processes. 0: one per core; 1: no other process.
    progress
        Function that is called with the numbers of finished and of all clips, first before any work.

    Returns
    -------
    SyntheticClips
        Paths of the files.

    Raises
    ------
    InputError
        The folder holds a world of other settings, or the frame size is odd.
    DataError
        A process died.

    See Also
    --------
    draw_population : The people without their clips.
    resynthesize_speech : Only the speech, in memory.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.config import SyntheticConfig
    >>> small = SyntheticConfig(n_train=1, n_test=1, width_px=160, height_px=120, duration_s=0.5)
    >>> clips = make_synthetic_clips(small, Path(mkdtemp()), workers=1)
    >>> sorted(path.name for path in clips.root.iterdir())
    ['clips.csv', 'latents.csv', 'latents.parquet', 'media', 'splits.csv', 'synthetic.json']
    """
    check_main_process("make_synthetic_clips")
    if config.width_px % 2 or config.height_px % 2:
        raise InputError(
            f"synthetic clips of {config.width_px} x {config.height_px} pixels: "
            "H.264 needs an even width and height"
        )
    if workers < 0:
        raise InputError(f"workers is {workers}: expected 0 (one per core) or more")
    population = draw_population(config)
    clips = SyntheticClips(Path(out), len(population), 0)
    clips.media.mkdir(parents=True, exist_ok=True)
    marker = clips.root / "synthetic.json"
    state = _read_marker(marker, config)
    todo = [person for person in population if not clip_path(clips.media, person).is_file()]
    done = len(population) - len(todo)
    if progress:
        progress(done, len(population))
    if not todo and state.get("finished") == config.digest():
        return clips
    _write_marker(marker, config, finished=False)
    make = functools.partial(make_clip, config=config, media=clips.media)
    for _ in parallel_map(make, todo, workers=workers, what="synthetic clips"):
        done += 1
        if progress:
            progress(done, len(population))
    _write_tables(population, config, clips)
    _write_marker(marker, config, finished=True)
    logger.info("%d synthetic clips in %s, %d of them new", len(population), clips.root, len(todo))
    return SyntheticClips(clips.root, len(population), len(todo))


def clip_path(media: Path, person: Person) -> Path:
    """Return the path of a person's clip in a media folder."""
    return media / f"{person.video_id}.mp4"


def make_clip(person: Person, config: SyntheticConfig, media: Path) -> None:
    """Write one person's clip into a media folder, as an MP4 file (H.264 and AAC)."""
    frames, audio = perform(person, config)
    rate = Fraction(config.frame_rate_hz).limit_denominator(1000)
    with (
        atomic_path(clip_path(media, person), durable=False) as temporary,
        av.open(str(temporary), "w", format="mp4") as container,
    ):
        # one thread, because x264's threads change the bytes; the clips are made in parallel instead
        video = container.add_stream(
            "libx264", rate=rate, options={"preset": "superfast", "crf": "20", "threads": "1"}
        )
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=AUDIO_RATE_HZ, layout="mono", options={"aac_coder": "fast"})
        sound.bit_rate = _AUDIO_BIT_RATE
        video.width, video.height = config.width_px, config.height_px
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, len(audio), _AAC_SAMPLES):
            samples = np.ascontiguousarray(audio[None, start : start + _AAC_SAMPLES], dtype=np.float32)
            block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            block.sample_rate = AUDIO_RATE_HZ
            block.pts, block.time_base = start, Fraction(1, AUDIO_RATE_HZ)
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, what: str
) -> Iterator[Result]:
    """Yield the result of each item, in order.

    The function must be picklable: a function of a module, or a partial of one. The number of processes is
    `workers`; 0: one per core; 1: no other process. `what` names the results in the error message.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(items)))
    if workers == 1:
        yield from map(function, items)
        return
    # spawn: a fork of a process that has threads (torch, notebooks) may hang
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        yield from pool.map(function, items, chunksize=_CHUNK)
    except BrokenProcessPool:
        raise DataError(
            f"a process that makes {what} died; its own message is above. A script needs "
            '`if __name__ == "__main__":` above the call; if memory was short, use fewer workers'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _write_tables(population: Population, config: SyntheticConfig, clips: SyntheticClips) -> None:
    rows = []
    for person in population:
        x, y = face_centre(person, seed=config.seed)
        rows.append((person.video_id, "0.0", f"{person.duration_s:.6f}", f"{x:.6f}", f"{y:.6f}"))
    write_atomically(clips.csv, pd.DataFrame(rows).to_csv(index=False, header=False))
    table = population.table()
    with atomic_path(clips.root / "latents.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    write_atomically(clips.root / "latents.csv", table.to_csv(index=False, float_format="%.4f"))
    write_split(clips.root / "splits.csv", dict(zip(table["clip_id"], table["split"], strict=True)))


def _media_digest(config: SyntheticConfig) -> str:
    """Return a digest of all settings that change a single clip; the number of people does not."""
    return f"{FORMAT_VERSION}-{config.with_(n_train=1, n_test=1).digest()}"


def _read_marker(path: Path, config: SyntheticConfig) -> dict[str, object]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if state.get("media") != _media_digest(config):
        raise InputError(
            f"{path.parent} holds synthetic clips of other settings ({state.get('settings')}): "
            "delete it, or give another folder"
        )
    return state


def _write_marker(path: Path, config: SyntheticConfig, *, finished: bool) -> None:
    state = {
        "media": _media_digest(config),
        "finished": config.digest() if finished else None,
        "settings": config.model_dump(mode="json"),
    }
    write_atomically(path, json.dumps(state, indent=2) + "\n")
