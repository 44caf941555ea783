"""Made-up prepared clips, small enough to train on in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2f_lib.config import LossName, StudyConfig, load_config
from s2f_lib.media.jpeg import encode_jpeg
from s2f_lib.preparation.shards import PreparedClips, PreparedRow, shard_name, write_shard
from s2f_lib.training.encoder import TrainedEncoder, train_voice_encoder

#: 2.7 s up to 1 kHz: the nine layers need at least 259 frames and 31 bins
SETTINGS = {
    "spectrogram.duration_s": 2.7,
    "spectrogram.max_frequency_hz": 1000,
    "encoder.width": 1 / 32,
    "encoder.hidden": 16,
    "encoder.frequency_bins": 1,
    "training.epochs": 2,
    "training.batch_size": 8,
    "training.validation_share": 0.2,
    "training.device": "cpu",
    "decoder.width": 1 / 32,
    "decoder_training.epochs": 1,
    "decoder_training.batch_size": 8,
    "decoder_training.device": "cpu",
}


def tiny_config(**changes: object) -> StudyConfig:
    """Return settings of a debug size; `training__epochs=3` sets `training.epochs`."""
    return load_config(None, SETTINGS | {key.replace("__", "."): value for key, value in changes.items()})


def train_encoder(
    clips: PreparedClips, config: StudyConfig, loss: LossName, parent: Path, **options
) -> TrainedEncoder:
    """Train with the settings of a study."""
    return train_voice_encoder(
        clips,
        spectrogram=config.spectrogram,
        encoder=config.encoder,
        training=config.training,
        loss=loss,
        parent=parent,
        **options,
    )


def write_clips(folder: Path, *, n: int = 40, dimension: int = 8, per_shard: int = 16) -> Path:
    """Write shards of clips whose pitch follows the first feature; every fifth video is in the test split."""
    rng = np.random.default_rng(0)
    shared = 2 * np.sin(1 + np.arange(dimension))  # a mean that is much larger than the differences
    rows = []
    for index in range(n):
        features = rng.normal(size=dimension) + shared
        time_s = np.arange(48_000) / 16_000
        pitch_hz = 250 * 2 ** np.tanh(features[0] - shared[0])
        audio = 6_000 * np.sin(2 * np.pi * pitch_hz * time_s) + rng.normal(0, 300, 48_000)
        face = np.full((224, 224, 3), 128 + 40 * np.tanh(features[:3] - shared[:3]), np.uint8)
        rows.append(
            PreparedRow(
                clip_id=f"clip{index:04d}", video_id=f"video{index // 2:04d}",
                split="test" if index // 2 % 5 == 4 else "train", start_s=0.0, end_s=3.0, x=0.5, y=0.5,
                media="none.mp4", audio=audio.astype(np.int16), n_audio_samples=48_000,
                crop=encode_jpeg(face, quality=90), box=(0, 0, 1, 1), detection_confidence=1.0,
                eye_angle_deg=0.0, frame_time_s=1.0, features=features.astype(np.float16),
            )
        )  # fmt: skip
    for start in range(0, n, per_shard):
        path = folder / shard_name(start // per_shard)
        write_shard(path, rows[start : start + per_shard], provenance={"made": "for a test"})
    return folder


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder of three shards with 40 clips of 3 s."""
    return write_clips(tmp_path_factory.mktemp("prepared"))
