"""Runs that are killed at random moments and resumed give the rows of an uninterrupted run.

By default 30 clips and 3 kills of a run that downloads. With S2F_KILLS=20 and S2F_KILL_CLIPS=200 in the
environment it is the full size, and a run over files that are there too: some minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from s2f_lib.config import FeatureConfig, PreparationConfig, Settings, StudyConfig
from s2f_lib.preparation.ledger import LEDGER_NAME
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.preparation.shards import read_prepared, verify_shard
from s2f_lib.sources.avspeech import load_clips
from s2f_lib.sources.clip import make_clip_id
from tests.sources.misbehaving_server import MisbehavingServer

N_CLIPS = int(os.environ.get("S2F_KILL_CLIPS", "30"))
N_KILLS = int(os.environ.get("S2F_KILLS", "3"))
N_FILES = 10  # that differ in sound and face; the clips are links to them
CLIP_S = 2.0

RUN_SCRIPT = """
import sys
from pathlib import Path
from s2f_lib.config import DownloadConfig, StudyConfig
from s2f_lib.preparation.download_feed import Download
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.sources.avspeech import load_clips

if __name__ == "__main__":
    csv, media, out, settings, template = sys.argv[1:]
    media, out = Path(media), Path(out)
    media.mkdir(exist_ok=True)
    download = Download(media, DownloadConfig(url_template=template)) if template else None
    clips = load_clips(Path(csv), media, test_share=0.3)
    report = lambda *counts: print(*counts, flush=True)
    config = StudyConfig.model_validate_json(settings)
    sections = {"preparation": config.preparation, "features": config.features}
    prepare(clips, out, **sections, progress=report, download=download)
"""


def _settings(workers: int) -> dict[str, Settings]:
    settings = {"detector": "torch", "detection_width_px": 160, "frame_positions": (0.5,), "audio_s": CLIP_S}
    return {
        "preparation": PreparationConfig(clips_per_shard=7, workers=workers, **settings),
        "features": FeatureConfig(),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory, media_writer, tone_maker, small_portrait):
    """A folder with clips.csv and media/; one clip in ten shows no face."""
    folder = tmp_path_factory.mktemp("world")
    originals, media = folder / "originals", folder / "media"
    originals.mkdir()
    media.mkdir()
    blank = np.full_like(small_portrait, 120)
    for number in range(N_FILES):
        media_writer(
            originals / f"{number}.mp4",
            duration_s=CLIP_S,
            image=blank if number == 3 else np.roll(small_portrait, 2 * number - 10, axis=1),
            sound=tone_maker(CLIP_S, frequency_hz=300 + 20 * number),
        )
    rows = []
    for number in range(N_CLIPS):
        video_id = f"clip{number:07d}"
        name = f"{make_clip_id(video_id, 5.0, 5.0 + CLIP_S)}.mp4"
        (media / name).hardlink_to(originals / f"{number * 7 % N_FILES}.mp4")
        rows.append(f"{video_id},5.0,{5.0 + CLIP_S},0.5,0.5\n")
    (folder / "clips.csv").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    """The rows of a run that was not killed."""
    out = tmp_path_factory.mktemp("uninterrupted")
    prepare(load_clips(world / "clips.csv", world / "media", test_share=0.3), out, **_settings(2))
    return read_prepared(out)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("way", ["download", *(["files"] if N_KILLS > 3 else [])])
def test_prepare_killed_and_resumed_gives_the_same_rows(world, uninterrupted, tmp_path, monkeypatch, way):
    files = {path.stem.split("_")[0]: path.read_bytes() for path in (world / "media").iterdir()}
    out, rng = tmp_path / "out", np.random.default_rng(len(way))
    media = world / "media" if way == "files" else tmp_path / "media"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    with MisbehavingServer(files) as server:
        template = server.template if way == "download" else ""
        thresholds = np.sort(rng.integers(1, N_CLIPS, N_KILLS))
        n_killed = 0
        for number, finished in enumerate(thresholds):
            settings = StudyConfig(**_settings(1 + number % 2)).model_dump_json()
            arguments = [world / "clips.csv", media, out, settings, template]
            whole_group = number % 4 in (0, 3)  # with one worker and with two, each
            n_killed += _run_and_kill(arguments, rng, finished=int(finished), whole_group=whole_group)
            assert whole_group or not list(scratch.glob("s2f-*"))  # the workers have cleaned up
            shutil.rmtree(scratch)
            scratch.mkdir()
            _assert_consistent(out)
        assert n_killed >= N_KILLS - 1  # the last may have come when all was done
        command = [sys.executable, "-c", RUN_SCRIPT, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
        if way == "download":  # a kill may cost clips in flight; finished clips are not downloaded again
            assert sum(server.complete.values()) <= N_CLIPS + 4 * N_KILLS
    with closing(sqlite3.connect(out / LEDGER_NAME)) as db:
        refused = db.execute("SELECT clip_id, reason, detail FROM clips WHERE status = 'refused'").fetchall()
        counts = dict(db.execute("SELECT COALESCE(reason, status), COUNT(*) FROM clips GROUP BY 1"))
        assert db.execute("SELECT COUNT(*) FROM spool").fetchone() == (0,)
    n_faceless = sum(number * 7 % N_FILES == 3 for number in range(N_CLIPS))
    assert counts == {"done": N_CLIPS - n_faceless, "no-face": n_faceless}, refused
    found = read_prepared(out)
    assert found.clip_ids == uninterrupted.clip_ids
    assert found.splits == uninterrupted.splits
    np.testing.assert_array_equal(found.audio, uninterrupted.audio)
    np.testing.assert_array_equal(found.features, uninterrupted.features)
    assert list(found.crops_jpeg) == list(uninterrupted.crops_jpeg)
    assert found.to_pandas().equals(uninterrupted.to_pandas())
    assert found.digest == uninterrupted.digest
    assert not list(out.glob(".*.part*"))


def _run_and_kill(
    arguments: list[object], rng: np.random.Generator, *, finished: int, whole_group: bool
) -> bool:
    """Start a run, kill it soon after so many clips are finished in all; return whether it was alive then."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN_SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,  # a process group of its own, with its workers
    )
    with run.stdout as lines:
        for line in lines:
            if int(line.split()[0]) >= finished:
                break
        time.sleep(rng.uniform(0, 0.4))
        children = psutil.Process(run.pid).children(recursive=True)
        if whole_group:
            os.killpg(run.pid, signal.SIGKILL)
        else:
            os.kill(run.pid, signal.SIGKILL)  # the workers notice, and end themselves
        run.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []  # no orphan waits forever
    return run.returncode == -signal.SIGKILL


def _assert_consistent(out: Path) -> None:
    """Assert that a killed run left no clip twice and no shard that differs from the ledger."""
    if not (out / LEDGER_NAME).is_file():
        return
    with closing(sqlite3.connect(out / LEDGER_NAME)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        said = db.execute("SELECT clip_id, shard, row_index FROM clips WHERE shard IS NOT NULL").fetchall()
        waiting = {row[0] for row in db.execute("SELECT position FROM spool")}
        written = {row[0] for row in db.execute("SELECT position FROM clips WHERE shard IS NOT NULL")}
    assert not waiting & written
    assert all(verify_shard(out / shard) for _, shard, _ in said)
    tables = {shard: pd.read_feather(out / shard)["clip_id"].tolist() for _, shard, _ in said}
    assert Counter(clip for ids in tables.values() for clip in ids) == dict.fromkeys((c for c, *_ in said), 1)
    assert all(tables[shard][row] == clip for clip, shard, row in said)
