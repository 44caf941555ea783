"""Executed chapters on disk: what was run, from what, and whether it still holds.

The record lies in the notebook's own metadata, under `s2f`, so that a chapter
and its record are replaced together.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from s2f_lib import paths
from s2f_lib.book.chapters import Chapter
from s2f_lib.config import load_config


@dataclass(frozen=True)
class Record:
    """What an executed chapter was made from.

    Attributes
    ----------
    digest
        Of the source, the package, the resolved settings and the parameters.
    profile
        As it was given.
    settings, parameters
        Overrides of the profile, and the chapter's own parameters.
    seconds
        Wall time.
    """

    digest: str
    profile: str
    settings: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class ChapterFiles:
    """The files of one executed chapter in a run's folder."""

    folder: Path
    name: str

    @property
    def executed(self) -> Path:
        """The executed notebook: there only when every cell succeeded."""
        return self.folder / f"{self.name}.ipynb"

    @property
    def failed(self) -> Path:
        """What is left of a run that failed, up to the failing cell."""
        return self.folder / f"{self.name}.failed.ipynb"

    @property
    def partial(self) -> Path:
        """The notebook while it runs."""
        return self.folder / f".{self.name}.{os.getpid()}.part.ipynb"


def chapter_digest(
    chapter: Chapter, profile: str | Path, settings: Mapping[str, Any], parameters: Mapping[str, Any]
) -> str:
    """Return the digest of all that decides an executed chapter: 16 hexadecimal digits."""
    resolved = load_config(profile, settings).model_dump(mode="json")
    resolved["preparation"].pop("workers")  # decides the time alone
    inputs = [package_digest(), published_digest()]
    text = json.dumps([chapter.text, inputs, resolved, parameters], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def package_digest() -> str:
    """Return the digest of the sources of `s2f_lib`."""
    return _digest_of_files(paths.repository_root() / "s2f_lib", "*.py")


def published_digest() -> str:
    """Return the digest of the kept results that chapters show beside their own."""
    return _digest_of_files(paths.published_dir(), "*.*")


def _digest_of_files(root: Path, pattern: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob(pattern) if path.is_file()):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def read_record(notebook: NotebookNode) -> Record | None:
    """Return the record of an executed chapter, or None where it has none that is readable."""
    try:
        return Record(**notebook.metadata["s2f"])
    except (KeyError, TypeError):
        return None


def write_executed(notebook: NotebookNode, path: Path, record: Record) -> None:
    """Write an executed chapter with its record, whole or not at all."""
    notebook.metadata["s2f"] = asdict(record)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    nbformat.write(notebook, partial)
    partial.replace(path)


def read_executed(path: Path) -> NotebookNode | None:
    """Return a notebook, or None where the file is missing or damaged."""
    try:
        return nbformat.read(path, as_version=4)
    except (FileNotFoundError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return None


def error_of(notebook: NotebookNode) -> str | None:
    """Return the first error among a notebook's outputs, or None."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {cell.execution_count}: {output.ename}: {output.evalue}"
    return None


def without_machine(notebook: NotebookNode) -> NotebookNode:
    """Take the machine's folders out of a notebook, in place: outputs, parameters and metadata.

    A book is published; where the run lay on somebody's disk is nobody's business.
    """
    notebook.metadata.pop("papermill", None)
    named = [(paths.workspace(), ""), (paths.repository_root(), ""), (Path.home(), "~/")]
    folders = [(f"{folder}{os.sep}", new) for folder, new in named if folder != folder.parent]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if not line.startswith("run_dir =")]
            cell.source = "\n".join(_FOLDERS.sub(r"\1", line) for line in lines)
        for output in cell.get("outputs", []):
            _replace_texts(output, folders)
    return notebook


# a quoted absolute path: its folders (POSIX, home or Windows), then its last part
_FOLDERS = re.compile(r"""(?<=["'])(?:~|[A-Za-z]:)?[/\\](?:[^"']*[/\\])?([^"'/\\]+)[/\\]?(?=["'])""")


def _replace_texts(value: Any, folders: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for folder, new in folders:
            value = value.replace(folder, new)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not key.startswith("image/"):
                value[key] = _replace_texts(inner, folders)
    elif isinstance(value, list):
        value[:] = [_replace_texts(inner, folders) for inner in value]
    return value
