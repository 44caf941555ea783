"""Samples a second out of the shards: three ways, with random access as training needs it.

- a pickle a clip, as the report kept them;
- Parquet row groups, read as they are needed;
- the mapped arrays that training uses, unpacked once (that time is printed, too).

    python benchmarks/bench_loader.py [--clips 512] [--batch 64] [--batches 100]

With more clips than the memory holds, `--clips 200000 --keep DIR` measures the disk.
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
from s2f_lib.training.batches import BatchLoader
from s2f_lib.training.clip_store import map_clips
from s2f_lib.training.data import PairedArrays


def rate(load: Callable[[np.ndarray], object], n: int, options: argparse.Namespace, batches: int) -> float:
    """Return samples/s of a function that loads the clips at some random places."""
    rng = np.random.default_rng(0)
    load(rng.choice(n, options.batch, replace=False))
    started = time.perf_counter()
    for _ in range(batches):
        load(rng.choice(n, options.batch, replace=False))
    return batches * options.batch / (time.perf_counter() - started)


def loader_rate(clips, options: argparse.Namespace, threads: int) -> float:
    """Return samples/s of the training's own loader over whole epochs."""
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
    parser.add_argument("--clips", type=int, default=512, help="made-up clips of 6 s (default 512)")
    parser.add_argument("--batch", type=int, default=64, help="clips a batch (default 64)")
    parser.add_argument("--batches", type=int, default=100, help="random batches (default 100)")
    parser.add_argument("--keep", type=Path, help="folder for the shards, used again if it is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        shards, pickles = options.keep or Path(text) / "shards", Path(text) / "pickles"
        pickles.mkdir()
        if not list(shards.glob("shard-*")):
            make_shards(shards, n=options.clips)
        started = time.perf_counter()
        clips = map_clips(shards)
        unpacked_s = time.perf_counter() - started
        n = len(clips)
        mega_bytes = clips.audio.nbytes / 2**20
        print(f"{n} clips, {mega_bytes:.0f} MB of sound; batches of {options.batch}, one thread unless said")
        print(f"unpacking the shards once: {n / unpacked_s:8.0f} clips/s ({unpacked_s:.1f} s)")

        sample = min(n, 512)
        for place in range(sample):
            with (pickles / f"{place:06d}.pkl").open("wb") as stream:
                pickle.dump((clips.audio[place].copy(), clips.features[place].copy()), stream)

        def from_pickles(rows: np.ndarray) -> torch.Tensor:
            loaded = []
            for row in rows:
                with (pickles / f"{row:06d}.pkl").open("rb") as stream:
                    loaded.append(torch.from_numpy(pickle.load(stream)[0]))
            return torch.stack(loaded)

        files = sorted(shards.glob("shard-*.parquet"))
        ends = np.cumsum([len(read_ids(path)) for path in files])

        def from_parquet(rows: np.ndarray) -> torch.Tensor:
            import pyarrow.parquet as pq

            loaded = []
            which = np.searchsorted(ends, rows, side="right")
            for shard in np.unique(which):  # a shard is one row group
                table = pq.read_table(files[shard], columns=["audio"]).column("audio").combine_chunks()
                first = ends[shard - 1] if shard else 0
                for row in rows[which == shard]:
                    loaded.append(torch.from_numpy(table[int(row - first)].values.to_numpy().copy()))
            return torch.stack(loaded)

        mapped = torch.from_numpy(clips.audio)
        reference = rate(from_pickles, sample, options, options.batches)
        print(f"a pickle a clip:           {reference:8.0f} samples/s")
        parquet = rate(from_parquet, n, options, max(3, options.batches // 20))
        print(f"Parquet row groups:        {parquet:8.0f} samples/s, {parquet / reference:.2f}x the pickles")
        random = rate(
            lambda rows: mapped.index_select(0, torch.from_numpy(rows)), n, options, options.batches
        )
        print(f"mapped arrays:             {random:8.0f} samples/s, {random / reference:.2f}x the pickles")
        for threads in (0, 1, 2):
            found = loader_rate(clips, options, threads)
            print(f"training's loader, {threads} ahead: {found:8.0f} samples/s, {found / reference:.2f}x")
        held = read_prepared(shards)
        assert held.digest == clips.digest, "the mapped clips are not those of the shards"


def read_ids(path: Path) -> list[str]:
    """Return the clip ids of a shard."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=["clip_id"]).column("clip_id").to_pylist()


if __name__ == "__main__":
    main()
