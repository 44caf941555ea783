"""Small real media files as fixtures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.media_files import draw_portraits, tone, write_media


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """(240, 320, 3) uint8 RGB with one face at its centre."""
    return draw_portraits(((160, 120),))


@pytest.fixture(scope="session")
def good_clip(tmp_path_factory, portrait) -> Path:
    """Two seconds of one face and a tone, H.264 and AAC."""
    path = tmp_path_factory.mktemp("media") / "good.mp4"
    return write_media(path, image=portrait, sound=tone(2.0))


@pytest.fixture(scope="session")
def small_portrait() -> np.ndarray:
    """(120, 160, 3) uint8 RGB with a face just large enough for the detector: clips of it cost 0.1 s."""
    large = draw_portraits(((160, 120),), face_px=160)
    return cv2.resize(large, (160, 120), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def media_writer():
    """The function `write_media`."""
    return write_media


@pytest.fixture(scope="session")
def portrait_drawer():
    """The function `draw_portraits`."""
    return draw_portraits


@pytest.fixture(scope="session")
def tone_maker():
    """The function `tone`."""
    return tone
