"""Voices and faces of the public pairs, and the shards that are made of them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import soundfile
from PIL import Image

from s2f_lib.config import load_config
from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.pairs.faces import extract_faces
from s2f_lib.pairs.media import align_image, read_image, read_voice
from s2f_lib.sources.public_pairs import find_pairs
from s2f_lib.study import Study
from tests.pairs_folder import RATE_HZ, avspeech_name, face, voice, write_pairs


def test_a_voice_is_read_bit_for_bit_and_repeated_where_it_is_short(tmp_path):
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
def test_voices_that_cannot_be_used_are_refused(tmp_path, samples, reason):
    soundfile.write(tmp_path / "voice.wav", samples, RATE_HZ, subtype="PCM_16")
    with pytest.raises(ClipRefused) as refused:
        read_voice(tmp_path / "voice.wav")
    assert refused.value.reason == reason


def test_files_that_are_no_media_are_refused(tmp_path):
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


def test_a_picture_without_a_face_gets_a_fixed_box():
    plain = np.full((224, 224, 3), 120, np.uint8)
    chip, found = align_image(plain, size_px=150)
    assert chip.shape == (150, 150, 3)
    assert not found
    again, _ = align_image(plain, size_px=150)
    assert np.array_equal(chip, again)


def test_faces_are_described_once_and_mirrored(tmp_path):
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
    assert len(list(cache.rglob("*.npy"))) == 3
    again = extract_faces([mirror, *paths], cache=cache)
    assert np.array_equal(again.upright, first.upright[[2, 0, 1]])
    assert not extract_faces(paths, mirrored=False).mirrored.any()


def test_real_faces_are_found_in_most_pictures(shared_data):
    pairs = find_pairs(shared_data / "speech2face_pairs").pairs[:20]
    found = [align_image(read_image(pair.face), size_px=150)[1] for pair in pairs]
    assert sum(found) >= 17


def test_pairs_become_shards_for_every_chapter(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("S2F_WORKSPACE", str(tmp_path / "work"))
    root = tmp_path / "pairs"
    write_pairs(root, avspeech=10)
    (root / "avspeech_res" / "Wav" / f"{avspeech_name(7)}.flac").write_bytes(b"fLaC, or so it says")
    (root / "avspeech_res" / "Face_ori" / f"{avspeech_name(4)}.jpg").unlink()
    settings = {"source.pairs.root": root}
    with caplog.at_level(logging.WARNING):
        study = Study.open("pairs", run_dir=tmp_path / "run", settings=settings)
        summary = study.preparation
    assert (summary.n_clips, summary.n_done, summary.n_refused) == (10, 8, 2)
    assert summary.by_reason["media-missing"] == 1
    assert avspeech_name(7) in caplog.text
    clips = study.clips
    assert set(clips.splits) == {"train", "test"}
    assert clips.features.shape == (8, 128)
    assert clips.crops([0]).shape == (1, 224, 224, 3)
    assert clips.audio.shape == (8, 96_000)
    # what is there is not made again, and what is damaged is
    shard = next(study.prepared_dir.glob("shard-*.arrow"))
    before = shard.stat().st_mtime_ns
    again = Study.open("pairs", run_dir=tmp_path / "run", settings=settings)
    assert again.preparation == summary
    assert shard.stat().st_mtime_ns == before
    shard.write_bytes(b"damaged")
    mended = Study.open("pairs", run_dir=tmp_path / "run", settings=settings)
    assert np.array_equal(mended.clips.features, clips.features)
    # another split, drawn or stored in a file that is edited, and another file: made anew
    (tmp_path / "split.csv").write_text(
        "clip_id,split\n"
        + "".join(f"{name},train\n" for name in clips.clip_ids[:5])
        + "".join(f"{name},test\n" for name in clips.clip_ids[5:])
    )
    stored = settings | {"source.pairs.split": tmp_path / "split.csv"}
    first = Study.open("pairs", run_dir=tmp_path / "run", settings=stored)
    assert list(first.clips.splits).count("test") == 3
    text = (tmp_path / "split.csv").read_text()
    (tmp_path / "split.csv").write_text(
        text.replace(f"{clips.clip_ids[4]},train", f"{clips.clip_ids[4]},test")
    )
    second = Study.open("pairs", run_dir=tmp_path / "run", settings=stored)
    assert second.prepared_dir == first.prepared_dir
    assert list(second.clips.splits).count("test") == 4
    assert load_config("pairs", settings).source.kind == "pairs"
