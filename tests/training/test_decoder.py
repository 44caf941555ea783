"""Training of both decoders: it learns, resumes exactly, and bf16 is equal within noise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from s2f_lib.config import load_config
from s2f_lib.errors import ConfigError
from s2f_lib.faces.extractor import DlibResNet
from s2f_lib.faces.face_set import FaceSet
from s2f_lib.models.inference import render_faces
from s2f_lib.training.decoder import TrainedDecoder, train_face_decoder
from s2f_lib.training.loop import TrainingRun

N_FACES = 20


@pytest.fixture(scope="module")
def extractor():
    return DlibResNet()


@pytest.fixture(scope="module")
def faces(extractor) -> FaceSet:
    """Ellipses with eyes on grey, in different colours and widths, and their true features."""
    rng = np.random.default_rng(0)
    images = np.full((N_FACES, 224, 224, 3), 90, np.uint8)
    for image in images:
        colour = tuple(int(value) for value in rng.integers(120, 230, 3))
        cv2.ellipse(image, (112, 118), (int(rng.integers(55, 95)), 100), 0, 0, 360, colour, -1)
        for side in (-1, 1):
            cv2.circle(image, (112 + side * 39, 76), int(rng.integers(5, 12)), (40, 30, 25), -1)
    names = [f"face{number:02d}" for number in range(N_FACES)]
    return FaceSet(names, names, extractor(images), images)


def _config(**changes):
    settings = {
        "decoder.residual_channels": [8, 8, 8, 8, 8],
        "decoder.residual_hidden": 16,
        "decoder.width": 0.0625,
        "decoder_training.epochs": 2,
        "decoder_training.batch_size": 8,
        "decoder_training.validation_share": 0.2,
        "decoder_training.device": "cpu",
    }
    return load_config(None, settings | {f"decoder_training.{key}": value for key, value in changes.items()})


def _train(faces, config, parent, *, kind="residual", **options) -> TrainedDecoder:
    return train_face_decoder(
        faces,
        decoder=config.decoder.with_(kind=kind),
        training=config.decoder_training,
        parent=parent,
        **options,
    )


@pytest.mark.parametrize("kind", ["report", "residual"])
def test_train_decoder_learns(tmp_path, faces, extractor, kind):
    config = _config(epochs=4, learning_rate=0.01)
    trained = _train(faces, config, tmp_path, kind=kind, extractor=extractor)
    losses = trained.metrics["train_loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert render_faces(trained.model, faces.features[:2]).shape == (2, 224, 224, 3)
    assert ("validation_identity" in trained.metrics) == (kind == "residual")


def test_at_epochs_gives_decoder_after_some_epochs(tmp_path, faces, extractor):
    trained = _train(faces, _config(), tmp_path, extractor=extractor)
    snapshots = trained.at_epochs()
    assert list(snapshots) == [1, 2]
    images = {epoch: render_faces(model, faces.features[:2]) for epoch, model in snapshots.items()}
    np.testing.assert_array_equal(images[2], render_faces(trained.model, faces.features[:2]))
    assert not np.array_equal(images[1], images[2])


class Killed(Exception):
    """Simulates a kill."""


def test_at_epochs_after_kill_at_checkpoint_is_complete(tmp_path, faces, extractor, monkeypatch):
    def save_and_die(run, save=TrainingRun._save):
        save(run)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_save", save_and_die)
        with pytest.raises(Killed):
            _train(faces, _config(), tmp_path, extractor=extractor)
    resumed = _train(faces, _config(), tmp_path, extractor=extractor)
    assert list(resumed.at_epochs()) == [1, 2]


def test_train_decoder_killed_after_epoch_equals_whole(tmp_path, faces, extractor):
    config = _config()

    def kill(epoch, epochs, row):
        raise Killed

    with pytest.raises(Killed):
        _train(faces, config, tmp_path / "cut", extractor=extractor, progress=kill)
    resumed = _train(faces, config, tmp_path / "cut", extractor=extractor)
    whole = _train(faces, config, tmp_path / "whole", extractor=extractor)
    columns = ["train_loss", "validation_loss", "validation_identity"]
    assert resumed.metrics[columns].equals(whole.metrics[columns])
    for name, tensor in whole.model.state_dict().items():
        assert np.array_equal(tensor, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["report", "residual"])
def test_train_decoder_bf16_is_equal_within_noise(tmp_path, faces, extractor, kind):
    losses = {}
    for name, config in {"plain": _config(), "bf16": _config(precision="bf16")}.items():
        trained = _train(faces, config, tmp_path / name, kind=kind, extractor=extractor)
        losses[name] = trained.metrics["validation_loss"].to_numpy()
    np.testing.assert_allclose(losses["bf16"], losses["plain"], atol=0.01)
    assert not np.array_equal(losses["bf16"], losses["plain"])


def test_train_decoder_start_continues_from_given_decoder(tmp_path, faces, extractor):
    first = _train(faces, _config(epochs=1), tmp_path / "a", extractor=extractor)
    slow = _config(epochs=1, learning_rate=1e-6)
    tuned = _train(faces, slow, tmp_path / "b", extractor=extractor, start=first)
    other = _train(faces, slow, tmp_path / "c", extractor=extractor)
    weights = [trained.model.project.weight.detach().numpy() for trained in (first, tuned, other)]
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-4)
    assert np.abs(weights[2] - weights[0]).max() > 1e-3


def test_train_decoder_other_extractor_is_refused(tmp_path, faces, extractor):
    other = FaceSet(faces.clip_ids, faces.video_ids, faces.features[:, :100], faces.images)
    with pytest.raises(ConfigError, match=r"128-D features, and these are 100-D.*identity_weight to 0"):
        _train(other, _config(), tmp_path, extractor=extractor)
    without = _config(identity_weight=0, epochs=1)
    assert _train(other, without, tmp_path).model.feature_dimension == 100
    with pytest.raises(ConfigError, match="needs the extractor of the features"):
        _train(faces, _config(), tmp_path)
