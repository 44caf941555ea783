"""What a download folder has asked for: one row a clip that is done or refused.

The files are the truth about what is done: one stands under its own name only
after it was checked.  The ledger adds why the others are refused, and whether a
later run may ask again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from pathlib import Path

from s2f_lib.config import DownloadConfig
from s2f_lib.errors import DataError, RefusalReason
from s2f_lib.sources.download.failures import DownloadRefused

_SCHEMA = """
CREATE TABLE IF NOT EXISTS downloads (
    clip_id TEXT PRIMARY KEY,
    file TEXT,                  -- name in the folder; NULL: refused
    size_bytes INTEGER,
    reason TEXT,                -- of a refusal: errors.RefusalReason
    detail TEXT,                -- one line for a person
    can_retry INTEGER NOT NULL, -- whether the next run asks again
    asked_as TEXT NOT NULL,     -- the settings that a refusal depends on
    attempts INTEGER NOT NULL,  -- of the run that wrote the row
    updated REAL NOT NULL       -- Unix time
) WITHOUT ROWID;
"""


_COOKIES_DECIDE = {RefusalReason.AGE_GATED, RefusalReason.PRIVATE}


def request_key(config: DownloadConfig, reason: RefusalReason | None = None) -> str:
    """Return the settings that a file, or a refusal for this reason, depends on, as text.

    A video that one mirror does not have, another may; one behind an age gate comes with cookies,
    with fresh ones where those of last time had expired.

    Raises
    ------
    MissingFileError
        The cookies decide, and their file is not there or is none.
    """
    settings: list[object] = [config.url_template, config.max_height_px, config.whole_file]
    if reason in _COOKIES_DECIDE and config.cookies is not None:
        from s2f_lib.sources.download.client import read_cookies

        settings.append(hashlib.sha256(read_cookies(config.cookies).encode()).hexdigest()[:16])
    return json.dumps(settings)


class DownloadLedger:
    """The ledger of one folder; threads may share it.

    Parameters
    ----------
    path
        The SQLite file; made where it is not there.

    Raises
    ------
    DataError
        The file is not a ledger.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # survives a kill; a power cut costs some rows
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise DataError(f"{path} is not a ledger of downloads ({error}): move it away") from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> DownloadLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def done(self, clip_id: str, file: Path, *, config: DownloadConfig, n_attempts: int) -> None:
        """Enter a finished file."""
        size = file.stat().st_size
        self._enter(clip_id, (file.name, size, None, None, False, request_key(config), n_attempts))

    def refused(self, clip_id: str, refusal: DownloadRefused, *, config: DownloadConfig) -> None:
        """Enter why a clip could not be fetched."""
        row = (None, None, refusal.reason.value, refusal.detail, refusal.can_retry)
        self._enter(clip_id, (*row, request_key(config, refusal.reason), refusal.n_attempts))

    def final_refusal(self, clip_id: str, config: DownloadConfig) -> DownloadRefused | None:
        """Return the refusal that stands for these settings, or None where the clip may be asked for."""
        query = (
            "SELECT reason, detail, asked_as FROM downloads"
            " WHERE clip_id = ? AND file IS NULL AND NOT can_retry"
        )
        with self._lock:
            row = self._db.execute(query, (clip_id,)).fetchone()
        if row is None or row[2] != request_key(config, RefusalReason(row[0])):
            return None
        return DownloadRefused(RefusalReason(row[0]), row[1], can_retry=False, n_attempts=0)

    def size_bytes(self, clip_id: str) -> int | None:
        """Return the size of a finished clip's file, or None."""
        with self._lock:
            query = "SELECT size_bytes FROM downloads WHERE clip_id = ?"
            row = self._db.execute(query, (clip_id,)).fetchone()
        return row[0] if row else None

    def counts(self) -> dict[str, int]:
        """Return the number of clips by outcome: "done", or the reason; the most frequent first."""
        query = "SELECT COALESCE(reason, 'done'), COUNT(*) FROM downloads GROUP BY 1 ORDER BY 2 DESC, 1"
        with self._lock:
            return dict(self._db.execute(query).fetchall())

    def _enter(self, clip_id: str, values: tuple) -> None:
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO downloads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (clip_id, *values, time.time()),
            )
