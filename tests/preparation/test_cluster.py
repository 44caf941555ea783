"""Preparation on a real Ray cluster of three nodes on this machine, one of which is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from s2f_lib.config import FeatureConfig, PreparationConfig, Settings, StudyConfig
from s2f_lib.errors import InputError
from s2f_lib.preparation.download_feed import Download
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.preparation.shards import read_prepared
from s2f_lib.sources.avspeech import load_clips

ROOT = Path(__file__).resolve().parents[2]
N_CLIPS = 24

# Ray in a process of its own: its signal handlers, threads and child processes end with it
SCRIPT = """
import os
import sys
from pathlib import Path
from s2f_lib.config import StudyConfig
from s2f_lib.preparation.pipeline import prepare
from s2f_lib.sources.avspeech import load_clips
assert "ray" not in sys.modules  # not loaded before it is needed

if __name__ == "__main__":
    folder, out, settings, gpus, lose = sys.argv[1:]
    from ray.cluster_utils import Cluster
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"num_gpus": int(gpus)})
    nodes = [cluster.add_node(wait=False, **node) for _ in range(2)]
    cluster.wait_for_nodes(timeout=60)

    def report(finished, total, refused):
        print(finished, total, refused, flush=True)
        if finished == int(lose):
            cluster.remove_node(nodes[1], allow_graceful=False)

    clips = load_clips(Path(folder) / "clips.csv", Path(folder) / "media", test_share=0.3)
    config = StudyConfig.model_validate_json(settings)
    sections = {"preparation": config.preparation, "features": config.features}
    prepare(clips, Path(out), **sections, engine="ray", address=cluster.address, progress=report)
    if lose == "-1":  # instead: a clip that brings down every process which unpacks it
        from s2f_lib.preparation.clip import ClipState
        from s2f_lib.preparation.cluster import prepare_on_cluster

        class Bomb:
            def __reduce__(self):
                return os._exit, (1,)

        good = next(iter(load_clips(Path(folder) / "clips.csv", Path(folder) / "media")))
        states = [ClipState(0, good), ClipState(1, Bomb()), ClipState(2, good)]
        prepared = prepare_on_cluster(states, config.preparation, config.features, address=cluster.address)
        for state in sorted(prepared, key=lambda state: state.position):
            print(state.position, state.reason, state.row is not None, flush=True)
    import ray
    alive = [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    assert not alive  # this process was disconnected again
    print("lost", nodes[1].live_processes(), flush=True)
"""


def _settings(**changes) -> dict[str, Settings]:
    settings = {"detector": "torch", "detection_width_px": 160, "frame_positions": (0.5,), "audio_s": 2.0}
    return {
        "preparation": PreparationConfig(**(settings | {"clips_per_shard": 9} | changes)),
        "features": FeatureConfig(),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory, media_writer, tone_maker, small_portrait) -> Path:
    """A folder with clips.csv and media/: one clip without a face, one without a file, one bad row."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "media").mkdir()
    rows = []
    for number in range(N_CLIPS):
        video_id = f"clip{number:07d}"
        rows.append(f"{video_id},0.0,2.0,0.5,0.5")
        image = np.roll(small_portrait, number - 12, axis=1)
        if number == 5:
            image = np.full_like(image, 120)
        if number != 11:
            sound = tone_maker(2.0, frequency_hz=300 + 10 * number)
            media_writer(folder / "media" / f"{video_id}.mp4", image=image, sound=sound)
    (folder / "clips.csv").write_text("\n".join([*rows, "bad,row"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    """The rows of the local engine."""
    out = tmp_path_factory.mktemp("local")
    clips = load_clips(source / "clips.csv", source / "media", test_share=0.3)
    summary = prepare(clips, out, **_settings(workers=1))
    assert (summary.n_done, summary.n_refused) == (N_CLIPS - 2, 3)
    return read_prepared(out)


def _run(source: Path, out: Path, *, gpus: int = 0, lose: int = -1) -> str:
    """Prepare on a cluster; return what was printed."""
    pytest.importorskip("ray", reason="needs the extra cluster")
    ray_dir = tempfile.mkdtemp(prefix="s2f-ray-")  # socket names must be short
    arguments = [source, out, StudyConfig(**_settings()).model_dump_json(), gpus, lose]
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": ray_dir},
        start_new_session=True,
    )
    try:
        printed, errors = run.communicate(timeout=200)
    finally:
        with suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(run.pid, signal.SIGKILL)
        shutil.rmtree(ray_dir, ignore_errors=True)
    assert run.returncode == 0, errors[-3_000:]
    return printed


@pytest.mark.slow
def test_cluster_with_a_lost_node_gives_the_local_rows(source, local, tmp_path):
    printed = _run(source, tmp_path / "out", lose=6)
    assert "lost []" in printed  # the node's processes were gone
    found = read_prepared(tmp_path / "out")
    assert found.clip_ids == local.clip_ids
    np.testing.assert_array_equal(found.audio, local.audio)
    np.testing.assert_array_equal(found.features, local.features)
    assert list(found.crops_jpeg) == list(local.crops_jpeg)
    assert found.splits == local.splits
    assert found.to_pandas().equals(local.to_pandas())


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("S2F_LONG_TESTS"), reason="two minutes: set S2F_LONG_TESTS=1")
@pytest.mark.parametrize("gpus", [0, 1])  # Ray takes our word for the GPU: its actor then works on the CPU
def test_cluster_refuses_a_killing_clip_and_gpus_give_the_rows(source, local, tmp_path, gpus):
    printed = _run(source, tmp_path / "out", gpus=gpus).splitlines()
    assert "0 None True" in printed
    assert "1 crashed False" in printed
    assert "2 None True" in printed
    found = read_prepared(tmp_path / "out")
    assert found.clip_ids == local.clip_ids
    assert list(found.crops_jpeg) == list(local.crops_jpeg)
    np.testing.assert_array_equal(found.audio, local.audio)
    np.testing.assert_allclose(found.features, local.features, atol=1e-3)  # batches: a step of float16
    assert found.to_pandas().equals(local.to_pandas())


def test_prepare_on_cluster_with_download_is_refused(tmp_path):
    with pytest.raises(InputError, match="download first"):
        prepare([], tmp_path, engine="ray", download=Download(tmp_path, None), **_settings())
