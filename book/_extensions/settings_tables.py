"""Fills the page of settings: one table per section, made from the pydantic models and their docstrings."""

from __future__ import annotations

import yaml
from pydantic import BaseModel

from s2f_lib.config import StudyConfig

PAGE = "book/settings"


def settings_tables(model: type[BaseModel] = StudyConfig, prefix: str = "") -> str:
    """Return Markdown: a heading and a table of key, default and meaning for each section of the settings."""
    rows, sections = [], []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            sections.append(settings_tables(kind, f"{prefix}{name}."))
        else:
            meaning = " ".join((field.description or "").split())
            cells = (f"`{prefix}{name}`", f"`{_as_yaml(field.default)}`", meaning)
            rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    if not rows:
        return "\n".join(sections)
    title = f"## `{prefix.removesuffix('.')}`" if prefix else "## The run"
    head = ["", title, "", model.__doc__ or "", "", "| setting | default | meaning |", "|---|---|---|"]
    return "\n".join([*head, *rows, "", *sections])


def _as_yaml(value: object) -> str:
    """Return a default as a profile would write it."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _on_source_read(app, docname: str, source: list[str]) -> None:
    if docname == PAGE:
        source[0] += settings_tables()


def setup(app) -> dict[str, bool]:
    """Connect to the event that is sent for each page."""
    app.connect("source-read", _on_source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
