"""Addresses of clips."""

from __future__ import annotations

import pytest

from s2f_lib.config import DownloadConfig, load_config
from s2f_lib.errors import ConfigError
from s2f_lib.sources.clip import ClipRef, make_clip_id
from s2f_lib.sources.download.client import clip_url, takes_whole_file
from s2f_lib.sources.download.pacing import clips_per_s, is_youtube


@pytest.mark.parametrize(
    "template", ["http://mirror/{name}.mp4", "http://mirror/all.mp4", "file:///{id}.mp4", "http://mirror/{id"]
)
def test_url_template_without_clip_is_refused(template):
    with pytest.raises(ConfigError, match="url_template"):
        load_config(None, {"source.avspeech.download.url_template": repr(template)})


def test_url_template_decides_address_and_rate():
    video_id = "clip0000000"
    clip = ClipRef(make_clip_id(video_id, 1.5, 4.0), video_id, 1.5, 4.0, 0.5, 0.5)
    assert clip_url(clip, DownloadConfig()) == "https://www.youtube.com/watch?v=clip0000000"
    config = DownloadConfig(url_template="https://m.org/{id}/{start_s}-{end_s}/{clip_id}.webm?a=1")
    assert clip_url(clip, config) == f"https://m.org/clip0000000/1.5-4.0/{clip.clip_id}.webm?a=1"
    assert takes_whole_file(config)
    assert not takes_whole_file(DownloadConfig())
    assert takes_whole_file(DownloadConfig(whole_file=True))
    assert clips_per_s(DownloadConfig()) * 3600 == pytest.approx(300)
    assert clips_per_s(config) == 0
    assert is_youtube(DownloadConfig().url_template)
    assert is_youtube("https://rr1---sn-x.googlevideo.com/videoplayback?id=1")
    assert not is_youtube("https://notyoutube.com/")
