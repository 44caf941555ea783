"""What a chapter puts on its page: numbers for the prose, numbered tables and figures.

Numbers and figures are glued (MyST-NB), so that the text can name them by key. Tables are written as CSV and
appear as numbered tables with a caption. A notebook that is opened in Jupyter shows tables and figures, too.
"""

from __future__ import annotations

import html
import io
import logging
import math
import numbers
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from s2f_lib.config import SAMPLE_RATE_HZ
from s2f_lib.errors import InputError
from s2f_lib.provenance import provenance_table
from s2f_lib.storage import atomic_path, write_atomically
from s2f_lib.study import Study, log_to_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from s2f_lib.config import StudyConfig

_FIGURE_DPI = 200
_LONGEST_COMPACT = 40  # characters of a cell in a table whose lines do not wrap
_NOT_FINITE = re.compile(r"\b(?:nan|inf)\b", re.IGNORECASE)  # also within "nan [nan, nan]"


class Page:
    """Page of a chapter, with the numbers, tables and figures of a run.

    Parameters
    ----------
    study
        The run.
    name
        Name of the chapter, `NN_topic`. Its tables and figures are files `NN_KEY` in the run's folders.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> page = Page(Study.open("avspeech", run_dir=mkdtemp()), "01_data_preparation")
    >>> page.mask_real_faces(np.zeros((1, 1, 1, 3), np.uint8)).tolist()
    [[[[200, 200, 200]]]]
    """

    def __init__(self, study: Study, name: str) -> None:
        self.study = study
        self.name = name
        self._number = name.split("_")[0]
        self._started = time.perf_counter()

    @classmethod
    def open(
        cls,
        name: str,
        *,
        profile: str | Path,
        run_dir: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Page:
        """Open a run for a chapter, show the package's log lines under the cells, and start the clock.

        The profile's name and the source of the clips are glued as `profile` and `source`. The arguments
        are those of `Study.open`.
        """
        log_to_output(logging.INFO)
        page = cls(Study.open(profile, run_dir=run_dir, settings=settings), name)
        kinds = {
            "synthetic": "synthetic people",
            "avspeech": "AVSpeech clips",
            "pairs": "Speech2Face's public pairs",
        }
        source = page.study.config.source.kind
        page.numbers(profile=page.study.config.profile, source=kinds.get(source, f"clips of {source}"))
        return page

    @property
    def shows_faces(self) -> bool:
        """Whether faces may be on the page: only those of generated people."""
        return self.study.config.source.kind == "synthetic"

    def mask_real_faces(self, faces: np.ndarray) -> np.ndarray:
        """Return `(..., height, width, 3)` uint8 faces of generated people, or grey tiles for real faces."""
        return faces if self.shows_faces else np.full_like(faces, 200)

    def spectrogram_voices(self, audio: np.ndarray) -> tuple[np.ndarray, str]:
        """Return `(n, samples)` int16 voices whose spectrograms may be on the page, and a phrase for them.

        `audio` holds the first clips of the training split, `(n, samples)` int16. A spectrogram can be
        turned back into speech, so voices of generated people replace those of real people.
        """
        if self.shows_faces:
            return audio, "the first of the training split"
        from s2f_lib.sources.synthetic.people import draw_population
        from s2f_lib.sources.synthetic.recordings import resynthesize_speech

        config = self.study.config
        world = config.source.synthetic
        ids = [person.clip_id for person in draw_population(world)][: len(audio)]
        seconds = audio.shape[1] / SAMPLE_RATE_HZ
        voices = resynthesize_speech(world, ids, audio_s=seconds, workers=1)
        return voices, "of generated people, in the place of the real ones of the training split"

    def numbers(self, **values: float | int | str) -> None:
        """Glue finite numbers and texts for the prose, each under its name."""
        from myst_nb import glue

        for key, value in values.items():
            glue(key, _plain(key, value), display=False)

    def table(
        self,
        table: pd.DataFrame,
        *,
        key: str,
        caption: str,
        n: int | None = None,
        of: str = "",
        digits: int = 2,
        dashes: bool = False,
    ) -> None:
        """Write a table as CSV, and show it with a number and a caption.

        Parameters
        ----------
        table
            Table with the column names that readers see.
        key
            Name of the table. The text refers to it as ``{numref}`tab-KEY```; the file is `NN_KEY.csv`.
        caption
            What was measured, without a full stop.
        n, of
            Number and kind of the cases behind the run's numbers. The caption ends with them and the
            profile. None: the numbers are not the run's.
        digits
            Decimals of the numbers that are not integers.
        dashes
            Whether missing values are allowed; they are shown as dashes.

        Raises
        ------
        InputError
            A value is missing although `dashes` is False, or the text of a cell is NaN or infinite.
        """
        from IPython.display import display

        texts = as_texts(table, digits=digits)
        _refuse_holes(table, texts, key=key, dashes=dashes)
        path = self.study.paths.tables / f"{self._number}_{key}.csv"
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)
        if n is not None:
            caption = f"{caption} (this run: n = {n:,} {of}, profile {self.study.config.profile})"
        caption += "."
        data = {
            "text/markdown": _markdown(texts, name=f"tab-{key.replace('_', '-')}", caption=caption),
            "text/html": f"<p>{html.escape(caption)}</p>{texts.to_html(index=False)}",
            "text/plain": texts.to_string(index=False),
        }
        display(data, raw=True, metadata={"s2f": {"key": key, "caption": caption}})  # for `s2f publish`

    def figure(self, figure: Figure, *, key: str) -> None:
        """Write a figure as PNG, show it in Jupyter, and glue it as `fig_KEY` for the text."""
        from IPython.display import Image
        from myst_nb import glue

        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_FIGURE_DPI)
        png = buffer.getvalue()
        write_atomically(self.study.paths.figures / f"{self._number}_{key}.png", png)
        glue(f"fig_{key}", Image(png, format="png", width=round(figure.get_figwidth() * 100)))

    def published_runs(self) -> None:
        """Show the tables and figures of the published runs of this chapter, each under its name."""
        from IPython.display import display

        from s2f_lib.book.published import published_runs

        runs = published_runs(self.name)
        for run in runs:
            heading = run.heading(self.name)
            data = {"text/markdown": f"{heading}\n\n{run.markdown(self.name)}", "text/plain": heading}
            display(data, raw=True)
        if not runs:
            nothing = "None is kept for this chapter yet."
            display({"text/markdown": nothing, "text/plain": nothing}, raw=True)

    def provenance(self, config: StudyConfig | None = None) -> None:
        """Show what the page was made with, and glue `wall_min`, the chapter's minutes: the last call.

        `config` holds the settings behind the page's numbers; by default, those of the run.
        """
        wall_s = time.perf_counter() - self._started
        self.numbers(wall_min=wall_s / 60)
        table = provenance_table(self.study.config if config is None else config, wall_s=wall_s)
        caption = f"What this page was made with, profile {self.study.config.profile}"
        self.table(table, key=f"provenance_{self._number}", caption=caption)


