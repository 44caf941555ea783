"""A checked reader of CTranslate2's `model.bin`: names and arrays, nothing is executed.

Binary version 6, little endian: version, name of the specification, its revision,
number of variables; of each variable its name, rank, sizes, type and bytes; then
aliases, pairs of names.  A text is its length (with the final zero byte) and bytes.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from s2f_lib.errors import DataError

_VERSION = 6
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_MOST_VARIABLES = 100_000  # and aliases: far above any model, far below what a damaged count may say
_MOST_DIMENSIONS = 8


def read_model(data: bytes, *, specification: str) -> dict[str, np.ndarray]:
    """Return the variables of a model by name.

    Parameters
    ----------
    data
        The whole file.
    specification
        What the file has to say it is, for example "WhisperSpec".

    Returns
    -------
    dict of numpy.ndarray
        Read-only views of `data`, in the file's own types; aliases are names of the same array.

    Raises
    ------
    DataError
        The file is cut short, of another version or specification, or says what cannot be.
    """
    reader = _Reader(data)
    version = reader.number("I")
    if version != _VERSION:
        raise DataError(f"not a CTranslate2 model of binary version {_VERSION}: the file says {version}")
    found = reader.text()
    if found != specification:
        raise DataError(f"the model is a {found!r}, expected {specification!r}")
    reader.number("I")  # revision of the specification
    variables: dict[str, np.ndarray] = {}
    for _ in range(reader.count("variables")):
        name = reader.text()
        variables[name] = reader.array(name)
    for _ in range(reader.count("aliases")):
        alias, name = reader.text(), reader.text()
        if name not in variables:
            raise DataError(f"the model's alias {alias!r} names {name!r}, which it does not hold")
        variables[alias] = variables[name]
    if reader.position != len(data):
        raise DataError(
            f"the model goes on for {len(data) - reader.position} bytes after its end: it is damaged"
        )
    return variables


class _Reader:
    """Reads from a place onward, and refuses to read beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, n_bytes: int) -> int:
        """Move on by some bytes that have to be there, and return where they start."""
        start = self.position
        if start + n_bytes > len(self._data):
            raise DataError(
                f"the model ends at byte {len(self._data)}, within what starts at {start}: "
                "it is cut short or damaged"
            )
        self.position += n_bytes
        return start

    def number(self, kind: str) -> int:
        return struct.unpack_from(f"<{kind}", self._data, self.take(struct.calcsize(f"<{kind}")))[0]

    def count(self, what: str) -> int:
        n = self.number("I")
        if n > _MOST_VARIABLES:
            raise DataError(f"the model says it has {n} {what}: it is damaged")
        return n

    def text(self) -> str:
        length = self.number("H")
        start = self.take(length)
        try:
            return self._data[start : start + length].rstrip(b"\0").decode()
        except UnicodeDecodeError:
            raise DataError(
                f"the model holds a name at byte {start} that is no text: it is damaged"
            ) from None

    def array(self, name: str) -> np.ndarray:
        rank = self.number("B")
        if rank > _MOST_DIMENSIONS:
            raise DataError(f"the model's {name!r} has {rank} dimensions: it is damaged")
        shape = [self.number("I") for _ in range(rank)]
        kind = self.number("B")
        if kind not in _TYPES:
            raise DataError(f"the model's {name!r} is of type {kind}, which is unknown")
        n_bytes = self.number("I")
        dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
        if n_bytes != math.prod(shape) * dtype.itemsize:
            raise DataError(
                f"the model's {name!r} of shape {tuple(shape)} has {n_bytes} bytes: it is damaged"
            )
        start = self.take(n_bytes)
        return np.frombuffer(self._data, dtype, math.prod(shape), start).reshape(shape)
