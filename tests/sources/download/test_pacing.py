"""Turns, pauses and waits between attempts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from s2f_lib.config import DownloadConfig
from s2f_lib.sources.download.pacing import Pacer, Stopped, backoff_s


def test_pacer_pause_holds_all_threads():
    """A 429 limits the IP address, so no thread may send a request before the pause is over."""
    pacer = Pacer()
    paused_at = time.monotonic()
    pacer.pause(0.6)
    pacer.pause(0.1)  # a shorter pause does not end the longer one
    with ThreadPoolExecutor(3) as threads:
        turns = list(threads.map(lambda _: (pacer.wait_turn(), time.monotonic())[1], range(3)))
    assert min(turns) >= paused_at + 0.6


def test_pacer_stop_ends_waits():
    pacer = Pacer()
    pacer.pause(3600)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pacer.wait_turn)
        pacer.stop()
        with pytest.raises(Stopped):
            waiting.result(timeout=60)


def test_backoff_doubles_with_jitter_up_to_its_limit():
    config = DownloadConfig(backoff_s=1.0, max_backoff_s=10.0)
    for n_failed, longest_s in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (12, 10)]:
        waits = [backoff_s(n_failed, config) for _ in range(50)]
        assert longest_s / 2 <= min(waits) < max(waits) <= longest_s
        assert len(set(waits)) == 50
