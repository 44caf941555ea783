"""Tests of the rules for a chapter's cells, figures, tables and prose, on the sources of the book."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

import jupytext
import pytest
import yaml

from s2f_lib import paths
from s2f_lib.book.executed import Chapter, find_chapters, find_recipes

LONGEST_CELL, LONGEST_LINE, LONGEST_DEF = 12, 100, 5  # lines, characters, lines
#: Keys of glued texts. All other keys are numbers, which have a format in the prose.
TEXTS = {
    *(
        "profile",
        "source",
        "axes",
        "best_loss",
        "nearest_loss",
        "loss_name",
        "measure_name",
        "other_name",
        "limit",
    ),
    *("verdict", "control_verdict", "report_verdict", "shown", "shown_as", "who_alike", "whose_voices"),
    *("fitting_train", "fitting_test", "measured_where", "utk_commit", "utk_note"),
}
#: Chapters with conclusions about people: they must also say what may not be concluded.
CONCLUDING = (
    "02_voice_encoder",
    "03_loss_comparison",
    "05_retrieval",
    "07_controls_and_ceilings",
    "08_real_pairs",
)
ALWAYS_GLUED = {"profile", "source", "wall_min"}  # by Page.open and Page.provenance
NAMES_WITH_DIGITS = re.compile(r"\b(?:L1|L2|VGG16|Speech2Face|Wav2Pix|H\.264|CC0|CC BY 4\.0)\b")
GLUED = re.compile(r"\{glue:text\}`(?:(?P<page>[^`]+?)::)?(?P<key>\w+)(?::(?P<format>[^`]+))?`")
FIGURE = re.compile(r"^```\{glue:figure\} (?P<key>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A chapter as the rules see it."""

    chapter: Chapter

    @cached_property
    def cells(self):
        """All cells."""
        return self.chapter.notebook().cells

    @cached_property
    def code(self):
        """Code cells."""
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @cached_property
    def prose(self) -> str:
        """All text between the code."""
        return "\n\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")

    def calls(self, name: str):
        """Return `(cell, call)` for each call of `page.<name>`."""
        return [(cell, call) for cell in self.code for call in calls_of(cell.source, name)]

    @cached_property
    def glued(self) -> set[str]:
        """Keys of the numbers that the code glues for the prose."""
        words = [word for _, call in self.calls("numbers") for word in call.keywords]
        named = {word.arg for word in words if word.arg is not None}
        return named.union(ALWAYS_GLUED, *(self.returned_keys(word.value) for word in words if not word.arg))

    def returned_keys(self, unpacked: ast.expr) -> set[str]:
        """Return the keys of `**module.function(...)`, or of a name that it was assigned to.

        The function's last statement must return a dict literal.
        """
        if isinstance(unpacked, ast.Name):
            statements = [node for cell in self.code for node in ast.walk(ast.parse(cell.source))]
            (unpacked,) = (
                node.value
                for node in statements
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == unpacked.id
            )
        module, function = ast.unparse(unpacked.func).split(".")
        source = inspect.getsource(getattr(import_module(f"s2f_lib.chapters.{module}"), function))
        returned = ast.parse(source).body[0].body[-1].value
        return {ast.literal_eval(key) for key in returned.keys}


def calls_of(code: str, name: str) -> list[ast.Call]:
    """Return the calls `page.<name>(...)` in a cell."""
    return [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == name
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "page"
    ]


def argument(call: ast.Call, name: str) -> ast.expr | None:
    """Return a keyword argument of a call."""
    return next((word.value for word in call.keywords if word.arg == name), None)


SOURCES = [Source(chapter) for chapter in find_chapters()]
RECIPES = [Source(recipe) for recipe in find_recipes()]
each_source = pytest.mark.parametrize("source", SOURCES + RECIPES, ids=lambda source: source.chapter.name)
each_chapter = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.chapter.name)


def test_book_has_the_reports_chapters_in_order():
    toc = yaml.safe_load((paths.checkout() / "_toc.yml").read_text())
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    listed = [file.removeprefix("book/notebooks/") for file in files if "notebooks" in file]
    assert listed == [source.chapter.name for source in SOURCES]
    assert listed[:6] == [
        "01_data_preparation",
        "02_voice_encoder",
        "03_loss_comparison",
        "04_face_decoder",
        "05_retrieval",
        "06_qualitative_analysis",
    ]
    for file in [toc["root"], *files]:
        assert (paths.checkout() / f"{file}.md").is_file(), file


