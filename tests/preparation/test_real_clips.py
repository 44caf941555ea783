"""The seventeen real clips, with the real network: fifteen crops, two refusals."""

from __future__ import annotations

import numpy as np
import pytest

from s2f_lib.config import FeatureConfig, PreparationConfig
from s2f_lib.faces.detector import make_detector
from s2f_lib.media.decode import read_frames
from s2f_lib.preparation.ledger import read_refusals
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.sources.avspeech import load_clips
from tests.faces_tools import measure_eyes


@pytest.fixture(scope="module")
def prepared(shared_data, tmp_path_factory):
    folder = shared_data / "clips"
    if not folder.is_dir():
        pytest.skip("needs the real clips in ../shared/data/clips")
    out = tmp_path_factory.mktemp("real")
    # dlib itself, with the default frames and width: one second per frame
    settings = {"preparation": PreparationConfig(detector="dlib", workers=1), "features": FeatureConfig()}
    return out, prepare(load_clips(folder / "avspeech_clips.csv", folder), out, **settings)


def test_prepare_real_clips_gives_fifteen_rows(prepared):
    out, summary = prepared
    assert (summary.n_clips, summary.n_done) == (17, 15)
    assert summary.by_reason == {"no-face": 1, "several-faces": 1}
    refused = {row.clip_id[:11]: (row.reason, row.detail) for row in read_refusals(out).itertuples()}
    assert refused["two_faces_1"][0] == "several-faces"
    assert refused["no_face_001"] == (
        "no-face",
        "0, 0, 0 faces in the frames looked at; expected one in each",
    )
    assert [path.name for path in out.glob("*.arrow")] == ["shard-00000.arrow"]


def test_prepare_real_clips_faces_fill_level_crops(prepared):
    clips = read_prepared(prepared[0])
    faces = clips.crops()
    found = make_detector("torch", width_px=224).detect(list(faces))
    for clip_id, face, boxes in zip(clips.clip_ids, faces, found, strict=True):
        eyes = measure_eyes(face)
        assert abs(eyes.angle_deg) < 10, clip_id
        assert eyes.distance_share > 0.25, clip_id
        assert len(boxes) == 1, clip_id
        assert boxes[0].right - boxes[0].left > 0.5 * 224, clip_id
        assert boxes[0].centre == pytest.approx((112, 112), abs=25), clip_id


def test_prepare_real_clips_sound_and_features_are_plausible(prepared):
    clips = read_prepared(prepared[0])
    assert clips.audio.shape == (15, 96_000)
    seconds = clips.to_pandas()["n_audio_samples"] / 16_000
    assert seconds.between(2.9, 6.0).all()
    assert (np.abs(np.asarray(clips.audio, int)).max(1) > 1_000).all()
    distance = np.linalg.norm(clips.features[:, None] - clips.features[None], axis=2)
    apart = distance[~np.eye(15, dtype=bool)]
    assert apart.min() > 0.4  # dlib takes 0.6 for the border between one person and two
    assert np.median(apart) > 0.6


@pytest.mark.parametrize(
    ("name", "time_s", "n_faces"), [("grid_bbaf2n.mpg", 1.49, 1), ("no_face_001.mp4", 3.0, 0)]
)
def test_torch_detector_agrees_with_dlib_on_real_frames(shared_data, name, time_s, n_faces):
    frames = read_frames(shared_data / "clips" / name, times_s=[time_s])
    (reference,) = make_detector("dlib").detect(frames)
    (found,) = make_detector("torch").detect(frames)
    assert len(reference) == len(found) == n_faces
    for expected, face in zip(reference, found, strict=True):
        assert face.centre == pytest.approx(expected.centre, abs=4)
        assert face.confidence == pytest.approx(expected.confidence, abs=0.1)
