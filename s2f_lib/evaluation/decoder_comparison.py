"""Comparison of the two decoders on UTKFace's held-out faces; it writes numbers, but no image."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from s2f_lib.config import DecoderTrainingConfig, FaceDecoderConfig, FeatureConfig, IntervalSettings
from s2f_lib.evaluation.decoders import AppearanceFeatures, evaluate_reconstructions
from s2f_lib.faces.extractor import make_extractor
from s2f_lib.faces.face_set import load_utkface
from s2f_lib.models.inference import render_faces
from s2f_lib.models.voice_encoder import count_parameters
from s2f_lib.training.decoder import train_face_decoder

logger = logging.getLogger(__name__)

KINDS = ("report", "residual")
#: Number of training faces that the PCA of `AppearanceFeatures` is fitted on, at most.
APPEARANCE_FACES = 2_000


@dataclass(frozen=True)
class DecoderComparison:
    """Result of `compare_decoders`."""

    table: pd.DataFrame  # of `decoders.evaluate_reconstructions`
    #: One row per decoder and epoch: decoder, epoch, train_loss, validation_loss, seconds.
    training: pd.DataFrame
    provenance: dict[str, Any]  # settings, data and sizes behind the numbers


def compare_decoders(
    folder: Path,
    *,
    features: FeatureConfig,
    decoder: FaceDecoderConfig,
    training: DecoderTrainingConfig,
    interval: IntervalSettings,
    work: Path,
    n_train: int,
    n_gallery: int,
    fold: int = 0,
    report_epochs: int | None = None,
    progress: Callable[..., Any] | None = None,
) -> DecoderComparison:
    """Train the report's decoder and the residual one on UTKFace, and evaluate both on its gallery.

    Parameters
    ----------
    folder
        Folder of UTKFace's images.
    features, decoder, training, interval
        Settings of the feature extractor, the decoders, their training and the intervals.
    work
        Folder of features and models. Existing ones are used again.
    n_train, n_gallery, fold
        See `sources.utkface.split_utkface`.
    report_epochs
        Epochs of the report's decoder, whose steps are cheaper. None: as many as for the residual one.
    progress
        Function that is called with (done, total, note).
    """
    started = time.perf_counter()
    extractor = make_extractor(features, device="auto")
    sets = load_utkface(
        folder, extractor, cache=work / "faces", n_train=n_train, n_gallery=n_gallery, fold=fold
    )
    logger.info("%d faces to train on, %d in the gallery", len(sets.train), len(sets.test))
    trainings = dict.fromkeys(KINDS, training)
    if report_epochs is not None:
        trainings["report"] = training.with_(epochs=report_epochs)
    reconstructions, metrics, parameters = {}, [], {}
    for index, kind in enumerate(KINDS):
        if progress is not None:
            progress(index, len(KINDS), f"training {kind}")
        trained = train_face_decoder(
            sets.train,
            decoder=decoder.with_(kind=kind),
            training=trainings[kind],
            parent=work,
            extractor=extractor,
        )
        reconstructions[kind] = render_faces(trained.model, sets.test.features)
        metrics.append(trained.metrics.assign(decoder=kind))
        parameters[kind] = count_parameters(trained.model)
    table = evaluate_reconstructions(
        reconstructions,
        sets.test.crops(),
        extractor=extractor,
        mean_features=sets.train.features.mean(axis=0),
        second_extractor=AppearanceFeatures(sets.train.crops(range(min(APPEARANCE_FACES, len(sets.train))))),
        settings=interval,
        distractors=sets.train.features,
    )
    curves = pd.concat(metrics, ignore_index=True)
    minutes = curves.groupby("decoder", sort=False)["seconds"].sum() / 60
    provenance = {
        "measured_on": "UTKFace, aligned and cropped; numbers alone",
        "files": len(sets.table) + len(sets.refused),
        "refused": len(sets.refused),
        "train": len(sets.train),
        "gallery": len(sets.test),
        "fold": fold,
        "extractor": f"{extractor.name} {extractor.fingerprint}",
        "train_digest": sets.train.digest,
        "gallery_digest": sets.test.digest,
        "parameters": parameters,
        "epochs": {kind: trainings[kind].epochs for kind in KINDS},
        "training_min": {kind: round(float(minutes[kind]), 2) for kind in KINDS},
        "decoder": decoder.model_dump(mode="json"),
        "decoder_training": training.model_dump(mode="json", exclude={"utkface"}),
        "wall_s": round(time.perf_counter() - started, 1),
    }
    return DecoderComparison(table, curves, provenance)
