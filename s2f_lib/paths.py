"""The one module that knows the names of folders.

A study folder holds the sources of the book: `_config.yml`, `_toc.yml` and `book/`. The package contains
them, too, so that it works without a study folder. Derived files (`data/`, `runs/`, `_build/`) are in the
workspace.
"""

from __future__ import annotations

import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path

CONFIGURATION = "_config.yml"
#: What a study folder consists of.
STUDY_FILES = (CONFIGURATION, "_toc.yml", "jupytext.toml", "book")
#: Folders of derived files in the workspace.
DERIVED = ("data", "runs", "_build")


def checkout() -> Path | None:
    """Return the root of the repository, or None if the package is installed without it.

    Examples
    --------
    >>> (checkout() / "s2f_lib").is_dir()
    True
    """
    root = Path(__file__).resolve().parents[1]
    return root if _is_study_folder(root) else None


def template_dir() -> Path:
    """Return the study folder that comes with the package; it is only read."""
    return checkout() or Path(str(importlib.resources.files("s2f_lib"))) / "template"


def study_folder() -> Path:
    """Return the folder from which profiles, chapters and published results are read.

    It is the working directory or its nearest parent that holds `_config.yml` and `book/notebooks`. If
    there is none, it is the one that comes with the package.

    See Also
    --------
    workspace : Folder of derived files.

    Examples
    --------
    >>> (study_folder() / "book" / "profiles" / "quick.yaml").is_file()
    True
    """
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_study_folder(folder)), template_dir())


def workspace() -> Path:
    """Return the folder under which derived files are written.

    It is the folder that the environment variable `S2F_WORKSPACE` names; otherwise the working directory or
    its nearest parent that holds `_config.yml`; otherwise the working directory.

    See Also
    --------
    study_folder : Folder of the sources of the book.

    Examples
    --------
    >>> data_dir() == workspace() / "data"
    True
    """
    if named := os.environ.get("S2F_WORKSPACE"):
        return Path(named).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / CONFIGURATION).is_file()), here)


def _is_study_folder(folder: Path) -> bool:
    return (folder / CONFIGURATION).is_file() and (folder / "book" / "notebooks").is_dir()


def book_dir() -> Path:
    """Return the folder of the sources of the book."""
    return study_folder() / "book"


def notebooks_dir() -> Path:
    """Return the folder of the chapters, `NN_topic.md`."""
    return book_dir() / "notebooks"


def profiles_dir() -> Path:
    """Return the folder of the profiles."""
    return book_dir() / "profiles"


def published_dir() -> Path:
    """Return the folder of published results, which chapters show next to their own."""
    return book_dir() / "published"


def data_dir() -> Path:
    """Return the folder of generated clips and prepared shards."""
    return workspace() / "data"


def build_dir() -> Path:
    """Return the folder of the built book; its first page is `html/index.html`."""
    return workspace() / "_build"


@dataclass(frozen=True)
class RunPaths:
    """The folders of one run; `shared_models` is the models' folder of another run, if this run uses it."""

    root: Path
    shared_models: Path | None = None

    @classmethod
    def of_profile(cls, profile: str) -> RunPaths:
        """Return the default run folder of a profile.

        Examples
        --------
        >>> RunPaths.of_profile("quick").tables.parts[-3:]
        ('runs', 'quick', 'tables')
        """
        return cls(workspace() / "runs" / profile)

    @property
    def settings(self) -> Path:
        """The resolved settings, YAML."""
        return self.root / "settings.yaml"

    @property
    def notebooks(self) -> Path:
        """Executed copies of the chapters."""
        return self.root / "notebooks"

    @property
    def tables(self) -> Path:
        """Tables as CSV."""
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        """Figures as PNG."""
        return self.root / "figures"

    @property
    def models(self) -> Path:
        """Checkpoints and metrics, one folder per model."""
        return self.shared_models or self.root / "models"
