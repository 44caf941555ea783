"""Training of both decoders: it learns, resumes exactly, and half precision gives the same within noise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from s2f_lib.config import load_config
from s2f_lib.errors import ConfigError
from s2f_lib.faces.dlib_port.extractor import DlibResNet
from s2f_lib.faces.face_set import FaceSet
from s2f_lib.training.decoder import render_faces, train_face_decoder
from s2f_lib.training.run import TrainingRun

N_FACES = 20


@pytest.fixture(scope="module")
def extractor():
    return DlibResNet()


@pytest.fixture(scope="module")
def faces(extractor) -> FaceSet:
    """Ellipses on grey with eyes, in other colours and widths, and their true features."""
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


@pytest.mark.parametrize("kind", ["report", "residual"])
def test_it_learns(tmp_path, faces, extractor, kind):
    trained = train_face_decoder(
        faces, _config(epochs=4, learning_rate=0.01), out=tmp_path, kind=kind, extractor=extractor
    )
    losses = trained.metrics["train_loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert render_faces(trained.model, faces.features[:2]).shape == (2, 224, 224, 3)
    assert ("validation_identity" in trained.metrics) == (kind == "residual")


def test_the_decoder_is_kept_as_it_was_after_some_epochs(tmp_path, faces, extractor):
    trained = train_face_decoder(faces, _config(), out=tmp_path, extractor=extractor)
    kept = trained.at_epochs()
    assert list(kept) == [1, 2]
    drawn = {epoch: render_faces(model, faces.features[:2]) for epoch, model in kept.items()}
    np.testing.assert_array_equal(drawn[2], render_faces(trained.model, faces.features[:2]))
    assert not np.array_equal(drawn[1], drawn[2])


class Killed(Exception):
    """Stands for a signal."""


def test_a_kill_right_after_a_checkpoint_costs_no_kept_epoch(tmp_path, faces, extractor, monkeypatch):
    def save_and_die(run, save=TrainingRun._save):
        save(run)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_save", save_and_die)
        with pytest.raises(Killed):
            train_face_decoder(faces, _config(), out=tmp_path, extractor=extractor)
    resumed = train_face_decoder(faces, _config(), out=tmp_path, extractor=extractor)
    assert list(resumed.at_epochs()) == [1, 2]


@pytest.mark.parametrize("adversarial_weight", [0.0, 0.05])
def test_cut_after_an_epoch_it_goes_on_bit_for_bit(tmp_path, faces, extractor, adversarial_weight):
    config = _config(adversarial_weight=adversarial_weight)

    def kill(epoch, epochs, row):
        raise Killed

    with pytest.raises(Killed):
        train_face_decoder(faces, config, out=tmp_path / "cut", extractor=extractor, progress=kill)
    resumed = train_face_decoder(faces, config, out=tmp_path / "cut", extractor=extractor)
    whole = train_face_decoder(faces, config, out=tmp_path / "whole", extractor=extractor)
    columns = ["train_loss", "validation_loss", "validation_identity"]
    assert resumed.metrics[columns].equals(whole.metrics[columns])
    for name, tensor in whole.model.state_dict().items():
        assert np.array_equal(tensor, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["report", "residual"])
def test_bf16_gives_the_same_metrics_within_noise(tmp_path, faces, extractor, kind):
    losses = {}
    for name, config in {"plain": _config(), "bf16": _config(precision="bf16")}.items():
        trained = train_face_decoder(faces, config, out=tmp_path / name, kind=kind, extractor=extractor)
        losses[name] = trained.metrics["validation_loss"].to_numpy()
    np.testing.assert_allclose(losses["bf16"], losses["plain"], atol=0.01)
    assert not np.array_equal(losses["bf16"], losses["plain"])


def test_fine_tuning_goes_on_from_the_given_decoder(tmp_path, faces, extractor):
    first = train_face_decoder(faces, _config(epochs=1), out=tmp_path / "a", extractor=extractor)
    slow = _config(epochs=1, learning_rate=1e-6)
    tuned = train_face_decoder(faces, slow, out=tmp_path / "b", extractor=extractor, start=first)
    anew = train_face_decoder(faces, slow, out=tmp_path / "c", extractor=extractor)
    weights = [trained.model.project.weight.detach().numpy() for trained in (first, tuned, anew)]
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-4)
    assert np.abs(weights[2] - weights[0]).max() > 1e-3


def test_features_of_another_extractor_are_refused(tmp_path, faces, extractor):
    other = FaceSet(faces.clip_ids, faces.video_ids, faces.features[:, :100], faces.images)
    with pytest.raises(ConfigError, match=r"128-D features, and these are 100-D.*identity_weight to 0"):
        train_face_decoder(other, _config(), out=tmp_path, extractor=extractor)
    without = _config(identity_weight=0, epochs=1)
    assert (
        train_face_decoder(other, without, out=tmp_path, extractor=extractor).model.feature_dimension == 100
    )
