"""The ledger: positions, states, blocks, and resumed runs."""

from __future__ import annotations

import sqlite3
import time
import tracemalloc
from contextlib import closing
from dataclasses import replace

import pytest

from s2f_lib.errors import DataError, InputError, MissingFileError, RefusalReason
from s2f_lib.preparation.ledger import Ledger, read_pending, read_refusals
from s2f_lib.sources.avspeech import BadRow
from s2f_lib.sources.clip import ClipRef


def _clip(number: int) -> ClipRef:
    return ClipRef(f"clip-{number:02d}", f"video-{number:02d}", 1.0, 4.0, 0.5, 0.25, split="train")


def _clips(first: int, last: int) -> list[ClipRef]:
    return [_clip(number) for number in range(first, last)]


def _finish_all(ledger: Ledger, *, refuse: tuple[int, ...] = ()) -> None:
    for position, _ in list(ledger.pending()):
        if position in refuse:
            ledger.refuse(position, RefusalReason.NO_FACE, "0, 0, 0 faces", seconds={"decode": 0.5})
        else:
            ledger.finish(position, b"row %d" % position, seconds={"decode": 0.5, "detect": 1.0})
    for block in ledger.finished_blocks():
        if rows := ledger.spooled(block):
            ledger.close_block(block, f"shard-{block}", [position for position, _ in rows])


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", block_size=4) as ledger:
        yield ledger


def test_pending_returns_the_entered_clips(ledger, tmp_path):
    clips = [replace(_clip(0), media=tmp_path / "a.mp4"), _clip(1), _clip(2)]
    ledger.enter([clips[0], BadRow(2, "x,y", "row 2: 2 columns"), clips[1], clips[0], clips[2]])
    assert list(ledger.pending(chunk=2)) == list(enumerate(clips))
    assert ledger.counts() == {("pending", None): 3, ("refused", "bad-row"): 1}
    assert read_refusals(tmp_path)["clip_id"].tolist() == ["row 2"]


def test_block_is_finished_without_pending_clips(ledger):
    ledger.enter(_clips(0, 6))
    for position in (0, 3, 1, 5):
        ledger.finish(position, b"row %d" % position, seconds={})
    assert ledger.finished_blocks() == []
    ledger.refuse(2, RefusalReason.NO_FACE, "", seconds={})
    assert ledger.finished_blocks() == [0]
    assert ledger.spooled(0) == [(0, b"row 0"), (1, b"row 1"), (3, b"row 3")]
    ledger.close_block(0, "shard-0", [0, 1, 3])
    assert ledger.finished_blocks() == []
    with closing(sqlite3.connect(ledger.path)) as db:
        rows = list(db.execute("SELECT clip_id, shard, row_index FROM clips ORDER BY position LIMIT 4"))
    assert rows[2:] == [("clip-02", None, None), ("clip-03", "shard-0", 2)]


def test_enter_again_keeps_finished_clips(ledger):
    ledger.enter(_clips(0, 6))
    _finish_all(ledger, refuse=(2,))
    ledger.enter(_clips(0, 6))
    assert list(ledger.pending()) == []
    assert ledger.counts() == {("done", None): 5, ("refused", "no-face"): 1}
    assert ledger.stages() == {"decode": (3.0, 6), "detect": (5.0, 5)}


def test_enter_finished_clip_with_other_split_is_refused(ledger):
    ledger.enter(_clips(0, 4))
    _finish_all(ledger)
    moved = [replace(_clip(5), split="test"), replace(_clip(0), split="test")]
    with pytest.raises(InputError, match="clip-00 was prepared for train, and the list now says test"):
        ledger.enter(moved)
    assert sum(ledger.counts().values()) == 4  # nothing of that list


def test_enter_longer_list_after_closed_block_starts_a_block(ledger):
    ledger.enter(_clips(0, 6))  # blocks 0 and 1; 1 has two of its four positions
    _finish_all(ledger)
    ledger.enter(_clips(0, 8))
    assert [position for position, _ in ledger.pending()] == [8, 9]
    assert ledger.shards() == ["shard-0", "shard-1"]


def test_enter_longer_list_continues_an_open_block(ledger):
    ledger.enter(_clips(0, 6))
    ledger.enter(_clips(0, 8))
    assert [position for position, _ in ledger.pending()] == list(range(8))


def test_enter_new_media_reopen_clips_at_new_positions(ledger, tmp_path):
    found = tmp_path / "a.mp4"
    found.touch()
    ledger.enter(_clips(0, 3))
    time.sleep(0.02)  # the file is older than the refusals
    for position in range(3):
        ledger.refuse(
            position, RefusalReason.MEDIA_MISSING if position else RefusalReason.NO_FACE, "", seconds={}
        )
    longer = [replace(clip, media=found) for clip in _clips(0, 2)] + _clips(2, 3)
    ledger.enter(longer)
    assert [clip.clip_id for _, clip in ledger.pending()] == ["clip-01"]  # not no-face, not still missing
    assert ledger.counts()[("refused", "media-missing")] == 1
    time.sleep(0.02)
    found.write_bytes(b"fetched again")
    ledger.enter(longer)
    assert {clip.clip_id for _, clip in ledger.pending()} == {"clip-00", "clip-01"}


