"""The report's numbers, and what each was measured on.

The report used about 8,000 AVSpeech clips for training and 400 for testing, and VGG-Face features of 4,096
dimensions. A run on other people or with other features can give other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

#: Data and features of all these numbers.
MEASURED_ON = "the report: AVSpeech, 8K train / 400 test, VGG-Face 4096-D"


@dataclass(frozen=True)
class Report:
    """The numbers of the report, each below the heading of its section."""

    # "Data Preparation Details"
    n_train: int = 8_000  # "~ 8K"
    n_test: int = 400  # "~ 400"
    preparation_hours_per_1000: tuple[float, float] = (3.0, 4.0)
    # "Voice Encoder Architecture"
    parameters: int = 46_593_664
    original_parameters: int = 760_000_000  # "760 million": Speech2Face's encoder, as the report counts it
    # "Decoder"
    decoder_images: int = 5_900
    # "Qualitative Analysis": cosine between the two reconstructions
    reconstruction_cosine: tuple[float, float] = (0.25, 0.50)
    # "Evaluation Metric(Encoder)": split -> measure -> value
    distances: dict[str, dict[str, float]] = field(
        default_factory=lambda: {
            "train": {"l2": 0.56, "l1": 18.47, "cosine": 0.83},
            "test": {"l2": 0.77, "l1": 20.23, "cosine": 0.68},
        }
    )
    # "Results on different losses": loss -> measure -> value, on test
    losses: dict[str, dict[str, float]] = field(
        default_factory=lambda: {
            "l1": {"l1": 20.23, "l2": 0.77, "cosine": 0.68},
            "l2": {"l1": 34.12, "l2": 1.42, "cosine": 0.62},
            "l1_l2": {"l1": 28.45, "l2": 1.32, "cosine": 0.63},
            "contrastive": {"l1": 43.67, "l2": 2.35, "cosine": 0.49},
        }
    )
    # "Recall@K": split -> similarity -> percent at 1, 5, 10, 20, 50
    recall_percent: dict[str, dict[str, tuple[float, ...]]] = field(
        default_factory=lambda: {
            "train": {
                "l1": (11.96, 29.26, 41.73, 55.47, 72.26),
                "l2": (11.70, 29.52, 41.48, 55.72, 73.03),
                "cosine": (11.20, 27.23, 39.44, 54.45, 73.03),
            },
            "test": {
                "l1": (0.51, 1.77, 3.03, 6.83, 14.18),
                "l2": (0.76, 2.03, 3.15, 6.33, 14.68),
                "cosine": (0.25, 1.01, 2.53, 4.56, 14.94),
            },
        }
    )
    gallery: int = 400  # "reference(test) database of 400 samples"


REPORT = Report()

#: Names of measures and losses on a page.
MEASURE_NAMES = {"l1": "L1 distance", "l2": "L2 distance", "cosine": "cosine similarity"}
LOSS_NAMES = {
    "l1": "L1 loss",
    "l2": "L2 loss",
    "l1_l2": "L1 loss + \u03bb L2 loss",
    "contrastive": "contrastive loss",
    "info_nce": "symmetric InfoNCE",  # this loss and the next are not in the report
    "speech2face": "Speech2Face's own loss",
}

#: The report's table "Voice Encoder Architecture": each of its columns is a row here.
ARCHITECTURE = pd.DataFrame(
    [
        ("CONV RELU BN", 64, "1", "4 x 4"),
        ("CONV RELU BN", 64, "1", "4 x 4"),
        ("CONV RELU BN", 128, "1", "4 x 4"),
        ("MAXPOOL", None, "2 x 1", "2 x 1"),
        ("CONV RELU BN", 128, "1", "4 x 4"),
        ("MAXPOOL", None, "2 x 1", "2 x 1"),
        ("CONV RELU BN", 128, "1", "4 x 4"),
        ("MAXPOOL", None, "2 x 1", "2 x 1"),
        ("CONV RELU BN", 256, "1", "4 x 4"),
        ("MAXPOOL", None, "2 x 1", "2 x 1"),
        ("CONV RELU BN", 512, "1", "4 x 4"),
        ("CONV RELU BN", 512, "2", "4 x 4"),
        ("CONV", 512, "2", "4 x 4"),
        ("AVGPOOL RELU BN", None, "1", "\u221e x 1"),
        ("FC RELU", 4096, "1", "1 x 1"),
        ("FC", 4096, "1", "1 x 1"),
    ],
    columns=["layer", "channels", "stride", "kernel"],
)
