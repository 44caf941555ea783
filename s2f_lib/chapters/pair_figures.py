"""The figures of chapter 08: recall over K with intervals, and how `ours` compares."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from s2f_lib.chapters.figures import _STYLE, PALETTE, WIDTH_IN
from s2f_lib.chapters.pairs import SHORT_NAMES, PairComparison

_STYLES = {
    "speech2face": "--",
    "report": "-.",
    "ridge": (0, (1, 1)),
    "ours": "-",
    "shuffled": (0, (4, 1, 1, 1)),
}
_COLOURS = {"ours": 0, "speech2face": 1, "ridge": 2, "report": 4, "shuffled": 7}
_MARKERS = {"speech2face": "o", "ridge": "^", "report": "s"}


def recall_figure(comparison: PairComparison) -> Figure:
    """Draw recall at K over K, a line with its 95% interval a system, and chance."""
    numbers = comparison.of()
    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.8))
        axis = figure.subplots()
        for name, values in numbers["systems"].items():
            curve, colour = values["curve"], PALETTE[_COLOURS[name]]
            axis.fill_between(curve["k"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
            axis.plot(curve["k"], curve["value"], color=colour, ls=_STYLES[name], label=SHORT_NAMES[name])
        ks = np.arange(1, 1 + max(len(v["curve"]["k"]) for v in numbers["systems"].values()))
        gallery = np.asarray(numbers["galleries"])
        chance = np.minimum(1, ks[:, None] / gallery[None]).mean(axis=1)
        axis.plot(ks, chance, color="black", ls=":", label="chance")
        axis.set(xlim=(1, ks[-1]), ylim=(0, 1), ylabel="recall at K, % of test queries")
        axis.set_xlabel(f"K, faces retrieved of {gallery.mean():.0f}")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        axis.legend(loc="lower right")
        return figure


def ratio_figure(comparison: PairComparison) -> Figure:
    """Draw how many times each other system's recall that of `ours` is, with 95% intervals."""
    ratios = {name: found for name, found in comparison.of()["ratios"].items() if name in _MARKERS}
    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.2))
        axis = figure.subplots()
        keys = list(next(iter(ratios.values()))) if ratios else []
        for index, (name, found) in enumerate(ratios.items()):
            known = [(i, found[key]) for i, key in enumerate(keys) if None not in found[key]]
            x = np.array([i for i, _ in known]) + 0.18 * (index - (len(ratios) - 1) / 2)
            value, low, high = np.array([values for _, values in known]).T
            axis.errorbar(
                x,
                value,
                yerr=np.maximum(0, [value - low, high - value]),
                fmt=_MARKERS[name],
                color=PALETTE[_COLOURS[name]],
                capsize=3,
                label=f"against {SHORT_NAMES[name]}",
            )
        axis.axhline(1.0, color="black", lw=1)
        axis.set_yscale("log")
        axis.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
        axis.minorticks_off()
        axis.set_xticks(range(len(keys)), [key.replace("recall@", "K = ") for key in keys])
        axis.set_ylabel("recall of ours, times the other's")
        axis.legend(loc="upper right")
        return figure
