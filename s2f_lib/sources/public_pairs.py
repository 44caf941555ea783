"""The face-voice pairs that Speech2Face's authors publish on their project page.

A folder holds `avspeech_res/` and perhaps `voxceleb/`. Each has four sub-folders with files of the same
names: `Wav` (6 s of speech), `Face_ori` (the true face), `Face_f2f` (their decoder's reconstruction from the
features of the true face) and `Face_exg0` (their reconstruction from speech). In a clone of their
repository, the folder is `figures/`.

The file name identifies the person. An AVSpeech name is `<video id>_<start>-<end>`, and each video counts as
one person. A VoxCeleb name is `<digits><Person_Name>_<video id>_<number>`. A split never divides a video or a
person.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s2f_lib.errors import InputError, MissingFileError

logger = logging.getLogger(__name__)

SetName = Literal["avspeech", "voxceleb"]

# name of a data set to the name of its folder
_SET_FOLDERS: dict[SetName, str] = {"avspeech": "avspeech_res", "voxceleb": "voxceleb"}
_IMAGES = (".jpg", ".jpeg", ".png")
_MEMBERS = {
    "audio": ("Wav", (".wav", ".flac")),
    "face": ("Face_ori", _IMAGES),
    "face_from_speech": ("Face_exg0", _IMAGES),
    "face_from_face": ("Face_f2f", _IMAGES),
}
# files that a pair needs; the reconstruction from the true face is only shown, so it may be missing
_NEEDED = ("audio", "face", "face_from_speech")

_AVSPEECH_NAME = re.compile(r"(?P<video>[\w-]{11})_\d+(?:\.\d+)?-\d+(?:\.\d+)?", re.ASCII)
_VOXCELEB_NAME = re.compile(r"\d*(?P<person>\D.*)_(?P<video>[A-Za-z0-9_-]{11})_\d+")


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of a voice, its face, and Speech2Face's reconstructions of the face."""

    clip_id: str  # name of the files without the suffix
    set_name: SetName
    video_id: str
    person: str  # the video id if the file name does not name a person
    audio: Path
    face: Path
    face_from_speech: Path
    face_from_face: Path | None = None


@dataclass(frozen=True)
class FoundPairs:
    """The pairs of a folder."""

    pairs: tuple[Pair, ...]  # complete pairs, sorted by data set and name
    missing: dict[str, tuple[str, ...]]  # clip id to the folders in which a file is missing


def identify(clip_id: str) -> tuple[str, str]:
    """Return the video id and the person of a clip's name.

    If the name has neither form, both are its first 11 characters, as for an AVSpeech id.
    """
    if match := _AVSPEECH_NAME.fullmatch(clip_id):
        return match["video"], match["video"]
    if match := _VOXCELEB_NAME.fullmatch(clip_id):
        return match["video"], match["person"].strip("_")
    return clip_id[:11], clip_id[:11]


def find_root(root: Path) -> Path:
    """Return the folder that holds `avspeech_res` or `voxceleb`: `root` itself, or `figures` in a clone."""
    root = Path(root)
    for folder in (root, root / "figures"):
        if any((folder / name).is_dir() for name in _SET_FOLDERS.values()):
            return folder
    expected = "expected a folder with avspeech_res/Wav, avspeech_res/Face_ori and avspeech_res/Face_exg0"
    if not root.is_dir():
        raise MissingFileError(f"no folder of pairs at {root}: {expected}, or a clone of its repository")
    raise MissingFileError(f"{root} holds neither avspeech_res nor voxceleb: {expected}")


def find_pairs(root: Path, *, voxceleb: bool = False) -> FoundPairs:
    """List the pairs in a folder.

    Parameters
    ----------
    root
        Folder that holds `avspeech_res`, or a clone of the authors' repository.
    voxceleb
        Whether to list VoxCeleb's pairs, too. If so, AVSpeech's pairs may be missing.

    Raises
    ------
    MissingFileError
        A folder is missing.
    InputError
        There is no complete pair; the message counts the missing files.

    See Also
    --------
    s2f_lib.sources.splits.draw_splits : Draws train and test splits of the pairs.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> root = Path(mkdtemp())
    >>> for name in ("Wav/voice.wav", "Face_ori/voice.png", "Face_exg0/voice.png"):
    ...     file = root / "avspeech_res" / name
    ...     file.parent.mkdir(parents=True)
    ...     file.touch()
    >>> [pair.clip_id for pair in find_pairs(root).pairs]
    ['voice']
    """
    folder = find_root(root)
    pairs: list[Pair] = []
    missing: dict[str, tuple[str, ...]] = {}
    for set_name, set_folder in _SET_FOLDERS.items():
        if set_name == "voxceleb" and not voxceleb:
            continue
        if (folder / set_folder).is_dir():
            _add_pairs(folder / set_folder, set_name, pairs, missing)
        elif set_name == "avspeech" and voxceleb:
            logger.warning("%s holds no avspeech_res: only the VoxCeleb pairs are used", folder)
        else:
            hint = ": leave --voxceleb out, or give the folder that holds both" if voxceleb else ""
            raise MissingFileError(f"{folder} holds no folder {set_folder}{hint}")
    if not pairs:
        counts = {name: sum(name in lacks for lacks in missing.values()) for name, _ in _MEMBERS.values()}
        listed = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
        raise InputError(
            f"{folder} holds no complete pair: each of {len(missing)} names lacks a file ({listed})"
        )
    if missing:
        n_names = len(pairs) + len(missing)
        logger.warning("%d of %d names are left out: a file is missing", len(missing), n_names)
    return FoundPairs(tuple(pairs), missing)


def group_ids_of(pairs: Sequence[Pair]) -> list[int]:
    """Return the group of each pair; pairs that share a video or a person are in the same group.

    Groups are numbered from 0 in the order of their first pairs.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root_of(key: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for pair in pairs:
        parent[root_of(("person", pair.person))] = root_of(("video", pair.video_id))
    numbers: dict[tuple[str, str], int] = {}
    return [numbers.setdefault(root_of(("video", pair.video_id)), len(numbers)) for pair in pairs]


def files_by_stem(folder: Path, suffixes: Container[str]) -> dict[str, str]:
    """Return the name without its suffix to the name, for the files with one of the suffixes.

    Names contain dots, so only the part after the last dot is the suffix.
    """
    found: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries if entry.is_file()):
            stem, dot, suffix = name.rpartition(".")
            if stem and not stem.startswith(".") and f"{dot}{suffix.lower()}" in suffixes:
                found.setdefault(stem, name)
    return found


def _add_pairs(
    folder: Path, set_name: SetName, pairs: list[Pair], missing: dict[str, tuple[str, ...]]
) -> None:
    files: dict[str, dict[str, Path]] = {}
    for member, (name, suffixes) in _MEMBERS.items():
        if (folder / name).is_dir():
            names = files_by_stem(folder / name, suffixes)
            files[member] = {stem: folder / name / file for stem, file in names.items()}
        elif member in _NEEDED:
            raise MissingFileError(f"{folder} holds no folder {name}")
    for clip_id in sorted(set().union(*files.values())):
        lacking = tuple(_MEMBERS[member][0] for member in _NEEDED if clip_id not in files[member])
        if lacking:
            missing[clip_id] = lacking
            continue
        video_id, person = identify(clip_id)
        audio, face, face_from_speech = (files[member][clip_id] for member in _NEEDED)
        face_from_face = files.get("face_from_face", {}).get(clip_id)
        pairs.append(Pair(clip_id, set_name, video_id, person, audio, face, face_from_speech, face_from_face))
