"""A folder in the layout of the public pairs, with generated voices and faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

RATE_HZ = 16_000
FOLDERS = ("Wav", "Face_ori", "Face_exg0", "Face_f2f")


def avspeech_name(number: int, start_s: float = 10.0) -> str:
    """Return a clip id of AVSpeech's form, whose video id has both special characters of ids."""
    return f"_-vid{number:06d}_{start_s:010.6f}-{start_s + 4.5:010.6f}"


def voxceleb_name(person: int, video: int) -> str:
    """Return a clip id of VoxCeleb's form, for a person who does not exist."""
    letter = "abcdefghij"[person]
    return f"00{12 + person % 2}No_B._Dy{letter}_{letter}_y-{video:07d}_{video:07d}"


def voice(number: int, *, duration_s: float = 6.0) -> np.ndarray:
    """Return a buzz `(samples,)` float whose pitch and timbre depend on the number."""
    rng = np.random.default_rng(number)
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    pitch_hz = rng.uniform(90, 250) * (1 + 0.05 * np.sin(2 * np.pi * 3 * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    sound = sum(rng.uniform(0.2, 1) / k * np.sin(k * phase) for k in range(1, 15))
    return 0.1 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 2 * time_s)) + 1e-3 * rng.standard_normal(
        len(time_s)
    )


def face(number: int, *, size_px: int = 224) -> Image.Image:
    """Return an image of a face: an ellipse with eyes and a mouth, whose colours depend on the number."""
    rng = np.random.default_rng(1_000 + number)
    image = Image.new("RGB", (size_px, size_px), tuple(int(v) for v in rng.integers(40, 220, 3)))
    draw = ImageDraw.Draw(image)
    scale = size_px / 224
    skin = tuple(int(v) for v in rng.integers(110, 230, 3))
    draw.ellipse([v * scale for v in (45, 25, 180, 205)], fill=skin)
    for x in (85, 140):
        draw.ellipse([v * scale for v in (x - 12, 90, x + 12, 106)], fill="white")
        draw.ellipse([v * scale for v in (x - 5, 93, x + 5, 103)], fill="black")
    draw.rectangle([v * scale for v in (88, 155, 136, 155 + rng.integers(4, 16))], fill=(150, 40, 50))
    return image


def write_pair(folder: Path, clip_id: str, number: int, *, audio: str = ".wav", image: str = ".jpg") -> None:
    """Write the four files of a pair into `folder/Wav` and so on."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "Wav" / f"{clip_id}{audio}", voice(number), RATE_HZ, subtype="PCM_16")
    for index, name in enumerate(FOLDERS[1:]):
        face(number + 500 * index).save(folder / name / f"{clip_id}{image}")


def write_pairs(root: Path, *, avspeech: int, voxceleb: int = 0) -> list[str]:
    """Write pairs of some videos, and two pairs of each VoxCeleb person; return the clip ids."""
    ids = [avspeech_name(number) for number in range(avspeech)]
    for number, clip_id in enumerate(ids):
        write_pair(
            root / "avspeech_res",
            clip_id,
            number,
            audio=".flac" if number % 2 else ".wav",
            image=".png" if number % 3 == 0 else ".jpg",
        )
    others = [voxceleb_name(person, video) for person in range(voxceleb) for video in (1, 2)]
    for number, clip_id in enumerate(others):
        write_pair(root / "voxceleb", clip_id, 100 + number)
    return ids + others
