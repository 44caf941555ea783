"""Clips through the stages in batches: the same as alone, and a fault costs one clip."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from s2f_lib.config import PreparationConfig, StudyConfig
from s2f_lib.errors import MissingFileError, RefusalReason
from s2f_lib.preparation import workers as processes
from s2f_lib.preparation.clip import AlignAndEmbed, ClipWorker, GpuStages, Outcome, decode, detect
from s2f_lib.preparation.shards import rows_to_bytes
from s2f_lib.preparation.workers import in_batches, prepare_clips
from s2f_lib.sources.clip import ClipRef, make_clip_id

SETTINGS = {"detector": "torch", "detection_width_px": 160, "frame_positions": (0.25, 0.75), "audio_s": 2.0}
CONFIG = StudyConfig(preparation=PreparationConfig(**SETTINGS))


def _clip(number: int, media) -> ClipRef:
    video_id = f"clip{number:07d}"
    return ClipRef(make_clip_id(video_id, 0.0, 2.0), video_id, 0.0, 2.0, 0.5, 0.5, media=media)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, media_writer, tone_maker, small_portrait) -> list[ClipRef]:
    """Nineteen clips: one shows no face, one has no file."""
    folder = tmp_path_factory.mktemp("clips")
    blank = np.full_like(small_portrait, 120)
    made = []
    for number in range(18):
        image = blank if number == 4 else np.roll(small_portrait, number - 9, axis=1)
        path = folder / f"{number}.mp4"
        media_writer(path, image=image, sound=tone_maker(2.0, frequency_hz=300 + 10 * number))
        made.append(_clip(number, path))
    return [*made, _clip(18, None)]


def _decoded(clips):
    for position, clip in enumerate(clips):
        yield position, decode(clip, CONFIG.preparation)
        if position == 9:
            yield None  # nothing at the moment: what is there must not wait for a full batch


@pytest.mark.parametrize("features_on_device", [True, False])
def test_batches_give_the_rows_that_clips_give_alone(clips, features_on_device):
    alone = ClipWorker(CONFIG, with_features=True)
    expected = {position: alone(clip) for position, clip in enumerate(clips)}
    align_and_embed = AlignAndEmbed(CONFIG, with_features=True)
    stages = partial(GpuStages, CONFIG, device="cpu", with_features=features_on_device)
    items = [
        item if item is None or isinstance(item[1], Outcome) else (item[0], align_and_embed(item[1]))
        for item in in_batches(_decoded(clips), stages)
    ]
    assert items.count(None) == 1
    found = dict(item for item in items if item is not None)
    assert len(items) == 1 + len(found)
    assert found.keys() == expected.keys()
    for position, outcome in expected.items():
        assert (found[position].reason, found[position].detail) == (outcome.reason, outcome.detail)
        assert found[position].seconds.keys() == outcome.seconds.keys()
        if outcome.row is not None:
            # features in batches: the same to the step of their float16
            np.testing.assert_allclose(found[position].row.features, outcome.row.features, atol=1e-3)
            rows = [
                rows_to_bytes([type(row)(**{n: getattr(row, n) for n in row.__slots__ if n != "features"})])
                for row in (found[position].row, outcome.row)
            ]
            assert rows[0] == rows[1]
    assert {position: o.reason for position, o in found.items() if o.reason} == {
        4: RefusalReason.NO_FACE,
        18: RefusalReason.MEDIA_MISSING,
    }


class _Chokes:
    """A detector that fails on any batch with a frame of clip 2, and finds nothing elsewhere."""

    def __init__(self, error: Exception, width_px: int) -> None:
        self.error, self.width_px = error, width_px

    def detect(self, frames):
        if any(frame.shape[1] == self.width_px for frame in frames):
            raise self.error
        return [[] for _ in frames]


def test_a_batch_that_fails_is_tried_clip_by_clip(clips, caplog):
    works = [decode(clip, CONFIG.preparation) for clip in clips[:4]]
    works[2].decoded.frames[:] = [np.zeros((120, 161, 3), np.uint8)] * 2
    detect(works, CONFIG.preparation, _Chokes(RuntimeError("out of luck"), 161))
    reasons = [work.outcome.reason for work in works]
    assert reasons == ["no-face", "no-face", "crashed", "no-face"]
    assert works[2].outcome.detail == "RuntimeError: out of luck"
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line == "a clip failed (RuntimeError): the ledger says which"
    assert all(work.decoded is None for work in works)  # frames are let go

    works = [decode(clip, CONFIG.preparation) for clip in clips[:2]]
    with pytest.raises(MissingFileError):  # not a clip's fault: the run ends
        detect(works, CONFIG.preparation, _Chokes(MissingFileError("no weights"), 160))


def test_known_outcomes_and_pauses_pass_through_the_processes(clips):
    refused = ClipWorker(CONFIG, with_features=False)(clips[18])
    tasks = [None, (7, refused), (0, clips[0]), None, (1, clips[1]), (8, refused)]
    # a device that is no GPU: the way that clips go where there is one
    for workers, device in ((1, "cpu"), (2, "cpu"), (1, "cpu:0")):
        items = list(prepare_clips(tasks, CONFIG, workers=workers, with_features=False, device=device))
        assert items.count(None) == 2
        found = dict(item for item in items if item is not None)
        assert found[7] is found[8] is refused
        assert {position: outcome.reason for position, outcome in found.items() if outcome.row} == {
            0: None,
            1: None,
        }


def test_alone_a_worker_has_one_thread_of_torch_as_among_several(clips, monkeypatch):
    """With more threads sums round otherwise, and rows must not depend on the number of workers."""
    threads = []

    class Counting(processes.ClipWorker):
        def __call__(self, clip):
            threads.append(torch.get_num_threads())
            return super().__call__(clip)

    monkeypatch.setattr(processes, "ClipWorker", Counting)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        tasks = list(enumerate(clips))
        assert len(list(prepare_clips(tasks, CONFIG, workers=1, with_features=False))) == len(tasks)
        assert threads == [1] * len(tasks)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
