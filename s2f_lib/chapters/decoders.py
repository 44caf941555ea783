"""Tables and faces of chapter 04: two decoders on the faces of this run, and on UTKFace as published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from s2f_lib import paths
from s2f_lib.chapters.measures import even_steps
from s2f_lib.errors import MissingFileError
from s2f_lib.evaluation.decoder_comparison import APPEARANCE_FACES
from s2f_lib.evaluation.decoders import AppearanceFeatures, evaluate_reconstructions
from s2f_lib.evaluation.retrieval import pair_distances
from s2f_lib.evaluation.statistics import Interval
from s2f_lib.study import Study

if TYPE_CHECKING:
    from s2f_lib.training.decoder import TrainedDecoder

#: Names of the decoders in the chapter, and of the same image for everybody.
NAMES = {"report": "as in the report", "residual": "residual", "mean": "mean training face"}
_MEASURES = {
    "identity_cosine": ("identity, cosine", 2, 1),
    "recall_1": ("R@1, %", 1, 100),
    "recall_10": ("R@10, %", 1, 100),
    "large_recall_1": ("R@1 with the training faces, %", 1, 100),
    "second_recall_1": ("R@1 by edges, %", 1, 100),
    "second_recall_10": ("R@10 by edges, %", 1, 100),
    "ssim": ("SSIM", 3, 1),
    "psnr_db": ("PSNR, dB", 2, 1),
    "sharpness": ("sharpness", 2, 1),
}


@dataclass(frozen=True)
class PublishedComparison:
    """Numbers that `s2f faces` measured on UTKFace.

    `table` comes from `evaluation.decoders.evaluate_reconstructions`; `provenance` holds the settings, the
    data and the machine of the measurement.
    """

    table: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def commit(self) -> str:
        """Commit of the code that measured the numbers."""
        return str(self.provenance["environment"]["commit"]).split()[0]


def published_utkface() -> PublishedComparison:
    """Return the published comparison on UTKFace."""
    path = paths.published_dir() / "utkface" / "decoders.json"
    if not path.is_file():
        raise MissingFileError(
            f"no {path.name} in {path.parent}: make it with `s2f faces --utkface DIR --out {path}`"
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    return PublishedComparison(pd.DataFrame(content["decoders"]), content["provenance"])


def evaluate(study: Study, reconstructions: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Evaluate reconstructions of the test people, in the order of `study.split("test")`."""
    train, test = study.split("train"), study.split("test")
    return evaluate_reconstructions(
        reconstructions,
        test.crops(),
        extractor=study.extractor,
        mean_features=train.features.mean(axis=0),
        second_extractor=AppearanceFeatures(train.crops(np.arange(min(len(train), APPEARANCE_FACES)))),
        settings=study.config.evaluation.interval,
        distractors=train.features,
        group_ids=test.video_ids,
    )


def evaluation_table(evaluated: pd.DataFrame) -> pd.DataFrame:
    """Return the scores for readers: one row per measure, one column per decoder, and chance."""
    rows = []
    for measure, (label, digits, factor) in _MEASURES.items():
        chosen = evaluated[evaluated["measure"] == measure].set_index("decoder")
        if chosen.empty:
            continue
        row: dict[str, object] = {"measure": label}
        for decoder, found in chosen.iterrows():
            interval = Interval(*(found[name] for name in ("value", "low", "high"))).times(factor)
            row[NAMES.get(str(decoder), str(decoder))] = f"{interval:.{digits}f}"
        chance = chosen["chance"].iloc[0]
        known = chance is not None and chance == chance
        rows.append(row | {"chance": f"{factor * chance:.2f}" if known else None})
    return pd.DataFrame(rows)


def value(evaluated: pd.DataFrame, decoder: str, measure: str) -> float:
    """Return one value of a table of `evaluate_reconstructions`, for the prose."""
    return float(_row(evaluated, decoder, measure)["value"])


def missed(evaluated: pd.DataFrame, decoder: str) -> int:
    """Return the number of reconstructions that do not find their face first, for the prose."""
    row = _row(evaluated, decoder, "recall_1")
    return round(row["n"] * (1 - row["value"]))


def _row(evaluated: pd.DataFrame, decoder: str, measure: str) -> pd.Series:
    return evaluated[(evaluated["decoder"] == decoder) & (evaluated["measure"] == measure)].iloc[0]


def identity(study: Study, reconstruction: np.ndarray) -> np.ndarray:
    """Return the cosine of the features of reconstructed and true test faces minus the mean, `(n,)`."""
    mean = study.split("train").features.mean(axis=0)
    true = study.split("test").features
    return pair_distances(true - mean, study.extractor(reconstruction) - mean)["cosine"]


def reconstructions_at_epochs(
    decoder: TrainedDecoder, features: np.ndarray, originals: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Reconstruct faces with snapshots of the decoder, and return arguments of `figures.face_rows`.

    The first column holds the originals; each other column belongs to a snapshot after some epochs.
    """
    from s2f_lib.models.inference import render_faces

    snapshots = decoder.at_epochs()
    columns = [originals, *(render_faces(model, features) for model in snapshots.values())]
    names = ["original", *(f"epoch {epoch}" for epoch in snapshots)]
    return np.stack(columns, axis=1), names


def reconstructions_side_by_side(
    originals: np.ndarray, reconstructions: Mapping[str, np.ndarray], identity: np.ndarray, *, n_rows: int
) -> tuple[np.ndarray, list[str], list[str]]:
    """Choose people at even steps of `identity` `(n,)`, from the best to the worst.

    The results are arguments of `figures.face_rows`: originals first, then one column per decoder.
    """
    order = np.argsort(-identity, kind="stable")
    rows = order[even_steps(len(order), n_rows)]
    faces = np.stack(
        [originals[rows], *(reconstruction[rows] for reconstruction in reconstructions.values())], axis=1
    )
    headings = ["original", *(NAMES.get(name, name) for name in reconstructions)]
    return faces, headings, [f"identity {identity[row]:.2f}" for row in rows]
