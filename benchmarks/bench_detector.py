"""dlib's CNN face detector against the same network in torch: speed and agreement.

Both detect faces in the same frames, each on one CPU thread. The frames come from the real clips next to the
checkout (`../shared/data/clips`), if they exist, and from portraits of the synthetic population.

    python benchmarks/bench_detector.py [--frames 12] [--device cpu] [--precision fp32]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.detector_agreement import compare_detections
from s2f_lib.faces.detection import Detection, FaceDetector
from s2f_lib.faces.detector import DlibFaceDetector
from s2f_lib.faces.dlib_port.detector import TorchFaceDetector

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"
SIZES = ((640, 360), (1280, 720))  # width, height in pixels


def real_frames(limit: int) -> list[np.ndarray]:
    """Return the middle frame of up to `limit` real clips, RGB; an empty list without clips."""
    import av

    frames = []
    for path in sorted(CLIPS.glob("*.m*"))[:limit]:
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames.append(decoded[len(decoded) // 2])
    return frames


def generated_frames(count: int) -> list[np.ndarray]:
    """Return `count` portraits of the synthetic population, 1280x720 RGB."""
    from s2f_lib.sources.synthetic.people import draw_face
    from s2f_lib.sources.synthetic.portrait.face import Pose, draw_portrait, draw_scene

    frames = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        portrait = draw_portrait(draw_face(rng), size_px=(1280, 720), scene=draw_scene(rng))
        frames.append(portrait.frame(Pose()))
    return frames


def fit(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Crop the centre of a frame to an aspect ratio, then scale it to the size."""
    import cv2

    rows, columns = frame.shape[:2]
    keep_rows, keep_columns = min(rows, columns * height // width), min(columns, rows * width // height)
    top, left = (rows - keep_rows) // 2, (columns - keep_columns) // 2
    cut = frame[top : top + keep_rows, left : left + keep_columns]
    return cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)


def timed(detector: FaceDetector, frames: list[np.ndarray]) -> tuple[float, list[list[Detection]]]:
    """Return the seconds per frame and the detections; a first call, to warm up, is not timed."""
    detector.detect(frames[:1])
    start = time.perf_counter()
    found = detector.detect(frames)
    return (time.perf_counter() - start) / len(frames), found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=12, help="number of frames per size (default 12)")
    parser.add_argument("--device", default="cpu", help="device of the torch detector (default cpu)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="default fp32")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads of torch (default 1)")
    arguments = parser.parse_args()

    real = real_frames((arguments.frames + 1) // 2)
    sources = real + generated_frames(arguments.frames - len(real))
    print(f"{len(real)} frames of real clips, {len(sources) - len(real)} synthetic portraits; RGB")
    for width, height in SIZES:
        frames = [fit(frame, width, height) for frame in sources]
        dlib_s, reference = timed(DlibFaceDetector(width_px=width), frames)
        ours = TorchFaceDetector(
            width_px=width,
            device=arguments.device,
            precision=arguments.precision,
            threads=arguments.threads,
        )
        torch_s, found = timed(ours, frames)
        agreement = compare_detections(reference, found)
        print(
            f"{width}x{height}: dlib {1 / dlib_s:.2f} frames/s ({dlib_s:.3f} s per frame), "
            f"torch {1 / torch_s:.2f} frames/s ({torch_s:.3f} s per frame), ratio {dlib_s / torch_s:.1f}x"
        )
        print(
            f"{width}x{height}: {agreement.matched} of {agreement.reference} faces matched "
            f"({agreement.matched_share:.1%}), {agreement.extra} extra ({agreement.extra_share:.1%}), "
            f"IoU at least {agreement.worst_iou:.3f}, "
            f"confidence gap up to {agreement.worst_confidence_gap:.1e}"
        )


if __name__ == "__main__":
    main()
