"""Tests of executed chapters: local paths are removed, and published files decide the digest."""

from __future__ import annotations

import nbformat
import pytest

from s2f_lib import paths
from s2f_lib.book.executed import published_digest, strip_local_paths


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            'settings = {"source.pairs.root": "/home/me/data/pairs"}',
            'settings = {"source.pairs.root": "pairs"}',
        ),
        (
            'settings = {"features.weights": "~/w/vgg.safetensors"}',
            'settings = {"features.weights": "vgg.safetensors"}',
        ),
        (r"settings = {'a': 'C:\Users\me\list.csv'}", "settings = {'a': 'list.csv'}"),
        ('settings = {"u": "http://127.0.0.1/{id}.mp4"}', 'settings = {"u": "http://127.0.0.1/{id}.mp4"}'),
        ('settings = {"training.epochs": "3"}', 'settings = {"training.epochs": "3"}'),
        ('run_dir = "/home/me/runs/try"', ""),
    ],
)
def test_strip_local_paths_cleans_parameters(source, expected):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert strip_local_paths(notebook).cells[0].source == expected


def test_published_digest_changes_with_the_files(tmp_path, monkeypatch):
    results = tmp_path / "published" / "pairs" / "results.json"
    results.parent.mkdir(parents=True)
    monkeypatch.setattr(paths, "book_dir", lambda: tmp_path)
    results.write_text("1")
    before = published_digest()
    assert published_digest() == before
    results.write_text("2")
    assert published_digest() != before
