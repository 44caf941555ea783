"""The figures of the chapters: each function takes a table or arrays and returns a `Figure`.

Axes have no titles, because the page has captions. Colours are seaborn's colour-blind palette; curves that
differ by colour also differ by marker or line style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from s2f_lib.evaluation.retrieval import hit_probability

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, GREY = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[7]
WIDTH_IN = 7.0  # width of the text column

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
}
_MARKERS = ("o", "s", "^", "D", "v", "P")


@rc_context(STYLE)
def training_curves(
    metrics: Mapping[str, pd.DataFrame], columns: Mapping[str, str], *, y_label: str
) -> Figure:
    """Draw metrics over epochs, one panel per model.

    Each table of `metrics` has a column `epoch`. `columns` map its other columns to names in the legend;
    columns that a table lacks are left out.
    """
    n_columns = min(2, len(metrics))
    n_rows = -(-len(metrics) // n_columns)
    figure = Figure(figsize=(WIDTH_IN, 2.7 * n_rows))
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True).ravel()
    for axis, (name, table) in zip(axes, metrics.items(), strict=False):
        for index, (column, label) in enumerate(columns.items()):
            if column in table:
                _line(axis, table["epoch"], table[column], label, index)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("epoch")
        axis.set_ylabel(f"{y_label}, {name}" if len(metrics) > 1 else y_label)
        axis.legend()
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    return figure


@rc_context(STYLE)
def compared_curves(metrics: Mapping[str, pd.DataFrame], column: str, *, y_label: str) -> Figure:
    """Draw one metric of several models over epochs in one panel; see `training_curves`."""
    figure = Figure(figsize=(WIDTH_IN, 3.0))
    axis = figure.subplots()
    for index, (name, table) in enumerate(metrics.items()):
        if column in table:
            _line(axis, table["epoch"], table[column], name, index)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="epoch", ylabel=y_label)
    axis.legend(ncols=2)
    return figure


@rc_context(STYLE)
def recall_curves(ranks: pd.DataFrame, *, k_max: int, band: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw recall at K over K with chance and its interval, one panel per split.

    `ranks` is a table of `evaluation.tables.rank_table`, with splits as names. `k_max` is at most the size of
    the smallest gallery. `band` holds the chance of each split as shares: columns k, value, low and high.
    """
    names = list(dict.fromkeys(ranks["name"]))
    figure = Figure(figsize=(WIDTH_IN, 3.1))
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True).ravel()
    for axis, name in zip(axes, names, strict=True):
        chance = band[name]
        axis.fill_between(chance["k"], chance["low"], chance["high"], color=GREY, alpha=0.35, lw=0)
        axis.plot(chance["k"], chance["value"], color="black", ls=":", label="chance, 95% of guesses")
        rows = ranks[ranks["name"] == name]
        for index, (measure, group) in enumerate(rows.groupby("measure", sort=False)):
            steps = np.arange(1, k_max + 1)
            arguments = group["rank"].to_numpy()[:, None], steps, group["ties"].to_numpy()[:, None]
            recall = hit_probability(*arguments).mean(axis=0)
            axis.plot(steps, recall, color=PALETTE[index], ls=("-", "--", "-.")[index % 3], label=measure)
        gallery = int(rows["gallery"].iloc[0])
        axis.set_xlabel(f"K, faces retrieved of {gallery:,} ({name})")
        axis.set_xlim(1, k_max)
    axes[0].set_ylim(0, 1)
    axes[0].set_ylabel("recall at K, % of queries")
    axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes[0].legend(loc="upper left")
    return figure


