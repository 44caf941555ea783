"""The ledger of a download folder: one row per clip that is finished or refused.

A file gets its final name only after it was checked, so the files show which clips are finished. The ledger
records why the others were refused, and whether a later run may request them again.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import DataError, RefusalReason
from s2f_lib.sources.download.failures import DownloadRefused
from s2f_lib.storage import digest

LEDGER_NAME = "downloads.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS downloads (
    clip_id TEXT PRIMARY KEY,
    file TEXT,                  -- name in the folder; NULL for a refused clip
    size_bytes INTEGER,
    reason TEXT,                -- errors.RefusalReason; NULL for a finished clip
    detail TEXT,                -- one line for the user
    can_retry INTEGER NOT NULL, -- whether the next run requests the clip again
    asked_as TEXT NOT NULL,     -- the settings that decide the outcome
    attempts INTEGER NOT NULL,  -- in the run that wrote the row
    updated REAL NOT NULL       -- Unix time
) WITHOUT ROWID;
"""
_COOKIES_DECIDE = {RefusalReason.AGE_GATED, RefusalReason.PRIVATE}


def request_key(config: DownloadConfig, reason: RefusalReason | None = None) -> str:
    """Return, as text, the settings on which a file or a refusal for `reason` depends.

    They are the mirror, the resolution and, for age-gated and private videos, the cookies. A refusal is final
    only for the same settings.
    """
    settings: list[object] = [config.url_template, config.max_height_px, config.whole_file]
    if reason in _COOKIES_DECIDE and config.cookies is not None:
        from s2f_lib.sources.download.client import read_cookies

        settings.append(digest(read_cookies(config.cookies), length=16))
    return json.dumps(settings)


class DownloadLedger:
    """The ledger of one folder, a SQLite file that is created if needed; several threads may use it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # rows survive a kill, but not a power cut
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} is not a ledger of downloads ({error}): move it away") from None

    def __enter__(self) -> DownloadLedger:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._db.close()

    def done(self, clip_id: str, file: Path, *, config: DownloadConfig, n_attempts: int) -> None:
        """Record a finished file."""
        size = file.stat().st_size
        self._write(clip_id, (file.name, size, None, None, False, request_key(config), n_attempts))

    def refused(self, clip_id: str, refusal: DownloadRefused, *, config: DownloadConfig) -> None:
        """Record why a clip could not be downloaded."""
        row = (None, None, refusal.reason.value, refusal.detail, refusal.can_retry)
        self._write(clip_id, (*row, request_key(config, refusal.reason), refusal.n_attempts))

    def final_refusal(self, clip_id: str, config: DownloadConfig) -> DownloadRefused | None:
        """Return the refusal that is final with these settings; None if the clip may be requested."""
        found = self._rows(
            "SELECT reason, detail, asked_as FROM downloads"
            " WHERE clip_id = ? AND file IS NULL AND NOT can_retry",
            clip_id,
        )
        if not found or found[0][2] != request_key(config, RefusalReason(found[0][0])):
            return None
        return DownloadRefused(RefusalReason(found[0][0]), found[0][1], can_retry=False, n_attempts=0)

    def forget(self, reasons: Collection[RefusalReason]) -> None:
        """Delete the refusals for some reasons, so that their clips are requested again."""
        for reason in reasons:
            self._rows("DELETE FROM downloads WHERE file IS NULL AND reason = ?", reason.value)

    def size_bytes(self, clip_id: str) -> int | None:
        """Return the size of a finished clip's file; None if the clip is not finished."""
        found = self._rows("SELECT size_bytes FROM downloads WHERE clip_id = ?", clip_id)
        return found[0][0] if found else None

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _write(self, clip_id: str, values: tuple[object, ...]) -> None:
        self._rows(
            "INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(clip_id, *values, time.time()),
        )
