"""Runs that take too long to be made anew: their tables and figures, kept for the chapters to show.

A run that is kept is a folder `book/published/NAME`: `run.json`, which says what was run and where,
`tables/` and `figures/` as the run wrote them, and for each chapter a Markdown file of what it
showed, with the captions' numbers filled in.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from nbformat import NotebookNode

from s2f_lib import paths
from s2f_lib.book.chapters import Chapter
from s2f_lib.book.executed import ChapterFiles, Record, error_of, read_executed, read_record
from s2f_lib.config import StudyConfig, load_config
from s2f_lib.errors import ChapterError, DataError, InputError
from s2f_lib.paths import RunPaths

#: A run that is kept is read with the repository: all its files together may have this many bytes.
MOST_BYTES = 10_000_000

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_RUN = "run.json"
_FIGURES = "figures"
_TABLES = "tables"
_ABOUT_CHAPTER = ("commit", "device", "wall time of this chapter")  # rows of a chapter's provenance
_TABLE = re.compile(r"```\{table\} (?P<caption>.+)\n:name: tab-(?P<key>[\w-]+)\n")
_FIGURE = re.compile(
    r"^```\{glue:figure\} fig_(?P<key>\w+)\n.*?^:alt: (?P<alt>[^\n]+)\n\n(?P<caption>.*?)\n```$",
    re.MULTILINE | re.DOTALL,
)
_GLUED = re.compile(r"\{glue:text\}`(?P<key>\w+)(?::(?P<format>[^`]+))?`")
_RECORD = "application/papermill.record/text/plain"
_PICTURE_PATH = re.compile(r"(?<=^```\{figure\} )(?=figures/)", re.MULTILINE)


@dataclass(frozen=True)
class PublishedRun:
    """A run that is kept, as `run.json` says.

    Attributes
    ----------
    name
        Of its folder.
    profile
        As it was given.
    people
        Whose clips they were, in words.
    settings
        What differed from the profile; folders by their last part alone.
    chapters
        Chapter to commit, device and wall time.
    """

    name: str
    profile: str
    people: str
    settings: dict[str, Any]
    chapters: dict[str, dict[str, str]]

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return paths.published_dir() / self.name

    def heading(self, chapter: str) -> str:
        """Return what was run, by which commit and on what, in one line of Markdown."""
        about = self.chapters[chapter]
        took = about["wall time of this chapter"]
        changed = "".join(f", `{key}` = {value}" for key, value in self.settings.items())
        return (
            f"**Kept run `{self.name}`**: profile `{self.profile}`{changed}; {self.people}; "
            f"{about['device']}; commit {about['commit']}; this chapter took {took}."
        )

    def shown_in(self, chapter: str) -> str:
        """Return what a chapter shows of this run: Markdown, pictures found from `book/notebooks`.

        Raises
        ------
        DataError
            A file of the run is missing.
        """
        path = self.folder / f"{chapter}.md"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError:
            raise DataError(f"no {path.name} in {path.parent}, though {_RUN} lists it: restore it") from None
        return _PICTURE_PATH.sub(f"../published/{self.name}/", text)


@dataclass(frozen=True)
class _Item:
    """A table or a figure of a chapter: key, folder and Markdown."""

    key: str
    kind: str
    text: str


def published_runs(chapter: str) -> list[PublishedRun]:
    """Return the runs that have something to show in a chapter, by name.

    Raises
    ------
    DataError
        A `run.json` is damaged.
    """
    found = []
    for path in sorted(paths.published_dir().glob(f"*/{_RUN}")):
        try:
            run = PublishedRun(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({type(error).__name__}): restore it") from None
        if chapter in run.chapters:
            found.append(run)
    return found


def publish_run(
    run: RunPaths, chapters: Sequence[Chapter], folder: Path, *, keys: Sequence[str] | None = None
) -> PublishedRun:
    """Keep tables and figures of a run's chapters.

    Parameters
    ----------
    run
        The run; its chapters have been executed.
    chapters
        Those to keep.
    folder
        `book/published/NAME`; replaced whole.
    keys
        Tables and figures by key (`seeds`); all by default.

    Raises
    ------
    InputError
        The name is not of lower-case letters, digits and hyphens, the folder holds something else,
        a key is unknown, or the files would have more than `MOST_BYTES`.
    ChapterError
        A chapter was not run, failed, or was run with other settings than the others.
    """
    _check_folder(folder)
    executed = {chapter.name: _executed(chapter, run) for chapter in chapters}
    records = [record for _, record in executed.values()]
    if len({json.dumps([r.profile, r.settings], sort_keys=True, default=str) for r in records}) > 1:
        raise ChapterError(f"the chapters in {run.notebooks} were run with different settings: run them anew")
    incoming = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        shown: dict[str, dict[str, str]] = {}
        found: set[str] = set()
        for chapter in chapters:
            notebook, _ = executed[chapter.name]
            items = [item for item in _items(chapter, notebook) if not keys or item.key in keys]
            found.update(item.key for item in items)
            items = [item for item in items if not item.key.startswith("provenance_")]
            if items:
                _write_chapter(chapter, items, run, incoming, name=folder.name)
                shown[chapter.name] = _about(chapter, run)
        if unknown := sorted(set(keys or ()) - found):
            raise InputError(f"no table and no figure {unknown[0]!r} in the chapters that are to be kept")
        if not shown:
            raise InputError("the chapters hold no table and no figure to keep")
        config = load_config(records[0].profile, records[0].settings)
        settings = {key: _without_folder(value) for key, value in records[0].settings.items()}
        published = PublishedRun(folder.name, config.profile, _people(config), settings, shown)
        (incoming / _RUN).write_text(json.dumps(asdict(published), indent=1) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in incoming.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            raise InputError(
                f"the files have {size / 1e6:.1f} MB: at most {MOST_BYTES / 1e6:.0f} MB are kept; "
                "choose chapters with --only, or tables and figures with --keep"
            )
        shutil.rmtree(folder, ignore_errors=True)
        incoming.rename(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return published


def _check_folder(folder: Path) -> None:
    if not _NAME.fullmatch(folder.name):
        raise InputError(f"a run is kept as {folder.name!r}: expected lower-case letters, digits and hyphens")
    if folder.exists() and not (folder / _RUN).is_file():
        raise InputError(f"{folder} holds something else than a kept run: choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)


def _executed(chapter: Chapter, run: RunPaths) -> tuple[NotebookNode, Record]:
    files = ChapterFiles(run.notebooks, chapter.name)
    notebook = None if files.failed.exists() else read_executed(files.executed)
    record = read_record(notebook) if notebook is not None else None
    if notebook is None or record is None or error_of(notebook) is not None:
        raise ChapterError(
            f"chapter {chapter.name} was not run to its end in {run.root}: run it, then keep it"
        )
    return notebook, record


def _items(chapter: Chapter, notebook: NotebookNode) -> Iterator[_Item]:
    """Yield what a chapter shows, in its order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    values = {
        output.metadata["scrapbook"]["name"]: ast.literal_eval(output.data[_RECORD])
        for output in outputs
        if _RECORD in output.get("data", {})
    }
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if table := _TABLE.match(text):
                yield _Item(table["key"].replace("-", "_"), _TABLES, text)
        for figure in _FIGURE.finditer(cell.source if cell.cell_type == "markdown" else ""):
            caption = _GLUED.sub(lambda glued: _filled(glued, values), " ".join(figure["caption"].split()))
            path = f"{_FIGURES}/{_file(chapter, figure['key'])}.png"
            text = f"```{{figure}} {path}\n:alt: {figure['alt']}\n\n{caption}\n```"
            yield _Item(figure["key"], _FIGURES, text)


