"""The systems that are compared on the public pairs, each from training pairs to scores.

All systems see the same training pairs and rank the same galleries: dlib's features of the true faces. No
system sees a test voice or a test face before it scores them, and no system knows the size of the gallery.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from s2f_lib.config import SpectrogramConfig, TrainingConfig, VoiceEncoderConfig
from s2f_lib.errors import InputError
from s2f_lib.evaluation.retrieval import similarity_matrix, true_ranks, unit
from s2f_lib.pairs.data import PairData
from s2f_lib.pairs.model import VoiceToFace, group_folds, mean_recall, solve_ridge, standardize

if TYPE_CHECKING:
    from torch import nn

SYSTEMS = ("speech2face", "report", "ridge", "ours")
CONTROL = "shuffled"  # `ours`, trained on voices with the faces of other people

_RIDGES = (1.0, 3.0, 10.0, 30.0)
_RIDGE_FOLDS = 5


class SystemUnavailableError(InputError):
    """A pretrained network that a system needs is not installed; the other systems run."""


class Systems:
    """The systems of one split; each is fitted when it is used for the first time.

    `train` are the rows of the training pairs in `data`, `spectrogram`, `encoder` and `training` the settings
    of the report's encoder, `models` the folder of the trained encoders, and `seed` that of the control.
    """

    def __init__(
        self,
        data: PairData,
        train: np.ndarray,
        *,
        spectrogram: SpectrogramConfig,
        encoder: VoiceEncoderConfig,
        training: TrainingConfig,
        models: Path,
        seed: int = 0,
    ) -> None:
        self._data, self._train, self._models, self._seed = data, train, models, seed
        self._spectrogram, self._encoder, self._training = spectrogram, encoder, training
        self._mean_face = data.faces.upright[train].astype(np.float64).mean(axis=0)
        self._scorers = {
            "speech2face": self._score_speech2face,
            "report": self._score_report,
            "ridge": self._score_ridge,
            "ours": lambda test: self._score_model(self._ours, test),
            CONTROL: lambda test: self._score_model(self._shuffled, test),
        }

    def score(self, system: str, test: np.ndarray) -> np.ndarray:
        """Return the scores of the voices and the faces of the test rows, `(n, n)`; higher fits better.

        An unknown system or too few training pairs raise an InputError, a network that is not installed a
        SystemUnavailableError.
        """
        if system not in self._scorers:
            raise InputError(f"unknown system {system!r}: expected one of {', '.join(SYSTEMS)}")
        return self._scorers[system](test)

    def settings(self, system: str) -> dict[str, Any]:
        """Return the settings of a system, including those that it chose in training."""
        if system == "ridge":
            return {"ridge": self._ridge[0], "blocks": ["speaker"]}
        if system in ("ours", CONTROL):
            model = self._ours if system == "ours" else self._shuffled
            recall = model.objective.get(model.settings)
            return asdict(model.settings) | {"blocks": list(model.blocks), "cross_validated_recall": recall}
        if system == "report":
            loss, epochs = self._training.main_loss, self._training.epochs
            return {"loss": loss, "epochs": epochs, "width": self._encoder.width}
        return {}

    def _score_speech2face(self, test: np.ndarray) -> np.ndarray:
        reconstructions = self._data.reconstructions.astype(np.float64)
        queries = reconstructions[test] - reconstructions[self._train].mean(axis=0)
        return similarity_matrix(queries, self._centred_faces(test), "cosine")

    def _score_ridge(self, test: np.ndarray) -> np.ndarray:
        _, mean, deviation, coefficients = self._ridge
        queries = standardize(self._data.voices["speaker"][test], mean, deviation)
        train = standardize(self._data.voices["speaker"][self._train], mean, deviation)
        predicted = queries @ train.T / train.shape[1] @ coefficients
        return similarity_matrix(predicted, self._centred_faces(test), "cosine")

    def _score_report(self, test: np.ndarray) -> np.ndarray:
        """Return cosines of unit vectors, both sides minus their means over the training pairs.

        The report's loss only uses the direction of its output, so directions are compared.
        """
        from s2f_lib.models.inference import predict_features

        faces = self._data.faces.upright
        predicted_train, predicted = (
            unit(predict_features(self._report, self._data.audio, self._spectrogram, rows=rows))
            for rows in (self._train, test)
        )
        gallery = unit(faces[test]) - unit(faces[self._train]).mean(axis=0)
        return similarity_matrix(predicted - predicted_train.mean(axis=0), gallery, "cosine")

    def _score_model(self, model: VoiceToFace, test: np.ndarray) -> np.ndarray:
        voices = {name: block[test] for name, block in self._data.voices.items()}
        return model.score(voices, self._data.faces.upright[test])

    def _centred_faces(self, rows: np.ndarray) -> np.ndarray:
        return self._data.faces.upright[rows].astype(np.float64) - self._mean_face

    @cached_property
    def _ours(self) -> VoiceToFace:
        return VoiceToFace(self._data.training(self._train))

    @cached_property
    def _shuffled(self) -> VoiceToFace:
        """The control: trained on the faces of other people, with the settings chosen for the true pairs."""
        order = np.random.default_rng(100 + self._seed).permutation(len(self._train))
        return VoiceToFace(self._data.training(self._train).with_faces_of(order), grid=[self._ours.settings])

    @cached_property
    def _ridge(self) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """Ridge from the speaker embedding: chosen value, mean, deviation and coefficients."""
        if "speaker" not in self._data.voices:
            raise SystemUnavailableError("the system ridge needs the speaker embedding: it is not installed")
        pairs = self._data.training(self._train)
        block, faces = pairs.voices["speaker"].astype(np.float64), pairs.faces.astype(np.float64)
        mean, deviation = block.mean(axis=0), block.std(axis=0) + 1e-9
        z = standardize(block, mean, deviation)
        kernel = z @ z.T / z.shape[1]
        quality: dict[float, float] = {}
        for ridge in _RIDGES:
            ranks, sizes = [], []
            for train, test in group_folds(pairs.group_ids, _RIDGE_FOLDS):
                mean_face = faces[train].mean(axis=0)
                fitted = solve_ridge(kernel[np.ix_(train, train)], faces[train] - mean_face, ridge)
                predicted = kernel[np.ix_(test, train)] @ fitted
                ranks.append(true_ranks(similarity_matrix(predicted, faces[test] - mean_face, "cosine")))
                sizes.append(np.full(len(test), len(test)))
            quality[ridge] = mean_recall(np.concatenate(ranks), np.concatenate(sizes))
        best = max(quality, key=quality.__getitem__)
        return best, mean, deviation, solve_ridge(kernel, faces - faces.mean(axis=0), best)

    @cached_property
    def _report(self) -> nn.Module:
        """The encoder of the settings, trained from scratch on the training pairs."""
        from s2f_lib.preparation.shards import PreparedClips
        from s2f_lib.training.encoder import train_voice_encoder

        clips = PreparedClips(
            clip_ids=[self._data.pairs[row].clip_id for row in self._train],
            # validation divides no group
            video_ids=[str(self._data.group_ids[row]) for row in self._train],
            splits=["train"] * len(self._train),
            audio=self._data.audio[self._train],
            features=self._data.faces.upright[self._train],
            crops_jpeg=[],
            provenance={},
            columns={},
        )
        loss = self._training.main_loss
        return train_voice_encoder(
            clips,
            spectrogram=self._spectrogram,
            encoder=self._encoder,
            training=self._training,
            loss=loss,
            parent=self._models,
            name=f"pairs-{loss}",
        ).model
