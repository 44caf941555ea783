"""Training of the face decoders: true features in, true faces out (report, "Decoder")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from s2f_lib.config import DecoderTrainingConfig, FaceDecoderConfig, StudyConfig
from s2f_lib.errors import ConfigError
from s2f_lib.faces.differentiable import differentiable
from s2f_lib.faces.extractor import FaceFeatureExtractor, make_extractor
from s2f_lib.models.decoders import make_decoder
from s2f_lib.models.face_decoder import FaceDecoder
from s2f_lib.models.inference import render_faces
from s2f_lib.models.residual_decoder import ResidualDecoder
from s2f_lib.training import checkpoint
from s2f_lib.training.data import FeaturesAndFaces, validation_mask
from s2f_lib.training.decoder_losses import DecoderLoss
from s2f_lib.training.distributed import full_tensors
from s2f_lib.training.loop import Progress, Task, fit

__all__ = [
    "Faces",
    "TrainedDecoder",
    "decoder_config",
    "decoder_digest",
    "render_faces",
    "train_face_decoder",
]

_ENOUGH_FOR_A_MEAN = 4096  # faces, for their mean colour
_ENOUGH_FOR_IDENTITY = 64  # validation faces, described after each epoch
_SNAPSHOTS = "snapshots"


class Faces(Protocol):
    """What a decoder is trained on: `preparation.shards.PreparedClips` or `faces.face_set.FaceSet`."""

    clip_ids: list[str]
    video_ids: list[str]
    features: np.ndarray
    digest: str

    def __len__(self) -> int: ...

    def crops(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return faces, (n, 224, 224, 3) uint8 RGB."""
        ...


@dataclass(frozen=True)
class TrainedDecoder:
    """A face decoder and how it was trained."""

    model: FaceDecoder | ResidualDecoder
    metrics: pd.DataFrame  # a row an epoch
    folder: Path

    def at_epochs(self) -> dict[int, FaceDecoder | ResidualDecoder]:
        """Return the decoder as it was after some epochs, the first and the last among them."""
        found = {}
        for path in sorted((self.folder / _SNAPSHOTS).glob("epoch-*.safetensors")):
            dimension = self.model.feature_dimension
            model = make_decoder(self.model.config, feature_dimension=dimension)
            checkpoint.load_model(path, model)
            found[int(path.stem.removeprefix("epoch-"))] = model.eval()
        return found


def decoder_config(config: StudyConfig, kind: str | None = None) -> FaceDecoderConfig:
    """Return the decoder's settings, of the kind "report" or "residual", by default the one in use."""
    wanted = kind or config.decoder.kind
    if wanted not in ("report", "residual"):
        raise ConfigError(f"unknown decoder {wanted!r}: expected report or residual")
    return config.decoder.model_copy(update={"kind": wanted})


def decoder_digest(
    config: StudyConfig, *, data_digest: str, kind: str | None = None, start: TrainedDecoder | None = None
) -> str:
    """Return the digest of everything that decides a trained decoder."""
    parts = [data_digest, decoder_config(config, kind).digest(), config.decoder_training.result_digest()]
    return "-".join([*parts, start.folder.name] if start else parts)


