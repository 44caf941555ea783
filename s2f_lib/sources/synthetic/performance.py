"""One person's clip before it is a file: what is said, and how the head moves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from s2f_lib.config import SyntheticConfig
from s2f_lib.sources.synthetic.clip_writer import AUDIO_RATE_HZ
from s2f_lib.sources.synthetic.people import Person, generator
from s2f_lib.sources.synthetic.portrait.face import Pose, Scene, draw_portrait, draw_scene
from s2f_lib.sources.synthetic.portrait.geometry import FACE_CENTRE_Y
from s2f_lib.sources.synthetic.sentences import shuffled_sentences
from s2f_lib.sources.synthetic.voices import speak, speak_for


def utterance(
    person: Person,
    *,
    seed: int,
    take: int = 0,
    sentence: str | None = None,
    duration_s: float | None = None,
    sample_rate_hz: int = AUDIO_RATE_HZ,
) -> np.ndarray:
    """Return what a person says.

    Parameters
    ----------
    person
        Its voice speaks; for a changed voice, replace it: ``dataclasses.replace(person, voice=...)``.
    seed
        Of the population.
    take
        0 is the person's clip; other numbers are other sentences by the same voice.
    sentence
        Say this alone, in full, instead of the take's sentences.
    duration_s
        Cut after this many seconds; the clip's own length by default. Not used with `sentence`.
    sample_rate_hz
        Of the result.

    Returns
    -------
    (n,) numpy.ndarray of float32
        Mono, in [-1, 1]; equal arguments give equal samples.
    """
    rng = generator(seed, person.index, f"speech-{take}")
    noise_seed = int(rng.integers(2**31))
    if sentence is not None:
        return speak(person.voice, sentence, sample_rate_hz=sample_rate_hz, noise_seed=noise_seed)
    return speak_for(
        person.voice,
        shuffled_sentences(rng),
        duration_s=person.duration_s if duration_s is None else duration_s,
        sample_rate_hz=sample_rate_hz,
        noise_seed=noise_seed,
    )


def clip_scene(person: Person, *, seed: int, take: int = 0) -> Scene:
    """Return light, framing, clothes and background of a person's take; 0 is the clip."""
    return draw_scene(generator(seed, person.index, f"scene-{take}"))


def face_centre(person: Person, config: SyntheticConfig) -> tuple[float, float]:
    """Return the face's centre in the clip, head held straight, as shares of width and height."""
    scene = clip_scene(person, seed=config.seed)
    below = FACE_CENTRE_Y * 0.5 * scene.head_share
    return round(scene.centre_x, 6), round(scene.centre_y + below, 6)


def draw_poses(
    rng: np.random.Generator, audio: np.ndarray, *, n_frames: int, frame_rate_hz: float
) -> list[Pose]:
    """Return a slow head movement, with the mouth following the sound.

    Parameters
    ----------
    rng
        Draws the movement.
    audio
        (n,) float32 at `AUDIO_RATE_HZ`.
    n_frames, frame_rate_hz
        Of the video.
    """
    time_s = np.arange(n_frames) / frame_rate_hz

    def sway(offset: float, swing: float) -> np.ndarray:
        # two slow waves around a resting place
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
    """Return how far the mouth is open in each frame, (n_frames,) in [0, 1], from the loudness there."""
    hop = AUDIO_RATE_HZ / frame_rate_hz
    starts = (np.arange(n_frames) * hop).astype(int)
    power = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
    ends = np.minimum(starts + int(hop), len(audio))
    starts = np.minimum(starts, ends)
    loudness = np.sqrt((power[ends] - power[starts]) / np.maximum(ends - starts, 1))
    full = max(float(np.percentile(loudness, 95)), 1e-6)
    return np.clip(0.8 * loudness / full, 0, 1)


def perform(person: Person, config: SyntheticConfig) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Return the frames (lazily) and the audio of a person's clip.

    Returns
    -------
    frames
        Each (height_px, width_px, 3) uint8 RGB, at `frame_rate_hz`.
    audio
        (n,) float32 at `AUDIO_RATE_HZ`.
    """
    audio = utterance(person, seed=config.seed)
    portrait = draw_portrait(
        person.face,
        size_px=(config.width_px, config.height_px),
        scene=clip_scene(person, seed=config.seed),
    )
    poses = draw_poses(
        generator(config.seed, person.index, "movement"),
        audio,
        n_frames=max(1, round(person.duration_s * config.frame_rate_hz)),
        frame_rate_hz=config.frame_rate_hz,
    )
    return (portrait.frame(pose) for pose in poses), audio
