"""Chapter 01: what was prepared, compared with the report, and what the preparation of AVSpeech costs.

The costs follow from rates that were measured once: `benchmarks/bench_preparation.py --json` measures the
report's recipe and this package on the same clips, and `book/published/preparation/benchmark.json` is its
published result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from s2f_lib import paths
from s2f_lib.chapters.reference import REPORT
from s2f_lib.config import (
    DownloadConfig,
    FeatureConfig,
    PreparationConfig,
    SourceConfig,
    SpectrogramConfig,
)
from s2f_lib.errors import MissingFileError
from s2f_lib.sources.download.pacing import clips_per_s

if TYPE_CHECKING:
    from s2f_lib.preparation.ledger import PreparationSummary
    from s2f_lib.preparation.shards import PreparedClips

#: Ephrat et al. 2018, section 4: segments of about 290k videos; its training list has 2.6 million rows.
AVSPEECH_VIDEOS = 290_000
AVSPEECH_ROWS = 2_600_000
#: Downloads from YouTube stay below this rate for each address.
CLIPS_PER_HOUR = 3_600 * clips_per_s(DownloadConfig())


def data_vs_report(
    clips: PreparedClips,
    summary: PreparationSummary,
    *,
    source: SourceConfig,
    preparation: PreparationConfig,
    features: FeatureConfig,
    spectrogram: SpectrogramConfig,
) -> pd.DataFrame:
    """Return "Data Preparation Details": the report's set-up next to this run's."""
    low, high = (hours * 3.6 for hours in REPORT.preparation_hours_per_1000)  # seconds per clip
    n_train, n_test = (clips.splits.count(split) for split in ("train", "test"))
    people: str = source.kind
    if source.kind == "synthetic":
        people = f"generated people, rho {source.synthetic.rho:g}"
    seconds = summary.core_seconds_per_clip
    extractor = f"{features.extractor}, {clips.features.shape[1]}-D"
    size = f"{spectrogram.n_frames} x {spectrogram.n_bins} of {spectrogram.duration_s:g} s, complex"
    rows = [
        ("source", "AVSpeech, downloaded with youtube-dl", people),
        ("training clips", f"about {REPORT.n_train:,}", f"{n_train:,}"),
        ("test clips", f"about {REPORT.n_test:,}", f"{n_test:,}"),
        ("clips refused", "not stated", f"{summary.n_refused:,} of {summary.n_clips:,}"),
        ("face detector", "dlib's CNN", f"dlib's CNN, run by {preparation.detector}"),
        ("face features", "VGG16-Face, 4096-D", extractor),
        ("spectrogram", "complex, by librosa and torchvision", size),
        ("kept as", "pickle", "Arrow with checksums"),
        ("seconds a clip", f"{low:.0f} to {high:.0f}, download included", f"{seconds:.2f}, on one core"),
    ]
    return pd.DataFrame(rows, columns=["what", "the report", "this run"])


def people_table(clips: PreparedClips, source: SourceConfig) -> pd.DataFrame:
    """Return the number of prepared clips per split; of generated people also gender, group and age."""
    table = pd.DataFrame({"clip_id": clips.clip_ids, "split": clips.splits})
    if source.kind != "synthetic":
        return table.groupby("split", sort=False).size().rename("clips").reset_index()
    from s2f_lib.sources.synthetic.people import draw_population

    known = draw_population(source.synthetic).table()[["clip_id", "gender", "group", "age_years"]]
    groups = table.merge(known, on="clip_id").groupby(["split", "group"])
    counted = groups.agg(
        people=("gender", "size"),
        women=("gender", lambda values: int((values == "f").sum())),
        men=("gender", lambda values: int((values == "m").sum())),
        youngest=("age_years", "min"),
        oldest=("age_years", "max"),
    )
    rounded = counted.round({"youngest": 0, "oldest": 0})
    return rounded.astype(int).reset_index().sort_values(["split", "group"], ascending=[False, True])


def shared_videos(clips: PreparedClips) -> int:
    """Return how many videos have clips in more than one split. Any such video makes the test invalid."""
    splits = pd.DataFrame({"video": clips.video_ids, "split": clips.splits}).groupby("video")["split"]
    return int((splits.nunique() > 1).sum())


@dataclass(frozen=True)
class MeasuredPreparation:
    """Published benchmark of the preparation; fields that start with `recipe_` are the report's recipe.

    Attributes
    ----------
    where
        Machine, clips and day, as a phrase.
    core_seconds_per_clip
        Processor time per clip, without the start of processes and models for this package.
    start_core_seconds
        Processor time of the start of `workers` processes and their models.
    bytes_per_clip
        Stored bytes per accepted clip: shards, or the recipe's pickles.
    clips_per_s
        Clips per second of wall time, start included.
    peak_mb
        Highest resident memory of all processes together; shared memory counts for each.
    workers
        Number of processes that prepared clips.
    """

    where: str
    core_seconds_per_clip: float
    start_core_seconds: float
    bytes_per_clip: float
    clips_per_s: float
    peak_mb: float
    workers: int
    recipe_core_seconds_per_clip: float
    recipe_bytes_per_clip: float
    recipe_clips_per_s: float
    recipe_peak_mb: float

    @property
    def times_faster(self) -> float:
        """Clips per second, divided by the recipe's."""
        return self.clips_per_s / self.recipe_clips_per_s

    @property
    def bytes_share(self) -> float:
        """Bytes per clip, divided by the recipe's."""
        return self.bytes_per_clip / self.recipe_bytes_per_clip

    def core_hours(self, n_clips: int) -> float:
        """Return the processor time for a number of clips, in hours."""
        return n_clips * self.core_seconds_per_clip / 3_600


