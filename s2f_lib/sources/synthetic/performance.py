"""One person's clip before it becomes a file: the speech, and the movement of the head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from s2f_lib.config import SyntheticConfig
from s2f_lib.sources.synthetic.people import Person, generator
from s2f_lib.sources.synthetic.portrait.face import Pose, Scene, draw_portrait, draw_scene
from s2f_lib.sources.synthetic.portrait.geometry import FACE_CENTRE_Y
from s2f_lib.sources.synthetic.voices import SENTENCES, speak_for

AUDIO_RATE_HZ = 44_100  # sample rate of the clips


def utterance(person: Person, *, seed: int, take: int = 0, sample_rate_hz: int = AUDIO_RATE_HZ) -> np.ndarray:
    """Return the speech of a person's clip, `(n,)` float32 in [-1, 1]; other takes have other sentences."""
    rng = generator(seed, person.index, f"speech-{take}")
    noise_seed = int(rng.integers(2**31))
    sentences = [SENTENCES[index] for index in rng.permutation(len(SENTENCES))]
    return speak_for(
        person.voice,
        sentences,
        duration_s=person.duration_s,
        sample_rate_hz=sample_rate_hz,
        noise_seed=noise_seed,
    )


def clip_scene(person: Person, *, seed: int) -> Scene:
    """Return light, framing, clothes and background of a person's clip."""
    return draw_scene(generator(seed, person.index, "scene-0"))


def face_centre(person: Person, *, seed: int) -> tuple[float, float]:
    """Return the centre of the face in the clip, without a pose, as shares of width and height."""
    scene = clip_scene(person, seed=seed)
    below = FACE_CENTRE_Y * 0.5 * scene.head_share
    return round(scene.centre_x, 6), round(scene.centre_y + below, 6)


def draw_poses(
    rng: np.random.Generator, audio: np.ndarray, *, n_frames: int, frame_rate_hz: float
) -> list[Pose]:
    """Draw a slow movement of the head; the mouth follows the audio, `(n,)` float32 at `AUDIO_RATE_HZ`."""
    time_s = np.arange(n_frames) / frame_rate_hz

    def sway(offset: float, swing: float) -> np.ndarray:
        # two slow waves around a mean
        curve = rng.normal(0, offset) + np.zeros(n_frames)
        for share in (0.7, 0.3):
            rate_hz, phase = rng.uniform(0.08, 0.35), rng.uniform(0, 2 * np.pi)
            curve = curve + share * swing * np.sin(2 * np.pi * rate_hz * time_s + phase)
        return curve

    yaw = np.clip(sway(3.0, 6.0), -12, 12)
    pitch = np.clip(sway(1.5, 3.0), -7, 7)
    roll = np.clip(sway(1.2, 2.0), -5, 5)
    shift_x, shift_y = sway(0.0, 0.025), sway(0.0, 0.012)
    mouth = mouth_opening(audio, n_frames=n_frames, frame_rate_hz=frame_rate_hz)
    columns = np.column_stack([yaw, pitch, roll, shift_x, shift_y, mouth])
    return [Pose(*(float(value) for value in row)) for row in columns]


def mouth_opening(audio: np.ndarray, *, n_frames: int, frame_rate_hz: float) -> np.ndarray:
    """Return the opening of the mouth in each frame from its loudness, `(n_frames,)` in [0, 1]."""
    hop = AUDIO_RATE_HZ / frame_rate_hz
    starts = (np.arange(n_frames) * hop).astype(int)
    power = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
    ends = np.minimum(starts + int(hop), len(audio))
    starts = np.minimum(starts, ends)
    loudness = np.sqrt((power[ends] - power[starts]) / np.maximum(ends - starts, 1))
    full = max(float(np.percentile(loudness, 95)), 1e-6)
    return np.clip(0.8 * loudness / full, 0, 1)


def perform(person: Person, config: SyntheticConfig) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Return the frames of a person's clip, `(height, width, 3)` uint8 RGB, and its audio, `(n,)` float32."""
    audio = utterance(person, seed=config.seed)
    size_px, scene = (config.width_px, config.height_px), clip_scene(person, seed=config.seed)
    portrait = draw_portrait(person.face, size_px=size_px, scene=scene)
    poses = draw_poses(
        generator(config.seed, person.index, "movement"),
        audio,
        n_frames=max(1, round(person.duration_s * config.frame_rate_hz)),
        frame_rate_hz=config.frame_rate_hz,
    )
    return (portrait.frame(pose) for pose in poses), audio
