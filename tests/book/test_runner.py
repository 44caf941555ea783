"""Tests of the runner with real kernels, on chapters of a few cells."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from s2f_lib.book.executed import (
    Chapter,
    ExecutedChapter,
    check_parameters,
    find_chapters,
    select_chapters,
)
from s2f_lib.book.runner import run_chapters
from s2f_lib.errors import ChapterError, InputError
from s2f_lib.paths import RunPaths
from s2f_lib.storage import locked
from s2f_lib.study import read_settings


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_row": "5"}, "unknown parameter 'n_row' - did you mean n_rows?"),
        ({"n_rows": "five"}, "'n_rows': expected int such as 3, found str 'five'"),
        ({"n_rows": "2.5"}, "'n_rows': expected int"),
        ({"n_rows": True}, "'n_rows': expected int such as 3, found bool True"),
        ({"share": "much"}, "'share': expected float such as 0.5"),
        ({"training.epoch": "3"}, "unknown setting 'training.epoch' - did you mean training.epochs?"),
        ({"training.epochs": "many"}, "training.epochs: Input should be a valid integer"),
        ({"profile": "gpu"}, "use --profile"),
        ({"run_dir": "x"}, "use --run-dir"),
    ],
)
def test_run_chapters_bad_parameter_is_refused_first(chapters, workspace, parameters, message, runs):
    with pytest.raises(InputError) as error:
        run_chapters("quick", parameters=parameters, notebooks=chapters)
    assert message in str(error.value)
    assert runs() == []
    assert not (workspace / "runs").exists()


def test_run_chapters_names_the_chapter_of_a_parameter(chapters, runs):
    with pytest.raises(InputError, match=r"'share' belongs to 02_second: add --only 02"):
        run_chapters("quick", only=["01"], parameters={"share": "0.1"}, notebooks=chapters)
    assert runs() == []


def test_check_parameters_converts_to_the_default_type(chapters):
    checked = check_parameters(
        "quick", {"n_rows": "7", "share": "1", "word": "12", "training.epochs": "3"}, find_chapters(chapters)
    )
    assert checked.own == {"n_rows": 7, "share": 1.0, "word": "12"}
    assert isinstance(checked.own["share"], float)
    assert checked.settings == {"training.epochs": "3"}


@pytest.mark.parametrize("words", [["99"], ["01", "retrieval"]])
def test_run_chapters_unknown_chapter_is_refused(chapters, words, runs):
    with pytest.raises(InputError, match=rf"unknown chapter '{words[-1]}'.*"):
        run_chapters("quick", only=words, notebooks=chapters)
    assert runs() == []


@pytest.mark.parametrize("words", [["2"], ["02"], ["02_second"], ["02_second.md"]])
def test_select_chapters_takes_number_or_name(chapters, words):
    assert [chapter.name for chapter in select_chapters(find_chapters(chapters), words)] == ["02_second"]


def test_parameters_without_settings_are_refused(tmp_path, write_chapter):
    text = write_chapter(tmp_path, "01_odd").read_text().replace("settings = {}", "")
    path = tmp_path / "01_odd.md"
    path.write_text(text)
    with pytest.raises(InputError, match="does not set settings"):
        _ = Chapter("01_odd", path).parameters


def test_parameters_default_must_be_a_literal(tmp_path, write_chapter):
    path = write_chapter(tmp_path, "01_odd", own_parameters="n = max(1, 2)")
    with pytest.raises(InputError, match=r"default of parameter 'n' is max\(1, 2\), expected a literal"):
        _ = Chapter("01_odd", path).parameters


def test_run_chapters_skips_what_is_up_to_date(chapters, workspace, monkeypatch, runs):
    # a registered kernel called python3 that cannot start: the chapters must not use it
    broken = workspace / "kernels" / "python3"
    broken.mkdir(parents=True)
    (broken / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "?", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(workspace))
    given = {"n_rows": "7", "training.epochs": "3"}
    seen = []

    def report(done, total, name):
        seen.append((done, total, name))

    results = run_chapters("quick", parameters=given, notebooks=chapters, progress=report)
    assert [(r.name, r.skipped) for r in results] == [("01_first", False), ("02_second", False)]
    assert seen == [(0, 2, "01_first"), (1, 2, "02_second"), (2, 2, "")]
    once = ["first 7", "second {'training.epochs': '3'}"]
    assert runs() == once
    settings = RunPaths(workspace / "runs" / "quick").settings
    assert read_settings(settings).training.epochs == 3
    settings.write_text("")
    again = run_chapters("quick", parameters=given, notebooks=chapters)
    assert [r.skipped for r in again] == [True, True]
    assert [round(r.seconds, 1) for r in again] == [round(r.seconds, 1) for r in results]
    assert runs() == once
    assert read_settings(settings).training.epochs == 3

    # a changed source runs only its chapter
    second = chapters / "02_second.md"
    second.write_text(second.read_text() + "\nMore to say.\n")
    assert [r.skipped for r in run_chapters("quick", parameters=given, notebooks=chapters)] == [True, False]
    # a changed parameter runs only the chapter that takes it
    given["n_rows"] = "8"
    assert [r.skipped for r in run_chapters("quick", parameters=given, notebooks=chapters)] == [False, True]
    assert runs() == [*once, once[1], "first 8"]


def test_run_chapters_failing_cell_stops_and_is_named(chapters, workspace, write_chapter):
    run = RunPaths(workspace / "runs" / "quick")
    files = ExecutedChapter(Chapter("02_second", chapters / "02_second.md"), run)
    good = (chapters / "02_second.md").read_text()
    write_chapter(chapters, "02_second", "x = 1", "raise ValueError('no faces\\nat all')", "y = 1")
    write_chapter(chapters, "03_third", "print('never')")
    with pytest.raises(ChapterError) as error:
        run_chapters("quick", notebooks=chapters)
    assert "chapter 02_second failed in cell 4: ValueError: no faces at all" in str(error.value)
    assert not files.path.exists()
    failed = nbformat.read(files.failed, as_version=4)
    assert any(output.output_type == "error" for cell in failed.cells for output in cell.get("outputs", []))
    names = {path.name for path in run.notebooks.iterdir()}  # neither a third nor a partial file
    assert names == {"01_first.ipynb", "02_second.failed.ipynb"}

    (chapters / "03_third.md").unlink()
    (chapters / "02_second.md").write_text(good)
    results = run_chapters("quick", notebooks=chapters)
    assert [r.skipped for r in results] == [True, False]
    assert files.path.exists()
    assert not files.failed.exists()


def test_run_chapters_failed_try_leaves_good_run_up_to_date(chapters, write_chapter, workspace):
    table = """
        from pathlib import Path
        tables = Path(run_dir) / "tables"
        tables.mkdir(exist_ok=True)
        tables.joinpath("01_sizes.csv").write_text(str(max(n_rows, 3)))
        assert n_rows < 5
        """
    write_chapter(chapters, "01_first", table, own_parameters="n_rows = 3")

    def skipped(n_rows):
        parameters = {"n_rows": n_rows}
        return run_chapters("quick", only=["01"], parameters=parameters, notebooks=chapters)[0].skipped

    assert [skipped(3), skipped(3)] == [False, True]
    with pytest.raises(ChapterError, match="AssertionError"):
        skipped(9)
    assert not skipped(3)  # the failed run has replaced a table
    run = workspace / "runs" / "quick"
    write_chapter(chapters, "01_first", table.replace("max(n_rows, 3)", "3"), own_parameters="n_rows = 3")
    assert not skipped(3)
    with pytest.raises(ChapterError, match="AssertionError"):
        skipped(9)
    assert (run / "notebooks" / "01_first.failed.ipynb").exists()
    assert skipped(3)
    assert not (run / "notebooks" / "01_first.failed.ipynb").exists()


def test_run_chapters_dead_kernel_names_the_chapter(chapters, workspace, write_chapter):
    write_chapter(chapters, "01_first", "import os\nos._exit(9)")
    with pytest.raises(ChapterError, match="chapter 01_first: its kernel died"):
        run_chapters("quick", only=["01"], notebooks=chapters)
    assert not (workspace / "runs/quick/notebooks/01_first.ipynb").exists()


def test_run_chapters_leaves_no_local_path(chapters, workspace, write_chapter, caplog):
    caplog.set_level(logging.INFO)
    write_chapter(
        chapters,
        "01_first",
        "from pathlib import Path\nprint(Path.cwd() / 'data')\nstr(Path.home() / 'x')",
    )
    run_chapters("quick", only=["01"], run_dir=workspace / "elsewhere", notebooks=chapters)
    assert f"01_first: {workspace / 'data'}" in caplog.messages  # as a step of the chapter
    path = workspace / "elsewhere/notebooks/01_first.ipynb"
    text = path.read_text()
    assert str(workspace) not in text
    assert str(Path.home()) + "/" not in text
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    assert outputs[0].text.strip() == "data"


def test_kernel_leaves_working_directory_clean(chapters, workspace, write_chapter):
    write_chapter(
        chapters, "01_first", "from pathlib import Path", "for p in Path.cwd().iterdir(): print(p.name)"
    )
    run_chapters("quick", only=["01"], run_dir=workspace / "elsewhere", notebooks=chapters)
    notebook = nbformat.read(workspace / "elsewhere/notebooks/01_first.ipynb", 4)
    during = {
        line for cell in notebook.cells for output in cell.get("outputs", []) for line in output.text.split()
    }
    assert during == {path.name for path in workspace.iterdir()} == {"elsewhere", "sources"}


def test_run_chapters_second_run_is_refused(chapters, workspace):
    with (
        locked(workspace / "runs" / "quick" / "notebooks"),
        pytest.raises(InputError, match="another run is at work"),
    ):
        run_chapters("quick", notebooks=chapters)


PROGRAM = """
import faulthandler, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
faulthandler.dump_traceback_later(90)  # a run that hangs prints its stack
from s2f_lib import paths
from s2f_lib.cli.main import main
paths.notebooks_dir = lambda: Path("sources").absolute()
sys.argv[:] = ["s2f", "run"]
main()
"""


def test_run_interrupted_prints_one_line_and_resumes(chapters, workspace, write_chapter):
    sleeping = """
        import os, subprocess, time
        from pathlib import Path
        if not Path("pid.txt").exists():
            child = subprocess.Popen(["sleep", "120"])
            Path("pid.part").write_text(f"{os.getpid()} {child.pid}")
            Path("pid.part").rename("pid.txt")
            time.sleep(120)
        """
    write_chapter(chapters, "02_second", sleeping)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=workspace,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for((workspace / "pid.txt").exists)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    *progress, last = errors.splitlines()
    assert last == "s2f: interrupted; run the same command again to resume"
    said = [line.split(" ", 1)[1] for line in progress]  # without the time
    assert said[0] == "chapters: 0 of 2, 01_first"
    assert said[1].startswith("chapters: 1 of 2, 02_second")
    assert len(said) == 2
    for pid in map(int, (workspace / "pid.txt").read_text().split()):
        _wait_for(lambda pid=pid: not _alive(pid))
    assert {path.name for path in (workspace / "runs/quick/notebooks").iterdir()} == {"01_first.ipynb"}
    assert [result.skipped for result in run_chapters("quick", notebooks=chapters)] == [True, False]


def _wait_for(condition, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
