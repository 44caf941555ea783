"""What every source hands on: references to clips."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclass(frozen=True, slots=True)
class ClipRef:
    """One clip: some seconds of one video, with one person speaking.

    Attributes
    ----------
    clip_id
        Unique in its list: `<video id>_<start>-<end>`, seconds with six decimals.
    video_id
        The video that the clip was cut from; splits never divide a video.
    start_s, end_s
        The clip's place in the video, in seconds.
    x, y
        Centre of the speaker's face, as shares of the frame's width and height, in [0, 1].
    media
        The file that holds the clip; None where it is still to be found.
    split
        "train" or "test"; None where the source does not set it.
    """

    clip_id: str
    video_id: str
    start_s: float
    end_s: float
    x: float
    y: float
    media: Path | None = None
    split: str | None = None

    @property
    def duration_s(self) -> float:
        """The clip's length in seconds."""
        return self.end_s - self.start_s


def make_clip_id(video_id: str, start_s: float, end_s: float) -> str:
    """Return the clip's id, in the form of the Speech2Face pairs' file names."""
    return f"{video_id}_{start_s:010.6f}-{end_s:010.6f}"
