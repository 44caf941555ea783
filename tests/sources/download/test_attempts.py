"""Downloads from a real server on 127.0.0.1 that misbehaves: no clip is lost or downloaded twice."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import InputError, MissingFileError, RefusalReason
from s2f_lib.sources.avspeech import find_media
from s2f_lib.sources.clip import ClipRef, make_clip_id
from s2f_lib.sources.download import attempts
from s2f_lib.sources.download.attempts import download_clips
from s2f_lib.sources.download.failures import DownloadRefused, LocalFailure
from s2f_lib.sources.download.ledger import LEDGER_NAME, DownloadLedger
from s2f_lib.sources.download.pacing import Pacer
from tests.sources.misbehaving_server import Behaviour, MisbehavingServer

CLIP_S = 2.0
QUICK = {"socket_timeout_s": 1.0, "max_attempts": 2, "backoff_s": 0.05, "max_clip_s": 30.0}

# fault, number of clips, number of faulty answers (None: all), outcome, number of requests
PLAN = [
    ("status:404", 5, None, "removed", 1),
    ("status:403", 5, None, "private", 1),
    ("throttle:1", 3, 1, "done", 2),
    ("throttle:1", 2, None, "throttled", 2),
    ("throttle:3600", 1, None, "throttled", 1),  # longer than the run waits
    ("stall", 3, None, "network", 2),
    ("stall", 2, 1, "done", 2),
    ("cut", 3, None, "network", 2),
    ("cut", 2, 1, "done", 2),
    ("html", 4, None, "format", 1),
    ("page", 1, None, "format", 1),
    ("short", 1, None, "network", 2),  # a Content-Length that is wrong
    ("short", 1, 1, "done", 2),
    ("other-length", 3, None, "format", 1),  # a whole file of 1 s
    ("loop", 4, None, "network", None),
]


def _clip(number: int, *, start_s: float = 0.0, end_s: float = CLIP_S) -> ClipRef:
    video_id = f"clip{number:07d}"
    return ClipRef(make_clip_id(video_id, start_s, end_s), video_id, start_s, end_s, 0.5, 0.5)


def _config(server: MisbehavingServer, **settings) -> DownloadConfig:
    return DownloadConfig(**{"url_template": server.template, **QUICK, **settings})


def fetch_clip(clip: ClipRef, out_dir: Path, config: DownloadConfig) -> Path:
    return attempts.fetch_clip(clip, out_dir, config, Pacer())[0]


def _serve(data: bytes, n: int, behaviours: dict[int, Behaviour] | None = None) -> MisbehavingServer:
    named = {_clip(number).video_id: behaviour for number, behaviour in (behaviours or {}).items()}
    return MisbehavingServer({_clip(number).video_id: data for number in range(n)}, named)


def _ledger_counts(folder: Path) -> dict[str, int]:
    """Return the number of clips per outcome: "done", or the reason of a refusal."""
    query = "SELECT COALESCE(reason, 'done'), COUNT(*) FROM downloads GROUP BY 1"
    with closing(sqlite3.connect(folder / LEDGER_NAME)) as database:
        return dict(database.execute(query).fetchall())


def _frames_and_sound(path: Path) -> tuple[list[float], np.ndarray, int]:
    import av

    with av.open(str(path)) as file:
        greys = [float(frame.to_ndarray(format="gray").mean()) for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
        return greys, sound, file.streams.audio[0].rate


# -- many clips ----------------------------------------------------------------


@pytest.mark.slow
def test_download_200_clips_with_faults(tmp_path, make_video):
    assert sum(count for _, count, *_ in PLAN) == 40
    good, short_one = make_video(CLIP_S), make_video(1.0)
    clips = [_clip(number) for number in range(200)]
    faulty = np.random.default_rng(0).permutation(200)[:40]
    plan = [row for row in PLAN for _ in range(row[1])]
    expected = {clip.video_id: ("done", 1) for clip in clips}
    expected |= {
        clips[i].video_id: (outcome, cost) for i, (*_, outcome, cost) in zip(faulty, plan, strict=True)
    }
    files = {clip.video_id: good for clip in clips}
    behaviours = {}
    for index, (fault, _, times, *_) in zip(faulty, plan, strict=True):
        if fault == "other-length":
            files[clips[index].video_id] = short_one
        else:
            behaviours[clips[index].video_id] = Behaviour(fault, times)

    with MisbehavingServer(files, behaviours) as server:
        config = _config(server, concurrency=8, socket_timeout_s=2.0)
        results = list(download_clips(clips, tmp_path, config))

        # each clip has one outcome: done, or the right reason
        assert Counter(r.clip.clip_id for r in results) == Counter(c.clip_id for c in clips)
        ended = {r.clip.video_id: "done" if r.is_done else r.reason.value for r in results}
        assert ended == {video_id: outcome for video_id, (outcome, _) in expected.items()}
        # no clip is downloaded twice
        done = {video_id for video_id, outcome in ended.items() if outcome == "done"}
        assert {video_id: server.complete[video_id] for video_id in done} == dict.fromkeys(done, 1)
        cost = {v: server.requests[v] for v, (_, n) in expected.items() if n is not None}
        assert cost == {v: n for v, (_, n) in expected.items() if n is not None}
        # the files equal the server's, byte for byte, and there are no partial files
        assert {p.name for p in tmp_path.glob("*.mp4")} == {
            f"{c.clip_id}.mp4" for c in clips if c.video_id in done
        }
        assert all(r.clip.media.read_bytes() == good for r in results if r.is_done)
        assert _ledger_counts(tmp_path) == Counter(ended.values())

        # the server works again; the next run requests only what can still succeed
        server.behaviours.clear()
        server.files = dict.fromkeys(files, good)
        server.forget()
        again = {r.clip.video_id: r for r in download_clips(clips, tmp_path, config)}
        can_still = {v for v, outcome in ended.items() if outcome in ("throttled", "network")}
        assert server.requests == dict.fromkeys(can_still, 1)
        assert all(again[v].is_done for v in can_still | done)
        assert {v: r.reason.value for v, r in again.items() if not r.is_done} == {
            v: outcome for v, outcome in ended.items() if v not in can_still | done
        }

        # the third run sends no request
        server.forget()
        assert len(list(download_clips(clips, tmp_path, config))) == 200
        assert not server.requests


@pytest.mark.slow
def test_download_killed_run_keeps_finished_clips(tmp_path, make_video):
    n = 60
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from s2f_lib.config import DownloadConfig\n"
        "from s2f_lib.sources.clip import ClipRef, make_clip_id\n"
        "from s2f_lib.sources.download.attempts import download_clips\n"
        "clips = (ClipRef(make_clip_id(f'clip{i:07d}', 0, 2), f'clip{i:07d}', 0.0, 2.0, 0.5, 0.5)"
        f" for i in range({n}))\n"
        "config = DownloadConfig(url_template=sys.argv[1], concurrency=2, max_clips_per_s=20)\n"
        "for result in download_clips(clips, Path(sys.argv[2]), config): assert result.is_done\n"
    )
    root = Path(__file__).resolve().parents[3]
    with _serve(make_video(CLIP_S), n) as server:
        command = [sys.executable, "-c", program, server.template, str(tmp_path / "out"), str(root)]
        n_kills = 0
        for n_finished in (5, 15, 30):
            finished = {path.name.split("_")[0] for path in (tmp_path / "out").glob("*.mp4")}
            server.forget()
            process = subprocess.Popen(command)
            give_up_s = time.monotonic() + 60
            while len(list((tmp_path / "out").glob("*.mp4"))) < n_finished and time.monotonic() < give_up_s:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            n_kills += process.wait() == -signal.SIGKILL
            assert not finished & set(server.requests)
        assert n_kills == 3
        finished = {path.name.split("_")[0] for path in (tmp_path / "out").glob("*.mp4")}
        server.forget()
        assert subprocess.run(command, check=False).returncode == 0
        assert set(server.requests) == {_clip(i).video_id for i in range(n)} - finished
    assert len(list((tmp_path / "out").glob("*.mp4"))) == n
    assert _ledger_counts(tmp_path / "out") == {"done": n}


# -- one clip ------------------------------------------------------------------


def test_fetch_clip_resumes_a_body_that_was_cut_off(tmp_path, make_video):
    data = make_video(CLIP_S)
    with _serve(data, 1, {0: Behaviour("cut", 1)}) as server:
        path = fetch_clip(_clip(0), tmp_path, _config(server))
        assert path.read_bytes() == data
        start = int(server.seen_headers[1]["Range"].removeprefix("bytes=").removesuffix("-"))
        assert len(data) // 2 - 1024 <= start <= len(data) // 2  # yt-dlp writes whole blocks of 1,024 bytes
        assert server.bytes_sent[_clip(0).video_id] == len(data) // 2 + len(data) - start


def test_fetch_clip_resumes_only_parts_of_the_same_mirror(tmp_path, make_video):
    data = make_video(CLIP_S)
    with _serve(data, 1, {0: Behaviour("cut", 2)}) as server:
        config = _config(server)
        with pytest.raises(DownloadRefused, match=r"network: .* more expected"):
            fetch_clip(_clip(0), tmp_path, config)
        server.forget()
        server.behaviours.clear()
        other = config.with_(url_template=server.template + "?other")
        fetch_clip(_clip(0), tmp_path / "elsewhere", other)
        assert "Range" not in server.seen_headers[0]
        fetch_clip(_clip(0), tmp_path, config)
        assert "Range" in server.seen_headers[1]


@pytest.mark.parametrize("left", ["complete", "longer than the file", "of another file"])
def test_fetch_clip_unusable_part_starts_again(tmp_path, make_video, left):
    """A run was killed between the last byte and the rename, or the mirror has a new file."""
    data = make_video(CLIP_S)
    with _serve(data, 1, {0: Behaviour("cut", 2)}) as server:
        with pytest.raises(DownloadRefused):
            fetch_clip(_clip(0), tmp_path, _config(server))
        (part,) = tmp_path.rglob("*.part")
        half = len(data) // 2
        parts = {"complete": data, "longer than the file": data * 2, "of another file": b"?" * half}
        part.write_bytes(parts[left])
        server.forget()
        server.behaviours.clear()
        assert fetch_clip(_clip(0), tmp_path, _config(server)).read_bytes() == data
        assert "Range" in server.seen_headers[0]
        assert "Range" not in server.seen_headers[-1]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("status", ["throttle", "busy"])
def test_fetch_clip_waits_as_retry_after_says(tmp_path, make_video, status):
    with _serve(make_video(CLIP_S), 1, {0: Behaviour(f"{status}:2", 1)}) as server:
        started = time.monotonic()
        fetch_clip(_clip(0), tmp_path, _config(server))
        assert time.monotonic() - started >= 2.0  # lower bound: the wait in Retry-After


def test_fetch_clip_trickle_ends_at_max_clip_s(tmp_path, make_video):
    with _serve(make_video(CLIP_S), 1, {0: Behaviour("trickle")}) as server:
        for whole_file in (True, False):
            config = _config(server, max_clip_s=1.5, whole_file=whole_file)
            with pytest.raises(DownloadRefused, match=r"network: not complete after 1\.5 s") as refused:
                fetch_clip(_clip(0), tmp_path, config)
            assert refused.value.can_retry


def test_fetch_clip_without_server_is_network(tmp_path):
    config = DownloadConfig(url_template="http://127.0.0.1:9/{id}.mp4", **QUICK)
    with pytest.raises(DownloadRefused, match="network: ") as refused:
        fetch_clip(_clip(0), tmp_path, config)
    assert refused.value.can_retry
    assert refused.value.n_attempts == 2


# -- only the seconds of the clip ----------------------------------------------


def _padded(data: bytes, n_bytes: int) -> bytes:
    """Append a `free` box: a long file whose end no reader needs."""
    return data + struct.pack(">I4s", n_bytes, b"free") + bytes(n_bytes - 8)


def _assert_is_7_3_to_10_3_s(path: Path) -> None:
    greys, sound, rate_hz = _frames_and_sound(path)
    assert len(greys) == 30  # 3 s at 10 frames a second
    assert greys[0] == pytest.approx(40 + 4 * 7.3, abs=2)
    assert greys[-1] == pytest.approx(40 + 4 * 10.2, abs=2)
    assert len(sound) / rate_hz == pytest.approx(3.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(sound[rate_hz : rate_hz + rate_hz // 2]))  # 8.3 to 8.8 s of the video
    assert np.argmax(spectrum) * 2 == pytest.approx(1000, abs=8)  # 200 + 8 * 100 Hz


@pytest.mark.parametrize("page", [False, True], ids=["link", "page"])
def test_fetch_clip_downloads_only_the_seconds(tmp_path, make_video, page):
    """Key frames are 5 s apart, and the clip starts between two of them."""
    video = _padded(make_video(20.0, gop=50), 64_000_000)
    clip = _clip(0, start_s=7.3, end_s=10.3)
    with _serve(video, 1) as server:
        template = server.template.removesuffix(".mp4") if page else server.template
        path = fetch_clip(clip, tmp_path, _config(server, url_template=template, whole_file=False))
        assert server.bytes_sent[clip.video_id] < len(video) / 2
    _assert_is_7_3_to_10_3_s(path)


def test_fetch_clip_joins_video_and_audio_files(tmp_path, make_video):
    """YouTube has separate files for its videos above 360p, and for many below."""
    clip = _clip(0, start_s=7.3, end_s=10.3)
    files = {
        f"{clip.video_id}-360": make_video(20.0, gop=50, streams="v"),
        f"{clip.video_id}-sound": make_video(20.0, streams="a"),
    }
    with MisbehavingServer(files) as server:
        server.player_heights, server.stated_s = (144, 360, 1080), 20.0
        template = server.template.replace(".mp4", ".mpd")
        path = fetch_clip(clip, tmp_path, _config(server, url_template=template))
        assert {path for path in server.paths if ".mp4" in path} == {f"/{name}.mp4" for name in files}
    _assert_is_7_3_to_10_3_s(path)


def test_fetch_clip_after_end_of_video_is_refused(tmp_path, make_video):
    """Uploaders shorten their videos; the page states the length."""
    with _serve(make_video(9.0), 1) as server:
        server.stated_s = 9.0
        template = server.template.removesuffix(".mp4")
        with pytest.raises(
            DownloadRefused, match=r"format: the video lasts 9 s, the clip ends at 12 s"
        ) as refused:
            fetch_clip(_clip(0, start_s=9.5, end_s=12.0), tmp_path, _config(server, url_template=template))
        assert not refused.value.can_retry


@pytest.mark.parametrize(("max_height_px", "taken"), [(360, "360"), (719, "360"), (720, "720"), (144, None)])
def test_fetch_clip_respects_max_height(tmp_path, make_video, max_height_px, taken):
    """A page has the video in several heights."""
    with _serve(make_video(4.0), 1) as server:
        server.player_heights = (240, 1080, 360, 720)
        template = server.template.removesuffix(".mp4")
        config = _config(server, url_template=template, max_height_px=max_height_px)
        if taken is None:
            with pytest.raises(DownloadRefused, match=r"format: .*Requested format is not available"):
                fetch_clip(_clip(0, start_s=1.0, end_s=3.0), tmp_path, config)
        else:
            fetch_clip(_clip(0, start_s=1.0, end_s=3.0), tmp_path, config)
        media = {path for path in server.paths if ".mp4" in path}
        assert media == ({f"/clip0000000.mp4?height={taken}"} if taken else set())


@pytest.mark.parametrize(
    ("fault", "reason", "can_retry"),
    [
        ("status:404", RefusalReason.REMOVED, False),
        ("status:403", RefusalReason.PRIVATE, False),
        ("throttle:1", RefusalReason.THROTTLED, True),
        ("stall", RefusalReason.NETWORK, True),
        ("cut", RefusalReason.NETWORK, True),
        ("html", RefusalReason.FORMAT, False),
        ("loop", RefusalReason.NETWORK, True),
    ],
)
def test_fetch_clip_by_ffmpeg_reports_the_reason(tmp_path, make_video, fault, reason, can_retry):
    """ffmpeg returns only an exit code, or success if its input was cut off."""
    with _serve(make_video(CLIP_S), 1, {0: Behaviour(fault)}) as server:
        with pytest.raises(DownloadRefused) as refused:
            fetch_clip(_clip(0), tmp_path, _config(server, whole_file=False))
        assert (refused.value.reason, refused.value.can_retry) == (reason, can_retry)
    assert not list(tmp_path.glob("*.mp4"))


# -- lists ---------------------------------------------------------------------


def test_download_clips_duplicate_is_requested_once(tmp_path, make_video):
    with _serve(make_video(CLIP_S), 2) as server:
        clips = [_clip(0), _clip(1), _clip(0), _clip(0)]
        results = list(download_clips(clips, tmp_path, _config(server)))
        assert Counter(r.clip.clip_id for r in results) == Counter(c.clip_id for c in clips)
        assert all(r.is_done and r.clip.media.is_file() for r in results)
        assert set(server.requests.values()) == {1}


def test_download_clips_endless_list_is_read_lazily(tmp_path, make_video):
    read = itertools.count()

    def endless():
        for _ in read:
            yield _clip(0)

    clips = (replace(_clip(i), split="train") for i, _ in enumerate(endless()))
    with _serve(make_video(CLIP_S), 100) as server:
        results = download_clips(clips, tmp_path, _config(server, concurrency=2))
        first = [next(results) for _ in range(5)]
        results.close()
        assert all(r.is_done and r.clip.split == "train" for r in first)
        assert next(read) <= 5 + 2 * 2
    # the folder is unlocked, and the threads have ended
    list(download_clips([], tmp_path, _config(server)))


def test_find_media_finds_downloaded_clips(tmp_path, make_video):
    clips = [_clip(i, start_s=4.0, end_s=6.0) for i in range(2)]
    with _serve(make_video(CLIP_S), 2) as server:
        results = list(download_clips(clips, tmp_path, _config(server)))
    assert {clip.media for clip in find_media(clips, tmp_path)} == {r.clip.media for r in results}


def test_download_clips_second_run_in_folder_is_refused(tmp_path, make_video):
    with _serve(make_video(CLIP_S), 2) as server:
        first = download_clips(map(_clip, range(2)), tmp_path, _config(server))
        next(first)
        with pytest.raises(InputError, match="another run downloads into"):
            next(download_clips(map(_clip, range(2)), tmp_path, _config(server)))
        assert len(list(first)) == 1


def test_download_clips_stops_after_many_throttled_clips(tmp_path, make_video):
    with _serve(make_video(CLIP_S), 40, {i: Behaviour("throttle:3600") for i in range(5, 40)}) as server:
        config = _config(server, concurrency=1, stop_after_throttled=4)
        results = list(download_clips(map(_clip, range(40)), tmp_path, config))
        assert sum(r.is_done for r in results) == 5
        assert {r.reason for r in results if not r.is_done} == {RefusalReason.THROTTLED}
        assert all(r.can_retry for r in results if not r.is_done)
        assert len(server.requests) == 5 + 4
        server.behaviours.clear()
        assert all(r.is_done for r in download_clips(map(_clip, range(40)), tmp_path, config))


def test_download_clips_replaces_changed_or_lost_files(tmp_path, make_video):
    data = make_video(CLIP_S)
    with _serve(data, 3) as server:
        paths = [r.clip.media for r in download_clips(map(_clip, range(3)), tmp_path, _config(server))]
        server.forget()
        paths[0].write_bytes(data[:100])
        paths[1].unlink()
        assert all(r.is_done for r in download_clips(map(_clip, range(3)), tmp_path, _config(server)))
        assert server.requests.total() == 2
        assert all(path.read_bytes() == data for path in paths)


def test_download_clips_other_mirror_is_requested(tmp_path, make_video):
    """Another mirror may have a clip that the first one does not have."""
    with _serve(make_video(CLIP_S), 1, {0: Behaviour("status:404")}) as server:
        assert not next(download_clips([_clip(0)], tmp_path, _config(server))).is_done
        server.behaviours.clear()
        assert not next(download_clips([_clip(0)], tmp_path, _config(server))).is_done
        other = _config(server, url_template=server.template + "?mirror=2")
        assert next(download_clips([_clip(0)], tmp_path, other)).is_done


def test_download_clips_respects_rate_limits(tmp_path, make_video):
    data = make_video(CLIP_S)
    with _serve(data, 5) as server:
        started = time.monotonic()
        list(download_clips(map(_clip, range(5)), tmp_path / "a", _config(server, max_clips_per_s=4)))
        assert time.monotonic() - started >= 4 / 4  # lower bounds only
        started = time.monotonic()
        fetch_clip(_clip(0), tmp_path / "b", _config(server, max_bytes_per_s=len(data), concurrency=1))
        assert time.monotonic() - started >= 0.5


# -- cookies and folders -------------------------------------------------------


COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\t{value}\n"


def test_download_clips_new_cookies_retry_private_videos(tmp_path, make_video):
    cookies = tmp_path / "cookies.txt"
    with _serve(make_video(CLIP_S), 2, {0: Behaviour("status:403"), 1: Behaviour("status:404")}) as server:

        def run() -> dict[str, str]:
            server.forget()
            results = download_clips([_clip(0), _clip(1)], tmp_path / "out", _config(server, cookies=cookies))
            return {r.clip.video_id: "done" if r.is_done else r.reason.value for r in results}

        forbidden, gone = _clip(0).video_id, _clip(1).video_id
        cookies.write_text(COOKIES.format(value="expired"))
        assert run() == {forbidden: "private", gone: "removed"}
        assert run() == {forbidden: "private", gone: "removed"}
        assert not server.requests
        server.behaviours.clear()
        cookies.write_text(COOKIES.format(value="fresh"))
        assert run() == {forbidden: "done", gone: "removed"}
        assert server.requests == {forbidden: 1}


def test_final_refusal_missing_cookies_file_is_reported(tmp_path):
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(COOKIES.format(value="secret"))
    config = DownloadConfig(cookies=cookies)
    with DownloadLedger(tmp_path / LEDGER_NAME) as ledger:
        gated = DownloadRefused(RefusalReason.AGE_GATED, "sign in", can_retry=False)
        ledger.refused(_clip(0).clip_id, gated, config=config)
        assert ledger.final_refusal(_clip(0).clip_id, config) is not None
        cookies.unlink()
        with pytest.raises(MissingFileError, match=r"no cookies file at .*cookies\.txt"):
            ledger.final_refusal(_clip(0).clip_id, config)


def test_download_clips_sends_cookies_and_keeps_file(tmp_path, make_video):
    cookies = tmp_path / "cookies.txt"
    text = COOKIES.format(value="secret")
    cookies.write_text(text)
    with _serve(make_video(CLIP_S), 4) as server:
        config = _config(server, cookies=cookies)
        assert all(r.is_done for r in download_clips(map(_clip, range(4)), tmp_path / "out", config))
        assert {headers.get("Cookie") for headers in server.seen_headers} == {"session=secret"}
    assert cookies.read_text() == text  # yt-dlp would write its own cookies back


@pytest.mark.parametrize("text", [None, "not a cookies file\n"])
def test_download_clips_bad_cookies_file_is_refused(tmp_path, text):
    path = tmp_path / "cookies.txt"
    if text is not None:
        path.write_text(text)
    config = DownloadConfig(url_template="http://127.0.0.1:9/{id}.mp4", cookies=path)
    with pytest.raises(MissingFileError, match="Netscape"):
        next(download_clips([_clip(0)], tmp_path / "out", config))


def test_download_clips_unwritable_folder_ends_run(tmp_path, make_video):
    """This machine fails, so no clip is refused."""
    with _serve(make_video(CLIP_S), 3) as server:
        (tmp_path / ".partial").write_text("a file")
        with pytest.raises(LocalFailure, match=r"cannot store clip000000\d_"):
            list(download_clips(map(_clip, range(3)), tmp_path, _config(server, concurrency=1)))
        assert not server.requests
        (tmp_path / ".partial").unlink()
        assert all(r.is_done for r in download_clips(map(_clip, range(3)), tmp_path, _config(server)))


def test_download_clips_file_as_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        next(download_clips([_clip(0)], tmp_path / "out", DownloadConfig()))
