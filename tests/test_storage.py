"""Atomic writes, digests, locks and caches."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest

from s2f_lib import storage
from s2f_lib.errors import InputError
from s2f_lib.storage import (
    atomic_folder,
    atomic_path,
    cached_array,
    cached_arrays,
    cached_folder,
    cached_rows,
    digest,
    file_digest,
    locked,
    restore_folder,
    write_atomically,
)


def names(folder):
    """Return the names in a folder, without locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def not_called(*_):
    raise AssertionError("this was in the cache")


# atomic files


@pytest.mark.parametrize("durable", [True, False])
def test_atomic_path_on_success_replaces_file(tmp_path, durable):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second\r\n"):
        write_atomically(path, text, durable=durable)
        assert path.read_bytes() == text.encode()
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_path_on_error_keeps_old_file(tmp_path, error):
    path = tmp_path / "a.npy"
    path.write_text("old")

    def write():
        with atomic_path(path) as temporary:
            assert (temporary.parent, temporary.suffix, temporary.name[0]) == (tmp_path, ".npy", ".")
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.npy"]


def test_atomic_path_syncs_file_before_and_folder_after(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.txt", []
    monkeypatch.setattr(storage, "_sync", lambda target: seen.append((target.is_dir(), path.exists())))
    write_atomically(path, "text")
    assert seen == [(False, False), (True, True)]


def test_atomic_path_without_a_write_raises(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


# atomic folders


def test_atomic_folder_replaces_all_old_files(tmp_path):
    folder = tmp_path / "step-1"
    for name in ("first", "second"):
        with atomic_folder(folder) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / name).write_text("text")
    assert names(folder / "sub") == ["second"]
    assert names(tmp_path) == ["step-1"]


def test_atomic_folder_on_error_keeps_old_folder(tmp_path):
    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / "old").touch()

    def write():
        with atomic_folder(folder) as temporary:
            (temporary / "new").touch()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["step-1"]


def test_atomic_folder_failing_last_rename_restores_old(tmp_path, monkeypatch):
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "old").touch()
    rename = type(folder).rename

    def fail_on_new(self, target):
        if ".part" in self.name:
            raise OSError("disk error")
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", fail_on_new)
    with pytest.raises(OSError, match="disk error"), atomic_folder(folder) as temporary:
        (temporary / "new").touch()
    assert names(folder) == ["old"]
    assert names(tmp_path) == ["best"]


def test_restore_folder_prefers_the_new_folder(tmp_path):
    folder, old = tmp_path / "best", tmp_path / ".best.old"
    old.mkdir()
    (old / "old").touch()
    assert names(restore_folder(folder)) == ["old"]
    old.mkdir()
    restore_folder(folder)
    assert names(tmp_path) == ["best"]
    assert names(folder) == ["old"]


# digests


def test_digest_of_text_is_its_sha256(tmp_path):
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert digest("abc", length=64) == digest(b"a", "bc", length=64) == abc
    assert digest("abc") == abc[:12]
    path = tmp_path / "abc"
    path.write_text("abc")
    assert file_digest(path) == abc
    assert file_digest(path, length=16) == abc[:16]


def test_digest_of_arrays_and_settings():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert digest(array.T, length=64) == hashlib.sha256(array.T.tobytes()).hexdigest()
    assert digest(array) != digest(array + 1)
    assert digest(np.zeros((0, 4))) == digest("")
    assert digest({"b": [1, None], "a": 2}) == digest('{"a": 2, "b": [1, null]}')
    with pytest.raises(TypeError, match="Python objects"):
        digest(np.array([{}]))
    with pytest.raises(TypeError):
        digest({1, 2})


# locks


def test_locked_twice_with_busy_raises_then_frees(tmp_path):
    path = tmp_path / "new" / "ledger.sqlite"
    with locked(path), pytest.raises(InputError, match="another run"), locked(path, busy="another run"):
        pass
    with locked(path, busy="another run"), locked(path.with_name("other"), busy="another run"):
        assert names(path.parent) == []


def test_locked_without_busy_waits(tmp_path):
    order, started = [], threading.Event()

    def second():
        started.set()
        with locked(tmp_path / "a"):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path / "a"):
        thread.start()
        started.wait()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


# cached arrays


