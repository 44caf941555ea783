"""The one module that knows the names of folders.

The root of the repository holds the sources of the book. Derived files (`data/`, `runs/`, `_build/`) lie in
the workspace: the folder that the environment variable `S2F_WORKSPACE` names, by default the root.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def repository_root() -> Path:
    """Return the folder that holds `_config.yml` and `book/`."""
    return Path(__file__).resolve().parents[1]


def workspace() -> Path:
    """Return the folder under which derived files are written."""
    return Path(os.environ.get("S2F_WORKSPACE", repository_root())).resolve()


def book_dir() -> Path:
    """Return the folder of the sources of the book."""
    return repository_root() / "book"


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
    """The folders of one run."""

    root: Path

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
        return self.root / "models"
