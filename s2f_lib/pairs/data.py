"""The public pairs of a folder: found, split into train and test, and read into arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from s2f_lib.config import PairsConfig
from s2f_lib.errors import NAMES_CLIP, ClipRefused, ConfigError, InputError, MissingFileError
from s2f_lib.pairs.faces import FaceFeatures, extract_faces, read_image, read_voice
from s2f_lib.pairs.model import TrainingPairs
from s2f_lib.sources.public_pairs import FoundPairs, Pair, find_pairs, find_root, group_ids_of
from s2f_lib.sources.splits import PairSplit, draw_splits, read_pair_split
from s2f_lib.voices.embedding import AcousticEmbedding, VoiceEmbedding, embed_voices

logger = logging.getLogger(__name__)

#: Called with (done, total, name of the step).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PairData:
    """The arrays that the systems read, one row per pair."""

    pairs: tuple[Pair, ...]
    group_ids: np.ndarray  # (n,) int, number of the video or person of each pair
    audio: np.ndarray  # (n, 96_000) int16, voices at 16 kHz
    voices: Mapping[str, np.ndarray]  # block name to voice embeddings, (n, d) float32
    faces: FaceFeatures  # features of the true faces
    reconstructions: np.ndarray  # (n, 128) float32, features of Speech2Face's reconstructions
    #: Name of each voice network to the fingerprint of its weights and method.
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def training(self, rows: np.ndarray) -> TrainingPairs:
        """Return some of the pairs to train on."""
        voices = {name: block[rows] for name, block in self.voices.items()}
        return TrainingPairs(
            voices, self.faces.upright[rows], self.faces.mirrored[rows], self.group_ids[rows]
        )


def find_and_split(source: PairsConfig) -> tuple[FoundPairs, list[PairSplit]]:
    """Find the public pairs of a folder, and read the stored split or draw `source.n_splits` random ones.

    The splits are rows of `found.pairs`. A folder that is not set raises a ConfigError; a folder or a split
    that cannot be used raises an InputError.
    """
    if source.root is None:
        raise ConfigError(
            "source.pairs.root is not set: name the folder of the pairs, for example "
            "-p source.pairs.root=speech2face.github.io"
        )
    found = find_pairs(source.root, voxceleb=source.voxceleb)
    if source.split is None:
        return found, draw_splits(
            found.pairs, n_splits=source.n_splits, test_share=source.test_share, seed=source.seed
        )
    known = list(found.missing)
    root = find_root(source.root)
    if not source.voxceleb and (root / "voxceleb").is_dir():  # a split may name pairs that are not used
        both = find_pairs(root, voxceleb=True)
        known += [pair.clip_id for pair in both.pairs] + list(both.missing)
    return found, [read_pair_split(source.split, found.pairs, known=known)]


def load_pair_data(
    found: FoundPairs, *, cache: Path | None, progress: Progress | None = None
) -> tuple[PairData, dict[str, str]]:
    """Read the pairs and compute the features of their voices and faces.

    Returns the pairs that can be read, and a dict from the clip id of each other pair to the reason why it is
    left out. If no pair can be read, an InputError is raised. `cache` is the folder of the cached features;
    None: no files. `progress` is called with (done, total, name of the step).
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

    def step(name: str) -> Callable[[int, int], None]:
        return lambda done, total: report(done, total, name)

    audio = np.stack(sounds)
    faces = extract_faces([pair.face for pair in pairs], cache=cache, progress=step("faces"))
    reconstructions = extract_faces(
        [pair.face_from_speech for pair in pairs],
        mirrored=False,
        cache=cache,
        progress=step("reconstructions"),
    )
    voices: dict[str, np.ndarray] = {}
    fingerprints = {}
    for extractor in voice_extractors():
        name = extractor.name
        embeddings = embed_voices(extractor, audio, cache=cache, progress=step(f"voices by {name}"))
        voices |= {block: embeddings[:, part] for block, part in extractor.blocks.items()}
        fingerprints[name] = extractor.fingerprint
    group_ids = np.array(group_ids_of(pairs))
    upright = reconstructions.upright
    return PairData(tuple(pairs), group_ids, audio, voices, faces, upright, fingerprints), left_out


def voice_extractors() -> list[VoiceEmbedding]:
    """Return the pretrained voice networks that are installed, or acoustic statistics if there are none."""
    from s2f_lib.voices.speaker import SpeakerEmbedding
    from s2f_lib.voices.whisper import WhisperEmbedding

    installed: list[VoiceEmbedding] = []
    for make in (WhisperEmbedding, SpeakerEmbedding):
        try:
            installed.append(make())
        except MissingFileError as error:
            logger.warning("the system ours runs without %s: %s", make.name, error)
    if not installed:
        logger.warning(
            "no pretrained voice network is installed: acoustic statistics are used, which find less"
        )
        installed.append(AcousticEmbedding())
    return installed
