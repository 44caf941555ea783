"""Synthetic clips per second: portraits, speech and MP4 files, on all cores of the machine.

The clips have the settings of the profile quick (480x360, up to 6 s). The target is 4 clips/s; the reference
is one process in the same run. The times include the start of the processes.

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

TARGET = 4.0  # clips/s


def clips_per_s(count: int, *, workers: int) -> float:
    """Return clips/s of a population of `count` people, in a temporary folder."""
    population = SyntheticConfig(n_train=count - 1, n_test=1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        make_synthetic_clips(population, Path(folder), workers=workers)
        return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=48, help="number of clips, at least 8 (default 48)")
    parser.add_argument(
        "--workers", type=int, default=0, help="number of processes; 0: one per core (default)"
    )
    options = parser.parse_args()
    if options.clips < 8:
        parser.error(f"--clips is {options.clips}: expected at least 8")
    workers = options.workers or len(os.sched_getaffinity(0))
    clips_per_s(2, workers=1)  # warm-up: loads libraries and fonts
    one_process = clips_per_s(options.clips // 4, workers=1)
    found = clips_per_s(options.clips, workers=options.workers)
    print(f"one process:   {one_process:6.2f} clips/s")
    print(
        f"{workers} process(es): {found:6.2f} clips/s, {found / one_process:.2f}x one process; "
        f"{found / TARGET:.2f}x the target of {TARGET:g} clips/s"
    )


if __name__ == "__main__":
    main()
