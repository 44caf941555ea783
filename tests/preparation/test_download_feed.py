"""Download and preparation together, from a server that misbehaves: no clip is lost or downloaded twice."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from s2f_lib.cli.main import app
from s2f_lib.config import DownloadConfig, FeatureConfig, PreparationConfig, Settings
from s2f_lib.errors import ConfigError, InputError, StudyError
from s2f_lib.preparation.download_feed import Download
from s2f_lib.preparation.ledger import LEDGER_NAME
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.sources.avspeech import load_clips
from s2f_lib.study import Study
from tests.sources.misbehaving_server import Behaviour, MisbehavingServer

CLIP_S = 2.0
TONES_HZ = (300, 350, 400, 450, 500)  # the tone gives the number of a clip modulo 5
QUICK = {"socket_timeout_s": 1.5, "max_attempts": 2, "backoff_s": 0.05, "concurrency": 8}
HEAL = ("throttled", "network")  # outcomes that a later run requests again

# fault, number of clips, number of faulty answers (None: all), outcome
PLAN = [
    ("status:404", 8, None, "removed"),
    ("status:403", 7, None, "private"),
    ("throttle:1", 1, 1, "done"),
    ("throttle:3600", 2, None, "throttled"),  # longer than the run waits
    ("stall", 3, None, "network"),
    ("cut", 4, None, "network"),
    ("loop", 4, None, "network"),
    ("html", 5, None, "format"),
    ("other-length", 3, None, "format"),  # a whole file of 1 s
    ("short", 2, 1, "done"),
    ("talkless", 1, None, "silent"),  # a complete download that the preparation refuses
]


@dataclass(frozen=True)
class World:
    """A list of clips, the answer of the server for each, and the expected outcome."""

    csv: Path
    files: dict[str, bytes]
    good: dict[str, bytes]
    behaviours: dict[str, Behaviour]
    expected: dict[str, str]


def _video(number: int) -> str:
    return f"clip{number:07d}"


@pytest.fixture(scope="module")
def videos(tmp_path_factory, media_writer, tone_maker, small_portrait) -> dict[object, bytes]:
    """Small clips of one face, each with another tone; a silent clip, and a clip of another length."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name: str, sound: np.ndarray, duration_s: float = CLIP_S) -> bytes:
        path = folder / f"{name}.mp4"
        return media_writer(path, duration_s=duration_s, image=small_portrait, sound=sound).read_bytes()

    made: dict[object, bytes] = {hz: make(str(hz), tone_maker(CLIP_S, frequency_hz=hz)) for hz in TONES_HZ}
    made["talkless"] = make("talkless", np.zeros(round(CLIP_S * 16_000), np.int16))
    made["other-length"] = make("other-length", tone_maker(1.0), 1.0)
    return made


def _world(folder: Path, videos: dict[object, bytes], n: int, plan: list[tuple]) -> World:
    numbers = np.random.default_rng(0).permutation(n)
    rows = [row for row in plan for _ in range(row[1])]
    good = {_video(number): videos[TONES_HZ[number % 5]] for number in range(n)}
    files, behaviours, expected = dict(good), {}, dict.fromkeys(good, "done")
    for number, (fault, _, times, outcome) in zip(numbers, rows, strict=False):
        video = _video(number)
        expected[video] = outcome
        if fault in videos:
            files[video] = videos[fault]
        else:
            behaviours[video] = Behaviour(fault, times)
    csv = folder / "clips.csv"
    csv.write_text("".join(f"{_video(number)},10.0,{10.0 + CLIP_S},0.5,0.5\n" for number in range(n)))
    return World(csv, files, good, behaviours, expected)


def _settings(workers: int = 2) -> dict[str, Settings]:
    settings = {"detector": "torch", "detection_width_px": 160, "frame_positions": (0.5,), "audio_s": CLIP_S}
    return {
        "preparation": PreparationConfig(clips_per_shard=32, workers=workers, **settings),
        "features": FeatureConfig(),
    }


def _prepare(
    world: World, out: Path, server: MisbehavingServer, *, workers: int = 2, progress=None, retry=(), **how
):
    media = out / "media"
    media.mkdir(parents=True, exist_ok=True)
    config = DownloadConfig(**({"url_template": server.template} | QUICK | how))
    clips = load_clips(world.csv, media)
    download = Download(media, config)
    return prepare(clips, out, download=download, progress=progress, retry=retry, **_settings(workers))


def _outcomes(out: Path) -> dict[str, str]:
    with closing(sqlite3.connect(out / LEDGER_NAME)) as ledger:
        return dict(ledger.execute("SELECT video_id, COALESCE(reason, status) FROM clips"))


def _assert_rows_are(out: Path, videos: set[str]) -> None:
    """Assert that each of these videos has one row, with its own sound."""
    clips = read_prepared(out)
    assert Counter(clips.video_ids) == dict.fromkeys(videos, 1)
    spectrum = np.abs(np.fft.rfft(clips.audio[:, :16_000], axis=1))
    expected = [TONES_HZ[int(video[-7:]) % 5] for video in clips.video_ids]
    np.testing.assert_allclose(spectrum.argmax(1), expected, atol=2)


