"""Results of the public pairs for chapter 08, of this run or published ones: tables, figures and prose.

`book/published/pairs/` holds aggregates only: no clip id, no face and no voice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from s2f_lib import paths
from s2f_lib.book.published import write_results
from s2f_lib.chapters.figures import PALETTE, STYLE, WIDTH_IN
from s2f_lib.errors import DataError
from s2f_lib.evaluation.statistics import Interval
from s2f_lib.pairs.study import run_pairs
from s2f_lib.study import Study

SYSTEM_NAMES: Mapping[str, str] = {
    "speech2face": "Speech2Face, its published drawings",
    "report": "the report's encoder, from scratch",
    "ridge": "ridge from the speaker embedding",
    "ours": "ours",
    "shuffled": "ours, trained on other people's faces",
}
SHORT_NAMES: Mapping[str, str] = {
    "speech2face": "Speech2Face",
    "report": "report's encoder",
    "ridge": "ridge",
    "ours": "ours",
    "shuffled": "shuffled",
}
SET_NAMES: Mapping[str, str] = {"avspeech": "AVSpeech", "voxceleb": "VoxCeleb"}
_RESULTS_FILE = "results.json"
_RATIOS_AT = (10, 20, 50)
_LINESTYLES: Mapping[str, Any] = {
    "speech2face": "--",
    "report": "-.",
    "ridge": (0, (1, 1)),
    "ours": "-",
    "shuffled": (0, (4, 1, 1, 1)),
}
_COLOURS = {"ours": 0, "speech2face": 1, "ridge": 2, "report": 4, "shuffled": 7}
_MARKERS = {"speech2face": "o", "ridge": "^", "report": "s"}


@dataclass(frozen=True)
class PairComparison:
    """Results of `s2f pairs` that the chapter shows: those of this run, or the published ones."""

    results: Mapping[str, Any]
    from_this_run: bool

    @property
    def label(self) -> str:
        """Name of the results in captions."""
        return "this run" if self.from_this_run else "kept results"

    def of(self, set_name: str = "avspeech") -> Mapping[str, Any]:
        """Return the numbers of a set, or of the first set if the named one was not used."""
        sets = self.results["sets"]
        return sets.get(set_name) or next(iter(sets.values()))

    def system(self, name: str) -> Mapping[str, Any]:
        """Return the numbers of a system on the first set."""
        return self.results["systems"][name]

    def caption(self, text: str) -> str:
        """Return a caption with the source of the results and the numbers of queries, splits and faces."""
        numbers = self.of()
        n_splits = len(self.results["splits"])
        splits = "one split" if n_splits == 1 else f"{n_splits} splits"
        gallery = f"galleries of {min(numbers['galleries'])} to {max(numbers['galleries'])} faces"
        return f"{text} ({self.label}: n = {numbers['n']:,} test queries in {splits}, {gallery})"


def published_dir() -> Path:
    """Return the folder of the published results."""
    return paths.published_dir() / "pairs"


def load_or_run_comparison(study: Study, *, report_splits: int | None = None) -> PairComparison:
    """Run the comparison if `source.pairs.root` is set; otherwise read the published results.

    The report's encoder is trained in the first `report_splits` splits, by default in all.
    """
    if study.config.source.pairs.root is None:
        return PairComparison(read_published(), from_this_run=False)
    results = run_pairs(study.config, control=True, report_splits=report_splits)
    write_results(study.paths.tables / "08_results.json", results)
    return PairComparison(results, from_this_run=True)


def read_published() -> Mapping[str, Any]:
    """Return the published results."""
    path = published_dir() / _RESULTS_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}): "
            f"restore it, or make it with `s2f pairs --publish {path.parent}`"
        ) from None


def publish_comparison(results: Mapping[str, Any], folder: Path) -> None:
    """Write the aggregates of the results of `s2f pairs`: JSON, two tables and two figures."""
    # the file gives only the number of clips that were left out, because their ids lead to people
    data = {**results["data"], "left_out": len(results["data"]["left_out"])}
    comparison = PairComparison({**results, "data": data}, from_this_run=False)
    write_results(
        folder / _RESULTS_FILE,
        comparison.results,
        tables={"systems": systems_table(comparison), "comparisons": comparison_table(comparison)},
        figures={"recall": recall_figure(comparison), "ratios": ratio_figure(comparison)},
    )


def systems_table(comparison: PairComparison) -> pd.DataFrame:
    """Return recall in percent and median rank with intervals, one column per system, then chance."""
    tables = []
    for set_name, numbers in comparison.results["sets"].items():
        columns: dict[str, list[str]] = {}
        keys = [key for key in numbers["chance"] if key.startswith("recall")]
        labels = ["test queries", *(key.replace("recall", "R") + ", %" for key in keys), "median rank"]
        for name, values in [*numbers["systems"].items(), ("chance", numbers["chance"])]:
            cells = [f"{values['n']:,}" if "n" in values else "-"]
            cells += [_with_interval(values, key, 100.0) for key in keys]
            columns[SHORT_NAMES.get(name, name)] = [*cells, _with_interval(values, "median_rank", 1.0)]
        tables.append(_labelled(comparison, set_name, labels, columns))
    return pd.concat(tables, ignore_index=True).fillna("-")


def comparison_table(comparison: PairComparison) -> pd.DataFrame:
    """Return how `ours` compares with each other system, in the splits that test both."""
    labels = [f"R@{k} of ours, times" for k in _RATIOS_AT]
    labels += ["rank of ours, times", "p of ranks", "p of R@10", "splits with a smaller median rank"]
    tables = []
    for set_name, numbers in comparison.results["sets"].items():
        columns = {
            f"against {SHORT_NAMES.get(name, name)}": [
                *(_ratio(numbers["ratios"][name][f"recall@{k}"]) for k in _RATIOS_AT),
                f"{math.exp(found['log_rank_difference']):.2f}",
                _p(found["p_log_rank"]),
                _p(found["p_recall@10"]),
                _better_splits(numbers, name),
            ]
            for name, found in numbers["comparisons"].items()
        }
        tables.append(_labelled(comparison, set_name, labels, columns))
    return pd.concat(tables, ignore_index=True).fillna("-")


def describe_source(comparison: PairComparison) -> str:
    """Return the source of the results for the prose."""
    if comparison.from_this_run:
        return "a run that was made for it"
    provenance = comparison.results["provenance"]
    return (
        f"the kept results of a run of profile {provenance['profile']} at commit "
        f"{provenance['environment']['commit']}, since the pairs are not at hand"
    )


def sizes(comparison: PairComparison) -> dict[str, float | str]:
    """Return the numbers of pairs, splits, queries and faces of the first set for the prose."""
    results, numbers = comparison.results, comparison.of()
    splits = results["splits"]
    return {
        "n_pairs": next(iter(results["data"]["pairs"].values())),
        "n_splits": len(splits),
        "n_train": round(sum(split["n_train"] for split in splits) / len(splits)),
        "n_gallery": round(numbers["gallery"]),
        "n_queries": numbers["n"],
        "n_not_found": results["data"]["faces_without_detection"],
        "control_rank": numbers["systems"]["shuffled"]["median_rank"],
        "control_verdict": _against_chance(numbers["systems"]["shuffled"], "median_rank"),
        "chance_rank": numbers["chance"]["median_rank"],
    }


def numbers_for_prose(
    comparison: PairComparison, *, against: str, k: int = 10
) -> dict[str, float | int | str]:
    """Return how `ours` compares at K with another system, the report's encoder and chance, for the prose."""
    numbers, key = comparison.of(), f"recall@{k}"
    ours, other = (numbers["systems"][name] for name in ("ours", against))
    ratio = numbers["ratios"][against][key]
    low, high = ours["intervals"][key]
    report = numbers["systems"]["report"]
    return {
        "k": k,
        "ours": ours[key],
        "ours_low": low,
        "ours_high": high,
        "other_name": SYSTEM_NAMES[against],
        "other": other[key],
        "chance": numbers["chance"][key],
        "ratio": ratio[0],
        "ratio_low": ratio[1],
        "ratio_high": ratio[2],
        "rank_ours": ours["median_rank"],
        "rank_other": other["median_rank"],
        "verdict": _verdict(ratio[1], ratio[2]),
        "report": report[key],
        "report_verdict": _against_chance(report, key),
    }


