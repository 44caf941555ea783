"""Time of the command `s2f reconstruct`: elapsed seconds from its start to the image.

Each command runs in a new process, so the time includes imports and the loading of the models. The voice
belongs to a synthetic person who is in no run. A first command, which is not in the median, writes the kit of
the run if it is missing. The run is one of `make book`; the limit is 5 s on a CPU.

    python benchmarks/bench_reconstruct.py [--run runs/quick] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

from s2f_lib.config import SAMPLE_RATE_HZ, SyntheticConfig
from s2f_lib.paths import RunPaths
from s2f_lib.sources.synthetic.people import draw_population
from s2f_lib.sources.synthetic.recordings import resynthesize_speech

BOUND_S = 5.0
COMMAND = [sys.executable, "-c", "from s2f_lib.cli.main import main; main()", "reconstruct"]


def write_voice(path: Path) -> None:
    """Write 6 s of speech of a synthetic person."""
    world = SyntheticConfig(n_train=1, n_test=1, seed=5_000)
    clip_id = draw_population(world)[0].clip_id
    audio = resynthesize_speech(world, [clip_id], workers=1)[0]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(audio.astype("<i2").tobytes())


def seconds(voice: Path, run: Path, out: Path) -> float:
    """Return the elapsed seconds of one command; a command that fails ends the benchmark."""
    started = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, str(voice), "--run", str(run), "-o", str(out)], capture_output=True, text=True
    )
    took_s = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"s2f reconstruct ended with status {done.returncode}: {done.stderr.strip()}")
    return took_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run folder (default runs/quick)")
    parser.add_argument(
        "--repeats", type=int, default=3, help="number of commands; the median is reported (default 3)"
    )
    options = parser.parse_args()
    run = RunPaths(options.run) if options.run else RunPaths.of_profile("quick")
    if not run.settings.is_file():
        sys.exit(f"no run at {run.root}: run `make book` first, or name a run folder with --run DIR")
    with tempfile.TemporaryDirectory() as folder:
        voice, out = Path(folder) / "voice.wav", Path(folder) / "face.png"
        write_voice(voice)
        first_s = seconds(voice, run.root, out)
        times_s = [seconds(voice, run.root, out) for _ in range(options.repeats)]
    found_s = statistics.median(times_s)
    print(f"first command: {first_s:.2f} s")
    print(
        f"s2f reconstruct: {found_s:.2f} s, the median of {len(times_s)} ({min(times_s):.2f} to "
        f"{max(times_s):.2f} s); {found_s / BOUND_S:.2f}x the limit of {BOUND_S:g} s"
    )


if __name__ == "__main__":
    main()
