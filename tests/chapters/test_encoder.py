"""Speed of a training: counted by hand, and named by what held it back."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from s2f_lib.chapters import encoder as throughput
from s2f_lib.config import load_config
from s2f_lib.models.voice_encoder import VoiceEncoder, summarize
from s2f_lib.training.encoder import TrainedEncoder


def test_speed_is_clips_times_three_forward_passes(tmp_path):
    config = load_config("quick", {"encoder.width": 1 / 64, "encoder.hidden": 8, "training.precision": "no"})
    model = VoiceEncoder(config.encoder, feature_dimension=8, spectrogram=config.spectrogram)
    metrics = pd.DataFrame({"samples_per_s": [10.0, 100.0, 90.0], "wait_share": [0.5, 0.01, 0.02]})
    row = throughput.training_throughput(TrainedEncoder(model, metrics, tmp_path, "l1"), config).iloc[0]
    forward = sum(layer.mega_flops for layer in summarize(model, config.spectrogram)) / 1_000
    assert row["clips_per_s"] == 90
    assert row["wait_share"] == 0.02
    assert row["gflops"] == pytest.approx(3 * forward * 90)
    assert row["share"] == pytest.approx(row["gflops"] / row["matmul_gflops"])


def test_the_matmul_rate_is_one_that_a_processor_has():
    rate = throughput.matmul_gflops(torch.float32, torch.device("cpu"), repetitions=2)
    assert 0.1 < rate < 1e6


@pytest.mark.parametrize(
    ("wait", "share", "word"), [(0.2, 0.5, "waiting"), (0.0, 0.1, "memory"), (0.0, 0.6, "arithmetic")]
)
def test_the_limit_in_words(wait, share, word):
    assert word in throughput.format_limit(pd.DataFrame([{"wait_share": wait, "share": share}]))
