"""References to clips: the type that every source returns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MIN_CLIP_S = 1.0  # clips with less sound are refused
VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclass(frozen=True, slots=True)
class ClipRef:
    """One clip: a part of a video, some seconds long, in which one person speaks.

    Attributes
    ----------
    clip_id
        Name, unique in the list of clips: `<video id>_<start>-<end>`, in seconds with six decimals, or the
        path of a file.
    video_id
        Name of the video that contains the clip. A split never divides a video.
    start_s, end_s
        Start and end of the clip in the video, in seconds.
    x, y
        Centre of the speaker's face as a share of the frame's width and height, in [0, 1]; None if it is not
        known.
    media
        File with the clip or the whole video; None if it is not known.
    split
        "train" or "test"; None if the source does not set it.

    Examples
    --------
    >>> ClipRef("AAAAAAAAAAA_001.000000-004.500000", "AAAAAAAAAAA", 1.0, 4.5, 0.5, 0.5).duration_s
    3.5
    """

    clip_id: str
    video_id: str
    start_s: float
    end_s: float
    x: float | None = None
    y: float | None = None
    media: Path | None = None
    split: str | None = None

    @property
    def duration_s(self) -> float:
        """Length of the clip, in seconds."""
        return self.end_s - self.start_s


def make_clip_id(video_id: str, start_s: float, end_s: float) -> str:
    """Return the id of a clip, such as 'AAAAAAAAAAA_001.000000-004.500000', as in the Speech2Face pairs."""
    return f"{video_id}_{start_s:010.6f}-{end_s:010.6f}"
