"""Agreement of two face detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2f_lib.faces.detection import Detection


@dataclass(frozen=True, slots=True)
class Agreement:
    """Faces of one detector compared with those of a reference.

    Attributes
    ----------
    frames
        Number of frames.
    reference
        Number of faces that the reference found.
    matched
        Number of these faces that the other detector found, too.
    extra
        Number of faces that only the other detector found.
    worst_iou, worst_confidence_gap
        Worst values of the matched faces; 1 and 0 if there are none.
    """

    frames: int
    reference: int
    matched: int
    extra: int
    worst_iou: float
    worst_confidence_gap: float

    @property
    def matched_share(self) -> float:
        """Matched faces as a share of the reference's; 1 if it found none."""
        return self.matched / self.reference if self.reference else 1.0

    @property
    def extra_share(self) -> float:
        """Extra faces as a share of the reference's, which count as 1 if there are none."""
        return self.extra / max(self.reference, 1)


def intersection_over_union(first: Detection, second: Detection) -> float:
    """Return the common area of two boxes divided by the area of their union, in [0, 1]."""
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.bottom, second.bottom) - max(first.top, second.top)
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(first) + _area(second) - common)


def compare_detections(
    reference: Sequence[Sequence[Detection]],
    found: Sequence[Sequence[Detection]],
    *,
    min_iou: float = 0.8,
    max_confidence_gap: float = 0.1,
) -> Agreement:
    """Match the faces of two detectors, frame by frame, each face at most once.

    Parameters
    ----------
    reference, found
        One list of faces per frame.
    min_iou, max_confidence_gap
        Limits within which two faces are the same.

    Raises
    ------
    ValueError
        The numbers of frames differ.
    """
    matched = extra = 0
    worst_iou, worst_gap = 1.0, 0.0
    for ours, theirs in zip(found, reference, strict=True):
        left = list(ours)
        for face in theirs:
            same = [other for other in left if abs(other.confidence - face.confidence) <= max_confidence_gap]
            best = max(same, key=lambda other: intersection_over_union(face, other), default=None)
            if best is None or (iou := intersection_over_union(face, best)) < min_iou:
                continue
            left.remove(best)
            matched += 1
            worst_iou = min(worst_iou, iou)
            worst_gap = max(worst_gap, abs(best.confidence - face.confidence))
        extra += len(left)
    return Agreement(len(reference), sum(map(len, reference)), matched, extra, worst_iou, worst_gap)


def _area(face: Detection) -> float:
    return (face.right - face.left) * (face.bottom - face.top)
