"""Checkpoints: the model in safetensors, the rest in a file that holds tensors and numbers alone.

A checkpoint is a folder `step-NNNNNNNNN` with `model.safetensors`, `state.pt`
and `manifest.json`, which holds their SHA-256 and the digest of the settings.
It is written under a temporary name and renamed, so that a killed run leaves
the ones before.  Nothing that could run code is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from s2f_lib.errors import CheckpointError

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.pt"
MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes
    ----------
    folder
        Where it lies.
    tensors
        The model's parameters and buffers, on the CPU.
    state
        Optimiser, schedule, random states, place in the data, rows of metrics.
    """

    folder: Path
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run: the last few, and the best.

    Parameters
    ----------
    folder
        Holds a folder a checkpoint.
    digest
        Of everything that decides the result; others are refused.
    keep
        How many of the last ones stay.
    """

    def __init__(self, folder: Path, *, digest: str, keep: int) -> None:
        self.folder = folder
        self._digest = digest
        self._keep = keep

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Write the checkpoint of a step, atomically, and drop those that are too old; return its folder."""
        target = self.folder / f"step-{step:09d}"
        self._write(target, tensors, state)
        for old in self._steps()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def save_best(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Keep a model as the best so far."""
        self._write(self.folder / "best", tensors, state)

    def best(self) -> Checkpoint:
        """Return the best model so far.

        Raises
        ------
        CheckpointError
            It is missing, damaged, or of other settings.
        """
        return self._read(self._settled(self.folder / "best"))

    def last_folder(self) -> Path | None:
        """Return the folder of the newest checkpoint, looked at or not."""
        steps = self._steps()
        return steps[-1] if steps else None

    def latest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint of these settings; None where there never was one.

        Each one that is damaged or foreign is logged with its reason and passed over.

        Raises
        ------
        CheckpointError
            There are checkpoints, and none can be used.
        """
        self._clean()
        problems = []
        for folder in reversed(self._steps()):
            try:
                return self._read(folder)
            except CheckpointError as error:
                problems.append(str(error))
                logger.warning("checkpoint refused: %s; trying the one before", error)
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used: {problems[0]}. "
                "Delete the folder to train anew, or choose another run folder"
            )
        return None

    def _write(self, target: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{target.name}-{uuid.uuid4().hex[:8]}"
        temporary.mkdir()
        save_model(temporary / MODEL_FILE, tensors, digest=self._digest)
        torch.save(state, temporary / STATE_FILE)
        files = {name: _sha256(temporary / name) for name in (MODEL_FILE, STATE_FILE)}
        manifest = {"form": FORMAT_VERSION, "digest": self._digest, "sha256": files}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in temporary.iterdir():
            _sync(path)
        old = _backup_path(target)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        _sync(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _read(self, folder: Path) -> Checkpoint:
        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            digest, files = manifest["digest"], dict(manifest["sha256"])
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder} has no {MANIFEST_FILE}: it is no checkpoint of this study"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / MANIFEST_FILE} is damaged ({type(error).__name__})") from None
        if digest != self._digest:
            raise CheckpointError(
                f"{folder} was made with other settings or data (digest {digest}, expected {self._digest})"
            )
        for name in (MODEL_FILE, STATE_FILE):
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing")
            if _sha256(path) != files.get(name):
                raise CheckpointError(f"{path} is truncated or changed: it does not match {MANIFEST_FILE}")
        try:
            state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
            return Checkpoint(folder, load_file(folder / MODEL_FILE), state)
        except Exception as error:
            raise CheckpointError(f"{folder} is no checkpoint ({type(error).__name__}: {error})") from None

    def _steps(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def _settled(self, folder: Path) -> Path:
        """Put back what a kill between two renames left aside."""
        if not folder.exists() and _backup_path(folder).exists():
            _backup_path(folder).rename(folder)
        return folder

    def _clean(self) -> None:
        for aside in self.folder.glob(".*-old"):
            self._settled(self.folder / aside.name[1:].removesuffix("-old"))
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)


def save_model(path: Path, tensors: dict[str, Tensor], *, digest: str) -> None:
    """Write a model's tensors as safetensors, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"digest": digest})
    _sync(temporary)
    temporary.replace(path)


def load_model(path: Path, model: nn.Module) -> None:
    """Load a safetensors file into `model`.

    Raises
    ------
    CheckpointError
        The file is missing, truncated, or does not fit the model.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: train the model first") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from None
    fit_model(tensors, model, name=str(path))


def fit_model(tensors: dict[str, Tensor], model: nn.Module, *, name: str) -> None:
    """Copy tensors into a model; `CheckpointError` with the first difference where they do not fit."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"{name} does not fit the model: {first}") from None


def _backup_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-old")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
