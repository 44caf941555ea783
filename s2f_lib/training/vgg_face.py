"""A VGG-Face of our own: VGG16 that tells 2,622 synthetic identities apart.

The public weights of VGG-Face cannot be shipped.  Trained in the same way, on the
faces of the generated population, the same network gives 4096-D features of the
same form, so that everything that follows can run whole.  What is written is
what `faces.vgg_face.extractor.load_vgg_face` reads.  Where public weights are given,
those are used instead: these features know synthetic faces alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from s2f_lib.config import LoopConfig
from s2f_lib.faces.vgg_face.extractor import N_IDENTITIES
from s2f_lib.faces.vgg_face.network import MEAN_RGB
from s2f_lib.sources.synthetic.people import draw_face
from s2f_lib.sources.synthetic.portrait.face import Pose, draw_portrait, draw_scene
from s2f_lib.training import checkpoint
from s2f_lib.training.data import PairedArrays
from s2f_lib.training.loop import Progress, Task, fit

logger = logging.getLogger(__name__)

FACE_PX = 224
SCENES = 2  # an identity is painted in so many lights, and moved in each
# dlib's aligned crop at margin 0.25: the eyes' centres are so far apart and lie there, as shares of the side
_EYE_DISTANCE, _EYES_X, _EYES_Y = 0.41, 0.5, 0.31

#: The channels of VGG16's convolutions at full width; "M" halves the map.
_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")

#: Settings for one GPU.  AdamW, since a network this deep without norms starts slowly with SGD.
VGG_FACE_TRAINING = LoopConfig(
    epochs=12,
    batch_size=128,
    learning_rate=1e-4,
    weight_decay=5e-4,  # VGG's own (Simonyan and Zisserman 2015, section 3.1)
    clip_norm=1.0,
    validation_share=0.1,
    precision="bf16",
    channels_last=True,
    loader_threads=4,
)


@dataclass(frozen=True)
class TrainedVGGFace:
    """A network that tells synthetic identities apart.

    Attributes
    ----------
    weights
        safetensors in torchvision's VGG16 names, RGB order.
    metrics
        A row an epoch; validation_accuracy is over renderings that were not trained on.
    """

    weights: Path
    metrics: pd.DataFrame


def train_vgg_face(
    out: Path,
    *,
    config: LoopConfig = VGG_FACE_TRAINING,
    n_identities: int = N_IDENTITIES,
    renderings: int = 40,
    width: float = 1.0,
    hidden: int = 4096,
    workers: int = 0,
    progress: Progress | None = None,
    rendered: Callable[[int, int, str], None] | None = None,
) -> TrainedVGGFace:
    """Render identities, train VGG16 to tell them apart, and write its weights.

    Parameters
    ----------
    out
        A folder: faces, checkpoints, metrics and `vgg_face.safetensors` with a card beside it.
        A run that was interrupted goes on; with other settings it trains beside, on the same faces.
    config
        Of the training; `validation_share` is of each identity's renderings.
    n_identities
        2,622 as VGG-Face has; the file is only read as VGG-Face with this and full width.
    renderings
        Pictures an identity, in other poses, lights and framings.  At 150 kB each.
    width, hidden
        Factor on the convolutions' channels and units of fc6 and fc7; smaller for tests.
    workers
        Processes that render; 0 is one a core.
    progress
        Called after each epoch.
    rendered
        Called as `render_identities` does.

    Raises
    ------
    TrainingError
        The loss is not finite, or there are fewer faces than a batch.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    faces, identities = render_identities(
        out / "faces.npy",
        n_identities=n_identities,
        renderings=renderings,
        seed=config.seed,
        workers=workers,
        progress=rendered,
    )
    torch.manual_seed(config.seed)
    model = make_vgg16(classes=n_identities, width=width, hidden=hidden)
    held_out = np.arange(len(faces)) % renderings >= round(renderings * (1 - config.validation_share))
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format

    def batch_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, identity = batch
        return cross_entropy(network(_centred(pixels).contiguous(memory_format=layout)).float(), identity)

    def validate(network: nn.Module) -> dict[str, float]:
        if not len(validation):
            return {}
        losses, hits = 0.0, 0
        device = next(network.parameters()).device
        for rows in np.array_split(validation, -(-len(validation) // config.batch_size)):
            pixels = torch.from_numpy(faces[rows]).to(device)
            identity = torch.from_numpy(identities[rows]).to(device)
            logits = network(_centred(pixels).contiguous(memory_format=layout)).float()
            losses += float(cross_entropy(logits, identity, reduction="sum"))
            hits += int((logits.argmax(dim=1) == identity).sum())
        return {
            "validation_loss": losses / len(validation),
            "validation_accuracy": hits / len(validation),
        }

    names = [f"identity {identities[row]}, rendering {row % renderings}" for row in train]
    task = Task(model, PairedArrays(faces, identities, rows=train), batch_loss, validate, names=names)
    size = f"{n_identities}-{renderings}-{width:g}-{hidden}"
    digest = f"{size}-{config.result_digest()}"
    training = out / f"training-{digest}"
    metrics = fit(task, config, out=training, digest=digest, progress=progress)
    weights = out / "vgg_face.safetensors"
    (training / checkpoint.MODEL_FILE).replace(weights)
    card = {
        "what": "VGG16 trained on synthetic identities; not the public VGG-Face",
        "identities": n_identities,
        "renderings": renderings,
        "channel_order": "rgb",
        "mean_rgb": MEAN_RGB,
        "settings": config.model_dump(mode="json"),
        "last_epoch": metrics.iloc[-1].to_dict(),
    }
    weights.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return TrainedVGGFace(weights, metrics)


def render_identities(
    path: Path,
    *,
    n_identities: int,
    renderings: int,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Render the faces of synthetic identities, once, into a mapped array.

    Parameters
    ----------
    path
        The `.npy` file; used again where it has the wanted size.
    progress
        Called after each identity with (drawn, all, "identities drawn").

    Returns
    -------
    faces
        (n_identities * renderings, 224, 224, 3) uint8 RGB, mapped; an identity's lie together.
    identities
        (n_identities * renderings,) int64.
    """
    shape = (n_identities * renderings, FACE_PX, FACE_PX, 3)
    marker = path.with_suffix(".json")
    made_of = {"identities": n_identities, "renderings": renderings, "seed": seed}
    if not (marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_of):
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        from os import cpu_count

        marker.unlink(missing_ok=True)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        jobs = [(seed, identity, renderings) for identity in range(n_identities)]
        with ProcessPoolExecutor(workers or cpu_count() or 1, mp_context=get_context("spawn")) as pool:
            for identity, images in enumerate(pool.map(_render_job, jobs, chunksize=4)):
                array[identity * renderings : (identity + 1) * renderings] = images
                if progress is not None:
                    progress(identity + 1, n_identities, "identities drawn")
                if (identity + 1) % 100 == 0:
                    logger.info("%d of %d identities rendered", identity + 1, n_identities)
        array.flush()
        marker.write_text(json.dumps(made_of), encoding="utf-8")
    faces = np.load(path, mmap_mode="c")
    return faces, np.repeat(np.arange(n_identities), renderings)


def render_identity(seed: int, identity: int, renderings: int) -> np.ndarray:
    """Return one identity's faces, (renderings, 224, 224, 3) uint8 RGB, aligned as dlib's crops are.

    Pose, expression, light, clothes, background and framing vary; the eyes are where
    the generator put them, with an error of a few pixels, as a landmark detector's have.
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
    """Return torchvision's VGG16, or a narrow one with the same names, with random weights.

    They are torchvision's usual ones, but the first convolution's are divided by 64:
    VGG-Face takes pixels of 0 to 255 less a mean, not of unit variance.
    """
    from torchvision.models import VGG
    from torchvision.models.vgg import make_layers

    layers = [layer if layer == "M" else max(1, round(layer * width)) for layer in _LAYERS]
    network = VGG(make_layers(layers), num_classes=classes, init_weights=True)
    if width != 1.0 or hidden != 4096:
        last = layers[-2]
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


def _render_job(job: tuple[int, int, int]) -> np.ndarray:
    cv2.setNumThreads(1)
    return render_identity(*job)


def _aligned(image: np.ndarray, left: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, scale and shift so that the eyes' centres lie where dlib's face chip has them, about."""
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
    """Return `(b, 3, 224, 224)` float32 less VGG-Face's mean, of `(b, 224, 224, 3)` uint8 RGB."""
    mean = torch.tensor(MEAN_RGB, device=pixels.device).view(1, 3, 1, 1)
    return pixels.permute(0, 3, 1, 2).float() - mean
