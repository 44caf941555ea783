"""The systems that are compared on the real pairs, each from training pairs to a table of scores.

All see the same training pairs and rank the same galleries: dlib's descriptors of the true
faces.  None sees a test voice or a test face before it scores them, and none is told how
large the gallery is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from s2f_lib.config import StudyConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.distances import unit
from s2f_lib.evaluation.retrieval import similarity_matrix, true_ranks
from s2f_lib.pairs.faces import FaceFeatures
from s2f_lib.pairs.kernel import standardised
from s2f_lib.pairs.model import (
    TrainingPairs,
    VoiceToFace,
    VoiceToFaceSettings,
    group_folds,
    mean_recall,
    solve_ridge,
)
from s2f_lib.sources.public_pairs import Pair


class SystemUnavailableError(InputError):
    """A pretrained network that a system is made of is not installed; the others go on."""


SYSTEMS = ("speech2face", "report", "ridge", "ours")
CONTROL = "shuffled"  # `ours`, trained on voices with other people's faces

_RIDGES = (1.0, 3.0, 10.0, 30.0)
_RIDGE_FOLDS = 5


@dataclass(frozen=True)
class PairData:
    """Everything that the systems take, a row a pair.

    Attributes
    ----------
    pairs
        `n` pairs.
    group_ids
        `(n,)` int: videos and persons.
    audio
        `(n, 96,000)` int16 at 16 kHz.
    voices
        Block to `(n, d)` float32 descriptors.
    faces
        Of the true faces.
    reconstructions
        `(n, 128)` float32, descriptors of Speech2Face's reconstructions.
    fingerprints
        Voice extractor to the fingerprint of weights and method.
    """

    pairs: tuple[Pair, ...]
    group_ids: np.ndarray
    audio: np.ndarray
    voices: Mapping[str, np.ndarray]
    faces: FaceFeatures
    reconstructions: np.ndarray
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def training(self, rows: np.ndarray) -> TrainingPairs:
        """Return some of the pairs to train on."""
        voices = {name: block[rows] for name, block in self.voices.items()}
        return TrainingPairs(
            voices, self.faces.upright[rows], self.faces.mirrored[rows], self.group_ids[rows]
        )


class Systems:
    """The systems of one split; each is fitted when it is first asked for.

    Parameters
    ----------
    data
        All pairs.
    train
        `(n,)` int, rows that are trained on.
    config
        Encoder, spectrogram and training settings of the report's system.
    models
        Folder for what the report's system trains.
    seed
        Of the shuffled control.
    """

    def __init__(
        self, data: PairData, train: np.ndarray, config: StudyConfig, *, models: Path, seed: int = 0
    ) -> None:
        self.data, self.train, self.config, self.models, self.seed = data, train, config, models, seed
        self._mean_face = data.faces.upright[train].astype(np.float64).mean(axis=0)

    def score(self, system: str, test: np.ndarray) -> np.ndarray:
        """Return `(n, n)` scores of the voices and the faces of the test rows; larger fits better.

        Raises
        ------
        InputError
            The system is unknown, or there are too few training pairs.
        SystemUnavailableError
            A network that it needs is not installed.
        """
        if system not in (*SYSTEMS, CONTROL):
            raise InputError(f"unknown system {system!r}: expected one of {', '.join(SYSTEMS)}")
        return getattr(self, f"_score_{system}")(test)

    def settings(self, system: str) -> dict[str, Any]:
        """Return what was chosen for a system, or decided it."""
        if system == "ridge":
            return {"ridge": self._ridge[0], "blocks": ["speaker"]}
        if system in ("ours", CONTROL):
            model = self._ours if system == "ours" else self._shuffled
            chosen = model.settings
            return {
                "ridge": chosen.ridge,
                "shrink": chosen.scores.shrink,
                "scale": chosen.scores.scale,
                "cca_dims": chosen.scores.cca_dims,
                "cca_ridge": chosen.scores.cca_ridge,
                "blocks": list(model.blocks),
                "cross_validated_recall": model.objective.get(chosen),
            }
        if system == "report":
            training = self.config.training
            return {"loss": training.main_loss, "epochs": training.epochs, "width": self.config.encoder.width}
        return {}

    def _centred_faces(self, rows: np.ndarray) -> np.ndarray:
        return self.data.faces.upright[rows].astype(np.float64) - self._mean_face

    def _score_speech2face(self, test: np.ndarray) -> np.ndarray:
        reconstructions = self.data.reconstructions.astype(np.float64)
        queries = reconstructions[test] - reconstructions[self.train].mean(axis=0)
        return similarity_matrix(queries, self._centred_faces(test), "cosine")

    def _score_ridge(self, test: np.ndarray) -> np.ndarray:
        _, mean, deviation, coefficients = self._ridge
        queries = standardised(self.data.voices["speaker"][test], mean, deviation)
        train = standardised(self.data.voices["speaker"][self.train], mean, deviation)
        predicted = queries @ train.T / train.shape[1] @ coefficients
        return similarity_matrix(predicted, self._centred_faces(test), "cosine")

    def _score_ours(self, test: np.ndarray) -> np.ndarray:
        return self._ours.score(self._voices(test), self.data.faces.upright[test])

    def _score_shuffled(self, test: np.ndarray) -> np.ndarray:
        return self._shuffled.score(self._voices(test), self.data.faces.upright[test])

    def _score_report(self, test: np.ndarray) -> np.ndarray:
        """Return cosines of directions, each side less its mean over the training pairs.

        The report's loss sees the direction of its output alone, so directions are compared.
        """
        from s2f_lib.training.encoder import predict_features

        model, spectrogram = self._report, self.config.spectrogram
        of_train = unit(predict_features(model, self.data.audio, spectrogram, rows=self.train))
        of_test = unit(predict_features(model, self.data.audio, spectrogram, rows=test))
        faces = {name: unit(self.data.faces.upright[rows]) for name, rows in self._sides(test).items()}
        return similarity_matrix(
            of_test - of_train.mean(axis=0), faces["test"] - faces["train"].mean(axis=0), "cosine"
        )

    def _sides(self, test: np.ndarray) -> dict[str, np.ndarray]:
        return {"train": self.train, "test": test}

    def _voices(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: block[rows] for name, block in self.data.voices.items()}

    @cached_property
    def _ours(self) -> VoiceToFace:
        return VoiceToFace(self.data.training(self.train))

    @cached_property
    def _shuffled(self) -> VoiceToFace:
        """The control: with the settings chosen for the true pairs, trained on other people's faces."""
        order = np.random.default_rng(100 + self.seed).permutation(len(self.train))
        chosen: tuple[VoiceToFaceSettings, ...] = (self._ours.settings,)
        return VoiceToFace(self.data.training(self.train).with_faces_of(order), grid=chosen)

    @cached_property
    def _ridge(self) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Ridge from the speaker embedding; its one setting by cross-validation in train."""
        if "speaker" not in self.data.voices:
            raise SystemUnavailableError(
                "the system ridge needs the speaker embedding, which is not installed"
            )
        pairs = self.data.training(self.train)
        block, faces = pairs.voices["speaker"].astype(np.float64), pairs.faces.astype(np.float64)
        mean, deviation = block.mean(axis=0), block.std(axis=0) + 1e-9
        z = standardised(block, mean, deviation)
        kernel = z @ z.T / z.shape[1]
        quality: dict[float, float] = {}
        for ridge in _RIDGES:
            ranks, sizes = [], []
            for inside, outside in group_folds(pairs.group_ids, _RIDGE_FOLDS):
                mean_face = faces[inside].mean(axis=0)
                fitted = solve_ridge(kernel[np.ix_(inside, inside)], faces[inside] - mean_face, ridge)
                predicted = kernel[np.ix_(outside, inside)] @ fitted
                ranks.append(true_ranks(similarity_matrix(predicted, faces[outside] - mean_face, "cosine")))
                sizes.append(np.full(len(outside), len(outside)))
            quality[ridge] = mean_recall(np.concatenate(ranks), np.concatenate(sizes))
        best = max(quality, key=quality.__getitem__)
        return best, mean, deviation, solve_ridge(kernel, faces - faces.mean(axis=0), best)

    @cached_property
    def _report(self) -> Any:
        """The report's encoder, trained from scratch on the training pairs."""
        from s2f_lib.preparation.shards import PreparedClips
        from s2f_lib.training.encoder import encoder_digest, train_voice_encoder

        clips = PreparedClips(
            clip_ids=[self.data.pairs[row].clip_id for row in self.train],
            video_ids=[str(self.data.group_ids[row]) for row in self.train],  # validation divides no group
            splits=["train"] * len(self.train),
            audio=self.data.audio[self.train],
            features=self.data.faces.upright[self.train],
            crops_jpeg=[],
            provenance={},
            columns={},
        )
        loss = self.config.training.main_loss
        digest = encoder_digest(self.config, loss=loss, data_digest=clips.digest)
        out = self.models / f"pairs-{loss}-{_short(digest)}"
        return train_voice_encoder(clips, self.config, loss=loss, out=out).model


def same_group(group_ids: np.ndarray) -> np.ndarray:
    """Return `(n, n)` bool: faces that belong to the query's own group, but for its own."""
    same = np.asarray(group_ids)[:, None] == np.asarray(group_ids)[None]
    np.fill_diagonal(same, False)
    return same


def _short(digest: str) -> str:
    return hashlib.sha256(digest.encode()).hexdigest()[:8]
