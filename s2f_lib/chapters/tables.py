"""The report's tables, with its numbers next to those of a run.

Every row or column says what it was measured on. Values of a run carry their interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from s2f_lib.chapters.reference import LOSS_NAMES, MEASURE_NAMES, REPORT
from s2f_lib.config import RECALL_AT, DecoderTrainingConfig, EvaluationConfig, FaceDecoderConfig
from s2f_lib.evaluation.statistics import Interval, bootstrap_interval, normalized_recall

if TYPE_CHECKING:
    from s2f_lib.models.face_decoders import FaceDecoder, ResidualDecoder

_MEASURES = ("l2", "l1", "cosine")  # the order of the report's columns
_REPORT = "the report"
_RUN = "this run"


def distances_vs_report(distances: pd.DataFrame, *, dimension: int) -> pd.DataFrame:
    """Return "Evaluation Metric(Encoder)": one row for each split of the report and of this run.

    `distances` is a table of `evaluation.tables.distance_table` with names "train" and "test". `dimension` is
    that of this run's features; L1 distances grow with its square root.
    """
    rows = []
    for split in dict.fromkeys(distances["name"]):
        if split in REPORT.distances:
            n = {"train": REPORT.n_train, "test": REPORT.n_test}[split]
            values = {MEASURE_NAMES[m]: f"{REPORT.distances[split][m]:.2f}" for m in _MEASURES}
            rows.append({"set": split, "measured by": _REPORT, "people": n, "features": "4096-D"} | values)
        rows.append(_distance_row(distances, split, {"set": split}, dimension))
    return pd.DataFrame(rows)


def losses_vs_report(distances: pd.DataFrame, *, dimension: int) -> pd.DataFrame:
    """Return "Results on different losses" on test: one row for each loss of the report and of this run."""
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


def recall_vs_report(recall: pd.DataFrame, *, split: str) -> pd.DataFrame:
    """Return "Recall@K" of a split in percent: the report's, this run's, and their chance levels.

    `recall` is a table of `evaluation.tables.recall_table`. The last column is normalised by the gallery's
    size: 0 is chance, 100 is perfect.
    """
    rows = []
    row: Any  # the stubs of pandas type each field as a union of all types
    for row in recall[recall["name"] == split].itertuples():
        printed = REPORT.recall_percent.get(split, {}).get(row.measure, ())
        at = dict(zip(RECALL_AT, printed, strict=True)) if printed else {}
        known = row.k in at
        value = interval_of(row).times(100)
        normalised = None  # chance is 100% if K is the size of the gallery
        if row.chance < 1:
            three = (100 * normalized_recall(share, row.chance) for share in (row.value, row.low, row.high))
            normalised = Interval(*three)
        rows.append(
            {
                "similarity": MEASURE_NAMES[row.measure],
                "K": row.k,
                "the report, %": f"{at[row.k]:.2f}" if known else None,
                f"chance in {REPORT.gallery}, %": f"{100 * row.k / REPORT.gallery:.2f}" if known else None,
                "this run, %": f"{value:.1f}",
                f"chance in {row.gallery:,}, %": f"{100 * row.chance:.1f}",
                "normalised, %": f"{normalised:.1f}" if normalised else None,
            }
        )
    return pd.DataFrame(rows)


def with_interval(table: pd.DataFrame, *, digits: int = 2) -> pd.DataFrame:
    """Return a table with value, low and high in one column "recall", followed by chance and p-value."""
    recall = [format(interval_of(row), f".{digits}f") for row in table.itertuples(index=False)]
    others = table.drop(columns=["value", "low", "high", "chance", "n", "p_value"], errors="ignore")
    shown = others.assign(recall=recall, chance=table["chance"].to_numpy())
    if "p_value" in table:
        shown["p-value"] = table["p_value"].to_numpy()
    return shown


def interval_of(row: Any) -> Interval:
    """Return the interval of a table's row, from its value, low and high."""
    return Interval(row.value, row.low, row.high)


