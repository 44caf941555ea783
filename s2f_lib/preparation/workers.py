"""Clips in worker processes: a bounded number of clips in flight, and a crash refuses one clip.

Processes are spawned, because torch and dlib do not survive a fork. They import the script that prepares
clips, so the script must start its work under `if __name__ == "__main__"`. If a process dies before its first
clip, the set-up is at fault: the run ends, and no clip is refused.

Without a GPU, each process runs all stages on one clip at a time. With a GPU, some processes decode, one
thread of this process passes batches of decoded clips to the GPU, and other processes run the rest.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from s2f_lib.config import FeatureConfig, PreparationConfig
from s2f_lib.errors import RefusalReason, StudyError
from s2f_lib.faces.detection import torch_threads
from s2f_lib.preparation.clip import ClipStages, ClipState, Stage

logger = logging.getLogger(__name__)

_IN_FLIGHT = 3  # clips per worker: one in work, two waiting; a finished row is about 0.2 MB
_GPU_BATCH = 8  # clips that a GPU processes together
_GPU_BATCHES = (
    3  # batches in flight; decoded clips are large: 3 frames of 640x360 are 2 MB, of 1920x1080 19 MB
)
_READY = "ready"  # file in the folder of the results; a worker writes it when it has loaded its networks

States = Iterable[ClipState | None]  # None: no clip is available at the moment


def prepare_clips(
    states: States,
    preparation: PreparationConfig,
    features: FeatureConfig,
    *,
    workers: int,
    with_features: bool,
    sound_only: bool = False,
    device: str = "cpu",
) -> Generator[ClipState | None, None, None]:
    """Prepare clips in worker processes, and yield each clip when it is finished.

    Parameters
    ----------
    states
        Clips, taken only when there is room: at most three per worker are in flight. A refused clip is
        passed on. None means that no clip is available at the moment.
    preparation, features
        Settings.
    workers
        Number of processes. 1 works in this process.
    with_features
        Whether the workers compute features, too.
    sound_only
        Whether only the sound is prepared, without faces and features.
    device
        "cpu", or the GPU that detects faces for all workers.

    Yields
    ------
    ClipState or None
        Finished and refused clips in the order in which they end, and None for each None of `states`.
    """

    def make(*stages: Stage, device: str = "cpu") -> Callable[[], ClipStages]:
        return partial(ClipStages, stages, preparation, features, device=device)

    last: tuple[Stage, ...] = ("align", "features") if with_features else ("align",)
    every: tuple[Stage, ...] = ("sound",) if sound_only else ("decode", "detect", *last)
    with ExitStack() as stack:
        if device != "cpu":
            decoders = stack.enter_context(closing(WorkerPool(make("decode"), workers=workers)))
            finishers = stack.enter_context(closing(WorkerPool(make(*last), workers=workers)))
            detect = stack.enter_context(gpu_thread(make("detect", device=device)))
            yield from finishers.run(detect(decoders.run(states)))
        elif workers == 1:
            yield from _in_this_process(states, make(*every))
        else:
            pool = stack.enter_context(closing(WorkerPool(make(*every), workers=workers)))
            yield from pool.run(states)


def stream(
    states: States,
    submit: Callable[[list[ClipState]], Future],
    *,
    batch_size: int = 1,
    in_flight: Callable[[], int],
    load: Callable[[Any], list[ClipState]] = list,
    is_lost: Callable[[Exception], bool] = lambda error: False,
    retry: Callable[[list[ClipState]], Iterable[ClipState]] = list,
) -> Iterator[ClipState | None]:
    """Submit batches of clips, a bounded number at a time, and yield the clips as they end.

    Parameters
    ----------
    states
        As in `prepare_clips`. Refused clips and None are passed on; None also submits an incomplete batch.
    submit, batch_size
        Function that starts work on a batch, and its number of clips.
    in_flight
        Function that returns the number of batches that may be in flight.
    load
        Function that turns the result of a future into clips.
    is_lost, retry
        Whether an exception means that the process of the batch died, and a function that processes such
        clips again, one by one. Other exceptions end the run.
    """
    futures: dict[Future, list[ClipState]] = {}
    batch: list[ClipState] = []

    def send() -> None:
        futures[submit(batch.copy())] = batch.copy()
        batch.clear()

    def finished(*, block: bool) -> Iterator[ClipState]:
        lost: list[ClipState] = []
        wait(futures, None if block else 0, FIRST_COMPLETED)
        while (future := next((future for future in futures if future.done()), None)) is not None:
            clips = futures.pop(future)
            error = future.exception()
            if error is None:
                yield from load(future.result())
            elif isinstance(error, Exception) and is_lost(error):
                lost += clips
            else:
                raise error
        if lost:
            yield from retry(sorted(lost, key=lambda state: state.position))

    for state in states:
        if state is None or state.reason is not None:
            yield state
        else:
            batch.append(state)
        if len(batch) == batch_size or (state is None and batch):
            send()
        yield from finished(block=len(futures) >= in_flight())
    if batch:
        send()
    while futures:
        yield from finished(block=True)


@contextmanager
def gpu_thread(
    make_stages: Callable[[], ClipStages],
) -> Iterator[Callable[[States], Iterator[ClipState | None]]]:
    """Yield a function that runs a GPU's stages on a stream of clips, in batches, in one thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="device") as thread:
        stages = thread.submit(make_stages).result()
        yield partial(
            stream,
            submit=lambda states: thread.submit(stages.run, states),
            batch_size=_GPU_BATCH,
            in_flight=lambda: _GPU_BATCHES,
        )


