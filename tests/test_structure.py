"""The structure of the package: imports go one way, and public names are documented with examples."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import s2f_lib

ROOT = Path(__file__).resolve().parents[1]
SUBPACKAGES = [
    "s2f_lib",
    *(
        f"s2f_lib.{subpackage.name}"
        for subpackage in pkgutil.iter_modules(s2f_lib.__path__)
        if subpackage.ispkg
    ),
]


def test_import_contracts_are_kept():
    # in a new process, because import-linter configures the loggers of its own
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_public_names_exist_and_have_examples(subpackage):
    names = getattr(importlib.import_module(subpackage), "__all__", ())
    public = {name: getattr(importlib.import_module(subpackage), name) for name in names}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    lacking = [name for name, value in functions.items() if ">>> " not in (inspect.getdoc(value) or "")]
    assert not lacking, f"{subpackage}: no example in the docstrings of {lacking}"


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_no_public_name_hides_a_module(subpackage):
    module = importlib.import_module(subpackage)
    modules = {found.name for found in pkgutil.iter_modules(module.__path__)}
    public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    hidden = [name for name, value in public.items() if name in modules and not inspect.ismodule(value)]
    assert not hidden
