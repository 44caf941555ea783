"""The AVSpeech CSV in its published formats, with rows that are not clips."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2f_lib.config import load_config
from s2f_lib.errors import ConfigError, InputError, MissingFileError
from s2f_lib.sources.avspeech import (
    BadRow,
    find_media,
    load_clips,
    read_clip_list,
)
from s2f_lib.sources.clip import VIDEO_ID, ClipRef, make_clip_id
from s2f_lib.sources.splits import read_split

ROW = "AAAAAAAAAA{n},10.5,14.0,0.25,0.75"


def _write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("header", "index"),
    [("", ""), ("", "7,"), (",id,start,end,x,y", "7,"), ("youtube_id,start_s,end_s,x,y", "")],
)
def test_clip_list_in_each_format_gives_the_same_clip(tmp_path, encoding, end, header, index):
    lines = [header] * bool(header) + [index + "-_aZ09bcdeF,282.5823,285.5853,0.371875,0.425"]
    path = _write(tmp_path / "clips.csv", end.join(lines) + end, encoding)
    (clip,) = read_clip_list(path)
    assert clip == ClipRef(
        "-_aZ09bcdeF_282.582300-285.585300", "-_aZ09bcdeF", 282.5823, 285.5853, 0.371875, 0.425
    )


_GOOD = st.tuples(
    st.from_regex(VIDEO_ID, fullmatch=True),
    st.floats(0, 40_000),
    st.floats(0.001, 30),
    st.floats(0, 1),
    st.floats(0, 1),
)
# any line, and rows with one cell too many or of the wrong type
_ANY_LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), max_size=60)
_CELL = st.sampled_from(["", "AAAAAAAAAAA", '"', "0.5", "-1", "1e999", "nan", "1_0", "½", "9" * 400, "3,4"])
_ODD_LINE = _ANY_LINE | st.lists(_CELL, min_size=4, max_size=7).map(",".join)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(lines=st.lists(_GOOD | _ODD_LINE, max_size=8))
def test_clip_list_bad_row_leaves_other_rows_intact(tmp_path_factory, lines):
    first = ("-_aZ09bcdeF", 0.0, 3.0, 0.5, 0.5)  # a clip, so the next row is not a header
    texts, expected = [], []
    for line in [first, *lines]:
        if isinstance(line, str):
            texts.append(line)
            expected += [None] * bool(line.strip())
        else:
            video_id, start_s, duration_s, x, y = line
            end_s = start_s + duration_s
            texts.append(f"{video_id},{start_s!r},{end_s!r},{x!r},{y!r}")
            expected.append(ClipRef(make_clip_id(video_id, start_s, end_s), video_id, start_s, end_s, x, y))
    path = _write(tmp_path_factory.getbasetemp() / "any.csv", "\n".join(texts) + "\n")
    rows = list(read_clip_list(path))
    assert len(rows) == len(expected)
    for row, clip in zip(rows, expected, strict=True):
        if clip is not None:
            assert row == clip
        elif isinstance(row, ClipRef):  # an odd line may be a valid clip
            assert 0 <= row.start_s < row.end_s < float("inf")
            assert 0 <= row.x <= 1
            assert 0 <= row.y <= 1
        else:
            assert row.text == texts[row.line_number - 1].strip()[:200]


def test_clip_list_header_gives_column_order(tmp_path):
    path = _write(tmp_path / "clips.csv", "x,y,end,start,id,note\n0.1,0.2,9,4,AAAAAAAAAAA,hello\n")
    (clip,) = read_clip_list(path)
    assert (clip.start_s, clip.end_s, clip.x, clip.y) == (4, 9, 0.1, 0.2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("tooshort,1,4,0.5,0.5", "id 'tooshort'; expected 11 characters"),
        ("AAAAAAAAAA!,1,4,0.5,0.5", "id 'AAAAAAAAAA!'; expected 11 characters"),
        ("AAAAAAAAAAA,one,4,0.5,0.5", "start is 'one'; expected a number"),
        ("AAAAAAAAAAA,1,nan,0.5,0.5", "end is 'nan'; expected a number"),
        ("AAAAAAAAAAA,1,4,,0.5", "x is ''; expected a number"),
        ("AAAAAAAAAAA,4,4,0.5,0.5", "end 4 s is not after start 4 s"),
        ("AAAAAAAAAAA,-1,4,0.5,0.5", "start is -1 s; expected 0 or more"),
        ("AAAAAAAAAAA,1,4,1.5,0.5", "x is 1.5; expected a share of the frame between 0 and 1"),
        ("AAAAAAAAAAA,1,4,0.5,-0.1", "y is -0.1; expected a share of the frame between 0 and 1"),
        ("AAAAAAAAAAA,1,4,0.5", "4 columns in 'AAAAAAAAAAA,1,4,0.5'; expected 5 columns"),
        ('"AAAAAAAAAAA,1,4,0.5', "4 columns"),  # a stray quote must not swallow the next rows
        ("AAAAAAAAAAA;1;4;0.5;0.5", "1 columns"),
    ],
)
def test_clip_list_bad_row_is_reported_with_its_number(tmp_path, row, message):
    text = "\n".join([ROW.format(n=0), row, ROW.format(n=1)])
    first, bad, last = read_clip_list(_write(tmp_path / "clips.csv", text))
    assert isinstance(bad, BadRow)
    assert bad.line_number == 2
    assert bad.text == row
    assert bad.message.startswith("row 2: ")
    assert message in bad.message
    assert (first.video_id, last.video_id) == ("AAAAAAAAAA0", "AAAAAAAAAA1")


def test_clip_list_line_numbers_count_all_lines(tmp_path):
    path = _write(tmp_path / "clips.csv", f"id,start,end,x,y\n\n{ROW.format(n=0)}\n\nbad\n")
    assert [row.line_number for row in read_clip_list(path) if isinstance(row, BadRow)] == [5]


def test_clip_list_row_shorter_than_header_is_bad(tmp_path):
    path = _write(
        tmp_path / "clips.csv", ",id,start,end,x,y\n0,AAAAAAAAAAA,1,4,0.5,0.5\nBBBBBBBBBBB,1,4,0.5,0.5\n"
    )
    good, bad = read_clip_list(path)
    assert isinstance(good, ClipRef)
    assert "5 columns" in bad.message
    assert "expected 6, as the header has" in bad.message


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, MissingFileError, "no clip list at"),
        (b"", InputError, "is empty"),
        (b"\xef\xbb\xbf", None, None),
        (b"\x00\x00\x00\x18ftypmp42", InputError, "is not a text file"),
    ],
)
def test_clip_list_invalid_file_fails_at_the_call(tmp_path, content, error, message):
    path = tmp_path / "clips.csv"
    if content is not None:
        path.write_bytes(content)
    if error is None:
        assert list(read_clip_list(path)) == []
        return
    with pytest.raises(error, match=message):
        read_clip_list(path)


def test_setting_splits_is_refused_with_its_new_name():
    with pytest.raises(ConfigError, match=r"did you mean source\.avspeech\.split\?"):
        load_config("avspeech", {"source.avspeech.splits": "splits.csv"})


def test_clip_list_long_file_needs_little_memory(tmp_path):
    path = tmp_path / "clips.csv"
    with path.open("w") as stream:
        stream.writelines(f"{n:011d},10.5,14.0,0.25,0.75\n" for n in range(60_000))  # 2.1 MB
    tracemalloc.start()
    try:
        n_clips = sum(1 for _ in read_clip_list(path))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_clips == 60_000
    assert peak_bytes < 500_000


def test_find_media_prefers_clip_id_to_video_id(tmp_path):
    rows = ["AAAAAAAAAAA,1,4,0.5,0.5", "AAAAAAAAAAA,5,9,0.5,0.5", "BBBBBBBBBBB,1,4,0.5,0.5", "bad"]
    path = _write(tmp_path / "clips.csv", "\n".join(rows))
    media = tmp_path / "media"
    media.mkdir()
    for name in (
        "AAAAAAAAAAA.MP4",
        "AAAAAAAAAAA_005.000000-009.000000.webm",
        "BBBBBBBBBBB.txt",
        "BBBBBBBBBBB",
    ):
        (media / name).touch()
    first, second, missing, bad = find_media(read_clip_list(path), media)
    assert first.media == media / "AAAAAAAAAAA.MP4"
    assert second.media == media / "AAAAAAAAAAA_005.000000-009.000000.webm"
    assert missing.media is None
    assert isinstance(bad, BadRow)
    with pytest.raises(MissingFileError, match="no media folder"):
        find_media([], tmp_path / "absent")


def test_load_clips_stored_split_replaces_drawn_one(tmp_path):
    clips_csv = _write(tmp_path / "clips.csv", "AAAAAAAAAAA,1,4,0.5,0.5\nBBBBBBBBBBB,1,4,0.5,0.5\n")
    drawn = {clip.clip_id: clip.split for clip in load_clips(clips_csv, None, test_share=0.5)}
    other = {clip_id: "train" if split == "test" else "test" for clip_id, split in drawn.items()}
    rows = "".join(f"{clip_id},{split}\n" for clip_id, split in other.items())
    stored = _write(tmp_path / "splits.csv", "clip_id,split\n" + rows)
    assert read_split(stored) == other
    again = load_clips(clips_csv, None, test_share=0.5, split_csv=stored)
    assert {clip.clip_id: clip.split for clip in again} == other


@pytest.mark.parametrize(
    ("name", "n_rows"), [("headerless_with_bom.csv", 130), ("indexed_with_header_500.csv", 500)]
)
def test_clip_list_real_excerpts_have_all_rows(shared_data, name, n_rows):
    rows = list(read_clip_list(shared_data / "avspeech_csv" / name))
    assert len(rows) == n_rows
    bad = {row.line_number: row.message for row in rows if isinstance(row, BadRow)}
    # one face of the 630 lies outside its frame, at x 1.97, y 1.04
    assert bad == ({} if n_rows == 130 else {490: bad.get(490)})
    assert all(2.9 <= clip.duration_s <= 15.1 for clip in rows if isinstance(clip, ClipRef))
