"""Checkpoints: the model in safetensors, the rest in a file that holds tensors and numbers alone.

A checkpoint is a folder with `model.safetensors` and `state.pt`.  It is
written under a temporary name and renamed, so that a killed run leaves the
one before.  Nothing that could run code is ever unpickled.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from s2f_lib.errors import CheckpointError

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.pt"


def save_checkpoint(folder: Path, model: nn.Module, state: dict[str, Any], *, digest: str) -> None:
    """Write a checkpoint, atomically.

    Parameters
    ----------
    folder
        The checkpoint's folder; one that is there is replaced.
    model
        Its parameters and buffers are stored.
    state
        Tensors, numbers, texts, lists and dictionaries: optimiser, schedule, random states, epoch.
    digest
        Of the settings that the model was made with; checked on loading.
    """
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, temporary / MODEL_FILE, metadata={"digest": digest})
    torch.save(state | {"digest": digest}, temporary / STATE_FILE)
    for path in temporary.iterdir():
        _sync(path)
    old = folder.with_name(f".{folder.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, model: nn.Module, *, digest: str | None = None) -> dict[str, Any]:
    """Load a checkpoint's model into `model` and return its state.

    Raises
    ------
    CheckpointError
        It is missing, truncated, foreign, or was made with other settings.
    """
    load_model(folder / MODEL_FILE, model)
    path = folder / STATE_FILE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: delete {folder} to train anew") from None
    except Exception as error:
        raise CheckpointError(
            f"{path} is truncated or no checkpoint ({type(error).__name__}): delete {folder} to train anew"
        ) from None
    if digest is not None and state.get("digest") != digest:
        raise CheckpointError(
            f"{folder} was made with other settings (digest {state.get('digest')}, expected {digest}): "
            "delete it, or choose another run folder"
        )
    return state


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
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"{path} does not fit the model: {first}") from None


def recover(folder: Path) -> None:
    """Put back the checkpoint that a kill between two renames left aside."""
    old = folder.with_name(f".{folder.name}-old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