def train_face_decoder(
    clips: Faces,
    config: StudyConfig,
    *,
    out: Path,
    kind: str | None = None,
    extractor: FaceFeatureExtractor | None = None,
    start: TrainedDecoder | None = None,
    progress: Progress | None = None,
) -> TrainedDecoder:
    """Train a decoder on faces and their features, or load it where it is trained already.

    Parameters
    ----------
    clips
        Faces and features; a share of them is held out for validation.
    config
        Decoder and its training.
    out
        The model's folder.
    kind
        "report" (L1 of the pictures) or "residual" (the losses of `decoder_losses`).
    extractor
        That gave the features; made from the settings where it is needed and not given.
    start
        A trained decoder of the same settings to go on from, as the report's fine-tuning does.
    progress
        Called after each epoch.

    Raises
    ------
    TrainingError
        There are too few faces, or the loss is not finite.
    ConfigError
        The identity loss is on and the features are not the extractor's.
    """
    settings, wanted = config.decoder_training, decoder_config(config, kind)
    held_out = validation_mask(clips.video_ids, share=settings.validation_share, seed=settings.seed)
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    torch.manual_seed(settings.seed)  # the initial weights
    dimension = clips.features.shape[1]
    model = make_decoder(wanted, feature_dimension=dimension)
    if start is None:
        _start_at_mean(model, clips.crops(train[:_ENOUGH_FOR_A_MEAN]))
    else:
        checkpoint.load_model(start.folder / checkpoint.MODEL_FILE, model)
    loss = _make_loss(settings, clips, train, wanted.kind, extractor or config)

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        features, faces = batch
        reconstructions = network(features).float()
        if loss is None:
            return l1_loss(reconstructions, _to_unit(faces))
        return loss(reconstructions.contiguous(), _to_unit(faces), features)

    def validate(network: nn.Module) -> dict[str, float]:
        if not len(validation):
            return {}
        rendered_faces = render_faces(network, clips.features[validation])
        difference = rendered_faces.astype(np.float32) - clips.crops(validation).astype(np.float32)
        row = {"validation_loss": float(np.abs(difference).mean() / 255)}
        if loss is not None and settings.identity_weight:
            some = slice(_ENOUGH_FOR_IDENTITY)
            device = next(network.parameters()).device
            reconstructions = _to_unit(torch.from_numpy(rendered_faces[some]).to(device))
            features = torch.from_numpy(clips.features[validation[some]]).to(device)
            row["validation_identity"] = float(loss.identity(reconstructions, features).mean())
        return row

    names = [clips.clip_ids[row] for row in train]
    discriminator = loss.discriminator if loss is not None else None
    data = FeaturesAndFaces(clips, train)
    keep = _SnapshotKeeper(model, out / _SNAPSHOTS, epochs=settings.epochs)
    task = Task(
        model, data, batch_loss, validate, names=names, loss_parameters=discriminator, after_epoch=keep
    )
    digest = decoder_digest(config, data_digest=clips.digest, kind=wanted.kind, start=start)
    metrics = fit(task, settings, out=out, digest=digest, progress=progress)
    trained = make_decoder(wanted, feature_dimension=dimension)
    trained.to(next(model.parameters()).device)  # the one that was trained may be spread over processes
    checkpoint.load_model(out / checkpoint.MODEL_FILE, trained)
    return TrainedDecoder(trained.eval(), metrics, out)


def _to_unit(faces: Tensor) -> Tensor:
    return faces.permute(0, 3, 1, 2).float() / 255  # (B, 3, 224, 224) in [0, 1]


def _make_loss(
    settings: DecoderTrainingConfig,
    clips: Faces,
    train: np.ndarray,
    kind: str,
    extractor: FaceFeatureExtractor | StudyConfig,
) -> DecoderLoss | None:
    """Return the residual decoder's loss; None for the report's, which is L1 alone."""
    if kind == "report":
        return None
    features = clips.features[train]
    differentiable_extractor = None
    if settings.identity_weight:
        if isinstance(extractor, StudyConfig):
            extractor = make_extractor(extractor.features, device="auto")
        if extractor.dimension != features.shape[1]:
            raise ConfigError(
                f"the identity loss is of {extractor.name}'s {extractor.dimension}-D features, and these "
                f"are {features.shape[1]}-D: give the extractor that made them, or set identity_weight to 0"
            )
        differentiable_extractor = differentiable(extractor)
    return DecoderLoss(
        settings, extractor=differentiable_extractor, mean_features=torch.from_numpy(features.mean(axis=0))
    )


class _SnapshotKeeper:
    """Keeps the model's weights after some epochs, to be looked at side by side."""

    def __init__(self, model: nn.Module, folder: Path, *, epochs: int) -> None:
        self._model, self._folder = model, folder
        self._wanted = {1, max(1, epochs // 8), max(1, epochs // 3), epochs}

    def __call__(self, epoch: int) -> None:
        if epoch in self._wanted:
            tensors = full_tensors(self._model.state_dict())  # of all processes, so all take part
            if not dist.is_initialized() or dist.get_rank() == 0:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / f"epoch-{epoch:03d}.safetensors"
                checkpoint.save_model(path, tensors, digest=self._folder.parent.name)


def _start_at_mean(model: FaceDecoder | ResidualDecoder, faces: np.ndarray) -> None:
    """Set the last bias to the mean colour, so that training starts at a plausible brightness."""
    mean = torch.from_numpy(faces).float().mean(dim=(0, 1, 2)) / 255
    with torch.no_grad():
        model.colour_bias().copy_(torch.logit(mean.clamp(0.01, 0.99))[:, None])