def settings_table(comparison: PairComparison) -> pd.DataFrame:
    """Return the provenance of the results: commit, versions, seeds, networks and chosen settings."""
    results = comparison.results
    provenance, environment = results["provenance"], results["provenance"]["environment"]
    chosen = pd.DataFrame(results["settings"].get("ours", []))
    rows = {
        "results": comparison.label,
        "made": results.get("created", "in this run"),
        "commit": environment["commit"],
        "profile": provenance["profile"],
        "device": environment["device"],
        "torch, dlib": f"{environment.get('torch')}, {environment.get('dlib-bin')}",
        "pairs": ", ".join(f"{SET_NAMES[key]} {n}" for key, n in results["data"]["pairs"].items()),
        "faces that no detector found": results["data"]["faces_without_detection"],
        "splits": _format_split(provenance["split"]),
        "voice networks": ", ".join(f"{name} {mark}" for name, mark in results["voice_networks"].items()),
        "seconds": ", ".join(f"{name} {value:.0f}" for name, value in results["seconds"].items()),
    }
    for column in ("ridge", "shrink", "cca_dims"):
        if column in chosen:
            counts = chosen[column].value_counts().sort_index()
            rows[f"chosen in train: {column}"] = ", ".join(f"{v:g} in {n}" for v, n in counts.items())
    return pd.DataFrame({"what": list(rows), "value": [str(value) for value in rows.values()]})


