"""Conversion of the public VGG-Face weights into the safetensors file that `load_vgg_face` reads.

A card, a small JSON file next to the safetensors file, records the origin of the weights.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from s2f_lib.errors import DataError, InputError, MissingFileError
from s2f_lib.faces.vgg_face.formats import detect_format, to_canonical
from s2f_lib.faces.vgg_face.network import MEAN_RGB, VGG_FACE_SHAPE, ChannelOrder, VggShape, fingerprint_of
from s2f_lib.storage import atomic_path, file_digest, write_atomically

logger = logging.getLogger(__name__)

_WHERE_FROM = (
    "vgg_face_dag.pth (PyTorch) from Samuel Albanie's pytorch-mcn page at Oxford, "
    "VGG_FACE.t7 (torch7) from the Visual Geometry Group's VGG Face Descriptor page, "
    "or vgg_face_weights.h5 (Keras) from the deepface_models releases of the DeepFace project"
)
_LICENCE_NOTE = (
    "VGG-Face (Parkhi, Vedaldi, Zisserman: Deep Face Recognition, BMVC 2015). Its authors release the "
    "weights for non-commercial research; read the terms on the page that the file came from. "
    "Not part of this project."
)


@dataclass(frozen=True)
class WeightsCard:
    """Description and origin of a converted file.

    Equal weights have the same fingerprint in every format; see `fingerprint_of`.
    """

    fingerprint: str
    source_form: str  # "pytorch", "torch7" or "keras"
    source_file: str
    source_sha256: str
    source_channel_order: str  # order of the first convolution: "rgb" or "bgr"
    channel_order: str  # order of the converted network, always "rgb"; pixels are 0 to 255, minus mean_rgb
    mean_rgb: tuple[float, float, float]
    feature_dimension: int  # units of fc7
    classes: int  # units of fc8
    licence: str
    version: int = 1


def import_vgg_face(
    path: Path,
    out: Path | None = None,
    *,
    channel_order: ChannelOrder | None = None,
    expected_fingerprint: str | None = None,
    shape: VggShape = VGG_FACE_SHAPE,
) -> WeightsCard:
    """Convert a public file of VGG-Face weights to safetensors, and write a card next to it.

    Parameters
    ----------
    path
        One of the three public files. Its format is detected by its content.
    out
        Path of the `.safetensors` file, or an existing folder for it. Default: next to `path`. The card has
        the same name with the suffix `.json`.
    channel_order
        Colour order of the source, if it differs from the usual order of its format.
    expected_fingerprint
        First 8 or more hexadecimal digits of the expected fingerprint.
    shape
        Layer sizes of the network.

    Returns
    -------
    WeightsCard
        Content of the card.

    Raises
    ------
    MissingFileError
        There is no file at `path`; the message says where to get it.
    InputError
        The file has none of the three formats, or `out` cannot be written; see `converted_path`.
    DataError
        The file is damaged, holds another network, or has another fingerprint.

    See Also
    --------
    make_extractor : Loads the converted file for `features.extractor = vgg_face`.

    Examples
    --------
    >>> import_vgg_face(Path("missing/vgg_face_dag.pth"))
    Traceback (most recent call last):
    s2f_lib.errors.MissingFileError: no VGG-Face weights at missing/vgg_face_dag.pth: get vgg_face_dag.pth ...
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(
            f"no VGG-Face weights at {path}: get {_WHERE_FROM}; then run `s2f weights import PATH`"
        )
    out = converted_path(path, out)
    source = detect_format(path)
    order = channel_order or source.channel_order
    state = to_canonical(source.read(path, shape), channel_order=order, shape=shape, name=path.name)
    card = WeightsCard(
        fingerprint=fingerprint_of(state),
        source_form=source.name,
        source_file=path.name,
        source_sha256=file_digest(path),
        source_channel_order=order,
        channel_order="rgb",
        mean_rgb=MEAN_RGB,
        feature_dimension=shape.hidden,
        classes=shape.classes,
        licence=_LICENCE_NOTE,
    )
    if expected_fingerprint is not None:
        _check_fingerprint(card.fingerprint, expected_fingerprint, path)

    import safetensors.numpy

    with atomic_path(out) as temporary:
        metadata = {"format": "pt", "fingerprint": card.fingerprint}
        safetensors.numpy.save_file(state, temporary, metadata=metadata)
    write_atomically(card_path(out), json.dumps(dataclasses.asdict(card), indent=2) + "\n")
    logger.info("converted %s (%s) to %s, fingerprint %s", path, source.name, out, card.fingerprint[:16])
    return card


def card_path(weights: Path) -> Path:
    """Return the path of the card of a converted file."""
    return Path(weights).with_suffix(".json")


def converted_path(path: Path, out: Path | None) -> Path:
    """Return the path of the `.safetensors` file that `import_vgg_face` writes, and check `out`."""
    out = path.with_suffix(".safetensors") if out is None else Path(out)
    if out.is_dir():
        out = out / f"{path.stem}.safetensors"
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: expected a name that ends in .safetensors, or an existing folder")
    if out.exists() and out.samefile(path):
        raise InputError(f"{out} is the file to convert: give another name for the converted file")
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}; create it first")
    return out


def _check_fingerprint(found: str, expected: str, path: Path) -> None:
    if len(expected) < 8:
        raise InputError(f"fingerprint {expected!r}: expected at least 8 hexadecimal digits")
    if not found.startswith(expected.lower()):
        raise DataError(
            f"{path} has the fingerprint {found[:16]}..., expected {expected}: it holds another network, "
            "or one with another order of the colour channels"
        )
