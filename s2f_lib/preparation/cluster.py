"""Preparation on a Ray cluster: the same stages, on as many machines as there are.

Ray Data moves the clips.  Where there are GPUs, cores decode, actors with a GPU each
detect and compute the features that want one, and cores do the rest; else a process takes
a clip through all stages.  Only this machine writes the ledger and the shards, so a run
can be killed, gone on with, and gone on with elsewhere, like a local one.

A machine that is lost costs time: Ray does its clips again.  So does a clip that brings its
process down, up to three times; then what is left of the wave is prepared clip by clip, and the
one at fault is refused.  The media have to be seen under the same path by all machines.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from s2f_lib.config import StudyConfig
from s2f_lib.errors import ConfigError, RefusalReason, StudyError
from s2f_lib.faces.extractor import make_extractor
from s2f_lib.preparation.clip import AlignAndEmbed, ClipWorker, GpuStages, Outcome, decode
from s2f_lib.preparation.workers import Known, Task

logger = logging.getLogger(__name__)

_WAVE = 16_384  # clips that are handed to Ray at once: what this machine holds of a long list
_BLOCK = 4  # clips a Ray task: a task's own cost, some 10 ms, is then below a hundredth
_GPU_BATCH = 8  # clips that a GPU takes together
_RETRIES = 3  # of a task whose process or machine is lost

_Batch = dict[str, Any]  # Ray Data's: column to array; here "item", pickled (place, clip or outcome)


def prepare_on_cluster(
    tasks: Iterable[Task], config: StudyConfig, *, address: str | None = None
) -> Iterator[Known]:
    """Prepare clips on a Ray cluster, and yield what came of each as it is finished.

    Features are computed there, too, whichever the extractor.

    Parameters
    ----------
    tasks
        Taken by the wave of 16,384.
    config
        Settings of preparation and features.
    address
        Of a running cluster, such as "auto" on one of its machines; None starts Ray on this
        machine alone, and ends it afterwards.  A Ray that this process is connected to is used.

    Yields
    ------
    position, outcome
        In the order in which they end.

    Raises
    ------
    ConfigError
        Ray is not installed, or no cluster answers at the address.
    StudyError
        Something is wrong that is no clip's fault, such as weights that a machine has not.
    """
    tasks = iter(tasks)
    with _connected(address):
        while wave := list(itertools.islice(tasks, _WAVE)):
            yield from _prepare_wave(wave, config)


def _prepare_wave(wave: list[Task], config: StudyConfig) -> Iterator[Known]:
    import ray

    left = dict(wave)
    try:
        for position, outcome in _streamed(wave, config):
            del left[position]
            yield position, outcome
    except StudyError:
        raise
    except ray.exceptions.RayError as error:
        if (cause := _study_error(error)) is not None:
            raise cause from None
        logger.warning(
            "Ray gave a wave up (%s); %d clips are tried one by one", type(error).__name__, len(left)
        )
        yield from _one_by_one(left, config)


def _streamed(wave: list[Task], config: StudyConfig) -> Iterator[Known]:
    """Take a wave through Ray Data."""
    import ray

    items = [{"item": pickle.dumps(task)} for task in wave]
    n_blocks = max(1, len(items) // _BLOCK)
    data = ray.data.from_items(items, override_num_blocks=n_blocks)
    options = {"max_retries": _RETRIES, "num_cpus": 1}
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    if n_gpus:
        data = data.map_batches(_decode, batch_size=_BLOCK, fn_args=(config,), **options)
        data = data.map_batches(
            _OnGpu,
            batch_size=_GPU_BATCH,
            fn_constructor_args=(config,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=n_gpus),
            num_gpus=1,
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )
        data = data.map_batches(_align_and_embed, batch_size=_BLOCK, fn_args=(config,), **options)
    else:
        data = data.map_batches(_prepare, batch_size=_BLOCK, fn_args=(config,), **options)
    for row in data.iter_rows():
        yield pickle.loads(row["item"])  # our own: it never left the cluster


def _one_by_one(left: dict[int, Any], config: StudyConfig) -> Iterator[Known]:
    """Prepare what a failed wave left, each clip in a task of its own, to find the one at fault."""
    import ray

    task = ray.remote(num_cpus=1, max_retries=0)(_prepare_one)
    waiting = iter([(position, clip, _RETRIES) for position, clip in left.items()])
    room = max(1, int(ray.cluster_resources().get("CPU", 1)))
    in_flight: dict[Any, tuple[int, Any, int]] = {}
    again: list[tuple[int, Any, int]] = []
    while True:
        while len(in_flight) < room and (job := again.pop() if again else next(waiting, None)) is not None:
            in_flight[task.remote(job[1], config)] = job
        if not in_flight:
            return
        (ended,), _ = ray.wait(list(in_flight), num_returns=1)
        position, clip, tries = in_flight.pop(ended)
        try:
            yield position, ray.get(ended)
        except ray.exceptions.RayError as error:
            if (cause := _study_error(error)) is not None:
                raise cause from None
            if tries > 1:  # its machine may be at fault
                again.append((position, clip, tries - 1))
            else:
                detail = f"a process died of it, {_RETRIES} times; look at the file ({type(error).__name__})"
                yield position, Outcome(None, RefusalReason.CRASHED, detail)


def _study_error(error: Exception) -> StudyError | None:
    """Return the error of ours that a task raised, if any."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StudyError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return None


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use over the network by default
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): pip install 's2f_lib[cluster]'") from None
    mine = not ray.is_initialized()
    if mine:
        how = (
            {"address": address} if address is not None else {"address": "local", "include_dashboard": False}
        )
        try:
            ray.init(**how, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`"
            ) from None
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


# -- what runs on the machines of the cluster ------------------------------------

_tools: dict[tuple[str, ...], Any] = {}


def _prepare_one(clip: Any, config: StudyConfig) -> Outcome:
    return _tool(ClipWorker, config)(clip)


def _prepare(batch: _Batch, config: StudyConfig) -> _Batch:
    """All stages, on a CPU."""
    tasks = map(pickle.loads, batch["item"])
    return _packed((position, _prepare_one(clip, config)) for position, clip in tasks)


def _decode(batch: _Batch, config: StudyConfig) -> _Batch:
    """The first stage, for GPUs to go on with."""
    tasks = map(pickle.loads, batch["item"])
    return _packed((position, decode(clip, config.preparation)) for position, clip in tasks)


class _OnGpu:
    """Detection, and the features of an extractor that wants a GPU: an actor, with one of its own."""

    def __init__(self, config: StudyConfig) -> None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        heavy = not make_extractor(config.features).runs_in_workers
        self._stages = GpuStages(config, device=device, with_features=heavy)

    def __call__(self, batch: _Batch) -> _Batch:
        positions, works = zip(*map(pickle.loads, batch["item"]), strict=True)
        return _packed(zip(positions, self._stages(works), strict=True))


def _align_and_embed(batch: _Batch, config: StudyConfig) -> _Batch:
    """What is left to do after a GPU."""
    stage = _tool(AlignAndEmbed, config)
    tasks = map(pickle.loads, batch["item"])
    return _packed((position, stage(work)) for position, work in tasks)


def _tool(kind: type, config: StudyConfig) -> Any:
    """Return what a process loads once for many tasks."""
    key = (kind.__name__, config.preparation.digest(), config.features.digest())
    if key not in _tools:
        import cv2
        import torch

        cv2.setNumThreads(1)
        torch.set_num_threads(1)  # a task has one core: more threads would wait for each other
        has_features = (
            kind is AlignAndEmbed and not make_extractor(config.features).runs_in_workers
        )  # by the GPU
        _tools[key] = kind(config, with_features=not has_features)
    return _tools[key]


def _packed(items: Iterable[tuple[int, Any]]) -> _Batch:
    return {"item": [pickle.dumps(item) for item in items]}
