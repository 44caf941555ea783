"""Convert a public file of VGG-Face once, into the safetensors that `vgg_face` loads.

`vgg_face_forms` reads the three forms; here they are told apart, checked,
fingerprinted and written, with a small card beside them that says where they
came from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2f_lib.errors import DataError, InputError, MissingFileError
from s2f_lib.faces.vgg_face.formats import detect_form
from s2f_lib.faces.vgg_face.network import MEAN_RGB, VGG_FACE_SHAPE, ChannelOrder, VggShape, to_canonical

log = logging.getLogger(__name__)


WHERE_FROM = (
    "vgg_face_dag.pth (PyTorch) from Samuel Albanie's pytorch-mcn page at Oxford, "
    "VGG_FACE.t7 (torch7) from the Visual Geometry Group's VGG Face Descriptor page, "
    "or vgg_face_weights.h5 (Keras) from the deepface_models releases of the DeepFace project"
)
LICENCE_NOTE = (
    "VGG-Face (Parkhi, Vedaldi, Zisserman: Deep Face Recognition, BMVC 2015). Its authors release the "
    "weights for non-commercial research; read the terms on the page that the file came from. "
    "Not part of this project."
)
_CARD_VERSION = 1


@dataclass(frozen=True)
class WeightsCard:
    """What a converted file is, and where it came from.

    Attributes
    ----------
    fingerprint
        SHA-256, hexadecimal, over names and float32 values of the converted tensors:
        equal for equal networks, whatever form they came in.  `vgg_face`'s
        fingerprint of the loaded network is its first 16 digits.
    source_form
        "pytorch", "torch7" or "keras".
    source_file, source_sha256
        The file that was converted.
    source_channel_order
        "rgb" or "bgr": what the source's first convolution expects.
    channel_order, mean_rgb
        What the converted network expects: RGB, on 0 to 255, less this mean.
    feature_dimension, classes
        Units of fc7 and of fc8.
    licence
        A note for people.
    """

    fingerprint: str
    source_form: str
    source_file: str
    source_sha256: str
    source_channel_order: str
    channel_order: str
    mean_rgb: tuple[float, float, float]
    feature_dimension: int
    classes: int
    licence: str
    version: int = _CARD_VERSION

    def to_json(self) -> str:
        """Return the card as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def import_vgg_face(
    path: Path,
    out: Path | None = None,
    *,
    channel_order: ChannelOrder | None = None,
    expected_fingerprint: str | None = None,
    shape: VggShape = VGG_FACE_SHAPE,
) -> WeightsCard:
    """Convert a public file of VGG-Face into safetensors, with a card beside it.

    The new files appear whole or not at all: they are written under a temporary
    name, synchronised, and renamed.

    Parameters
    ----------
    path
        One of the three public files, whatever its name.
    out
        The `.safetensors` file to write, or an existing folder for it; beside
        `path` by default.  The card is `out` with the ending `.json`.
    channel_order
        Of the source, where it is known to differ from its form's usual one.
    expected_fingerprint
        The first digits that the fingerprint must have, at least 8.
    shape
        Sizes of the network.

    Returns
    -------
    WeightsCard
        What was written.

    Raises
    ------
    MissingFileError
        Nothing is at `path`; the message says where people get the file.
    InputError
        The file is none of the three forms, or `out` does not fit.
    DataError
        The file is damaged, holds something else than VGG-Face, or has another fingerprint.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(
            f"no file of VGG-Face weights at {path}: get {WHERE_FROM}; then type `s2f weights import PATH`"
        )
    out = converted_path(path, out)
    form = detect_form(path)
    order = channel_order or form.channel_order
    state = to_canonical(form.read(path, shape), channel_order=order, shape=shape, name=path.name)
    card = WeightsCard(
        fingerprint=fingerprint_of_state(state),
        source_form=form.name,
        source_file=path.name,
        source_sha256=_sha256(path),
        source_channel_order=order,
        channel_order="rgb",
        mean_rgb=MEAN_RGB,
        feature_dimension=shape.hidden,
        classes=shape.classes,
        licence=LICENCE_NOTE,
    )
    _check_fingerprint(card.fingerprint, expected_fingerprint, path)
    _write(state, card, out)
    log.info("converted %s (%s) to %s, fingerprint %s", path, form.name, out, card.fingerprint[:16])
    return card


def card_path(weights: Path) -> Path:
    """Return where the card of a converted file is."""
    return Path(weights).with_suffix(".json")


def read_card(weights: Path) -> WeightsCard:
    """Read the card beside a converted file.

    Raises
    ------
    MissingFileError
        There is no card.
    DataError
        It cannot be read; the message says why.
    """
    path = card_path(weights)
    if not path.is_file():
        raise MissingFileError(f"no card at {path}: convert the weights with `s2f weights import PATH`")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        card = WeightsCard(**{**values, "mean_rgb": tuple(values["mean_rgb"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is no card of weights ({error}); convert the weights again") from None
    if card.version != _CARD_VERSION:
        raise DataError(
            f"{path} is of version {card.version}, expected {_CARD_VERSION}; convert the weights again"
        )
    return card


def fingerprint_of_state(state: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over names and values, in the order of the names.

    Parameters
    ----------
    state
        Name to float32 tensor.
    """
    digest = hashlib.sha256()
    for name, values in sorted(state.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values, dtype=np.float32).data)
    return digest.hexdigest()


def converted_path(path: Path, out: Path | None) -> Path:
    """Return the file that `import_vgg_face` writes.

    Raises
    ------
    InputError
        `out` ends otherwise, is the file itself, or its folder is not there.
    """
    out = path.with_suffix(".safetensors") if out is None else Path(out)
    if out.is_dir():
        out = out / f"{path.stem}.safetensors"
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: expected a name that ends in .safetensors, or an existing folder")
    if out.exists() and out.samefile(path):
        raise InputError(f"{out} is the file to be converted: give another name for the converted one")
    if not out.parent.is_dir():
        raise InputError(f"{out}: no folder {out.parent}; make it first")
    return out


def _check_fingerprint(found: str, expected: str | None, path: Path) -> None:
    if expected is None:
        return
    if len(expected) < 8:
        raise InputError(f"fingerprint {expected!r}: expected at least 8 hexadecimal digits")
    if not found.startswith(expected.lower()):
        raise DataError(
            f"{path} has the fingerprint {found[:16]}..., expected {expected}: it holds another network, "
            "or one with its colour channels in another order"
        )


def _write(state: dict[str, np.ndarray], card: WeightsCard, out: Path) -> None:
    """Write the tensors, then the card, each under its name only once it is whole."""
    import safetensors.numpy

    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        metadata = {"format": "pt", "fingerprint": card.fingerprint}
        safetensors.numpy.save_file(state, partial, metadata=metadata)
        _publish(partial, out)
        partial.write_text(card.to_json(), encoding="utf-8")
        _publish(partial, card_path(out))
    finally:
        partial.unlink(missing_ok=True)


def _publish(partial: Path, final: Path) -> None:
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(final)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
