"""Training of the face decoders: true features in, true faces out (report, "Decoder")."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from s2f_lib.config import DecoderTrainingConfig, FaceDecoderConfig
from s2f_lib.errors import ConfigError, InputError
from s2f_lib.faces.extractor import FaceFeatureExtractor, differentiable
from s2f_lib.models.face_decoders import IMAGE_SIZE, FaceDecoder, make_decoder
from s2f_lib.models.inference import render_faces
from s2f_lib.storage import digest
from s2f_lib.training import checkpoint
from s2f_lib.training.data import Faces, FeaturesAndFaces, validation_mask
from s2f_lib.training.decoder_losses import DecoderLoss
from s2f_lib.training.loop import METRICS_FILE, Progress, Task, fit

_FACES_FOR_MEAN_COLOUR = 4096
_FACES_FOR_IDENTITY = 64  # validation faces whose features are extracted after each epoch
_SNAPSHOTS = "snapshots"

DecoderFactory = Callable[..., nn.Module]

DESCRIPTION_FILE = "decoder.json"  # what `load_decoder` needs besides the weights


@dataclass(frozen=True)
class TrainedDecoder:
    """A trained face decoder.

    Attributes
    ----------
    model
        The decoder, in evaluation mode: `FaceDecoder`, `ResidualDecoder`, or a custom decoder.
    metrics
        One row per epoch; see `fit`.
    folder
        Folder of checkpoints, metrics and weights. `load_decoder` reads it.
    """

    model: nn.Module
    metrics: pd.DataFrame
    folder: Path

    def at_epochs(self) -> dict[int, nn.Module]:
        """Return the decoders that were saved after some epochs, by epoch, from the first to the last."""
        found = {}
        for path in sorted((self.folder / _SNAPSHOTS).glob("epoch-*.safetensors")):
            model = copy.deepcopy(self.model)
            checkpoint.load_model(path, model)
            found[int(path.stem.removeprefix("epoch-"))] = model.eval()
        return found


def train_face_decoder(
    clips: Faces,
    *,
    parent: str | Path,
    decoder: FaceDecoderConfig | DecoderFactory | None = None,
    training: DecoderTrainingConfig | None = None,
    name: str | None = None,
    extractor: FaceFeatureExtractor | None = None,
    start: TrainedDecoder | None = None,
    progress: Progress | None = None,
) -> TrainedDecoder:
    """Train a decoder on faces and their features, or load it if it has been trained before.

    Parameters
    ----------
    clips
        Faces and features. A share of the videos is held out for validation.
    parent
        Folder of the models. The model's own folder in it is called `NAME-DIGEST`, after a digest of
        everything that decides the weights. An interrupted training in it is resumed.
    decoder, training
        Settings of the network and the training. None: the library's defaults. The kind "report" is trained
        with L1 of the images, the others with the weighted losses of `decoder_losses`. `decoder` may also be
        a custom decoder: a class or function that is called with `feature_dimension` and returns a module
        from `(batch, dimension)` to `(batch, 3, 224, 224)` in [0, 1]. If the module has a method
        `colour_bias`, the bias that it returns starts at the mean colour.
    name
        First part of the folder's name. None: `decoder-KIND`.
    extractor
        Extractor of the features, for the identity loss.
    start
        Trained decoder of the same size to start from, as in the report's fine-tuning.
    progress
        Called after each epoch with its number, the number of epochs, and its row of metrics (a dict).

    Returns
    -------
    TrainedDecoder
        The decoder, its metrics and its folder.

    Raises
    ------
    TrainingError
        There are too few faces, or the loss is not finite.
    ConfigError
        The identity loss is on, and the extractor is missing or did not make the features.

    See Also
    --------
    s2f_lib.models.render_faces : Use of the trained decoder.
    load_decoder : Reads a trained decoder from its folder.
    train_voice_encoder : Training of the encoder.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.faces.face_set import FaceSet
    >>> ids, images = ["a", "b"], np.zeros((2, 224, 224, 3), np.uint8)
    >>> trained = train_face_decoder(
    ...     FaceSet(ids, ids, np.eye(2, 128, dtype=np.float32), images),
    ...     decoder=FaceDecoderConfig(kind="report", width=1 / 64),
    ...     training=DecoderTrainingConfig(epochs=1, batch_size=2, validation_share=0),
    ...     parent=mkdtemp(),
    ... )
    >>> list(trained.at_epochs())
    [1]
    """
    decoder, training = decoder or FaceDecoderConfig(), training or DecoderTrainingConfig()
    kind, fingerprint = checkpoint.network_identity("decoders", decoder)
    decides = [clips.digest, decoder.digest() if isinstance(decoder, FaceDecoderConfig) else kind]
    decides += [training.result_digest(), *([start.folder.name] if start else [])]
    decides += ["decoder", fingerprint] if fingerprint else []
    name_digest = "-".join(decides)
    folder = Path(parent) / f"{name or f'decoder-{kind}'}-{digest(name_digest, length=8)}"

    held_out = validation_mask(clips.video_ids, share=training.validation_share, seed=training.seed)
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    torch.manual_seed(training.seed)  # seeds the initial weights
    dimension = clips.features.shape[1]
    model = make_decoder(decoder, feature_dimension=dimension)
    if start is None:
        _start_at_mean_colour(model, clips.crops(train[:_FACES_FOR_MEAN_COLOUR]))
    else:
        checkpoint.load_model(start.folder / checkpoint.MODEL_FILE, model)
    by_l1_only = fingerprint is None and kind == "report"
    loss = None if by_l1_only else _make_loss(training, clips.features[train], extractor)

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        features, faces = batch
        reconstructions = network(features).float()
        if reconstructions.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise InputError(
                f"decoder {kind!r} returned {tuple(reconstructions.shape)}: expected (batch, 3, 224, 224)"
            )
        if loss is None:
            return l1_loss(reconstructions, _to_unit(faces))
        return loss(reconstructions.contiguous(), _to_unit(faces), features)

    def validate(network: nn.Module) -> dict[str, float]:
        if not len(validation):
            return {}
        rendered = render_faces(network, clips.features[validation])
        difference = rendered.astype(np.float32) - clips.crops(validation).astype(np.float32)
        row = {"validation_loss": float(np.abs(difference).mean() / 255)}
        if loss is not None and training.identity_weight:
            some = slice(_FACES_FOR_IDENTITY)
            device = next(network.parameters()).device
            reconstructions = _to_unit(torch.from_numpy(rendered[some]).to(device))
            features = torch.from_numpy(clips.features[validation[some]]).to(device)
            row["validation_identity"] = float(loss.identity(reconstructions, features).mean())
        return row

    snapshots = {1, max(1, training.epochs // 8), max(1, training.epochs // 3), training.epochs}

    def save_snapshot(epoch: int) -> None:
        if epoch in snapshots:
            path = folder / _SNAPSHOTS / f"epoch-{epoch:03d}.safetensors"
            checkpoint.save_model(path, model.state_dict(), digest=folder.name)

    task = Task(
        model,
        FeaturesAndFaces(clips, train),
        batch_loss,
        validate,
        names=[clips.clip_ids[row] for row in train.tolist()],
        after_epoch=save_snapshot,
    )
    metrics = fit(task, training, out=folder, digest=name_digest, progress=progress)
    trained = make_decoder(decoder, feature_dimension=dimension)
    trained.to(next(model.parameters()).device)
    checkpoint.load_model(folder / checkpoint.MODEL_FILE, trained)  # the best epoch may not be the last
    checkpoint.write_description("decoders", folder / DESCRIPTION_FILE, decoder, feature_dimension=dimension)
    return TrainedDecoder(trained.eval(), metrics, folder)


def load_decoder(folder: str | Path, *, decoder: DecoderFactory | None = None) -> TrainedDecoder:
    """Load a trained decoder from its folder, on the CPU.

    Parameters
    ----------
    folder
        Folder of the model: the attribute `folder` of the `TrainedDecoder`, in the folder of the models.
    decoder
        Class or function of the custom decoder, if the training got it directly and not by a name.

    Returns
    -------
    TrainedDecoder
        As `train_face_decoder` returned it.

    Raises
    ------
    CheckpointError
        The folder does not hold a trained decoder, or its custom decoder is unknown here or has changed.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from s2f_lib.faces.face_set import FaceSet
    >>> ids, images = ["a", "b"], np.zeros((2, 224, 224, 3), np.uint8)
    >>> trained = train_face_decoder(
    ...     FaceSet(ids, ids, np.eye(2, 128, dtype=np.float32), images),
    ...     decoder=FaceDecoderConfig(kind="report", width=1 / 64),
    ...     training=DecoderTrainingConfig(epochs=1, batch_size=2, validation_share=0),
    ...     parent=mkdtemp(),
    ... )
    >>> load_decoder(trained.folder).model.feature_dimension
    128
    """
    folder = Path(folder)
    description = checkpoint.read_description(folder / DESCRIPTION_FILE, "a trained face decoder")
    chosen = checkpoint.described_network("decoders", description, FaceDecoderConfig, decoder, folder=folder)
    model = make_decoder(chosen, feature_dimension=description["feature_dimension"])
    checkpoint.load_model(folder / checkpoint.MODEL_FILE, model)
    return TrainedDecoder(model.eval(), pd.read_csv(folder / METRICS_FILE), folder)


def _to_unit(faces: Tensor) -> Tensor:
    return faces.permute(0, 3, 1, 2).float() / 255  # (B, 3, 224, 224) in [0, 1]


def _make_loss(
    training: DecoderTrainingConfig, features: np.ndarray, extractor: FaceFeatureExtractor | None
) -> DecoderLoss:
    network = None
    if training.identity_weight:
        if extractor is None:
            raise ConfigError(
                "the identity loss needs the extractor of the features: give it, or set identity_weight to 0"
            )
        if extractor.dimension != features.shape[1]:
            raise ConfigError(
                f"the identity loss takes {extractor.name}'s {extractor.dimension}-D features, and these "
                f"are {features.shape[1]}-D: give the extractor that made them, or set identity_weight to 0"
            )
        network = differentiable(extractor)
    return DecoderLoss(training, extractor=network, mean_features=torch.from_numpy(features.mean(axis=0)))


def _start_at_mean_colour(model: nn.Module, faces: np.ndarray) -> None:
    """Set the last bias to the mean colour, so that training starts at a plausible brightness.

    A custom decoder without `colour_bias` is not changed.
    """
    if not hasattr(model, "colour_bias"):
        return
    mean = torch.from_numpy(faces).float().mean(dim=(0, 1, 2)) / 255
    with torch.no_grad():
        cast(FaceDecoder, model).colour_bias().copy_(torch.logit(mean.clamp(0.01, 0.99))[:, None])