@each_source
def test_source_survives_round_trip_without_outputs(source):
    notebook = source.chapter.notebook()
    written = jupytext.writes(notebook, fmt="md:myst")
    assert written.split("\n---\n", 1)[1] == source.chapter.text.split("\n---\n", 1)[1]
    assert not any(cell.get("outputs") for cell in notebook.cells)


@each_chapter
def test_parameters_cell_follows_check_and_has_common_defaults(source):
    assert source.code[0].source.splitlines()[-1] == "check_injected_parameters()"
    assert source.code[0].metadata["tags"] == ["remove-cell"]
    tagged = [cell for cell in source.code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [source.code[1]]
    defaults = source.chapter.parameters
    assert (defaults["profile"], defaults["run_dir"], defaults["settings"]) == ("quick", None, {})


@each_chapter
def test_cells_are_short_and_only_call(source):
    for cell in source.code:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= LONGEST_CELL, cell.source
        assert max(map(len, lines)) <= LONGEST_LINE, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.For | ast.While | ast.ClassDef), cell.source
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_DEF, cell.source
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"[/\\](?!n)|\.(csv|png|md|ipynb|json|pt|yaml)\b", node.value), (
                    node.value
                )


@each_source
def test_code_has_nothing_undefined_or_unused(source):
    code = "\n".join(cell.source for cell in source.code)
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--select", "F,E9", "--isolated", "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@each_chapter
def test_page_has_the_sections_in_order(source):
    headings = re.findall(r"^## (.+)$", source.prose, re.MULTILINE)
    assert headings[:2] == ["Question", "Parameters"]
    assert headings[-2:] == ["What we learned", "Provenance"]
    assert len(re.findall(r"^# .+$", source.prose, re.MULTILINE)) == 1
    question = source.prose.split("## Question")[1].split("\n## ")[0]
    for row in ("**Goes in**", "**Comes out**", "**Cost**"):
        assert row in question
    assert re.search(r"page\.provenance\((?:config)?\)", source.code[-1].source)
    learned = source.prose.split("## What we learned")[1].split("\n## ")[0]
    assert len(GLUED.findall(learned)) >= 3


@each_chapter
def test_figures_have_names_alt_texts_and_full_captions(source):
    cells = {}
    for cell, call in source.calls("figure"):
        key = ast.literal_eval(argument(call, "key"))
        cells[f"fig_{key}"] = cell
        assert cell.metadata["tags"] == ["remove-output"], key  # shown once, where the text includes it
        assert len(calls_of(cell.source, "figure")) == 1
    found = {figure["key"]: figure["body"] for figure in FIGURE.finditer(source.prose)}
    assert found
    assert set(found) == set(cells)
    for key, body in found.items():
        name = key.replace("_", "-")
        assert f":name: {name}\n" in body
        alt = re.search(r"^:alt: (.+)$", body, re.MULTILINE)
        assert alt, key
        assert len(alt[1]) > 40, key
        caption = " ".join(body.split("\n\n", 1)[1].split())
        assert re.search(r"\(?n = \{glue:text\}`", caption), caption
        assert re.search(r"\b(train|training|test)\b", caption), caption
        assert "{glue:text}`profile`" in caption, caption
        assert f"{{numref}}`{name}`" in source.prose, f"{name} is not mentioned"


@each_chapter
def test_tables_have_captions_and_are_mentioned(source):
    keys = [ast.literal_eval(argument(call, "key")) for _, call in source.calls("table")]
    assert keys
    for _, call in source.calls("table"):
        assert argument(call, "caption") is not None
    for key in keys:
        assert f"{{numref}}`tab-{key.replace('_', '-')}`" in source.prose, f"table {key} is not mentioned"


def test_table_and_figure_keys_are_unique_in_the_book():
    names = [
        (kind, ast.literal_eval(argument(call, "key")))
        for source in SOURCES
        for kind in ("table", "figure")
        for _, call in source.calls(kind)
    ]
    assert len(names) == len(set(names))


