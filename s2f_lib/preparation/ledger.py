"""The ledger: one row per clip in SQLite, which says that the clip is pending, done, or refused and why.

It is also the queue. The clip list is entered first, and each clip gets a position. Clips are taken in that
order, and a finished row waits in the table `spool` until its block of `clips_per_shard` positions is
finished and written as one shard. So the rows of a shard and their order depend only on the list, not on the
number of workers or on interruptions.
"""

from __future__ import annotations

import difflib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2f_lib.errors import DataError, InputError, MissingFileError, RefusalReason
from s2f_lib.sources.clip import ClipRef

if TYPE_CHECKING:
    import pandas as pd

    from s2f_lib.sources.avspeech import BadRow

LEDGER_NAME = "ledger.sqlite"
PENDING, DONE, REFUSED = "pending", "done", "refused"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS clips (
    clip_id TEXT PRIMARY KEY,   -- 'row N' for a bad row
    position INTEGER UNIQUE,    -- position in the list; NULL for a bad row
    status TEXT NOT NULL,       -- pending, done, refused
    reason TEXT,                -- reason of a refusal: errors.RefusalReason
    detail TEXT,                -- one line for a person
    shard TEXT,                 -- NULL while a done row waits in the spool
    row_index INTEGER,          -- index in the shard
    seconds TEXT,               -- JSON, stage -> seconds
    n_crashes INTEGER NOT NULL DEFAULT 0, -- runs in which the clip crashed
    updated REAL NOT NULL,      -- Unix time
    video_id TEXT, start_s REAL, end_s REAL, x REAL, y REAL, media TEXT, split TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS clips_pending ON clips (position) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS clips_unwritten ON clips (position) WHERE status = 'done' AND shard IS NULL;
CREATE TABLE IF NOT EXISTS spool (position INTEGER PRIMARY KEY, row BLOB NOT NULL);
"""
_MAX_CRASHES = 3  # runs that try a clip that crashes; the machine may be the cause
_STAGES = ("download", "decode", "detect", "align", "features")

Reopen = Callable[[ClipRef, RefusalReason], bool]


class Ledger:
    """A folder's ledger, open for one run.

    Parameters
    ----------
    path
        SQLite file. It is created if needed.
    block_size
        Number of positions per shard. An existing ledger keeps its own.

    Raises
    ------
    DataError
        The file is not a ledger.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> clip = ClipRef("a", "video", 0.0, 2.0, 0.5, 0.5)
    >>> with Ledger(Path(mkdtemp()) / "ledger.sqlite") as ledger:
    ...     ledger.enter([clip])
    ...     ledger.refuse(0, RefusalReason.NO_FACE, "0 faces", seconds={})
    ...     ledger.counts()
    {('refused', 'no-face'): 1}
    """

    def __init__(self, path: Path, *, block_size: int = 256) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)  # transactions are begun by hand
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
            self._db.executescript(_SCHEMA)
            self._add_columns()
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{path} is not a ledger ({error}): move it away, or give another folder"
            ) from None
        self.block_size = int(self.meta_default("block_size", str(block_size)))

    def _add_columns(self) -> None:
        """Add the columns that ledgers of earlier versions lack."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(clips)")}
        if "n_crashes" not in columns:
            self._db.execute("ALTER TABLE clips ADD COLUMN n_crashes INTEGER NOT NULL DEFAULT 0")

    def close(self) -> None:
        """Close the file; its write-ahead log is merged into it."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def meta_default(self, key: str, value: str) -> str:
        """Return a stored fact about the whole folder; if it is missing, store the value first."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        return self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]

    def check_same(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse a folder that was prepared with other settings.

        Parameters
        ----------
        settings
            Section to key to value. A new ledger stores them.

        Raises
        ------
        InputError
            The stored settings differ; the message names each difference.
        """
        stored = json.loads(self.meta_default("settings", json.dumps(settings)))
        differing = [  # a setting that an earlier version did not have counts as None
            f"{section}.{key} is {stored.get(section, {}).get(key)!r} there and {value!r} now"
            for section, values in json.loads(json.dumps(settings)).items()
            for key, value in values.items()
            if stored.get(section, {}).get(key) != value
        ]
        if differing:
            raise InputError(
                f"{self.path.parent} was prepared with other settings: {'; '.join(differing)}. "
                "Give another folder, or remove that one"
            )

    # -- entering the list ---------------------------------------------------

    def enter(
        self,
        clips: Iterable[ClipRef | BadRow],
        *,
        reopen: Reopen | None = None,
        retry: Collection[RefusalReason] = (),
    ) -> None:
        """Enter a clip list; clips that are entered already keep their position and status.

        A pending clip takes the media and split of the list. A refused clip becomes pending again, at a new
        position, if its media appeared or were replaced since, if it crashed in fewer than three runs, if its
        reason is in `retry`, or if `reopen` returns true. Bad rows of an earlier list are removed.

        Parameters
        ----------
        clips
            Clip list, read once.
        reopen
            Function of a refused clip and its reason that says whether the clip is tried again.
        retry
            Reasons of the refused clips that are tried again.

        Raises
        ------
        InputError
            The list gives a finished clip another split.
        """
        position = self._next_position()
        self._db.execute("BEGIN")
        try:
            self._db.execute("DELETE FROM clips WHERE position IS NULL")
            for count, clip in enumerate(clips, 1):
                if isinstance(clip, ClipRef):
                    position += self._enter_clip(clip, position, reopen, retry)
                else:
                    self._enter_bad_row(clip)
                if count % 50_000 == 0:  # a long list does not become one huge transaction
                    self._db.execute("COMMIT")
                    self._db.execute("BEGIN")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _enter_clip(
        self, clip: ClipRef, position: int, reopen: Reopen | None, retry: Collection[RefusalReason]
    ) -> int:
        """Enter a clip, and return how many positions it takes: 0 or 1."""
        media, now = str(clip.media) if clip.media else None, time.time()
        known = self._db.execute(
            "SELECT status, reason, n_crashes, updated, media, split FROM clips WHERE clip_id = ?",
            (clip.clip_id,),
        ).fetchone()
        if known is None:
            fields = (clip.video_id, clip.start_s, clip.end_s, clip.x, clip.y, media, clip.split)
            self._db.execute(
                "INSERT INTO clips (clip_id, position, status, updated, video_id, start_s, end_s, x, y,"
                " media, split) VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?)",
                (clip.clip_id, position, now, *fields),
            )
            return 1
        status, reason, n_crashes, updated, *media_and_split = known
        if status == PENDING and media_and_split != [media, clip.split]:
            self._db.execute(
                "UPDATE clips SET media = ?, split = ? WHERE clip_id = ?", (media, clip.split, clip.clip_id)
            )
        elif status == REFUSED and (
            _media_are_new(clip, reason=reason, refused_at=updated)
            or reason in retry
            or (reason == RefusalReason.CRASHED and n_crashes < _MAX_CRASHES)
            or (reopen is not None and reopen(clip, RefusalReason(reason)))
        ):
            self._db.execute(
                "UPDATE clips SET status = 'pending', reason = NULL, detail = NULL, position = ?, media = ?,"
                " split = ?, updated = ? WHERE clip_id = ?",
                (position, media, clip.split, now, clip.clip_id),
            )
            return 1
        elif status == DONE and clip.split is not None and media_and_split[1] != clip.split:
            # half a video in each split would leak from test into train
            raise InputError(
                f"clip {clip.clip_id} was prepared for {media_and_split[1]}, and the list now says "
                f"{clip.split}: give the split that the folder was begun with, or another folder"
            )
        return 0

    def _enter_bad_row(self, row: BadRow) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO clips (clip_id, status, reason, detail, updated) VALUES (?, ?, ?, ?, ?)",
            (row.key, REFUSED, RefusalReason.BAD_ROW.value, row.message, time.time()),
        )

    def _next_position(self) -> int:
        """Return the position after the last one; if the last block is closed, the start of a new block."""
        last = self._db.execute("SELECT MAX(position) FROM clips").fetchone()[0]
        if last is None:
            return 0
        block = last // self.block_size
        return last + 1 if self.is_open(block) else (block + 1) * self.block_size

    # -- the queue -----------------------------------------------------------

    def pending(self, *, chunk: int = 256) -> Iterator[tuple[int, ClipRef]]:
        """Yield the pending clips in order, with their positions; `chunk` rows are read at a time."""
        return _pending_clips(self._db, chunk)

    def finish(self, position: int, row: bytes, *, seconds: Mapping[str, float]) -> None:
        """Keep a finished row until its block is written."""
        self._db.execute("INSERT OR REPLACE INTO spool VALUES (?, ?)", (position, row))
        self._close_clip(position, DONE, None, None, seconds)

    def refuse(
        self, position: int, reason: RefusalReason, detail: str, *, seconds: Mapping[str, float]
    ) -> None:
        """Enter why a clip cannot be used."""
        self._close_clip(position, REFUSED, reason.value, detail, seconds)

    def _close_clip(
        self, position: int, status: str, reason: str | None, detail: str | None, seconds: Mapping[str, float]
    ) -> None:
        is_crash = reason == RefusalReason.CRASHED
        self._db.execute(
            "UPDATE clips SET status = ?, reason = ?, detail = ?, seconds = ?, updated = ?,"
            " n_crashes = n_crashes + ? WHERE position = ?",
            (status, reason, detail, json.dumps(dict(seconds)), time.time(), is_crash, position),
        )

    def begin(self) -> None:
        """Begin a transaction: its changes count only after `commit`."""
        self._db.execute("BEGIN")

    def commit(self) -> None:
        """Make the changes since `begin` durable."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    # -- blocks and shards ---------------------------------------------------

    def is_open(self, block: int) -> bool:
        """Return whether a block has no shard yet, and pending clips or rows to write."""
        unfinished, written = self._db.execute(
            "SELECT COALESCE(SUM(status = 'pending' OR (status = 'done' AND shard IS NULL)), 0),"
            " COALESCE(SUM(shard IS NOT NULL), 0) FROM clips WHERE position BETWEEN ? AND ?",
            self._positions(block),
        ).fetchone()
        return unfinished > 0 and written == 0

    def finished_blocks(self) -> list[int]:
        """Return the blocks without pending clips that wait for their shard."""
        waiting = {p // self.block_size for (p,) in self._db.execute("SELECT position FROM spool")}
        return sorted(block for block in waiting if not self._has_pending(block))

    def _has_pending(self, block: int) -> bool:
        query = "SELECT 1 FROM clips WHERE status = 'pending' AND position BETWEEN ? AND ? LIMIT 1"
        return self._db.execute(query, self._positions(block)).fetchone() is not None

    def spooled(self, block: int) -> list[tuple[int, bytes]]:
        """Return the finished rows of a block in order, with their positions."""
        query = "SELECT position, row FROM spool WHERE position BETWEEN ? AND ? ORDER BY position"
        return self._db.execute(query, self._positions(block)).fetchall()

    def close_block(self, block: int, shard: str, positions: Iterable[int]) -> None:
        """Enter that the rows of a block are durable in a shard, and delete them from the spool."""
        self.begin()
        for index, position in enumerate(positions):
            self._db.execute(
                "UPDATE clips SET shard = ?, row_index = ? WHERE position = ?", (shard, index, position)
            )
        self._db.execute("DELETE FROM spool WHERE position BETWEEN ? AND ?", self._positions(block))
        self.commit()

    def shards(self) -> list[str]:
        """Return the names of the written shards."""
        query = "SELECT DISTINCT shard FROM clips WHERE shard IS NOT NULL ORDER BY shard"
        return [name for (name,) in self._db.execute(query)]

    def reopen_shard(self, shard: str) -> int:
        """Make the clips of a lost shard pending again, at their positions, and return their number."""
        return self._db.execute(
            "UPDATE clips SET status = 'pending', shard = NULL, row_index = NULL WHERE shard = ?", (shard,)
        ).rowcount

    def _positions(self, block: int) -> tuple[int, int]:
        """Return the first and the last position of a block."""
        return block * self.block_size, (block + 1) * self.block_size - 1

    # -- outcomes ------------------------------------------------------------

    def counts(self) -> dict[tuple[str, str | None], int]:
        """Return the number of clips by status and reason."""
        query = "SELECT status, reason, COUNT(*) FROM clips GROUP BY status, reason"
        return {(status, reason): n for status, reason, n in self._db.execute(query)}

    def stages(self) -> dict[str, tuple[float, int]]:
        """Return, by stage, the seconds summed over clips and processes, and the number of clips."""
        query = (
            "SELECT s.key, SUM(s.value), COUNT(*) FROM clips, json_each(clips.seconds) AS s GROUP BY s.key"
        )
        return {stage: (seconds, n) for stage, seconds, n in self._db.execute(query)}


@dataclass(frozen=True)
class PreparationSummary:
    """Outcomes of a clip list: the funnel, and the time of each stage.

    Attributes
    ----------
    n_clips
        Number of different clips in the list, with bad rows.
    n_done, n_refused
        Numbers of prepared and refused clips.
    by_reason
        Reason code to number of clips, the most frequent first.
    seconds_by_stage, clips_by_stage
        Seconds summed over clips and processes, and number of clips that reached the stage, over all runs.
    n_this_run, wall_s
        Number of clips that this run worked on, and its wall-clock seconds.
    n_pending
        Number of clips that are left because the server is rate-limiting. Their blocks are written when a
        later run has finished them.

    Examples
    --------
    >>> PreparationSummary(4, 3, 1, by_reason={"no-face": 1}).table()
               outcome  clips  share
    0      in the list      4   1.00
    1         prepared      3   0.75
    2  refused: no-face      1   0.25
    """

    n_clips: int
    n_done: int
    n_refused: int
    by_reason: dict[str, int] = field(default_factory=dict)
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    n_this_run: int = 0
    wall_s: float = 0.0
    n_pending: int = 0
    clips_by_stage: dict[str, int] = field(default_factory=dict)

    @property
    def core_seconds_per_clip(self) -> float:
        """Seconds of one core per prepared clip, with those of refused clips, without download."""
        seconds = sum(s for stage, s in self.seconds_by_stage.items() if stage != "download")
        return seconds / max(self.n_done, 1)

    def table(self) -> pd.DataFrame:
        """Return the funnel: outcome, clips, share of the list."""
        import pandas as pd

        rows = [("in the list", self.n_clips), ("prepared", self.n_done)]
        rows += [(f"refused: {reason}", n) for reason, n in self.by_reason.items()]
        rows += [("still to do", self.n_pending)] if self.n_pending else []
        table = pd.DataFrame(rows, columns=["outcome", "clips"])
        table["share"] = table["clips"] / max(self.n_clips, 1)
        return table

    def stages(self) -> pd.DataFrame:
        """Return the stages in order: clips, seconds in all and per prepared clip, clips/s of one worker."""
        import pandas as pd

        stages = sorted(self.seconds_by_stage, key=lambda s: (_STAGES.index(s) if s in _STAGES else 99, s))
        table = pd.DataFrame({"stage": stages})
        table["clips"] = [self.clips_by_stage.get(stage, 0) for stage in stages]
        table["seconds"] = [self.seconds_by_stage[stage] for stage in stages]
        table["seconds_per_clip"] = table["seconds"] / max(self.n_done, 1)
        table["clips_per_s"] = table["clips"] / table["seconds"].clip(lower=1e-9)
        return table


def refusal_reasons(names: str | Collection[str]) -> frozenset[RefusalReason]:
    """Return the reasons with the given names: a collection, or a text with commas.

    Examples
    --------
    >>> sorted(refusal_reasons("crashed,truncated"))
    [<RefusalReason.CRASHED: 'crashed'>, <RefusalReason.TRUNCATED: 'truncated'>]
    """
    given = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
    known = [reason.value for reason in RefusalReason]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}"
            raise InputError(f"unknown reason of a refusal {name!r}: {hint}")
    return frozenset(map(RefusalReason, given))


def summarise(ledger: Ledger, *, n_this_run: int = 0, wall_s: float = 0.0) -> PreparationSummary:
    """Return the summary of a ledger."""
    counts, stages = ledger.counts(), ledger.stages()
    refused = {reason or "": n for (status, reason), n in counts.items() if status == REFUSED}
    return PreparationSummary(
        n_clips=sum(counts.values()),
        n_done=sum(n for (status, _), n in counts.items() if status == DONE),
        n_refused=sum(refused.values()),
        by_reason=dict(sorted(refused.items(), key=lambda item: (-item[1], item[0]))),
        seconds_by_stage={stage: seconds for stage, (seconds, _) in stages.items()},
        n_this_run=n_this_run,
        wall_s=wall_s,
        n_pending=sum(n for (status, _), n in counts.items() if status == PENDING),
        clips_by_stage={stage: n for stage, (_, n) in stages.items()},
    )


def read_refusals(folder: str | Path) -> pd.DataFrame:
    """Return the refused clips of a prepared folder in the order of the list, malformed rows last.

    Parameters
    ----------
    folder
        Folder that `prepare` wrote. It is not changed.

    Returns
    -------
    pandas.DataFrame
        Columns clip_id, reason (see `errors.RefusalReason`) and detail (a text of one line).

    Raises
    ------
    MissingFileError
        The folder holds no ledger.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> with Ledger(Path(folder) / LEDGER_NAME) as ledger:
    ...     ledger.enter([ClipRef("a", "video", 0.0, 2.0)])
    ...     ledger.refuse(0, RefusalReason.NO_FACE, "0 faces", seconds={})
    >>> read_refusals(folder)
      clip_id   reason   detail
    0       a  no-face  0 faces
    """
    import pandas as pd

    path = Path(folder) / LEDGER_NAME
    if not path.is_file():
        raise MissingFileError(f"no ledger at {path}: expected a folder that `s2f prepare` wrote")
    # without write access to the folder, SQLite reads a ledger only if no other process may write it
    mode = "mode=ro" if os.access(path.parent, os.W_OK) else "immutable=1"
    query = (
        "SELECT clip_id, reason, detail FROM clips WHERE status = 'refused'"
        " ORDER BY position IS NULL, position, clip_id"
    )
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)) as db:
        return pd.DataFrame(db.execute(query).fetchall(), columns=["clip_id", "reason", "detail"])


