"""The generated world as files: MP4 clips, an AVSpeech CSV, latents, splits.

out/
    media/<video id>.mp4    H.264 and AAC, one clip a file
    clips.csv               youtube_id,start_s,end_s,x,y - no header, as AVSpeech's
    latents.parquet, .csv   one row a person: `Population.table`
    splits.csv              clip_id,split
    synthetic.json          the settings, and whether all is finished
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.clip_writer import write_clip
from s2f_lib.sources.synthetic.people import Person, Population, draw_population
from s2f_lib.sources.synthetic.performance import face_centre, perform
from s2f_lib.sources.synthetic.pool import parallel_map

_VERSION = 1  # raise it when the same settings give other clips

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SyntheticClips:
    """Where the files of a generated world are.

    Attributes
    ----------
    root
        The folder that holds all of it.
    n_clips
        Clips in `csv`.
    n_made
        Clips that this call made; the others were there.
    """

    root: Path
    n_clips: int
    n_made: int

    @property
    def media(self) -> Path:
        """Folder of `<video id>.mp4`."""
        return self.root / "media"

    @property
    def csv(self) -> Path:
        """The clip list in AVSpeech's form."""
        return self.root / "clips.csv"

    @property
    def latents(self) -> Path:
        """All latents, Parquet; exact."""
        return self.root / "latents.parquet"

    @property
    def splits(self) -> Path:
        """CSV `clip_id,split`."""
        return self.root / "splits.csv"


def make_synthetic_clips(
    config: SyntheticConfig,
    out: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SyntheticClips:
    """Generate a population and write its clips.

    A clip that is there already is kept, so a killed call goes on where it
    stopped, and more people may be added to a folder.  The files do not depend
    on the number of processes.

    Parameters
    ----------
    config
        The world.
    out
        Folder to write into; made if absent.
    workers
        Processes; 0: one a core.  1 works in this process.
    progress
        Called with (clips there, clips in all), first before any work.

    Raises
    ------
    InputError
        The folder holds a world of other settings, or the frame's size is odd.
    DataError
        A process died.
    """
    _check(config, workers)
    clips = SyntheticClips(Path(out), config.n_train + config.n_test, 0)
    clips.media.mkdir(parents=True, exist_ok=True)
    marker = clips.root / "synthetic.json"
    state = _read_marker(marker, config)
    population = draw_population(config)
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
    _log.info("%d synthetic clips in %s, %d of them new", len(population), clips.root, len(todo))
    return SyntheticClips(clips.root, len(population), len(todo))


def clip_path(media: Path, person: Person) -> Path:
    """Return where a person's clip lies in a media folder."""
    return media / f"{person.video_id}.mp4"


def make_clip(person: Person, config: SyntheticConfig, media: Path) -> None:
    """Write one person's clip into a media folder."""
    frames, audio = perform(person, config)
    write_clip(clip_path(media, person), frames, audio, frame_rate_hz=config.frame_rate_hz)


def _check(config: SyntheticConfig, workers: int) -> None:
    if config.width_px % 2 or config.height_px % 2:
        raise InputError(
            f"synthetic clips of {config.width_px} x {config.height_px} pixels: "
            "H.264 needs an even width and height"
        )
    if workers < 0:
        raise InputError(f"workers is {workers}: expected 0 (one a core) or more")


def _write_tables(population: Population, config: SyntheticConfig, clips: SyntheticClips) -> None:
    rows = []
    for person in population:
        x, y = face_centre(person, config)
        rows.append((person.video_id, "0.0", f"{person.duration_s:.6f}", f"{x:.6f}", f"{y:.6f}"))
    _replace(clips.csv, pd.DataFrame(rows).to_csv(index=False, header=False))
    table = population.table()
    partial = clips.latents.with_suffix(".part")
    table.to_parquet(partial, index=False)
    partial.replace(clips.latents)
    _replace(clips.root / "latents.csv", table.to_csv(index=False, float_format="%.4f"))
    _replace(clips.splits, table[["clip_id", "split"]].to_csv(index=False))


def _media_digest(config: SyntheticConfig) -> str:
    """Digest of all that one person's clip depends on: not of how many people there are."""
    alone = config.model_copy(update={"n_train": 1, "n_test": 1})
    return f"{_VERSION}-{alone.digest()}"


def _read_marker(path: Path, config: SyntheticConfig) -> dict[str, object]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        raise InputError(
            f"{path} is not readable JSON: delete the folder {path.parent}, or give another"
        ) from None
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
    _replace(path, json.dumps(state, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
