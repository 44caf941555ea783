"""Chapters that are run with papermill by hand: wrong parameters are refused in one line."""

from __future__ import annotations

import jupytext
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.io import capture_output

from s2f_lib import paths
from s2f_lib.book.injected import check_injected

DEFAULTS = {"profile": "quick", "run_dir": None, "settings": {}, "measure": "cosine", "share": 0.5, "n": 3}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("mesure = 'l1'", r"unknown parameter 'mesure' - did you mean measure\?"),
        (
            "training.epochs = 1",
            r"training.epochs is a setting .*: use -y 'settings: \{training.epochs: 3\}'",
        ),
        (
            "settings = '{training.epochs: 1}'",
            r"'settings' is '\{training.*, expected dict: use -y 'settings",
        ),
        ("n = 2.5", "parameter 'n' is 2.5, expected int, such as 3"),
        ("n = True", "parameter 'n' is True, expected int, such as 3"),
        ("share = float('nan')", "'share': expected a finite number"),
        ("measure = None", "'measure' is None, expected str, such as 'cosine'"),
    ],
)
def test_check_injected_refuses_wrong_assignments(assignment, message):
    with pytest.raises(ValueError, match=message) as error:
        check_injected(f"# Parameters\n{assignment}\n", DEFAULTS)
    assert "\n" not in str(error.value)


def test_check_injected_accepts_declared_parameters():
    cell = (
        "# Parameters\nmeasure = 'l1'\nshare = 1\nn = 4\nrun_dir = 'x'\nsettings = {'training.epochs': 1}\n"
    )
    check_injected(cell, DEFAULTS)


@pytest.fixture
def shell():
    """The IPython shell that `get_ipython` returns."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mesure": "l1"}, "unknown parameter 'mesure' - did you mean measure?"),
        ({"training.epochs": 1}, "training.epochs is a setting of the study"),
        ({"settings": "{training.epochs: 1}"}, "parameter 'settings' is"),
        ({"measure": "l1", "settings": {"training.epochs": 1}}, None),
    ],
)
def test_chapter_refuses_what_papermill_injects(shell, tmp_path, given, message):
    """The cells of a chapter up to its parameters, with papermill's cell, in a real IPython shell."""
    jupytext.write(jupytext.read(paths.notebooks_dir() / "05_retrieval.md"), tmp_path / "05.ipynb")
    notebook = papermill.iorw.load_notebook_node(str(tmp_path / "05.ipynb"))
    cells = papermill.parameterize.parameterize_notebook(notebook, given).cells
    last = next(i for i, cell in enumerate(cells) if "injected-parameters" in cell.metadata.get("tags", []))
    for cell in (cell for cell in cells[:last] if cell.cell_type == "code"):
        shell.run_cell(cell.source, store_history=True).raise_error()
    with capture_output() as captured:
        result = shell.run_cell(cells[last].source, store_history=True)
    if message is None:
        result.raise_error()
        assert shell.user_ns["measure"] == "l1"
    else:
        assert type(result.error_in_exec or result.error_before_exec).__name__ == "ConfigError"
        assert message in captured.stdout
