"""Clips of a folder of media files, with any file names, with or without video."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from s2f_lib.errors import ClipRefused, InputError, MissingFileError
from s2f_lib.media.decode import probe
from s2f_lib.sources.avspeech import MEDIA_EXTENSIONS
from s2f_lib.sources.clip import MIN_CLIP_S, ClipRef, make_clip_id
from s2f_lib.sources.splits import normalize_name, read_file_split, split_of_video

logger = logging.getLogger(__name__)

_SOUND = "wav mp3 m4a flac ogg oga opus aac aiff aif aifc caf amr wma ac3 au snd wv mka mp2 3ga"
_EXTENSIONS = frozenset(MEDIA_EXTENSIONS) | {f".{name}" for name in _SOUND.split()}


def list_media(
    folder: str | Path,
    *,
    max_clip_s: float | None = None,
    test_share: float = 0.05,
    seed: int = 0,
    split_csv: str | Path | None = None,
) -> Iterator[ClipRef]:
    """Return the media files of a folder and its subfolders as clips.

    A clip is named by the path of its file in the folder, with the suffix. Hidden files are ignored. Files
    whose suffix is not that of a media file are skipped; their number is logged.

    Parameters
    ----------
    folder
        Folder of video and sound files.
    max_clip_s
        Length of a clip, in seconds: longer files are cut into consecutive clips, of which the last is
        shorter. A remainder of less than 1 s is left out. None: each file is one clip.
    test_share
        Share of the files that go into the test split, in (0, 1).
    seed
        Seed of the random split.
    split_csv
        Stored split, CSV `clip_id,split`, with the names of files or of clips. A file that it does not name
        gets a random split. All clips of a file are in one split.

    Returns
    -------
    iterator of ClipRef
        Clips in the order of the files' paths. A file that cannot be opened is a clip of 0 s, which the
        preparation refuses with the reason.

    Raises
    ------
    InputError
        The folder is missing or holds no media file, `max_clip_s` is below 1 s, or the stored split names no
        file of the folder or divides a file.

    See Also
    --------
    s2f_lib.sources.avspeech.load_clips : Clips of a list.

    Examples
    --------
    >>> import wave
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> with wave.open(str(folder / "Jo, take 1.wav"), "wb") as file:
    ...     file.setparams((1, 2, 8_000, 0, "NONE", ""))
    ...     file.writeframes(bytes(16_000 * 5))
    >>> [(clip.clip_id, clip.end_s) for clip in list_media(folder)]
    [('Jo, take 1.wav', 5.0)]
    >>> [(clip.start_s, clip.end_s) for clip in list_media(folder, max_clip_s=2)]
    [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
    """
    folder = Path(folder)
    if max_clip_s is not None and not max_clip_s >= MIN_CLIP_S:
        raise InputError(f"max_clip_s is {max_clip_s:g}: expected at least {MIN_CLIP_S:g} s")
    if not folder.is_dir():
        raise MissingFileError(f"no media folder at {folder}: expected a folder of video or sound files")
    names = _media_names(folder)
    stored = read_file_split(split_csv) if split_csv else {}
    if stored and not any(normalize_name(name) in stored for name in names):
        raise InputError(
            f"{Path(split_csv or '').name} names no file of {folder}: "
            f"expected paths in the folder with their suffix, such as {names[0]}"
        )

    def clips(name: str) -> Iterator[ClipRef]:
        split = stored.get(normalize_name(name)) or split_of_video(name, test_share=test_share, seed=seed)
        try:
            duration_s = probe(folder / name).duration_s
        except ClipRefused:
            duration_s = 0.0
        if max_clip_s is None or duration_s <= max_clip_s:
            yield ClipRef(name, name, 0.0, duration_s, media=folder / name, split=split)
            return
        start_s = 0.0
        while duration_s - start_s >= MIN_CLIP_S:
            end_s = min(start_s + max_clip_s, duration_s)
            clip_id = make_clip_id(name, start_s, end_s)
            yield ClipRef(clip_id, name, start_s, end_s, media=folder / name, split=split)
            start_s = end_s

    return (clip for name in names for clip in clips(name))


def _media_names(folder: Path) -> list[str]:
    """Return the sorted paths of the media files in a folder, and log the number of other files."""
    names, other = [], Counter[str]()
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(root, file)
            if file.startswith("."):
                continue
            if path.suffix.lower() in _EXTENSIONS:
                names.append(path.relative_to(folder).as_posix())
            else:
                other[path.suffix.lower() or "no suffix"] += 1
    if other:
        suffixes = ", ".join(f"{n} {suffix}" for suffix, n in other.most_common())
        logger.warning("skipped in %s, because they are not media: %s", folder, suffixes)
    if not names:
        raise InputError(f"{folder} holds no video and no sound file")
    for name in names:
        if re.search("[\ud800-\udfff]", name):
            raise InputError(f"the file name {name!r} in {folder} is not UTF-8: rename the file")
    return sorted(names)
