"""The pipeline: the same rows with any number of workers, and after kills and losses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest

from s2f_lib.config import FeatureConfig, PreparationConfig, Settings
from s2f_lib.errors import InputError
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.preparation.shards import PreparedClips, read_prepared
from s2f_lib.sources.avspeech import load_clips

N_GOOD = 14  # in the list, next to a text file, a missing file and a bad row


def _settings(**changes) -> dict[str, Settings]:
    settings = {
        "detector": "torch",
        "detection_width_px": 320,
        "frame_positions": (0.5,),
        "clips_per_shard": 5,
        "workers": 1,
        "audio_s": 2.0,
    }
    return {"preparation": PreparationConfig(**(settings | changes)), "features": FeatureConfig()}


@pytest.fixture(scope="module")
def source(tmp_path_factory, media_writer, portrait_drawer, tone_maker) -> Path:
    """A folder with clips.csv and media/: 14 different clips, and three rows that are refused."""
    folder = tmp_path_factory.mktemp("source")
    media = folder / "media"
    media.mkdir()
    rows = []
    for number in range(N_GOOD):
        video_id = f"good{number:07d}"
        media_writer(
            media / f"{video_id}.mp4",
            duration_s=1.5,
            image=portrait_drawer(((130 + 4 * number, 120),)),
            sound=tone_maker(1.5, frequency_hz=300 + 20 * number),
        )
        rows.append(f"{video_id},0.0,1.5,0.5,0.5")
    (media / "textfile000.mp4").write_text("not a film")
    rows[6:6] = ["textfile000,0.0,1.5,0.5,0.5", "notthere000,0.0,1.5,0.5,0.5", "id,too,short"]
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


def _clips(source: Path):
    return load_clips(source / "clips.csv", source / "media", test_share=0.3)


def _assert_same(first: PreparedClips, second: PreparedClips) -> None:
    assert first.clip_ids == second.clip_ids
    assert first.splits == second.splits
    np.testing.assert_array_equal(first.audio, second.audio)
    np.testing.assert_array_equal(first.features, second.features)
    assert list(first.crops_jpeg) == list(second.crops_jpeg)
    assert first.to_pandas().equals(second.to_pandas())


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    """An uninterrupted run in one process: its folder, summary and progress."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    calls = []
    summary = prepare(_clips(source), out, progress=lambda *counts: calls.append(counts), **_settings())
    return out, summary, calls


def test_prepare_every_clip_is_done_or_has_a_reason(prepared):
    out, summary, calls = prepared
    assert (summary.n_clips, summary.n_done, summary.n_refused) == (17, 14, 3)
    assert summary.by_reason == {"bad-row": 1, "media-missing": 1, "not-media": 1}
    assert summary.table().values.tolist()[:2] == [["in the list", 17, 1.0], ["prepared", 14, 14 / 17]]
    assert set(summary.stages()["stage"]) == {"decode", "detect", "align", "features"}
    assert calls[0] == (1, 17, 1)  # the bad row is known from the start
    assert calls[-1] == (17, 17, 3)
    refusals = read_prepared(out).refusals().set_index("clip_id")
    assert refusals.loc["row 9", "detail"].startswith("row 9: 3 columns")
    assert "textfile000.mp4" in refusals.loc["textfile000_000.000000-001.500000", "detail"]
    assert len(refusals) == 3


def test_prepare_rows_are_in_the_order_of_the_list(prepared, source):
    clips = read_prepared(prepared[0])
    assert clips.video_ids == [f"good{number:07d}" for number in range(N_GOOD)]
    listed = {clip.clip_id: clip.split for clip in _clips(source) if hasattr(clip, "clip_id")}
    assert clips.splits == [listed[clip_id] for clip_id in clips.clip_ids]
    assert set(clips.splits) == {"train", "test"}
    names = sorted(path.name for path in prepared[0].glob("*.arrow"))
    assert len(names) == 4  # positions 0-4, 5-9 (with both refused), 10-14, 15
    assert clips.audio.shape == (14, 32_000)
    assert clips.features.shape == (14, 128)
    assert clips.provenance["features"]["extractor"] == "dlib_resnet"
    # the tone of clip n is at 300 + 20 n Hz, so each row holds its own sound
    spectrum = np.abs(np.fft.rfft(clips.audio[:, :16_000], axis=1))
    np.testing.assert_allclose(spectrum.argmax(1), 300 + 20 * np.arange(14), atol=2)
    lefts = clips.to_pandas()["box_left"]
    assert lefts.iloc[-1] - lefts.iloc[0] > 40  # and its own face


