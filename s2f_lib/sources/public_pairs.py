"""The face-voice pairs that Speech2Face's authors publish on their project page.

A folder holds `avspeech_res/` and perhaps `voxceleb/`, each with four folders of
files of one name: `Wav` (6 s of speech), `Face_ori` (the true face), `Face_f2f`
(their decoder's drawing from the true face's features) and `Face_exg0` (their
reconstruction from speech).  A clone of their repository holds it as `figures/`.

Who is who is told by the names.  AVSpeech's are `<video id>_<start>-<end>`; one
video is taken as one person.  VoxCeleb's are `<digits><Person_Name>_<video id>_<number>`;
one name is one person.  Splits never divide a video or a person.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s2f_lib.errors import InputError, MissingFileError

logger = logging.getLogger(__name__)

SetName = Literal["avspeech", "voxceleb"]

#: Set to the name of its folder.
SET_FOLDERS: dict[str, str] = {"avspeech": "avspeech_res", "voxceleb": "voxceleb"}
_MEMBERS = {
    "audio": ("Wav", (".wav", ".flac")),
    "face": ("Face_ori", (".jpg", ".jpeg", ".png")),
    "face_from_speech": ("Face_exg0", (".jpg", ".jpeg", ".png")),
    "face_from_face": ("Face_f2f", (".jpg", ".jpeg", ".png")),
}
#: Without one of these a pair cannot be used; the drawing from the true face is only looked at.
NEEDED = ("audio", "face", "face_from_speech")

_AVSPEECH_NAME = re.compile(r"(?P<video>[\w-]{11})_\d+(?:\.\d+)?-\d+(?:\.\d+)?", re.ASCII)
_VOXCELEB_NAME = re.compile(r"\d*(?P<person>\D.*)_(?P<video>[A-Za-z0-9_-]{11})_\d+")


@dataclass(frozen=True, slots=True)
class Pair:
    """One voice, its face, and what Speech2Face drew of it.

    Attributes
    ----------
    clip_id
        The files' name without its ending.
    set_name
        "avspeech" or "voxceleb".
    video_id, person
        Of the name; see the module.  Person is the video's id where no name is known.
    audio, face, face_from_speech
        Files.
    face_from_face
        File, or None where it is missing.
    """

    clip_id: str
    set_name: SetName
    video_id: str
    person: str
    audio: Path
    face: Path
    face_from_speech: Path
    face_from_face: Path | None = None


@dataclass(frozen=True)
class FoundPairs:
    """What a folder holds.

    Attributes
    ----------
    pairs
        Whole pairs, by set and then by name.
    missing
        Clip id to the names of the folders in which it is missing.
    """

    pairs: tuple[Pair, ...]
    missing: dict[str, tuple[str, ...]]


def identify(clip_id: str) -> tuple[str, str]:
    """Return the video's id and the person that a clip's name tells.

    A name of neither form counts by its first 11 characters, as AVSpeech's ids do.
    """
    if match := _AVSPEECH_NAME.fullmatch(clip_id):
        return match["video"], match["video"]
    if match := _VOXCELEB_NAME.fullmatch(clip_id):
        return match["video"], match["person"].strip("_")
    return clip_id[:11], clip_id[:11]


def find_root(root: Path) -> Path:
    """Return the folder that holds `avspeech_res` or `voxceleb`: `root`, or a clone's `figures`.

    Raises
    ------
    MissingFileError
        Neither is there.
    """
    root = Path(root)
    for folder in (root, root / "figures"):
        if any((folder / name).is_dir() for name in SET_FOLDERS.values()):
            return folder
    expected = "expected a folder with avspeech_res/Wav, avspeech_res/Face_ori and avspeech_res/Face_exg0"
    if not root.is_dir():
        raise MissingFileError(f"no folder of pairs at {root}: {expected}, or a clone of its repository")
    raise MissingFileError(f"{root} holds neither avspeech_res nor voxceleb: {expected}")


def find_pairs(root: Path, *, voxceleb: bool = False) -> FoundPairs:
    """List the pairs of a folder.

    Parameters
    ----------
    root
        As `find_root`.
    voxceleb
        Also those of VoxCeleb.  AVSpeech's may then be missing.

    Raises
    ------
    MissingFileError
        A folder is missing.
    InputError
        No name has all that is needed; the message counts what is missing.
    """
    folder = find_root(root)
    wanted: tuple[SetName, ...] = ("avspeech", "voxceleb") if voxceleb else ("avspeech",)
    pairs: list[Pair] = []
    missing: dict[str, tuple[str, ...]] = {}
    if voxceleb and not (folder / SET_FOLDERS["voxceleb"]).is_dir():
        raise MissingFileError(
            f"--voxceleb was asked for, but {folder} holds no folder voxceleb: "
            "leave the option out, or give the folder that holds both"
        )
    for set_name in wanted:
        set_folder = folder / SET_FOLDERS[set_name]
        if not set_folder.is_dir():
            if set_name == "avspeech" and voxceleb:
                logger.warning("%s holds no avspeech_res: only the pairs of VoxCeleb are used", folder)
                continue
            raise MissingFileError(f"{folder} holds no folder {set_folder.name}")
        found, lacking = _find_set(set_folder, set_name)
        pairs += found
        missing |= lacking
    if not pairs:
        counts = {name: sum(name in lacks for lacks in missing.values()) for name, _ in _MEMBERS.values()}
        listed = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
        raise InputError(
            f"{folder} holds no whole pair: of {len(missing)} names some file is missing in each ({listed})"
        )
    if missing:
        logger.warning(
            "%d of %d names are left out: a file is missing", len(missing), len(pairs) + len(missing)
        )
    return FoundPairs(tuple(pairs), missing)


def group_ids_of(pairs: Sequence[Pair]) -> list[int]:
    """Return a number for each pair: pairs that share a video or a person have the same one.

    Numbers follow the order of the pairs.
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


def _find_set(folder: Path, set_name: SetName) -> tuple[list[Pair], dict[str, tuple[str, ...]]]:
    files = {member: _files_by_stem(folder / name, ends) for member, (name, ends) in _MEMBERS.items()}
    for member in NEEDED:
        if not (folder / _MEMBERS[member][0]).is_dir():
            raise MissingFileError(f"{folder} holds no folder {_MEMBERS[member][0]}")
    pairs, missing = [], {}
    for clip_id in sorted(set().union(*files.values())):
        lacking = tuple(_MEMBERS[member][0] for member in NEEDED if clip_id not in files[member])
        if lacking:
            missing[clip_id] = lacking
            continue
        video_id, person = identify(clip_id)
        members = {member: found.get(clip_id) for member, found in files.items()}
        pairs.append(Pair(clip_id, set_name, video_id, person, **members))
    return pairs, missing


def _files_by_stem(folder: Path, endings: Iterable[str]) -> dict[str, Path]:
    """Return name without ending to file; names hold dots, so only the last one counts."""
    if not folder.is_dir():
        return {}
    found = {}
    with os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries if entry.is_file()):
            stem, dot, ending = name.rpartition(".")
            if stem and not stem.startswith(".") and f"{dot}{ending.lower()}" in endings:
                found.setdefault(stem, folder / name)
    return found
