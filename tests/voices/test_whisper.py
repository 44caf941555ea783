"""The reader of CTranslate2 files: correct values, and damaged files are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from s2f_lib.errors import DataError
from s2f_lib.voices.whisper import read_ctranslate2

WEIGHT = np.arange(6, dtype=np.float16).reshape(2, 3)
BIAS = np.array([1.5, -2.0], np.float32)


def _text(value: str) -> bytes:
    data = value.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def _variable(name: str, values: np.ndarray, kind: int) -> bytes:
    sizes = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return _text(name) + sizes + struct.pack("<BI", kind, values.nbytes) + values.tobytes()


def model(*, version: int = 6, name: str = "TinySpec", alias_of: str = "linear/weight") -> bytes:
    """Return a model with two variables and one alias."""
    variables = _variable("linear/weight", WEIGHT, 4) + _variable("linear/bias", BIAS, 0)
    aliases = struct.pack("<I", 1) + _text("tied/weight") + _text(alias_of)
    return struct.pack("<I", version) + _text(name) + struct.pack("<II", 3, 2) + variables + aliases


def test_read_ctranslate2_returns_the_written_values():
    found = read_ctranslate2(model(), specification="TinySpec")
    assert np.array_equal(found["linear/weight"], WEIGHT)
    assert np.array_equal(found["linear/bias"], BIAS)
    assert found["tied/weight"] is found["linear/weight"]
    assert (found["linear/weight"].dtype, found["linear/bias"].dtype) == (np.float16, np.float32)


def test_read_ctranslate2_cut_anywhere_raises():
    whole = model()
    for length in range(len(whole)):
        with pytest.raises(DataError, match=r"cut short|not a CTranslate2"):
            read_ctranslate2(whole[:length], specification="TinySpec")


def test_read_ctranslate2_foreign_or_damaged_raises():
    with pytest.raises(DataError, match="binary version 6"):
        read_ctranslate2(model(version=5), specification="TinySpec")
    with pytest.raises(DataError, match="'OtherSpec', expected 'TinySpec'"):
        read_ctranslate2(model(name="OtherSpec"), specification="TinySpec")
    with pytest.raises(DataError, match="does not hold"):
        read_ctranslate2(model(alias_of="nothing"), specification="TinySpec")
    with pytest.raises(DataError, match="after its end"):
        read_ctranslate2(model() + b"more", specification="TinySpec")
    with pytest.raises(DataError):
        read_ctranslate2(b"PK\x03\x04 a zip file" * 10, specification="TinySpec")


def test_read_ctranslate2_wrong_sizes_raise():
    wrong = _text("w") + struct.pack("<BI", 1, 5) + struct.pack("<BI", 0, 8) + bytes(8)  # 5 floats in 8 bytes
    head = struct.pack("<I", 6) + _text("TinySpec") + struct.pack("<II", 3, 1)
    with pytest.raises(DataError, match=r"shape \(5,\) has 8 bytes"):
        read_ctranslate2(head + wrong + struct.pack("<I", 0), specification="TinySpec")
    unknown = _text("w") + struct.pack("<BI", 1, 1) + struct.pack("<BI", 9, 4) + bytes(4)
    with pytest.raises(DataError, match="of type 9"):
        read_ctranslate2(head + unknown + struct.pack("<I", 0), specification="TinySpec")
    many = struct.pack("<I", 6) + _text("TinySpec") + struct.pack("<II", 3, 2**31)
    with pytest.raises(DataError, match="variables: it is damaged"):
        read_ctranslate2(many, specification="TinySpec")