def read_pending(path: Path, *, chunk: int = 256) -> Iterator[tuple[int, ClipRef]]:
    """Yield the pending clips like `Ledger.pending`, for another thread than that of the ledger.

    The reader sees the state that was committed when it reads a chunk, and never goes back in the list.
    """
    with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as db:
        yield from _pending_clips(db, chunk)


def _pending_clips(db: sqlite3.Connection, chunk: int) -> Iterator[tuple[int, ClipRef]]:
    after = -1
    while True:
        rows = db.execute(
            "SELECT position, clip_id, video_id, start_s, end_s, x, y, media, split FROM clips"
            " WHERE status = 'pending' AND position > ? ORDER BY position LIMIT ?",
            (after, chunk),
        ).fetchall()
        if not rows:
            return
        for position, clip_id, video_id, start_s, end_s, x, y, media, split in rows:
            media = Path(media) if media else None
            yield position, ClipRef(clip_id, video_id, start_s, end_s, x, y, media, split)
            after = position


def _media_are_new(clip: ClipRef, *, reason: str, refused_at: float) -> bool:
    """Return whether the media of a refused clip appeared, or were changed or copied in, since."""
    if clip.media is None or not clip.media.is_file():
        return False
    state = clip.media.stat()
    return reason == RefusalReason.MEDIA_MISSING.value or max(state.st_mtime, state.st_ctime) > refused_at
