"""Reasons of failed downloads, read from the messages of yt-dlp and the answers of servers.

One table maps a message to a reason and to the time of the next attempt. The first row that matches decides,
so special messages come before general ones: "Video unavailable" means that a video was removed, but "Video
unavailable ... in your country" does not.
"""

from __future__ import annotations

import functools
import re
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from s2f_lib.errors import ClipRefused, RefusalReason, StudyError


class Retry(StrEnum):
    """When another attempt may succeed."""

    NOW = "now"  # within seconds: in this run, and in the next
    LATER = "later"  # not within seconds: only in the next run
    NEVER = "never"  # not with these settings


class AttemptFailed(Exception):
    """One attempt failed; `retry_after_s` is the Retry-After of the server in seconds, or None."""

    def __init__(
        self, reason: RefusalReason, retry: Retry, detail: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.reason, self.retry, self.detail, self.retry_after_s = reason, retry, detail, retry_after_s


class DownloadRefused(ClipRefused):
    """A clip could not be downloaded; `can_retry` says whether a later run may succeed."""

    def __init__(self, reason: RefusalReason, detail: str, *, can_retry: bool, n_attempts: int = 1) -> None:
        super().__init__(reason, detail)
        self.can_retry = can_retry
        self.n_attempts = n_attempts

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle passes only positional arguments to an exception; workers of a cluster pickle this one
        make = functools.partial(DownloadRefused, can_retry=self.can_retry, n_attempts=self.n_attempts)
        return make, (self.reason, self.detail)


class LocalFailure(StudyError):
    """This machine failed, not the clip: for example, the disk is full. The run ends."""


_PRIVATE, _REMOVED = RefusalReason.PRIVATE, RefusalReason.REMOVED
_GEO, _AGE = RefusalReason.GEO_BLOCKED, RefusalReason.AGE_GATED
_THROTTLED, _NETWORK, _FORMAT = RefusalReason.THROTTLED, RefusalReason.NETWORK, RefusalReason.FORMAT

# Messages of yt-dlp and of YouTube, in lower case and with straight apostrophes. They come from yt-dlp's
# `extractor/youtube/_video.py`, `extractor/common.py`, `YoutubeDL.py`, `downloader/http.py` and its issues.
_MESSAGES: tuple[tuple[str, RefusalReason, Retry], ...] = (
    # the session or the address is blocked; the clip may exist
    (r"confirm you're not a bot|captcha|rate-limited by youtube|your ip is likely being blocked"
     r"|too many requests|page needs to be reloaded|unusual traffic", _THROTTLED, Retry.LATER),
    # the viewer is not allowed to see the video
    (r"confirm your age|\bage[- ]restricted|inappropriate for some users", _AGE, Retry.NEVER),
    (r"in your country|not available from your location|geo[- ]?restrict", _GEO, Retry.NEVER),
    (r"private video|video is private|members-only|join this channel|requires payment|premium members"
     r"|registered users|granted access to this video|account authentication is required",
     _PRIVATE, Retry.NEVER),
    (r"please sign in|login_required", _THROTTLED, Retry.LATER),  # also shown to a blocked address
    # the video does not exist yet
    (r"premieres in|live event will begin|processing this video|live stream recording is not available"
     r"|is not currently live", _FORMAT, Retry.LATER),
    # the video was removed
    (r"video unavailable|video is unavailable|has been removed|removed by the uploader|no longer available"
     r"|does not exist|account .*terminated|copyright (claim|grounds)|video is not available"
     r"|content isn't available", _REMOVED, Retry.NEVER),
    # the page has no video that can be downloaded
    (r"drm protected|unsupported url|is not a valid url|no media in the page", _FORMAT, Retry.NEVER),
    (r"requested format is not available|no video formats found|failed to extract|unable to extract"
     r"|failed to parse|only images are available", _FORMAT, Retry.LATER),  # a newer yt-dlp may succeed
    # the connection failed
    (r"certificate[_ ]verify[_ ]failed|certificate verification", _NETWORK, Retry.LATER),
    (r"timed? ?out|connection (was )?(reset|refused|aborted|broken)|remote end closed|incompleteread"
     r"|bytes read, \d+ more expected|downloaded \d+ bytes, expected|did not get any data blocks"
     r"|downloaded file is empty"
     r"|name or service not known|temporary failure in name resolution|nodename nor servname"
     r"|getaddrinfo failed|failed to resolve|network is unreachable|no route to host|transporterror"
     r"|broken pipe|\bssl\b|bad status line|eof occurred|ffmpeg exited with code|conflicting range",
     _NETWORK, Retry.NOW),
)  # fmt: skip

_LOCAL = re.compile(
    r"no space left|disk quota|permission denied|read-only file system|too many open files"
    r"|unable to (open for writing|write data|create directory)|ffmpeg (is not installed|could not be found)"
)
# a clip that was refused for one of these reasons may be downloaded later
DOWNLOAD_REASONS = frozenset(reason for _, reason, _ in _MESSAGES)

_HTTP_STATUS = re.compile(r"HTTP Error (\d{3})")
_PREFIX = re.compile(r"^\[[\w:+-]+\] (\S+: )?")  # "[youtube] <id>: "; an id may contain a word of the table


def http_status(message: str) -> int | None:
    """Return the HTTP status in a message of yt-dlp, or None."""
    found = _HTTP_STATUS.search(message)
    return int(found[1]) if found else None


def classify_message(message: str) -> AttemptFailed:
    """Return the failure that a message of yt-dlp reports; raise LocalFailure if this machine failed."""
    line = one_line(message)
    text = _PREFIX.sub("", line).lower().replace("’", "'")  # YouTube writes curly apostrophes
    if _LOCAL.search(text):
        raise LocalFailure(
            f"cannot store downloads: {line}; correct this and run again, no finished clip is lost"
        )
    if status := http_status(message):
        return classify_status(status, detail=line)
    for pattern, reason, retry in _MESSAGES:
        if re.search(pattern, text):
            return AttemptFailed(reason, retry, line)
    return AttemptFailed(_FORMAT, Retry.LATER, line)  # unknown message: a newer yt-dlp may succeed


def classify_status(
    status: int, *, detail: str, youtube: bool = False, redirect_loop: bool = False,
    retry_after_s: float | None = None,
) -> AttemptFailed:  # fmt: skip
    """Return the failure that an HTTP status reports.

    403 has two meanings. YouTube's media servers send it to an IP address that they throttle, and the next
    run often succeeds. Other servers send it for a file that they never serve.
    """
    if redirect_loop or 300 <= status < 400:  # an error of the mirror, which its owner may correct
        return AttemptFailed(_NETWORK, Retry.LATER, detail)
    if status in (429, 503) or (status in (402, 403) and youtube):
        return AttemptFailed(_THROTTLED, Retry.NOW, detail, retry_after_s)
    if status in (408, 425) or status >= 500:
        return AttemptFailed(_NETWORK, Retry.NOW, detail, retry_after_s)
    if status in (404, 410):
        return AttemptFailed(_REMOVED, Retry.NEVER, detail)
    if status in (401, 402, 403, 407):
        return AttemptFailed(_PRIVATE, Retry.NEVER, detail)
    if status == 451:  # unavailable for legal reasons in the country of the request
        return AttemptFailed(_GEO, Retry.NEVER, detail)
    return AttemptFailed(_FORMAT, Retry.NEVER, detail)


def parse_retry_after(value: str | None, *, now_s: float) -> float | None:
    """Return the wait in seconds that a Retry-After header states; None for an invalid or missing header.

    RFC 9110, section 10.2.3, allows a number of seconds or a date. `now_s` is the Unix time.
    """
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value.strip()).timestamp() - now_s)
    except ValueError:
        return None


def one_line(message: str) -> str:
    """Return a message without colours, advice on bug reports and line breaks, cut to 300 characters."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(message))
    text = re.sub(r"; please report this issue on .*", "", text, flags=re.DOTALL)
    text = re.sub(r"^(ERROR:\s*)+", "", " ".join(text.split()))
    return text if len(text) <= 300 else text[:299] + "…"
