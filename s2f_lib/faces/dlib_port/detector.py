"""dlib's CNN face detector run by torch: the same faces, many times faster, in batches.

The steps are those of dlib 20: `input_rgb_image_pyramid` (tiled_pyramid),
the network (mmod_network), and `loss_mmod_::to_label` in dlib/dnn/loss.h, which
turns scores into boxes (here).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch

from s2f_lib.errors import ConfigError, InputError
from s2f_lib.faces.detector import Detection, dlib_weights, scale_to_width
from s2f_lib.faces.dlib_port.network import MmodNetwork
from s2f_lib.faces.dlib_port.pyramid import PyramidLayout, pyramid_layout
from s2f_lib.faces.dlib_port.serialization import read_mmod_weights
from s2f_lib.preparation.torch_threads import torch_threads

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchFaceDetector:
    """The network of `mmod_human_face_detector.dat`, in torch.

    Boxes are whole pixels of the scaled frame, as dlib's are, before they are
    scaled back to the frame that was given.

    Parameters
    ----------
    threshold
        Confidence that a face has to exceed; dlib's own is 0.  Below 0, weaker
        faces are reported too, which dlib cannot.
    width_px
        Frames are scaled to this width, aspect kept, before the network sees them.
    device
        A torch device; "auto" is a GPU where there is one.
    batch_size
        Frames of one size that go through the network together; by default 1 on
        a CPU, where more only costs cache, and 32 on a GPU.
    precision
        "fp32", or "bf16": all layers but the last in bfloat16, faster on CPUs with AMX.
        Confidence is then off by some thousandths, and a box, now and then, by one step of the network.
    threads
        CPU threads of the network; torch's own number is put back after each
        call.  With 1, processes side by side do not wait for each other, and
        that is how many frames are to be detected fastest.

    Raises
    ------
    ConfigError
        A parameter is out of its range, or the device is not there.
    MissingFileError
        The network's file is not installed.
    DataError
        The network's file is damaged.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        width_px: int = 640,
        device: str = "auto",
        batch_size: int | None = None,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        threads: int = 1,
    ) -> None:
        if precision not in _DTYPES:
            raise ConfigError(f"unknown precision {precision!r} of the face detector: expected fp32 or bf16")
        for name, value in (("width_px", width_px), ("threads", threads), ("batch_size", batch_size or 1)):
            if value < 1:
                raise ConfigError(f"{name} of the face detector is {value}: expected 1 or more")
        self.threshold = threshold
        self.width_px = width_px
        self.device = _resolve_device(device)
        self.batch_size = batch_size or (32 if self.device.type == "cuda" else 1)
        self.threads = threads
        self._weights = read_mmod_weights(dlib_weights("mmod_human_face_detector.dat"))
        network = MmodNetwork(self._weights, feature_dtype=_DTYPES[precision])
        self._network = network.to(self.device, memory_format=torch.channels_last).eval()
        self._layout = partial(
            pyramid_layout,
            padding=self._weights.pyramid_padding_px,
            outer_padding=self._weights.pyramid_outer_padding_px,
        )

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Find the faces of each frame; see `FaceDetector.detect`.

        Raises
        ------
        InputError
            A frame is not (height, width, 3) uint8.
        """
        for index, frame in enumerate(frames):
            _check_frame(frame, index)
        scaled = [scale_to_width(frame, self.width_px) for frame in frames]
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (image, _) in enumerate(scaled):
            by_size[image.shape].append(index)
        found: list[list[Detection]] = [[] for _ in frames]
        with torch.inference_mode(), torch_threads(self.threads):
            for indices in by_size.values():
                for start in range(0, len(indices), self.batch_size):
                    batch = indices[start : start + self.batch_size]
                    faces_of_batch = self._detect_batch([scaled[index][0] for index in batch])
                    for index, faces in zip(batch, faces_of_batch, strict=True):
                        found[index] = [face.scaled(1 / scaled[index][1]) for face in faces]
        return found

    def _detect_batch(self, images: list[np.ndarray]) -> list[list[Detection]]:
        """Find the faces of images of one size, in pixels of those images."""
        layout = self._layout(images[0].shape[1], images[0].shape[0])
        if not self._network.reaches(layout):
            return [[] for _ in images]
        pixels = torch.from_numpy(np.stack(images)).to(self.device)
        scores = self._network(self._network.draw_canvas(pixels, layout)).float()  # (batch, rows, columns)
        cells = torch.nonzero(scores > self.threshold)  # (hits, 3): image, row, column
        confidences = scores[tuple(cells.T)].cpu().numpy()
        cells = cells.cpu().numpy()
        return [
            self._boxes(cells[mine, 1:], confidences[mine], layout)
            for mine in (cells[:, 0] == index for index in range(len(images)))
        ]

    def _boxes(self, cells: np.ndarray, confidences: np.ndarray, layout: PyramidLayout) -> list[Detection]:
        """Turn the cells (n, 2: row, column) of one image that exceed the threshold into faces."""
        weights = self._weights
        # (n, 2) x and y, in pixels of the canvas
        centres = cells[:, ::-1] * self._network.step_px + self._network.offset_px
        boxes = layout.boxes_to_image(centres, weights.window_width_px, weights.window_height_px)
        boxes = np.floor(np.abs(boxes) + 0.5) * np.sign(boxes)  # C's lround: halves away from zero
        order = np.argsort(-confidences, kind="stable")
        boxes, confidences = boxes[order], confidences[order]
        kept = suppress_overlaps(boxes, iou=weights.nms_iou, covered=weights.nms_covered)
        return [Detection(*boxes[i].tolist(), float(confidences[i])) for i in kept]


def suppress_overlaps(boxes: np.ndarray, *, iou: float, covered: float) -> list[int]:
    """Return which boxes are left where each drops the weaker ones that it overlaps.

    Parameters
    ----------
    boxes
        (n, 4) left, top, right, bottom in pixels, both edges part of the box; the best first.
    iou
        The most that a box may share with a better one: their common area over
        the area of the smallest box around both, which is what dlib's
        `test_box_overlap` takes for the union.
    covered
        The most of either box that the other may cover.

    Returns
    -------
    list of int
        Rows of `boxes`, the best first.
    """
    kept: list[int] = []
    areas = _areas(boxes)
    for index, box in enumerate(boxes):
        better = boxes[kept]
        common = _areas(
            np.concatenate([np.maximum(better[:, :2], box[:2]), np.minimum(better[:, 2:], box[2:])], axis=1)
        )
        around = _areas(
            np.concatenate([np.minimum(better[:, :2], box[:2]), np.maximum(better[:, 2:], box[2:])], axis=1)
        )
        smaller = np.minimum(areas[kept], areas[index])
        if not np.any((common > 0) & ((common > iou * around) | (common > covered * smaller))):
            kept.append(index)
    return kept


def _areas(boxes: np.ndarray) -> np.ndarray:
    """Return the area of each box (n, 4), both edges counted; 0 for an empty one."""
    return np.clip(boxes[:, 2] - boxes[:, 0] + 1, 0, None) * np.clip(boxes[:, 3] - boxes[:, 1] + 1, 0, None)


def _check_frame(frame: np.ndarray, index: int) -> None:
    shape, dtype = getattr(frame, "shape", None), getattr(frame, "dtype", type(frame).__name__)
    if dtype != np.uint8 or len(shape or ()) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(
            f"frame {index} has shape {shape} and type {dtype}: expected (height, width, 3) uint8, RGB"
        )


def _resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}: expected auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} asked for, but torch sees no GPU here; use cpu or auto")
    return device
