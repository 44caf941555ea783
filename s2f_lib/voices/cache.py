"""Vectors kept by the content of what they describe: a file each, whole or not there."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)


class VectorCache:
    """A folder of float32 vectors of one length.

    Parameters
    ----------
    folder
        Named by what made the vectors; None: nothing is kept.
    dimension
        Length of a vector.
    """

    def __init__(self, folder: Path | None, dimension: int) -> None:
        self.folder, self.dimension = folder, dimension

    def get(self, digest: str) -> np.ndarray | None:
        """Return a kept vector, or None where it is missing or damaged: it is then to be made again."""
        if self.folder is None:
            return None
        file = self._file(digest)
        try:
            vector = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError):
            vector = np.zeros(0)
        if vector.shape != (self.dimension,) or vector.dtype != np.float32 or not np.isfinite(vector).all():
            logger.warning("%s in the cache is damaged: it is made again", file.name)
            return None
        return vector

    def fill(self, digests: Sequence[str], vectors: np.ndarray) -> list[int]:
        """Write the kept vectors into the rows of `(n, dimension)`, and return the places of the others."""
        missing = []
        for index, digest in enumerate(digests):
            kept = self.get(digest)
            if kept is None:
                missing.append(index)
            else:
                vectors[index] = kept
        return missing

    def put(self, digest: str, vector: np.ndarray) -> None:
        """Keep a vector."""
        if self.folder is None:
            return
        file = self._file(digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}.part")
        with partial.open("wb") as stream:
            np.save(stream, vector.astype(np.float32))
        partial.replace(file)

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest[:32]}.npy"
