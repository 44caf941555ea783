"""Fixtures for all folders of tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the wheel: its book takes longest, and should not run alone at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/wheel/"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, pairs and faces next to the checkout; skips if it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real clips and faces in ../shared/data, which are not part of the project")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _restore_logger() -> Iterator[None]:
    """Restore the logger of the package: a page redirects it to an output that ends with the test."""
    package = logging.getLogger("s2f_lib")
    before = package.handlers[:], package.level, package.propagate
    yield
    package.handlers[:], package.level, package.propagate = before
