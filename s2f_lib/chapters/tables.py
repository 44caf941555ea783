"""The report's tables, with its numbers beside those of a run.

Every row or column says what it was measured on.  Values of a run carry their
interval; nothing is formatted beyond that, `page.Page.table` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from s2f_lib.chapters.reference import LOSS_NAMES, MEASURE_NAMES, REPORT
from s2f_lib.config import RECALL_AT, EvaluationConfig, SpectrogramConfig, StudyConfig
from s2f_lib.evaluation.statistics import Interval, bootstrap_interval, normalized_recall

if TYPE_CHECKING:
    from s2f_lib.models.face_decoders import FaceDecoder, ResidualDecoder
    from s2f_lib.preparation.pipeline import PreparationSummary
    from s2f_lib.preparation.shards import PreparedClips

_MEASURES = ("l2", "l1", "cosine")  # the order of the report's columns
_REPORT = "the report"
_RUN = "this run"


def data_vs_report(
    config: StudyConfig, clips: PreparedClips, preparation: PreparationSummary
) -> pd.DataFrame:
    """Return "Data Preparation Details": the report's set-up beside this run's."""
    low, high = (hours * 3.6 for hours in REPORT.preparation_hours_per_1000)  # seconds a clip
    n_train, n_test = (clips.splits.count(split) for split in ("train", "test"))
    kind = config.source.kind
    source = {"synthetic": f"generated people, rho {config.source.synthetic.rho:g}"}.get(kind, kind)
    seconds = preparation.core_seconds_per_clip
    dimension = clips.features.shape[1]
    rows = [
        ("source", "AVSpeech, downloaded with youtube-dl", source),
        ("training clips", f"about {REPORT.n_train:,}", f"{n_train:,}"),
        ("test clips", f"about {REPORT.n_test:,}", f"{n_test:,}"),
        ("clips refused", "not stated", f"{preparation.n_refused:,} of {preparation.n_clips:,}"),
        ("face detector", "dlib's CNN", f"dlib's CNN, run by {config.preparation.detector}"),
        ("face features", "VGG16-Face, 4096-D", f"{config.features.extractor}, {dimension}-D"),
        ("spectrogram", "complex, by librosa and torchvision", _format_spectrogram(config.spectrogram)),
        ("kept as", "pickle", "Parquet with checksums"),
        ("seconds a clip", f"{low:.0f} to {high:.0f}, download included", f"{seconds:.2f}, on one core"),
    ]
    return pd.DataFrame(rows, columns=["what", "the report", "this run"])


def people_table(config: StudyConfig, clips: PreparedClips) -> pd.DataFrame:
    """Return the prepared people by split; of generated ones also gender, group and age."""
    table = pd.DataFrame({"clip_id": clips.clip_ids, "split": clips.splits})
    if config.source.kind != "synthetic":
        return table.groupby("split", sort=False).size().rename("clips").reset_index()
    from s2f_lib.sources.synthetic.people import draw_population

    known = draw_population(config.source.synthetic).table()[["clip_id", "gender", "group", "age_years"]]
    groups = table.merge(known, on="clip_id").groupby(["split", "group"])
    counted = groups.agg(
        people=("gender", "size"),
        women=("gender", lambda values: int((values == "f").sum())),
        men=("gender", lambda values: int((values == "m").sum())),
        youngest=("age_years", "min"),
        oldest=("age_years", "max"),
    )
    rounded = counted.round({"youngest": 0, "oldest": 0})
    return rounded.astype(int).reset_index().sort_values(["split", "group"], ascending=[False, True])


def shared_videos(clips: PreparedClips) -> int:
    """Return how many videos have clips in more than one split: none, or the test is no test."""
    splits = pd.DataFrame({"video": clips.video_ids, "split": clips.splits}).groupby("video")["split"]
    return int((splits.nunique() > 1).sum())


def distances_vs_report(distances: pd.DataFrame, *, dimension: int) -> pd.DataFrame:
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


def losses_vs_report(distances: pd.DataFrame, *, dimension: int) -> pd.DataFrame:
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


def recall_vs_report(recall: pd.DataFrame, *, split: str) -> pd.DataFrame:
    """Return "Recall@K" of a split: the report's percent and this run's, each beside its chance.

    The last column normalises this run's for the gallery's size: 0 is chance, 100 perfect.

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
        value = Interval(row.value, row.low, row.high).times(100)
        normalised = None  # there is nothing above chance where K is the whole gallery
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


