"""Preparation on a Ray cluster: the same stages on all machines of the cluster.

Without GPUs, a task runs all stages on a few clips. With GPUs, a CPU task decodes, an actor with one GPU
detects faces and computes the features that need a GPU, and a CPU task runs the rest. Only this machine
writes the ledger and the shards, so a run can be killed and resumed, also with another engine.

If a machine is lost, Ray runs its tasks again. If a clip kills its process, Ray tries its batch up to four
times; then each clip of the batch is tried by itself, and the clip that kills its process again is refused.
All machines must see the media under the same path.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from s2f_lib.config import FeatureConfig, PreparationConfig
from s2f_lib.errors import ConfigError, RefusalReason, StudyError
from s2f_lib.preparation.clip import ClipStages, ClipState, Stage
from s2f_lib.preparation.workers import States, stream, use_one_thread

logger = logging.getLogger(__name__)

_BATCH = 4  # clips per task: the cost of a task, some 10 ms, is then below one percent
_GPU_BATCH = 8
_IN_FLIGHT = 3  # batches per core of the cluster
_RETRIES = 3  # retries of a task whose process or machine is lost


def prepare_on_cluster(
    states: States,
    preparation: PreparationConfig,
    features: FeatureConfig,
    *,
    gpu_features: bool = False,
    address: str | None = None,
) -> Generator[ClipState | None, None, None]:
    """Prepare clips on a Ray cluster, and yield each clip when it is finished, with its features.

    Parameters
    ----------
    states
        Clips, as for `workers.prepare_clips`; at most twelve per core of the cluster are in flight (24 with
        GPUs).
    preparation, features
        Settings.
    gpu_features
        Whether features are computed on GPUs, if the cluster has GPUs.
    address
        Address of a running cluster, such as "auto" on one of its machines. None starts Ray on this machine
        and ends it afterwards. If this process is connected to a cluster already, that cluster is used.

    Yields
    ------
    ClipState or None
        As `workers.prepare_clips`.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ConfigError
        No cluster answers at the address.
    StudyError
        A fault that is not a clip's, such as weights that a machine does not have.
    """
    with _connected(address):
        import ray

        n_gpus = int(ray.cluster_resources().get("GPU", 0))
        submit = _submitter(preparation, features, n_gpus=n_gpus, gpu_features=gpu_features)

        def one_by_one(lost: Sequence[ClipState]) -> Iterator[ClipState]:
            logger.warning("a task was lost; its %d clips are tried one by one", len(lost))
            for state in lost:
                try:
                    yield from submit([state]).result()
                except ray.exceptions.RayError as error:
                    _is_lost(error)
                    detail = f"the clip crashed several processes; look at the file ({type(error).__name__})"
                    state.refuse(RefusalReason.CRASHED, detail)
                    yield state

        yield from stream(
            states,
            submit,
            batch_size=_GPU_BATCH if n_gpus else _BATCH,
            in_flight=lambda: _IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1))),
            is_lost=_is_lost,
            retry=one_by_one,
        )


def _submitter(
    preparation: PreparationConfig, features: FeatureConfig, *, n_gpus: int, gpu_features: bool
) -> Callable[[list[ClipState]], Any]:
    """Return a function that sends a batch through the tasks of the cluster and returns a future."""
    import ray

    task: Any = ray.remote(num_cpus=1, max_retries=_RETRIES)
    run = functools.partial(task(_run_stages).remote, preparation=preparation, features=features)
    if not n_gpus:
        return lambda states: run(states, stages=("decode", "detect", "align", "features")).future()
    on_gpu: tuple[Stage, ...] = ("detect", "align", "features") if gpu_features else ("detect",)
    actor: Any = ray.remote(num_gpus=1, max_restarts=-1, max_task_retries=_RETRIES)
    make_stages = functools.partial(actor(ClipStages).remote, on_gpu, preparation, features, device="auto")
    gpus = itertools.cycle([make_stages() for _ in range(n_gpus)])

    def submit(states: list[ClipState]) -> Any:
        detected = next(gpus).run.remote(run(states, stages=("decode",)))
        return (detected if gpu_features else run(detected, stages=("align", "features"))).future()

    return submit


def _run_stages(
    states: list[ClipState],
    *,
    stages: tuple[Stage, ...],
    preparation: PreparationConfig,
    features: FeatureConfig,
) -> list[ClipState]:
    """Run stages in a process of the cluster."""
    loaded = _loaded_stages(stages, preparation, features)
    # one clip at a time, as on one machine: the features of a batch are rounded differently
    return [loaded.run([state])[0] for state in states]


@functools.lru_cache(maxsize=4)
def _loaded_stages(
    stages: tuple[Stage, ...], preparation: PreparationConfig, features: FeatureConfig
) -> ClipStages:
    """Return stages that a process loads once for many tasks."""
    loaded = ClipStages(stages, preparation, features)
    use_one_thread()  # a task has one core
    return loaded


def _is_lost(error: Exception) -> bool:
    """Return whether Ray lost a task; raise the error of this package that the task raised, if any."""
    import ray

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StudyError) and not isinstance(cause, ray.exceptions.RayError):
            raise cause from None
        cause = getattr(cause, "cause", None) or cause.__cause__
    return isinstance(error, ray.exceptions.RayError)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use over the network by default
    import ray

    is_owner = not ray.is_initialized()
    if is_owner:
        dashboard = None if address else False
        try:
            ray.init(
                address or "local",
                include_dashboard=dashboard,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {address}: {error}; start one with `ray start --head`"
            ) from None
    try:
        yield
    finally:
        if is_owner:
            ray.shutdown()
