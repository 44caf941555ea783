"""Messages of yt-dlp and answers of servers: which reason they give."""

# ruff: noqa: E501 - messages are not wrapped

from __future__ import annotations

import pickle

import pytest

from s2f_lib.errors import ClipRefused, RefusalReason
from s2f_lib.sources.download.failures import (
    DownloadRefused,
    LocalFailure,
    classify_message,
    classify_status,
    one_line,
    parse_retry_after,
)

ID = "dQw4w9WgXcQ"
HINT = (
    "Use --cookies-from-browser or --cookies for the authentication. See  "
    "https://github.com/yt-dlp/yt-dlp/wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to manually pass cookies"
)
BUG = (
    "; please report this issue on  https://github.com/yt-dlp/yt-dlp/issues?q= , filling out the appropriate"
)

# Messages as yt-dlp prints them; YouTube's own messages keep their curly apostrophes.
MESSAGES = [
    ("Private video. Sign in if you've been granted access to this video. " + HINT, "private", "never"),
    ("Join this channel to get access to members-only content like this video, and other exclusive perks.",
     "private", "never"),
    ("This video is only available to Music Premium members", "private", "never"),
    ("Video unavailable", "removed", "never"),
    ("Video unavailable. This video is no longer available because the YouTube account associated with this "
     "video has been terminated.", "removed", "never"),
    ("This video has been removed by the uploader", "removed", "never"),
    ("This video has been removed for violating YouTube's policy on hate speech.", "removed", "never"),
    ("Video unavailable. This video is no longer available due to a copyright claim by SME", "removed", "never"),
    ("Video unavailable. The uploader has not made this video available in your country", "geo-blocked", "never"),
    ("Video unavailable. This video contains content from SME, who has blocked it in your country on copyright "
     "grounds", "geo-blocked", "never"),
    ("This video is not available from your location due to geo restriction", "geo-blocked", "never"),
    ("Sign in to confirm your age. This video may be inappropriate for some users. " + HINT, "age-gated", "never"),
    ("Sign in to confirm you’re not a bot. " + HINT, "throttled", "later"),
    ("Video unavailable. This content isn’t available, try again later. The current session has been "
     "rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep`", "throttled", "later"),
    ("Video unavailable. YouTube is requiring a captcha challenge before playback", "throttled", "later"),
    ("Unable to download webpage: HTTP Error 429: Too Many Requests (caused by <HTTPError 429: Too Many Requests>)",
     "throttled", "now"),
    ("Unable to download API page: HTTP Error 503: Service Unavailable", "throttled", "now"),
    ("Unable to download webpage: HTTP Error 404: Not Found (caused by <HTTPError 404: Not Found>)", "removed",
     "never"),
    ("Premieres in 3 hours", "format", "later"),
    ("This video is DRM protected", "format", "never"),
    ("Requested format is not available. Use --list-formats for a list of available formats", "format", "later"),
    ("No video formats found!" + BUG, "format", "later"),
    ("Failed to extract any player response" + BUG, "format", "later"),
    ("Unable to download webpage: <urllib3.connection.HTTPSConnection object at 0x7f>: Failed to resolve "
     "'www.youtube.com' ([Errno -3] Temporary failure in name resolution)", "network", "now"),
    ("Unable to download webpage: [Errno 104] Connection reset by peer", "network", "now"),
    ("Unable to download webpage: ('Connection aborted.', RemoteDisconnected('Remote end closed connection "
     "without response'))", "network", "now"),
    ("unable to download video data: The read operation timed out", "network", "now"),
    ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", "network", "later"),
    ("an unknown message", "format", "later"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason", "retry"), MESSAGES, ids=[row[0][:40] for row in MESSAGES])
def test_classify_message_of_youtube(message, reason, retry):
    failure = classify_message(f"\x1b[0;31mERROR:\x1b[0m [youtube] {ID}: {message}")
    assert (failure.reason, failure.retry) == (reason, retry)
    assert "\x1b" not in failure.detail
    assert "please report" not in failure.detail


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("\r[download] Got error: 40777 bytes read, 40777 more expected", "network"),
        ("\r[download] Got error: HTTPSConnectionPool(host='127.0.0.1', port=1): Read timed out.", "network"),
        ("Downloaded 10 bytes, expected 20 bytes", "network"),
        ("Did not get any data blocks", "network"),
        ("ffmpeg exited with code 146", "network"),
        ("[generic] Unable to download webpage: [Errno 111] Connection refused", "network"),
        ("Unsupported URL: http://127.0.0.1/a.html", "format"),
    ],
)
def test_classify_message_of_the_downloaders(message, reason):
    assert classify_message(f"ERROR: {message}").reason == reason


def test_classify_message_ignores_the_video_id():
    assert classify_message("ERROR: [youtube] drm_SSL-404: Video unavailable").reason == "removed"
    assert classify_message("ERROR: [youtube] timed_outAB: Private video").reason == "private"


@pytest.mark.parametrize(
    "message",
    [
        "unable to write data: [Errno 28] No space left on device",
        "unable to open for writing: [Errno 13] Permission denied: '/a.mp4.part'",
    ],
)
def test_classify_message_local_failure_is_raised(message):
    with pytest.raises(LocalFailure, match="no finished clip is lost"):
        classify_message(f"ERROR: {message}")


@pytest.mark.parametrize(
    ("status", "youtube", "reason", "retry"),
    [
        (429, False, "throttled", "now"),
        (503, False, "throttled", "now"),
        (403, True, "throttled", "now"),  # googlevideo throttles with 403
        (403, False, "private", "never"),  # a mirror that never serves the file
        (401, False, "private", "never"),
        (404, False, "removed", "never"),
        (410, False, "removed", "never"),
        (451, False, "geo-blocked", "never"),
        (400, False, "format", "never"),
        (500, False, "network", "now"),
        (504, False, "network", "now"),
        (408, False, "network", "now"),
    ],
)
def test_classify_status(status, youtube, reason, retry):
    failure = classify_status(status, detail="d", youtube=youtube)
    assert (failure.reason, failure.retry) == (reason, retry)


def test_classify_status_redirect_loop_is_for_next_run():
    failure = classify_status(302, detail="d", redirect_loop=True)
    assert (failure.reason, failure.retry) == ("network", "later")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),  # now is 100 s after the epoch
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),  # past
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_parse_retry_after_accepts_seconds_and_date(header, seconds):
    assert parse_retry_after(header, now_s=100.0) == seconds


def test_one_line_is_one_short_line():
    assert one_line("ERROR: a\n  b\x1b[0m") == "a b"
    assert len(one_line("x" * 1000)) == 300


def test_download_refused_survives_pickling():
    """A worker of a cluster raises it in another process."""
    refusal = DownloadRefused(RefusalReason.NETWORK, "cut", can_retry=True, n_attempts=3)
    back = pickle.loads(pickle.dumps(refusal))
    assert isinstance(back, ClipRefused)
    assert (back.reason, back.detail, back.can_retry, back.n_attempts) == ("network", "cut", True, 3)
