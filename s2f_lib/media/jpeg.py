"""JPEG images, one at a time or many packed into one array."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np


def encode_jpeg(image: np.ndarray, *, quality: int = 92) -> bytes:
    """Compress an image as JPEG, with the colours at full resolution.

    Parameters
    ----------
    image
        `(height, width, 3)` uint8 RGB.
    quality
        JPEG quality, from 1 to 95.

    Returns
    -------
    bytes
        Content of a JPEG file.

    Examples
    --------
    >>> data = encode_jpeg(np.full((8, 8, 3), 120, np.uint8))
    >>> decode_jpeg(data)[0, 0]
    array([120, 120, 120], dtype=uint8)
    """
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=quality, subsampling=0)
    return sink.getvalue()


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decompress the content of a JPEG file to `(height, width, 3)` uint8 RGB.

    See Also
    --------
    encode_jpeg : The inverse, up to the compression's error.

    Examples
    --------
    >>> decode_jpeg(encode_jpeg(np.zeros((8, 16, 3), np.uint8))).shape
    (8, 16, 3)
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True, eq=False)
class PackedJpegs(Sequence[bytes]):
    """JPEG images in one array of bytes, which can be stored in a file and mapped into memory.

    An integer index returns the bytes of one image; a slice or an array of indices returns the selected
    images, packed, and reads nothing.

    Parameters
    ----------
    data
        `(n_bytes,)` uint8, the files' contents.
    spans
        `(n, 2)` int64: first byte and number of bytes of each image.

    Examples
    --------
    >>> packed = PackedJpegs.pack([b"first", b"second", b"third"])
    >>> packed[1]
    b'second'
    >>> list(packed[[2, 0]])
    [b'third', b'first']
    >>> packed.spans.tolist()
    [[0, 5], [5, 6], [11, 5]]
    """

    data: np.ndarray
    spans: np.ndarray

    @classmethod
    def pack(cls, images: Iterable[bytes]) -> PackedJpegs:
        """Copy the contents of JPEG files into one array."""
        images = list(images)
        lengths = np.array([len(image) for image in images], np.int64)
        spans = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
        return cls(np.frombuffer(b"".join(images), np.uint8), spans)

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> PackedJpegs: ...

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            start, length = self.spans[index]
            return self.data[start : start + length].tobytes()
        return PackedJpegs(self.data, self.spans[index])