def _in_this_process(states: States, make_stages: Callable[[], ClipStages]) -> Iterator[ClipState | None]:
    stages = make_stages()
    for state in states:
        if state is not None and state.reason is None:
            # one thread, as in each of several processes: sums round differently when they are divided among
            # threads, and the rows must not depend on the number of workers
            with torch_threads(1):
                stages.run([state])
        yield state


class WorkerPool:
    """A process pool that is started again when a clip kills a process.

    Parameters
    ----------
    make_stages
        Function that makes the stages, called once per process with its first clip.
    workers
        Number of processes.
    """

    def __init__(self, make_stages: Callable[[], ClipStages], *, workers: int) -> None:
        self._make_stages = make_stages
        self._workers = workers
        self._results = tempfile.TemporaryDirectory(prefix="s2f-")
        self._pool = self._new_pool(workers)

    def run(self, states: States) -> Iterator[ClipState | None]:
        """Run the stages on a stream of clips; see `stream`."""
        return stream(
            states,
            self._submit,
            in_flight=lambda: _IN_FLIGHT * self._workers,
            load=_load_result,
            is_lost=self._is_lost,
            retry=self._one_by_one,
        )

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._results.cleanup()

    def _is_lost(self, error: Exception) -> bool:
        if isinstance(error, BrokenProcessPool):
            self._pool.shutdown(wait=True)  # then all clips in flight are known to be lost, too
            self._check_started()
            return True
        return False

    def _check_started(self) -> None:
        if not (Path(self._results.name) / _READY).exists():
            raise StudyError(
                "the worker processes died before their first clip; their own messages are above. If a "
                'script calls prepare, write `if __name__ == "__main__":` above the call: each process '
                "imports the script. If memory was short, use fewer workers. No clip was refused"
            )

    def _one_by_one(self, states: Sequence[ClipState]) -> Iterator[ClipState]:
        """Find the clip that killed a process: run each clip in flight in a process of its own."""
        logger.warning("a worker process died; %d clips in flight are tried one by one", len(states))
        self._restart(1)
        for state in states:
            try:
                yield from _load_result(self._submit([state]).result())
            except BrokenProcessPool:
                self._check_started()
                state.refuse(RefusalReason.CRASHED, "the clip crashed two processes; look at the file")
                yield state
                self._restart(1)
        self._restart(self._workers)

    def _submit(self, states: list[ClipState]) -> Future[Path]:
        try:
            return self._pool.submit(_run_stages, states, Path(self._results.name))
        except BrokenProcessPool as error:
            failed: Future[Path] = Future()
            failed.set_exception(error)
            return failed

    def _restart(self, workers: int) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._new_pool(workers)

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        (Path(self._results.name) / _READY).unlink(missing_ok=True)
        return ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_process,
            initargs=(self._make_stages, Path(self._results.name)),
        )


_make_stages: Callable[[], ClipStages] | None = None
_stages: ClipStages | None = None


def use_one_thread() -> None:
    """Let OpenCV and torch, if it is loaded, use one thread: by default each process uses all cores."""
    import cv2

    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _start_process(make_stages: Callable[[], ClipStages], results: Path) -> None:
    """Prepare a process: it ignores Ctrl-C, because the parent ends the run, and it ends with its parent."""
    global _make_stages
    _make_stages = make_stages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(results,), daemon=True).start()


def _end_with_parent(results: Path) -> None:
    # a parent that is killed by SIGKILL leaves pipes open that its children share, so they would wait forever
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(results, ignore_errors=True)
    os._exit(1)


def _run_stages(states: list[ClipState], folder: Path) -> Path:
    """Run the stages on clips, and return the file of the result.

    The networks are loaded with the first clip, because then an error still reaches the parent. Results go by
    file: a process that is killed while it writes a long result to the pool's pipe would leave the parent
    waiting for the rest of it forever. A path is written at once.
    """
    global _stages
    if _stages is None:
        assert _make_stages is not None
        _stages = _make_stages()
        use_one_thread()
        (folder / _READY).touch()
    path = folder / uuid.uuid4().hex
    path.write_bytes(pickle.dumps(_stages.run(states)))
    return path


def _load_result(path: Path) -> list[ClipState]:
    states = pickle.loads(path.read_bytes())  # written by a process of this run
    path.unlink()
    return states
