"""Training of the voice encoder on clips whose pitch depends on the face."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from s2f_lib.config import LossName
from s2f_lib.errors import ConfigError, MissingFileError
from s2f_lib.models.face_decoders import FaceDecoder
from s2f_lib.models.inference import predict_features
from s2f_lib.models.voice_encoder import VoiceEncoder
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.training.decoder import TrainedDecoder

from .conftest import tiny_config, train_encoder, write_clips

AUGMENTATION = {
    "training__augmentation.gain_db": 6,
    "training__augmentation.random_crop": True,
}


@pytest.fixture(scope="module")
def clips(prepared):
    return read_prepared(prepared, split="train")


def test_train_encoder_overfits_one_batch(tmp_path, clips):
    few = clips[:8]
    config = tiny_config(training__epochs=40, training__validation_share=0.0, training__learning_rate=0.01)
    trained = train_encoder(few, config, "l2", tmp_path)
    losses = trained.metrics["train_loss"]
    assert losses.iloc[-1] < 0.1 * losses.iloc[0]


@pytest.mark.parametrize("loss", ["info_nce", "contrastive"])
def test_train_encoder_in_batch_losses_decrease(tmp_path, clips, loss):
    trained = train_encoder(clips, tiny_config(training__epochs=4), loss, tmp_path)
    assert trained.metrics["train_loss"].iloc[-1] < trained.metrics["train_loss"].iloc[0]
    assert np.isfinite(trained.metrics.to_numpy()).all()


def _losses(out, clips, loss: LossName = "info_nce", **changes) -> list[float]:
    losses: list[float] = []
    config = tiny_config(**changes)
    train_encoder(clips, config, loss, out, after_step=lambda _, loss: losses.append(loss))
    return losses


def test_train_encoder_augmented_ignores_threads_and_resumes(tmp_path, clips):
    plain = _losses(tmp_path / "plain", clips)
    changed = _losses(tmp_path / "a", clips, **AUGMENTATION)
    assert changed != plain
    assert _losses(tmp_path / "b", clips, training__loader_threads=3, **AUGMENTATION) == changed
    assert _losses(tmp_path / "c", clips, training__loader_threads=0, **AUGMENTATION) == changed
    assert _losses(tmp_path / "d", clips, training__seed=1, **AUGMENTATION) != changed

    def kill(step: int, loss: float) -> None:
        if step == 2:
            raise InterruptedError

    config = tiny_config(training__checkpoint_every_steps=1, **AUGMENTATION)
    with pytest.raises(InterruptedError):
        train_encoder(clips, config, "info_nce", tmp_path / "e", after_step=kill)
    resumed = _losses(tmp_path / "e", clips, training__checkpoint_every_steps=1, **AUGMENTATION)
    assert resumed == changed[1:]


def test_train_encoder_patience_keeps_best_model(tmp_path, clips):
    # a learning rate at which validation soon gets worse
    config = tiny_config(training__epochs=30, training__patience=2, training__learning_rate=0.05)
    trained = train_encoder(clips, config, "l2", tmp_path)
    losses = trained.metrics["validation_loss"]
    assert len(losses) < 30
    assert losses.idxmin() == len(losses) - 3
    from s2f_lib.training.data import validation_mask

    held_out = clips[validation_mask(clips.video_ids, share=0.2, seed=0)]
    predicted = predict_features(trained.model, held_out.audio, config.spectrogram)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (predicted, held_out.features)]
    assert ((unit[0] - unit[1]) ** 2).sum(axis=1).mean() == pytest.approx(losses.min(), rel=1e-4)


def test_train_encoder_channels_last_and_bf16_near_plain(tmp_path, clips):
    plain = _losses(tmp_path / "a", clips, "l1")
    channels_last = _losses(tmp_path / "b", clips, "l1", training__channels_last=True)
    half = _losses(tmp_path / "c", clips, "l1", training__precision="bf16")
    # only the first step: AdamW starts with the sign of each gradient, so later steps differ by more
    assert channels_last[0] == pytest.approx(plain[0], abs=2e-3)
    assert half[0] == pytest.approx(plain[0], abs=0.05)
    assert half[0] != plain[0]
    assert np.isfinite(channels_last + half).all()


def test_train_encoder_speech2face_needs_weights(tmp_path, clips):
    with pytest.raises(MissingFileError, match=r"features.weights is not set"):
        train_encoder(clips, tiny_config(), "speech2face", tmp_path)


def test_train_encoder_speech2face_with_its_parts_learns(tmp_path):
    from safetensors.torch import save_model

    from tests.faces_tools import random_vgg_face

    weights = tmp_path / "vgg_face.safetensors"
    save_model(random_vgg_face(0), str(weights))
    clips = read_prepared(write_clips(tmp_path, n=16, dimension=4096), split="train")
    config = tiny_config(features__extractor="vgg_face", features__weights=str(weights), training__epochs=3)
    decoder = FaceDecoder(config.decoder, feature_dimension=4096)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    options = {"vgg_face_weights": weights, "decoder": TrainedDecoder(decoder, pd.DataFrame(), tmp_path)}
    trained = train_encoder(clips, config, "speech2face", tmp_path / "out", **options)
    assert trained.metrics["train_loss"].iloc[-1] < trained.metrics["train_loss"].iloc[0]
    for name, tensor in decoder.state_dict().items():  # the decoder is not trained
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="train the decoder first"):
        train_encoder(clips, config, "speech2face", tmp_path / "none", vgg_face_weights=weights)


def test_train_encoder_face_axes_start_at_mean_and_learn(tmp_path, clips):
    config = tiny_config(encoder__face_axes=True, training__epochs=6)
    trained = train_encoder(clips, config, "info_nce", tmp_path)
    assert trained.metrics["train_loss"].iloc[-1] < trained.metrics["train_loss"].iloc[0]
    again = train_encoder(clips, config, "info_nce", tmp_path)  # loads the model with its axes
    settings = config.spectrogram
    np.testing.assert_array_equal(
        predict_features(again.model, clips.audio, settings),
        predict_features(trained.model, clips.audio, settings),
    )
    unit = clips.features / np.linalg.norm(clips.features, axis=1, keepdims=True)
    mean = again.model.face_axes.mean.numpy()
    assert mean @ unit.mean(axis=0) / np.linalg.norm(mean) / np.linalg.norm(unit.mean(axis=0)) > 0.99


def test_predict_features_windows_are_averaged(clips):
    config = tiny_config()
    torch.manual_seed(0)
    model = VoiceEncoder(config.encoder, feature_dimension=8, spectrogram=config.spectrogram)
    n = config.spectrogram.n_samples
    spare = clips.audio.shape[1] - n
    one = [predict_features(model, clips.audio[:, start:], config.spectrogram) for start in (0, spare)]
    one = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in one]
    both = predict_features(model, clips.audio, config.spectrogram, windows=2)
    np.testing.assert_allclose(both, (one[0] + one[1]) / 2, atol=1e-6)
    exact = predict_features(
        model, clips.audio[:, :n], config.spectrogram, windows=2
    )  # the clip is one window long
    np.testing.assert_allclose(exact, predict_features(model, clips.audio, config.spectrogram), atol=1e-6)
