"""Clips of AVSpeech: the rows of its CSV, and the media files of the clips.

The CSV has one row per clip, `youtube_id,start_s,end_s,x,y`, with or without a byte order mark, a header
and an index column. A malformed row becomes a `BadRow`; the other rows are not affected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s2f_lib.errors import InputError, MissingFileError
from s2f_lib.sources.clip import VIDEO_ID, ClipRef, make_clip_id
from s2f_lib.sources.public_pairs import files_by_stem
from s2f_lib.sources.splits import read_file_split, read_video_split, split_of_video

_EXTENSIONS = "mp4 m4v mkv webm mov mpg mpeg avi ts flv wmv 3gp"
MEDIA_EXTENSIONS = tuple(f".{name}" for name in _EXTENSIONS.split())

_COLUMNS = ("id", "start", "end", "x", "y")
_LIST_FORMAT = "expected a CSV of id,start_s,end_s,x,y"
_HEADER_NAMES = (  # column names of published copies of the list, in lower case
    {"id", "youtube_id", "youtube id", "ytid", "video_id"},
    {"start", "start_s", "start_segment", "start segment", "start_time"},
    {"end", "end_s", "end_segment", "end segment", "end_time"},
    {"x", "x_coordinate", "x coordinate"},
    {"y", "y_coordinate", "y coordinate"},
)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of the clip list that does not describe a clip."""

    line_number: int  # in the file, from 1
    text: str  # the row in the file, cut to 200 characters
    message: str  # what is wrong with the row and what was expected

    @property
    def key(self) -> str:
        """Name of the row in the ledger."""
        return f"row {self.line_number}"


