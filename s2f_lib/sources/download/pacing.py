"""When to ask: a rate limit and a pause that all threads share, and back-off.

A server that says "too many requests" means the address, not the clip: all
threads wait, not only the one that was told.
"""

from __future__ import annotations

import random
import threading
import time

from s2f_lib.config import DownloadConfig


class Stopped(Exception):
    """The run is being ended; what is in work stops where it waits."""


class Pacer:
    """Lets threads through one by one, no faster than a rate, and none during a pause.

    Parameters
    ----------
    max_per_s
        Turns a second; 0: no limit.
    """

    def __init__(self, max_per_s: float = 0.0) -> None:
        self._interval_s = 1.0 / max_per_s if max_per_s else 0.0
        self._lock = threading.Lock()
        self._next_s = 0.0  # on the monotonic clock
        self._pause_until_s = 0.0
        self._stop = threading.Event()

    def wait_turn(self) -> None:
        """Return when the caller may begin a clip.

        Raises
        ------
        Stopped
            `stop` was called.
        """
        with self._lock:
            turn_s = max(time.monotonic(), self._next_s)
            self._next_s = turn_s + self._interval_s
        while (wait_s := max(turn_s, self._pause_until_s) - time.monotonic()) > 0:
            self.sleep(wait_s)
        self.check()

    def pause(self, seconds: float) -> None:
        """Let nobody through for some seconds; a longer pause that runs already stays."""
        with self._lock:
            self._pause_until_s = max(self._pause_until_s, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond `stop`."""
        if self._stop.wait(seconds):
            raise Stopped

    def check(self) -> None:
        """Raise `Stopped` where the run is being ended."""
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """End all waits."""
        self._stop.set()


def backoff_s(n_failed: int, config: DownloadConfig, rng: random.Random) -> float:
    """Return the wait after the n-th failed attempt, in seconds.

    It doubles each time up to `max_backoff_s`; half of it is random, so that threads
    which failed together do not ask again together.
    """
    longest_s = min(config.max_backoff_s, config.backoff_s * 2 ** (n_failed - 1))
    return longest_s * rng.uniform(0.5, 1.0)
