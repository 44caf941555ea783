"""The chapters and recipes of the book: their sources, their parameters and their executed copies.

A chapter is `book/notebooks/NN_topic.md` (Jupytext MyST Markdown) with one cell tagged `parameters`, which
sets `profile`, `run_dir`, `settings` and the chapter's own parameters. A recipe is `book/recipes/topic.md`;
it has no parameters, makes its own data, and runs in an empty folder. An executed copy is
`runs/PROFILE/notebooks/NN_topic.ipynb`. Its metadata hold, under `s2f`, the record of what it was made from.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from s2f_lib import paths
from s2f_lib.config import SourceConfig, load_config, setting_keys, suggest
from s2f_lib.errors import ChapterError, ConfigError, InputError
from s2f_lib.paths import RunPaths
from s2f_lib.storage import atomic_path, digest, file_digest

COMMON_PARAMETERS = ("profile", "run_dir", "settings")  # the runner sets them in every chapter

_NAME = re.compile(r"\d\d_[a-z0-9_]+")
_RECIPES = "recipes"  # folder next to that of the chapters
_OPTIONS = {"profile": "--profile", "run_dir": "--run-dir", "settings": "-p a.dotted.setting=value"}


@dataclass(frozen=True)
class Chapter:
    """Source of one chapter, named `NN_topic`, or of one recipe."""

    name: str
    path: Path

    @property
    def is_recipe(self) -> bool:
        """Whether it is a recipe, which takes no parameters."""
        return self.path.parent.name == _RECIPES

    @property
    def number(self) -> str:
        """The two digits that start the name; they also start the names of its tables and figures."""
        return "" if self.is_recipe else self.name[:2]

    @cached_property
    def text(self) -> str:
        """Content of the source file."""
        return self.path.read_text(encoding="utf-8")

    def notebook(self) -> NotebookNode:
        """Return the chapter as a notebook without outputs."""
        import jupytext

        return jupytext.reads(self.text, fmt="md:myst")

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Default of each parameter, as the cell tagged `parameters` sets it.

        The cell must set the common parameters. Defaults must be literals, because types are checked
        against them. Otherwise it is an `InputError`.
        """
        if self.is_recipe:
            return {}
        from papermill import inspect_notebook

        found = {}
        for name, parameter in inspect_notebook(self.notebook()).items():
            try:
                found[name] = ast.literal_eval(parameter["default"])
            except (ValueError, SyntaxError):
                raise InputError(
                    f"chapter {self.name}: the default of parameter {name!r} is "
                    f"{parameter['default']}, expected a literal such as 5, 'cosine' or None"
                ) from None
        missing = [name for name in COMMON_PARAMETERS if name not in found]
        if missing:
            raise InputError(
                f"chapter {self.name}: its parameters cell does not set {', '.join(missing)}: "
                "every chapter takes profile, run_dir and settings"
            )
        return found


def find_chapters(folder: Path | None = None) -> list[Chapter]:
    """Return all chapters in the order of their numbers.

    Parameters
    ----------
    folder
        Folder of the sources. None: the folder of the book.

    Raises
    ------
    InputError
        The folder holds no chapter.

    See Also
    --------
    find_recipes : The recipes.
    select_chapters : Some of them, by number or name.

    Examples
    --------
    >>> [chapter.name for chapter in find_chapters()][:2]
    ['01_data_preparation', '02_voice_encoder']
    """
    folder = paths.notebooks_dir() if folder is None else folder
    chapters = [Chapter(p.stem, p) for p in sorted(folder.glob("*.md")) if _NAME.fullmatch(p.stem)]
    if not chapters:
        raise InputError(f"no chapter in {folder}: expected files NN_topic.md")
    return chapters


def find_recipes(folder: Path | None = None) -> list[Chapter]:
    """Return all recipes in the order of their names.

    Parameters
    ----------
    folder
        Folder of the chapters; that of the recipes lies next to it. None: the folder of the book.

    Examples
    --------
    >>> "evaluate_own_predictions" in [recipe.name for recipe in find_recipes()]
    True
    """
    folder = paths.notebooks_dir() if folder is None else folder
    return [Chapter(path.stem, path) for path in sorted((folder.parent / _RECIPES).glob("*.md"))]