def read_clip_list(path: Path, *, youtube_ids: bool = True) -> Iterator[ClipRef | BadRow]:
    """Read an AVSpeech CSV, row by row and in bounded memory; the clips have no media file and no split.

    Without `youtube_ids`, an id is any text without a comma. A header may name the columns in another order.
    The call itself fails if the file is missing (MissingFileError), empty or not text (InputError).
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no clip list at {path}: {_LIST_FORMAT}")
    with path.open("rb") as stream:
        head = stream.read(8192)
    if not head.strip():
        raise InputError(f"{path} is empty: {_LIST_FORMAT}")
    if b"\0" in head:
        raise InputError(f"{path} is not a text file: {_LIST_FORMAT} in UTF-8")
    return _rows(path, youtube_ids=youtube_ids)


def find_media(clips: Iterable[ClipRef | BadRow], media_dir: Path) -> Iterator[ClipRef | BadRow]:
    """Add to each clip its media file: `<clip id>.<ext>`, otherwise `<video id>.<ext>` or `<video id>`.

    The file may hold the clip or the whole video: its length tells the preparation which. A clip without a
    file keeps `media=None`. Bad rows are returned unchanged.
    """
    media_dir = Path(media_dir)
    if not media_dir.is_dir():
        raise MissingFileError(f"no media folder at {media_dir}: expected a folder of <id>.<ext> video files")
    names = files_by_stem(media_dir, MEDIA_EXTENSIONS)  # one listing for all clips
    names |= {name: name for name in names.values()}

    def with_media(clip: ClipRef | BadRow) -> ClipRef | BadRow:
        if isinstance(clip, BadRow):
            return clip
        name = names.get(clip.clip_id, names.get(clip.video_id))
        return replace(clip, media=media_dir / name) if name else clip

    return map(with_media, clips)


def load_clips(
    csv_path: Path,
    media_dir: Path | None,
    *,
    test_share: float = 0.05,
    seed: int = 0,
    split_csv: Path | None = None,
    youtube_ids: bool | None = None,
) -> Iterator[ClipRef | BadRow]:
    """Read a clip list and add media files and splits: the input of the preparation.

    Parameters
    ----------
    csv_path
        The clip list; see `read_clip_list`.
    media_dir
        Folder of media files; see `find_media`. None: the clips have no media file.
    test_share
        Share of the videos that go into the test split, in (0, 1).
    seed
        Seed of the drawn split.
    split_csv
        Stored split. A video that it does not name gets a drawn split.
    youtube_ids
        Whether each id must have the form of YouTube's ids, as downloads need; other rows are bad rows. None:
        True if no media folder is given.

    Returns
    -------
    iterator of ClipRef or BadRow
        Rows in the order of the list.

    Raises
    ------
    InputError
        A file is missing or malformed. All files are checked before the first row is returned.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> csv = Path(mkdtemp()) / "clips.csv"
    >>> _ = csv.write_text("AAAAAAAAAAA,1,4.5,0.5,0.5\\nAAAAAAAAAAA,7,9,0.5,0.5\\n")
    >>> [clip.split for clip in load_clips(csv, None, test_share=0.2)]
    ['train', 'train']
    """
    youtube_ids = media_dir is None if youtube_ids is None else youtube_ids
    clips = read_clip_list(csv_path, youtube_ids=youtube_ids)
    if media_dir is not None:
        clips = find_media(clips, media_dir)
    stored: dict[str, str] = {}
    if split_csv:
        stored = read_video_split(split_csv) if youtube_ids else read_file_split(split_csv)

    def with_split(clip: ClipRef | BadRow) -> ClipRef | BadRow:
        if isinstance(clip, BadRow):
            return clip
        split = stored.get(clip.video_id) or split_of_video(clip.video_id, test_share=test_share, seed=seed)
        return replace(clip, split=split)

    return map(with_split, clips)


def _rows(path: Path, *, youtube_ids: bool) -> Iterator[ClipRef | BadRow]:
    columns: list[int] | None = None  # index of each of `_COLUMNS`; None if the file has no header
    n_columns = 0
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for line_number, line in enumerate(stream, 1):
            text = line.strip()
            if not text:
                continue
            # AVSpeech quotes nothing; a CSV parser would let a stray quote swallow the rows that follow
            cells = [cell.strip().strip('"').strip() for cell in text.split(",")]
            if not n_columns:
                columns, n_columns = _column_indices(cells), len(cells)
                if columns is not None:
                    continue
            row: ClipRef | BadRow
            try:
                row = _parse_row(cells, columns, n_columns=n_columns, text=text, youtube_ids=youtube_ids)
            except ValueError as error:
                row = BadRow(line_number, text[:200], f"row {line_number}: {error}")
            yield row


def _column_indices(cells: Sequence[str]) -> list[int] | None:
    """Return the index of each of `_COLUMNS`; None if the row is not a header."""
    found = [[i for i, cell in enumerate(cells) if cell.lower() in names] for names in _HEADER_NAMES]
    return [indices[0] for indices in found] if all(len(indices) == 1 for indices in found) else None


def _parse_row(
    cells: Sequence[str], columns: Sequence[int] | None, *, n_columns: int, text: str, youtube_ids: bool
) -> ClipRef:
    """Return the clip of a row; a ValueError says what is wrong with the row."""
    if columns is None:
        if len(cells) not in (5, 6):
            raise ValueError(
                f"{len(cells)} columns in {text[:60]!r}; "
                "expected 5 columns (id, start_s, end_s, x, y), or 6 with an index first"
            )
        cells = cells[-5:]
    else:
        if len(cells) != n_columns:
            raise ValueError(
                f"{len(cells)} columns in {text[:60]!r}; expected {n_columns}, as the header has"
            )
        cells = [cells[index] for index in columns]
    video_id = cells[0]
    if not video_id:
        raise ValueError("the id is empty")
    if youtube_ids and not VIDEO_ID.fullmatch(video_id):
        raise ValueError(f"id {video_id!r}; expected 11 characters of A-Z, a-z, 0-9, _ and -")
    start_s, end_s, x, y = (
        _to_number(name, cell) for name, cell in zip(_COLUMNS[1:], cells[1:], strict=True)
    )
    if start_s < 0:
        raise ValueError(f"start is {start_s:g} s; expected 0 or more")
    if end_s <= start_s:
        raise ValueError(f"end {end_s:g} s is not after start {start_s:g} s")
    for name, value in (("x", x), ("y", y)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value:g}; expected a share of the frame between 0 and 1")
    return ClipRef(make_clip_id(video_id, start_s, end_s), video_id, start_s, end_s, x, y)


def _to_number(name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is {cell!r}; expected a number")
    return value
