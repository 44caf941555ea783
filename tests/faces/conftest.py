"""An image of a face, and two clips of faces."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.sources.clip import ClipRef
from tests.media_files import draw_portraits, tone, write_media


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """(240, 320, 3) uint8 RGB with one face at its centre."""
    return draw_portraits(((160, 120),))


@pytest.fixture(scope="session")
def portrait_clips(tmp_path_factory) -> list[ClipRef]:
    """Two clips of 1.2 s, each with a face and a tone."""
    folder = tmp_path_factory.mktemp("portraits")
    clips = []
    for number, x in enumerate((140, 180)):
        media = write_media(
            folder / f"{number}.mp4",
            duration_s=1.2,
            image=draw_portraits(((x, 120),)),
            sound=tone(1.2),
        )
        clips.append(
            ClipRef(f"clip-{number}", f"video-{number}", 0.0, 1.2, 0.5, 0.5, media=media, split="train")
        )
    return clips
