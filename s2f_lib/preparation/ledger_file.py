"""The ledger's file: its tables, how it is opened, and how another thread reads it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from s2f_lib.errors import DataError
from s2f_lib.sources.clip import ClipRef

PENDING, DONE, REFUSED = "pending", "done", "refused"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clips (
    clip_id TEXT PRIMARY KEY,   -- of a bad row: 'row N'
    position INTEGER UNIQUE,    -- place in the list; NULL for a bad row
    status TEXT NOT NULL,       -- pending, done, refused
    reason TEXT,                -- of a refusal: errors.RefusalReason
    detail TEXT,                -- one line for a person
    shard TEXT,                 -- NULL while a done row waits in the spool
    row_index INTEGER,          -- in its shard
    seconds TEXT,               -- JSON, stage -> seconds
    updated REAL NOT NULL,      -- Unix time
    video_id TEXT, start_s REAL, end_s REAL, x REAL, y REAL, media TEXT, split TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS clips_pending ON clips (position) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS clips_unwritten ON clips (position) WHERE status = 'done' AND shard IS NULL;
CREATE TABLE IF NOT EXISTS spool (position INTEGER PRIMARY KEY, row BLOB NOT NULL);
"""


def open_ledger(path: Path) -> sqlite3.Connection:
    """Open the file, and make what is missing in it; transactions are begun by hand.

    Raises
    ------
    DataError
        The file is not a ledger.
    """
    try:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
        db.executescript(_SCHEMA)
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is not a ledger ({error}): move it away, or give another folder") from None
    return db


def read_pending(path: Path, *, chunk: int = 256) -> Iterator[tuple[int, ClipRef]]:
    """Yield what `Ledger.pending` does, for another thread than the ledger's own.

    It sees what was committed when it reads a chunk, and never goes back.
    """
    with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as db:
        yield from pending_clips(db, chunk)


def pending_clips(db: sqlite3.Connection, chunk: int) -> Iterator[tuple[int, ClipRef]]:
    """Yield the pending clips in order, with their places; reads a chunk at a time."""
    after = -1
    while True:
        rows = db.execute(
            "SELECT position, clip_id, video_id, start_s, end_s, x, y, media, split FROM clips"
            " WHERE status = 'pending' AND position > ? ORDER BY position LIMIT ?",
            (after, chunk),
        ).fetchall()
        if not rows:
            return
        for position, *values, media, split in rows:
            yield position, ClipRef(*values, media=Path(media) if media else None, split=split)
            after = position
