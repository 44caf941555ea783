"""Names that the examples in docstrings use without importing them, as NumPy's documentation does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace |= {"np": np, "pd": pd}