def _filled(glued: re.Match[str], values: Mapping[str, Any]) -> str:
    return format(values[glued["key"]], (glued["format"] or "").removesuffix("s"))


def _file(chapter: Chapter, key: str) -> str:
    return f"{chapter.name.split('_')[0]}_{key}"


def _write_chapter(
    chapter: Chapter, items: Sequence[_Item], run: RunPaths, folder: Path, *, name: str
) -> None:
    for item in items:
        source, ending = (run.figures, "png") if item.kind == _FIGURES else (run.tables, "csv")
        file = f"{_file(chapter, item.key)}.{ending}"
        (folder / item.kind).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, folder / item.kind / file)
    texts = [_renamed(item, name=name) for item in items]
    (folder / f"{chapter.name}.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def _renamed(item: _Item, *, name: str) -> str:
    """Say in the caption which run it is, and give the target another name than the page's own."""
    target = f"{item.key.replace('_', '-')}-in-{name}"
    said = f'Kept run "{name}"'  # in quotes: a backtick would end the line of a fence
    text = item.text.replace("this run", "the kept run")
    if table := _TABLE.match(text):
        head = f"```{{table}} {said}: {table['caption']}\n:name: tab-{target}\n"
        return head + text[table.end() :]
    head, _, caption = text.partition("\n\n")
    return f"{head}\n:name: fig-{target}\n:width: 100%\n\n{said}: {caption}"


def _about(chapter: Chapter, run: RunPaths) -> dict[str, str]:
    number = chapter.name.split("_")[0]
    table = pd.read_csv(run.tables / f"{number}_provenance_{number}.csv").set_index("what")["value"]
    return {row: str(table[row]) for row in _ABOUT_CHAPTER}


def _people(config: StudyConfig) -> str:
    source = config.source
    if source.kind != "synthetic":
        return f"clips of {source.kind}"
    world = source.synthetic
    return f"{world.n_train:,} training and {world.n_test:,} test people, generated with rho {world.rho:g}"


def _without_folder(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and os.sep in value else value
