"""The ledger: places, states, blocks, and what a second run finds."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import pytest

from s2f_lib.errors import DataError, InputError, RefusalReason
from s2f_lib.preparation.ledger import Ledger
from s2f_lib.preparation.ledger_file import read_pending
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


def test_clips_come_out_as_they_went_in(ledger, tmp_path):
    clips = [replace(_clip(0), media=tmp_path / "a.mp4"), _clip(1), _clip(2)]
    ledger.enter([clips[0], BadRow(2, "x,y", "row 2: 2 columns"), clips[1], clips[0], clips[2]])
    assert list(ledger.pending(chunk=2)) == list(enumerate(clips))
    assert ledger.counts() == {("pending", None): 3, ("refused", "bad-row"): 1}
    assert [row["clip_id"] for row in ledger.rows()] == ["clip-00", "clip-01", "clip-02", "row 2"]


def test_a_block_is_finished_when_nothing_of_it_is_pending(ledger):
    ledger.enter(_clips(0, 6))
    for position in (0, 3, 1, 5):
        ledger.finish(position, b"row %d" % position, seconds={})
    assert ledger.finished_blocks() == []
    ledger.refuse(2, RefusalReason.NO_FACE, "", seconds={})
    assert ledger.finished_blocks() == [0]
    assert ledger.spooled(0) == [(0, b"row 0"), (1, b"row 1"), (3, b"row 3")]
    ledger.close_block(0, "shard-0", [0, 1, 3])
    assert ledger.finished_blocks() == []
    rows = {row["clip_id"]: (row["shard"], row["row_index"]) for row in ledger.rows()}
    assert rows["clip-03"] == ("shard-0", 2)
    assert rows["clip-02"] == (None, None)


def test_what_is_done_stays_done_and_keeps_its_place(ledger):
    ledger.enter(_clips(0, 6))
    _finish_all(ledger, refuse=(2,))
    ledger.enter(_clips(0, 6))
    assert list(ledger.pending()) == []
    assert ledger.counts() == {("done", None): 5, ("refused", "no-face"): 1}
    assert ledger.stages() == {"decode": (3.0, 6), "detect": (5.0, 5)}


def test_a_clip_that_is_done_keeps_its_split(ledger):
    ledger.enter(_clips(0, 4))
    _finish_all(ledger)
    moved = [replace(_clip(5), split="test"), replace(_clip(0), split="test")]
    with pytest.raises(InputError, match="clip-00 was prepared for train, and the list now says test"):
        ledger.enter(moved)
    assert sum(ledger.counts().values()) == 4  # nothing of that list


def test_a_longer_list_begins_a_new_block_after_a_written_one(ledger):
    ledger.enter(_clips(0, 6))  # blocks 0 and 1; 1 has two of its four places
    _finish_all(ledger)
    ledger.enter(_clips(0, 8))
    assert [position for position, _ in ledger.pending()] == [8, 9]
    assert ledger.shards() == ["shard-0", "shard-1"]


def test_a_longer_list_goes_on_in_an_open_block(ledger):
    ledger.enter(_clips(0, 6))
    ledger.enter(_clips(0, 8))
    assert [position for position, _ in ledger.pending()] == list(range(8))


def test_media_that_turned_up_are_tried_again_at_a_new_place(ledger, tmp_path):
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


def test_bad_rows_are_those_of_the_list_given_last(ledger):
    ledger.enter([_clip(0), BadRow(2, "x", "row 2: 1 columns"), BadRow(3, "y", "row 3: 1 columns")])
    ledger.enter([_clip(0), BadRow(3, "y", "row 3: 1 columns"), _clip(1)])
    assert [row["clip_id"] for row in ledger.rows()] == ["clip-00", "clip-01", "row 3"]


def test_a_lost_shard_is_pending_again_at_its_places(ledger):
    ledger.enter(_clips(0, 6))
    _finish_all(ledger, refuse=(1,))
    assert ledger.reopen_shard("shard-0") == 3
    assert [position for position, _ in ledger.pending()] == [0, 2, 3]
    assert ledger.shards() == ["shard-1"]


def test_nothing_of_a_transaction_counts_before_its_commit(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.enter(_clips(0, 2))
        ledger.begin()
        ledger.finish(0, b"row", seconds={})
    with Ledger(path) as ledger:
        assert [position for position, _ in ledger.pending()] == [0, 1]
        assert ledger.spooled(0) == []


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "ledger.sqlite"
    settings = {"preparation": {"audio_s": 6.0, "frame_positions": (0.5,)}, "features": {"extractor": "a"}}
    with Ledger(path) as ledger:
        ledger.check_same(settings)
    with Ledger(path) as ledger:
        ledger.check_same(settings)
        with pytest.raises(InputError, match=r"features.extractor is 'a' there and 'b' now"):
            ledger.check_same(settings | {"features": {"extractor": "b"}})


def test_the_block_size_is_the_ledgers_own(tmp_path):
    with Ledger(tmp_path / "l.sqlite", block_size=4):
        pass
    with Ledger(tmp_path / "l.sqlite", block_size=9) as ledger:
        assert ledger.block_size == 4


def test_a_file_that_is_no_ledger(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(DataError, match="is not a ledger"):
        Ledger(path)


def test_the_counts_name_the_reasons(ledger):
    ledger.enter([*_clips(0, 5), BadRow(7, "", "row 7: 1 columns")])
    _finish_all(ledger, refuse=(1, 2))
    assert ledger.counts() == {("done", None): 3, ("refused", "no-face"): 2, ("refused", "bad-row"): 1}


def test_a_long_list_is_entered_and_read_back_in_bounded_memory(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        tracemalloc.start()
        ledger.enter(_clip(number) for number in range(15_000))
        n_read = sum(1 for _ in read_pending(path))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert n_read == 15_000
    assert peak_bytes < 1e6  # 67 bytes a clip: the list itself would need more


def test_another_thread_reads_what_was_committed_and_never_goes_back(ledger):
    ledger.enter(_clips(0, 4))
    reader = read_pending(ledger.path, chunk=2)
    assert next(reader) == (0, _clip(0))
    ledger.refuse(0, RefusalReason.NO_FACE, "", seconds={})
    ledger.refuse(3, RefusalReason.NO_FACE, "", seconds={})
    assert [position for position, _ in reader] == [1, 2]


def test_the_first_refusals_come_in_the_lists_order(ledger):
    ledger.enter([BadRow(1, "x", "row 1: 1 columns"), *_clips(0, 4)])
    for position in (3, 1):
        ledger.refuse(position, RefusalReason.NO_FACE, "0 faces", seconds={})
    expected = [("clip-01", "no-face", "0 faces"), ("clip-03", "no-face", "0 faces")]
    assert ledger.refusals(limit=2) == expected
    assert ledger.refusals(limit=9)[2][:2] == ("row 1", "bad-row")
