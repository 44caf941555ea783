"""The report's tables, with its numbers beside those of a run.

Every row or column says what it was measured on.  Values of a run carry their
interval; nothing is formatted beyond that, `page.Page.table` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from s2f_lib.config import SpectrogramConfig, StudyConfig, VoiceEncoderConfig
from s2f_lib.evaluation.audit import audit_recall, largest_mean_l2
from s2f_lib.evaluation.statistics import Interval, chance_interval
from s2f_lib.report.reference import ARCHITECTURE, LOSS_NAMES, MEASURE_NAMES, RECALL_AT, REPORT

_MEASURES = ("l2", "l1", "cosine")  # the order of the report's columns
_REPORT = "the report"
_RUN = "this run"


def distances_beside_report(distances: pd.DataFrame, *, dimension: int) -> pd.DataFrame:
    """Return "Evaluation Metric(Encoder)": a row for each split of the report and of this run.

    Parameters
    ----------
    distances
        As `evaluation.tables.distance_table` gives, with names "train" and "test".
    dimension
        Of this run's features: L1 distances grow with its root.
    """
    rows = []
    for split in dict.fromkeys(distances["name"]):
        if split in REPORT.distances:
            n = {"train": REPORT.n_train, "test": REPORT.n_test}[split]
            values = {MEASURE_NAMES[m]: f"{REPORT.distances[split][m]:.2f}" for m in _MEASURES}
            rows.append({"set": split, "measured by": _REPORT, "people": n, "features": "4096-D"} | values)
        rows.append(_distance_row(distances, split, {"set": split}, dimension))
    return pd.DataFrame(rows)


def losses_beside_report(distances: pd.DataFrame, *, dimension: int) -> pd.DataFrame:
    """Return "Results on different losses": a row for each loss of the report and of this run, on test."""
    rows = []
    for loss in dict.fromkeys(distances["name"]):
        label = {"trained with": LOSS_NAMES.get(loss, loss)}
        if loss in REPORT.losses:
            values = {MEASURE_NAMES[m]: f"{REPORT.losses[loss][m]:.2f}" for m in _MEASURES}
            rows.append(
                label | {"measured by": _REPORT, "people": REPORT.n_test, "features": "4096-D"} | values
            )
        rows.append(_distance_row(distances, loss, label, dimension))
    return pd.DataFrame(rows)


def recall_beside_report(recall: pd.DataFrame, *, split: str) -> pd.DataFrame:
    """Return "Recall@K" of a split: the report's percent and this run's, each beside its chance.

    Parameters
    ----------
    recall
        As `evaluation.tables.recall_table` gives.
    split
        "train" or "test".
    """
    rows = []
    for row in recall[recall["name"] == split].itertuples():
        printed = REPORT.recall_percent.get(split, {}).get(row.measure, ())
        at = dict(zip(RECALL_AT, printed, strict=True)) if printed else {}
        known = row.k in at
        value = Interval(100 * row.value, 100 * row.low, 100 * row.high)
        rows.append(
            {
                "similarity": MEASURE_NAMES[row.measure],
                "K": row.k,
                "the report, %": f"{at[row.k]:.2f}" if known else None,
                f"chance in {REPORT.gallery}, %": f"{100 * row.k / REPORT.gallery:.2f}" if known else None,
                "this run, %": f"{value:.1f}",
                f"chance in {row.gallery:,}, %": f"{100 * row.chance:.1f}",
            }
        )
    return pd.DataFrame(rows)


def recall_audit(split: str = "test", *, n_queries: int, confidence: float = 0.95) -> pd.DataFrame:
    """Return the report's recalls of a split beside what guessing gives among 400 faces."""
    rows = []
    for measure, percents in REPORT.recall_percent[split].items():
        verdicts = audit_recall(
            percents, RECALL_AT, gallery_size=REPORT.gallery, n_queries=n_queries, confidence=confidence
        )
        for verdict in verdicts:
            rows.append(
                {
                    "similarity": MEASURE_NAMES[measure],
                    "K": verdict.k,
                    "the report, %": f"{verdict.recall_percent:.2f}",
                    "guessing, %": f"{verdict.chance:.2f}",
                    "within guessing": verdict.within_chance,
                }
            )
    return pd.DataFrame(rows)


def loss_audit() -> pd.DataFrame:
    """Return the largest L2 distance that the report's cosine of each loss allows, beside the printed one."""
    rows = []
    for loss, values in REPORT.losses.items():
        largest = largest_mean_l2(values["cosine"] - 0.005)  # printed with two decimals
        rows.append(
            {
                "trained with": LOSS_NAMES[loss],
                "cosine similarity, printed": f"{values['cosine']:.2f}",
                "largest mean L2 distance": f"{largest:.2f}",
                "L2 distance, printed": f"{values['l2']:.2f}",
                "can be": values["l2"] <= largest + 0.005,
            }
        )
    return pd.DataFrame(rows)


