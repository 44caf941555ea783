"""Atomic writes, digests, locks and cached arrays.

Every write goes to a hidden name next to its target and is renamed when it is complete, so a name never
stands for half a file. Caches are rebuilt when their files are damaged, and no file is a pickle.
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
from typing import TYPE_CHECKING

from s2f_lib.errors import InputError

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"  # written last into a cached folder: names and sizes of its files


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block succeeds.

    The temporary file lies in the same folder, starts with a dot and keeps the suffix, because `np.save`
    and similar functions look at it. When the block raises, the temporary file is removed and `path`
    keeps its old content. The folder is created if needed.

    Parameters
    ----------
    path
        Target file. An existing file is replaced.
    durable
        Flush the file and its folder to the disk (fsync), so that a power cut loses nothing. False is
        faster and serves files that can be computed again.

    Yields
    ------
    pathlib.Path
        Path to write to.

    Raises
    ------
    FileNotFoundError
        The block wrote no file.

    See Also
    --------
    write_atomically : Writes text or bytes that are in memory.
    atomic_folder : The same for a folder.

    Examples
    --------
    >>> from pathlib import Path
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
    """Write a whole file, or leave the old one as it was.

    Parameters
    ----------
    path
        Target file. An existing file is replaced.
    data
        Content. Text is written as UTF-8, its line ends as they are.
    durable
        Flush to the disk; see `atomic_path`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> target = Path(mkdtemp()) / "new" / "settings.yaml"
    >>> write_atomically(target, "seed: 1")
    >>> target.read_text()
    'seed: 1'
    """
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces the folder `path` when the block succeeds.

    All files are flushed to the disk before the rename. `os.replace` refuses a folder that has files, so
    an existing folder is first renamed to `.NAME.old`. For that moment `path` does not exist; if the
    process is killed just then, `restore_folder` puts the old folder back.

    Parameters
    ----------
    path
        Target folder. An existing folder is replaced, with all its files. At most one process may write
        to it at a time (see `locked`).

    Yields
    ------
    pathlib.Path
        New, empty folder to write to. It is removed when the block raises.

    Examples
    --------
    >>> from pathlib import Path
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
            path.rename(_aside(path))
        temporary.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        restore_folder(path)


def restore_folder(path: Path) -> Path:
    """Clean up after a replacement of a folder that stopped halfway.

    A process that was killed between the two renames of `atomic_folder` leaves only `.NAME.old`, which is
    put back. If the new folder exists too, the old one is removed.

    Parameters
    ----------
    path
        Folder that `atomic_folder` writes. It need not exist.

    Returns
    -------
    pathlib.Path
        The same path.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp()) / "best"
    >>> (folder.parent / ".best.old").mkdir()
    >>> restore_folder(folder).exists()
    True
    """
    old = _aside(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)
    return path


def digest(*parts: object, length: int = 12) -> str:
    """Return the SHA-256 of some values as hexadecimal digits, the same on every machine.

    Parameters
    ----------
    *parts
        Values that are hashed one after the other, without a separator: `("ab", "c")` and `("a", "bc")`
        have the same digest. Text counts as UTF-8, bytes and arrays as their bytes (without dtype and
        shape), everything else as JSON with sorted keys.
    length
        Number of hexadecimal digits, at most 64.

    Returns
    -------
    str
        First `length` digits.

    Raises
    ------
    TypeError
        A part is an array of Python objects, or cannot be written as JSON.

    See Also
    --------
    file_digest : The SHA-256 of a file.

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
    """Return the SHA-256 of a file's content as hexadecimal digits.

    Parameters
    ----------
    path
        File to read, a piece at a time.
    length
        Number of hexadecimal digits, at most 64.

    Returns
    -------
    str
        First `length` digits.

    Examples
    --------
    >>> from pathlib import Path
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
    """Keep other processes and threads out while the block runs.

    Parameters
    ----------
    path
        File or folder to protect. It need not exist. The lock is the file `.NAME.lock` next to it, whose
        folder is created if needed.
    busy
        Error message for a lock that is taken. None waits until the lock is free.

    Raises
    ------
    InputError
        The lock is taken, and `busy` is given.

    Examples
    --------
    >>> from pathlib import Path
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
        lock.acquire()
    except Timeout:
        raise InputError(busy) from None
    try:
        yield
    finally:
        lock.release()