@pytest.mark.slow
def test_feed_200_clips_with_faults_prepares_the_rest(tmp_path, videos):
    assert sum(count for _, count, *_ in PLAN) == 40
    world, out = _world(tmp_path, videos, 200, PLAN), tmp_path / "out"
    with MisbehavingServer(world.files, world.behaviours) as server:
        summary = _prepare(world, out, server)
        assert _outcomes(out) == world.expected
        counts = Counter(world.expected.values())
        assert (summary.n_clips, summary.n_done, summary.n_pending) == (200, counts.pop("done"), 0)
        assert summary.by_reason == counts
        assert "download" in summary.stages()["stage"].tolist()
        done = {video for video, outcome in world.expected.items() if outcome == "done"}
        _assert_rows_are(out, done)
        assert {video: server.complete[video] for video in done} == dict.fromkeys(done, 1)

        # the server works again; the next run requests only what can still succeed
        server.behaviours.clear()
        server.files = world.good
        server.forget()
        healed = {video for video, outcome in world.expected.items() if outcome in HEAL}
        again = _prepare(world, out, server)
        assert server.requests == dict.fromkeys(healed, 1)
        assert again.n_this_run == len(healed)
        assert _outcomes(out) == world.expected | dict.fromkeys(healed, "done")
        _assert_rows_are(out, done | healed)

        # the third run sends no request
        server.forget()
        assert _prepare(world, out, server, workers=1).n_this_run == 0
        assert not server.requests


def test_feed_download_stays_close_to_preparation(tmp_path, videos):
    world, ahead = _world(tmp_path, videos, 36, []), []
    with MisbehavingServer(world.files) as server:

        def look(finished: int, *_: int) -> None:
            ahead.append((finished, len(server.complete)))

        summary = _prepare(world, tmp_path / "out", server, workers=1, progress=look, concurrency=2)
    assert summary.n_done == 36
    # two wait for the worker, four are downloaded or in work: when one is finished, most are still pending
    assert max(fetched - finished for finished, fetched in ahead) <= 12
    assert dict(ahead)[1] <= 13
    _assert_rows_are(tmp_path / "out", set(world.files))


def test_feed_throttled_run_leaves_clips_pending(tmp_path, videos):
    plan = [("throttle:3600", 12, None, "throttled")]
    world, out = _world(tmp_path, videos, 12, plan), tmp_path / "out"
    own = _video(11)
    (out / "media").mkdir(parents=True)
    (out / "media" / f"{own}.mp4").write_bytes(world.good[own])  # a file of the user
    with MisbehavingServer(world.files, world.behaviours) as server:
        how = {"stop_after_throttled": 3, "concurrency": 1}
        summary = _prepare(world, out, server, workers=1, **how)
        assert server.requests == dict.fromkeys([_video(n) for n in range(3)], 1)
        assert (summary.n_done, summary.n_pending, summary.by_reason) == (1, 8, {"throttled": 3})
        assert summary.table()["clips"].tolist() == [12, 1, 3, 8]
        server.behaviours.clear()
        server.forget()
        again = _prepare(world, out, server, workers=1, **how)
        assert (again.n_done, again.n_pending, again.by_reason) == (12, 0, {})
        assert server.requests == dict.fromkeys([_video(n) for n in range(11)], 1)
        _assert_rows_are(out, set(world.files))


def test_feed_downloads_clips_that_were_missing(tmp_path, videos):
    world, out = _world(tmp_path, videos, 4, [("status:404", 1, None, "removed")]), tmp_path / "out"
    without = prepare(load_clips(world.csv, None), out, **_settings(1))
    assert without.by_reason == {"media-missing": 4}
    with MisbehavingServer(world.files, world.behaviours) as server:
        assert _prepare(world, out, server, workers=1).by_reason == {"removed": 1}
        server.forget()
        # another mirror may have the clip
        server.behaviours.clear()
        other = _prepare(world, out, server, workers=1, url_template=server.template + "?mirror=2")
    assert (other.n_this_run, other.n_done) == (1, 4)
    assert sum(server.requests.values()) == 1


def test_prepare_retry_requests_refused_clips_again(tmp_path, videos):
    world, out = _world(tmp_path, videos, 1, [("status:404", 1, None, "removed")]), tmp_path / "out"
    with MisbehavingServer(world.files, world.behaviours) as server:
        assert _prepare(world, out, server, workers=1).by_reason == {"removed": 1}
        server.behaviours.clear()
        assert _prepare(world, out, server, workers=1).n_this_run == 0  # the refusal is final
        assert _prepare(world, out, server, workers=1, retry="removed").n_done == 1


