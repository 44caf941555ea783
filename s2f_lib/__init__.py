"""Face reconstruction from speech: preparation, models, training and evaluation.

Importing the package is light: what needs torch, dlib or a media library is
imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from s2f_lib.config import StudyConfig, load_config
from s2f_lib.errors import InputError, StudyError

if TYPE_CHECKING:
    from s2f_lib.media.spectrogram import complex_spectrogram
    from s2f_lib.preparation.shards import PreparedClips, read_prepared
    from s2f_lib.reconstruction.voice import Reconstruction, reconstruct
    from s2f_lib.study import Study

__version__ = "0.1.0"

# public name -> the module that defines it, imported on first use (PEP 562)
_LAZY = {
    "PreparedClips": "s2f_lib.preparation.shards",
    "Reconstruction": "s2f_lib.reconstruction.voice",
    "Study": "s2f_lib.study",
    "complex_spectrogram": "s2f_lib.media.spectrogram",
    "read_prepared": "s2f_lib.preparation.shards",
    "reconstruct": "s2f_lib.reconstruction.voice",
}

__all__ = [
    "InputError",
    "PreparedClips",
    "Reconstruction",
    "Study",
    "StudyConfig",
    "StudyError",
    "complex_spectrogram",
    "load_config",
    "read_prepared",
    "reconstruct",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 's2f_lib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
