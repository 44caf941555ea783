"""The torch face detector against dlib's own, and its parts."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detector_agreement import compare_detections, intersection_over_union
from s2f_lib.errors import ConfigError, DataError, InputError
from s2f_lib.faces.detection import Detection
from s2f_lib.faces.detector import DlibFaceDetector, make_detector
from s2f_lib.faces.dlib_port.detector import TorchFaceDetector, suppress_overlaps
from s2f_lib.faces.dlib_port.network import pyramid_layout
from s2f_lib.faces.dlib_port.weights import DlibReader, dlib_weights, read_mmod_weights

WEIGHTS_FILE = "mmod_human_face_detector.dat"


@pytest.fixture(scope="module")
def portraits() -> list[np.ndarray]:
    """Six synthetic faces in RGB images of two sizes."""
    from s2f_lib.sources.synthetic.people import draw_face
    from s2f_lib.sources.synthetic.portrait.face import Pose, draw_portrait, draw_scene

    images = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        face, scene = draw_face(rng), draw_scene(rng)
        size_px = (320, 180) if seed % 2 else (300, 240)
        images.append(draw_portrait(face, size_px=size_px, scene=scene).frame(Pose(yaw_deg=4.0 * seed - 10)))
    return images


@pytest.fixture(scope="module")
def detector() -> TorchFaceDetector:
    return TorchFaceDetector(width_px=320, device="cpu")


# dlib's file


def test_mmod_weights_match_dlibs_documentation():
    weights = read_mmod_weights(dlib_weights(WEIGHTS_FILE))

    shapes = [(layer.weight.shape, layer.stride, layer.padding, layer.relu) for layer in weights.layers]
    assert shapes == [
        ((16, 3, 5, 5), 2, 0, True),
        ((32, 16, 5, 5), 2, 0, True),
        ((32, 32, 5, 5), 2, 0, True),
        ((45, 32, 5, 5), 1, 2, True),
        ((45, 45, 5, 5), 1, 2, True),
        ((45, 45, 5, 5), 1, 2, True),
        ((1, 45, 9, 9), 1, 4, False),
    ]
    assert (weights.window_width_px, weights.window_height_px) == (80, 80)
    assert weights.mean_rgb == pytest.approx((122.782, 117.001, 104.298), abs=1e-4)
    assert (weights.pyramid_padding_px, weights.pyramid_outer_padding_px) == (10, 11)
    assert all(np.isfinite(layer.weight).all() and layer.weight.any() for layer in weights.layers)


@pytest.mark.parametrize("cut", [0, 3, 90, 137, 5_000, 100_000, -1])
def test_mmod_weights_truncated_file_raises(tmp_path: Path, cut: int):
    data = dlib_weights(WEIGHTS_FILE).read_bytes()
    path = tmp_path / "cut.dat"
    path.write_bytes(data[:cut])
    with pytest.raises(DataError, match=r"cut\.dat: .* near byte \d+"):
        read_mmod_weights(path)


def test_mmod_weights_extra_bytes_raise(tmp_path: Path):
    path = tmp_path / "long.dat"
    path.write_bytes(dlib_weights(WEIGHTS_FILE).read_bytes() + b"\x00")
    with pytest.raises(DataError, match="1 bytes more"):
        read_mmod_weights(path)


def test_mmod_weights_other_network_raises():
    with pytest.raises(DataError, match="expected loss_mmod_"):
        read_mmod_weights(dlib_weights("dlib_face_recognition_resnet_model_v1.dat"))


def test_reader_reads_dlibs_numbers():
    # an integer is a control byte (sign, size) and its bytes; a float is mantissa and exponent
    reader = DlibReader(b"\x01\x07" + b"\x82\x00\x01" + b"\x01\x03\x81\x02" + b"1" + b"\x01\x02ok", "made")
    assert reader.integer() == 7
    assert reader.integer() == -256
    assert reader.real() == 0.75
    assert reader.flag() is True
    assert reader.text() == "ok"
    assert reader.remaining == 0


def test_reader_tensor_larger_than_file_raises():
    huge = b"\x01\x02" + b"\x04\xff\xff\xff\x7f" * 2 + b"\x01\x01" * 2 + struct.pack("<f", 1.0)
    with pytest.raises(DataError, match="ends early"):
        DlibReader(huge, "made").tensor()


# the pyramid


def test_pyramid_layout_small_image_by_hand():
    # levels: 60x40, 50x33, 41x27, 34x22, 28x18, 23x15, 19x12, 15x10, 12x8, 10x6, 8x5
    # (floor of 5/6 of the level before; no level has fewer than 5 rows). All levels with the gaps between
    # them are 196 + 11 * 10 - 20 = 286 px high. 23x15 does not fit next to the level before it
    # (28 + 23 + 10 > 60), but 19x12 does (23 + 19 + 10 <= 60).
    layout = pyramid_layout(60, 40)
    assert [(tile.width, tile.height) for tile in layout.tiles][:4] == [
        (60, 40),
        (50, 33),
        (41, 27),
        (34, 22),
    ]
    assert [tile.top for tile in layout.tiles][:4] == [11, 61, 104, 141]
    column = 40 + 33 + 27 + 22 + 18 + 15 + 5 * 10
    assert (layout.width, layout.height) == (60 + 22, column + 22)
    # the seventh is the first on the right: its lower right corner is at the end of the column
    seventh = layout.tiles[6]
    assert (seventh.right, seventh.bottom) == (11 + 60 - 1, 11 + column - 1)


@pytest.mark.parametrize("size", [(640, 360), (640, 640), (333, 777), (1280, 720), (80, 45)])
def test_pyramid_tiles_do_not_overlap(size: tuple[int, int]):
    layout = pyramid_layout(*size)
    taken = np.zeros((layout.height, layout.width), int)
    for tile in layout.tiles:
        taken[tile.top : tile.bottom + 1, tile.left : tile.right + 1] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(tile.width * tile.height for tile in layout.tiles)
    assert not taken[:11].any()
    assert not taken[:, -11:].any()


def test_pyramid_boxes_map_back_to_the_image():
    layout = pyramid_layout(640, 360)
    first, third = layout.tiles[0], layout.tiles[2]
    centres = np.array([(first.left + 100, first.top + 90), (third.left + 100, third.top + 90)])
    boxes = layout.boxes_to_image(centres, 80, 80)
    np.testing.assert_allclose(boxes[0], [60.5, 50.5, 139.5, 129.5])
    # dlib's point_up, twice: p * 6/5 + 0.3
    expected = [(side * 1.2 + 0.3) * 1.2 + 0.3 for side in (60.5, 50.5, 139.5, 129.5)]
    np.testing.assert_allclose(boxes[1], expected)


def test_pyramid_point_between_tiles_takes_the_nearer():
    layout = pyramid_layout(640, 360)
    below_first = layout.tiles[0].bottom + 3
    above_second = layout.tiles[1].top - 3
    levels = layout.nearest_tile(np.array([100, 100]), np.array([below_first, above_second]))
    assert levels.tolist() == [0, 1]


# suppression


def test_suppress_overlaps_uses_the_box_around_both():
    # two 10x10 boxes, shifted by 5: the common area is 50, that of the box around both 150, so 1/3
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [20, 0, 29, 9]])
    assert suppress_overlaps(boxes, iou=0.34, covered=1.0) == [0, 1, 2]
    assert suppress_overlaps(boxes, iou=0.33, covered=1.0) == [0, 2]
    assert suppress_overlaps(boxes, iou=0.34, covered=0.49) == [0, 2]


def test_suppress_overlaps_dropped_box_drops_no_other():
    # the third box overlaps only the second one, which is dropped because of the first
    boxes = np.array([[0, 0, 9, 9], [4, 0, 13, 9], [9, 0, 18, 9]])
    assert suppress_overlaps(boxes, iou=0.2, covered=1.0) == [0, 2]


def test_suppress_overlaps_without_boxes_is_empty():
    assert suppress_overlaps(np.zeros((0, 4)), iou=0.3, covered=1.0) == []


# agreement


def test_compare_detections_counts_each_face_once():
    one = Detection(0, 0, 10, 10, 1.0)
    shifted = Detection(1, 0, 11, 10, 0.95)  # common area 90, area of either box 100, of the union 110
    assert intersection_over_union(one, shifted) == pytest.approx(90 / 110)
    assert intersection_over_union(one, Detection(10, 0, 20, 10, 1.0)) == 0.0

    result = compare_detections([[one], [], [one]], [[shifted, one], [one], []])
    assert (result.frames, result.reference, result.matched, result.extra) == (3, 2, 1, 2)
    assert (result.matched_share, result.extra_share) == (0.5, 1.0)

    unsure = Detection(0, 0, 10, 10, 0.8)
    assert compare_detections([[one]], [[unsure]]).matched == 0


# the detector


def test_torch_detector_equals_dlib(portraits, detector):
    reference = DlibFaceDetector(width_px=320).detect(portraits)
    result = compare_detections(reference, detector.detect(portraits))
    assert result.reference >= 5
    assert (result.matched, result.extra) == (result.reference, 0)
    # whole pixels of the same frame: equal boxes
    assert result.worst_iou == pytest.approx(1.0)
    assert result.worst_confidence_gap < 1e-3


def test_torch_detector_several_faces_best_first(portraits):
    wide = np.concatenate([portraits[0], portraits[2]], axis=1)  # (240, 600, 3)
    lower = np.concatenate([portraits[4], portraits[0]], axis=1)
    frames = [wide, np.concatenate([wide, lower], axis=0)]
    reference = DlibFaceDetector(width_px=600).detect(frames)
    found = TorchFaceDetector(width_px=600, device="cpu").detect(frames)
    assert sum(map(len, reference)) >= 5
    assert [len(faces) for faces in found] == [len(faces) for faces in reference]
    assert compare_detections(reference, found).matched == sum(map(len, reference))
    for faces in found:
        scores = [face.confidence for face in faces]
        assert scores == sorted(scores, reverse=True)


def test_torch_detector_batch_equals_single_frames(portraits, detector):
    single = [detector.detect([frame])[0] for frame in portraits]
    batched = TorchFaceDetector(width_px=320, device="cpu", batch_size=4).detect(portraits)
    result = compare_detections(single, batched)
    assert result.matched == result.reference == sum(map(len, batched))
    assert result.worst_iou == pytest.approx(1.0)
    assert result.worst_confidence_gap < 1e-4


def test_torch_detector_boxes_are_in_the_given_frame(portraits):
    frame = portraits[1]
    (near,) = TorchFaceDetector(width_px=320, device="cpu").detect([frame])[0]
    (scaled,) = TorchFaceDetector(width_px=480, device="cpu").detect([frame])[0]
    assert intersection_over_union(near, scaled) > 0.6
    assert 0 < near.centre[0] < frame.shape[1]
    assert 0 < near.centre[1] < frame.shape[0]


def test_torch_detector_blank_or_tiny_frame_has_no_face(detector):
    frames = [np.full((180, 320, 3), level, np.uint8) for level in (0, 127, 255)]
    frames += [np.zeros((1, 320, 3), np.uint8), np.zeros((180, 2, 3), np.uint8)[:3]]
    assert detector.detect(frames) == [[]] * len(frames)
    assert TorchFaceDetector(width_px=3, device="cpu").detect([np.zeros((3, 3, 3), np.uint8)]) == [[]]
    assert detector.detect([]) == []


def test_torch_detector_threshold_selects_faces(portraits, detector):
    (face,) = detector.detect([portraits[0]])[0]
    above = TorchFaceDetector(threshold=face.confidence + 0.01, width_px=320, device="cpu")
    assert above.detect([portraits[0]]) == [[]]
    below = TorchFaceDetector(threshold=-1.5, width_px=320, device="cpu").detect([portraits[0]])[0]
    assert len(below) > 1
    assert below[0] == face


def test_torch_detector_bfloat16_finds_the_same_faces(portraits, detector):
    quick = TorchFaceDetector(width_px=320, device="cpu", precision="bf16")
    result = compare_detections(detector.detect(portraits), quick.detect(portraits))
    assert (result.matched, result.extra) == (result.reference, 0)


def test_torch_detector_restores_torch_threads(portraits):
    import torch

    before = torch.get_num_threads()
    TorchFaceDetector(width_px=80, device="cpu", threads=before + 1).detect(portraits[:1])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_torch_detector_invalid_frame_raises_with_index(detector, frame: np.ndarray):
    good = np.zeros((180, 320, 3), np.uint8)
    with pytest.raises(InputError, match=r"frame 1 has shape .*expected \(height, width, 3\) uint8"):
        detector.detect([good, frame])


@pytest.mark.parametrize(
    "setting",
    [{"precision": "fp8"}, {"width_px": 0}, {"threads": 0}, {"batch_size": -1}, {"device": "abacus"}],
)
def test_torch_detector_setting_out_of_range_raises(setting: dict):
    with pytest.raises(ConfigError, match=str(next(iter(setting.values())))):
        TorchFaceDetector(**setting)


def test_make_detector_torch_runs_on_the_cpu(portraits):
    chosen = make_detector("torch", width_px=320, device="cpu")
    assert chosen.device.type == "cpu"
    assert len(chosen.detect(portraits[:1])[0]) == 1


@pytest.mark.gpu
def test_torch_detector_gpu_finds_the_same_faces(portraits, detector):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    found = TorchFaceDetector(width_px=320, device="cuda").detect(portraits)
    result = compare_detections(detector.detect(portraits), found)
    assert (result.matched, result.extra) == (result.reference, 0)


def test_torch_detector_real_images_equal_dlib(shared_data: Path):
    import av
    import cv2

    frames = []
    for name in ("retalking_1.mp4", "two_faces_1.mp4", "no_face_001.mp4", "grid_bbaf2n.mpg"):
        with av.open(str(shared_data / "clips" / name)) as container:
            frames.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    for folder, pattern in (("speech2face_pairs", "**/Face_ori/*.jpg"), ("utkface", "**/*.jpg")):
        for path in sorted((shared_data / folder).glob(pattern))[::200][:3]:
            frames.append(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
    # 400 px, because dlib is slow
    reference = DlibFaceDetector(width_px=400).detect(frames)
    result = compare_detections(reference, TorchFaceDetector(width_px=400, device="cpu").detect(frames))
    assert result.reference >= 9
    assert result.matched_share >= 0.98
    assert result.extra_share <= 0.02
