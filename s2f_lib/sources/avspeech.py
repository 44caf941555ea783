"""Clips of AVSpeech: its CSV as people have it, and the media files that it names.

The CSV holds a row a clip: `youtube_id,start_s,end_s,x,y`, with or without a byte
order mark, a header and an index column.  A malformed row is handed on as a
`BadRow`; the others go on.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.clip import VIDEO_ID, ClipRef, make_clip_id

MEDIA_EXTENSIONS = (
    ".mp4",
    ".m4v",
    ".mkv",
    ".webm",
    ".mov",
    ".mpg",
    ".mpeg",
    ".avi",
    ".ts",
    ".flv",
    ".wmv",
    ".3gp",
)

_COLUMNS = ("id", "start", "end", "x", "y")
_EXPECTED = "expected 5 columns (id, start_s, end_s, x, y), or 6 with an index first"
_HEADER_NAMES = {  # as published re-packings name them, lower case
    "id": {"id", "youtube_id", "youtube id", "ytid", "video_id"},
    "start": {"start", "start_s", "start_segment", "start segment", "start_time"},
    "end": {"end", "end_s", "end_segment", "end segment", "end_time"},
    "x": {"x", "x_coordinate", "x coordinate"},
    "y": {"y", "y_coordinate", "y coordinate"},
}


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of the clip list that is not a clip.

    Attributes
    ----------
    line_number
        In the file, from 1.
    text
        The row as it stands, cut to 200 characters.
    message
        What is wrong and what was expected; it names the row.
    """

    line_number: int
    text: str
    message: str

    @property
    def key(self) -> str:
        """The row's name in the ledger."""
        return f"row {self.line_number}"


def read_clip_list(path: Path) -> Iterator[ClipRef | BadRow]:
    """Read an AVSpeech CSV, row by row, in bounded memory.

    Parameters
    ----------
    path
        The CSV.

    Yields
    ------
    ClipRef or BadRow
        In the file's order; `media` and `split` are still None.

    Raises
    ------
    MissingFileError
        No file is there.
    InputError
        The file is empty, or is not text.
    """
    path = Path(path)
    _check_is_text(path)  # at the call, not at the first row

    def rows() -> Iterator[ClipRef | BadRow]:
        order = None
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            for line_number, line in enumerate(stream, 1):
                text = line.strip()
                if not text:
                    continue
                # split by hand: AVSpeech quotes nothing, and a stray quote must not swallow the rows after it
                cells = [cell.strip().strip('"').strip() for cell in text.split(",")]
                if order is None:
                    order = _header_order(cells)
                    if order is not None:
                        continue
                    order = {}
                yield _parse_row(cells, order, line_number=line_number, text=text[:200])

    return rows()


def find_media(clips: Iterable[ClipRef | BadRow], media_dir: Path) -> Iterator[ClipRef | BadRow]:
    """Attach to each clip its file: `<clip id>.<ext>`, else `<video id>.<ext>`.

    A file may be the clip itself or the whole video; `preparation.stages.locate_clip` tells.
    Clips without a file keep `media=None`, and bad rows pass through.

    Raises
    ------
    MissingFileError
        `media_dir` is not a folder.
    """
    media_dir = Path(media_dir)
    if not media_dir.is_dir():
        raise MissingFileError(f"no media folder at {media_dir}: expected a folder of <id>.<ext> video files")
    names: dict[str, str] = {}  # stem -> file name; the listing is read once, not once a clip
    with os.scandir(media_dir) as entries:
        for entry in sorted(entry.name for entry in entries if entry.is_file()):
            stem, _, extension = entry.rpartition(".")
            if f".{extension.lower()}" in MEDIA_EXTENSIONS:
                names.setdefault(stem, entry)

    def attached() -> Iterator[ClipRef | BadRow]:
        for clip in clips:
            if isinstance(clip, ClipRef):
                name = names.get(clip.clip_id) or names.get(clip.video_id)
                clip = replace(clip, media=media_dir / name) if name else clip
            yield clip

    return attached()


