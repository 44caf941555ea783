"""Where a clip is fetched from, and how fast one may ask there."""

from __future__ import annotations

from urllib.parse import urlsplit

from s2f_lib.config import DownloadConfig
from s2f_lib.sources.avspeech import MEDIA_EXTENSIONS
from s2f_lib.sources.clip import ClipRef

_YOUTUBE_HOSTS = ("youtube.com", "googlevideo.com", "youtu.be", "youtube-nocookie.com")
_YOUTUBE_CLIPS_PER_S = (
    300 / 3600
)  # yt-dlp's wiki ("Common YouTube Errors"): about 300 videos an hour a session


def clip_url(clip: ClipRef, config: DownloadConfig) -> str:
    """Return the address of a clip by the template."""
    return config.url_template.format(
        id=clip.video_id, clip_id=clip.clip_id, start_s=clip.start_s, end_s=clip.end_s
    )


def is_youtube(url: str) -> bool:
    """Return whether an address is one of YouTube's servers."""
    host = urlsplit(url).hostname or ""
    return any(host == name or host.endswith("." + name) for name in _YOUTUBE_HOSTS)


def is_file_link(config: DownloadConfig) -> bool:
    """Return whether the template names media files, not pages."""
    return urlsplit(config.url_template).path.lower().endswith(MEDIA_EXTENSIONS)


def takes_whole_file(config: DownloadConfig) -> bool:
    """Return whether files are fetched as they are, not cut to the clip's seconds."""
    return is_file_link(config) if config.whole_file is None else config.whole_file


def clips_per_s(config: DownloadConfig) -> float:
    """Return the rate at which clips may be begun; 0: no limit."""
    if config.max_clips_per_s is not None:
        return config.max_clips_per_s
    return _YOUTUBE_CLIPS_PER_S if is_youtube(config.url_template) else 0.0