def test_every_table_of_the_report_is_shown():
    calls = "\n".join(cell.source for source in SOURCES for cell in source.code)
    for function in (
        "data_vs_report",
        "architecture_table",
        "parameter_counts",
        "distances_vs_report",
        "losses_vs_report",
        "recall_vs_report",
        "decoder_vs_report",
        "cosines_vs_report",
    ):
        assert function in calls
    assert 'split="train"' in calls
    assert 'split="test"' in calls


def pages() -> list[tuple[str, str, set[str] | None]]:
    """Return (name, prose, keys glued on the page itself) of all pages."""
    others = [(path.stem, path.read_text(), None) for path in sorted(paths.book_dir().glob("*.md"))]
    executed = [(source.chapter.name, source.prose, source.glued) for source in SOURCES + RECIPES]
    return executed + others


PAGES = pages()
each_page = pytest.mark.parametrize(("name", "prose", "own"), PAGES, ids=[page[0] for page in PAGES])


@each_page
def test_glued_keys_exist_and_numbers_have_a_format(name, prose, own):
    by_name = {source.chapter.name: source.glued for source in SOURCES}
    for glued in GLUED.finditer(prose):
        page = glued["page"]
        keys = by_name[page.removeprefix("notebooks/").removesuffix(".ipynb")] if page else own
        assert keys is not None, f"{name}: {glued[0]} names no page"
        assert glued["key"] in keys, f"{name}: {glued[0]} is never glued"
        if glued["key"] in TEXTS:
            assert glued["format"] in {None, "s"}, f"{name}: {glued[0]} formats a text"
        else:
            assert glued["format"], f"{name}: {glued[0]} has no format; is it a text?"


@pytest.mark.parametrize("name", CONCLUDING)
def test_chapter_says_what_may_and_may_not_be_concluded(name):
    (source,) = (source for source in SOURCES if source.chapter.name == name)
    learned = source.prose.split("## What we learned")[1].split("\n## ")[0]
    said = [" ".join(part.split()) for part in re.split(r"^- ", learned, flags=re.MULTILINE)]
    (bullet,) = (part for part in said if "What may be concluded" in part)
    form = r"What may be concluded(?:: .+ What may not: |, and what not:.* may not be concluded )"
    assert re.search(form, bullet), bullet


@each_page
def test_prose_has_no_typed_numbers(name, prose, own):
    if name == "api":
        pytest.skip("the reference is code")
    text = re.sub(r"```\{(?!glue).*?```|```python.*?```", "", prose, flags=re.DOTALL)
    text = re.sub(r"^:(?:name|alt|style|class):.*$|^```.*$|^#+ .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.DOTALL)  # formulas
    text = re.sub(r"\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)", "", text)  # roles, code, targets of links
    text = NAMES_WITH_DIGITS.sub("", text)
    assert not re.findall(r".{0,20}\d.{0,20}", text)


def test_cited_papers_are_in_the_bibliography():
    library = set(
        re.findall(r"^@\w+\{([\w:-]+),", (paths.book_dir() / "references.bib").read_text(), re.MULTILINE)
    )
    cited = {
        key.strip()
        for _, prose, _ in pages()
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", prose)
        for key in keys.split(",")
    }
    assert cited
    assert cited <= library
    assert library <= cited, f"never cited: {library - cited}"


PAGE = "<td>1.0</td>" * 10 + '<img alt="an image">'


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("<p>Nancy walks to infinity, none of them fast; banana</p><script>x = NaN</script>", None),
        ("<td>-</td>", None),
        ("<td>nan</td>", "table cells hold"),
        ("<td>nan [nan, nan]</td>", "table cells hold"),
        ("<td>inf</td>", "table cells hold"),
        ("<td>None</td>", "table cells hold"),
        ("<p>a recall of <span>nan%</span> of the voices</p>", "text holds nan"),
    ],
)
def test_check_book_finds_values_that_are_not_finite(tmp_path, extra, fault):
    check = runpy.run_path(str(paths.checkout() / ".ci" / "check_book.py"))
    page = tmp_path / "page.html"
    page.write_text(f"<html>{PAGE}{extra}</html>")
    faults = check["faults_of"](page)
    assert len(faults) == bool(fault)
    assert not fault or fault in faults[0]
