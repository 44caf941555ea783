"""Synthetic clips a second: people drawn, spoken and written as MP4, on the machine's cores.

The clips are those of the quick profile (480x360, up to 6 s).  The aim is 4 clips/s; the reference is one
process in the same run.  The start of the processes is included.

    python benchmarks/bench_synthetic.py [--clips 48] [--workers 0]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from s2f_lib.config import SyntheticConfig
from s2f_lib.sources.synthetic.clips import make_synthetic_clips

AIM = 4.0  # clips/s


def clips_per_s(count: int, *, workers: int) -> float:
    """Return clips/s of a world of so many people, made in a folder of its own."""
    world = SyntheticConfig(n_train=count - 1, n_test=1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        make_synthetic_clips(world, Path(folder), workers=workers)
        return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=48, help="clips to make, at least 8 (default 48)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core (default)")
    options = parser.parse_args()
    if options.clips < 8:
        parser.error(f"--clips is {options.clips}: expected at least 8")
    workers = options.workers or len(os.sched_getaffinity(0))
    clips_per_s(2, workers=1)  # libraries and fonts are loaded; does not count
    alone = clips_per_s(options.clips // 4, workers=1)
    found = clips_per_s(options.clips, workers=options.workers)
    print(f"one process:   {alone:6.2f} clips/s")
    print(
        f"{workers} process(es): {found:6.2f} clips/s, {found / alone:.2f}x one process; "
        f"{found / AIM:.2f}x the aim of {AIM:g} clips/s"
    )


if __name__ == "__main__":
    main()
