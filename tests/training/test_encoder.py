"""The voice encoder's training, on clips whose pitch says something about the face."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from s2f_lib.config import LossName
from s2f_lib.errors import ConfigError, MissingFileError
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.training.encoder import predict_features, train_voice_encoder

from .conftest import tiny_config, write_clips

AUGMENTATION = {
    "training__augmentation.gain_db": 6,
    "training__augmentation.noise_snr_db": [10, 30],
    "training__augmentation.time_masks": 1,
    "training__augmentation.random_crop": True,
}


@pytest.fixture(scope="module")
def clips(prepared):
    return read_prepared(prepared, split="train")


def test_overfits_one_batch(tmp_path, clips):
    few = clips.subset(np.arange(8))
    config = tiny_config(training__epochs=40, training__validation_share=0.0, training__learning_rate=0.01)
    trained = train_voice_encoder(few, config, loss="l2", out=tmp_path)
    losses = trained.metrics["train_loss"]
    assert losses.iloc[-1] < 0.1 * losses.iloc[0]


@pytest.mark.parametrize("loss", ["info_nce", "contrastive"])
def test_losses_over_the_batch_train(tmp_path, clips, loss):
    trained = train_voice_encoder(clips, tiny_config(training__epochs=4), loss=loss, out=tmp_path)
    assert trained.metrics["train_loss"].iloc[-1] < trained.metrics["train_loss"].iloc[0]
    assert np.isfinite(trained.metrics.to_numpy()).all()


def _losses(out, clips, loss: LossName = "info_nce", **changes) -> list[float]:
    losses: list[float] = []
    config = tiny_config(**changes)
    train_voice_encoder(clips, config, loss=loss, out=out, after_step=lambda _, loss: losses.append(loss))
    return losses


def test_augmented_training_does_not_depend_on_threads_and_resumes(tmp_path, clips):
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
        train_voice_encoder(clips, config, loss="info_nce", out=tmp_path / "e", after_step=kill)
    resumed = _losses(tmp_path / "e", clips, training__checkpoint_every_steps=1, **AUGMENTATION)
    assert resumed == changed[1:]


def test_accumulated_parts_give_the_whole_batch_where_no_batch_norm_is_between(tmp_path):
    from torch import nn

    from s2f_lib.config import LoopConfig
    from s2f_lib.training.data import PairedArrays
    from s2f_lib.training.loop import Task, fit

    def run(parts: int) -> list[float]:
        torch.manual_seed(0)
        inputs = torch.randn(16, 3).numpy()
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        losses: list[float] = []
        config = LoopConfig(
            epochs=3, batch_size=8, accumulation_steps=parts, clip_norm=0.1, device="cpu", optimizer="sgd"
        )
        task = Task(
            model,
            PairedArrays(inputs),
            lambda network, batch: network(batch[0]).square().mean(),
            lambda _: {},
        )
        fit(
            task,
            config,
            out=tmp_path / str(parts),
            digest="d",
            after_step=lambda _, loss: losses.append(loss),
        )
        return losses

    assert run(4) == pytest.approx(run(1), rel=1e-5)


def test_early_stopping_keeps_the_best_model(tmp_path, clips):
    # a learning rate that makes validation worse soon
    config = tiny_config(training__epochs=30, training__patience=2, training__learning_rate=0.05)
    trained = train_voice_encoder(clips, config, loss="l2", out=tmp_path)
    losses = trained.metrics["validation_loss"]
    assert len(losses) < 30
    assert losses.idxmin() == len(losses) - 3
    from s2f_lib.training.data import validation_mask

    held_out = clips.subset(validation_mask(clips.video_ids, share=0.2, seed=0))
    predicted = predict_features(trained.model, held_out.audio, config.spectrogram)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (predicted, held_out.features)]
    assert ((unit[0] - unit[1]) ** 2).sum(axis=1).mean() == pytest.approx(losses.min(), rel=1e-4)


def test_moving_average_is_what_is_served(tmp_path, clips):
    config = tiny_config(training__ema_decay=0.5)
    averaged = train_voice_encoder(clips, config, loss="l1", out=tmp_path / "a")
    plain = train_voice_encoder(clips, tiny_config(), loss="l1", out=tmp_path / "b")
    assert list(averaged.metrics["train_loss"]) == list(plain.metrics["train_loss"])
    difference = averaged.model.head[0].weight - plain.model.head[0].weight
    assert 0 < difference.abs().max() < 0.05


def test_channels_last_and_bf16_stay_near_the_plain_run(tmp_path, clips):
    plain = _losses(tmp_path / "a", clips, "l1")
    channels_last = _losses(tmp_path / "b", clips, "l1", training__channels_last=True)
    half = _losses(tmp_path / "c", clips, "l1", training__precision="bf16")
    # the first step: later ones differ by more than rounding, for AdamW starts by each gradient's sign
    assert channels_last[0] == pytest.approx(plain[0], abs=2e-3)
    assert half[0] == pytest.approx(plain[0], abs=0.05)
    assert half[0] != plain[0]
    assert np.isfinite(channels_last + half).all()


def test_tensorboard_gets_the_metrics_of_each_epoch(tmp_path, clips):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(training__tensorboard=True)
    trained = train_voice_encoder(clips, config, loss="l1", out=tmp_path)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    written = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert [step for step, _ in written] == [1, 2]
    assert [value for _, value in written] == pytest.approx(list(trained.metrics["train_loss"]), rel=1e-6)


def test_tensorboard_that_is_not_installed_is_named(tmp_path, clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    with pytest.raises(ConfigError, match=r"pip install \"s2f_lib\[tensorboard\]\""):
        train_voice_encoder(clips, tiny_config(training__tensorboard=True), loss="l1", out=tmp_path)


def test_speech2face_loss_needs_its_parts(tmp_path, clips):
    with pytest.raises(MissingFileError, match=r"features.weights is not set"):
        train_voice_encoder(clips, tiny_config(), loss="speech2face", out=tmp_path)


def test_speech2face_loss_trains_with_vgg_face_and_a_decoder(tmp_path):
    from safetensors.torch import save_model

    from s2f_lib.faces.vgg_face.extractor import random_vgg_face
    from s2f_lib.models.face_decoder import FaceDecoder

    weights = tmp_path / "vgg_face.safetensors"
    save_model(random_vgg_face(0), str(weights))
    clips = read_prepared(write_clips(tmp_path, n=16, dimension=4096), split="train")
    config = tiny_config(features__extractor="vgg_face", features__weights=str(weights), training__epochs=3)
    decoder = FaceDecoder(config.decoder, feature_dimension=4096)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    trained = train_voice_encoder(clips, config, loss="speech2face", out=tmp_path / "out", decoder=decoder)
    assert trained.metrics["train_loss"].iloc[-1] < trained.metrics["train_loss"].iloc[0]
    for name, tensor in decoder.state_dict().items():  # it judges, and learns nothing
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="train the decoder first"):
        train_voice_encoder(clips, config, loss="speech2face", out=tmp_path / "none")


def test_face_axes_start_at_the_mean_and_train(tmp_path, clips):
    config = tiny_config(encoder__face_axes=True, training__epochs=6)
    trained = train_voice_encoder(clips, config, loss="info_nce", out=tmp_path)
    assert trained.metrics["train_loss"].iloc[-1] < trained.metrics["train_loss"].iloc[0]
    again = train_voice_encoder(clips, config, loss="info_nce", out=tmp_path)  # loaded, axes and all
    settings = config.spectrogram
    np.testing.assert_array_equal(
        predict_features(again.model, clips.audio, settings),
        predict_features(trained.model, clips.audio, settings),
    )
    unit = clips.features / np.linalg.norm(clips.features, axis=1, keepdims=True)
    mean = again.model.face_axes.mean.numpy()
    assert mean @ unit.mean(axis=0) / np.linalg.norm(mean) / np.linalg.norm(unit.mean(axis=0)) > 0.99


def test_windows_are_averaged_over_the_clip(clips):
    from s2f_lib.models.voice_encoder import VoiceEncoder

    config = tiny_config()
    torch.manual_seed(0)
    model = VoiceEncoder(config.encoder, feature_dimension=8, spectrogram=config.spectrogram)
    n = config.spectrogram.n_samples
    spare = clips.audio.shape[1] - n
    one = [predict_features(model, clips.audio[:, start:], config.spectrogram) for start in (0, spare)]
    one = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in one]
    both = predict_features(model, clips.audio, config.spectrogram, windows=2)
    np.testing.assert_allclose(both, (one[0] + one[1]) / 2, atol=1e-6)
    exact = predict_features(model, clips.audio[:, :n], config.spectrogram, windows=2)  # nothing to spare
    np.testing.assert_allclose(exact, predict_features(model, clips.audio, config.spectrogram), atol=1e-6)
