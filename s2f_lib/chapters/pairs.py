"""Results of the real pairs for chapter 08: those of a fresh run, or the kept ones; their tables.

What is kept is in `book/published/pairs/`: aggregates, no clip id, no face, no voice.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from s2f_lib import paths
from s2f_lib.errors import DataError
from s2f_lib.evaluation.statistics import Interval
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


@dataclass(frozen=True)
class PairComparison:
    """Results that the chapter shows.

    Attributes
    ----------
    results
        As `s2f pairs` writes them.
    from_this_run
        Made in this run; else the kept ones.
    """

    results: Mapping[str, Any]
    from_this_run: bool

    @property
    def label(self) -> str:
        """How captions name them."""
        return "this run" if self.from_this_run else "kept results"

    def of(self, set_name: str = "avspeech") -> Mapping[str, Any]:
        """Return the numbers of a set, or of the only one that there is."""
        sets = self.results["sets"]
        return sets.get(set_name) or next(iter(sets.values()))

    def system(self, name: str) -> Mapping[str, Any]:
        """Return a system's numbers on the first set."""
        return self.results["systems"][name]

    def caption(self, text: str) -> str:
        """Return a caption that says which results, how many queries, splits and faces."""
        numbers = self.of()
        n_splits = len(self.results["splits"])
        splits = "one split" if n_splits == 1 else f"{n_splits} splits"
        gallery = f"galleries of {min(numbers['galleries'])} to {max(numbers['galleries'])} faces"
        return f"{text} ({self.label}: n = {numbers['n']:,} test queries in {splits}, {gallery})"


def published_dir() -> Path:
    """Return the folder of the kept results."""
    return paths.published_dir() / "pairs"


def load_or_run_comparison(study: Study, *, report_splits: int | None = None) -> PairComparison:
    """Run the comparison where `source.pairs.root` says where the pairs are; else read the kept results.

    Parameters
    ----------
    study
        Its settings say which pairs and splits.
    report_splits
        In how many of the splits the report's encoder is trained; None: in all.

    Raises
    ------
    DataError
        The kept results are missing or damaged.
    InputError
        The pairs cannot be used.
    """
    if study.config.source.pairs.root is None:
        return PairComparison(read_published(), from_this_run=False)
    from s2f_lib.pairs.study import run_pairs

    results = run_pairs(study.config, control=True, report_splits=report_splits)
    study.paths.tables.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, allow_nan=False)
    (study.paths.tables / "08_results.json").write_text(text + "\n", encoding="utf-8")
    return PairComparison(results, from_this_run=True)


def read_published() -> Mapping[str, Any]:
    """Return the kept results."""
    path = published_dir() / _RESULTS_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}): "
            f"restore it, or make it with `s2f pairs --publish {path.parent}`"
        ) from None


def publish(results: Mapping[str, Any], folder: Path) -> None:
    """Keep results for the chapter: the aggregates alone, as JSON, a table and two figures.

    Parameters
    ----------
    results
        As `s2f pairs` writes them.
    folder
        `book/published/pairs`, or another.
    """
    from s2f_lib.chapters.pair_figures import ratio_figure, recall_figure

    folder.mkdir(parents=True, exist_ok=True)
    data = dict(results["data"])
    data["left_out"] = len(data["left_out"])  # how many, not who
    published = {**results, "data": data}
    (folder / _RESULTS_FILE).write_text(
        json.dumps(published, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    comparison = PairComparison(published, from_this_run=False)
    systems_table(comparison).to_csv(folder / "systems.csv", index=False)
    comparison_table(comparison).to_csv(folder / "comparisons.csv", index=False)
    recall_figure(comparison).savefig(folder / "recall.png", dpi=150)
    ratio_figure(comparison).savefig(folder / "ratios.png", dpi=150)


def systems_table(comparison: PairComparison) -> pd.DataFrame:
    """Return recall in percent and median rank with intervals, a column a system; chance is the last."""
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
    """Return how ours compares with each other system, a column each, in the splits that test both."""
    labels = [f"R@{k} of ours, times" for k in (10, 20, 50)]
    labels += ["rank of ours, times", "p of ranks", "p of R@10", "splits with a smaller median rank"]
    tables = []
    for set_name, numbers in comparison.results["sets"].items():
        columns = {
            f"against {SHORT_NAMES.get(name, name)}": [
                *(_ratio(numbers["ratios"][name][f"recall@{k}"]) for k in (10, 20, 50)),
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
    """Return for the prose which results the page shows."""
    if comparison.from_this_run:
        return "a run that was made for it"
    provenance = comparison.results["provenance"]
    return (
        f"the kept results of a run of profile {provenance['profile']} at commit "
        f"{provenance['environment']['commit']}, since the pairs are not at hand"
    )


def sizes(comparison: PairComparison) -> dict[str, float | str]:
    """Return for the prose how many pairs, splits, queries and faces there are, of the first set."""
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
    """Return for the prose how ours does at K, against another system, the report's encoder and chance."""
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
    """Return what made the shown results: commit, versions, seeds, networks, and what was chosen in train."""
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
    """Return what was tried on the way: "inside" the training parts, or seen on test ("outside")."""
    path = published_dir() / f"tried_{step}.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pd.DataFrame(rows)
    for column in table.columns[1:]:
        table[column] = pd.to_numeric(table[column])
    return table


def _verdict(low: float, high: float) -> str:
    """Return in words what the interval of a ratio says."""
    return "better than" if low > 1 else "worse than" if high < 1 else "about as well as"


def _against_chance(values: Mapping[str, Any], key: str) -> str:
    low, high = values["intervals"][key]
    inside = low <= values["chance"][key] <= high
    return "not told apart from chance" if inside else "told apart from chance"


def _better_splits(numbers: Mapping[str, Any], name: str) -> str:
    ours, other = (numbers["systems"][key]["per_split"] for key in ("ours", name))
    both = list(zip(ours, other, strict=False))  # a system may be tested in the first splits only
    better = sum(a["median_rank"] < b["median_rank"] for a, b in both)
    return f"{better} of {len(both)}"


def _labelled(
    comparison: PairComparison, set_name: str, labels: list[str], columns: dict[str, list[str]]
) -> pd.DataFrame:
    """Return a table with its row labels, and with the set's name where there are several."""
    several = {"pairs": SET_NAMES[set_name]} if len(comparison.results["sets"]) > 1 else {}
    table = pd.DataFrame({**dict.fromkeys(several, ""), "": labels, **columns})
    return table.assign(**several) if several else table


def _with_interval(values: Mapping[str, Any], key: str, times: float) -> str:
    if "intervals" not in values:
        return f"{times * values[key]:.1f}"
    low, high = values["intervals"][key]
    return f"{Interval(times * values[key], times * low, times * high):.1f}"


def _ratio(ratio: list[float | None]) -> str:
    return "-" if None in ratio else f"{Interval(*ratio):.2f}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


def _format_split(split: object) -> str:
    if not isinstance(split, Mapping):
        return str(split)
    return f"{split['n_splits']} drawn, {split['test_share']:.0%} of videos in test, seed {split['seed']}"
