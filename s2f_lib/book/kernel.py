"""A kernel of this very interpreter, whatever kernels the machine has registered.

`python3` may be registered by another environment in the user's home, which
Jupyter prefers.  So the chapters run in a kernel that is written for the
occasion, in a folder that only this process looks into.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2f_lib import paths

KERNEL_NAME = "s2f-chapters"
_LONGEST_SOCKET = 90  # bytes of its path without the number; 103 at most where shortest


@contextmanager
def chapter_kernel() -> Iterator[tuple[str, dict[str, str]]]:
    """Register the kernel for the time of a `with` block.

    Gives its name and the traits of the `KernelManager` that is to talk to it: by sockets in
    a folder of their own, which need no port.  Left to itself, Jupyter puts them into the
    working directory under fixed names, where two runs that start together take each other's.
    """
    with tempfile.TemporaryDirectory(prefix="s2f-kernel-") as folder:
        spec = Path(folder) / "kernels" / KERNEL_NAME
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(json.dumps(_specification(Path(folder))), encoding="utf-8")
        found = {"JUPYTER_PATH": _with_first(folder, os.environ.get("JUPYTER_PATH"))}
        # connection files: a home that cannot be written to must not stop a run
        found["JUPYTER_RUNTIME_DIR"] = str(Path(folder) / "runtime")
        with _environment(found):
            socket = str(Path(folder) / "socket")
            short = os.name == "posix" and len(os.fsencode(socket)) <= _LONGEST_SOCKET
            yield KERNEL_NAME, {"transport": "ipc", "ip": socket} if short else {"transport": "tcp"}


def _specification(folder: Path) -> dict[str, object]:
    return {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (chapters)",
        "language": "python",
        "env": {
            "PYTHONPATH": _with_first(str(paths.repository_root()), os.environ.get("PYTHONPATH")),
            "IPYTHONDIR": str(folder / "ipython"),  # no start-up files of the user
            "PYTHONWARNINGS": _with_comma("ignore:IProgress not found", os.environ.get("PYTHONWARNINGS")),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        },
    }


def _with_first(first: str, others: str | None) -> str:
    return os.pathsep.join([first, others]) if others else first


def _with_comma(first: str, others: str | None) -> str:
    return f"{first},{others}" if others else first


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