def test_cached_arrays_come_back_as_computed(tmp_path):
    arrays = {
        "names": np.array(["a", "Zoë"]),
        "empty": np.zeros((0, 3), np.int16),
        "number": np.array(2.5),
        "features": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    cached_arrays(tmp_path / "a.npz", lambda: arrays)
    found = cached_arrays(tmp_path / "a.npz", not_called)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert names(tmp_path) == ["a.npz"]


def test_cached_array_with_any_damaged_byte_is_right(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(storage, "_sync", lambda path: None)  # hundreds of writes: no need to wait for a disk
    path, expected = tmp_path / "a.npz", np.arange(5, dtype=np.int16)
    cached_array(path, lambda: expected)
    good, n_computed = path.read_bytes(), 0

    def compute():
        nonlocal n_computed
        n_computed += 1
        return expected

    damaged = [good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :] for at in range(len(good))]
    for data in (*damaged, b"", good[:-1], good[: len(good) // 2]):
        path.write_bytes(data)
        np.testing.assert_array_equal(cached_array(path, compute), expected, strict=True)
    assert n_computed > len(good) // 2  # the other bytes hold times, padding and the like
    assert "a.npz in the cache is damaged" in caplog.text


def test_cached_array_refuses_objects_and_keeps_nothing(tmp_path):
    with pytest.raises(TypeError, match="Python objects"):
        cached_array(tmp_path / "a.npz", lambda: np.array([{}]))
    with pytest.raises(ZeroDivisionError):
        cached_array(tmp_path / "a.npz", lambda: 1 / 0)
    assert names(tmp_path) == []


def test_cached_array_removes_files_of_killed_processes(tmp_path):
    other = tmp_path / ".b.01234567.part.npz"
    for path in (tmp_path / ".a.01234567.part.npz", other):
        path.touch()
    cached_array(tmp_path / "a.npz", lambda: np.zeros(1))
    assert names(tmp_path) == [other.name, "a.npz"]


def test_cached_array_of_many_threads_is_computed_once(tmp_path):
    calls, results = [], []

    def compute():
        calls.append(1)
        return np.arange(3)

    def ask():
        results.append(cached_array(tmp_path / "a.npz", compute))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(calls), len(results)) == (1, 4)


# cached rows


def double(indices):
    return np.array([[2.0 * index, 1.0] for index in indices])


def test_cached_rows_compute_only_missing_or_damaged(tmp_path, caplog):
    keys, batches, progress = [f"key{index}" for index in range(5)], [], []

    def compute(indices):
        batches.append(indices)
        return double(indices)

    def ask(keys):
        return cached_rows(
            tmp_path / "m", keys, compute, dimension=2, batch_size=2, progress=lambda *at: progress.append(at)
        )

    expected = double(range(5)).astype(np.float32)
    np.testing.assert_array_equal(ask(keys[:3]), expected[:3], strict=True)
    assert (batches, progress) == ([[0, 1], [2]], [(0, 3), (2, 3), (3, 3)])
    (tmp_path / "m" / "key1.npz").write_bytes(b"damaged")
    np.savez(tmp_path / "m" / "key2.npz", array=np.array([np.nan, 1], np.float32))
    batches.clear()
    np.testing.assert_array_equal(ask(keys), expected, strict=True)
    assert batches == [[1, 2], [3, 4]]
    assert caplog.text.count("damaged") == 2
    np.testing.assert_array_equal(ask(keys), expected, strict=True)
    assert len(batches) == 2


def test_cached_rows_without_folder_or_keys(tmp_path):
    assert cached_rows(None, ["a", "b"], double, dimension=2).tolist() == [[0, 1], [2, 1]]
    assert cached_rows(tmp_path, [], not_called, dimension=2).shape == (0, 2)
    assert names(tmp_path) == []


# cached folders


def test_cached_folder_is_written_once_and_mapped(tmp_path):
    def write(folder):
        np.lib.format.open_memmap(folder / "faces.npy", mode="w+", dtype=np.uint8, shape=(2, 3))[:] = 7

    folder = cached_folder(tmp_path / "faces", write)
    assert cached_folder(folder, not_called) == folder
    assert np.load(folder / "faces.npy", mmap_mode="r").tolist() == [[7] * 3] * 2


@pytest.mark.parametrize("damage", ["missing", "shorter", "manifest", "killed"])
def test_cached_folder_when_damaged_is_written_again(tmp_path, damage):
    def write(folder):
        write_atomically(folder / "a.bin", b"12345")

    folder = cached_folder(tmp_path / "store", write)
    if damage == "missing":
        (folder / "a.bin").unlink()
    elif damage == "shorter":
        (folder / "a.bin").write_bytes(b"1234")
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        folder.rename(tmp_path / ".store.01234567.part")
    assert (cached_folder(folder, write) / "a.bin").read_bytes() == b"12345"
    assert names(tmp_path) == ["store"]


def test_cached_folder_killed_between_renames_is_kept(tmp_path):
    folder = cached_folder(tmp_path / "store", lambda folder: write_atomically(folder / "a", "1"))
    folder.rename(tmp_path / ".store.old")
    assert names(cached_folder(folder, not_called)) == ["a", "manifest.json"]