def select_chapters(chapters: Sequence[Chapter], only: Sequence[str] | None) -> list[Chapter]:
    """Return the chapters with the given numbers or names, in the order of the book.

    Parameters
    ----------
    chapters
        Chapters to choose from.
    only
        Numbers (`05`) or names (`05_retrieval`). None or empty: all chapters.

    Raises
    ------
    InputError
        A number or name fits no chapter; the message suggests the closest name.

    Examples
    --------
    >>> [chapter.name for chapter in select_chapters(find_chapters(), ["5"])]
    ['05_retrieval']
    """
    if not only:
        return list(chapters)
    chosen = set()
    for word in only:
        number, name = str(word).zfill(2), str(word).removesuffix(".md")
        fits = [chapter.name for chapter in chapters if name == chapter.name or number == chapter.number]
        if not fits:
            raise InputError(f"unknown chapter {word!r}{suggest(str(word), [c.name for c in chapters])}")
        chosen.update(fits)
    return [chapter for chapter in chapters if chapter.name in chosen]


@dataclass(frozen=True)
class Parameters:
    """Checked parameters: settings of the study, and the chapters' own."""

    settings: dict[str, Any]
    own: dict[str, Any]

    def for_chapter(self, chapter: Chapter) -> dict[str, Any]:
        """Return the given parameters that belong to a chapter."""
        return {name: value for name, value in self.own.items() if name in chapter.parameters}


def check_parameters(
    profile: str | Path,
    given: Mapping[str, Any] | None,
    chapters: Sequence[Chapter],
    *,
    others: Sequence[Chapter] = (),
) -> Parameters:
    """Sort parameters into settings and chapters' own, and check names and types.

    papermill only warns about an unknown parameter and checks no type. A text is parsed as YAML unless the
    default is a text. A key with a dot is a setting of `StudyConfig`; any other key must be a parameter of
    one of the chapters. An unknown key, a wrong type or a parameter that only `others` take (chapters that
    do not run) is an `InputError`.
    """
    settings: dict[str, Any] = {}
    own: dict[str, Any] = {}
    defaults = {name: value for chapter in chapters for name, value in chapter.parameters.items()}
    for key, value in (given or {}).items():
        if key in _OPTIONS:
            raise ConfigError(f"parameter {key!r} is set by its own option: use {_OPTIONS[key]}")
        if key in defaults:
            own[key] = _typed(key, value, defaults[key])
        elif "." in key:
            settings[key] = value
        elif owners := [chapter for chapter in others if key in chapter.parameters]:
            raise ConfigError(
                f"parameter {key!r} belongs to {' and '.join(chapter.name for chapter in owners)}: "
                f"add --only {owners[0].number}, or leave {key} out"
            )
        else:
            known = sorted(set(defaults) - set(COMMON_PARAMETERS)) + setting_keys(sections=True)
            raise ConfigError(f"unknown parameter {key!r}{suggest(key, known)}")
    load_config(profile, settings)
    return Parameters(settings, own)


def _typed(key: str, value: Any, default: Any) -> Any:
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"parameter {key!r}: {value!r} is not valid YAML") from None
    if default is None:
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        raise ConfigError(
            f"parameter {key!r}: expected {type(default).__name__} such as {default!r}, "
            f"found {type(value).__name__} {value!r}"
        )
    return value


@dataclass(frozen=True)
class Record:
    """What an executed chapter was made from: its `chapter_digest`, its wall time, and what it wrote."""

    digest: str
    profile: str
    settings: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    files: str = ""
    """Digest of the chapter's tables and figures; see `ExecutedChapter.files_digest`."""


class ExecutedChapter:
    """Files of one executed chapter in a run's folder."""

    def __init__(self, chapter: Chapter, run: RunPaths) -> None:
        self.name = chapter.name
        self._written = {folder: f"{chapter.number}_*" for folder in (run.tables, run.figures)}
        self.path = run.notebooks / f"{self.name}.ipynb"  # exists only if every cell succeeded
        self.failed = run.notebooks / f"{self.name}.failed.ipynb"  # up to the failing cell
        self.partial = run.notebooks / f".{self.name}.{os.getpid()}.part.ipynb"  # during the run

    def read(self) -> tuple[NotebookNode, Record]:
        """Return the executed notebook and its record.

        A chapter that was not run, failed or has no record is a `ChapterError`.
        """
        if self.failed.exists():
            notebook = read_notebook(self.failed)
            error = first_error(notebook) if notebook is not None else None
            raise ChapterError(f"{self.name} failed ({error or f'see {self.failed.name}'})")
        return self.read_success()

    def read_success(self) -> tuple[NotebookNode, Record]:
        """Return the executed notebook of the last run that succeeded, and its record."""
        notebook = read_notebook(self.path)
        if notebook is None:
            raise ChapterError(f"{self.name} was not run")
        if (error := first_error(notebook)) is not None:
            raise ChapterError(f"{self.name} failed ({error})")
        try:
            return notebook, Record(**notebook.metadata["s2f"])
        except (KeyError, TypeError):
            raise ChapterError(f"{self.name} holds no record of its run") from None

    def files_digest(self) -> str:
        """Return a digest of the chapter's tables and figures, which a failed run may have replaced."""
        files = [path for folder, pattern in self._written.items() for path in folder.glob(pattern)]
        return digest_of_files(files, root=self.path.parents[1])[:16]

    def write(self, notebook: NotebookNode, record: Record) -> None:
        """Write the executed notebook with its record, and remove what an earlier run left."""
        notebook.metadata["s2f"] = asdict(record)
        with atomic_path(self.path) as temporary:
            nbformat.write(notebook, temporary)
        self.failed.unlink(missing_ok=True)


