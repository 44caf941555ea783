"""Tests of the provenance: it has git's commit, and does not name the machine."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from s2f_lib.config import load_config
from s2f_lib.provenance import UNKNOWN, commit, environment, provenance_table


def git(folder: Path, *arguments: str) -> str:
    """Run git with a test identity."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_marks_changed_files(tmp_path):
    assert commit(tmp_path) == UNKNOWN
    git(tmp_path, "init", "-q")
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "--short=10", "HEAD")
    assert commit(tmp_path) == head
    (tmp_path / "new.txt").write_text("not tracked")
    assert commit(tmp_path) == head
    (tmp_path / "a.txt").write_text("2")
    assert commit(tmp_path) == f"{head} + changes"
    inner = tmp_path / "unpacked"
    inner.mkdir()
    assert commit(inner) == UNKNOWN  # inside another repository


def test_provenance_table_has_settings_but_no_machine():
    config = load_config("quick", {"training.seed": 5})
    table = provenance_table(config, wall_s=12.4).set_index("what")["value"]
    assert table["profile"] == "quick"
    assert "encoder 5" in table["seeds"]
    assert "world 0" in table["seeds"]
    assert table["wall time of this chapter"] == "12 s"
    assert "torch" in table["packages"]
    other = provenance_table(load_config("quick"), wall_s=0).set_index("what")["value"]
    assert table["settings digest"] != other["settings digest"]
    text = " ".join(table) + " ".join(environment().values())
    assert platform.node() not in text or len(platform.node()) < 4
    assert str(Path.home()) not in text
    real = load_config("quick", {"source.kind": "avspeech"})
    assert "world" not in provenance_table(real, wall_s=0).set_index("what")["value"]["seeds"]
