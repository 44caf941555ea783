"""Tests of the figures' contents: curves, labels with units, no titles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from s2f_lib.chapters import figures, retrieval

METRICS = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2, 1], "validation_loss": [3.5, 3.0, 2.9]})
COLUMNS = {"train_loss": "training", "validation_loss": "validation"}
RANKS = pd.concat(
    pd.DataFrame({"name": name, "measure": measure, "gallery": 4, "rank": [1.0, 2.0, 4.0, 4.0], "ties": 0})
    for name in ("train", "test")
    for measure in ("l1", "cosine")
)


def all_figures() -> dict[str, Figure]:
    """Return one figure of each kind, with data that is easy to recognise."""
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    values = pd.DataFrame({"label": ["a", "b"], "value": [0.5, 0.2], "low": [0.4, 0.1], "high": [0.6, 0.3]})
    band = {name: retrieval.chance_band(4, 4, 4) for name in ("train", "test")}
    return {
        "curves": figures.training_curves({"one": METRICS}, COLUMNS, y_label="L1 loss"),
        "panels": figures.training_curves(dict.fromkeys("abc", METRICS), COLUMNS, y_label="loss"),
        "compared": figures.compared_curves({"a": METRICS}, "train_loss", y_label="loss"),
        "recall": figures.recall_curves(RANKS, k_max=4, band=band),
        "chance": figures.measured_vs_chance(values.assign(chance=0.1), x_label="recall, %"),
        "bars": figures.bars(values, label="label", value="value", x_label="clips"),
        "histogram": figures.histogram(
            rng.normal(size=40), x_label="cosine", y_label="people", band=(0.25, 0.5), band_label="report"
        ),
        "spectrograms": figures.spectrograms(
            rng.normal(size=(2, 2, 30, 10)), labels=["a", "b"], duration_s=3.0, max_frequency_hz=4000
        ),
        "grid": figures.face_grid(faces, columns=4),
        "rows": figures.face_rows(faces.reshape(2, 3, 8, 8, 3), headings=["a", "b", "c"], notes=["x", "y"]),
    }


@pytest.fixture(scope="module", params=sorted(all_figures()))
def named(request) -> tuple[str, Figure]:
    """Each figure with its name."""
    return request.param, all_figures()[request.param]


def test_figures_have_labels_and_no_titles(named):
    name, figure = named
    visible = [axis for axis in figure.axes if axis.get_visible()]
    assert visible
    assert not any(axis.get_title() for axis in visible)
    assert figure._suptitle is None
    if name not in {"grid", "rows"}:
        assert any(axis.get_xlabel() for axis in visible)
    figure.draw_without_rendering()


def test_training_curves_differ_in_colour_and_marker():
    lines = all_figures()["curves"].axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["training", "validation"]
    assert list(lines[0].get_ydata()) == [3.0, 2.0, 1.0]
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_marker() != lines[1].get_marker()


def test_training_curves_have_one_panel_per_model():
    assert sum(axis.get_visible() for axis in all_figures()["panels"].axes) == 3


def test_recall_curves_count_ranks_up_to_k():
    lines = {line.get_label(): line for line in all_figures()["recall"].axes[0].get_lines()}
    assert list(lines["l1"].get_ydata()) == [0.25, 0.5, 0.5, 1.0]
    chance = next(line for label, line in lines.items() if label.startswith("chance"))
    assert list(chance.get_ydata()) == [0.25, 0.5, 0.75, 1.0]


def test_spectrograms_axes_are_seconds_and_kilohertz():
    image = all_figures()["spectrograms"].axes[0].get_images()[0]
    assert image.get_extent() == [0.0, 3.0, 0.0, 4.0]
    assert image.get_array().shape == (10, 30)  # bins x frames
    assert image.origin == "lower"


def test_face_rows_frames_only_the_true_face():
    faces = np.zeros((2, 3, 8, 8, 3), np.uint8)
    marked = np.zeros((2, 3), bool)
    marked[1, 2] = True
    figure = figures.face_rows(faces, headings=["a", "b", "c"], marked=marked)
    framed = [axis.spines["left"].get_visible() for axis in figure.axes]
    assert framed == [False] * 5 + [True]


def test_histogram_band_has_the_given_ends():
    axis = all_figures()["histogram"].axes[0]
    band = next(patch for patch in axis.patches if patch.get_label() == "report")
    assert (band.get_x(), band.get_x() + band.get_width()) == (0.25, 0.5)
