"""Processes that prepare clips: bounded work in flight, and a crash costs one clip.

They are spawned, not forked: torch and dlib do not survive a fork.  So a script
that prepares clips keeps its work under `if __name__ == "__main__"`.

Clips overlap: while one is downloaded, others are decoded, looked at or described,
each in another process.  Where a GPU detects, some processes decode, one thread here
gives the GPU decoded clips, several at a time, and other processes do the rest.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from s2f_lib.config import PreparationConfig, StudyConfig
from s2f_lib.errors import RefusalReason
from s2f_lib.faces.detection import torch_threads
from s2f_lib.preparation.clip import AlignAndEmbed, ClipWork, ClipWorker, GpuStages, Outcome, decode
from s2f_lib.sources.clip import ClipRef

logger = logging.getLogger(__name__)

Task = tuple[int, ClipRef]  # place in the ledger, clip
MakeWorker = Callable[[], Callable[[Any], object]]
Known = tuple[int, Outcome]  # an outcome that needs no work: a clip that could not be fetched

_IN_FLIGHT = 3  # tasks a worker: one at work, two waiting; a finished row is about 0.2 MB
_BATCH = 8  # clips that a GPU takes together
_BATCHES_WAITING = 2  # decoded clips are large: 3 frames of 640x360 are 2 MB, of 1920x1080 19 MB


def prepare_clips(
    tasks: Iterable[Task | Known | None],
    config: StudyConfig,
    *,
    workers: int,
    with_features: bool,
    device: str = "cpu",
) -> Iterator[Known | None]:
    """Prepare clips in processes, and yield what came of each as it is finished.

    Parameters
    ----------
    tasks
        Taken only as there is room: at most three a worker are in flight.  An outcome in the
        place of a clip is handed on; None means that there is no clip at the moment.
    config
        Settings of preparation and features.
    workers
        Processes; 1 works in this one.
    with_features
        Whether the workers compute the features too.
    device
        "cpu", or the GPU that detects for all of them.

    Yields
    ------
    position, outcome
        Or None, for every None of `tasks`.
    """
    if device != "cpu":
        decoders = WorkerPool(partial(_Decoder, config.preparation), workers=workers)
        finishers = WorkerPool(partial(AlignAndEmbed, config, with_features=with_features), workers=workers)
        detected = in_batches(decoders.run(iter(tasks)), partial(GpuStages, config, device=device))
        return _closing([decoders, finishers], finishers.run(detected))
    make_worker = partial(ClipWorker, config, with_features=with_features)
    if workers == 1:
        return _in_this_process(tasks, make_worker)
    pool = WorkerPool(make_worker, workers=workers)
    return _closing([pool], pool.run(iter(tasks)))


def _in_this_process(
    tasks: Iterable[Task | Known | None], make_worker: Callable[[], ClipWorker]
) -> Iterator[Known | None]:
    worker = make_worker()
    for task in tasks:
        if task is None or isinstance(task[1], Outcome):
            yield task
        else:
            # as each of several processes has: shared among more threads, sums round otherwise, and a run
            # that goes on with another number of workers has to write the same rows
            with torch_threads(1):
                outcome = worker(task[1])
            yield task[0], outcome


def _closing(pools: list[WorkerPool], outcomes: Iterator[Known | None]) -> Iterator[Known | None]:
    try:
        yield from outcomes
    finally:
        for pool in pools:
            pool.close()


def in_batches(
    decoded: Iterator[tuple[int, ClipWork | Outcome] | None], make_stages: Callable[[], GpuStages]
) -> Iterator[tuple[int, ClipWork | Outcome] | None]:
    """Take decoded clips through a device's stages in one thread, a batch at a time.

    Clips whose way has ended come out as outcomes, in the order in which they end.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="device") as thread:
        stages = thread.submit(make_stages).result()
        waiting: deque[tuple[list[int], Future[list[ClipWork]]]] = deque()
        batch: list[tuple[int, ClipWork]] = []

        def send() -> None:
            positions = [position for position, _ in batch]
            waiting.append((positions, thread.submit(stages, [work for _, work in batch])))
            batch.clear()

        def receive() -> Iterator[tuple[int, ClipWork | Outcome]]:
            positions, future = waiting.popleft()
            for position, work in zip(positions, future.result(), strict=True):
                yield position, work if work.refusal is None else work.outcome

        for item in decoded:
            if item is None or isinstance(item[1], Outcome):
                yield item
            elif item[1].refusal is not None:
                yield item[0], item[1].outcome
            else:
                batch.append(item)
            # where no clip comes at the moment, a part of a batch must not wait for more
            if len(batch) == _BATCH or (item is None and batch):
                send()
            while len(waiting) > _BATCHES_WAITING or (waiting and waiting[0][1].done()):
                yield from receive()
        if batch:
            send()
        while waiting:
            yield from receive()


