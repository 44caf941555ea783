"""Folders of media files: any names, cut files, voices without faces."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from typer.testing import CliRunner

from s2f_lib.cli.main import app
from s2f_lib.config import PreparationConfig, SpectrogramConfig, TrainingConfig, VoiceEncoderConfig
from s2f_lib.errors import DataError, InputError, MissingFileError, TrainingError
from s2f_lib.preparation import prepare, prepare_folder, prepare_recordings, read_prepared
from s2f_lib.sources import list_media, load_clips
from s2f_lib.training import train_voice_encoder

SETTINGS = PreparationConfig(workers=1, detection_width_px=160, frame_positions=(0.5,), audio_s=2.0)
NAMES = ["Zoë, take 1.mp4", "more/Zoe\u0308, take 1.mp4", "v1.2 final.MP4"]


@pytest.fixture(scope="module")
def media(tmp_path_factory, media_writer, tone_maker, small_portrait):
    """Three videos of 2, 2 and 5 s, a voice, a broken video, a text file and hidden files."""
    folder = tmp_path_factory.mktemp("media")
    for name, seconds in zip(NAMES, (2.0, 2.0, 5.0), strict=True):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        media_writer(path, image=small_portrait, sound=tone_maker(seconds), duration_s=seconds)
    media_writer(folder / "voice.mp3", sound=tone_maker(4.5), audio_codec="libmp3lame")
    (folder / "broken.mp4").write_text("not a video")
    (folder / "notes.txt").write_text("not media")
    (folder / ".hidden.mp4").write_text("")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "a.mp4").write_text("")
    return folder


def test_list_media_names_clips_by_path_and_measures_them(media, caplog):
    with caplog.at_level(logging.WARNING, "s2f_lib"):
        clips = list(list_media(media))
    assert [clip.clip_id for clip in clips] == sorted([*NAMES, "broken.mp4", "voice.mp3"])
    assert [clip.video_id for clip in clips] == [clip.clip_id for clip in clips]
    length_s = {clip.clip_id: clip.end_s for clip in clips}
    assert length_s["v1.2 final.MP4"] == pytest.approx(5.0, abs=0.1)
    assert length_s["voice.mp3"] == pytest.approx(4.5, abs=0.1)
    assert length_s["broken.mp4"] == 0
    assert "because they are not media: 1 .txt" in caplog.text


def test_list_media_cuts_long_files_within_one_split(media):
    clips = [clip for clip in list_media(media, max_clip_s=2, test_share=0.5) if clip.video_id == NAMES[2]]
    assert [(clip.start_s, clip.end_s) for clip in clips[:2]] == [(0, 2), (2, 4)]
    assert all(clip.end_s - clip.start_s >= 1 for clip in clips)  # a shorter remainder is left out
    assert len({clip.clip_id for clip in clips}) == len(clips)
    assert len({clip.split for clip in clips}) == 1


def test_list_media_takes_a_stored_split(media, tmp_path):
    csv = tmp_path / "splits.csv"
    # both forms of an umlaut, and a clip of a file
    names = ['"Zoe\u0308, take 1.mp4"', '"more/Zoë, take 1.mp4"', "voice.mp3_000.000000-002.000000"]
    csv.write_text("clip_id,split\n" + "".join(f"{name},test\n" for name in names))
    split_of = {clip.video_id: clip.split for clip in list_media(media, split_csv=csv, max_clip_s=2)}
    assert split_of["Zoë, take 1.mp4"] == split_of[NAMES[1]] == split_of["voice.mp3"] == "test"
    csv.write_text("a.mp4_000.000000-002.000000,test\na.mp4_002.000000-004.000000,train\n")
    with pytest.raises(InputError, match=r"a.mp4 is in train and in test"):
        list_media(media, split_csv=csv)
    csv.write_text("take 1,test\n")
    with pytest.raises(InputError, match=r"splits.csv names no file of .*such as Zoë, take 1.mp4"):
        list_media(media, split_csv=csv)


def test_list_media_refuses_what_it_cannot_list(media, tmp_path):
    with pytest.raises(MissingFileError, match="no media folder"):
        list_media(tmp_path / "none")
    with pytest.raises(InputError, match="holds no video and no sound file"):
        list_media(tmp_path)
    with pytest.raises(InputError, match=r"max_clip_s is 0.5: expected at least 1 s"):
        list_media(media, max_clip_s=0.5)


def test_prepare_folder_prepares_videos_and_refuses_the_rest(media, tmp_path):
    out = tmp_path / "out"
    summary = prepare_folder(str(media), str(out), preparation=SETTINGS)
    assert summary.by_reason == {"no-video": 1, "not-media": 1}
    clips = read_prepared(out)
    assert clips.clip_ids == sorted(NAMES)
    assert clips[0].x is None
    assert clips.to_pandas()["end_s"].tolist() == pytest.approx([2, 2, 5], abs=0.1)
    assert clips.refusals()["clip_id"].tolist() == ["broken.mp4", "voice.mp3"]
    # with retry a refusal is tried again, otherwise not
    assert prepare_folder(media, out, preparation=SETTINGS).n_this_run == 0
    assert prepare_folder(media, out, preparation=SETTINGS, retry=("no-video",)).n_this_run == 1
    with pytest.raises(InputError, match=r"unknown reason of a refusal 'no-vido': did you mean no-video\?"):
        prepare_folder(media, out, preparation=SETTINGS, retry="crashed,no-vido")
    with pytest.raises(InputError, match=r"media.max_clip_s is None there and 2 now"):
        prepare_folder(media, out, preparation=SETTINGS, max_clip_s=2)
    with pytest.raises(InputError, match="faces at-xy needs the speaker's x and y"):
        prepare_folder(media, tmp_path / "other", preparation=SETTINGS.with_(faces="at-xy"))


def test_prepare_at_xy_without_positions_is_an_error(media, tmp_path):
    clips = [clip for clip in list_media(media) if clip.clip_id == NAMES[0]]
    with pytest.raises(InputError, match="needs the speaker's x and y, which these clips lack"):
        prepare(clips, tmp_path, preparation=SETTINGS.with_(faces="at-xy"))


def test_prepare_recordings_prepares_voices_without_faces(media, tmp_path):
    settings = SETTINGS.with_(workers=2)
    summary = prepare_recordings(media, tmp_path, max_clip_s=2, preparation=settings)
    assert summary.by_reason == {"not-media": 1}
    clips = read_prepared(tmp_path)
    assert len(clips) == summary.n_done == 7
    assert not clips.has_faces
    assert np.abs(clips.audio[:]).max(axis=1).min() > 5_000  # each has its part of the tone
    with pytest.raises(DataError, match="recordings without faces"):
        clips.crops()
    with pytest.raises(TrainingError, match="recordings without faces"):
        train_voice_encoder(
            clips,
            spectrogram=SpectrogramConfig(),
            encoder=VoiceEncoderConfig(),
            training=TrainingConfig(),
            loss="l1",
            parent=tmp_path,
        )
    with pytest.raises(InputError, match=r"features.extractor is None there and 'dlib_resnet' now"):
        prepare_folder(media, tmp_path, max_clip_s=2, preparation=settings)


def test_list_with_ids_of_another_form_is_fine_with_media(media, tmp_path):
    csv = tmp_path / "clips.csv"
    csv.write_text("v1.2 final,1,3,0.5,0.5\nv1.2 final.MP4,1,4,0.5,0.5\nvoice,0,1,0.5,0.5\n")
    first, second, missing = load_clips(csv, media)
    assert first.media == second.media == media / "v1.2 final.MP4"
    assert missing.media is None  # a sound file has no face
    assert all(hasattr(row, "message") for row in load_clips(csv, media, youtube_ids=True))


def test_prepare_command_without_a_list(media, tmp_path):
    table = tmp_path / "refused.csv"
    arguments = ["prepare", "--media", str(media), "--out", str(tmp_path / "out"), "--recordings"]
    arguments += ["--max-clip-s", "2", "--refusals", str(table), "--retry", "not-media", "--workers", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert table.read_text().startswith("clip_id,reason,detail\nbroken.mp4,not-media,broken.mp4 (11 bytes)")
    assert len(read_prepared(tmp_path / "out")) == 7
    for options, message in (
        (["--csv", "clips.csv"], "are for a folder without a list"),
        (["--download"], "--download needs a list"),
    ):
        result = CliRunner().invoke(app, arguments + options)
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)
