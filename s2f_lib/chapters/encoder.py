"""How fast an encoder was trained, and what held it back."""

from __future__ import annotations

import time

import pandas as pd
import torch

from s2f_lib.config import StudyConfig
from s2f_lib.models.voice_encoder import summarize
from s2f_lib.training.distributed import resolve_precision
from s2f_lib.training.encoder import TrainedEncoder

_MATMUL = 1024  # side of the matrices; large enough to be bound by arithmetic
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_throughput(encoder: TrainedEncoder, config: StudyConfig) -> pd.DataFrame:
    """Return the speed of a training, and its share of what the device can multiply.

    A training step is counted as three forward passes: the backward pass computes the
    gradients of inputs and of weights.  The device's rate is measured now, in this process,
    with square matrices in the training's precision.

    Returns
    -------
    pandas.DataFrame
        One row: `clips_per_s` and `wait_share` (median of the epochs), `gflop_per_clip`,
        `gflops` achieved, `matmul_gflops`, `share` of the two.
    """
    layers = summarize(encoder.model, config.spectrogram)
    gflop_per_clip = 3 * sum(layer.mega_flops for layer in layers) / 1_000
    clips_per_s = float(encoder.metrics["samples_per_s"].median())
    device = next(encoder.model.parameters()).device
    rate = matmul_gflops(_DTYPES[resolve_precision(config.training.precision, device=device.type)], device)
    row = {
        "clips_per_s": clips_per_s,
        "wait_share": float(encoder.metrics["wait_share"].median()),
        "gflop_per_clip": gflop_per_clip,
        "gflops": gflop_per_clip * clips_per_s,
        "matmul_gflops": rate,
        "share": gflop_per_clip * clips_per_s / rate,
    }
    return pd.DataFrame([row])


def matmul_gflops(dtype: torch.dtype, device: torch.device, *, repetitions: int = 5) -> float:
    """Return the best rate of some products of square matrices, in 10^9 operations a second."""
    first, second = (torch.randn(_MATMUL, _MATMUL, device=device, dtype=dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(repetitions + 1):  # the first one warms up
        _wait(device)
        started = time.perf_counter()
        first @ second
        _wait(device)
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * _MATMUL**3 / best_s / 1e9


def format_limit(throughput: pd.DataFrame) -> str:
    """Return what held the training back, as a phrase."""
    row = throughput.iloc[0]
    if row["wait_share"] > 0.03:
        return "waiting for data"
    if row["share"] < 0.4:
        return "moving the early layers' large, thin maps through memory, not arithmetic"
    return "arithmetic"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
