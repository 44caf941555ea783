"""Tests of the recipes: their rules, and that one becomes a page; tests/wheel runs all of them."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

import s2f_lib
from s2f_lib import paths
from s2f_lib.book.executed import Chapter, ExecutedChapter, find_recipes
from s2f_lib.book.runner import run_chapters
from s2f_lib.paths import RunPaths

MOST_LINES, LONGEST_LINE = 24, 100
RECIPES = find_recipes()
DOCUMENTED = set(
    re.findall(r"^\.\. auto\w+:: ([\w.]+)$", (paths.book_dir() / "api.md").read_text(), re.MULTILINE)
)

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def _code(recipe: Chapter) -> str:
    return "\n".join(cell.source for cell in recipe.notebook().cells if cell.cell_type == "code") + "\n"


def _is_documented(module: str, name: str) -> bool:
    if module == "s2f_lib":  # the root exports names of the subpackages
        return name in s2f_lib.__all__ and any(each.endswith(f".{name}") for each in DOCUMENTED)
    return f"{module}.{name}" in DOCUMENTED


def test_contents_list_all_recipes():
    toc = yaml.safe_load((paths.checkout() / "_toc.yml").read_text())
    (part,) = (part for part in toc["parts"] if part["caption"] == "Recipes")
    assert sorted(entry["file"] for entry in part["chapters"]) == [f"book/recipes/{r.name}" for r in RECIPES]


@each_recipe
def test_recipe_is_short(recipe):
    lines = [line for line in _code(recipe).splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= LONGEST_LINE


@each_recipe
def test_recipe_imports_only_documented_names(recipe):
    nodes = list(ast.walk(ast.parse(_code(recipe))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in plain if name.startswith("s2f_lib")]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    names = [(node.module, alias.name) for node in imports for alias in node.names]
    names = [each for each in names if each[0].startswith("s2f_lib")]
    assert names
    assert [each for each in names if not _is_documented(*each)] == []


@each_recipe
def test_recipe_has_its_sections_and_described_figures(recipe):
    prose = "\n\n".join(cell.source for cell in recipe.notebook().cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (.+)$", prose, re.MULTILINE) == ["Aim", "Steps", "Result"]
    assert len(re.findall(r"^# .+$", prose, re.MULTILINE)) == 1
    figures = [cell.metadata["mystnb"] for cell in recipe.notebook().cells if "mystnb" in cell.metadata]
    assert figures
    for figure in figures:
        assert len(figure["image"]["alt"]) > 40
        assert len(figure["figure"]["caption"]) > 20
        assert f"{{numref}}`{figure['figure']['name']}`" in prose


def test_recipe_becomes_a_page_without_parameters(workspace):
    name = "evaluate_own_predictions"
    given = {"training.epochs": 3}
    (result,) = run_chapters("quick", only=[name], parameters=given)
    (recipe,) = (recipe for recipe in RECIPES if recipe.name == name)
    notebook, record = ExecutedChapter(recipe, RunPaths.of_profile("quick")).read()
    assert (result.skipped, record.settings) == (False, given)
    assert "injected-parameters" not in str(notebook)
    images = [cell for cell in notebook.cells if "image/png" in str(cell.get("outputs"))]
    assert all("alt" in cell.metadata["mystnb"]["image"] for cell in images)
    outputs = [output.data for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [sorted(data) for data in outputs] == [["text/html", "text/plain"], ["image/png", "text/plain"]]
    (again,) = run_chapters("quick", only=[name], parameters=given)
    assert again.skipped
