"""The report's table "Voice Encoder Architecture": sizes and parameters, counted.

The networks are built on torch's "meta" device: shapes without memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from s2f_lib.chapters.reference import ARCHITECTURE, REPORT
from s2f_lib.config import SpectrogramConfig, StudyConfig, VoiceEncoderConfig
from s2f_lib.models.voice_encoder import LayerSummary, VoiceEncoder, count_parameters, summarize

_BINS = 57  # what the nine convolutions leave of 257
_TIMES = 6  # and of 598 frames


def encoder_architecture(config: StudyConfig, *, feature_dimension: int) -> pd.DataFrame:
    """Return the report's "Voice Encoder Architecture" a row a layer, with sizes and counts.

    The report's own size (6 s, full width, N = 9) and this run's stand beside each other;
    outputs are channels x time x frequency; MFLOP are millions of multiplications and
    additions of one clip's forward pass.
    """
    full = _layers(VoiceEncoderConfig(), 4096, SpectrogramConfig())
    own = _layers(config.encoder, feature_dimension, config.spectrogram)
    table = ARCHITECTURE[["layer", "kernel", "stride"]].copy()
    total = {"layer": "all", "kernel": "", "stride": ""}
    for name, layers in (("report's size", full), ("this run", own)):
        table[f"output, {name}"] = [layer.output for layer in layers]
        table[f"parameters, {name}"] = [layer.parameters for layer in layers]
        table[f"MFLOP, {name}"] = [round(layer.mega_flops) for layer in layers]
        total[f"output, {name}"] = ""
    for column in table.columns[3:]:
        total.setdefault(column, int(table[column].sum()) if not column.startswith("output") else "")
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def encoder_parameter_counts(
    frequency_bins: Sequence[int] = (1, 8, 9, _BINS, _BINS * _TIMES),
) -> pd.DataFrame:
    """Return the parameters of the report's table for several N, beside the report's count.

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
        rows.append(
            {
                "N": bins,
                "what it means": reading.get(bins, ""),
                "parameters": count,
                "of the report's count": f"{count / REPORT.parameters:.3f}",
            }
        )
    return pd.DataFrame(rows)


def parameter_count(frequency_bins: int) -> int:
    """Return the trainable parameters of the report's table for N frequency bins, counted.

    342 bins stand for no average pool at all: the 57 bins at each of 6 times.
    """
    bins = min(frequency_bins, _BINS)
    config = VoiceEncoderConfig(frequency_bins=bins)
    with torch.device("meta"):
        encoder = VoiceEncoder(config, feature_dimension=4096)
        if frequency_bins > bins:
            encoder.head[0] = torch.nn.Linear(512 * frequency_bins, config.hidden)
    return count_parameters(encoder)


def bins_that_the_report_implies() -> float:
    """Return the N that would give the report's count exactly: no whole number."""
    at_one, at_two = parameter_count(1), parameter_count(2)
    return 1 + (REPORT.parameters - at_one) / (at_two - at_one)


def format_axes(config: VoiceEncoderConfig) -> str:
    """Return along which axes an encoder gives its output, as a phrase."""
    if config.face_axes:
        return "along the training faces' principal axes, which adds nothing that is trained"
    return "along the extractor's own axes"


def _layers(
    config: VoiceEncoderConfig, feature_dimension: int, spectrogram: SpectrogramConfig
) -> list[LayerSummary]:
    """Return output, parameters and FLOPs of each column of the report's table."""
    with torch.device("meta"):
        encoder = VoiceEncoder(config, feature_dimension=feature_dimension, spectrogram=spectrogram)
    modules = iter(summarize(encoder, spectrogram))
    layers = []
    for name in ARCHITECTURE["layer"]:
        parts = [next(modules) for _ in name.split()]  # "CONV RELU BN" are three modules
        parameters, flops = sum(part.parameters for part in parts), sum(part.mega_flops for part in parts)
        layers.append(LayerSummary(name, parts[0].output, parameters, flops))
    return layers
