"""The libraries of the extras; if one is missing, the error names the extra.

The distribution installs what reading, spectrograms, models, training and evaluation need. Each other library
belongs to an extra and is imported where it is used. A finder at the end of `sys.meta_path` is asked only for
modules that no other finder knows. It raises `MissingExtraError` if the import is in this package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

from s2f_lib.errors import MissingExtraError

#: Extra of `pyproject.toml` to the modules that this package imports from it.
EXTRAS = {
    "prepare": (
        "cv2",
        "dlib",
        "espeakng_loader",
        "face_recognition_models",
        "parselmouth",
        "torchmetrics",
        "torchvision",
    ),
    "book": (
        "IPython",
        "jupyter_client",
        "jupytext",
        "myst_nb",
        "nbclient",
        "nbformat",
        "papermill",
        "seaborn",
        "traitlets",
    ),
    "download": ("imageio_ffmpeg", "psutil", "tenacity", "yt_dlp"),
    "cluster": ("ray",),
    "pretrained": ("h5py", "librosa"),
}
_EXTRA_OF = {module: extra for extra, modules in EXTRAS.items() for module in modules}


class _MissingExtraFinder(MetaPathFinder):
    """Finds no module; raises `MissingExtraError` for a module of an extra."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        extra = _EXTRA_OF.get(fullname)
        if extra is not None and _importer().split(".")[0] == "s2f_lib":
            raise MissingExtraError(fullname, extra)


def _importer() -> str:
    """Return the name of the module that executes the import statement."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("importlib"):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "")


def install_finder() -> None:
    """Append the finder to `sys.meta_path`."""
    sys.meta_path.append(_MissingExtraFinder())