def as_texts(table: pd.DataFrame, *, digits: int = 2) -> pd.DataFrame:
    """Return a table as readers see it: rounded numbers ("1,200", "0.99"), dashes for missing values."""
    return table.apply(lambda column: column.map(lambda value: _as_text(value, digits)))


def _refuse_holes(table: pd.DataFrame, texts: pd.DataFrame, *, key: str, dashes: bool) -> None:
    holes = texts.map(lambda text: bool(_NOT_FINITE.search(text)))
    if not dashes:
        holes |= table.isna()
    columns = [str(column) for column in table.columns[holes.any(axis="index")]]
    if columns:
        raise InputError(
            f"table {key!r} lacks numbers in {columns}: {int(holes.to_numpy().sum())} cells are missing, NaN "
            "or infinite; pass dashes=True if values may be missing"
        )


def _as_text(value: object, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return f"{float(value):,.{digits}f}"
    return str(value)


def _markdown(texts: pd.DataFrame, *, name: str, caption: str) -> str:
    """Return a MyST table with number, name and caption; columns of numbers are aligned to the right."""
    is_compact = texts.map(len).max().max() <= _LONGEST_COMPACT
    numeric = [texts[column].map(_looks_numeric).all() for column in texts.columns]
    lines = [
        f"```{{table}} {caption}",
        f":name: {name}",
        *([":class: compact"] if is_compact else []),
        "",
        _row(texts.columns),
        _row("---:" if right else ":---" for right in numeric),
        *(_row(row) for row in texts.itertuples(index=False)),
        "```",
    ]
    return "\n".join(lines)


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _looks_numeric(text: str) -> bool:
    return text == "-" or text.lstrip("-+").replace(",", "").replace(".", "").isdigit() or text[:1].isdigit()


def _plain(key: str, value: object) -> float | int | str:
    """Return a value as one of Python's own types, which `{glue:text}` can format."""
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, numbers.Real):
        raise InputError(f"{key!r} of the prose is a {type(value).__name__}: expected a number or a text")
    if not math.isfinite(value):
        raise InputError(f"number {key!r} of the prose is {float(value)}: expected a finite one")
    return float(value)
