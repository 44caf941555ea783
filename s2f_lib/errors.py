"""The errors of the study, under one base.

Every message says what was given, what was expected, and what to do.  The
command line shows the message alone: exit status 2 for `InputError`, 1 for
the others.
"""

from __future__ import annotations

from enum import StrEnum

#: Marks log lines that name a clip: `logger.warning(..., extra=NAMES_CLIP)`.  They are for people in
#: front of a terminal; pages do not print them, for ids lead to real people.
NAMES_CLIP = {"names_clip": True}


class StudyError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(StudyError, ValueError):
    """Something that the user gave is wrong: a file, a row, a key, a value."""


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or out of range."""


class MissingFileError(InputError, FileNotFoundError):
    """A file that the user has to provide is not there."""

    def __str__(self) -> str:  # OSError would print the errno form
        return " ".join(str(argument) for argument in self.args)


class CheckpointError(StudyError):
    """A checkpoint is truncated, foreign or does not fit the model."""


class DataError(StudyError):
    """Prepared data is missing, damaged or does not fit together."""


class TrainingError(StudyError):
    """Training cannot go on: the loss is not finite, or there is nothing to train on."""


class ChapterError(StudyError):
    """A chapter's notebook failed; the message names the cell."""


class RefusalReason(StrEnum):
    """Why a clip was refused: the reason codes of the ledger."""

    MEDIA_MISSING = "media-missing"  # no file for the id
    NOT_MEDIA = "not-media"  # a file that no decoder opens
    TRUNCATED = "truncated"  # opens, then ends or breaks before the clip's seconds
    NO_VIDEO = "no-video"
    NO_AUDIO = "no-audio"
    SILENT = "silent"  # an audio track of digital silence
    TOO_SHORT = "too-short"  # less audio than the least that is useful
    NO_FACE = "no-face"
    SEVERAL_FACES = "several-faces"
    FACE_TOO_SMALL = "face-too-small"
    CRASHED = "crashed"  # a decoder or detector failed on it unexpectedly
    BAD_ROW = "bad-row"  # a malformed row of the clip list
    # download (yt-dlp's messages, told apart)
    PRIVATE = "private"
    REMOVED = "removed"
    GEO_BLOCKED = "geo-blocked"
    AGE_GATED = "age-gated"
    THROTTLED = "throttled"
    NETWORK = "network"
    FORMAT = "format"


class ClipRefused(StudyError):
    """One clip cannot be used; the others go on.

    Parameters
    ----------
    reason
        The code that goes into the ledger.
    detail
        One line for a person: what was found and what was expected.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
