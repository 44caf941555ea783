"""The generated files: real media, tables in AVSpeech's form, the same for every number of processes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from s2f_lib.config import SyntheticConfig
from s2f_lib.errors import InputError
from s2f_lib.sources.synthetic.clips import SyntheticClips, make_synthetic_clips
from s2f_lib.sources.synthetic.performance import mouth_opening

SMALL = SyntheticConfig(n_train=3, n_test=2, width_px=240, height_px=180, frame_rate_hz=10, duration_s=1.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticClips:
    """Make a small world in this process."""
    return make_synthetic_clips(SMALL, tmp_path_factory.mktemp("world"), workers=1)


def test_make_synthetic_clips_writes_h264_and_aac(made: SyntheticClips) -> None:
    rows = pd.read_csv(made.csv, header=None)
    assert len(rows) == made.n_clips == made.n_made == 5
    for video_id, start_s, end_s in rows[[0, 1, 2]].itertuples(index=False):
        with av.open(str(made.media / f"{video_id}.mp4")) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, float(video.average_rate)) == (240, 180, 10.0)
            assert (audio.rate, audio.channels) == (44_100, 1)
            assert container.duration / 1e6 == pytest.approx(end_s - start_s, abs=0.15)
            assert sum(1 for _ in container.decode(video=0)) == round(10 * (end_s - start_s))
        with av.open(str(made.media / f"{video_id}.mp4")) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert np.sqrt(np.mean(sound**2)) > 0.02


def test_make_synthetic_clips_tables_agree(made: SyntheticClips) -> None:
    rows = pd.read_csv(made.csv, header=None)
    latents, splits = pd.read_parquet(made.root / "latents.parquet"), pd.read_csv(made.root / "splits.csv")
    assert list(rows[0]) == list(latents["video_id"])
    assert rows[[3, 4]].to_numpy().min() > 0.2
    assert rows[[3, 4]].to_numpy().max() < 0.8
    assert list(splits.columns) == ["clip_id", "split"]
    assert list(splits["clip_id"]) == list(latents["clip_id"])
    assert splits["split"].value_counts().to_dict() == {"train": 3, "test": 2}
    rounded = pd.read_csv(made.root / "latents.csv")
    np.testing.assert_allclose(rounded["voice_f0_hz"], latents["voice_f0_hz"], atol=1e-4)


def test_make_synthetic_clips_processes_change_no_byte(made: SyntheticClips, tmp_path: Path) -> None:
    again = make_synthetic_clips(SMALL, tmp_path, workers=2)
    files = sorted(path.relative_to(made.root) for path in made.root.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for name in files:
        if name.suffix != ".parquet":
            assert (made.root / name).read_bytes() == (tmp_path / name).read_bytes(), name
    pd.testing.assert_frame_equal(
        pd.read_parquet(made.root / "latents.parquet"), pd.read_parquet(again.root / "latents.parquet")
    )


def test_make_synthetic_clips_after_a_kill_resumes(made: SyntheticClips) -> None:
    files = sorted(made.media.iterdir())
    before = {path: path.read_bytes() for path in files}
    files[0].unlink()
    (made.root / "splits.csv").unlink()
    kept = files[1].stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    again = make_synthetic_clips(SMALL, made.root, workers=1, progress=lambda *state: seen.append(state))
    assert again.n_made == 1
    assert seen == [(4, 5), (5, 5)]
    assert files[1].stat().st_mtime_ns == kept
    assert files[0].read_bytes() == before[files[0]]
    assert (made.root / "splits.csv").is_file()
    assert make_synthetic_clips(SMALL, made.root, workers=1).n_made == 0


def test_make_synthetic_clips_accepts_only_more_people(made: SyntheticClips) -> None:
    grown = make_synthetic_clips(SMALL.with_(n_test=3), made.root, workers=1)
    assert (grown.n_clips, grown.n_made) == (6, 1)
    with pytest.raises(InputError, match="other settings"):
        make_synthetic_clips(SMALL.with_(rho=0.1), made.root, workers=1)
    make_synthetic_clips(SMALL, made.root, workers=1)  # restores the tables


def test_make_synthetic_clips_bad_settings_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="even width"):
        make_synthetic_clips(SMALL.with_(width_px=241), tmp_path)
    with pytest.raises(InputError, match="workers is -1"):
        make_synthetic_clips(SMALL, tmp_path, workers=-1)


def test_mouth_opening_follows_the_loudness() -> None:
    loud = np.full(44_100, 0.5, np.float32)
    loud[:22_050] = 0
    np.testing.assert_allclose(
        mouth_opening(loud, n_frames=10, frame_rate_hz=10), [0] * 5 + [0.8] * 5, atol=1e-6
    )
