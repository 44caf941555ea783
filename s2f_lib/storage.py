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

    Parameters
    ----------
    path
        Target file. An existing file is replaced; missing folders are created.
    durable
        Flush the file and its folder to the disk (fsync), so that a power cut loses nothing. False is
        faster and serves files that can be computed again.

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
    to the disk.

    Parameters
    ----------
    path
        Target folder. An existing folder is replaced, with all its files. At most one process may write
        to it at a time (see `locked`).

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> target = Path(mkdtemp()) / "step-1"
    >>> with atomic_folder(target) as temporary:
    ...     _ = (temporary / "model.txt").write_text("weights")
    >>> [path.name for path in target.iterdir()]
    ['model.txt']
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
    """Return the SHA-256 of some values as hexadecimal digits, the same on every machine.

    Parameters
    ----------
    *parts
        Values that are hashed one after the other, without a separator: `("ab", "c")` and `("a", "bc")`
        have the same digest. Text counts as UTF-8, bytes and arrays as their bytes (without dtype and
        shape), everything else as JSON with sorted keys.
    length
        Number of hexadecimal digits, at most 64.

    Raises
    ------
    TypeError
        A part is an array of Python objects, or cannot be written as JSON.

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
    """Return the first `length` hexadecimal digits of the SHA-256 of a file's content.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "abc.txt"
    >>> write_atomically(file, "abc")
    >>> file_digest(file, length=8)
    'ba7816bf'
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:length]


@contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Keep other processes and threads out while the block runs; a lock inside its own block waits forever.

    Parameters
    ----------
    path
        File or folder to protect. It need not exist. The lock is the file `.NAME.lock` next to it.
    busy
        Error message for a lock that is taken. None waits until the lock is free.

    Raises
    ------
    InputError
        The lock is taken, and `busy` is given.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> ledger = Path(mkdtemp()) / "ledger.sqlite"
    >>> with locked(ledger), locked(ledger, busy="another run is at work"):
    ...     pass
    Traceback (most recent call last):
    s2f_lib.errors.InputError: another run is at work
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
    """Return named arrays from a file, or compute them and write the file.

    Processes that ask at the same time compute once: the others wait. The checksums (CRC-32) that the
    `.npz` file holds for its arrays are checked on every read.

    Parameters
    ----------
    path
        The `.npz` file. Its name must contain a digest of everything that decides the arrays.
    compute
        Function without arguments. It is called when the file is missing or damaged.

    Raises
    ------
    TypeError
        A computed array holds Python objects.

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
    """Return one vector per key, and compute only those that no earlier call has computed.

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

    Returns
    -------
    numpy.ndarray
        `(len(keys), dimension)` float32, finite where it was read from a file.

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
    """Return a folder of files, written once: for arrays that are mapped into memory.

    Processes that ask at the same time write once: the others wait. The folder is written again if files
    are missing or have changed their size. Their contents are not read, because reading many gigabytes
    takes minutes.

    Parameters
    ----------
    path
        The folder. Its name must contain a digest of everything that decides the files.
    write
        Function that writes the files into the folder that it is given.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> def write(folder):
    ...     np.save(folder / "faces.npy", np.zeros((2, 8, 8, 3), np.uint8))
    >>> folder = cached_folder(Path(mkdtemp()) / "faces-1a2b", write)
    >>> np.load(folder / "faces.npy", mmap_mode="r").shape
    (2, 8, 8, 3)
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