def chance_band(gallery: int, n_queries: int, k_max: int, *, confidence: float = 0.95) -> pd.DataFrame:
    """Return recall of guessing and its range for K = 1 to `k_max`: columns k, value, low, high."""
    rows = []
    for k in range(1, k_max + 1):
        interval = chance_interval(k, gallery, n_queries, confidence=confidence)
        rows.append({"k": k, "value": interval.value, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def recall_of_losses(recall: pd.DataFrame, *, measure: str, k: int) -> pd.DataFrame:
    """Return recall at one K for each loss as a table to draw: label, value, low, high, chance."""
    chosen = recall[(recall["measure"] == measure) & (recall["k"] == k)]
    labels = [LOSS_NAMES.get(name, name) for name in chosen["name"]]
    return chosen.assign(label=labels)[["label", "value", "low", "high", "chance"]].reset_index(drop=True)


def encoder_architecture(config: StudyConfig, *, feature_dimension: int) -> pd.DataFrame:
    """Return the report's "Voice Encoder Architecture" a row a layer, with sizes and counts.

    The report's own size (6 s, full width, N = 9) and this run's stand beside each other;
    outputs are channels x time x frequency.
    """
    full = _layers(VoiceEncoderConfig(), 4096, SpectrogramConfig())
    own = _layers(config.encoder, feature_dimension, config.spectrogram)
    table = ARCHITECTURE[["layer", "kernel", "stride"]].copy()
    table["output, report's size"] = [output for output, _ in full]
    table["parameters, report's size"] = [count for _, count in full]
    table["output, this run"] = [output for output, _ in own]
    table["parameters, this run"] = [count for _, count in own]
    total = {"layer": "all", "kernel": "", "stride": "", "output, report's size": "", "output, this run": ""}
    for column in ("parameters, report's size", "parameters, this run"):
        total[column] = int(table[column].sum())
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def encoder_parameter_counts(frequency_bins: Sequence[int] = (1, 8, 9, 57, 342)) -> pd.DataFrame:
    """Return the parameters of the report's table for several N, beside the report's count.

    N is the number of frequency bins that enter the first fully connected layer.  The
    networks are built without memory for their weights, and counted.
    """
    reading = {
        1: "average over time and frequency",
        8: "nearest below the report's count",
        9: "nearest the report's count: this study's",
        57: "average over time alone: Speech2Face's",
        342: "no average pool: 57 bins at 6 times",
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
    import torch

    from s2f_lib.models.voice_encoder import VoiceEncoder, count_parameters

    bins = min(frequency_bins, 57)
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


def value_of(table: pd.DataFrame, column: str = "value", /, **where: object) -> float:
    """Return the one number of a table's row that `where` names, for the prose."""
    chosen = table
    for name, wanted in where.items():
        chosen = chosen[chosen[name] == wanted]
    return float(chosen[column].item())


def summary_of(values: np.ndarray) -> Mapping[str, float]:
    """Return mean, standard deviation, extremes and quartiles, for the prose and a table."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {
        "mean": float(np.mean(values)),
        "standard deviation": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        "smallest": float(np.min(values)),
        "first quartile": float(low),
        "median": float(median),
        "third quartile": float(high),
        "largest": float(np.max(values)),
    }


def _distance_row(
    distances: pd.DataFrame, name: str, label: dict[str, str], dimension: int
) -> dict[str, object]:
    rows = distances[distances["name"] == name].set_index("measure")
    values = {
        MEASURE_NAMES[m]: f"{Interval(rows.value[m], rows.low[m], rows.high[m]):.2f}" for m in _MEASURES
    }
    return label | {"measured by": _RUN, "people": int(rows.n.iloc[0]), "features": f"{dimension}-D"} | values


def _layers(
    config: VoiceEncoderConfig, feature_dimension: int, spectrogram: SpectrogramConfig
) -> list[tuple[str, int]]:
    """Return output and parameters of each column of the report's table."""
    import torch

    from s2f_lib.models.voice_encoder import VoiceEncoder, summarize

    with torch.device("meta"):
        encoder = VoiceEncoder(config, feature_dimension=feature_dimension, spectrogram=spectrogram)
    modules = iter(summarize(encoder, spectrogram))
    layers = []
    for name in ARCHITECTURE["layer"]:
        parts = [next(modules) for _ in name.split()]  # "CONV RELU BN" are three modules
        layers.append((parts[0].output, sum(part.parameters for part in parts)))
    return layers
