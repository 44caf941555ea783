"""Training of a substitute for VGG-Face: VGG16 that distinguishes 2,622 synthetic identities.

The public weights of VGG-Face cannot be distributed. The same network, trained in the same way on faces of
the generated population, gives 4096-D features, so every later step can run. The weights are written in the
format that `faces.vgg_face.network.load_vgg_face` reads. Prefer the public weights if you have them: these
features are trained only on synthetic faces.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from s2f_lib.config import LoopConfig
from s2f_lib.faces.vgg_face.network import MEAN_RGB, N_IDENTITIES
from s2f_lib.sources.synthetic.people import draw_face
from s2f_lib.sources.synthetic.portrait.face import Pose, draw_portrait, draw_scene
from s2f_lib.storage import cached_folder, digest, write_atomically
from s2f_lib.training import checkpoint
from s2f_lib.training.data import PairedArrays
from s2f_lib.training.loop import Progress, Task, fit

logger = logging.getLogger(__name__)

#: Called after each identity with (done, all, "identities rendered").
Rendered = Callable[[int, int, str], None]

FACE_PX = 224
SCENES = 2  # portraits per identity, in different light; each is shown in many poses
# dlib's aligned crop at margin 0.25: distance and position of the eyes' centres, as shares of the side
_EYE_DISTANCE, _EYES_X, _EYES_Y = 0.41, 0.5, 0.31

#: Channels of VGG16's convolutions at full width; "M" halves the map.
_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")

#: Settings for one GPU. A network this deep without norms starts slowly with SGD, so AdamW is used.
VGG_FACE_TRAINING = LoopConfig(
    epochs=12,
    batch_size=128,
    learning_rate=1e-4,
    weight_decay=5e-4,  # VGG's own (Simonyan and Zisserman 2015, section 3.1)
    clip_norm=1.0,
    validation_share=0.1,
    precision="auto",
    channels_last=True,
    loader_threads=4,
)


@dataclass(frozen=True)
class TrainedVGGFace:
    """A network that distinguishes synthetic identities."""

    weights: Path  # safetensors file with torchvision's VGG16 names, RGB order
    metrics: pd.DataFrame  # one row per epoch; validation_accuracy on images outside the training set


def train_vgg_face(
    out: Path,
    *,
    training: LoopConfig = VGG_FACE_TRAINING,
    n_identities: int = N_IDENTITIES,
    renderings: int = 40,
    width: float = 1.0,
    hidden: int = 4096,
    workers: int = 0,
    progress: Progress | None = None,
    rendered: Rendered | None = None,
) -> TrainedVGGFace:
    """Render identities, train VGG16 to distinguish them, and write its weights.

    Parameters
    ----------
    out
        Folder for faces, checkpoints, metrics, and `vgg_face.safetensors` with its description in JSON. An
        interrupted run in it is resumed. Each training configuration has its own folder in it; all use the
        same faces.
    training
        Settings of the training; `validation_share` is the share of each identity's images.
    n_identities
        Number of identities. Only a file with 2,622 identities and full width can be read as VGG-Face.
    renderings
        Images per identity, with different poses, light and framing; 150 kB each.
    width, hidden
        Factor on the channels of the convolutions, and units of fc6 and fc7.
    workers
        Number of processes that render; 0: one per core.
    progress, rendered
        Called after each epoch, and after each rendered identity.
    """
    out = Path(out)
    faces, identities = render_identities(
        out,
        n_identities=n_identities,
        renderings=renderings,
        seed=training.seed,
        workers=workers,
        progress=rendered,
    )
    torch.manual_seed(training.seed)
    model = make_vgg16(classes=n_identities, width=width, hidden=hidden)
    held_out = np.arange(len(faces)) % renderings >= round(renderings * (1 - training.validation_share))
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    layout = torch.channels_last if training.channels_last else torch.contiguous_format

    def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
        return network(_centred(pixels).contiguous(memory_format=layout)).float()

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, identity = batch
        return cross_entropy(logits_of(network, pixels), identity)

    def validate(network: nn.Module) -> dict[str, float]:
        if not len(validation):
            return {}
        losses, hits = 0.0, 0
        device = next(network.parameters()).device
        for rows in np.array_split(validation, -(-len(validation) // training.batch_size)):
            identity = torch.from_numpy(identities[rows]).to(device)
            logits = logits_of(network, torch.from_numpy(faces[rows]).to(device))
            losses += float(cross_entropy(logits, identity, reduction="sum"))
            hits += int((logits.argmax(dim=1) == identity).sum())
        return {"validation_loss": losses / len(validation), "validation_accuracy": hits / len(validation)}

    names = [f"identity {identities[row]}, image {row % renderings}" for row in train]
    task = Task(model, PairedArrays(faces, identities, rows=train), batch_loss, validate, names=names)
    name_digest = f"{n_identities}-{renderings}-{width:g}-{hidden}-{training.result_digest()}"
    folder = out / f"training-{name_digest}"
    metrics = fit(task, training, out=folder, digest=name_digest, progress=progress)
    weights = out / "vgg_face.safetensors"
    (folder / checkpoint.MODEL_FILE).replace(weights)
    card = {
        "what": "VGG16 trained on synthetic identities; not the public VGG-Face",
        "identities": n_identities,
        "renderings": renderings,
        "channel_order": "rgb",
        "mean_rgb": MEAN_RGB,
        "settings": training.model_dump(mode="json"),
        "last_epoch": metrics.iloc[-1].to_dict(),
    }
    write_atomically(weights.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    return TrainedVGGFace(weights, metrics)


def render_identities(
    out: Path,
    *,
    n_identities: int,
    renderings: int,
    seed: int,
    workers: int,
    progress: Rendered | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Render the faces of synthetic identities in `out/faces-DIGEST`, or read them if they exist.

    Return the faces, `(n_identities * renderings, 224, 224, 3)` uint8 RGB, grouped by identity and mapped
    from disk, and the identities, `(n_identities * renderings,)` int64.
    """

    def write(folder: Path) -> None:
        shape = (n_identities * renderings, FACE_PX, FACE_PX, 3)
        array = np.lib.format.open_memmap(folder / "faces.npy", mode="w+", dtype=np.uint8, shape=shape)
        jobs = itertools.repeat(seed), range(n_identities), itertools.repeat(renderings)
        with ProcessPoolExecutor(workers or None, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
            for identity, images in enumerate(pool.map(render_identity, *jobs, chunksize=4)):
                array[identity * renderings : (identity + 1) * renderings] = images
                if progress is not None:
                    progress(identity + 1, n_identities, "identities rendered")
                if (identity + 1) % 100 == 0:
                    logger.info("%d of %d identities rendered", identity + 1, n_identities)
        array.flush()

    made_of = {"identities": n_identities, "renderings": renderings, "seed": seed}
    folder = cached_folder(out / f"faces-{digest(made_of)}", write)
    faces = np.load(folder / "faces.npy", mmap_mode="c")  # torch needs writable arrays
    return faces, np.repeat(np.arange(n_identities), renderings)


def render_identity(seed: int, identity: int, renderings: int) -> np.ndarray:
    """Return one identity's faces, `(renderings, 224, 224, 3)` uint8 RGB, aligned like dlib's crops.

    Pose, expression, light, clothes, background and framing vary. The faces are aligned by the generator's
    eye positions plus an error of a few pixels, like a landmark detector's.
    """
    rng = np.random.default_rng([seed, identity])
    face = draw_face(rng)
    scenes = min(SCENES, renderings)
    portraits = [draw_portrait(face, size_px=(480, 360), scene=draw_scene(rng)) for _ in range(scenes)]
    images = np.empty((renderings, FACE_PX, FACE_PX, 3), np.uint8)
    for number in range(renderings):
        portrait = portraits[number % scenes]
        pose = Pose(
            yaw_deg=float(rng.uniform(-14, 14)),
            pitch_deg=float(rng.uniform(-8, 8)),
            roll_deg=float(rng.uniform(-6, 6)),
            shift_x=float(rng.normal(0, 0.02)),
            shift_y=float(rng.normal(0, 0.01)),
            mouth_open=float(rng.uniform(0, 0.8)),
        )
        corners = portrait.eyes_px(pose)
        image = portrait.frame(pose)
        crop = _aligned(image, corners[:2].mean(axis=0), corners[2:].mean(axis=0), rng)
        exposure = rng.uniform(0.85, 1.15)
        images[number] = np.clip(crop * exposure, 0, 255).astype(np.uint8)
    return images


def make_vgg16(*, classes: int, width: float = 1.0, hidden: int = 4096) -> nn.Module:
    """Return torchvision's VGG16, or a narrow one with the same parameter names, with random weights.

    The weights of the first convolution are divided by 64, because the input is pixels of 0 to 255 minus a
    mean, not pixels of unit variance.
    """
    from torchvision.models import VGG
    from torchvision.models.vgg import make_layers

    layers = [max(1, round(layer * width)) if isinstance(layer, int) else layer for layer in _LAYERS]
    network = VGG(make_layers(layers), num_classes=classes, init_weights=True)
    if width != 1.0 or hidden != 4096:
        last = max(1, round(512 * width))
        network.classifier = nn.Sequential(
            nn.Linear(last * 7 * 7, hidden), nn.ReLU(True), nn.Dropout(0.5),
            nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )  # fmt: skip
        for layer in network.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        network.features[0].weight /= 64
    return network


def _aligned(image: np.ndarray, left: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate, scale and shift an image so that the eyes lie near their positions in dlib's face chip."""
    left, right = left + rng.normal(0, 1.5, 2), right + rng.normal(0, 1.5, 2)
    across = right - left
    angle = np.degrees(np.arctan2(across[1], across[0]))
    scale = _EYE_DISTANCE * FACE_PX / np.hypot(*across) * rng.uniform(0.95, 1.05)
    middle = (left + right) / 2
    matrix = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), float(angle), float(scale))
    matrix[:, 2] += np.array([_EYES_X, _EYES_Y]) * FACE_PX - middle
    return cv2.warpAffine(
        image, matrix, (FACE_PX, FACE_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _centred(pixels: Tensor) -> Tensor:
    """Subtract VGG-Face's mean: `(b, 224, 224, 3)` uint8 RGB to `(b, 3, 224, 224)` float32."""
    mean = torch.tensor(MEAN_RGB, device=pixels.device).view(1, 3, 1, 1)
    return pixels.permute(0, 3, 1, 2).float() - mean