def recall_of_losses(recall: pd.DataFrame, *, measure: str, k: int) -> pd.DataFrame:
    """Return recall at one K for each loss as a table to draw: label, value, low, high, chance."""
    chosen = recall[(recall["measure"] == measure) & (recall["k"] == k)]
    labels = [LOSS_NAMES.get(name, name) for name in chosen["name"]]
    return chosen.assign(label=labels)[["label", "value", "low", "high", "chance"]].reset_index(drop=True)


def with_interval(table: pd.DataFrame, *, digits: int = 2) -> pd.DataFrame:
    """Return a table whose value, low and high are one column, "recall", before chance and p-value."""
    recall = [
        format(Interval(row.value, row.low, row.high), f".{digits}f") for row in table.itertuples(index=False)
    ]
    others = table.drop(columns=["value", "low", "high", "chance", "n", "p_value"], errors="ignore")
    shown = others.assign(recall=recall, chance=table["chance"].to_numpy())
    if "p_value" in table:
        shown["p-value"] = table["p_value"].to_numpy()
    return shown


def value_of(table: pd.DataFrame, column: str = "value", /, **where: object) -> float:
    """Return the one number of a table's row that `where` names, for the prose."""
    chosen = table
    for name, wanted in where.items():
        chosen = chosen[chosen[name] == wanted]
    return float(chosen[column].item())


def cosines_vs_report(
    cosines: Mapping[str, np.ndarray], config: EvaluationConfig, *, group_ids: Sequence[object] | None = None
) -> pd.DataFrame:
    """Return how the cosine between two drawings is spread: the report's range, and a row for each name.

    Parameters
    ----------
    cosines
        Name of the comparison to `(n,)` values in [-1, 1].
    config
        Of the mean's interval.
    group_ids
        `n` ids of persons or videos, which the interval resamples.
    """
    low, high = REPORT.reconstruction_cosine
    columns = [
        "drawn from",
        "measured by",
        "mean",
        "smallest",
        "first quartile",
        "median",
        "third quartile",
        "largest",
    ]
    rows: list[tuple[object, ...]] = [("own voice", _REPORT, None, low, None, None, None, high)]
    for name, values in cosines.items():
        mean = bootstrap_interval(
            values,
            group_ids=group_ids,
            settings=config.interval,
        )
        rows.append((name, _RUN, f"{mean:.2f}", *np.quantile(values, [0, 0.25, 0.5, 0.75, 1])))
    return pd.DataFrame(rows, columns=columns)


def decoder_vs_report(
    config: StudyConfig, decoders: Mapping[str, FaceDecoder | ResidualDecoder], *, n_train: int
) -> pd.DataFrame:
    """Return the report's "Decoder" beside this run's two, "report" and "residual"."""
    from s2f_lib.models.face_decoders import BASE_CHANNELS, FIRST_MAP, IMAGE_SIZE, MAP_SIZE
    from s2f_lib.models.voice_encoder import count_parameters

    settings, losses = config.decoder, config.decoder_training
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


def _format_spectrogram(config: SpectrogramConfig) -> str:
    return f"{config.n_frames} x {config.n_bins} of {config.duration_s:g} s, complex"


def _distance_row(
    distances: pd.DataFrame, name: str, label: dict[str, str], dimension: int
) -> dict[str, object]:
    rows = distances[distances["name"] == name].set_index("measure")
    values = {
        MEASURE_NAMES[m]: f"{Interval(rows.value[m], rows.low[m], rows.high[m]):.2f}" for m in _MEASURES
    }
    return label | {"measured by": _RUN, "people": int(rows.n.iloc[0]), "features": f"{dimension}-D"} | values
