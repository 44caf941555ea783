"""Atomic writes, digests, locks and cached arrays.

Every write goes to a hidden name next to its target and is renamed when it is complete, so a name never
stands for half a file. Caches are computed again when their files are damaged, and no file is a pickle.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2f_lib.errors import InputError

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"  # written last into a cached folder: names and sizes of its files


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block succeeds.

    The temporary file lies in the same folder and keeps the suffix, because `np.save` and similar
    functions look at it. When the block raises or writes no file, `path` keeps its old content.
    Missing folders are created. A durable write flushes the file and its folder to the disk (fsync), so
    that a power cut loses nothing; files that can be computed again do not need it.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> target = Path(mkdtemp()) / "table.csv"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("clip_id,split")
    >>> [path.name for path in target.parent.iterdir()]
    ['table.csv']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: str | bytes, *, durable: bool = True) -> None:
    """Write text (as UTF-8, its line ends as they are) or bytes with `atomic_path`."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces the folder `path` when the block succeeds.

    `os.replace` refuses a folder that has files, so an existing folder is first renamed to `.NAME.old`.
    If the process is killed just then, `restore_folder` puts the old folder back. All files are flushed
    to the disk. At most one process may write to a folder at a time (see `locked`).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in (*temporary.rglob("*"), temporary):
            _sync(entry)
        if path.exists():
            path.rename(path.with_name(f".{path.name}.old"))
        temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        restore_folder(path)


def restore_folder(path: Path) -> Path:
    """Finish or undo a replacement by `atomic_folder` that was killed, and return the same path.

    The folder `.NAME.old` is put back if `path` does not exist; otherwise it is removed.
    """
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(path)
    return path


def digest(*parts: Any, length: int = 12) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of some values, the same on every machine.

    The values are hashed one after the other, without a separator: `("ab", "c")` and `("a", "bc")` have
    the same digest. Text counts as UTF-8, bytes and arrays as their bytes (without dtype and shape),
    everything else as JSON with sorted keys. An array of Python objects raises a TypeError.

    Examples
    --------
    >>> digest("abc", length=8)
    'ba7816bf'
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(_as_bytes(part))
    return hashed.hexdigest()[:length]


def file_digest(path: Path, *, length: int = 64) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a file's content."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:length]


@contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Keep other processes and threads out while the block runs; a lock inside its own block waits forever.

    The lock is the file `.NAME.lock` next to the protected file or folder, which need not exist. A lock
    that is taken raises an InputError with the message `busy`; if that is None, the call waits.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=-1 if busy is None else 0)
    try:
        held = lock.acquire()
    except Timeout:
        raise InputError(str(busy)) from None
    with held:
        yield


