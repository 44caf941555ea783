"""Processes that prepare clips: bounded work in flight, and a crash costs one clip.

They are spawned, not forked: torch and dlib do not survive a fork.  So a script
that prepares clips keeps its work under `if __name__ == "__main__"`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from s2f_lib.config import StudyConfig
from s2f_lib.errors import RefusalReason
from s2f_lib.features.base import make_extractor
from s2f_lib.preparation.face_detector import make_detector
from s2f_lib.preparation.stages import Outcome, prepare_clip
from s2f_lib.sources.clip import ClipRef

logger = logging.getLogger(__name__)

Task = tuple[int, ClipRef]  # place in the ledger, clip

_IN_FLIGHT = 3  # tasks a worker: one at work, two waiting; a finished row is about 0.2 MB


class ClipWorker:
    """The tools that one process loads once, and what it does with a clip."""

    def __init__(self, config: StudyConfig, *, with_features: bool) -> None:
        self._config = config.preparation
        self._detector = make_detector(
            self._config.detector,
            threshold=self._config.detection_threshold,
            width_px=self._config.detection_width_px,
        )
        self._extractor = make_extractor(config.features) if with_features else None

    def __call__(self, clip: ClipRef) -> Outcome:
        return prepare_clip(clip, self._config, detector=self._detector, extractor=self._extractor)


def prepare_clips(
    tasks: Iterable[Task], config: StudyConfig, *, workers: int, with_features: bool
) -> Iterator[tuple[int, Outcome]]:
    """Prepare clips in processes, and yield what came of each as it is finished.

    Parameters
    ----------
    tasks
        Taken only as there is room: at most three a worker are in flight.
    config
        Settings of preparation and features.
    workers
        Processes; 1 works in this one.
    with_features
        Whether the workers compute the features too.
    """
    if workers == 1:
        worker = ClipWorker(config, with_features=with_features)
        for place, clip in tasks:
            yield place, worker(clip)
        return
    crew = _Crew(config, workers=workers, with_features=with_features)
    try:
        yield from crew.run(iter(tasks))
    finally:
        crew.close()


class _Crew:
    """A process pool that is put together again when a clip brings a process down."""

    def __init__(self, config: StudyConfig, *, workers: int, with_features: bool) -> None:
        self._arguments = (config, with_features)
        self._workers = workers
        self._pool = self._new_pool(workers)

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[int, Outcome]]:
        flying: dict[Future, Task] = {}
        exhausted = False
        while True:
            grounded: list[Task] = []  # were in flight when a process died
            while not exhausted and not grounded and len(flying) < _IN_FLIGHT * self._workers:
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                try:
                    flying[self._pool.submit(_work, task[1])] = task
                except BrokenProcessPool:
                    grounded.append(task)
            if not flying and not grounded:
                return
            finished = wait(flying, return_when=FIRST_COMPLETED).done if flying else set()
            for future in finished:
                task = flying.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    grounded.append(task)
                else:
                    yield task[0], outcome
            if grounded:
                grounded += flying.values()
                flying.clear()
                yield from self._one_by_one(sorted(grounded, key=lambda task: task[0]))

    def _one_by_one(self, tasks: list[Task]) -> Iterator[tuple[int, Outcome]]:
        """Find the clip that brought a process down: each alone in a process of its own."""
        logger.warning("a worker process died; %d clips in flight are tried one by one", len(tasks))
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._new_pool(1)
        for place, clip in tasks:
            try:
                yield place, self._pool.submit(_work, clip).result()
            except BrokenProcessPool:
                detail = "a process died of it, twice; look at the file"
                yield place, Outcome(None, RefusalReason.CRASHED, detail)
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = self._new_pool(1)
        self._pool.shutdown(wait=True)
        self._pool = self._new_pool(self._workers)

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=self._arguments,
        )

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


_arguments: tuple[StudyConfig, bool] | None = None
_worker: ClipWorker | None = None


def _start_worker(config: StudyConfig, with_features: bool) -> None:
    """Set a process up: one thread, no part in Ctrl-C, and no life after its parent."""
    import cv2

    global _arguments
    _arguments = (config, with_features)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run in order
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # a parent killed by -9 closes no pipe that its children hold too, so they would wait for ever
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(clip: ClipRef) -> Outcome:
    """Prepare a clip; the tools are loaded with the first, where an error still reaches the parent."""
    global _worker
    if _worker is None:
        config, with_features = _arguments
        _worker = ClipWorker(config, with_features=with_features)
    return _worker(clip)
