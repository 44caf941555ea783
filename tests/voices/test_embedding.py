"""Voice embeddings: the pretrained networks against other implementations, and the cache."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from s2f_lib.errors import DataError, MissingFileError
from s2f_lib.voices import pretrained
from s2f_lib.voices.embedding import AcousticEmbedding, as_waves, embed_voices
from s2f_lib.voices.pretrained import distribution_file, read_checked
from s2f_lib.voices.speaker import SpeakerEmbedding
from s2f_lib.voices.whisper import HEADS, WIDTH, WhisperEmbedding
from tests.pairs_folder import RATE_HZ, voice


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Use one thread, because parallel tests share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whisper():
    """The network, loaded once."""
    return WhisperEmbedding()


@pytest.fixture(scope="module")
def speaker():
    """The network, loaded once."""
    return SpeakerEmbedding()


@pytest.fixture(scope="module")
def sounds():
    """Three voices of 6 s, int16."""
    return np.stack([np.round(voice(i) * 32_767).astype(np.int16) for i in range(3)])


def test_as_waves_repeats_cuts_and_scales_int16():
    short = np.array([[8_192, -16_384]], np.int16)
    waves = as_waves(short)
    assert waves.shape == (1, 96_000)
    assert waves.dtype == np.float32
    assert np.array_equal(waves[0, :4], [0.25, -0.5, 0.25, -0.5])
    assert as_waves(np.ones((2, 100_000))).shape == (2, 96_000)
    with pytest.raises(ValueError, match="at least one sample"):
        as_waves(np.zeros((1, 0)))


def test_whisper_log_mel_equals_librosa(whisper, sounds):
    import librosa

    wave = as_waves(sounds[:1])[0]
    power = librosa.feature.melspectrogram(
        y=wave, sr=RATE_HZ, n_fft=400, hop_length=160, n_mels=80, pad_mode="reflect"
    )[:, :-1]
    log = np.log10(np.maximum(power, 1e-10))
    expected = (np.maximum(log, log.max() - 8) + 4) / 4
    found = whisper.log_mel(torch.from_numpy(wave[None]))[0].numpy()
    assert found.shape == (80, 600)
    assert np.abs(found - expected).max() < 2e-4


def _torch_layer(weights, name):
    """Return torch's own encoder layer with the same weights, as a second implementation."""
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    own = {
        "self_attn.in_proj_weight": f"{name}/self_attention/linear_0/weight",
        "self_attn.in_proj_bias": f"{name}/self_attention/linear_0/bias",
        "self_attn.out_proj.weight": f"{name}/self_attention/linear_1/weight",
        "self_attn.out_proj.bias": f"{name}/self_attention/linear_1/bias",
        "norm1.weight": f"{name}/self_attention/layer_norm/gamma",
        "norm1.bias": f"{name}/self_attention/layer_norm/beta",
        "linear1.weight": f"{name}/ffn/linear_0/weight",
        "linear1.bias": f"{name}/ffn/linear_0/bias",
        "linear2.weight": f"{name}/ffn/linear_1/weight",
        "linear2.bias": f"{name}/ffn/linear_1/bias",
        "norm2.weight": f"{name}/ffn/layer_norm/gamma",
        "norm2.bias": f"{name}/ffn/layer_norm/beta",
    }
    layer.load_state_dict({key: weights[value] for key, value in own.items()})
    return layer.train()  # training mode avoids torch's fused path; there is no dropout


def test_whisper_encoder_layers_equal_torch(whisper, sounds):
    with torch.no_grad():
        states, output = whisper.encode(whisper.log_mel(torch.from_numpy(as_waves(sounds[:1]))))
        assert len(states) == 7
        assert states[0].shape == (1, 300, WIDTH)
        for i in range(6):
            expected = _torch_layer(whisper._weights, f"encoder/layer_{i}")(states[i])
            scale = expected.abs().max()
            assert (states[i + 1] - expected).abs().max() < 1e-4 * scale
    assert output.mean(dim=2).abs().max() < 1.0  # normalised: no dimension dominates


def test_whisper_decoder_equals_torch_and_is_causal(whisper):
    generator = torch.Generator().manual_seed(0)
    encoded = torch.randn(1, 20, WIDTH, generator=generator)
    tokens = torch.tensor([[50_258, 50_259, 50_359]])
    with torch.no_grad():
        whole, _ = whisper.decode(encoded, tokens)
        first, _ = whisper.decode(encoded, tokens[:, :1])
        x = whisper._weights["decoder/embeddings/weight"][tokens].float()
        x = x + whisper._weights["decoder/position_encodings/encodings"][:3]
        layer = "decoder/layer_0"
        attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        weights = whisper._weights
        attention.load_state_dict(
            {
                "in_proj_weight": torch.cat(
                    [weights[f"{layer}/attention/linear_{i}/weight"] for i in (0, 1)]
                ),
                "in_proj_bias": torch.cat([weights[f"{layer}/attention/linear_{i}/bias"] for i in (0, 1)]),
                "out_proj.weight": weights[f"{layer}/attention/linear_2/weight"],
                "out_proj.bias": weights[f"{layer}/attention/linear_2/bias"],
            }
        )
        x = whisper._self_attention(x, layer, causal=True)
        query = whisper._layer_norm(x, f"{layer}/attention/layer_norm")
        x = x + attention(query, encoded, encoded)[0]
        expected = whisper._feed_forward(x, layer)
    assert (whole[0] - expected[:, -1]).abs().max() < 1e-3
    # the state of the first token must not depend on later tokens
    with torch.no_grad():
        other, _ = whisper.decode(encoded, torch.tensor([[50_258, 50_300, 50_359]])[:, :1])
    assert torch.equal(first[5], other[5])