def cached_array(path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an array from a file, or compute it and write the file.

    Parameters
    ----------
    path
        The `.npz` file. Its name must contain a digest of everything that decides the array.
    compute
        Function without arguments. It is called when the file is missing or damaged.

    Returns
    -------
    numpy.ndarray
        The array, in memory.

    See Also
    --------
    cached_arrays : Several arrays in one file; says how damage is found.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "squares-1a2b.npz"
    >>> cached_array(file, lambda: np.arange(4) ** 2)
    array([0, 1, 4, 9])
    >>> cached_array(file, lambda: 1 / 0)
    array([0, 1, 4, 9])
    """
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

    Returns
    -------
    dict of str to numpy.ndarray
        The arrays, in memory.

    Raises
    ------
    TypeError
        A computed array holds Python objects.

    See Also
    --------
    cached_rows : One file per row, for rows that are computed in batches.
    cached_folder : Files that are too large for the memory.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "gallery-1a2b.npz"
    >>> arrays = cached_arrays(file, lambda: {"names": np.array(["a", "b"]), "ages": np.array([31, 52])})
    >>> arrays["ages"]
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
        Folder with one file per key. Its name must contain a digest of the method. None: nothing is kept.
    keys
        Digest of each input; it names the file.
    compute
        Function that maps indices into `keys` to vectors, `(len(indices), dimension)`.
    dimension
        Length of a vector.
    batch_size
        Number of vectors that are computed together.
    progress
        Called with (done, total).

    Returns
    -------
    numpy.ndarray
        `(len(keys), dimension)` float32, finite where it was read from a file.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp()) / "lengths"
    >>> words = ["one", "three", "eleven"]
    >>> compute = lambda indices: np.array([[len(words[index])] for index in indices])
    >>> cached_rows(folder, [digest(word) for word in words], compute, dimension=1)
    array([[3.],
           [5.],
           [6.]], dtype=float32)
    """
    import numpy as np

    rows = np.zeros((len(keys), dimension), np.float32)
    files = [None if folder is None else Path(folder) / f"{key}.npz" for key in keys]
    pending = []
    for index, file in enumerate(files):
        row = None if file is None else _read_row(file, dimension)
        if row is None:
            pending.append(index)
        else:
            rows[index] = row
    n_known = len(keys) - len(pending)
    if progress:
        progress(n_known, len(keys))
    for start in range(0, len(pending), batch_size):
        batch = pending[start : start + batch_size]
        rows[batch] = compute(batch)
        for index in batch:
            if files[index] is not None:
                _write_arrays(files[index], {"array": rows[index]}, durable=False)
        if progress:
            progress(n_known + start + len(batch), len(keys))
    return rows


def cached_folder(path: Path, write: Callable[[Path], object]) -> Path:
    """Return a folder of files, written once: for arrays that are mapped into memory.

    Processes that ask at the same time write once: the others wait. Files that are missing or have
    another size than when they were written make the folder be written again. Their contents are not
    read, because reading many gigabytes takes minutes.

    Parameters
    ----------
    path
        The folder. Its name must contain a digest of everything that decides the files.
    write
        Function that writes the files into the folder that it is given.

    Returns
    -------
    pathlib.Path
        The same path.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp()) / "faces-1a2b"
    >>> def write(folder):
    ...     np.save(folder / "faces.npy", np.zeros((2, 8, 8, 3), np.uint8))
    >>> np.load(cached_folder(folder, write) / "faces.npy", mmap_mode="r").shape
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


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of killed processes; the caller holds the lock of `path`."""
    stem, suffix = glob.escape(path.stem), glob.escape(path.suffix)
    for leftover in path.parent.glob(f".{stem}.{'[0-9a-f]' * 8}.part{suffix}"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _as_bytes(part: object) -> bytes | bytearray | memoryview:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes | bytearray | memoryview):
        return part
    if hasattr(part, "__array_interface__"):
        import numpy as np

        _refuse_objects(part)
        return np.ascontiguousarray(part).data
    return json.dumps(part, sort_keys=True).encode()


def _refuse_objects(array: np.ndarray) -> None:
    if array.dtype.hasobject:
        raise TypeError(
            f"an array of {array.dtype}: expected numbers or fixed-width text, not Python objects"
        )


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an `.npz` file; None if the file is missing or damaged."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged header raises anything from SyntaxError to NotImplementedError
        logger.warning(
            "%s in the cache is damaged (%s): it is computed again", path.name, type(error).__name__
        )
        return None


def _read_row(path: Path, dimension: int) -> np.ndarray | None:
    """Return the finite float32 vector of an `.npz` file; None if the file is missing or damaged."""
    import numpy as np

    arrays = _read_arrays(path)
    if arrays is None:
        return None
    row = arrays.get("array", np.zeros(0))
    if row.shape == (dimension,) and row.dtype == np.float32 and np.isfinite(row).all():
        return row
    logger.warning("%s in the cache is damaged (not a finite vector): it is computed again", path.name)
    return None


def _write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, durable: bool = True
) -> dict[str, np.ndarray]:
    import numpy as np

    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for array in arrays.values():
        _refuse_objects(array)
    with atomic_path(path, durable=durable) as temporary:
        np.savez(temporary, **arrays)
    return arrays


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file, by its path in the folder, without the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _is_complete(folder: Path) -> bool:
    try:
        return json.loads((folder / _MANIFEST).read_text(encoding="utf-8")) == _sizes(folder)
    except (OSError, ValueError):
        return False
