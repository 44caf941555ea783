"""The substitute for VGG-Face: it learns identities, and its file is read as VGG-Face's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from s2f_lib.config import LoopConfig, with_changes
from s2f_lib.errors import ConfigError, DataError
from s2f_lib.faces.extractor import VGGFace
from s2f_lib.faces.vgg_face.network import load_vgg_face
from s2f_lib.training.vgg_face import make_vgg16, render_identity, train_vgg_face
from tests.faces_tools import measure_eyes

DEBUG = LoopConfig(
    epochs=10, batch_size=9, learning_rate=1e-3, weight_decay=0.0, clip_norm=1.0, validation_share=0.25,
    device="cpu",
)  # fmt: skip


def test_render_identity_is_aligned_and_varies():
    faces = render_identity(0, 1, 4)
    assert faces.shape == (4, 224, 224, 3)
    assert np.array_equal(faces, render_identity(0, 1, 4))
    assert not np.array_equal(faces, render_identity(0, 2, 4))
    assert len({face.tobytes() for face in faces}) == 4
    for face in faces[:2]:
        eyes = measure_eyes(face)  # by dlib's landmarks; about 0.34 on crops of the pipeline
        assert abs(eyes.angle_deg) < 10
        assert 0.26 < eyes.distance_share < 0.42


def test_train_vgg_face_narrow_learns_and_is_cached(tmp_path):
    reports = []
    sizes = {"n_identities": 3, "renderings": 24, "width": 1 / 16, "hidden": 64, "workers": 1}
    trained = train_vgg_face(tmp_path, training=DEBUG, **sizes, rendered=lambda *now: reports.append(now))
    assert reports == [(number, 3, "identities rendered") for number in (1, 2, 3)]
    assert len(trained.metrics) == DEBUG.epochs
    assert trained.metrics["train_loss"].iloc[-1] < 0.7 * trained.metrics["train_loss"].iloc[0]
    assert trained.metrics["validation_accuracy"].iloc[-2:].max() > 0.6  # chance is 0.33, 18 faces
    card = json.loads(trained.weights.with_suffix(".json").read_text())
    assert card["identities"] == 3
    names = set(safetensors.torch.load_file(trained.weights))
    with torch.device("meta"):
        assert names == set(make_vgg16(classes=2622).state_dict())
    with pytest.raises(DataError, match=r"features.0.weight is \(4, 3, 3, 3\); expected \(64, 3, 3, 3\)"):
        load_vgg_face(trained.weights)
    # a second call renders and trains nothing
    (rendered,) = tmp_path.glob("faces-*/faces.npy")
    before = rendered.stat().st_mtime_ns
    again = train_vgg_face(tmp_path, training=DEBUG, **sizes, rendered=lambda *now: reports.append(now))
    assert len(reports) == 3
    assert rendered.stat().st_mtime_ns == before
    assert again.weights.is_file()
    assert list(again.metrics["train_loss"]) == list(trained.metrics["train_loss"])
    # another learning rate trains in another folder, on the same faces
    slower = with_changes(DEBUG, {"learning_rate": "2e-5", "epochs": 1})
    other = train_vgg_face(tmp_path, training=slower, **sizes)
    assert rendered.stat().st_mtime_ns == before
    assert other.metrics["train_loss"].iloc[0] != trained.metrics["train_loss"].iloc[0]
    with pytest.raises(ConfigError, match="learning_rate"):
        with_changes(DEBUG, {"learning_rate": "-1"})


@pytest.mark.slow
def test_make_vgg16_full_size_is_read_as_vgg_face(tmp_path):
    path = tmp_path / "vgg_face.safetensors"
    torch.manual_seed(0)
    safetensors.torch.save_file(make_vgg16(classes=2622).state_dict(), path)
    features = VGGFace(load_vgg_face(path))(render_identity(0, 0, 2))
    assert features.shape == (2, 4096)
    assert (features >= 0).all()
    assert not np.array_equal(features[0], features[1])
