"""What a result was made with: commit, profile, seeds, device, versions, wall time.

The tables show no host name and no folder of the machine, because the book is published.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import pandas as pd

from s2f_lib import paths
from s2f_lib.config import StudyConfig

#: Distributions whose versions can change a number or a figure.
PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "dlib-bin",
    "librosa",
    "av",
    "praat-parselmouth",
    "espeakng-loader",
    "matplotlib",
    "jupyter-book",
)
UNKNOWN = "unknown"


def commit(root: Path | None = None) -> str:
    """Return the commit's short name, with "+ changes" if tracked files differ from it, or "unknown".

    If `root` is None, it is the commit of the package's checkout, or without one, of the study folder.
    """
    root = (paths.checkout() or paths.study_folder()) if root is None else root
    head = _git(root, "rev-parse", "--short=10", "HEAD")
    top = _git(root, "rev-parse", "--show-toplevel")
    if head is None or top is None or Path(top).resolve() != root.resolve():
        return UNKNOWN  # not a repository, or inside another one
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{head} + changes" if changed else head


def device_name() -> str:
    """Return the number and name of the GPUs, or the number of CPU cores that this process may use."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"CPU, {cores} {'core' if cores == 1 else 'cores'}"


def versions() -> dict[str, str]:
    """Return the version of each distribution in `PACKAGES` that is installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def environment() -> dict[str, str]:
    """Return commit, Python, platform, device and versions, for `s2f info` and the chapters."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(),
    } | versions()


def provenance_table(config: StudyConfig, *, wall_s: float) -> pd.DataFrame:
    """Return a chapter's provenance as columns what and value; `wall_s` is its wall time in seconds."""
    seeds = {
        "world": config.source.synthetic.seed if config.source.kind == "synthetic" else None,
        "encoder": config.training.seed,
        "decoder": config.decoder_training.seed,
        "intervals": config.evaluation.seed,
    }
    machine = environment()
    packages = ", ".join(f"{name} {machine[name]}" for name in PACKAGES if name in machine)
    rows = {
        "commit": machine["commit"],
        "s2f_lib": importlib.metadata.version("s2f_lib"),
        "profile": config.profile,
        "settings digest": config.digest(),
        "source of clips": config.source.kind,
        "seeds": ", ".join(f"{name} {seed}" for name, seed in seeds.items() if seed is not None),
        "device": machine["device"],
        "python, platform": f"{machine['python']}, {machine['platform']}",
        "packages": packages,
        "wall time of this chapter": f"{wall_s:.0f} s",
    }
    return pd.DataFrame({"what": list(rows), "value": list(rows.values())})


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
