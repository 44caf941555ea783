"""dlib's CNN face detector in torch: the same faces, many times faster, in batches.

The steps are those of dlib 20: `input_rgb_image_pyramid` and the network (both in `network`), and
`loss_mmod_::to_label` of dlib/dnn/loss.h, which converts scores to boxes (here).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from s2f_lib.errors import ConfigError, InputError
from s2f_lib.faces.detection import Detection, resolve_device, scale_to_width, torch_threads
from s2f_lib.faces.dlib_port.network import MmodNetwork, PyramidLayout, pyramid_layout
from s2f_lib.faces.dlib_port.weights import dlib_weights, read_mmod_weights

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchFaceDetector:
    """The network of `mmod_human_face_detector.dat` in torch.

    Boxes are whole pixels of the scaled frame, as in dlib, before they are scaled back to the given frame.

    Parameters
    ----------
    threshold
        Confidence that a face must exceed; dlib's own is 0. Below 0, weaker faces are reported too.
    batch_size
        Number of frames of one size per pass. Default: 1 on a CPU, where more is slower, and 32 on a GPU.
    precision
        "fp32", or "bf16" for all layers except the last one, which is faster on CPUs with AMX. Confidence
        then differs by some thousandths, and rarely a box by one step of the network.
    threads
        CPU threads of the network. With 1, several processes do not compete for cores, which detects the
        most frames per second.
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
        self.device = resolve_device(device)
        self.batch_size = batch_size or (32 if self.device.type == "cuda" else 1)
        self.threads = threads
        self._weights = read_mmod_weights(dlib_weights("mmod_human_face_detector.dat"))
        network = MmodNetwork(self._weights, feature_dtype=_DTYPES[precision])
        self._network = network.to(self.device).to(memory_format=torch.channels_last).eval()

    def detect(self, frames: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Find the faces in each frame; see `FaceDetector.detect`."""
        for index, frame in enumerate(frames):
            shape, dtype = np.shape(frame), getattr(frame, "dtype", type(frame).__name__)
            if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
                raise InputError(
                    f"frame {index} has shape {shape} and type {dtype}: "
                    "expected (height, width, 3) uint8, RGB"
                )
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
        height, width = images[0].shape[:2]
        layout = pyramid_layout(
            width,
            height,
            padding=self._weights.pyramid_padding_px,
            outer_padding=self._weights.pyramid_outer_padding_px,
        )
        if not self._network.fits(layout):
            return [[] for _ in images]
        pixels = torch.from_numpy(np.stack(images)).to(self.device)
        scores = self._network(self._network.make_canvas(pixels, layout)).float()  # (batch, rows, columns)
        hits = torch.nonzero(scores > self.threshold)  # (hits, 3): image, row, column
        confidences = scores[tuple(hits.T)].cpu().numpy()
        cells = hits.cpu().numpy()
        return [
            self._boxes(cells[mine, 1:], confidences[mine], layout)
            for mine in (cells[:, 0] == index for index in range(len(images)))
        ]

    def _boxes(self, cells: np.ndarray, confidences: np.ndarray, layout: PyramidLayout) -> list[Detection]:
        """Convert cells of the score map, `(n, 2)` row and column, to faces of one image."""
        weights = self._weights
        # (n, 2) x and y, in pixels of the canvas
        centres = cells[:, ::-1] * self._network.step_px + self._network.offset_px
        boxes = layout.boxes_to_image(centres, weights.window_width_px, weights.window_height_px)
        boxes = np.floor(np.abs(boxes) + 0.5) * np.sign(boxes)  # C's lround: halves away from zero
        order = np.argsort(-confidences, kind="stable")
        boxes, confidences = boxes[order], confidences[order]
        faces = []
        for index in suppress_overlaps(boxes, iou=weights.nms_iou, covered=weights.nms_covered):
            left, top, right, bottom = boxes[index].tolist()
            faces.append(Detection(left, top, right, bottom, float(confidences[index])))
        return faces


def suppress_overlaps(boxes: np.ndarray, *, iou: float, covered: float) -> list[int]:
    """Return the indices of the boxes that overlap no better one (non-maximum suppression).

    Boxes are `(n, 4)`: left, top, right, bottom in pixels, both edges included; the best first. `iou` is the
    largest accepted common area as a share of the smallest box around both (dlib's `test_box_overlap` uses it
    instead of the union), `covered` the largest accepted share of either box that the other covers.
    """
    kept: list[int] = []
    areas = _areas(boxes)
    for index, box in enumerate(boxes):
        better = boxes[kept]
        top_left, bottom_right = (better[:, :2], box[:2]), (better[:, 2:], box[2:])
        common = _areas(np.concatenate([np.maximum(*top_left), np.minimum(*bottom_right)], axis=1))
        around = _areas(np.concatenate([np.minimum(*top_left), np.maximum(*bottom_right)], axis=1))
        smaller = np.minimum(areas[kept], areas[index])
        if not np.any((common > 0) & ((common > iou * around) | (common > covered * smaller))):
            kept.append(index)
    return kept


def _areas(boxes: np.ndarray) -> np.ndarray:
    """Return the area of each box (n, 4), both edges included; 0 for an empty one."""
    return np.clip(boxes[:, 2] - boxes[:, 0] + 1, 0, None) * np.clip(boxes[:, 3] - boxes[:, 1] + 1, 0, None)
