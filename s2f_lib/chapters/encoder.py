"""Chapter 02: size of the voice encoder, counted layer by layer, and speed of its training.

The networks are built on torch's "meta" device: shapes without memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import pandas as pd
import torch

from s2f_lib.chapters.reference import ARCHITECTURE, REPORT
from s2f_lib.config import Precision, SpectrogramConfig, VoiceEncoderConfig
from s2f_lib.models.voice_encoder import (
    LayerSummary,
    VoiceEncoder,
    count_parameters,
    make_encoder,
    mega_flops,
    summarize,
)
from s2f_lib.training.distributed import resolve_precision
from s2f_lib.training.encoder import TrainedEncoder

_BINS = 57  # frequency bins that the nine convolutions leave of 257
_TIMES = 6  # times that they leave of 598 frames
_MATMUL = 1024  # side of the matrices: large enough that arithmetic limits the product
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def architecture_table(
    encoder: VoiceEncoderConfig, spectrogram: SpectrogramConfig, *, feature_dimension: int
) -> pd.DataFrame:
    """Return the report's "Voice Encoder Architecture", one row per layer, with sizes and counts.

    The report's size (6 s, full width, N = 9) is next to this run's. For a custom encoder, the table has only
    the totals. Outputs are channels x time x frequency. MFLOP are millions of multiplications and additions
    of the forward pass of one clip.
    """
    full = _layers(VoiceEncoderConfig(), SpectrogramConfig(), 4096)
    own = _layers(encoder, spectrogram, feature_dimension) if encoder.kind == "report" else []
    table = ARCHITECTURE[["layer", "kernel", "stride"]].copy()
    total: dict[str, object] = {"layer": "all", "kernel": "", "stride": ""}
    for name, layers in (("report's size", full), ("this run", own)):
        if not layers:
            with torch.device("meta"):
                model = make_encoder(encoder, feature_dimension=feature_dimension, spectrogram=spectrogram)
            table[[f"output, {name}", f"parameters, {name}", f"MFLOP, {name}"]] = ""
            total[f"parameters, {name}"] = count_parameters(model)
            total[f"MFLOP, {name}"] = round(mega_flops(model, spectrogram))
            continue
        table[f"output, {name}"] = [layer.output for layer in layers]
        table[f"parameters, {name}"] = [layer.parameters for layer in layers]
        table[f"MFLOP, {name}"] = [round(layer.mega_flops) for layer in layers]
    for column in table.columns[3:]:
        if column not in total:
            total[column] = "" if column.startswith("output") else int(table[column].sum())
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def parameter_counts(frequency_bins: Sequence[int] = (1, 8, 9, _BINS, _BINS * _TIMES)) -> pd.DataFrame:
    """Return the parameters of the report's architecture for several N, next to the report's count.

    N is the number of frequency bins that enter the first fully connected layer.
    """
    reading = {
        1: "average over time and frequency",
        8: "nearest below the report's count",
        9: "nearest the report's count: this study's",
        _BINS: "average over time alone: Speech2Face's",
        _BINS * _TIMES: "no average pool: 57 bins at 6 times",
    }
    rows = []
    for bins in frequency_bins:
        count = parameter_count(bins)
        row = {"N": bins, "what it means": reading.get(bins, ""), "parameters": count}
        rows.append(row | {"of the report's count": f"{count / REPORT.parameters:.3f}"})
    return pd.DataFrame(rows)


def parameter_count(frequency_bins: int) -> int:
    """Return the trainable parameters of the report's architecture for N frequency bins.

    342 bins mean an encoder without an average pool: 57 bins at each of 6 times.
    """
    bins = min(frequency_bins, _BINS)
    config = VoiceEncoderConfig(frequency_bins=bins)
    with torch.device("meta"):
        encoder = VoiceEncoder(config, feature_dimension=4096)
        if frequency_bins > bins:
            encoder.head[0] = torch.nn.Linear(512 * frequency_bins, config.hidden)
    return count_parameters(encoder)


def implied_bins() -> float:
    """Return the N that gives exactly the report's count. It is not a whole number."""
    at_one, at_two = parameter_count(1), parameter_count(2)
    return 1 + (REPORT.parameters - at_one) / (at_two - at_one)


def format_axes(config: VoiceEncoderConfig) -> str:
    """Return the axes of the encoder's output, as a phrase."""
    if config.face_axes:
        return "along the training faces' principal axes, which adds nothing that is trained"
    return "along the extractor's own axes"


def training_throughput(
    encoder: TrainedEncoder, *, spectrogram: SpectrogramConfig, precision: Precision
) -> pd.DataFrame:
    """Return the speed of a training, and its share of the device's matrix multiplication rate.

    A training step counts as three forward passes, because the backward pass computes the gradients of
    inputs and of weights. The device's rate is measured in this process, with square matrices. The only row
    holds `clips_per_s` and `wait_share` (medians over the epochs), `gflop_per_clip`, `gflops` (achieved),
    `matmul_gflops` and `share`, the ratio of the two.
    """
    gflop_per_clip = 3 * mega_flops(encoder.model, spectrogram) / 1_000
    clips_per_s = float(encoder.metrics["samples_per_s"].median())
    device = next(encoder.model.parameters()).device
    rate = matmul_gflops(_DTYPES[resolve_precision(precision, device=device.type)], device)
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
    """Return the best rate of several products of square matrices, in 10^9 operations per second."""
    first, second = (torch.randn(_MATMUL, _MATMUL, device=device, dtype=dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(repetitions + 1):  # the first product warms up
        _wait(device)
        started = time.perf_counter()
        first @ second
        _wait(device)
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * _MATMUL**3 / best_s / 1e9


def format_limit(throughput: pd.DataFrame) -> str:
    """Return what limits the speed of the training, as a phrase."""
    row = throughput.iloc[0]
    if row["wait_share"] > 0.03:
        return "waiting for data"
    if row["share"] < 0.4:
        return "moving the early layers' large, thin maps through memory, not arithmetic"
    return "arithmetic"


def _layers(
    config: VoiceEncoderConfig, spectrogram: SpectrogramConfig, feature_dimension: int
) -> list[LayerSummary]:
    """Return output, parameters and FLOPs of each layer in the report's table."""
    with torch.device("meta"):
        encoder = VoiceEncoder(config, feature_dimension=feature_dimension, spectrogram=spectrogram)
    modules = iter(summarize(encoder, spectrogram))
    layers = []
    for name in ARCHITECTURE["layer"]:
        parts = [next(modules) for _ in name.split()]  # "CONV RELU BN" are three modules
        parameters, flops = sum(part.parameters for part in parts), sum(part.mega_flops for part in parts)
        layers.append(LayerSummary(name, parts[0].output, parameters, flops))
    return layers


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
