"""Runs the recipes of the book as scripts, in the checkout or with an installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jupytext


def recipe_code(path: Path) -> str:
    """Return the code of a recipe's page, without its prose."""
    cells = jupytext.read(path).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code") + "\n"


def run_recipe(
    path: Path,
    folder: Path,
    *,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Run a recipe as a script in a folder, with a Python of any environment; return what it prints."""
    script = folder / f"{path.stem}.py"
    script.write_text(recipe_code(path), encoding="utf-8")
    done = subprocess.run(
        [python, script.name],
        cwd=folder,
        env={**environment, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{path.name}: {done.stderr}"
    return done.stdout
