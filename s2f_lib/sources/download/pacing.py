"""When to send a request: a rate limit and pauses that all threads share, and the back-off.

A server that answers "too many requests" limits the IP address, not the clip. So all threads wait, not only
the thread that got the answer.
"""

from __future__ import annotations

import random
import threading
import time
from urllib.parse import urlsplit

from s2f_lib.config import DownloadConfig

_YOUTUBE_HOSTS = ("youtube.com", "googlevideo.com", "youtu.be", "youtube-nocookie.com")
_YOUTUBE_CLIPS_PER_S = 300 / 3600  # yt-dlp's wiki, "Common YouTube Errors": about 300 videos per hour
_JITTER = random.Random()  # without a seed, because the waits of two machines must differ


class Stopped(Exception):
    """The run is ending; a thread that waits or downloads stops."""


class Pacer:
    """Lets threads start one by one, at most `max_per_s` per second (0: no limit), but not during a pause."""

    def __init__(self, max_per_s: float = 0.0) -> None:
        self._interval_s = 1.0 / max_per_s if max_per_s else 0.0
        self._lock = threading.Lock()
        self._next_s = 0.0  # on the monotonic clock
        self._pause_until_s = 0.0
        self._stop = threading.Event()

    def wait_turn(self) -> None:
        """Wait until the caller may send its request; raise `Stopped` if the run ends before."""
        with self._lock:
            turn_s = max(time.monotonic(), self._next_s)
            self._next_s = turn_s + self._interval_s
        while (wait_s := max(turn_s, self._pause_until_s) - time.monotonic()) > 0:
            self.sleep(wait_s)
        self.check()

    def pause(self, seconds: float) -> None:
        """Let no thread start for some seconds; a longer pause is not shortened."""
        with self._lock:
            self._pause_until_s = max(self._pause_until_s, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait, and raise `Stopped` as soon as the run ends."""
        if self._stop.wait(seconds):
            raise Stopped

    def check(self) -> None:
        """Raise `Stopped` if the run is ending."""
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """End the run and all waits."""
        self._stop.set()


def is_youtube(url: str) -> bool:
    """Return whether a URL belongs to a server of YouTube."""
    host = urlsplit(url).hostname or ""
    return any(host == name or host.endswith("." + name) for name in _YOUTUBE_HOSTS)


def clips_per_s(config: DownloadConfig) -> float:
    """Return the limit of clips per second; 0: no limit."""
    if config.max_clips_per_s is not None:
        return config.max_clips_per_s
    return _YOUTUBE_CLIPS_PER_S if is_youtube(config.url_template) else 0.0


def backoff_s(n_failed: int, config: DownloadConfig) -> float:
    """Return the wait after the n-th failed attempt, in seconds; it doubles up to `max_backoff_s`.

    Half of it is random, so that threads that failed together do not retry together.
    """
    longest_s = min(config.max_backoff_s, config.backoff_s * 2 ** (n_failed - 1))
    return longest_s * _JITTER.uniform(0.5, 1.0)