def value_of(table: pd.DataFrame, column: str = "value", /, **where: object) -> float:
    """Return the number in a column of the only row whose columns have the given values."""
    chosen = table
    for name, wanted in where.items():
        chosen = chosen[chosen[name] == wanted]
    return float(chosen[column].item())


def cosines_vs_report(
    cosines: Mapping[str, np.ndarray], config: EvaluationConfig, *, group_ids: Sequence[object] | None = None
) -> pd.DataFrame:
    """Return the distribution of the cosine between two reconstructions: the report's range, then each name.

    Each value of `cosines` is `(n,)` in [-1, 1]. The interval of the mean resamples `group_ids`, if given.
    """
    low, high = REPORT.reconstruction_cosine
    columns = ["drawn from", "measured by", "mean", "smallest", "first quartile"]
    columns += ["median", "third quartile", "largest"]
    rows: list[tuple[object, ...]] = [("own voice", _REPORT, None, low, None, None, None, high)]
    for name, values in cosines.items():
        mean = bootstrap_interval(values, group_ids=group_ids, settings=config.interval)
        rows.append((name, _RUN, f"{mean:.2f}", *np.quantile(values, [0, 0.25, 0.5, 0.75, 1])))
    return pd.DataFrame(rows, columns=columns)


def decoder_vs_report(
    decoders: Mapping[str, FaceDecoder | ResidualDecoder],
    settings: FaceDecoderConfig,
    losses: DecoderTrainingConfig,
    *,
    n_train: int,
) -> pd.DataFrame:
    """Return the report's "Decoder" next to this run's two, "report" and "residual"."""
    from s2f_lib.models.face_decoders import BASE_CHANNELS, FIRST_MAP, IMAGE_SIZE, MAP_SIZE
    from s2f_lib.models.voice_encoder import count_parameters

    plain, residual = decoders["report"], decoders["residual"]
    channels = BASE_CHANNELS * settings.width
    weights = {"L1": losses.l1_weight, "(1 - SSIM)": losses.ssim_weight}
    weights["(1 - identity)"] = losses.identity_weight
    loss_terms = " + ".join(f"{weight:g} {name}" for name, weight in weights.items() if weight)
    faces = f"{n_train:,} faces of clips"
    trained_on = faces if losses.utkface is None else f"UTKFace, then {faces}"
    first = f"{settings.residual_channels[0]} x {FIRST_MAP} x {FIRST_MAP}"
    upsampling = "4 residual blocks, then 4 pixels for one"
    size = f"{IMAGE_SIZE} x {IMAGE_SIZE} x 3"
    rows = [
        ("input", "4096-D", *(f"{decoder.feature_dimension}-D" for decoder in (plain, residual))),
        ("first map", "not stated", f"{channels:.0f} x {MAP_SIZE} x {MAP_SIZE}", first),
        ("upsampling", "4 transposed convolutions", "4 transposed convolutions", upsampling),
        ("output", "224 x 224 x 3", size, size),
        ("loss", "L1 of images", "L1 of images", loss_terms),
        ("trained on", f"{REPORT.decoder_images:,} of UTKFace, then AVSpeech", trained_on, trained_on),
        ("parameters", "not stated", *(f"{count_parameters(decoder):,}" for decoder in (plain, residual))),
    ]
    return pd.DataFrame(
        rows, columns=["what", "the report", "this run, as in the report", "this run, residual"]
    )


def _distance_row(
    distances: pd.DataFrame, name: str, label: dict[str, str], dimension: int
) -> dict[str, object]:
    rows = distances[distances["name"] == name].set_index("measure")
    values = {
        MEASURE_NAMES[m]: f"{Interval(rows.value[m], rows.low[m], rows.high[m]):.2f}" for m in _MEASURES
    }
    return label | {"measured by": _RUN, "people": int(rows.n.iloc[0]), "features": f"{dimension}-D"} | values
