"""Prepared clips as a torch data set, in a separate module because it imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from s2f_lib.config import SpectrogramConfig
from s2f_lib.media.spectrogram import complex_spectrogram


class ClipDataset(Dataset[dict[str, Any]]):
    """View of prepared clips; see `PreparedClips.to_torch`. `clips` are `PreparedClips`."""

    def __init__(self, clips: Any, spectrogram: SpectrogramConfig | None, *, faces: bool) -> None:
        self._clips, self._spectrogram, self._faces = clips, spectrogram, faces

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = self._clips[index]
        audio = torch.from_numpy(clip.audio)
        item: dict[str, Any] = {"clip_id": clip.clip_id, "video_id": clip.video_id}
        if self._spectrogram is None:
            item["audio"] = audio
        else:
            item["spectrogram"] = complex_spectrogram(audio[None], self._spectrogram)[0]
        if clip.features is not None:
            item["features"] = torch.from_numpy(clip.features)
            if self._faces:
                item["face"] = torch.tensor(clip.face)  # a copy, because the decoded array is read-only
        return item
