"""Work on people, one after the other or spread over processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from s2f_lib.errors import DataError

_CHUNK = 4  # items handed to a process at once

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, what: str
) -> Iterator[tuple[int, Result]]:
    """Yield each item's place and result, as they come.

    Parameters
    ----------
    function
        Picklable: a module's function, or a partial of one.
    workers
        Processes; 0: one a core.  1 works in this process.
    what
        What is made, for the message.

    Raises
    ------
    DataError
        A process died.
    """
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(items)))
    if workers == 1:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    # spawn: a fork of a process that has threads (torch, notebooks) may hang
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        pending: dict[Future[list[Result]], int] = {
            pool.submit(_apply, function, items[start : start + _CHUNK]): start
            for start in range(0, len(items), _CHUNK)
        }
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                start = pending.pop(future)
                yield from enumerate(future.result(), start)
    except BrokenProcessPool:
        raise DataError(
            f"a process that makes {what} died, perhaps for lack of memory: "
            "run again to go on, with fewer workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
