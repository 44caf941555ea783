"""The public pairs as shards, which every chapter can read."""

from __future__ import annotations

import logging

import numpy as np

from s2f_lib.config import load_config
from s2f_lib.study import Study
from tests.pairs_folder import avspeech_name, write_pairs


def test_prepare_pairs_shards_reused_until_something_changes(tmp_path, monkeypatch, caplog):
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
    # complete shards are kept, a damaged one is written again
    shard = next(study.prepared_dir.glob("shard-*.arrow"))
    before = shard.stat().st_mtime_ns
    again = Study.open("pairs", run_dir=tmp_path / "run", settings=settings)
    assert again.preparation == summary
    assert shard.stat().st_mtime_ns == before
    shard.write_bytes(b"damaged")
    repaired = Study.open("pairs", run_dir=tmp_path / "run", settings=settings)
    assert np.array_equal(repaired.clips.features, clips.features)
    # another split, or an edited split file: the shards are written again
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