@rc_context(STYLE)
def measured_vs_chance(table: pd.DataFrame, *, x_label: str, percent: bool = True) -> Figure:
    """Draw values with intervals next to chance, one row per value.

    The table has the columns label, value, low, high and, optionally, chance. With `percent`, the values are
    shares that are written in percent.
    """
    figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.34 * len(table)))
    axis = figure.subplots()
    rows = np.arange(len(table))[::-1]
    errors = np.abs([table["value"] - table["low"], table["high"] - table["value"]])
    axis.errorbar(table["value"], rows, xerr=errors, fmt="o", color=BLUE, capsize=3, label="this run")
    if "chance" in table:
        axis.plot(table["chance"], rows, ls="", marker="|", ms=14, mew=2, color=ORANGE, label="chance")
        figure.legend(loc="outside upper right", ncols=2)
    axis.set_yticks(rows, table["label"])
    axis.set_ylim(-0.6, len(table) - 0.4)
    axis.set_xlim(left=0)
    axis.set_xlabel(x_label)
    if percent:
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    return figure


@rc_context(STYLE)
def lines_with_intervals(table: pd.DataFrame, *, x: str, x_label: str, y_label: str) -> Figure:
    """Draw shares with intervals over the column `x`, one line per name, and the chance level.

    The table also has the columns value, low, high, chance and, for several lines, name.
    """
    figure = Figure(figsize=(WIDTH_IN, 3.2))
    axis = figure.subplots()
    named = table if "name" in table else table.assign(name="this run")
    for index, (name, rows) in enumerate(named.groupby("name", sort=False)):
        errors = np.abs([rows["value"] - rows["low"], rows["high"] - rows["value"]])
        style: dict[str, Any] = {
            "marker": _MARKERS[index % 6],
            "ls": ("-", "--", "-.")[index % 3],
            "capsize": 3,
        }
        axis.errorbar(rows[x], rows["value"], yerr=errors, color=PALETTE[index], label=name, **style)
    axis.plot(named[x], named["chance"], color="black", ls=":", lw=1.2, label="chance")
    axis.set(xlabel=x_label, ylabel=y_label, ylim=(0, 1.02))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    figure.legend(loc="outside upper right", ncols=4)
    return figure


@rc_context(STYLE)
def bars(table: pd.DataFrame, *, label: str, value: str, x_label: str) -> Figure:
    """Draw one bar per row, with its number at its end."""
    figure = Figure(figsize=(WIDTH_IN, 0.8 + 0.32 * len(table)))
    axis = figure.subplots()
    rows = np.arange(len(table))[::-1]
    container = axis.barh(rows, table[value], color=BLUE, height=0.65)
    axis.bar_label(container, [_short(number) for number in table[value]], padding=3)
    axis.set_yticks(rows, table[label])
    axis.set_xlabel(x_label)
    axis.margins(x=0.12)
    axis.grid(axis="y", visible=False)
    return figure


