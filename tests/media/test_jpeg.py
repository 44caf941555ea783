"""JPEG images: their error, and many of them packed into one array."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.media.jpeg import PackedJpegs, decode_jpeg, encode_jpeg


def test_jpeg_round_trip_keeps_a_smooth_image():
    ramp = np.stack(np.broadcast_arrays(np.arange(224), np.arange(224)[:, None], 90), -1).astype(np.uint8)
    back = decode_jpeg(encode_jpeg(ramp, quality=92)).astype(int)
    assert np.abs(back - ramp).mean() < 2


def test_packed_jpegs_return_each_image_and_subsets():
    images = [b"first", b"", b"third"]
    packed = PackedJpegs.pack(images)
    assert list(packed) == images
    assert (packed[-1], packed[np.int64(0)]) == (b"third", b"first")
    assert list(packed[1:]) == images[1:]
    assert list(packed[np.array([2, 2, 0])]) == [b"third", b"third", b"first"]
    assert packed[1:].data is packed.data  # selecting copies no image
    with pytest.raises(IndexError):
        packed[3]


def test_packed_jpegs_without_images_are_empty():
    packed = PackedJpegs.pack([])
    assert list(packed) == []
    assert packed.spans.shape == (0, 2)
