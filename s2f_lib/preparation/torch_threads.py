"""How many CPU threads torch uses for a while."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use this many CPU threads, and put its own number back; nothing where it is not loaded."""
    torch = sys.modules.get("torch")  # not imported for this: that takes seconds
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
