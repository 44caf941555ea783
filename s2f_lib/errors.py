"""The errors of the study, under one base.

Every message says what was given, what was expected and what to do. The command line prints only the
message. Its exit status is 2 for `InputError` and 1 for the others.
"""

from __future__ import annotations

import multiprocessing
import sys
from enum import StrEnum

#: Marks log lines that name a clip: `logger.warning(..., extra=NAMES_CLIP)`. The terminal shows them; pages
#: of the book do not, because an id leads to a real person.
NAMES_CLIP = {"names_clip": True}


class StudyError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(StudyError, ValueError):
    """An input of the user is wrong: a file, a row, a key or a value."""


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or out of range."""


class MissingFileError(InputError, FileNotFoundError):
    """A file that the user has to provide does not exist."""

    def __str__(self) -> str:  # OSError would print the errno
        return " ".join(str(argument) for argument in self.args)


class MissingExtraError(InputError, ModuleNotFoundError):
    """A library of an extra is not installed.

    Parameters
    ----------
    module
        Module that was not found.
    extra
        Extra of the distribution that installs it.
    """

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(module, extra)
        self.name, self.extra = module, extra

    def __str__(self) -> str:
        return (
            f"{self.name} is not installed; it comes with the extra {self.extra}: "
            f'pip install "s2f_lib[{self.extra}]"'
        )


class CheckpointError(StudyError):
    """A checkpoint is truncated, of another program, or does not fit the model."""


class DataError(StudyError):
    """Prepared data is missing, damaged or inconsistent."""


class TrainingError(StudyError):
    """Training cannot continue: the loss is not finite, or there is no training data."""


class ChapterError(StudyError):
    """A chapter's notebook failed; the message names the cell."""


class RefusalReason(StrEnum):
    """Reason codes of the ledger: why a clip was refused."""

    MEDIA_MISSING = "media-missing"  # there is no file for the id
    NOT_MEDIA = "not-media"  # no decoder opens the file
    TRUNCATED = "truncated"  # the file ends or breaks before the clip's seconds
    NO_VIDEO = "no-video"
    NO_AUDIO = "no-audio"
    SILENT = "silent"  # the audio track is digital silence
    TOO_SHORT = "too-short"  # there is less audio than the minimum
    NO_FACE = "no-face"
    SEVERAL_FACES = "several-faces"
    FACE_TOO_SMALL = "face-too-small"
    CRASHED = "crashed"  # a decoder or detector failed unexpectedly
    BAD_ROW = "bad-row"  # a malformed row of the clip list
    # reasons of a failed download, from yt-dlp's messages
    PRIVATE = "private"
    REMOVED = "removed"
    GEO_BLOCKED = "geo-blocked"
    AGE_GATED = "age-gated"
    THROTTLED = "throttled"
    NETWORK = "network"
    FORMAT = "format"


def check_main_process(caller: str) -> None:
    """Raise an `InputError` in a child process of `multiprocessing`.

    A function that starts processes calls it first. Started processes import the script of their parent; a
    script without a main guard then calls the function again, in each of them.
    """
    # while a child imports the script, `parent_process` is still None, but the script's module has this name
    imports_script = sys.modules["__mp_main__"].__name__ == "__mp_main__"
    if imports_script or multiprocessing.parent_process() is not None:
        raise InputError(
            f"{caller} was called in a child process. It starts processes of its own, and they import the "
            f'script that calls it: write `if __name__ == "__main__":` above the call of {caller}'
        )


class ClipRefused(StudyError):
    """One clip cannot be used; the other clips are not affected.

    Parameters
    ----------
    reason
        Code that is stored in the ledger.
    detail
        One line for the user: what was found and what was expected.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