def cached_array(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an array from a file, or compute it and write the file; see `cached_arrays`."""
    return cached_arrays(path, lambda: {"array": compute()})["array"]


def cached_arrays(path: Path, compute: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return named arrays from an `.npz` file, or compute them and write the file.

    The file's name must contain a digest of everything that decides the arrays. They are computed again
    if the file is missing or damaged (its checksums are verified on every read). When several processes
    call this at the same time, one computes and the others wait. Arrays of Python objects raise a TypeError.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "gallery-1a2b.npz"
    >>> arrays = cached_arrays(file, lambda: {"names": np.array(["a", "b"]), "ages": np.array([31, 52])})
    >>> cached_arrays(file, lambda: 1 / 0)["ages"]  # not computed again
    array([31, 52])
    """
    path = Path(path)
    with locked(path):
        found = _read_arrays(path)
        if found is None:
            _remove_leftovers(path)
            found = _write_arrays(path, compute())
    return found


def cached_rows(
    folder: Path | None,
    keys: Sequence[str],
    compute: Callable[[list[int]], np.ndarray],
    *,
    dimension: int,
    batch_size: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> np.ndarray:
    """Return one vector per key, `(len(keys), dimension)` float32, and compute only the missing ones.

    Parameters
    ----------
    folder
        Folder with one file per key. Its name must contain a digest of the method. None: no files.
    keys
        Digest of each input; it names the file.
    compute
        Function that maps indices into `keys` to vectors, `(len(indices), dimension)`.
    dimension, batch_size
        Length of a vector, and number of vectors that are computed together.
    progress
        Called with (done, total).

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> words = ["one", "three", "eleven"]
    >>> compute = lambda indices: np.array([[len(words[index])] for index in indices])
    >>> cached_rows(Path(mkdtemp()), [digest(word) for word in words], compute, dimension=1).tolist()
    [[3.0], [5.0], [6.0]]
    """
    import numpy as np

    rows = np.zeros((len(keys), dimension), np.float32)
    files = [] if folder is None else [Path(folder) / f"{key}.npz" for key in keys]
    known = {index: row for index, file in enumerate(files) if (row := _read_arrays(file, dimension))}
    for index, row in known.items():
        rows[index] = row["array"]
    pending = [index for index in range(len(keys)) if index not in known]
    if progress:
        progress(len(known), len(keys))
    for start in range(0, len(pending), batch_size):
        batch = pending[start : start + batch_size]
        rows[batch] = compute(batch)
        if files:
            for index in batch:
                _write_arrays(files[index], {"array": rows[index]}, durable=False)
        if progress:
            progress(len(known) + start + len(batch), len(keys))
    return rows


def cached_folder(path: Path, write: Callable[[Path], object]) -> Path:
    """Return a folder of files, for arrays that are mapped into memory; `write` fills it if it is missing.

    The folder's name must contain a digest of everything that decides the files. When several processes
    call this at the same time, one writes and the others wait. The folder is written again if files are
    missing or have changed their size. Their contents are not verified, because that takes minutes for many
    gigabytes.
    """
    path = Path(path)
    with locked(path):
        restore_folder(path)
        if not _is_complete(path):
            if path.exists():
                logger.warning("%s in the cache is damaged: it is written again", path.name)
            _remove_leftovers(path)
            with atomic_folder(path) as temporary:
                write(temporary)
                (temporary / _MANIFEST).write_text(json.dumps(_sizes(temporary)), encoding="utf-8")
    return path


def _temporary(path: Path) -> Path:
    """Return a name that no other process or thread uses."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of killed processes; the caller holds the lock of `path`."""
    stem, suffix = glob.escape(path.stem), glob.escape(path.suffix)
    for leftover in path.parent.glob(f".{stem}.{'[0-9a-f]' * 8}.part{suffix}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _as_bytes(part: Any) -> bytes | bytearray | memoryview:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes | bytearray | memoryview):
        return part
    if hasattr(part, "__array_interface__"):
        import numpy as np

        return np.ascontiguousarray(_without_objects(part)).data
    return json.dumps(part, sort_keys=True).encode()


def _without_objects(array: np.ndarray) -> np.ndarray:
    if array.dtype.hasobject:
        raise TypeError(
            f"an array of {array.dtype}: expected numbers or fixed-width text, not Python objects"
        )
    return array


def _read_arrays(path: Path, dimension: int | None = None) -> dict[str, np.ndarray] | None:
    """Return the arrays of an `.npz` file, or only a vector of `dimension`; None if missing or damaged."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        if dimension is not None:
            row = arrays["array"]
            if row.shape != (dimension,) or row.dtype != np.float32 or not np.isfinite(row).all():
                raise ValueError("not a finite vector")
        return arrays
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged header raises anything from SyntaxError to NotImplementedError
        logger.warning("%s in the cache is damaged (%r): it is computed again", path.name, error)
        return None


def _write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], durable: bool = True
) -> dict[str, np.ndarray]:
    import numpy as np

    checked = {name: _without_objects(np.asarray(array)) for name, array in arrays.items()}
    with atomic_path(path, durable=durable) as temporary:
        np.savez(temporary, allow_pickle=False, **checked)
    return checked


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file, by its path in the folder, without the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _is_complete(folder: Path) -> bool:
    try:
        return json.loads((folder / _MANIFEST).read_text(encoding="utf-8")) == _sizes(folder)
    except (OSError, ValueError):
        return False