def test_prepare_again_prepares_only_new_clips(prepared, source, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    again = prepare(_clips(source), out, **_settings(workers=2))  # workers do not decide the rows
    assert (again.n_this_run, again.n_done) == (0, N_GOOD)
    longer = tmp_path / "longer"
    shutil.copytree(source, longer)
    shutil.copy(longer / "media" / "good0000000.mp4", longer / "media" / "notthere000.mp4")
    shutil.copy(longer / "media" / "good0000001.mp4", longer / "media" / "another0000.mp4")
    with (longer / "clips.csv").open("a") as stream:
        stream.write("another0000,0.0,1.5,0.5,0.5\n")
    more = prepare(_clips(longer), out, **_settings())
    # three: the new clip, the file that turned up, and the text file, whose copy may have been mended
    assert (more.n_this_run, more.n_done, more.n_clips) == (3, N_GOOD + 2, 18)
    assert more.by_reason == {"bad-row": 1, "not-media": 1}
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}.items()
    clips = read_prepared(out)
    assert clips.video_ids[N_GOOD:] == ["notthere000", "another0000"]
    np.testing.assert_array_equal(clips.features[0], clips.features[N_GOOD])


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_prepare_writes_a_lost_shard_again(prepared, source, tmp_path, harm):
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    path = out / "shard-00001.arrow"
    whole = path.read_bytes()
    path.unlink() if harm == "deleted" else path.write_bytes(whole[:100])
    summary = prepare(_clips(source), out, **_settings())
    assert summary.n_this_run == 3
    assert path.read_bytes() == whole
    _assert_same(read_prepared(prepared[0]), read_prepared(out))


def test_prepare_damaged_shard_without_media_is_dropped(prepared, source, tmp_path):
    out, without = tmp_path / "out", tmp_path / "without"
    shutil.copytree(prepared[0], out)
    shutil.copytree(source, without)
    for path in (without / "media").glob("good*.mp4"):
        path.unlink()
    damaged = out / "shard-00001.arrow"
    damaged.write_bytes(damaged.read_bytes()[:100])
    summary = prepare(_clips(without), out, **_settings())
    lost = summary.by_reason["media-missing"] - 1  # one was missing from the start
    assert lost >= 1
    assert len(read_prepared(out)) == N_GOOD - lost


def test_prepare_with_other_settings_is_refused(prepared, source):
    with pytest.raises(InputError, match=r"preparation.audio_s is 2.0 there and 3.0 now"):
        prepare(_clips(source), prepared[0], **_settings(audio_s=3.0))


def test_prepare_with_a_killed_worker_gives_the_same_rows(prepared, source, tmp_path):
    killed = []

    def kill_one(finished: int, *_: int) -> None:
        if finished >= 4 and not killed:
            workers = [
                child
                for child in psutil.Process().children()
                if any("multiprocessing.spawn" in argument for argument in child.cmdline())
            ]
            killed.append(workers[0].pid)
            workers[0].kill()

    summary = prepare(_clips(source), tmp_path / "out", progress=kill_one, **_settings(workers=2))
    assert killed
    assert summary.n_done == N_GOOD
    _assert_same(read_prepared(prepared[0]), read_prepared(tmp_path / "out"))


def test_prepare_two_runs_in_a_folder_are_refused(prepared, source):
    refused = []

    def second(*_: int) -> None:
        try:
            prepare([], prepared[0], **_settings())
        except InputError as error:
            refused.append(str(error))

    prepare(_clips(source), prepared[0], progress=second, **_settings())
    assert refused
    assert "another run is at work" in refused[0]


def test_prepare_empty_list_gives_an_empty_summary(tmp_path):
    summary = prepare([], tmp_path / "out", **_settings())
    assert (summary.n_clips, summary.n_done, summary.by_reason) == (0, 0, {})
    assert summary.table()["share"].tolist() == [0, 0]
