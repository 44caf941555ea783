"""Samples per second with random access, as training needs it.

- one pickle per clip, as in the report;
- the memory-mapped shards that training uses, and the loader of training.

    python benchmarks/bench_loader.py [--clips 512] [--batch 64] [--batches 100]

If the clips do not fit into memory, `--clips 200000 --keep DIR` measures the disk.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_common import make_shards
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.training.data import BatchLoader, PairedArrays


def rate(load: Callable[[np.ndarray], object], n: int, options: argparse.Namespace, batches: int) -> float:
    """Return samples/s of a function that loads the clips at random indices."""
    rng = np.random.default_rng(0)
    load(rng.choice(n, options.batch, replace=False))
    started = time.perf_counter()
    for _ in range(batches):
        load(rng.choice(n, options.batch, replace=False))
    return batches * options.batch / (time.perf_counter() - started)


def loader_rate(clips, options: argparse.Namespace, threads: int) -> float:
    """Return samples/s of the loader of training, over whole epochs."""
    data = PairedArrays(clips.audio, clips.features)
    loader = BatchLoader(data, batch_size=options.batch, seed=0, device=torch.device("cpu"), threads=threads)
    done, started = 0, time.perf_counter()
    epoch = 0
    while done < options.batches:
        done += sum(1 for _ in loader.epoch(epoch))
        epoch += 1
    return done * options.batch / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=512, help="number of artificial clips of 6 s (default 512)"
    )
    parser.add_argument("--batch", type=int, default=64, help="clips per batch (default 64)")
    parser.add_argument("--batches", type=int, default=100, help="number of random batches (default 100)")
    parser.add_argument("--keep", type=Path, help="folder for the shards; existing shards in it are used")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        shards, pickles = options.keep or Path(text) / "shards", Path(text) / "pickles"
        pickles.mkdir()
        if not list(shards.glob("shard-*")):
            make_shards(shards, n=options.clips)
        started = time.perf_counter()
        clips = read_prepared(shards)
        opened_s = time.perf_counter() - started
        n = len(clips)
        mega_bytes = n * clips.audio[0].nbytes / 2**20
        print(
            f"{n} clips, {mega_bytes:.0f} MB of sound; batches of {options.batch}, one thread if not stated"
        )
        print(f"opening, with checksums: {n / opened_s:6.0f} clips/s ({opened_s:.1f} s)")

        sample = min(n, 512)
        for index in range(sample):
            with (pickles / f"{index:06d}.pkl").open("wb") as stream:
                pickle.dump((clips.audio[index], clips.features[index].copy()), stream)

        def from_pickles(rows: np.ndarray) -> torch.Tensor:
            loaded = []
            for row in rows:
                with (pickles / f"{row:06d}.pkl").open("rb") as stream:
                    loaded.append(torch.from_numpy(pickle.load(stream)[0]))
            return torch.stack(loaded)

        reference = rate(from_pickles, sample, options, options.batches)
        print(f"one pickle per clip:         {reference:8.0f} samples/s")
        random = rate(lambda rows: clips.audio[rows], n, options, options.batches)
        print(f"mapped shards:             {random:8.0f} samples/s, {random / reference:.2f}x the pickles")
        for threads in (0, 1, 2):
            found = loader_rate(clips, options, threads)
            print(f"training's loader, {threads} ahead: {found:8.0f} samples/s, {found / reference:.2f}x")


if __name__ == "__main__":
    main()
