"""Downloaded files that are the clip, that are damaged, and that are something else."""

from __future__ import annotations

import pytest

from s2f_lib.sources.clip import ClipRef
from s2f_lib.sources.download.check import check_file
from s2f_lib.sources.download.failures import AttemptFailed

ID = "dQw4w9WgXcQ"


def _check(tmp_path, data, *, start_s=0.0, end_s=2.0, whole_file=True):
    path = tmp_path / "file.mp4"
    path.write_bytes(data)
    clip = ClipRef("c", ID, start_s, end_s, 0.5, 0.5)
    try:
        return check_file(path, clip, whole_file=whole_file), None
    except AttemptFailed as failure:
        return None, failure


def test_check_file_accepts_clip_and_whole_video(tmp_path, make_video):
    assert _check(tmp_path, make_video(2.0)) == (".mp4", None)
    assert _check(tmp_path, make_video(2.0), start_s=30, end_s=32) == (".mp4", None)
    assert _check(tmp_path, make_video(6.0), start_s=3, end_s=5) == (".mp4", None)


def test_check_file_cut_clip_refuses_whole_video(tmp_path, make_video):
    _, failure = _check(tmp_path, make_video(6.0), start_s=3, end_s=5, whole_file=False)
    assert (failure.reason, failure.retry) == ("format", "never")


@pytest.mark.parametrize("faststart", [True, False])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_check_file_half_a_file_is_network(tmp_path, make_video, faststart, share):
    data = make_video(4.0, faststart=faststart)
    _, failure = _check(tmp_path, data[: int(len(data) * share)], end_s=4.0)
    assert (failure.reason, failure.retry) == ("network", "now")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><p>no</p>", "HTML"),
        (b"\n<html><body>no</body></html>", "HTML"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "no decoder"),
        (b"just words, and many of them\n" * 100, "no decoder"),
        (bytes(5000), "no decoder"),
    ],
)
def test_check_file_other_content_is_format(tmp_path, data, said):
    _, failure = _check(tmp_path, data)
    assert (failure.reason, failure.retry) == ("format", "never")
    assert said in failure.detail


def test_check_file_empty_file_is_network(tmp_path):
    _, failure = _check(tmp_path, b"")
    assert (failure.reason, failure.retry) == ("network", "now")


def test_check_file_other_length_is_format(tmp_path, make_video):
    _, failure = _check(tmp_path, make_video(1.0), start_s=10, end_s=12)
    assert (failure.reason, failure.retry) == ("format", "never")
    assert "1.0" in failure.detail
    assert "2.00 s" in failure.detail
