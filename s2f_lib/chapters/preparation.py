"""What it costs to prepare all of AVSpeech, from rates that were measured once.

`benchmarks/bench_preparation.py --json` measures the report's recipe and ours on the same clips; the
published result is `book/published/preparation/benchmark.json`, and says on which machine and when.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from s2f_lib import paths
from s2f_lib.config import DownloadConfig
from s2f_lib.errors import MissingFileError
from s2f_lib.sources.download.pacing import clips_per_s

#: Ephrat et al. 2018, section 4: segments of about 290k videos; its training list has 2.6 million rows.
AVSPEECH_VIDEOS = 290_000
AVSPEECH_ROWS = 2_600_000
#: Of one address, from YouTube: what `sources.download.pacing` keeps to.
CLIPS_PER_HOUR = 3_600 * clips_per_s(DownloadConfig())


@dataclass(frozen=True)
class MeasuredPreparation:
    """The published benchmark of preparation.

    Attributes
    ----------
    where
        Machine, clips and day, in words.
    core_seconds_per_clip
        Processor time of ours a clip, without the start of processes and models.
    start_core_seconds
        Of that start, on `workers` processes.
    bytes_per_clip, recipe_bytes_per_clip
        What is stored a clip that was kept: shards, and the recipe's pickles.
    clips_per_s, recipe_clips_per_s
        By the clock, start included.
    recipe_core_seconds_per_clip
        As `core_seconds_per_clip`, of the report's recipe.
    peak_mb, recipe_peak_mb
        Resident memory of all processes together at its highest; what they share counts for each.
    workers
        Processes of ours that prepared clips.
    """

    where: str
    core_seconds_per_clip: float
    start_core_seconds: float
    bytes_per_clip: float
    recipe_bytes_per_clip: float
    clips_per_s: float
    recipe_clips_per_s: float
    recipe_core_seconds_per_clip: float
    peak_mb: float
    recipe_peak_mb: float
    workers: int

    @property
    def times_faster(self) -> float:
        """Clips/s of ours as a multiple of the recipe's."""
        return self.clips_per_s / self.recipe_clips_per_s

    @property
    def bytes_share(self) -> float:
        """Bytes a clip of ours as a share of the recipe's."""
        return self.bytes_per_clip / self.recipe_bytes_per_clip

    def core_hours(self, n_clips: int) -> float:
        """Return the processor time for a number of clips, in hours."""
        return n_clips * self.core_seconds_per_clip / 3_600


def measured_preparation(path: Path | None = None, *, frames: Literal[1, 3] = 3) -> MeasuredPreparation:
    """Read the published benchmark.

    Parameters
    ----------
    path
        What `bench_preparation.py --json` wrote; by default the published one.
    frames
        In how many frames of a clip both ways look for the face.

    Raises
    ------
    MissingFileError
        No such file.
    """
    path = path or paths.published_dir() / "preparation" / "benchmark.json"
    if not path.is_file():
        raise MissingFileError(
            f"no benchmark at {path}: write it with benchmarks/bench_preparation.py --json FILE"
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    start, both = found["start"], found[f"frames_{frames}"]
    ours, recipe = both["ours"], both["the recipe"]
    where = (
        f"{found['real_clips']} real and {found['generated_clips']} generated clips, "
        f"{found['cores']} cores of {found['cpu']}, {found['measured_on']}"
    )
    if found.get("load_average", 0.0) > 1:  # seconds of the processor are then the surer numbers
        where += ", beside other programs"
    return MeasuredPreparation(
        where=where,
        core_seconds_per_clip=(ours["cpu_seconds"] - start["cpu_seconds"]) / (ours["clips"] - start["clips"]),
        start_core_seconds=start["cpu_seconds"],
        bytes_per_clip=ours["bytes_per_clip"],
        recipe_bytes_per_clip=recipe["bytes_per_clip"],
        clips_per_s=ours["clips"] / ours["seconds"],
        recipe_clips_per_s=recipe["clips"] / recipe["seconds"],
        recipe_core_seconds_per_clip=recipe["cpu_seconds"] / recipe["clips"],
        peak_mb=ours["peak_mb"],
        recipe_peak_mb=recipe["peak_mb"],
        workers=found["workers"],
    )


def download_days(n_clips: int, *, addresses: int = 1) -> float:
    """Return how long YouTube makes one wait, at the rate that `sources.download.pacing` keeps to."""
    return n_clips / CLIPS_PER_HOUR / 24 / addresses


def recipe_vs_ours(measured: MeasuredPreparation) -> pd.DataFrame:
    """Return the benchmark: the report's recipe, ours, and how they compare, a row each."""
    ways = {
        "the report's recipe": (
            measured.recipe_clips_per_s,
            measured.recipe_core_seconds_per_clip,
            measured.recipe_peak_mb,
            measured.recipe_bytes_per_clip,
        ),
        f"ours, {measured.workers} processes": (
            measured.clips_per_s,
            measured.core_seconds_per_clip,
            measured.peak_mb,
            measured.bytes_per_clip,
        ),
    }
    columns = ["clips/s", "seconds of a core a clip", "peak memory, MB", "bytes a clip"]
    table = pd.DataFrame.from_dict(ways, orient="index", columns=columns)
    table.loc["ours over the recipe"] = table.iloc[1] / table.iloc[0]
    texts = {
        "clips/s": lambda value: f"{value:.2f}",
        "seconds of a core a clip": lambda value: f"{value:.2f}",
        "peak memory, MB": lambda value: f"{value:,.0f}" if value > 10 else f"{value:.2f}",
        "bytes a clip": lambda value: f"{value:,.0f}" if value > 10 else f"{value:.2f}",
    }
    shown = pd.DataFrame({name: table[name].map(text) for name, text in texts.items()})
    return shown.rename_axis("way").reset_index()


def avspeech_cost(measured: MeasuredPreparation, *, cores: Sequence[int] = (2, 64)) -> pd.DataFrame:
    """Return what a clip of each video, and the whole training list, cost: a row each.

    Parameters
    ----------
    measured
        The rates.
    cores
        Numbers of cores to divide the work by; on more machines than one they are the cluster's.
    """
    rows = []
    for name, n_clips in (("a clip of each video", AVSPEECH_VIDEOS), ("the training list", AVSPEECH_ROWS)):
        row: dict[str, object] = {"AVSpeech": name, "clips": n_clips}
        row["days of download, one address"] = round(download_days(n_clips))
        row["core hours"] = round(measured.core_hours(n_clips))
        row |= {f"hours on {n} cores": round(measured.core_hours(n_clips) / n, 1) for n in cores}
        row["GB of shards"] = round(n_clips * measured.bytes_per_clip / 1e9)
        row["GB as the report's pickles"] = round(n_clips * measured.recipe_bytes_per_clip / 1e9)
        rows.append(row)
    return pd.DataFrame(rows)
