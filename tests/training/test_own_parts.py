"""Arrays and custom encoders, losses and decoders that are passed to the training directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from s2f_lib.config import DecoderTrainingConfig, SpectrogramConfig, TrainingConfig
from s2f_lib.errors import CheckpointError, ConfigError, InputError
from s2f_lib.faces.face_set import FaceSet
from s2f_lib.training import VoiceArrays, load_decoder, load_encoder, train_face_decoder, train_voice_encoder

SPECTROGRAM = SpectrogramConfig(duration_s=0.5, max_frequency_hz=1000)
TRAINING = TrainingConfig(epochs=1, batch_size=4, validation_share=0.0, device="cpu")


class MeanSpectrum(nn.Module):
    """An encoder: the mean spectrum and a linear layer."""

    fingerprint = "1"

    def __init__(self, *, feature_dimension: int, spectrogram: SpectrogramConfig) -> None:
        super().__init__()
        self.last = nn.Linear(2 * spectrogram.n_bins, feature_dimension)

    def forward(self, spectrogram):
        return self.last(spectrogram.mean(dim=2).flatten(1))

    def output_bias(self):
        return self.last.bias


class Blocks(nn.Module):
    """A decoder that predicts 2x2 colours."""

    def __init__(self, *, feature_dimension: int) -> None:
        super().__init__()
        self.colours = nn.Linear(feature_dimension, 12)

    def forward(self, features):
        return nn.functional.interpolate(self.colours(features).sigmoid().unflatten(1, (3, 2, 2)), size=224)


def squared(face, speech):
    return (face - speech).square().mean()


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return rng.uniform(-0.5, 0.5, (8, 8_000)).astype(np.float32), rng.normal(size=(8, 4))


@pytest.fixture(scope="module")
def trained(arrays, tmp_path_factory):
    return _train(arrays, str(tmp_path_factory.mktemp("models")))


def _train(arrays, parent, *, loss=squared, encoder=MeanSpectrum, **options):
    settings = {"spectrogram": SPECTROGRAM, "training": TRAINING} | options
    return train_voice_encoder(arrays, parent=parent, loss=loss, encoder=encoder, **settings)


def test_custom_parts_with_one_fingerprint_are_trained_once(arrays, trained, monkeypatch):
    parent, epochs = trained.folder.parent, []
    again = _train(arrays, parent, progress=lambda *epoch: epochs.append(epoch))
    assert (again.folder, epochs) == (trained.folder, [])

    def progress(epoch, n_epochs, row):
        epochs.append((epoch, n_epochs, sorted(row)[:1]))

    def scaled(face, speech):
        return 2 * squared(face, speech)

    scaled.name, scaled.fingerprint = "squared", "2"
    folders = {trained.folder, _train(arrays, parent, loss=scaled, progress=progress).folder}
    assert epochs == [(1, 1, ["epoch"])]
    monkeypatch.setattr(MeanSpectrum, "fingerprint", "2")
    folders.add(_train(arrays, parent).folder)
    assert len(folders) == 3
    assert {folder.name.rpartition("-")[0] for folder in folders} == {"encoder-squared"}


def test_custom_loss_with_in_batch_and_parameters_learns(arrays, tmp_path):
    class Scale(nn.Module):
        name, fingerprint, in_batch = "scale", "1", True

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, face, speech):
            return (face - self.scale * speech).square().mean()

    training = TRAINING.with_(epochs=20, learning_rate=0.05)
    losses = _train(arrays, tmp_path, loss=Scale, training=training).metrics["train_loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]


def test_load_encoder_gives_the_trained_model(arrays, trained, monkeypatch):
    loaded = load_encoder(str(trained.folder), encoder=MeanSpectrum)
    np.testing.assert_array_equal(loaded.predict(arrays[0]), trained.predict(arrays[0]))
    assert (loaded.loss, loaded.spectrogram, len(loaded.metrics)) == ("squared", SPECTROGRAM, 1)
    with pytest.raises(CheckpointError, match="custom encoder 'MeanSpectrum', which is unknown here"):
        load_encoder(trained.folder)
    with pytest.raises(CheckpointError, match="does not hold a trained voice encoder"):
        load_encoder(trained.folder.parent)
    with pytest.raises(CheckpointError, match="does not hold a trained face decoder"):
        load_decoder(trained.folder)
    monkeypatch.setattr(MeanSpectrum, "fingerprint", "2")
    with pytest.raises(CheckpointError, match=r"another version of the encoder .*fingerprint 1, now 2"):
        load_encoder(trained.folder, encoder=MeanSpectrum)


def test_predict_resamples_and_takes_every_form_of_audio(trained):
    time_s = np.arange(8_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time_s)
    expected = trained.predict(tone)
    assert expected.shape == (1, 4)
    assert expected.dtype == np.float32
    forms = [tone[None], torch.from_numpy(tone), (tone * 32_768).round().astype(np.int16), tone[::-1][::-1]]
    for form in forms:
        np.testing.assert_allclose(trained.predict(form, 16_000), expected, atol=1e-6)
    slower = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 44_100)
    np.testing.assert_allclose(trained.predict(slower, 44_100), expected, atol=0.01)
    assert np.abs(trained.predict(slower, 16_000) - expected).max() > 0.05  # the rate matters
    short = trained.predict(tone[:4_000])
    np.testing.assert_allclose(short, trained.predict(np.tile(tone[:4_000], 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("audio", "rate_hz", "message"),
    [
        (
            np.zeros((8_000, 2)),
            16_000,
            r"audio has the shape \(8000, 2\), clips of 2 samples: expected \(sam",
        ),
        (np.zeros((1, 2, 8_000)), 16_000, r"audio has the shape \(1, 2, 8000\): expected \(n, samples\)"),
        (np.full(8_000, 20_000.0), 16_000, r"audio has values up to 2e\+04: expected .* in \[-1, 1\]"),
        (np.full(8_000, np.nan), 16_000, "audio contains numbers that are not finite"),
        (np.zeros(8_000, np.int64), 16_000, "audio is int64: expected int16, or floating point"),
        (np.zeros(8_000), 0, "sample_rate_hz is 0: expected 1,000 to 1,000,000 Hz"),
    ],
)
def test_predict_bad_audio_names_the_argument(trained, audio, rate_hz, message):
    with pytest.raises(InputError, match=message):
        trained.predict(audio, rate_hz)


def test_voice_arrays_bad_input_names_the_argument(arrays):
    audio, features = arrays
    with pytest.raises(InputError, match=r"features have the shape \(3, 4\), audio \(8, 8000\)"):
        VoiceArrays(audio, features[:3])
    with pytest.raises(InputError, match="video_ids holds 2 names for 8 clips"):
        VoiceArrays(audio, features, video_ids=["a", "b"])
    with pytest.raises(InputError, match="features contain numbers that are not finite"):
        VoiceArrays(audio, features * np.inf)


def test_custom_parts_of_a_wrong_form_are_refused(arrays, tmp_path):
    def per_clip(face, speech):
        return (face - speech).square().mean(dim=1)

    with pytest.raises(InputError, match=r"loss 'per_clip' returned the shape \(4,\): expected a scalar"):
        _train(arrays, tmp_path, loss=per_clip)
    with pytest.raises(InputError, match="has no name: give it an attribute `name`"):
        _train(arrays, tmp_path, loss=nn.L1Loss())
    with pytest.raises(ConfigError, match="encoder Blocks does not take the arguments"):
        _train(arrays, tmp_path, encoder=Blocks)


def test_custom_decoder_is_trained_and_loaded(tmp_path):
    ids, faces = [str(index) for index in range(4)], np.zeros((4, 224, 224, 3), np.uint8)
    data = FaceSet(ids, ids, np.eye(4, dtype=np.float32), faces)
    training = DecoderTrainingConfig(
        epochs=1, batch_size=2, validation_share=0, identity_weight=0, device="cpu"
    )
    trained = train_face_decoder(data, decoder=Blocks, training=training, parent=str(tmp_path))
    assert trained.folder.name.startswith("decoder-Blocks-")
    features = torch.eye(4)
    for model in (load_decoder(trained.folder, decoder=Blocks).model, trained.at_epochs()[1]):
        torch.testing.assert_close(model(features), trained.model(features))
