"""Two drawn clips for the extractors that run in the pipeline."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from s2f_lib.sources.clip import ClipRef


@pytest.fixture(scope="session")
def portrait_clips(tmp_path_factory) -> list[ClipRef]:
    """Two clips of a second, each with a drawn face and a tone."""
    location = Path(__file__).parents[1] / "preparation" / "conftest.py"
    spec = importlib.util.spec_from_file_location("preparation_media", location)
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    folder = tmp_path_factory.mktemp("portraits")
    clips = []
    for number, x in enumerate((140, 180)):
        media = drawing.write_media(
            folder / f"{number}.mp4",
            duration_s=1.2,
            picture=drawing.draw_portraits(((x, 120),)),
            sound=drawing.tone(1.2),
        )
        clips.append(
            ClipRef(f"clip-{number}", f"video-{number}", 0.0, 1.2, 0.5, 0.5, media=media, split="train")
        )
    return clips
