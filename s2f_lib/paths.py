"""Where things are: the one module that knows folder names.

The repository's root holds the book's sources; what is derived (`data/`,
`runs/`, `_build/`) lies under the workspace: the root itself, or the folder
that the environment variable `S2F_WORKSPACE` names.
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
    """Return the folder of the book's sources."""
    return repository_root() / "book"


def notebooks_dir() -> Path:
    """Return the folder of the chapters' sources, `NN_topic.md`."""
    return book_dir() / "notebooks"


def profiles_dir() -> Path:
    """Return the folder of the profiles."""
    return book_dir() / "profiles"


def published_dir() -> Path:
    """Return the folder of kept results, which chapters show beside their own."""
    return book_dir() / "published"


def data_dir() -> Path:
    """Return the folder of generated clips and prepared shards."""
    return workspace() / "data"


def build_dir() -> Path:
    """Return the folder of the built book; its index is `html/index.html`."""
    return workspace() / "_build"


@dataclass(frozen=True)
class RunPaths:
    """The folders of one run."""

    root: Path

    @classmethod
    def of_profile(cls, profile: str) -> RunPaths:
        """Return the run folder that a profile uses unless told otherwise."""
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
        """Checkpoints and metrics, a folder a model."""
        return self.root / "models"