def chapter_digest(
    chapter: Chapter, profile: str | Path, settings: Mapping[str, Any], parameters: Mapping[str, Any]
) -> str:
    """Return the digest of everything that decides an executed chapter: 16 hexadecimal digits."""
    resolved = load_config(profile, settings).model_dump(mode="json")
    resolved["preparation"].pop("workers")  # decides only the time
    inputs = [package_digest(), published_digest()]
    return digest(
        json.dumps([chapter.text, inputs, resolved, parameters], sort_keys=True, default=str), length=16
    )


@cache
def package_digest() -> str:
    """Return the digest of the package's source files."""
    package = Path(paths.__file__).parent
    return digest_of_files(package.rglob("*.py"), root=package)


def package_environment() -> dict[str, str]:
    """Return the environment variables with which a child process imports this package from its checkout."""
    root = paths.checkout()
    return {"PYTHONPATH": prepend(str(root), "PYTHONPATH", os.pathsep)} if root else {}


def prepend(value: str, variable: str, separator: str) -> str:
    """Return a value, followed by that of an environment variable if it is set."""
    others = os.environ.get(variable)
    return f"{value}{separator}{others}" if others else value


def published_digest() -> str:
    """Return the digest of the published results, which chapters show next to their own."""
    return digest_of_files(paths.published_dir().rglob("*.*"), root=paths.published_dir())


def digest_of_files(files: Iterable[Path], *, root: Path) -> str:
    """Return the digest of the files' contents and of their names relative to `root`; folders are skipped."""
    found = sorted(path for path in files if path.is_file())
    return digest(*(f"{path.relative_to(root)}\0{file_digest(path)}" for path in found), length=64)


def have_same_settings(records: Iterable[Record]) -> bool:
    """Say whether chapters were run with the same profile and settings."""
    texts = {json.dumps([r.profile, r.settings], sort_keys=True, default=str) for r in records}
    return len(texts) <= 1


def describe_people(source: SourceConfig) -> str:
    """Return how many people a run is about and where they come from, as a phrase."""
    if source.kind != "synthetic":
        return f"clips of {source.kind}"
    world = source.synthetic
    return f"{world.n_train:,} training and {world.n_test:,} test people, generated with rho {world.rho:g}"


def read_notebook(path: Path) -> NotebookNode | None:
    """Return a notebook; None if the file is missing or damaged."""
    try:
        return nbformat.read(path, as_version=4)
    except (FileNotFoundError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return None


def first_error(notebook: NotebookNode) -> str | None:
    """Return the first error among a notebook's outputs; None if there is no error."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell {cell.execution_count}: {output.ename}: {output.evalue}"
    return None


def strip_local_paths(notebook: NotebookNode) -> NotebookNode:
    """Remove the machine's folders from outputs, parameters and metadata, in place.

    The book is published, and must not show the folders of the machine.
    """
    notebook.metadata.pop("papermill", None)
    package = Path(paths.__file__).parents[1]
    named = [(paths.workspace(), ""), (paths.study_folder(), ""), (package, ""), (Path.home(), "~/")]
    folders = [(f"{folder}{os.sep}", new) for folder, new in named if folder != folder.parent]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if not line.startswith("run_dir =")]
            cell.source = "\n".join(_FOLDERS.sub(r"\1", line) for line in lines)
        for output in cell.get("outputs", []):
            _replace_texts(output, folders)
    return notebook


# a quoted absolute path: its folders (POSIX, home or Windows), then its last part
_FOLDERS = re.compile(r"""(?<=["'])(?:~|[A-Za-z]:)?[/\\](?:[^"']*[/\\])?([^"'/\\]+)[/\\]?(?=["'])""")


def _replace_texts(value: Any, folders: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for folder, new in folders:
            value = value.replace(folder, new)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not key.startswith("image/"):
                value[key] = _replace_texts(inner, folders)
    elif isinstance(value, list):
        value[:] = [_replace_texts(inner, folders) for inner in value]
    return value
