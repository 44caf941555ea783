"""The import is light, and the packaging files agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import s2f_lib

ROOT = Path(__file__).resolve().parents[1]
CONDA_EXTRAS = ("prepare", "book", "download")
HEAVY = ("dlib", "yt_dlp", "ray", "av", "librosa", "torch", "cv2")


def test_import_loads_no_heavy_library():
    script = f"import sys, s2f_lib; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    for name in s2f_lib.__all__:
        assert getattr(s2f_lib, name) is not None
    assert set(s2f_lib.__all__) == set(dir(s2f_lib))


def _name(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower().replace("_", "-")


def _bound(requirement: str) -> str:
    return re.sub(r"^[A-Za-z0-9._-]+", "", requirement).replace(" ", "")


def _pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_conda_environment_matches_pyproject():
    project = _pyproject()["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    for entry in [*conda, *pip]:  # conda passes the pip list as a file, in which most options are errors
        assert re.fullmatch(r"\w[\w.-]*([<>=!~]=?[\d.]+,?)*", entry), f"not a plain requirement: {entry}"
    # other names on conda-forge
    renamed = {"dlib-bin": "dlib", "opencv-python-headless": "py-opencv", "torch": "pytorch-gpu"}
    extras = project["optional-dependencies"]
    listed = project["dependencies"] + [r for name in CONDA_EXTRAS for r in extras[name]]
    wanted = {_name(r): r for r in listed if not r.startswith("s2f_lib[")}
    have = {_name(entry) for entry in [*conda, *pip]}
    missing = [name for name in wanted if renamed.get(name, name) not in have]
    assert not missing, f"environment.yml lacks {missing}"
    python = next(entry for entry in conda if entry.startswith("python"))
    assert python.removeprefix("python") == project["requires-python"]
    back = {there: here for here, there in renamed.items()}
    for entry in [*conda, *pip]:
        requirement = wanted.get(back.get(_name(entry), _name(entry)))
        if requirement is not None:
            assert _bound(entry) == _bound(requirement), f"environment.yml says {entry}"


def test_conda_environment_explains_the_pip_steps():
    text = (ROOT / "environment.yml").read_text()
    comment = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "pip install --no-deps -e ." in comment
    listed = {entry for entry in yaml.safe_load(text)["dependencies"] if isinstance(entry, str)}
    for requirement in _pyproject()["project"]["optional-dependencies"]["pretrained"]:
        assert f'"{requirement}"' in comment or requirement in listed, f"environment.yml lacks {requirement}"


def test_lock_pins_all_with_hashes_and_names_no_index():
    lock = (ROOT / "requirements.lock").read_text()
    project = _pyproject()["project"]
    pinned = {_name(line) for line in lock.splitlines() if re.match(r"[a-z0-9]", line)}
    extras = [r for group in project["optional-dependencies"].values() for r in group]
    for requirement in project["dependencies"] + [r for r in extras if not r.startswith("s2f_lib[")]:
        assert _name(requirement) in pinned, f"requirements.lock lacks {requirement}: run `make lock`"
    assert "--hash=sha256:" in lock
    assert "index-url" not in lock
    assert "://" not in re.sub(r"#.*", "", lock)


def test_setup_installs_uv_by_version_and_hash():
    pinned = (ROOT / "requirements-uv.txt").read_text()
    assert re.search(r"^uv==[\d.]+ \\$", pinned, re.MULTILINE)
    assert pinned.count("--hash=sha256:") > 5  # one per platform
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    (command,) = re.findall(r"-m pip install .*", makefile)
    assert "--require-hashes" in command
    assert command.split()[-2:] == ["--requirement", "requirements-uv.txt"]


def test_no_file_names_a_package_index():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    hosts = re.compile(r"pypi\.org|files\.pythonhosted|index-url\s*[=h]|download\.pytorch\.org|registry\.npm")
    for name in listed.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".lock", ".txt", ""} and path.is_file():
            if path == Path(__file__).resolve():
                continue
            assert not hosts.search(path.read_text(encoding="utf-8")), f"{name} names a package index"