def test_enter_tries_a_crashed_clip_in_three_runs(ledger):
    positions = []
    for _ in range(5):  # runs
        ledger.enter(_clips(0, 2))
        for position, clip in list(ledger.pending()):
            reason = RefusalReason.CRASHED if clip.clip_id == "clip-01" else RefusalReason.NO_FACE
            ledger.refuse(position, reason, "", seconds={})
            positions.append((position, clip.clip_id))
    assert positions == [(0, "clip-00"), (1, "clip-01"), (4, "clip-01"), (8, "clip-01")]
    assert ledger.counts() == {("refused", "no-face"): 1, ("refused", "crashed"): 1}


def test_ledger_of_an_earlier_version_gets_its_missing_column(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.enter(_clips(0, 1))
        ledger.refuse(0, RefusalReason.CRASHED, "a process died", seconds={})
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE clips DROP COLUMN n_crashes")
    with Ledger(path) as ledger:
        ledger.enter(_clips(0, 1))
        assert ledger.counts() == {("pending", None): 1}


def test_enter_replaces_the_bad_rows(ledger, tmp_path):
    ledger.enter([_clip(0), BadRow(2, "x", "row 2: 1 columns"), BadRow(3, "y", "row 3: 1 columns")])
    ledger.enter([_clip(0), BadRow(3, "y", "row 3: 1 columns"), _clip(1)])
    assert read_refusals(tmp_path)["clip_id"].tolist() == ["row 3"]
    assert [clip.clip_id for _, clip in ledger.pending()] == ["clip-00", "clip-01"]


def test_reopen_shard_makes_clips_pending_at_their_positions(ledger):
    ledger.enter(_clips(0, 6))
    _finish_all(ledger, refuse=(1,))
    assert ledger.reopen_shard("shard-0") == 3
    assert [position for position, _ in ledger.pending()] == [0, 2, 3]
    assert ledger.shards() == ["shard-1"]


def test_begin_without_commit_changes_nothing(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.enter(_clips(0, 2))
        ledger.begin()
        ledger.finish(0, b"row", seconds={})
    with Ledger(path) as ledger:
        assert [position for position, _ in ledger.pending()] == [0, 1]
        assert ledger.spooled(0) == []


def test_check_same_names_the_setting_that_differs(tmp_path):
    path = tmp_path / "ledger.sqlite"
    settings = {"preparation": {"audio_s": 6.0, "frame_positions": (0.5,)}, "features": {"extractor": "a"}}
    with Ledger(path) as ledger:
        ledger.check_same(settings)
    with Ledger(path) as ledger:
        ledger.check_same(settings)
        with pytest.raises(InputError, match=r"features.extractor is 'a' there and 'b' now"):
            ledger.check_same(settings | {"features": {"extractor": "b"}})


def test_ledger_keeps_its_block_size(tmp_path):
    with Ledger(tmp_path / "l.sqlite", block_size=4):
        pass
    with Ledger(tmp_path / "l.sqlite", block_size=9) as ledger:
        assert ledger.block_size == 4


def test_ledger_of_another_file_is_an_error(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(DataError, match="is not a ledger"):
        Ledger(path)


def test_counts_are_by_status_and_reason(ledger):
    ledger.enter([*_clips(0, 5), BadRow(7, "", "row 7: 1 columns")])
    _finish_all(ledger, refuse=(1, 2))
    assert ledger.counts() == {("done", None): 3, ("refused", "no-face"): 2, ("refused", "bad-row"): 1}


def test_enter_and_read_pending_use_bounded_memory(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        tracemalloc.start()
        ledger.enter(_clip(number) for number in range(15_000))
        n_read = sum(1 for _ in read_pending(path))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert n_read == 15_000
    assert peak_bytes < 1e6  # 67 bytes a clip: the list itself would need more


def test_read_pending_sees_commits_and_never_goes_back(ledger):
    ledger.enter(_clips(0, 4))
    reader = read_pending(ledger.path, chunk=2)
    assert next(reader) == (0, _clip(0))
    ledger.refuse(0, RefusalReason.NO_FACE, "", seconds={})
    ledger.refuse(3, RefusalReason.NO_FACE, "", seconds={})
    assert [position for position, _ in reader] == [1, 2]


def test_refusals_are_in_the_order_of_the_list(ledger, tmp_path):
    ledger.enter([BadRow(1, "x", "row 1: 1 columns"), *_clips(0, 4)])
    for position in (3, 1):
        ledger.refuse(position, RefusalReason.NO_FACE, "0 faces", seconds={})
    refusals = read_refusals(tmp_path)
    assert refusals.columns.tolist() == ["clip_id", "reason", "detail"]
    assert refusals.values.tolist() == [
        ["clip-01", "no-face", "0 faces"],
        ["clip-03", "no-face", "0 faces"],
        ["row 1", "bad-row", "row 1: 1 columns"],
    ]
    with pytest.raises(MissingFileError, match="no ledger at"):
        read_refusals(tmp_path / "none")
