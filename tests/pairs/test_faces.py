"""Voices and faces of the public pairs, and the features of the faces."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from PIL import Image

from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.pairs.faces import align_image, extract_faces, read_image, read_voice
from s2f_lib.sources.public_pairs import find_pairs
from tests.pairs_folder import RATE_HZ, face, voice


def test_read_voice_short_file_exact_and_repeated(tmp_path):
    samples = np.round(voice(1, duration_s=2.0) * 32_767).astype(np.int16)
    for ending in (".wav", ".flac"):
        path = tmp_path / f"voice{ending}"
        soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")
        audio, n_samples = read_voice(path)
        assert (audio.shape, audio.dtype, n_samples) == ((96_000,), np.int16, 32_000)
        assert np.array_equal(audio[:32_000], samples)
        assert np.array_equal(audio[64_000:], samples)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(32_000, np.int16), RefusalReason.SILENT),
        (np.full(3_000, 900, np.int16), RefusalReason.TOO_SHORT),
    ],
)
def test_read_voice_silent_or_short_file_refused(tmp_path, samples, reason):
    soundfile.write(tmp_path / "voice.wav", samples, RATE_HZ, subtype="PCM_16")
    with pytest.raises(ClipRefused) as refused:
        read_voice(tmp_path / "voice.wav")
    assert refused.value.reason == reason


def test_read_voice_and_image_damaged_files_refused(tmp_path):
    (tmp_path / "voice.wav").write_bytes(b"no sound at all")
    with pytest.raises(ClipRefused) as refused:
        read_voice(tmp_path / "voice.wav")
    assert refused.value.reason == RefusalReason.NOT_MEDIA
    face(1).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    for name in ("voice.wav", "half.jpg"):
        with pytest.raises(ClipRefused) as refused:
            read_image(tmp_path / name)
        assert refused.value.reason == RefusalReason.NOT_MEDIA
    Image.new("RGB", (4, 4)).save(tmp_path / "tiny.png")
    with pytest.raises(ClipRefused, match="4 px wide"):
        read_image(tmp_path / "tiny.png")


def test_align_image_without_a_face_uses_the_fixed_box():
    plain = np.full((224, 224, 3), 120, np.uint8)
    chip, found = align_image(plain, size_px=150)
    assert chip.shape == (150, 150, 3)
    assert not found
    again, _ = align_image(plain, size_px=150)
    assert np.array_equal(chip, again)


def test_extract_faces_cached_and_mirrored(tmp_path):
    paths = []
    for number in range(2):
        paths.append(tmp_path / f"{number}.png")
        face(number).save(paths[-1])
    mirror = tmp_path / "mirror.png"
    face(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirror)
    cache = tmp_path / "cache"
    first = extract_faces([*paths, mirror], cache=cache)
    assert first.upright.shape == (3, 128)
    assert np.allclose(first.mirrored[0], first.upright[2], atol=1e-5)
    assert np.allclose(first.upright[0], first.mirrored[2], atol=1e-5)
    assert np.abs(first.upright[0] - first.upright[1]).max() > 0.01
    assert len(list(cache.rglob("*.npz"))) == 3
    again = extract_faces([mirror, *paths], cache=cache)
    assert np.array_equal(again.upright, first.upright[[2, 0, 1]])
    assert not extract_faces(paths, mirrored=False).mirrored.any()


def test_align_image_finds_most_real_faces(shared_data):
    pairs = find_pairs(shared_data / "speech2face_pairs").pairs[:20]
    found = [align_image(read_image(pair.face), size_px=150)[1] for pair in pairs]
    assert sum(found) >= 17
