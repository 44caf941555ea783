"""The structure of the package: imports go one way, and public names are documented with examples."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from importlinter import cli as importlinter

import s2f_lib

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    "s2f_lib",
    *(f"s2f_lib.{room.name}" for room in pkgutil.iter_modules(s2f_lib.__path__) if room.ispkg),
]


def test_import_contracts_are_kept(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert importlinter.lint_imports(no_cache=True) == importlinter.EXIT_STATUS_SUCCESS


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_exist_and_have_examples(room):
    names = getattr(importlib.import_module(room), "__all__", ())
    public = {name: getattr(importlib.import_module(room), name) for name in names}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    lacking = [name for name, value in functions.items() if ">>> " not in (inspect.getdoc(value) or "")]
    assert not lacking, f"{room}: no example in the docstrings of {lacking}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_public_name_hides_a_module(room):
    module = importlib.import_module(room)
    modules = {found.name for found in pkgutil.iter_modules(module.__path__)}
    assert not modules & set(getattr(module, "__all__", ()))