def test_study_fetch_missing_downloads_clips(tmp_path, videos, monkeypatch):
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path / "workspace"))
    world = _world(tmp_path, videos, 2, [("status:404", 1, None, "removed")])
    with MisbehavingServer(world.files, world.behaviours) as server:
        settings = {
            "source.avspeech.csv": str(world.csv),
            "source.avspeech.download.url_template": server.template,
            "features.extractor": "dlib_resnet",
            "preparation.detection_width_px": 160,
            "preparation.frame_positions": [0.5],
            "preparation.workers": 1,
        }
        with pytest.raises(ConfigError, match=r"source\.avspeech\.fetch_missing=true"):
            Study.open("avspeech", settings=settings).preparation  # noqa: B018
        assert not server.requests
        study = Study.open("avspeech", settings=settings | {"source.avspeech.fetch_missing": True})
        assert (study.preparation.n_done, study.preparation.by_reason) == (1, {"removed": 1})
        assert set(server.requests) == set(world.files)
        done = {video for video, outcome in world.expected.items() if outcome == "done"}
        assert set(study.clips.video_ids) == done
        assert len(list((study.prepared_dir / "media").glob("*.mp4"))) == 1
        # other download settings resume in the same folder
        server.forget()
        other = {"source.avspeech.fetch_missing": True, "source.avspeech.download.concurrency": 1}
        again = Study.open("avspeech", settings=settings | other)
        assert again.prepared_dir == study.prepared_dir
        assert not server.requests


def test_feed_download_error_ends_run(tmp_path, videos):
    world, out = _world(tmp_path, videos, 3, []), tmp_path / "out"
    with MisbehavingServer(world.files) as server:
        with pytest.raises(InputError, match="cookies"):
            _prepare(world, out, server, workers=1, cookies=tmp_path / "nowhere.txt")
        assert _outcomes(out) == dict.fromkeys(world.files, "pending")
        assert _prepare(world, out, server, workers=1).n_done == 3


def test_prepare_command_reports_pending_clips(tmp_path, videos):
    world = _world(tmp_path, videos, 6, [("throttle:3600", 5, None, "throttled")])
    settings = {"source.avspeech.download.stop_after_throttled": 2, "preparation.workers": 1}
    settings |= {"preparation.detection_width_px": 160, "preparation.frame_positions": [0.5]}
    pairs = [part for key, value in settings.items() for part in ("-p", f"{key}={value}")]
    with MisbehavingServer(world.files, world.behaviours) as server:
        options = ["--csv", str(world.csv), "--out", str(tmp_path / "out"), "--concurrency", "1"]
        command = ["prepare", "--download", *options, "--url-template", server.template, *pairs]
        result = CliRunner().invoke(app, command, prog_name="s2f")
    assert isinstance(result.exception, StudyError), result.output
    assert re.match(r"\d clips are still pending: the server is rate-limiting", str(result.exception))


def test_prepare_command_ctrl_c_keeps_finished_clips(tmp_path, videos):
    plan = [("stall", 8, None, "network")]
    world, out = _world(tmp_path, videos, 12, plan), tmp_path / "out"
    settings = ["preparation.detection_width_px=160", "preparation.frame_positions=[0.5]"]
    settings += ["preparation.workers=1", "source.avspeech.download.socket_timeout_s=2"]
    pairs = [part for setting in settings for part in ("-p", setting)]
    with MisbehavingServer(world.files, world.behaviours) as server:
        command = [sys.executable, "-c", "from s2f_lib.cli.main import main; main()", "prepare", "--download"]
        command += ["--csv", str(world.csv), "--out", str(out), "--url-template", server.template, *pairs]
        run = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
            # a test run in the background passes on a SIGINT that is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        give_up_s = time.monotonic() + 60
        while not list((out / "media").glob("*.mp4")) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        errors = run.communicate(timeout=60)[1]
        assert run.returncode == 130, errors
        assert "interrupted; run the same command again to resume" in errors
        server.behaviours.clear()
        media = out / "media"
        download = Download(media, DownloadConfig(url_template=server.template, **QUICK))
        preparation = PreparationConfig(detection_width_px=160, frame_positions=(0.5,), workers=1)
        settings = {"preparation": preparation, "features": FeatureConfig()}
        assert prepare(load_clips(world.csv, media), out, **settings, download=download).n_done == 12
    assert Counter(read_prepared(out).video_ids) == dict.fromkeys(world.files, 1)


def test_prepare_command_downloads_into_out_media(tmp_path, videos):
    world = _world(tmp_path, videos, 3, [("status:404", 1, None, "removed")])
    root = Path(__file__).resolve().parents[2]

    def s2f(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", "from s2f_lib.cli.main import main; main()", "prepare"]
        command += ["--csv", world.csv, "--out", tmp_path / "out", *arguments]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=root, check=False)

    with MisbehavingServer(world.files, world.behaviours) as server:
        settings = ["detector=torch", "detection_width_px=160", "frame_positions=[0.5]", "workers=1"]
        pairs = [part for setting in settings for part in ("-p", f"preparation.{setting}")]
        done = s2f("--download", "--url-template", server.template, "--concurrency", 2, *pairs)
        assert done.returncode == 0, done.stderr
        assert "removed" in done.stdout
        assert len(list((tmp_path / "out" / "media").glob("*.mp4"))) == 2
        assert len(read_prepared(tmp_path / "out")) == 2
    refused = s2f("--max-height", 480, "--media", tmp_path)
    assert (refused.returncode, "add --download" in refused.stderr) == (2, True)
    refused = s2f()
    assert (refused.returncode, "no --media given" in refused.stderr) == (2, True)
