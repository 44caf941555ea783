"""Reader of torch7's binary `.t7` files: tables, numbers, texts and tensors.

The format is that of torch7's `File.lua`, little-endian and with 64-bit longs: each object starts with an
int32 that gives its kind; tables and torch objects have an index, to which later copies refer. An object of
a class is returned as the name of the class and its fields. No class is looked up and no Lua bytecode is
run: functions are skipped as bytes. Every length is checked against the rest of the file.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.errors import DataError

_NIL, _NUMBER, _STRING, _TABLE, _TORCH, _BOOLEAN = 0, 1, 2, 3, 4, 5
_FUNCTION, _LEGACY_RECURSIVE_FUNCTION, _RECURSIVE_FUNCTION = 6, 7, 8
_MAX_DEPTH = 100  # levels of nested objects; VGG-Face has about 6
_MAX_NAME_BYTES = 200  # length of a version or a class name

_ELEMENTS = {
    "Byte": "u1",
    "Char": "i1",
    "Short": "<i2",
    "Int": "<i4",
    "Long": "<i8",
    "Float": "<f4",
    "Double": "<f8",
    "Cuda": "<f4",  # cutorch's float32
    "CudaDouble": "<f8",
}


@dataclass(eq=False)
class TorchObject:
    """An object of a torch7 class."""

    class_name: str  # for example "nn.SpatialConvolution"
    fields: dict[Any, Any] = field(default_factory=dict)


def looks_like_torch7(head: bytes) -> bool:
    """Return whether the first bytes of a file start a binary torch7 object or table."""
    if len(head) < 8:
        return False
    kind, index = struct.unpack("<ii", head[:8])
    return kind in (_TABLE, _TORCH) and index == 1


def read_torch7(path: Path) -> Any:
    """Read the object that a binary `.t7` file holds.

    It is None, bool, float, str, dict (a table), `TorchObject`, or a NumPy array (a tensor or storage: a
    read-only view into the file).
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty; expected a torch7 file")
        # the arrays keep the mapping open, and pages are read when an array is used
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Reader(data, path.name).value(0)


class _Reader:
    """Reader of one object after the other."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data = data
        self._name = name
        self._position = 0
        self._seen: dict[int, Any] = {}

    def value(self, depth: int) -> Any:
        """Return the next object, which lies `depth` levels deep."""
        if depth > _MAX_DEPTH:
            raise self._error(f"objects nested more than {_MAX_DEPTH} deep")
        kind = self._int()
        if kind == _NIL:
            return None
        if kind == _NUMBER:
            return self._unpack("<d", 8)
        if kind == _STRING:
            return self._text(self._int())
        if kind == _BOOLEAN:
            return self._int() == 1
        if kind == _TABLE:
            return self._table(depth)
        if kind == _TORCH:
            return self._object(depth)
        if kind in (_FUNCTION, _LEGACY_RECURSIVE_FUNCTION, _RECURSIVE_FUNCTION):
            self._skip_function(kind, depth)
            return None
        raise self._error(f"unknown kind of object {kind}")

    def _table(self, depth: int) -> dict[Any, Any]:
        index = self._int()
        if index in self._seen:
            return self._seen[index]
        table: dict[Any, Any] = {}
        self._seen[index] = table
        count = self._int()
        if not 0 <= count <= self._left() // 8:  # a key and a value take at least four bytes each
            raise self._error(f"a table of {count} entries")
        for _ in range(count):
            key, value = self.value(depth + 1), self.value(depth + 1)
            if isinstance(key, bool | float | str):
                table[key] = value
        return table

    def _object(self, depth: int) -> Any:
        index = self._int()
        if index in self._seen:
            return self._seen[index]
        name = self._name_text()
        if name.startswith("V "):  # a version stands before the class
            name = self._name_text()
        package, _, kind = name.partition(".")
        element = _ELEMENTS.get(kind.removesuffix("Tensor").removesuffix("Storage"))
        if package == "torch" and element and kind.endswith("Storage"):
            self._seen[index] = self._storage(element)
        elif package == "torch" and element and kind.endswith("Tensor"):
            self._seen[index] = self._tensor(element, depth)
        else:
            found = self._seen[index] = TorchObject(name)
            fields = self.value(depth + 1)
            if not isinstance(fields, dict):
                raise self._error(f"an object of class {name} without fields")
            found.fields = fields
        return self._seen[index]

    def _storage(self, element: str) -> np.ndarray:
        count = self._long()
        size = np.dtype(element).itemsize
        if not 0 <= count <= self._left() // size:
            raise self._error(f"a storage of {count} numbers, with {self._left()} bytes left")
        values = np.frombuffer(self._data, dtype=element, count=count, offset=self._position)
        self._position += count * size
        return values

    def _tensor(self, element: str, depth: int) -> np.ndarray:
        dimensions = self._int()
        if not 0 <= dimensions <= 8:
            raise self._error(f"a tensor of {dimensions} dimensions")
        shape = tuple(self._long() for _ in range(dimensions))
        strides = tuple(self._long() for _ in range(dimensions))
        offset = self._long() - 1  # Lua counts from 1
        storage = self.value(depth + 1)
        if dimensions == 0 or storage is None:
            return np.zeros(0, dtype=element)
        if not isinstance(storage, np.ndarray) or min(shape) < 0 or min(strides) < 0:
            raise self._error(f"a tensor of shape {shape} and strides {strides}")
        if math.prod(shape) == 0:
            return np.zeros(shape, dtype=element)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if offset < 0 or last >= storage.size:
            raise self._error(f"a tensor of shape {shape} beyond its {storage.size} numbers")
        return np.lib.stride_tricks.as_strided(
            storage[offset:], shape, [stride * storage.itemsize for stride in strides], writeable=False
        )

    def _skip_function(self, kind: int, depth: int) -> None:
        """Skip Lua bytecode and the values that it closes over."""
        index = self._int() if kind != _FUNCTION else None
        if index is not None and index in self._seen:
            return
        if index is not None:
            self._seen[index] = None
        self._take(self._int())
        self.value(depth + 1)

    def _name_text(self) -> str:
        size = self._int()
        if not 0 < size <= _MAX_NAME_BYTES:
            raise self._error(f"a class name of {size} bytes")
        return self._text(size)

    def _text(self, size: int) -> str:
        return self._take(size).decode("utf-8", errors="replace")

    def _int(self) -> int:
        return self._unpack("<i", 4)

    def _long(self) -> int:
        return self._unpack("<q", 8)

    def _unpack(self, layout: str, size: int) -> Any:
        return struct.unpack(layout, self._take(size))[0]

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= self._left():
            raise self._error(f"the file ends early ({size} bytes expected, {self._left()} left)")
        self._position += size
        return self._data[self._position - size : self._position]

    def _left(self) -> int:
        return len(self._data) - self._position

    def _error(self, what: str) -> DataError:
        return DataError(
            f"{self._name}: {what} near byte {self._position}; expected a complete binary torch7 file, "
            "little-endian with 64-bit longs; download it again"
        )
