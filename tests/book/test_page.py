"""Tests of pages: numbers, tables, and what is refused or hidden."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from s2f_lib.book import page as page_module
from s2f_lib.book.page import Page, as_texts
from s2f_lib.config import load_config
from s2f_lib.errors import NAMES_CLIP, InputError
from s2f_lib.paths import RunPaths
from s2f_lib.study import Study, log_to_output


@pytest.fixture
def shown(monkeypatch):
    """The displayed (data, metadata) of each call."""
    calls = []
    for name in ("IPython.display.display", "myst_nb.ext.glue.ipy_display"):
        monkeypatch.setattr(name, lambda data, raw, metadata=None: calls.append((data, metadata)))
    return calls


@pytest.fixture
def page(tmp_path) -> Page:
    """A page of an empty run."""
    return Page(Study(load_config("quick"), RunPaths(tmp_path)), "07_test")


def test_numbers_are_glued_as_python_literals(page, shown):
    page.numbers(a=np.float32(0.5), b=np.int64(3), c="it's", d=np.bool_(True) * 1)
    values = {meta["scrapbook"]["name"]: next(iter(data.values())) for data, meta in shown}
    assert values == {"a": "0.5", "b": "3", "c": '"it\'s"', "d": "1"}
    assert all(next(iter(data)).startswith("application/papermill.record/") for data, _ in shown)


@pytest.mark.parametrize("value", [float("nan"), np.inf, None, [1]])
def test_numbers_refuses_values_that_are_not_finite(page, shown, value):
    with pytest.raises(InputError, match="'recall' of the prose is"):
        page.numbers(recall=value)
    assert shown == []


def test_table_writes_csv_and_numbered_markdown(page, shown, tmp_path):
    table = pd.DataFrame(
        {"K": [1, 50], "this run, %": ["1.0 [0.5, 1.5]", "9.0 [8.0, 9.5]"], "note": ["a|b", "c"]}
    )
    page.table(table, key="recall_test", caption="Recall", n=1200, of="test people")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables" / "07_recall_test.csv"), table)
    markdown = shown[0][0]["text/markdown"].splitlines()
    assert markdown[0] == "```{table} Recall (this run: n = 1,200 test people, profile quick)."
    assert markdown[1:3] == [":name: tab-recall-test", ":class: compact"]
    assert markdown[4:] == [
        "| K | this run, % | note |",
        "| ---: | ---: | :--- |",
        "| 1 | 1.0 [0.5, 1.5] | a\\|b |",
        "| 50 | 9.0 [8.0, 9.5] | c |",
        "```",
    ]
    assert "<table" in shown[0][0]["text/html"]


def test_as_texts_formats_each_type():
    table = pd.DataFrame({"x": [1234567, None, True, 2.0, float("nan"), "text"]}, dtype=object)
    assert list(as_texts(table, digits=1)["x"]) == ["1,234,567", "-", "yes", "2.0", "-", "text"]


@pytest.mark.parametrize("cell", [float("nan"), None, "nan [nan, nan]", float("inf"), "-inf"])
def test_table_with_missing_values_needs_dashes(page, shown, cell):
    table = pd.DataFrame({"K": [1, 2], "recall": ["0.5", cell]}, dtype=object)
    with pytest.raises(InputError, match=r"table 'recall' lacks numbers in \['recall'\]: 1 cells"):
        page.table(table, key="recall", caption="Recall")
    assert shown == []
    if isinstance(cell, str) or cell == float("inf"):  # refused even with dashes
        with pytest.raises(InputError, match="lacks numbers"):
            page.table(table, key="recall", caption="Recall", dashes=True)
    else:
        page.table(table, key="recall", caption="Recall", dashes=True)
        assert "| 2 | - |" in shown[0][0]["text/markdown"]


def test_table_accepts_words_that_contain_nan(page, shown):
    page.table(pd.DataFrame({"who": ["Nancy, infant"], "n": [1]}), key="who", caption="Who")
    assert shown


def test_spectrogram_voices_replaces_real_people(tmp_path):
    voices = np.random.default_rng(0).integers(-9_000, 9_000, (2, 16_000), dtype=np.int16)
    generated = Page(Study(load_config("quick"), RunPaths(tmp_path)), "01_test")
    assert generated.spectrogram_voices(voices)[0] is voices
    settings = {"source.synthetic.n_train": 2, "source.synthetic.n_test": 1}
    for kind in ("avspeech", "pairs"):
        config = load_config("quick", settings | {"source.kind": kind})
        replaced, whose = Page(Study(config, RunPaths(tmp_path)), "01_test").spectrogram_voices(voices)
        assert replaced.shape == voices.shape
        assert "of generated people" in whose
        assert replaced.any()
        correlations = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(replaced, voices, strict=True)]
        assert max(correlations) < 0.1


def test_log_to_output_hides_lines_that_name_a_clip(page, capsys):
    log_to_output()
    logger = logging.getLogger("s2f_lib.pairs.shards")
    logger.warning("%s is left out", "abcdefghijk_000", extra=NAMES_CLIP)
    logger.warning("1 of 3 left out")
    assert capsys.readouterr().out == "1 of 3 left out\n"


def test_mask_real_faces_hides_only_real_people(tmp_path):
    faces = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    generated = Page(Study(load_config("quick"), RunPaths(tmp_path)), "07_test")
    real = Page(Study(load_config("quick", {"source.kind": "avspeech"}), RunPaths(tmp_path)), "07_test")
    assert generated.mask_real_faces(faces) is faces
    assert real.mask_real_faces(faces).shape == faces.shape
    assert len(np.unique(real.mask_real_faces(faces))) == 1


def test_provenance_takes_other_settings(page, shown, tmp_path):
    real = Page(Study(load_config("quick", {"source.kind": "pairs"}), RunPaths(tmp_path)), "07_test")
    real.provenance()
    real.provenance(load_config("quick"))
    outer, own = (data["text/markdown"] for data, _ in shown if "text/markdown" in data)
    assert "world" not in outer
    assert "world 0" in own
    assert "synthetic" in own


def test_provenance_does_not_name_the_machine(page, shown):
    page.provenance()
    tables = [data for data, _ in shown if "text/markdown" in data]
    text = tables[0]["text/markdown"]
    for name in ("commit", "seeds", "device", "torch ", "wall time"):
        assert name in text
    assert str(page_module.Path.home()) not in text
