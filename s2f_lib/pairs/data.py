"""The real pairs as arrays: read, described, and each description kept for the next time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2f_lib.errors import NAMES_CLIP, ClipRefused, InputError, MissingFileError
from s2f_lib.pairs.faces import extract_faces
from s2f_lib.pairs.media import read_image, read_voice
from s2f_lib.pairs.systems import PairData
from s2f_lib.sources.public_pairs import FoundPairs, Pair, group_ids_of
from s2f_lib.voices.embedding import VoiceEmbedding, embed_voices

logger = logging.getLogger(__name__)

#: Called with (done, of all, what is being done).
Progress = Callable[[int, int, str], None]


def load_pair_data(
    found: FoundPairs, *, cache: Path | None, progress: Progress | None = None
) -> tuple[PairData, dict[str, str]]:
    """Read and describe pairs.

    Parameters
    ----------
    found
        As `sources.public_pairs.find_pairs` gives.
    cache
        Folder for descriptions; None: nothing is kept.

    Returns
    -------
    data
        The pairs that could be read.
    left_out
        Clip id to why it is left out, those of `found.missing` included.

    Raises
    ------
    InputError
        No pair can be read.
    DataError
        Installed weights are other than those that the study was made with.
    """
    report = progress or (lambda *_: None)
    left_out = {clip_id: f"no file in {', '.join(names)}" for clip_id, names in found.missing.items()}
    pairs: list[Pair] = []
    sounds: list[np.ndarray] = []
    for index, pair in enumerate(found.pairs):
        try:
            sound, _ = read_voice(pair.audio)
            read_image(pair.face)
            read_image(pair.face_from_speech)
        except ClipRefused as refused:
            left_out[pair.clip_id] = str(refused)
            logger.warning("%s is left out: %s", pair.clip_id, refused, extra=NAMES_CLIP)
        else:
            pairs.append(pair)
            sounds.append(sound)
        report(index + 1, len(found.pairs), "pairs read")
    if not pairs:
        raise InputError(f"none of {len(found.pairs)} pairs can be read: {next(iter(left_out.values()))}")
    audio = np.stack(sounds)
    faces = extract_faces(
        [pair.face for pair in pairs],
        cache=cache,
        progress=lambda done, n: report(done, n, "faces described"),
    )
    reconstructions = extract_faces(
        [pair.face_from_speech for pair in pairs],
        mirrored=False,
        cache=cache,
        progress=lambda done, n: report(done, n, "reconstructions described"),
    )
    voices, fingerprints = {}, {}
    for extractor in voice_extractors():
        name = extractor.name
        embeddings = embed_voices(
            extractor,
            audio,
            cache=cache,
            progress=lambda done, n, name=name: report(done, n, f"voices by {name}"),
        )
        voices |= {block: embeddings[:, part] for block, part in extractor.blocks.items()}
        fingerprints[name] = extractor.fingerprint
    data = PairData(
        tuple(pairs),
        np.array(group_ids_of(pairs)),
        audio,
        voices,
        faces,
        reconstructions.upright,
        fingerprints,
    )
    return data, left_out


def voice_extractors() -> list[VoiceEmbedding]:
    """Return the pretrained voice networks that are installed; without any, plain acoustics."""
    from s2f_lib.voices.embedding import AcousticEmbedding
    from s2f_lib.voices.speaker import SpeakerEmbedding
    from s2f_lib.voices.whisper import WhisperEmbedding

    installed: list[VoiceEmbedding] = []
    for make in (WhisperEmbedding, SpeakerEmbedding):
        try:
            installed.append(make())
        except MissingFileError as error:
            logger.warning("the system ours does without %s: %s", make.name, error)
    if not installed:
        logger.warning("no pretrained voice network is installed: plain acoustics stand in, and find less")
        installed.append(AcousticEmbedding())
    return installed
