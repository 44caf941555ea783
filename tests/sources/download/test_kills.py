"""A download that is killed before each of its file operations: the next run still gets the clip."""

from __future__ import annotations

import json
import subprocess
import sys

from s2f_lib.sources.clip import make_clip_id
from tests.sources.misbehaving_server import MisbehavingServer

CLIP_S = 2.0

# Each try is a fork of a process that has loaded all modules and has no threads: 0.2 s instead of 3 s.
SCRIPT = """
import json, os, shutil, signal, sys
from pathlib import Path
import av
from s2f_lib.config import DownloadConfig
from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download import client  # loads yt-dlp
from s2f_lib.sources.download.attempts import download_clips

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "sqlite3.connect"}
root, template, clip_id, video_id, end_s = sys.argv[1:]
clip = ClipRef(clip_id, video_id, 0.0, float(end_s), 0.5, 0.5)
config = DownloadConfig(url_template=template, concurrency=1, backoff_s=0.01)


def in_a_fork(folder, kill_at=0):
    pid = os.fork()
    if not pid:
        seen = []
        def kill_in_time(event, arguments):
            if kill_at and event in EVENTS and str(arguments[0]).startswith(str(folder)):
                seen.append(event)
                if len(seen) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill_in_time)
        try:
            result, = download_clips([clip], folder, config)
            os._exit(0 if result.is_done else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


tries, ended = [], None
while ended != 0:
    folder = Path(root) / f"{len(tries) + 1:03d}"
    ended = in_a_fork(folder, kill_at=len(tries) + 1)
    again = in_a_fork(folder)
    left = sorted(path.name for path in folder.iterdir() if path.suffix not in (".sqlite", ".lock"))
    tries.append((ended, again, left))
print(json.dumps(tries))
"""


def test_download_killed_at_any_file_operation_resumes(tmp_path, make_video):
    data = make_video(CLIP_S)
    video_id = "clip0000000"
    clip_id = make_clip_id(video_id, 0.0, CLIP_S)
    with MisbehavingServer({video_id: data}) as server:
        command = [sys.executable, "-c", SCRIPT, tmp_path, server.template, clip_id, video_id, CLIP_S]
        run = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    *killed, last = json.loads(run.stdout)
    assert len(killed) > 10
    assert all(ended == -9 for ended, *_ in killed)
    for number, (_, again, left) in enumerate([*killed, last], 1):
        assert (again, left) == (0, [f"{clip_id}.mp4"]), f"killed before operation {number}: {run.stderr}"
        assert (tmp_path / f"{number:03d}" / f"{clip_id}.mp4").read_bytes() == data
