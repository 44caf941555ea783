"""Why a download failed: the messages of yt-dlp and of servers, told apart.

One table goes from what was said to a reason code and to what a further attempt
may hope for.  The first row that matches counts, so the special ones come before
the general: "Video unavailable" alone is a removed video, followed by "in your
country" it is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from s2f_lib.errors import ClipRefused, RefusalReason, StudyError


class Retry(StrEnum):
    """What a further attempt may hope for."""

    NOW = "now"  # passes by itself: again in this run, and in the next
    LATER = "later"  # not by waiting seconds: the next run asks again
    NEVER = "never"  # final for these settings


class DownloadRefused(ClipRefused):
    """A clip could not be fetched.

    Parameters
    ----------
    reason, detail
        As `ClipRefused`.
    can_retry
        Whether a later run with the same settings may succeed.
    n_attempts
        How often it was asked for.
    """

    def __init__(self, reason: RefusalReason, detail: str, *, can_retry: bool, n_attempts: int = 1) -> None:
        super().__init__(reason, detail)
        self.can_retry = can_retry
        self.n_attempts = n_attempts

    def __reduce__(self):  # an exception is pickled by its arguments alone: workers of a cluster raise it
        return _rebuild, (self.reason, self.detail, self.can_retry, self.n_attempts)


def _rebuild(reason: RefusalReason, detail: str, can_retry: bool, n_attempts: int) -> DownloadRefused:
    return DownloadRefused(reason, detail, can_retry=can_retry, n_attempts=n_attempts)


class LocalFailure(StudyError):
    """This machine failed, not the clip: the disk is full, ffmpeg is missing.  The run stops."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt.

    Attributes
    ----------
    reason
        The code for the ledger.
    retry
        What a further attempt may hope for.
    detail
        One line for a person.
    retry_after_s
        What the server asked to wait, in seconds; None where it did not.
    """

    reason: RefusalReason
    retry: Retry
    detail: str
    retry_after_s: float | None = None


_PRIVATE, _REMOVED = RefusalReason.PRIVATE, RefusalReason.REMOVED
_GEO, _AGE = RefusalReason.GEO_BLOCKED, RefusalReason.AGE_GATED
_THROTTLED, _NETWORK, _FORMAT = RefusalReason.THROTTLED, RefusalReason.NETWORK, RefusalReason.FORMAT

# What yt-dlp says (its extractors pass on YouTube's own words), in lower case with straight
# apostrophes.  Read in yt-dlp's `extractor/youtube/_video.py`, `extractor/common.py`,
# `YoutubeDL.py`, `downloader/http.py` and in its issue threads.
_MESSAGES: tuple[tuple[str, RefusalReason, Retry], ...] = (
    # the session or the address is unwelcome: the clip itself may be fine
    (r"confirm you're not a bot|captcha|rate-limited by youtube|your ip is likely being blocked"
     r"|too many requests|page needs to be reloaded|unusual traffic", _THROTTLED, Retry.LATER),
    # who may see it
    (r"confirm your age|\bage[- ]restricted|inappropriate for some users", _AGE, Retry.NEVER),
    (r"in your country|not available from your location|geo[- ]?restrict", _GEO, Retry.NEVER),
    (r"private video|video is private|members-only|join this channel|requires payment|premium members"
     r"|registered users|granted access to this video|account authentication is required",
     _PRIVATE, Retry.NEVER),
    (r"please sign in|login_required", _THROTTLED, Retry.LATER),  # what a blocked address is told, too
    # not there yet
    (r"premieres in|live event will begin|processing this video|live stream recording is not available"
     r"|is not currently live", _FORMAT, Retry.LATER),
    # gone
    (r"video unavailable|video is unavailable|has been removed|removed by the uploader|no longer available"
     r"|does not exist|account .*terminated|copyright (claim|grounds)|video is not available"
     r"|content isn't available", _REMOVED, Retry.NEVER),
    # there, but not as a video that we can take
    (r"drm protected|unsupported url|is not a valid url|no media in the page", _FORMAT, Retry.NEVER),
    (r"requested format is not available|no video formats found|failed to extract|unable to extract"
     r"|failed to parse|only images are available", _FORMAT, Retry.LATER),  # a newer yt-dlp may know how
    # the way there
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
_HTTP_STATUS = re.compile(r"HTTP Error (\d{3})")
_PREFIX = re.compile(r"^\[[\w:+-]+\] (\S+: )?")  # "[youtube] <id>: ": an id may spell anything


def http_status(message: str) -> int | None:
    """Return the HTTP status that a message of yt-dlp names, or None."""
    found = _HTTP_STATUS.search(message)
    return int(found[1]) if found else None


def classify_message(message: str) -> Failure:
    """Tell the reason from what yt-dlp said.

    Parameters
    ----------
    message
        The text of a `yt_dlp.utils.DownloadError` or `ExtractorError`.

    Raises
    ------
    LocalFailure
        This machine is at fault: going on would refuse every clip for it.
    """
    line = one_line(message)
    said = _PREFIX.sub("", line).lower().replace("’", "'")  # YouTube writes the curly apostrophe
    if _LOCAL.search(said):
        raise LocalFailure(f"cannot store downloads: {line}; mend this and run again, nothing done is lost")
    if status := http_status(message):
        return classify_status(status, detail=line)
    for pattern, reason, retry in _MESSAGES:
        if re.search(pattern, said):
            return Failure(reason, retry, line)
    return Failure(_FORMAT, Retry.LATER, line)  # unknown words: a later yt-dlp may do better


def classify_status(
    status: int, *, detail: str, youtube: bool = False, redirect_loop: bool = False,
    retry_after_s: float | None = None,
) -> Failure:  # fmt: skip
    """Tell the reason from an HTTP status.

    403 is two things.  YouTube's media servers answer it where an address or a link is
    throttled, and the next run often succeeds; any other server means that it will not
    hand the file over.

    Parameters
    ----------
    status
        The status code, 300 to 599.
    detail
        One line for a person.
    youtube
        Whether YouTube's own servers said it.
    redirect_loop
        Whether the client gave up on redirects; a mirror's mistake, which may be mended.
    retry_after_s
        What the server asked to wait.
    """
    if redirect_loop or 300 <= status < 400:
        return Failure(_NETWORK, Retry.LATER, detail)
    if status in (429, 503):
        return Failure(_THROTTLED, Retry.NOW, detail, retry_after_s)
    if status in (402, 403) and youtube:
        return Failure(_THROTTLED, Retry.NOW, detail, retry_after_s)
    if status in (408, 425) or status >= 500:
        return Failure(_NETWORK, Retry.NOW, detail, retry_after_s)
    if status in (404, 410):
        return Failure(_REMOVED, Retry.NEVER, detail)
    if status in (401, 402, 403, 407):
        return Failure(_PRIVATE, Retry.NEVER, detail)
    if status == 451:  # unavailable for legal reasons, where the request comes from
        return Failure(_GEO, Retry.NEVER, detail)
    return Failure(_FORMAT, Retry.NEVER, detail)


def parse_retry_after(value: str | None, *, now_s: float) -> float | None:
    """Return a Retry-After header in seconds from now (RFC 9110 section 10.2.3: seconds or a date).

    Parameters
    ----------
    value
        The header, or None.
    now_s
        The present, Unix time.
    """
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value.strip()).timestamp() - now_s)
    except ValueError:
        return None


def one_line(message: str, *, limit: int = 300) -> str:
    """Return a message without colours, bug-report advice and line breaks, cut to a length."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(message))
    text = re.sub(r"; please report this issue on .*", "", text, flags=re.DOTALL)
    text = re.sub(r"^(ERROR:\s*)+", "", " ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
