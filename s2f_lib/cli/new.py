"""The command `s2f new`: write a study folder, from which the book is built."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from s2f_lib import paths
from s2f_lib.cli.common import console
from s2f_lib.errors import InputError

_DERIVED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.ipynb")


def new_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; it must be new or empty.")],
) -> None:
    """Write a study folder: chapters, profiles, published results and the configuration of the book.

    Commands that are called in the folder read these files, and write data/, runs/ and _build/ next to them.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: expected a new or empty folder")
    source = paths.template_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for name in paths.STUDY_FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=_DERIVED)
        else:
            shutil.copyfile(source / name, folder / name)
    (folder / ".gitignore").write_text("".join(f"{name}/\n" for name in paths.DERIVED), encoding="utf-8")
    chapters = len(list((folder / "book" / "notebooks").glob("*.md")))
    console.print(f"A study folder with {chapters} chapters is in {folder}. Next:", soft_wrap=True)
    console.print(f"  cd {folder} && s2f book", soft_wrap=True, highlight=False)
