"""Training of the face decoder: true features in, true faces out (report, "Decoder")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from s2f_lib.config import StudyConfig
from s2f_lib.models.face_decoder import FaceDecoder
from s2f_lib.preparation.shards import PreparedClips
from s2f_lib.training import checkpoint
from s2f_lib.training.data import FeaturesAndFaces, validation_mask
from s2f_lib.training.loop import Progress, Task, fit

_ENOUGH_FOR_A_MEAN = 4096  # faces, for their mean colour


@dataclass(frozen=True)
class TrainedDecoder:
    """A face decoder and how it was trained."""

    model: FaceDecoder
    metrics: pd.DataFrame  # a row an epoch
    folder: Path


def decoder_digest(config: StudyConfig, *, data_digest: str) -> str:
    """Return the digest of everything that decides a trained decoder."""
    return "-".join((data_digest, config.decoder.digest(), config.decoder_training.result_digest()))


def train_face_decoder(
    clips: PreparedClips, config: StudyConfig, *, out: Path, progress: Progress | None = None
) -> TrainedDecoder:
    """Train the decoder on the clips' own faces, or load it where it is trained already.

    The loss is the mean absolute difference of the images, in [0, 1].
    """
    settings = config.decoder_training
    held_out = validation_mask(clips.video_ids, share=settings.validation_share, seed=settings.seed)
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    torch.manual_seed(settings.seed)  # the initial weights
    model = FaceDecoder(config.decoder, feature_dimension=clips.features.shape[1])
    _start_at_mean(model, clips.crops(train[:_ENOUGH_FOR_A_MEAN]))

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        features, faces = batch
        return l1_loss(network(features).float(), _to_unit(faces))

    def validate(network: nn.Module) -> dict[str, float]:
        if not len(validation):
            return {}
        rendered = render_faces(network, clips.features[validation])
        difference = rendered.astype(np.float32) - clips.crops(validation).astype(np.float32)
        return {"validation_loss": float(np.abs(difference).mean() / 255)}

    names = [clips.clip_ids[row] for row in train]
    task = Task(model, FeaturesAndFaces(clips, train), batch_loss, validate, names=names)
    digest = decoder_digest(config, data_digest=clips.digest)
    metrics = fit(task, settings, out=out, digest=digest, progress=progress)
    trained = FaceDecoder(config.decoder, feature_dimension=clips.features.shape[1])
    trained.to(next(model.parameters()).device)  # the one that was trained may be spread over processes
    checkpoint.load_model(out / checkpoint.MODEL_FILE, trained)
    return TrainedDecoder(trained.eval(), metrics, out)


def render_faces(model: nn.Module, features: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
    """Render faces from features.

    Parameters
    ----------
    features
        `(n, dimension)` float32, true or predicted.

    Returns
    -------
    numpy.ndarray
        `(n, 224, 224, 3)` uint8 RGB.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    faces = []
    with torch.no_grad():
        for start in range(0, len(features), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(features[start : start + batch_size]))
            images = model(batch.float().to(device)).float()  # (B, 3, 224, 224)
            faces.append((images * 255).round().byte().permute(0, 2, 3, 1).cpu())
    model.train(was_training)
    return torch.cat(faces).numpy()


def _to_unit(faces: Tensor) -> Tensor:
    return faces.permute(0, 3, 1, 2).float() / 255  # (B, 3, 224, 224) in [0, 1]


def _start_at_mean(model: FaceDecoder, faces: np.ndarray) -> None:
    """Set the last bias to the mean colour, so that training starts at a plausible brightness."""
    mean = torch.from_numpy(faces).float().mean(dim=(0, 1, 2)) / 255
    with torch.no_grad():
        model.upsample[-2].bias.copy_(torch.logit(mean.clamp(0.01, 0.99)))