def test_whisper_embeds_each_sound_independently(whisper, sounds):
    together = whisper(sounds[:2])
    single = whisper(sounds[1:2])
    assert together.shape == (2, whisper.dimension)
    assert together.dtype == np.float32
    assert np.abs(together[1] - single[0]).max() < 1e-4
    assert np.abs(together[0] - together[1]).max() > 0.1
    assert sorted(part.start for part in whisper.blocks.values()) == list(range(0, 4096, 512))
    quiet = whisper(np.zeros((1, 16_000), np.int16))
    assert np.isfinite(quiet).all()
    assert whisper(sounds[:0]).shape == (0, 4096)


def test_speaker_embedding_norm_and_loudness_invariance(speaker, sounds):
    embeddings = speaker(sounds)
    assert embeddings.shape == (3, 256)
    assert (embeddings >= 0).all()
    assert (np.linalg.norm(embeddings, axis=1) <= 1 + 1e-5).all()
    assert (np.linalg.norm(embeddings, axis=1) > 0.5).all()
    quiet = as_waves(sounds[:1]) * 0.01  # both are far below the level that quiet sounds are raised to
    quieter = quiet * 0.1
    assert np.abs(speaker(quiet) - speaker(quieter)).max() < 1e-3
    cosine = embeddings @ embeddings.T / np.outer(*[np.linalg.norm(embeddings, axis=1)] * 2)
    halves = speaker(np.concatenate([sounds[:1, :48_000], sounds[:1, 48_000:]]))
    same = halves[0] @ halves[1] / np.linalg.norm(halves[0]) / np.linalg.norm(halves[1])
    assert same > cosine[0, 1]
    assert np.isfinite(speaker(np.zeros((1, 16_000), np.int16))).all()


def test_speaker_embedding_equals_lstm_by_hand(speaker, sounds):
    """One window, computed gate by gate, does not rely on torch's LSTM kernel."""
    from s2f_lib.voices.speaker import _mel

    window = torch.from_numpy(_mel(as_waves(sounds[:1])[0])[:160])  # (160, 40)
    x = window
    for layer in range(3):
        weights = {key: getattr(speaker._lstm, f"{key}_l{layer}") for key in ("weight_ih", "weight_hh")}
        bias = getattr(speaker._lstm, f"bias_ih_l{layer}") + getattr(speaker._lstm, f"bias_hh_l{layer}")
        h, c, outputs = torch.zeros(256), torch.zeros(256), []
        with torch.no_grad():
            for row in x:
                i, f, g, o = (weights["weight_ih"] @ row + weights["weight_hh"] @ h + bias).split(256)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
        x = torch.stack(outputs)
    with torch.no_grad():
        raw = torch.relu(speaker._linear(x[-1]))
    expected = (raw / raw.norm()).numpy()
    from s2f_lib.voices.speaker import _without_onednn

    with torch.no_grad(), _without_onednn():
        hidden = speaker._lstm(window[None])[1][0][-1, 0]
        found = torch.relu(speaker._linear(hidden))
    assert np.abs((found / found.norm()).numpy() - expected).max() < 1e-5


def test_speaker_embedding_with_all_threads_ends():
    """Run in another process, which is stopped after two minutes: oneDNN's LSTM can hang."""
    program = (
        "import numpy as np; from s2f_lib.voices.speaker import SpeakerEmbedding; "
        "print(SpeakerEmbedding()(np.ones((2, 96000), np.int16)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "(2, 256)"


def test_pretrained_damaged_or_missing_files_raise(tmp_path, monkeypatch):
    weights = distribution_file("resemblyzer", "pretrained.pt")
    damaged = tmp_path / "pretrained.pt"
    data = bytearray(weights.read_bytes())
    data[1_000] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(DataError, match="damaged, or of another version"):
        read_checked([damaged], "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e")
    with pytest.raises(MissingFileError, match="no-such-distribution, which is not installed"):
        distribution_file("no-such-distribution", "weights.bin")
    with pytest.raises(MissingFileError, match=r"holds no file other\.bin"):
        distribution_file("resemblyzer", "other.bin")
    assert "pretrained" in pretrained.INSTALL


class _Counting(AcousticEmbedding):
    """Count the embedded sounds."""

    n_embedded = 0

    def __call__(self, audio):
        self.n_embedded += len(audio)
        return super().__call__(audio)


def test_embed_voices_cache_by_content_repairs_damage(tmp_path, sounds, caplog):
    extractor = _Counting()
    first = embed_voices(extractor, sounds, cache=tmp_path)
    assert extractor.n_embedded == 3
    assert np.array_equal(embed_voices(extractor, sounds[::-1], cache=tmp_path), first[::-1])
    assert extractor.n_embedded == 3
    changed = sounds.copy()
    changed[0, 0] += 1
    embed_voices(extractor, changed, cache=tmp_path)
    assert extractor.n_embedded == 4
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 4
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].write_bytes(b"")
    np.savez(files[2], array=np.full(extractor.dimension, np.nan, np.float32))
    with caplog.at_level(logging.WARNING):
        again = embed_voices(extractor, np.concatenate([sounds, changed[:1]]), cache=tmp_path)
    assert extractor.n_embedded == 7
    assert np.array_equal(again[:3], first)
    assert caplog.text.count("damaged") == 3
    without = embed_voices(extractor, sounds[:1])
    assert np.array_equal(without, first[:1])


def test_acoustic_embedding_ignores_loudness(sounds):
    extractor = AcousticEmbedding()
    loud = as_waves(sounds[:1])
    assert np.abs(extractor(loud) - extractor(loud * 0.5))[0, :40].max() < 0.2
    assert np.abs(extractor(sounds[:1]) - extractor(sounds[1:2])).max() > 0.3