def measured_preparation(path: Path | None = None, *, frames: Literal[1, 3] = 3) -> MeasuredPreparation:
    """Read a benchmark of the preparation, by default the published one.

    `path` is an output of `bench_preparation.py --json`. `frames` is the number of frames per clip in which
    this package and the recipe look for the face.
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
    if found.get("load_average", 0.0) > 1:  # then processor time is more reliable than wall time
        where += ", beside other programs"
    return MeasuredPreparation(
        where=where,
        core_seconds_per_clip=(ours["cpu_seconds"] - start["cpu_seconds"]) / (ours["clips"] - start["clips"]),
        start_core_seconds=start["cpu_seconds"],
        bytes_per_clip=ours["bytes_per_clip"],
        clips_per_s=ours["clips"] / ours["seconds"],
        peak_mb=ours["peak_mb"],
        workers=found["workers"],
        recipe_core_seconds_per_clip=recipe["cpu_seconds"] / recipe["clips"],
        recipe_bytes_per_clip=recipe["bytes_per_clip"],
        recipe_clips_per_s=recipe["clips"] / recipe["seconds"],
        recipe_peak_mb=recipe["peak_mb"],
    )


def download_days(n_clips: int, *, addresses: int = 1) -> float:
    """Return the days that a download from YouTube takes at `CLIPS_PER_HOUR` per address."""
    return n_clips / CLIPS_PER_HOUR / 24 / addresses


def recipe_vs_ours(measured: MeasuredPreparation) -> pd.DataFrame:
    """Return the benchmark in three rows: the report's recipe, this package, and their ratio."""
    columns = {
        "clips/s": (measured.recipe_clips_per_s, measured.clips_per_s),
        "seconds of a core a clip": (measured.recipe_core_seconds_per_clip, measured.core_seconds_per_clip),
        "peak memory, MB": (measured.recipe_peak_mb, measured.peak_mb),
        "bytes a clip": (measured.recipe_bytes_per_clip, measured.bytes_per_clip),
    }
    ways = ["the report's recipe", f"ours, {measured.workers} processes", "ours over the recipe"]
    table = {"way": ways}
    for name, (recipe, ours) in columns.items():
        whole_numbers = name in ("peak memory, MB", "bytes a clip")
        table[name] = [
            f"{value:,.0f}" if whole_numbers and value > 10 else f"{value:.2f}"
            for value in (recipe, ours, ours / recipe)
        ]
    return pd.DataFrame(table)


def avspeech_cost(measured: MeasuredPreparation, *, cores: Sequence[int] = (2, 64)) -> pd.DataFrame:
    """Return the cost of one clip of each AVSpeech video and of the whole training list.

    `cores` are the numbers of cores, of one machine or a cluster, that share the work.
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
