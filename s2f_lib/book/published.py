"""Published runs: tables and figures of runs that take too long to repeat, for the chapters to show.

A published run is a folder `book/published/NAME`: `run.json` says what was run and where, `tables/` and
`figures/` hold the files of the run, and one Markdown file per chapter holds what that chapter showed, with
the numbers in the captions filled in.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from nbformat import NotebookNode

from s2f_lib import paths
from s2f_lib.book.executed import Chapter, ExecutedChapter, describe_people, have_same_settings
from s2f_lib.config import load_config
from s2f_lib.errors import ChapterError, DataError, InputError
from s2f_lib.paths import RunPaths
from s2f_lib.storage import atomic_folder, atomic_path, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Largest total size of a published run, in bytes, because its files are part of the repository.
MOST_BYTES = 10_000_000

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_RUN = "run.json"
_FROM_PROVENANCE = ("commit", "device", "wall time of this chapter")  # rows of a chapter's table
_FIGURE = re.compile(
    r"^```\{glue:figure\} fig_(?P<key>\w+)\n.*?^:alt: (?P<alt>[^\n]+)\n\n(?P<caption>.*?)\n```$",
    re.MULTILINE | re.DOTALL,
)
_GLUED = re.compile(r"\{glue:text\}`(?P<key>\w+)(?::(?P<format>[^`]+))?`")
_GLUED_VALUE = "application/papermill.record/text/plain"


@dataclass(frozen=True)
class PublishedRun:
    """A published run, as its `run.json` describes it.

    Attributes
    ----------
    name
        Name of its folder.
    profile
        Name of the profile.
    people
        Number and source of the people, as a phrase.
    settings
        Settings that differ from the profile. Only the last part of a path is stored.
    chapters
        Commit, device and wall time of each chapter.
    """

    name: str
    profile: str
    people: str
    settings: dict[str, Any]
    chapters: dict[str, dict[str, str]]

    @property
    def folder(self) -> Path:
        """Folder of the run's files."""
        return paths.published_dir() / self.name

    def heading(self, chapter: str) -> str:
        """Return one line of Markdown: what was run, by which commit, on what device, how long."""
        about = self.chapters[chapter]
        took = about["wall time of this chapter"]
        changed = "".join(f", `{key}` = {value}" for key, value in self.settings.items())
        return (
            f"**Kept run `{self.name}`**: profile `{self.profile}`{changed}; {self.people}; "
            f"{about['device']}; commit {about['commit']}; this chapter took {took}."
        )

    def markdown(self, chapter: str) -> str:
        """Return the run's tables and figures for a chapter; image paths are relative to `book/notebooks`."""
        path = self.folder / f"{chapter}.md"
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            raise DataError(f"no {path.name} in {path.parent}, though {_RUN} lists it: restore it") from None


