"""The picture that `s2f reconstruct` writes: a drawn face, guesses, and the nearest faces of a gallery."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

_FACE_IN, _SMALL_IN, _GAP_IN = 2.6, 1.25, 0.12
_WARNING = "Drawn from a voice by a trained model: no portrait of the speaker, not to identify anyone."


def voice_to_face(
    face: np.ndarray,
    found: Sequence[np.ndarray],
    *,
    labels: Sequence[str],
    lines: Sequence[str],
    gallery_size: int,
) -> Figure:
    """Draw the face large, the guesses beside it, and the faces found below.

    Parameters
    ----------
    face
        (height, width, 3) uint8 RGB.
    found
        Faces of a gallery, best first.
    labels
        A text under each of them.
    lines
        Guesses in words.
    gallery_size
        Faces that were looked through.
    """
    width = max(_FACE_IN + 4.2, len(found) * (_SMALL_IN + _GAP_IN)) + 2 * _GAP_IN
    height = _FACE_IN + _SMALL_IN + 1.3
    figure = Figure(figsize=(width, height), facecolor="white")

    def add_image(image: np.ndarray, left: float, top: float, side: float) -> None:
        axis = figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height))
        axis.imshow(image)
        axis.set_axis_off()

    add_image(face, _GAP_IN, _GAP_IN, _FACE_IN)
    text = (
        "\n\n".join(textwrap.fill(line, 44) for line in lines)
        or "No attribute is known of this run's people."
    )
    x, y = (_FACE_IN + 3 * _GAP_IN) / width, 1 - 0.3 / height
    figure.text(x, y, text, va="top", fontsize=9.5)
    top = _FACE_IN + 0.55
    figure.text(
        _GAP_IN / width,
        1 - (top - 0.1) / height,
        f"Nearest of {gallery_size:,} faces",
        va="bottom",
        fontsize=9.5,
    )
    for number, (image, label) in enumerate(zip(found, labels, strict=True)):
        left = _GAP_IN + number * (_SMALL_IN + _GAP_IN)
        add_image(image, left, top, _SMALL_IN)
        figure.text(
            (left + _SMALL_IN / 2) / width, 1 - (top + _SMALL_IN + 0.05) / height, label,
            ha="center", va="top", fontsize=8.5,
        )  # fmt: skip
    figure.text(_GAP_IN / width, 0.1 / height, _WARNING, va="bottom", fontsize=8, color="#555555")
    return figure