class _Decoder:
    """The one stage of processes whose clips a GPU goes on with."""

    def __init__(self, config: PreparationConfig) -> None:
        self._config = config

    def __call__(self, clip: ClipRef) -> ClipWork:
        return decode(clip, self._config)


class WorkerPool:
    """A process pool that is put together again when a clip brings a process down.

    Parameters
    ----------
    make_worker
        Called once in each process, with its first clip; makes what is then called with each clip, or with
        what an earlier stage made of it.
    workers
        Number of processes.
    """

    def __init__(self, make_worker: MakeWorker, *, workers: int) -> None:
        self._make_worker = make_worker
        self._workers = workers
        self._results = tempfile.TemporaryDirectory(prefix="s2f-")
        self._pool = self._new_pool(workers)

    def run(self, tasks: Iterator[Task | Known | None]) -> Iterator[tuple[int, object] | None]:
        """Yield each place with what its clip became, in the order in which they end."""
        in_flight: dict[Future, Task] = {}
        exhausted = False
        while True:
            orphaned: list[Task] = []  # were in flight when a process died
            idle = False
            while not (exhausted or idle or orphaned) and len(in_flight) < _IN_FLIGHT * self._workers:
                try:
                    task = next(tasks)
                except StopIteration:
                    exhausted = True
                    break
                if task is None or isinstance(task[1], Outcome):
                    idle = task is None
                    yield task
                    continue
                try:
                    in_flight[self._submit(task[1])] = task
                except BrokenProcessPool:
                    orphaned.append(task)
            if exhausted and not in_flight and not orphaned:
                return
            # where there was no task, whoever gives them has waited already
            timeout_s = 0 if idle else None
            finished = wait(in_flight, timeout_s, return_when=FIRST_COMPLETED).done if in_flight else set()
            for future in finished:
                task = in_flight.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    orphaned.append(task)
                else:
                    yield task[0], _received(result)
            if orphaned:
                orphaned += in_flight.values()
                in_flight.clear()
                yield from self._one_by_one(sorted(orphaned, key=lambda task: task[0]))

    def _one_by_one(self, tasks: list[Task]) -> Iterator[tuple[int, object]]:
        """Find the clip that brought a process down: each alone in a process of its own."""
        logger.warning("a worker process died; %d clips in flight are tried one by one", len(tasks))
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._new_pool(1)
        for position, clip in tasks:
            try:
                yield position, _received(self._submit(clip).result())
            except BrokenProcessPool:
                detail = "a process died of it, twice; look at the file"
                yield position, Outcome(None, RefusalReason.CRASHED, detail)
                self._pool.shutdown(wait=True, cancel_futures=True)
                self._pool = self._new_pool(1)
        self._pool.shutdown(wait=True)
        self._pool = self._new_pool(self._workers)

    def _submit(self, clip: ClipRef | ClipWork) -> Future[Path]:
        return self._pool.submit(_work, clip, Path(self._results.name))

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._make_worker, Path(self._results.name)),
        )

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._results.cleanup()


_make_worker: MakeWorker | None = None
_worker: Callable[[Any], object] | None = None


def _start_worker(make_worker: MakeWorker, results: Path) -> None:
    """Set a process up: one thread, no part in Ctrl-C, and no life after its parent."""
    import cv2

    global _make_worker
    _make_worker = make_worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run in order
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, args=(results,), daemon=True).start()


def _end_with_parent(results: Path) -> None:
    # a parent killed by -9 closes no pipe that its children hold too, so they would wait for ever
    multiprocessing.parent_process().join()
    shutil.rmtree(results, ignore_errors=True)  # nobody takes them any more
    os._exit(1)


def _work(clip: ClipRef | ClipWork, folder: Path) -> Path:
    """Prepare a clip, and leave what it became in a file of the folder.

    The tools are loaded with the first clip, where an error still reaches the parent.  A result goes by
    file, since a process that is killed while it writes a long one to the pool's pipe would leave the
    parent waiting for the rest of it for ever; a path is written at once.
    """
    global _worker
    if _worker is None:
        _worker = _make_worker()
        if "torch" in sys.modules:  # else each process has as many threads as there are cores
            sys.modules["torch"].set_num_threads(1)
    path = folder / uuid.uuid4().hex
    path.write_bytes(pickle.dumps(_worker(clip)))
    return path


def _received(path: Path) -> object:
    result = pickle.loads(path.read_bytes())
    path.unlink()
    return result
