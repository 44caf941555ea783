"""`prepare` with two workers, called from a script without a main guard, a notebook and a shell."""

from __future__ import annotations

import subprocess
import sys

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from s2f_lib.preparation.ledger import LEDGER_NAME, Ledger
from s2f_lib.preparation.shards import read_prepared

CALL = """
from s2f_lib import prepare
from s2f_lib.config import PreparationConfig
from s2f_lib.sources import load_clips

settings = PreparationConfig(workers=2, detection_width_px=160, frame_positions=(0.5,), audio_s=2.0)
prepare(load_clips("clips.csv", "media"), "out", preparation=settings)
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory, media_writer, tone_maker, small_portrait):
    """Folder with two clips, and the output of a script that prepares them without a main guard."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "media").mkdir()
    names = [f"clip{number:07d}" for number in range(2)]
    for number, name in enumerate(names):
        image = np.roll(small_portrait, number, axis=1)
        media_writer(folder / "media" / f"{name}.mp4", image=image, sound=tone_maker(2.0))
    (folder / "clips.csv").write_text("".join(f"{name},0.0,2.0,0.5,0.5\n" for name in names))
    (folder / "script.py").write_text(CALL)
    script = [sys.executable, "script.py"]
    done = subprocess.run(script, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return folder, done


def test_script_without_main_guard_ends_with_advice(begun):
    folder, done = begun
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "the worker processes died before their first clip" in last
    assert 'write `if __name__ == "__main__":` above the call' in last
    # and a worker does not reach the lock of the folder
    assert "InputError: prepare was called in a child process" in done.stderr
    assert "another run is at work" not in done.stderr
    with Ledger(folder / "out" / LEDGER_NAME) as ledger:
        assert ledger.counts() == {("pending", None): 2}


def test_notebook_prepares_what_the_script_left(begun):
    folder, _ = begun  # a notebook has a main module without a file, so it needs no guard
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CALL)])
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    assert len(read_prepared(folder / "out")) == 2


def test_interactive_python_needs_no_main_guard(begun):
    folder, _ = begun
    call = CALL.replace(
        'prepare(load_clips("clips.csv", "media"), "out"', 'prepare_recordings("media", "voices"'
    )
    call = call.replace("import prepare", "import prepare_recordings")
    shell = [sys.executable, "-i"]
    done = subprocess.run(
        shell, input=call, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Error" not in done.stderr
    assert len(read_prepared(folder / "voices")) == 2
