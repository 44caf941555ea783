"""Clips in processes and batches: the same rows as one clip at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from s2f_lib.config import FeatureConfig, PreparationConfig
from s2f_lib.errors import RefusalReason
from s2f_lib.preparation import workers
from s2f_lib.preparation.clip import ClipStages, ClipState
from s2f_lib.preparation.shards import rows_to_bytes
from s2f_lib.preparation.workers import gpu_thread, prepare_clips
from s2f_lib.sources.clip import ClipRef, make_clip_id

SETTINGS = {"detector": "torch", "detection_width_px": 160, "frame_positions": (0.25, 0.75), "audio_s": 2.0}
SECTIONS = PreparationConfig(**SETTINGS), FeatureConfig()


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


def _states(clips: list[ClipRef]) -> list[ClipState]:
    return [ClipState(position, clip) for position, clip in enumerate(clips)]


def _run(*stages: str, states):
    return ClipStages(stages, *SECTIONS).run(states)


@pytest.mark.parametrize("features_on_device", [True, False])
def test_gpu_thread_batches_give_the_rows_of_single_clips(clips, features_on_device):
    expected = {}
    stages = ClipStages(("decode", "detect", "align", "features"), *SECTIONS)
    for state in _states(clips):
        expected[state.position] = stages.run([state])[0]
    decoded = _run("decode", states=_states(clips))
    decoded.insert(10, None)  # no clip at the moment: the others must not wait for a full batch
    on_device = ("detect", "align", "features") if features_on_device else ("detect",)
    with gpu_thread(partial(ClipStages, on_device, *SECTIONS)) as detect:
        items = list(detect(decoded))
    assert items.count(None) == 1
    states = [state for state in items if state is not None]
    if not features_on_device:
        _run("align", "features", states=states)
    found = {state.position: state for state in states}
    assert len(items) == 1 + len(found)
    assert found.keys() == expected.keys()
    for position, state in expected.items():
        assert (found[position].reason, found[position].detail) == (state.reason, state.detail)
        assert found[position].seconds.keys() == state.seconds.keys()
        if state.row is not None:
            # features in batches are the same to the step of their float16
            np.testing.assert_allclose(found[position].row.features, state.row.features, atol=1e-3)
            rows = [rows_to_bytes([replace(s.row, features=None)]) for s in (found[position], state)]
            assert rows[0] == rows[1]
    assert {position: state.reason for position, state in found.items() if state.reason} == {
        4: RefusalReason.NO_FACE,
        18: RefusalReason.MEDIA_MISSING,
    }


def test_prepare_clips_passes_refused_clips_and_pauses_on(clips):
    (refused,) = _run("decode", states=[ClipState(7, clips[18])])
    again = replace(refused, position=8)
    # a device that is not a GPU: the steps that clips take where there is one
    for n_workers, device in ((1, "cpu"), (2, "cpu"), (1, "cpu:0")):
        states = [None, refused, ClipState(0, clips[0]), None, ClipState(1, clips[1]), again]
        prepared = prepare_clips(states, *SECTIONS, workers=n_workers, with_features=False, device=device)
        items = list(prepared)
        assert items.count(None) == 2
        found = {state.position: state for state in items if state is not None}
        assert found[7] is refused
        assert found[8] is again
        assert {position: s.reason for position, s in found.items() if s.row} == {0: None, 1: None}


def test_prepare_clips_with_one_worker_uses_one_torch_thread(clips, monkeypatch):
    """With more threads sums round differently, and rows must not depend on the number of workers."""
    threads = []

    class Counting(ClipStages):
        def run(self, states):
            threads.append(torch.get_num_threads())
            return super().run(states)

    monkeypatch.setattr(workers, "ClipStages", Counting)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert len(list(prepare_clips(_states(clips), *SECTIONS, workers=1, with_features=False))) == len(
            clips
        )
        assert threads == [1] * len(clips)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