def split_of(video_id: str, *, test_share: float, seed: int = 0) -> str:
    """Return "train" or "test", a function of the video's id and the seed alone.

    So all clips of a video fall on one side, whatever the list's order.
    """
    digest = hashlib.sha256(f"{seed}:{video_id}".encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") / 2**64 < test_share else "train"


def read_splits(path: Path) -> dict[str, str]:
    """Read a stored split, a CSV `clip_id,split` with header.

    Returns
    -------
    dict
        Clip id to "train" or "test".

    Raises
    ------
    MissingFileError
        No file is there.
    InputError
        A row is malformed, or a video stands on both sides.
    """
    path = Path(path)
    _check_is_text(path)
    splits: dict[str, str] = {}
    side_of_video: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for row in csv.reader(stream):
            if not row or row == ["clip_id", "split"]:
                continue
            if len(row) != 2 or row[1] not in ("train", "test"):
                raise InputError(
                    f"{path.name}: row {','.join(row)!r}: expected clip_id,split with train or test"
                )
            clip_id, split = row
            if side_of_video.setdefault(clip_id[:11], split) != split:
                raise InputError(f"{path.name}: video {clip_id[:11]} is in train and in test; split by video")
            splits[clip_id] = split
    return splits


def load_clips(
    csv_path: Path,
    media_dir: Path | None,
    *,
    test_share: float = 0.05,
    seed: int = 0,
    splits_csv: Path | None = None,
) -> Iterator[ClipRef | BadRow]:
    """Read a CSV, attach media files and splits: what `preparation.pipeline.prepare` takes.

    Parameters
    ----------
    csv_path, media_dir
        As `read_clip_list` and `find_media`; without `media_dir` no file is attached.
    test_share, seed
        As `split_of`.
    splits_csv
        A stored split, which then goes before the drawn one; a clip that it lacks is drawn
        with the rest of its video.

    Raises
    ------
    InputError
        A file is missing or malformed; all of this is checked at the call.
    """
    clips = read_clip_list(csv_path)
    if media_dir is not None:
        clips = find_media(clips, media_dir)
    stored = {clip_id[:11]: split for clip_id, split in read_splits(splits_csv).items()} if splits_csv else {}

    def with_split(clip: ClipRef | BadRow) -> ClipRef | BadRow:
        if isinstance(clip, BadRow):
            return clip
        split = stored.get(clip.video_id) or split_of(clip.video_id, test_share=test_share, seed=seed)
        return replace(clip, split=split)

    return map(with_split, clips)


def _check_is_text(path: Path) -> None:
    if not path.is_file():
        raise MissingFileError(f"no clip list at {path}: expected a CSV of id,start_s,end_s,x,y")
    with path.open("rb") as stream:
        head = stream.read(8192)
    if not head.strip():
        raise InputError(f"{path} is empty: expected a CSV of id,start_s,end_s,x,y")
    if b"\0" in head:
        raise InputError(f"{path} is not a text file: expected a CSV of id,start_s,end_s,x,y in UTF-8")


def _header_order(cells: list[str]) -> dict[str, int] | None:
    """Return column name -> place where the first row is a header, else None."""
    lower = [cell.lower() for cell in cells]
    order = {}
    for column, names in _HEADER_NAMES.items():
        indices = [index for index, cell in enumerate(lower) if cell in names]
        if len(indices) != 1:
            return None
        order[column] = indices[0]
    return order | {"n_columns": len(cells)}


def _parse_row(
    cells: list[str], order: Mapping[str, int], *, line_number: int, text: str
) -> ClipRef | BadRow:
    def bad(what: str) -> BadRow:
        return BadRow(line_number, text, f"row {line_number}: {what}")

    n_expected = order.get("n_columns")
    if (n_expected and len(cells) != n_expected) or (not n_expected and len(cells) not in (5, 6)):
        expected = f"expected {n_expected}, as the header has" if n_expected else _EXPECTED
        return bad(f"{len(cells)} columns in {text[:60]!r}; {expected}")
    if n_expected:
        cells = [cells[order[column]] for column in _COLUMNS]
    video_id, *numbers = cells[-5:]  # an index column, if any, comes first
    if not VIDEO_ID.fullmatch(video_id):
        return bad(f"id {video_id!r}; expected 11 characters of A-Z, a-z, 0-9, _ and -")
    values = []
    for column, cell in zip(_COLUMNS[1:], numbers, strict=True):
        value = _to_number(cell)
        if value is None:
            return bad(f"{column} is {cell!r}; expected a number")
        values.append(value)
    start_s, end_s, x, y = values
    if start_s < 0:
        return bad(f"start is {start_s:g} s; expected 0 or more")
    if end_s <= start_s:
        return bad(f"end {end_s:g} s is not after start {start_s:g} s")
    for column, value in (("x", x), ("y", y)):
        if not 0 <= value <= 1:
            return bad(f"{column} is {value:g}; expected a share of the frame between 0 and 1")
    return ClipRef(make_clip_id(video_id, start_s, end_s), video_id, start_s, end_s, x, y)


def _to_number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