def published_runs(chapter: str) -> list[PublishedRun]:
    """Return the published runs that have something to show in a chapter, sorted by name.

    Parameters
    ----------
    chapter
        Name of the chapter, `NN_topic`.

    Raises
    ------
    DataError
        A `run.json` cannot be read.

    Examples
    --------
    >>> [run.name for run in published_runs("03_loss_comparison")]
    ['seeds']
    """
    runs = []
    for path in sorted(paths.published_dir().glob(f"*/{_RUN}")):
        try:
            runs.append(PublishedRun(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({type(error).__name__}): restore it") from None
    return [run for run in runs if chapter in run.chapters]


def publish_run(
    run: RunPaths, chapters: Sequence[Chapter], folder: Path, *, keys: Sequence[str] | None = None
) -> PublishedRun:
    """Copy the tables and figures of a run's chapters into a folder of published results.

    Parameters
    ----------
    run
        Folders of the run.
    chapters
        Chapters to publish; all of them were executed.
    folder
        Folder `book/published/NAME`. An existing published run in it is replaced.
    keys
        Keys of the tables and figures to publish. None: all.

    Raises
    ------
    InputError
        The name holds other characters than lower-case letters, digits and hyphens, the folder is not a
        published run, a key is unknown, or the files exceed `MOST_BYTES`.
    ChapterError
        A chapter was not run, failed, or was run with other settings than the others.

    See Also
    --------
    published_runs : Finds what a chapter shows.

    Examples
    --------
    >>> from s2f_lib.paths import RunPaths
    >>> publish_run(RunPaths(Path("runs/quick")), [], Path("My run"))
    Traceback (most recent call last):
    s2f_lib.errors.InputError: a run cannot be published as 'My run': expected lower-case letters, ...
    """
    _check_folder(folder)
    items: list[_Item] = []
    notebooks, records = {}, []
    for chapter in chapters:
        try:
            notebooks[chapter.name], record = ExecutedChapter(chapter, run).read()
        except ChapterError as error:
            raise ChapterError(f"{error}: run it in {run.root}, then publish") from None
        records.append(record)
        items += _items(chapter, notebooks[chapter.name], name=folder.name)
    if not have_same_settings(records):
        raise ChapterError(
            f"the chapters in {run.notebooks} were run with different settings: run them again"
        )
    if unknown := sorted(set(keys or ()) - {item.key for item in items}):
        raise InputError(f"unknown key {unknown[0]!r}: no table or figure of these chapters has it")
    items = [item for item in items if not keys or item.key in keys]
    items = [item for item in items if not item.key.startswith("provenance_")]
    if not items:
        raise InputError("the chapters hold no table and no figure to publish")
    chosen = [chapter for chapter in chapters if any(item.chapter == chapter for item in items)]
    config = load_config(records[0].profile, records[0].settings)
    settings = {key: _without_folder(value) for key, value in records[0].settings.items()}
    about = {chapter.name: _provenance_rows(chapter, run) for chapter in chosen}
    published = PublishedRun(folder.name, config.profile, describe_people(config.source), settings, about)
    with atomic_folder(folder) as incoming:
        for item in items:
            target = incoming / item.file
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(run.root / item.file, target)
        for chapter in chosen:
            texts = [item.text for item in items if item.chapter == chapter]
            write_atomically(incoming / f"{chapter.name}.md", "\n\n".join(texts) + "\n")
        write_atomically(incoming / _RUN, json.dumps(asdict(published), indent=1) + "\n")
        size = sum(path.stat().st_size for path in incoming.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            raise InputError(
                f"the files have {size / 1e6:.1f} MB, expected at most {MOST_BYTES / 1e6:.0f} MB: "
                "choose chapters with --only, or tables and figures with --keep"
            )
    return published


def write_results(
    path: Path,
    results: Mapping[str, Any],
    *,
    tables: Mapping[str, pd.DataFrame] | None = None,
    figures: Mapping[str, Figure] | None = None,
) -> list[Path]:
    """Write numbers as a JSON file, with tables (CSV) and figures (PNG) next to it.

    Parameters
    ----------
    path
        The `.json` file. Numbers that are not finite are written as null.
    results
        Plain values.
    tables, figures
        File name without suffix to table or figure.

    Returns
    -------
    list of pathlib.Path
        The written files, the JSON file first.

    See Also
    --------
    publish_run : Publishes what chapters showed.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> files = write_results(folder / "results.json", {"psnr_db": float("nan")})
    >>> files[0].read_text()
    '{\\n "psnr_db": null\\n}\\n'
    """
    write_atomically(path, json.dumps(_without_nan(results), indent=1, allow_nan=False) + "\n")
    files = [path]
    for name, table in (tables or {}).items():
        files.append(path.with_name(f"{name}.csv"))
        write_atomically(files[-1], table.to_csv(index=False, float_format="%.6g"))
    for name, figure in (figures or {}).items():
        files.append(path.with_name(f"{name}.png"))
        with atomic_path(files[-1]) as temporary:
            figure.savefig(temporary, dpi=150)
    return files


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class _Item:
    """A table or figure of a chapter: its key, its file in the run's folder, and its Markdown."""

    chapter: Chapter
    key: str
    file: str
    text: str


def _check_folder(folder: Path) -> None:
    if not _NAME.fullmatch(folder.name):
        raise InputError(
            f"a run cannot be published as {folder.name!r}: expected lower-case letters, digits and hyphens"
        )
    if folder.exists() and not (folder / _RUN).is_file():
        raise InputError(f"{folder} is not a published run: choose another name")


def _items(chapter: Chapter, notebook: NotebookNode, *, name: str) -> Iterator[_Item]:
    """Yield what a chapter shows, in its order; `name` is the published run's, for captions and targets."""
    values = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if _GLUED_VALUE in output.get("data", {}):
                key = output.metadata["scrapbook"]["name"]
                values[key] = ast.literal_eval(output.data[_GLUED_VALUE])
    prefix = f'Kept run "{name}": '  # in double quotes: a backtick would end the fence's line
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if (table := output.get("metadata", {}).get("s2f")) is not None:
                key, caption = table["key"], table["caption"]
                target = f":name: tab-{key.replace('_', '-')}"
                text = output.data["text/markdown"].replace(caption, prefix + _of_published(caption), 1)
                text = text.replace(f"{target}\n", f"{target}-in-{name}\n", 1)
                yield _Item(chapter, key, f"tables/{chapter.number}_{key}.csv", text)
        for figure in _FIGURE.finditer(cell.source if cell.cell_type == "markdown" else ""):
            key = figure["key"]
            caption = _GLUED.sub(
                lambda glued: format(values[glued["key"]], (glued["format"] or "").removesuffix("s")),
                " ".join(figure["caption"].split()),
            )
            file, target = f"figures/{chapter.number}_{key}.png", key.replace("_", "-")
            text = (
                f"```{{figure}} ../published/{name}/{file}\n:alt: {figure['alt']}\n"
                f":name: fig-{target}-in-{name}\n:width: 100%\n\n{prefix}{_of_published(caption)}\n```"
            )
            yield _Item(chapter, key, file, text)


def _of_published(caption: str) -> str:
    return caption.replace("this run", "the kept run")


def _provenance_rows(chapter: Chapter, run: RunPaths) -> dict[str, str]:
    table = pd.read_csv(run.tables / f"{chapter.number}_provenance_{chapter.number}.csv")
    values = table.set_index("what")["value"]
    return {row: str(values[row]) for row in _FROM_PROVENANCE}


def _without_folder(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and os.sep in value else value
