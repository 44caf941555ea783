"""The wheel, and environments that contain it and only the libraries of some extras.

No network is needed: an environment holds links to the distributions of the present one that the wheel's
metadata requires, so what is not required cannot be imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# resemblyzer's code is not imported, so these requirements of it are not installed (see pyproject.toml)
NOT_NEEDED = {"webrtcvad", "typing"}


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel."""

    root: Path

    @property
    def site_packages(self) -> Path:
        """Folder of the installed packages."""
        return next(self.root.glob("lib/python*/site-packages"))

    def run(
        self, program: str, *arguments: object, cwd: Path, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, check its exit status, and return what it printed."""
        dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "S2F_WORKSPACE"}
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        environment |= {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "160"}
        command = [str(self.root / "bin" / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def python(self, code: str, *, cwd: Path) -> str:
        """Run a script and return what it printed."""
        return self.run("python", "-c", code, cwd=cwd).stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the checkout without network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory, wheel):
    """A function that returns the environment of the wheel with some extras; each is made once."""

    @cache
    def make(*extras: str) -> Environment:
        root = tmp_path_factory.mktemp("-".join(["venv", *extras]))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
        environment = Environment(root)
        with zipfile.ZipFile(wheel) as file:
            name = next(each for each in file.namelist() if each.endswith(".dist-info/METADATA"))
            about = metadata.PathDistribution(zipfile.Path(file, name.removesuffix("METADATA")))
            requirements = about.requires or []
        _link_distributions(_closure(requirements, extras), environment.site_packages)
        installer = Path(sys.executable).with_name("uv")
        command = [installer, "pip", "install", "--python", root / "bin" / "python", "--offline", "--no-deps"]
        subprocess.run([*command, "--no-config", wheel], check=True, capture_output=True)
        return environment

    return make


def _closure(requirements: Iterable[str], extras: Iterable[str]) -> set[str]:
    """Return the names of the distributions that the requirements need, directly or indirectly."""
    done: set[tuple[str, str]] = set()
    waiting = [(text, extra) for extra in ("", *extras) for text in requirements]
    own = list(requirements)
    found = set()
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) in done or name in NOT_NEEDED:
                continue
            done.add((name, wanted))
            if name == "s2f-lib":  # an extra that includes another one
                needed = own
            else:
                needed = metadata.requires(name) or []
                found.add(name)
            waiting += [(each, wanted) for each in needed]
    return found


def _link_distributions(names: set[str], folder: Path) -> None:
    """Link the files of distributions into a folder: whole folders where no other distribution has files."""
    files, owners = _installed_files()
    for name in names:
        for file, base in files[name].items():
            for path in (*reversed(file.parents[:-1]), file):
                link = folder / path
                if owners[path] <= names or path == file:
                    if not link.is_symlink():
                        link.symlink_to(base / path)
                    break
                link.mkdir(exist_ok=True)


@cache
def _installed_files() -> tuple[dict[str, dict[PurePosixPath, Path]], dict[PurePosixPath, set[str]]]:
    """Return the files of each distribution with their root, and the owners of each file and folder."""
    files: dict[str, dict[PurePosixPath, Path]] = defaultdict(dict)
    owners: dict[PurePosixPath, set[str]] = defaultdict(set)
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        for file in distribution.files or []:
            if ".." in file.parts or "__pycache__" in file.parts or file.is_absolute():
                continue
            files[name][file] = Path(str(distribution.locate_file("")))
            for path in (file, *file.parents[:-1]):
                owners[path].add(name)
    return files, owners
