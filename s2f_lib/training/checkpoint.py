"""Checkpoints: the model as safetensors, the rest in a file that holds only tensors and numbers.

A checkpoint is a folder `step-NNNNNNNNN` with `model.safetensors`, `state.pt` and `manifest.json`. The
manifest holds their SHA-256 and the digest of the settings. The folder is written atomically. Reading it
never runs code from a file.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from s2f_lib import registry
from s2f_lib.config import FaceDecoderConfig, Settings, VoiceEncoderConfig
from s2f_lib.errors import CheckpointError
from s2f_lib.storage import atomic_folder, atomic_path, file_digest, restore_folder, write_atomically
from s2f_lib.training.distributed import is_first_process

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
STATE_FILE = "state.pt"
MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 2
KEPT = 2  # number of latest checkpoints that are kept


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint."""

    folder: Path
    tensors: dict[str, Tensor]  # parameters and buffers of the model, on the CPU
    state: dict[str, Any]  # optimizer, schedule, random states, position in the data, rows of metrics


class CheckpointStore:
    """The checkpoints of one run: the latest ones and the best one.

    `digest` is a digest of everything that decides the trained model. Checkpoints with another one are
    refused.
    """

    def __init__(self, folder: Path, *, digest: str) -> None:
        self.folder = folder
        self._digest = digest

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write the checkpoint of a step, and remove all but the latest ones."""
        self._write(self.folder / f"step-{step:09d}", tensors, state)
        for old in self._steps()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def save_best(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write the best model so far."""
        self._write(self.folder / "best", tensors, state)

    def best(self) -> Checkpoint:
        """Return the best model so far; `CheckpointError` if it is missing, damaged or has other settings."""
        return self._read(restore_folder(self.folder / "best"))

    def last_folder(self) -> Path | None:
        """Return the folder of the newest checkpoint without reading it."""
        steps = self._steps()
        return steps[-1] if steps else None

    def latest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint with these settings, or None if there are no checkpoints.

        Checkpoints that are damaged or have other settings are logged and skipped. `CheckpointError` if there
        are checkpoints but all were skipped.
        """
        self._clean()
        problems = []
        for folder in reversed(self._steps()):
            try:
                return self._read(folder)
            except CheckpointError as error:
                problems.append(str(error))
                logger.warning("checkpoint refused: %s; trying the previous one", error)
        if problems:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used: {problems[0]}. "
                "Delete the folder to train again from the start, or choose another run folder"
            )
        return None

    def _write(self, target: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        with atomic_folder(target) as temporary:
            save_model(temporary / MODEL_FILE, tensors, digest=self._digest)
            torch.save(state, temporary / STATE_FILE)
            files = {name: file_digest(temporary / name) for name in (MODEL_FILE, STATE_FILE)}
            manifest = {"form": FORMAT_VERSION, "digest": self._digest, "sha256": files}
            (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    def _read(self, folder: Path) -> Checkpoint:
        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            version, digest, files = manifest["form"], manifest["digest"], dict(manifest["sha256"])
        except FileNotFoundError:
            raise CheckpointError(f"{folder} has no {MANIFEST_FILE}: it is not a checkpoint") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / MANIFEST_FILE} is damaged ({type(error).__name__})") from None
        if digest != self._digest:
            raise CheckpointError(
                f"{folder} was made with other settings or data (digest {digest}, expected {self._digest})"
            )
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{folder} has format {version}, expected {FORMAT_VERSION}")
        for name in (MODEL_FILE, STATE_FILE):
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing")
            if file_digest(path) != files.get(name):
                raise CheckpointError(f"{path} is truncated or changed: it does not match {MANIFEST_FILE}")
        try:
            state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
            return Checkpoint(folder, load_file(folder / MODEL_FILE), state)
        except Exception as error:  # torch.load and load_file raise many kinds of errors
            raise CheckpointError(f"{folder} cannot be read ({type(error).__name__}: {error})") from None

    def _steps(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())

    def _clean(self) -> None:
        """Restore folders of interrupted replacements, then remove temporary folders of killed runs."""
        for old in self.folder.glob(".*.old"):
            restore_folder(self.folder / old.name[1:].removesuffix(".old"))
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)


def save_model(path: Path, tensors: dict[str, Tensor], *, digest: str) -> None:
    """Write the tensors of a model as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"digest": digest})


def network_identity(kind: registry.Kind, network: Any) -> tuple[str, str | None]:
    """Return name and fingerprint of a network, given as its settings or as a custom class or function."""
    is_settings = isinstance(network, VoiceEncoderConfig | FaceDecoderConfig)
    return registry.identity(kind, network.kind if is_settings else network)


def write_description(kind: registry.Kind, path: Path, network: Any, **description: Any) -> None:
    """Write, next to the weights, what is needed to rebuild the network; only the first process writes."""
    if not is_first_process():
        return
    name, fingerprint = network_identity(kind, network)
    settings = network.model_dump(mode="json") if isinstance(network, Settings) else None
    own = {"settings": settings, "name": name, "fingerprint": fingerprint}
    text = json.dumps({"format": FORMAT_VERSION, **own, **description}, indent=1)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def read_description(path: Path, what: str) -> dict[str, Any]:
    """Read what `write_description` wrote; raise a `CheckpointError` if the folder holds no such network."""
    if not path.is_file() or not path.with_name(MODEL_FILE).is_file():
        raise CheckpointError(
            f"{path.parent} does not hold {what} (it lacks {path.name} or {MODEL_FILE}): give the `folder` "
            "of a finished training"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path} is damaged: train again in its parent folder to repair it") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {version}, expected {FORMAT_VERSION}")
    return description


def described_network(
    kind: registry.Kind, description: dict[str, Any], settings: type[Settings], own: Any, *, folder: Path
) -> Any:
    """Return what builds a described network: its settings, or its custom class or function.

    Raises a `CheckpointError` if it is unknown here, or its code has changed since the training.
    """
    name, what = description["name"], kind.removesuffix("s")
    chosen = own
    if own is None:
        if description["settings"] is None or not registry.is_known(kind, name):
            raise CheckpointError(
                f"{folder} was trained with the custom {what} {name!r}, which is unknown here: "
                f"give it as `{what}`, register it, or install the distribution that supplies it"
            )
        chosen = settings.model_validate(description["settings"])
    _, fingerprint = network_identity(kind, chosen)
    if fingerprint != description["fingerprint"]:
        raise CheckpointError(
            f"{folder} was trained with another version of the {what} {name!r} (fingerprint "
            f"{description['fingerprint']}, now {fingerprint}): train again, or use the earlier code"
        )
    return chosen


def load_model(path: Path, model: nn.Module) -> None:
    """Load a safetensors file into `model`; `CheckpointError` if it is missing, damaged or does not fit."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: train the model first") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from None
    fit_model(tensors, model, name=str(path))


def fit_model(tensors: dict[str, Tensor], model: nn.Module, *, name: str) -> None:
    """Copy tensors into a model; `CheckpointError` that names the first difference if they do not fit."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"{name} does not fit the model: {first}") from None
