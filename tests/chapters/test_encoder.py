"""Tests of the encoder's counted sizes and of the speed of its training, with values worked out by hand."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from s2f_lib.chapters import encoder
from s2f_lib.chapters.reference import REPORT
from s2f_lib.config import load_config
from s2f_lib.models.voice_encoder import VoiceEncoder, summarize
from s2f_lib.training.encoder import TrainedEncoder


def test_training_throughput_counts_three_forward_passes(tmp_path):
    config = load_config("quick", {"encoder.width": 1 / 64, "encoder.hidden": 8, "training.precision": "no"})
    model = VoiceEncoder(config.encoder, feature_dimension=8, spectrogram=config.spectrogram)
    metrics = pd.DataFrame({"samples_per_s": [10.0, 100.0, 90.0], "wait_share": [0.5, 0.01, 0.02]})
    trained = TrainedEncoder(model, metrics, tmp_path, "l1", config.spectrogram)
    row = encoder.training_throughput(trained, spectrogram=config.spectrogram, precision="no").iloc[0]
    forward = sum(layer.mega_flops for layer in summarize(model, config.spectrogram)) / 1_000
    assert row["clips_per_s"] == 90
    assert row["wait_share"] == 0.02
    assert row["gflops"] == pytest.approx(3 * forward * 90)
    assert row["share"] == pytest.approx(row["gflops"] / row["matmul_gflops"])


def test_matmul_gflops_is_a_plausible_rate():
    rate = encoder.matmul_gflops(torch.float32, torch.device("cpu"), repetitions=2)
    assert 0.1 < rate < 1e6


@pytest.mark.parametrize(
    ("wait", "share", "word"), [(0.2, 0.5, "waiting"), (0.0, 0.1, "memory"), (0.0, 0.6, "arithmetic")]
)
def test_format_limit_names_the_largest_cost(wait, share, word):
    assert word in encoder.format_limit(pd.DataFrame([{"wait_share": wait, "share": share}]))


def test_parameter_counts_follow_the_formula():
    counts = encoder.parameter_counts().set_index("N")["parameters"]
    # design section 4: 28,525,312 + 2,097,152 N
    assert dict(counts) == {
        1: 30_622_464,
        8: 45_302_528,
        9: 47_399_680,
        57: 148_062_976,
        342: 745_751_296,
    }
    assert encoder.implied_bins() == pytest.approx((46_593_664 - 28_525_312) / 2_097_152)
    assert REPORT.parameters not in set(counts)


def test_architecture_table_sums_and_sizes_match_report():
    config = load_config("quick")
    table = encoder.architecture_table(config.encoder, config.spectrogram, feature_dimension=128)
    full = table["parameters, report's size"]
    assert full.iloc[-1] == 47_399_680 == full.iloc[:-1].sum()
    # design section 4: sizes from 598 x 257
    sizes = (
        "595x254 592x251 589x248 294x248 291x245 145x245 142x242 71x242 68x239 34x239 31x236 14x117 6x57 1x9"
    )
    shown = ["x".join(size.split(" x ")[1:]) for size in table["output, report's size"].iloc[:14]]
    assert shown == sizes.split()
