"""Progress where there is no terminal, in real processes whose stderr is a pipe."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

BEGIN = """
import time
from s2f_lib.cli import common
common._SILENCE_S = 0.4
with common.progress_bar("clips", every_s={every_s}) as report:
"""


def lines_of(code: str, *, every_s: float) -> list[str]:
    """Return what a process writes to stderr, without the time of each line."""
    indented = "".join(f"    {line}\n" for line in code.strip().splitlines())
    program = BEGIN.format(every_s=every_s) + indented
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d clips: ", line) for line in lines), lines
    return [line.split("clips: ")[1] for line in lines]


def test_first_and_last_report_are_written():
    code = "for done in range(601): report(done, 600, done // 300)"
    assert lines_of(code, every_s=100) == ["0 of 600", "600 of 600, 2 refused"]


def test_reports_say_what_is_left():
    code = "for done in range(2, 5): report(done, 4, {'train_loss': 0.5}); time.sleep(0.3)"
    first, second, last = lines_of(code, every_s=0)
    assert (first, last) == ("2 of 4, train_loss 0.5", "4 of 4, train_loss 0.5")
    assert re.fullmatch(r"3 of 4, train_loss 0.5, about \d+ s left", second)


@pytest.mark.parametrize("state", ["1 of 8, 02_voice_encoder", "at work"])
def test_silence_repeats_the_last_state(state):
    code = f"""
{'report(1, 8, "02_voice_encoder")' if state != "at work" else ""}
time.sleep(4 * common._SILENCE_S)
"""
    lines = lines_of(code, every_s=10)
    assert re.fullmatch(rf"{state} \(for \d+ s\)", lines[-1])
    assert len(lines) >= 2


def test_train_writes_epochs_into_a_pipe(tmp_path):
    program = """
import sys
from pathlib import Path
import numpy as np
from s2f_lib.cli.main import main
from s2f_lib.preparation import shards
from types import SimpleNamespace
ids = [f"clip{index}" for index in range(4)]
audio, features = np.ones((4, 48_000), np.int16), np.eye(4, dtype=np.float32)
clips = SimpleNamespace(clip_ids=ids, video_ids=ids, audio=audio, features=features, digest="example")
shards.read_prepared = lambda *_, **__: clips
sys.argv[:] = ["s2f", "train", "x", "--out", "y", "--loss", "l1"]
for setting in ("spectrogram.duration_s=2.7", "spectrogram.max_frequency_hz=1000", "encoder.width=0.02",
                "encoder.hidden=8", "encoder.frequency_bins=1", "training.epochs=2", "training.batch_size=4",
                "training.validation_share=0", "encoder.face_axes=false"):
    sys.argv += ["-p", setting]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"epoch 1 of 2: train_loss .*\n(?:.*\n)*.*epoch 2 of 2: train_loss", done.stderr)
    assert re.search(r"epochs: 2 of 2, train_loss", done.stderr)
