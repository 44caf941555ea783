"""The ledger: one row a clip in SQLite - what is to do, done, or refused and why.

It is also the queue.  The clip list is entered first, each clip with its place;
clips are taken from it in that order, and a finished row waits in it (table
`spool`) until its block of `clips_per_shard` places is finished and written as
one shard.  So which rows a shard holds, and in which order, hangs on the list
alone: not on the number of workers, nor on when a run was killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2f_lib.errors import InputError, RefusalReason
from s2f_lib.preparation.ledger_file import DONE, PENDING, REFUSED, open_ledger, pending_clips
from s2f_lib.sources.clip import ClipRef

if TYPE_CHECKING:
    from s2f_lib.sources.avspeech import BadRow

Reopen = Callable[[ClipRef, RefusalReason], bool]


class Ledger:
    """A folder's ledger, open for one run.

    Parameters
    ----------
    path
        The SQLite file; made where it is not there.
    block_size
        Places a shard; the ledger keeps what it was made with.

    Raises
    ------
    DataError
        The file is not a ledger.
    """

    def __init__(self, path: Path, *, block_size: int = 256) -> None:
        self.path = path
        self._db = open_ledger(path)
        self.block_size = int(self.meta_default("block_size", str(block_size)))

    def close(self) -> None:
        """Close the file; its write-ahead log is folded in."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def meta_default(self, key: str, value: str) -> str:
        """Return a stored fact of the whole folder; store it first if it is not there."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        return self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]

    def check_same(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse to go on in a folder that was begun with other settings.

        Parameters
        ----------
        settings
            Section to key to value; a new ledger stores them.

        Raises
        ------
        InputError
            They differ from the stored ones; the message names each.
        """
        stored = json.loads(self.meta_default("settings", json.dumps(settings)))
        differing = [
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

    def enter(self, clips: Iterable[ClipRef | BadRow], *, reopen: Reopen | None = None) -> None:
        """Enter a clip list; clips that are there already keep their place and status.

        A pending clip takes over the list's media and split.  A refused clip is pending again, at a
        new place, where its media turned up or were replaced since, or where `reopen` says so.  Bad
        rows are those of this list.

        Parameters
        ----------
        clips
            The list; read once.
        reopen
            Called with a refused clip and its reason; whether to try it again.

        Raises
        ------
        InputError
            A clip that is done belongs to another split now.
        """
        position = self._next_position()
        self._db.execute("BEGIN")
        try:
            self._db.execute("DELETE FROM clips WHERE position IS NULL")
            for count, clip in enumerate(clips, 1):
                if isinstance(clip, ClipRef):
                    position += self._enter_clip(clip, position, reopen)
                else:
                    self._enter_bad_row(clip)
                if count % 50_000 == 0:  # a long list does not become one huge transaction
                    self._db.execute("COMMIT")
                    self._db.execute("BEGIN")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _enter_clip(self, clip: ClipRef, position: int, reopen: Reopen | None) -> int:
        known = self._db.execute(
            "SELECT status, reason, updated, media, split FROM clips WHERE clip_id = ?", (clip.clip_id,)
        ).fetchone()
        media = str(clip.media) if clip.media else None
        if known is None:
            self._db.execute(
                "INSERT INTO clips (clip_id, position, status, updated, video_id, start_s, end_s, x, y,"
                " media, split) VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    clip.clip_id,
                    position,
                    time.time(),
                    clip.video_id,
                    clip.start_s,
                    clip.end_s,
                    clip.x,
                    clip.y,
                    media,
                    clip.split,
                ),
            )
            return 1
        if known[0] == PENDING:
            if known[3:] != (media, clip.split):  # a long list is read again at each start
                self._db.execute(
                    "UPDATE clips SET media = ?, split = ? WHERE clip_id = ?",
                    (media, clip.split, clip.clip_id),
                )
        elif known[0] == REFUSED and (
            _media_are_new(clip, reason=known[1], refused_at=known[2])
            or (reopen is not None and reopen(clip, RefusalReason(known[1])))
        ):
            self._db.execute(
                "UPDATE clips SET status = 'pending', reason = NULL, detail = NULL, position = ?, media = ?,"
                " split = ?, updated = ? WHERE clip_id = ?",
                (position, media, clip.split, time.time(), clip.clip_id),
            )
            return 1
        elif known[0] == DONE and clip.split is not None and known[4] != clip.split:
            # half a video in each split would leak from test into train
            raise InputError(
                f"clip {clip.clip_id} was prepared for {known[4]}, and the list now says {clip.split}: "
                "give the split that the folder was begun with, or another folder"
            )
        return 0

    def _enter_bad_row(self, row: BadRow) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO clips (clip_id, status, reason, detail, updated) VALUES (?, ?, ?, ?, ?)",
            (row.key, REFUSED, RefusalReason.BAD_ROW.value, row.message, time.time()),
        )

    def _next_position(self) -> int:
        """Return the place after the last; in a new block where the last one is closed already."""
        last = self._db.execute("SELECT MAX(position) FROM clips").fetchone()[0]
        if last is None:
            return 0
        block = last // self.block_size
        return last + 1 if self.is_open(block) else (block + 1) * self.block_size

    # -- the queue -----------------------------------------------------------

    def pending(self, *, chunk: int = 256) -> Iterator[tuple[int, ClipRef]]:
        """Yield the pending clips in order, with their places; reads a chunk at a time."""
        return pending_clips(self._db, chunk)

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
        self._db.execute(
            "UPDATE clips SET status = ?, reason = ?, detail = ?, seconds = ?, updated = ?"
            " WHERE position = ?",
            (status, reason, detail, json.dumps(dict(seconds)), time.time(), position),
        )

    def begin(self) -> None:
        """Begin a transaction; nothing of it counts before `commit`."""
        self._db.execute("BEGIN")

    def commit(self) -> None:
        """Make what was entered since `begin` durable."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    # -- blocks and shards ---------------------------------------------------

    def is_open(self, block: int) -> bool:
        """Return whether a block has no shard yet and still has something to do or to write."""
        first, last = self._positions(block)
        unfinished, written = self._db.execute(
            "SELECT COALESCE(SUM(status = 'pending' OR (status = 'done' AND shard IS NULL)), 0),"
            " COALESCE(SUM(shard IS NOT NULL), 0) FROM clips WHERE position BETWEEN ? AND ?",
            (first, last),
        ).fetchone()
        return unfinished > 0 and written == 0

    def finished_blocks(self) -> list[int]:
        """Return the blocks that wait for their shard and have nothing pending."""
        waiting = {p // self.block_size for (p,) in self._db.execute("SELECT position FROM spool")}
        return sorted(block for block in waiting if not self._has_pending(block))

    def _has_pending(self, block: int) -> bool:
        query = "SELECT 1 FROM clips WHERE status = 'pending' AND position BETWEEN ? AND ? LIMIT 1"
        return self._db.execute(query, self._positions(block)).fetchone() is not None

    def spooled(self, block: int) -> list[tuple[int, bytes]]:
        """Return a block's finished rows, in order, with their places."""
        query = "SELECT position, row FROM spool WHERE position BETWEEN ? AND ? ORDER BY position"
        return self._db.execute(query, self._positions(block)).fetchall()

    def close_block(self, block: int, shard: str, positions: Iterable[int]) -> None:
        """Enter that a block's rows are durable in a shard, and forget the spooled ones; one transaction."""
        self.begin()
        for index, position in enumerate(positions):
            self._db.execute(
                "UPDATE clips SET shard = ?, row_index = ? WHERE position = ?", (shard, index, position)
            )
        self._db.execute("DELETE FROM spool WHERE position BETWEEN ? AND ?", self._positions(block))
        self.commit()

    def shards(self) -> list[str]:
        """Return the names of the shards that are written."""
        query = "SELECT DISTINCT shard FROM clips WHERE shard IS NOT NULL ORDER BY shard"
        return [name for (name,) in self._db.execute(query)]

    def reopen_shard(self, shard: str) -> int:
        """Make a lost shard's clips pending again, at their places; returns how many."""
        return self._db.execute(
            "UPDATE clips SET status = 'pending', shard = NULL, row_index = NULL WHERE shard = ?", (shard,)
        ).rowcount

    def _positions(self, block: int) -> tuple[int, int]:
        return block * self.block_size, (block + 1) * self.block_size - 1

    # -- what came of it -----------------------------------------------------

    def counts(self) -> dict[tuple[str, str | None], int]:
        """Return the number of clips by status and reason."""
        query = "SELECT status, reason, COUNT(*) FROM clips GROUP BY status, reason"
        return {(status, reason): n for status, reason, n in self._db.execute(query)}

    def stages(self) -> dict[str, tuple[float, int]]:
        """Return, by stage, the time spent in it over clips and processes, and the clips that came to it."""
        query = (
            "SELECT s.key, SUM(s.value), COUNT(*) FROM clips, json_each(clips.seconds) AS s GROUP BY s.key"
        )
        return {stage: (seconds, n) for stage, seconds, n in self._db.execute(query)}

    def refusals(self, *, limit: int) -> list[tuple[str, str, str]]:
        """Return id, reason and detail of the first refused clips in the list's order, bad rows last."""
        query = (
            "SELECT clip_id, reason, detail FROM clips WHERE status = 'refused'"
            " ORDER BY position IS NULL, position, clip_id LIMIT ?"
        )
        return self._db.execute(query, (limit,)).fetchall()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every row, in the list's order, bad rows last."""
        cursor = self._db.execute("SELECT * FROM clips ORDER BY position IS NULL, position, clip_id")
        names = [column[0] for column in cursor.description]
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            yield row | {"seconds": json.loads(row["seconds"] or "{}")}


def _media_are_new(clip: ClipRef, *, reason: str, refused_at: float) -> bool:
    """Return whether a refused clip's media turned up, or were changed or copied in, since."""
    if clip.media is None or not clip.media.is_file():
        return False
    state = clip.media.stat()
    return reason == RefusalReason.MEDIA_MISSING.value or max(state.st_mtime, state.st_ctime) > refused_at
