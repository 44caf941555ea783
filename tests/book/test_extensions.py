"""Tests of the book's Sphinx extensions: formulas without a network, pages without a run."""

from __future__ import annotations

import importlib.util
import sys
from xml.etree import ElementTree

import pytest

from s2f_lib import paths
from s2f_lib.config import setting_keys


def load(name: str):
    """Import an extension from the book's folder."""
    spec = importlib.util.spec_from_file_location(name, paths.book_dir() / "_extensions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


offline_math, unexecuted = load("offline_math"), load("unexecuted")
settings_tables = load("settings_tables")


@pytest.mark.parametrize(
    "latex",
    [
        r"\|v_f - v_s\|_1",
        r"\left\| \dfrac{a}{b} \right\|_2^2",
        r"x^\top y",
        r"\text{loss} \, N",
        r"a < b",
    ],
)
def test_to_svg_has_the_latex_as_label(latex):
    root = ElementTree.fromstring(offline_math.to_svg(latex))
    assert root.attrib["aria-label"] == latex.strip()
    assert root.attrib["role"] == "img"
    assert root.findall(".//{http://www.w3.org/2000/svg}path")
    assert "width" not in root.attrib  # sized in em, with the text


def test_to_svg_is_reproducible_with_unique_ids():
    first, other = offline_math.to_svg("x_i"), offline_math.to_svg("y_j")
    assert first == offline_math.to_svg("x_i")

    def ids(svg):
        return {node.attrib["id"] for node in ElementTree.fromstring(svg).iter() if "id" in node.attrib}

    assert not (ids(first) & ids(other)) - {"figure_1", "patch_1", "text_1"}


def test_to_svg_joins_lines():
    assert offline_math.to_svg("a\n+ b").count("<use") == offline_math.to_svg("a + b").count("<use")


def test_to_svg_fraction_is_taller_than_a_letter():
    def height_em(latex):
        style = ElementTree.fromstring(offline_math.to_svg(latex)).attrib["style"]
        return float(style.split("height:")[1].split("em")[0])

    assert height_em(r"\dfrac{a}{b}") > 2 * height_em("a")


def test_to_svg_unknown_command_is_refused():
    with pytest.raises(ValueError, match="unknowncommand"):
        offline_math.to_svg(r"\unknowncommand{x}")


def test_mark_empty_replaces_glued_values_and_references():
    source = (
        "---\nkernelspec: x\n---\n# Title\n\n"
        "A {glue:text}`recall:.1%` of {glue:text}`page::n:d`, {numref}`fig-x`.\n\n"
        "```{glue:figure} fig_x\n:name: fig-x\n\nCaption {glue:text}`n`.\n```\n\nEnd.\n"
    )
    marked = unexecuted.mark_empty(source, is_chapter=True)
    assert "glue" not in marked
    assert "A \u2026 of \u2026, (fig-x)." in marked
    assert marked.index("# Title") < marked.index("shows no run") < marked.index("A \u2026")
    assert "shows no run" not in unexecuted.mark_empty(source, is_chapter=False)
    assert "End." in marked


def test_settings_tables_list_every_setting_with_its_meaning():
    rows = [line for line in settings_tables.settings_tables().splitlines() if line.startswith("| `")]
    keys = [row.split("`")[1] for row in rows]
    assert sorted(keys) == sorted(setting_keys())
    assert all(row.endswith(" |") for row in rows), "a row is broken over two lines"
    assert all(row.rsplit(" | ", 1)[1].strip(" |") for row in rows), "a setting has no docstring"