def tried_table(step: str) -> pd.DataFrame:
    """Return the trials that used only the training parts ("inside"), or also the test parts ("outside")."""
    return pd.read_csv(published_dir() / f"tried_{step}.csv")


@rc_context(STYLE)
def recall_figure(comparison: PairComparison) -> Figure:
    """Draw recall at K over K with 95% intervals, one line per system, and chance."""
    numbers = comparison.of()
    figure = Figure(figsize=(WIDTH_IN, 3.8))
    axis = figure.subplots()
    for name, values in numbers["systems"].items():
        curve, colour = values["curve"], PALETTE[_COLOURS[name]]
        axis.fill_between(curve["k"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
        style, label = _LINESTYLES[name], SHORT_NAMES[name]
        axis.plot(curve["k"], curve["value"], color=colour, ls=style, label=label)
    ks = np.arange(1, 1 + max(len(v["curve"]["k"]) for v in numbers["systems"].values()))
    gallery = np.asarray(numbers["galleries"])
    chance = np.minimum(1, ks[:, None] / gallery[None]).mean(axis=1)
    axis.plot(ks, chance, color="black", ls=":", label="chance")
    axis.set(xlim=(1, ks[-1]), ylim=(0, 1), ylabel="recall at K, % of test queries")
    axis.set_xlabel(f"K, faces retrieved of {gallery.mean():.0f}")
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axis.legend(loc="lower right")
    return figure


@rc_context(STYLE)
def ratio_figure(comparison: PairComparison) -> Figure:
    """Draw the recall of `ours` divided by that of each other system, with 95% intervals."""
    ratios = {name: found for name, found in comparison.of()["ratios"].items() if name in _MARKERS}
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


def _verdict(low: float, high: float) -> str:
    """Return the comparison that the interval of a ratio supports."""
    return "better than" if low > 1 else "worse than" if high < 1 else "about as well as"


def _against_chance(values: Mapping[str, Any], key: str) -> str:
    low, high = values["intervals"][key]
    inside = low <= values["chance"][key] <= high
    return "not told apart from chance" if inside else "told apart from chance"


def _better_splits(numbers: Mapping[str, Any], name: str) -> str:
    ours, other = (numbers["systems"][key]["per_split"] for key in ("ours", name))
    both = list(zip(ours, other, strict=False))  # a system may be tested only in the first splits
    better = sum(a["median_rank"] < b["median_rank"] for a, b in both)
    return f"{better} of {len(both)}"


def _labelled(
    comparison: PairComparison, set_name: str, labels: list[str], columns: dict[str, list[str]]
) -> pd.DataFrame:
    """Return a table with its row labels, and with the name of the set if there are several sets."""
    table = pd.DataFrame({"": labels, **columns})
    if len(comparison.results["sets"]) > 1:
        table.insert(0, "pairs", SET_NAMES[set_name])
    return table


def _with_interval(values: Mapping[str, Any], key: str, times: float) -> str:
    if "intervals" not in values:
        return f"{times * values[key]:.1f}"
    low, high = values["intervals"][key]
    return f"{Interval(times * values[key], times * low, times * high):.1f}"


def _ratio(ratio: list[float | None]) -> str:
    numbers = [value for value in ratio if value is not None]
    return f"{Interval(*numbers):.2f}" if len(numbers) == 3 else "-"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


def _format_split(split: object) -> str:
    if not isinstance(split, Mapping):
        return str(split)
    return f"{split['n_splits']} drawn, {split['test_share']:.0%} of videos in test, seed {split['seed']}"
