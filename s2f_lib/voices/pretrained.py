"""Weights that are data files of installed packages: found and checked without importing the packages."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.storage import digest

INSTALL = 'install the extra with `pip install "s2f_lib[pretrained]"`'


def distribution_file(distribution: str, suffix: str) -> Path:
    """Return the file of an installed distribution whose path ends with `suffix`."""
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        raise MissingFileError(
            f"{suffix} not found: it comes with {distribution}, which is not installed; {INSTALL}"
        ) from None
    for file in files:
        path = Path(str(file.locate()))
        if path.as_posix().endswith(suffix) and path.is_file():
            return path
    raise MissingFileError(f"the installed {distribution} holds no file {suffix}; {INSTALL} again")


def read_checked(parts: list[Path], sha256: str) -> bytes:
    """Return the joined contents of files, after a check of their common SHA-256."""
    data = b"".join(path.read_bytes() for path in parts)
    found = digest(data, length=64)
    if found != sha256:
        names = " + ".join(path.name for path in parts)
        raise DataError(
            f"{names} has SHA-256 {found[:16]}..., expected {sha256[:16]}...: "
            f"damaged, or of another version; {INSTALL} again"
        )
    return data