@rc_context(STYLE)
def histogram(
    values: np.ndarray,
    *,
    x_label: str,
    y_label: str,
    band: tuple[float, float] | None = None,
    band_label: str = "",
) -> Figure:
    """Draw a histogram with its median, and optionally a band for comparison."""
    figure = Figure(figsize=(WIDTH_IN, 2.8))
    axis = figure.subplots()
    if band is not None:
        axis.axvspan(*band, color=ORANGE, alpha=0.25, lw=0, label=band_label)
    axis.hist(values, bins=min(30, max(8, len(values) // 5)), color=BLUE, edgecolor="white", lw=0.5)
    axis.axvline(float(np.median(values)), color="black", ls="--", label="median of this run")
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@rc_context(STYLE | {"axes.grid": False})
def spectrograms(
    complex_parts: np.ndarray, *, labels: Sequence[str], duration_s: float, max_frequency_hz: float
) -> Figure:
    """Draw compressed complex spectrograms, the real part above the imaginary part.

    `complex_parts` are `(n, 2, frames, bins)`; channel 0 is real, channel 1 imaginary. `duration_s` and
    `max_frequency_hz` are the ends of the axes.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.0))
    axes = figure.subplots(2, len(labels), squeeze=False, sharex=True, sharey=True)
    limit = float(np.quantile(np.abs(complex_parts), 0.995)) or 1.0
    extent = (0.0, duration_s, 0.0, max_frequency_hz / 1_000)
    for column, label in enumerate(labels):
        for row, part in enumerate(("real part", "imaginary part")):
            axis = axes[row, column]
            shown = axis.imshow(
                complex_parts[column, row].T,  # (bins, frames)
                origin="lower",
                aspect="auto",
                extent=extent,
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                interpolation="nearest",
            )
            axis.set_xlabel(f"time, s ({label})" if row == 1 else "")
            axis.set_ylabel(f"kHz, {part}" if column == 0 else "")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="compressed amplitude")
    return figure


@rc_context(STYLE)
def voice_changes(tables: Mapping[str, pd.DataFrame], labels: Mapping[str, str]) -> Figure:
    """Draw the effect of voice changes over their size, one panel per measure.

    `tables` come from `evaluation.voice_changes.ChangedVoices.table`, by the measure's name. `labels` name
    the changes in the legend.
    """
    figure = Figure(figsize=(WIDTH_IN, 2.9))
    axes = figure.subplots(1, len(tables), squeeze=False).ravel()
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        for index, (changed, rows) in enumerate(table.groupby("changed", sort=False)):
            _line(axis, rows["semitones"], rows["value"], labels[str(changed)], index)
            band = {"color": PALETTE[index], "alpha": 0.2, "lw": 0}
            axis.fill_between(rows["semitones"], rows["low"], rows["high"], **band)
        axis.set(xlabel="change, semitones", ylabel=name)
        axis.set_xticks(sorted(set(table["semitones"])))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def face_grid(faces: np.ndarray, *, columns: int = 12) -> Figure:
    """Draw faces `(n, height, width, 3)` uint8 RGB in a grid."""
    rows = -(-len(faces) // columns)
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / columns * rows))
    for index, face in enumerate(faces):
        left, bottom = (index % columns) / columns, 1 - (index // columns + 1) / rows
        axis = figure.add_axes((left + 0.001, bottom + 0.001, 1 / columns - 0.002, 1 / rows - 0.002))
        axis.imshow(face)
        axis.set_axis_off()
    return figure


@rc_context(STYLE | {"figure.constrained_layout.use": False, "axes.grid": False})
def face_rows(
    faces: np.ndarray, *, headings: Sequence[str], notes: Sequence[str] = (), marked: np.ndarray | None = None
) -> Figure:
    """Draw `faces` `(rows, columns, height, width, 3)` uint8 RGB under one heading per column.

    `notes` hold one text per row, to its right. `marked` `(rows, columns)` bool frames faces.
    """
    n_rows, n_columns = faces.shape[:2]
    note_in = 1.1 if notes else 0.0
    cell_in = min(1.35, (WIDTH_IN - note_in) / n_columns)
    size = (cell_in * n_columns + note_in, cell_in * n_rows + 0.4)
    figure = Figure(figsize=size)
    for row in range(n_rows):
        bottom = (cell_in * (n_rows - 1 - row)) / size[1]
        for column in range(n_columns):
            gap = 0.035
            position = (cell_in * column + gap) / size[0], bottom + gap / size[1]
            axis = figure.add_axes((*position, (cell_in - 2 * gap) / size[0], (cell_in - 2 * gap) / size[1]))
            axis.imshow(faces[row, column])
            _frame(axis, marked is not None and bool(marked[row, column]))
        if notes:
            x, y = (cell_in * n_columns + 0.08) / size[0], bottom + cell_in / 2 / size[1]
            figure.text(x, y, notes[row], va="center", ha="left", fontsize=8.5)
    for column, heading in enumerate(headings):
        x = cell_in * (column + 0.5) / size[0]
        figure.text(x, 1 - 0.3 / size[1], heading, ha="center", va="bottom", fontsize=8.5)
    return figure


def _line(axis: Axes, x: pd.Series, y: pd.Series, label: str, index: int) -> None:
    every = max(1, len(x) // 12)
    axis.plot(x, y, marker=_MARKERS[index % 6], markevery=every, color=PALETTE[index % 10], label=label)


def _frame(axis: Axes, marked: bool) -> None:
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_visible(marked)
        spine.set(color=GREEN, linewidth=3.5)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) else f"{number:,.3g}"
