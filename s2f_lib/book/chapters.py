"""The chapters of the book: where they are, and which parameters each takes.

A chapter is `book/notebooks/NN_topic.md` (Jupytext MyST Markdown) with one cell
tagged `parameters`, which sets `profile`, `run_dir`, `settings` and what is the
chapter's own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from nbformat import NotebookNode

from s2f_lib import paths
from s2f_lib.config import load_config, setting_keys, suggest
from s2f_lib.errors import ConfigError, InputError

NAME = re.compile(r"\d\d_[a-z0-9_]+")
COMMON_PARAMETERS = ("profile", "run_dir", "settings")  # set by the runner, in every chapter

_OPTIONS = {"profile": "--profile", "run_dir": "--run-dir", "settings": "-p a.dotted.setting=value"}


@dataclass(frozen=True)
class Chapter:
    """One chapter's source.

    Attributes
    ----------
    name
        `NN_topic`.
    path
        Of the source.
    """

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """The source as it stands in the file."""
        return self.path.read_text(encoding="utf-8")

    def notebook(self) -> NotebookNode:
        """Return the chapter as a notebook without outputs."""
        import jupytext

        return jupytext.reads(self.text, fmt="md:myst")

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Parameter to default, as the cell tagged `parameters` sets them.

        Raises
        ------
        InputError
            There is no such cell, one of the common parameters is missing, or a
            default is no literal, so that a type could not be checked against it.
        """
        from papermill import inspect_notebook

        found = {}
        for name, parameter in inspect_notebook(self.notebook()).items():
            try:
                found[name] = ast.literal_eval(parameter["default"])
            except (ValueError, SyntaxError):
                raise InputError(
                    f"chapter {self.name}: the default of parameter {name!r} is "
                    f"{parameter['default']}, expected a literal such as 5, 'cosine' or None"
                ) from None
        missing = [name for name in COMMON_PARAMETERS if name not in found]
        if missing:
            raise InputError(
                f"chapter {self.name}: its parameters cell does not set {', '.join(missing)}: "
                "every chapter takes profile, run_dir and settings"
            )
        return found


def find_chapters(folder: Path | None = None) -> list[Chapter]:
    """Return all chapters in the order of their numbers.

    Raises
    ------
    InputError
        There are none.
    """
    folder = paths.notebooks_dir() if folder is None else folder
    chapters = [Chapter(p.stem, p) for p in sorted(folder.glob("*.md")) if NAME.fullmatch(p.stem)]
    if not chapters:
        raise InputError(f"no chapter in {folder}: expected files NN_topic.md")
    return chapters


def select_chapters(chapters: Sequence[Chapter], only: Sequence[str] | None) -> list[Chapter]:
    """Return the chapters that are named by number (`05`) or by name (`05_retrieval`), in book order.

    Raises
    ------
    InputError
        A name fits no chapter; the message gives the closest.
    """
    if not only:
        return list(chapters)
    chosen = set()
    for word in only:
        number, name = str(word).zfill(2), str(word).removesuffix(".md")
        fits = [c.name for c in chapters if c.name == name or c.name.split("_")[0] == number]
        if not fits:
            raise InputError(f"unknown chapter {word!r}{suggest(str(word), [c.name for c in chapters])}")
        chosen.update(fits)
    return [chapter for chapter in chapters if chapter.name in chosen]


@dataclass(frozen=True)
class Parameters:
    """Parameters that were checked: settings of the study, and what is the chapters' own."""

    settings: dict[str, Any]
    own: dict[str, Any]

    def of(self, chapter: Chapter) -> dict[str, Any]:
        """Return the chapter's own parameters that were given."""
        return {name: value for name, value in self.own.items() if name in chapter.parameters}


def check_parameters(
    profile: str | Path, given: Mapping[str, Any] | None, chapters: Sequence[Chapter]
) -> Parameters:
    """Sort parameters into settings and chapters' own, each checked by name and type.

    papermill only warns of an unknown parameter and checks no type.

    Parameters
    ----------
    profile
        The settings are checked on top of it.
    given
        Key to value.  A text is read as YAML, as it comes from a command line,
        except where a text is expected.  A dotted key is a setting of `StudyConfig`.
    chapters
        Those that are about to run: a parameter of none of them is refused.

    Raises
    ------
    InputError
        A key is unknown or a value is of the wrong type; the message gives the closest key.
    """
    settings: dict[str, Any] = {}
    own: dict[str, Any] = {}
    defaults = {name: value for chapter in chapters for name, value in chapter.parameters.items()}
    for key, value in (given or {}).items():
        if key in _OPTIONS:
            raise ConfigError(f"parameter {key!r} is set by its own option: use {_OPTIONS[key]}")
        if key in defaults:
            own[key] = _typed(key, value, defaults[key])
        elif "." in key:
            settings[key] = value
        else:
            known = sorted(set(defaults) - set(COMMON_PARAMETERS)) + setting_keys()
            raise ConfigError(f"unknown parameter {key!r}{suggest(key, known)}")
    load_config(profile, settings)
    return Parameters(settings, own)


def _typed(key: str, value: Any, default: Any) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"parameter {key!r}: {value!r} is not readable") from None
    if default is None:
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        raise ConfigError(
            f"parameter {key!r}: expected {type(default).__name__} such as {default!r}, "
            f"found {type(value).__name__} {value!r}"
        )
    return value
