"""What a chapter puts on its page: numbers for the prose, numbered tables, figures.

Numbers and figures are glued (MyST-NB), so that the text names them by key.
Tables are written as CSV and come out as numbered tables with a caption; a
notebook that is opened in Jupyter shows tables and figures as well.
"""

from __future__ import annotations

import html
import io
import logging
import numbers
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from s2f_lib.errors import InputError
from s2f_lib.provenance import provenance_table
from s2f_lib.study import Study, log_to_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from s2f_lib.config import StudyConfig

_FIGURE_DPI = 200
_LONGEST_COMPACT = 40  # characters of a cell: longer texts may wrap
_NO_NUMBER = re.compile(r"\b(?:nan|inf)\b", re.IGNORECASE)  # also within "nan [nan, nan]"
_GLUED = "application/papermill.record/"  # hides a value that is meant for the prose


class Page:
    """A chapter's page, over the study that it reports.

    Parameters
    ----------
    study
        The run.
    name
        `NN_topic`: tables and figures are files `NN_<key>` in the run's folders.
    """

    def __init__(self, study: Study, name: str) -> None:
        self.study = study
        self.name = name
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
        """Open a run for a chapter, send the package's log lines under the cells, and start the clock.

        The profile's name and the source of the clips are glued as `profile` and `source`.
        """
        log_to_output(logging.INFO)
        page = cls(Study.open(profile, run_dir=run_dir, settings=settings), name)
        kinds = {
            "synthetic": "synthetic people",
            "avspeech": "AVSpeech clips",
            "pairs": "Speech2Face's public pairs",
        }
        kind = page.study.config.source.kind
        page.numbers(profile=page.study.config.profile, source=kinds.get(kind, kind))
        return page

    @property
    def shows_faces(self) -> bool:
        """Whether pictures of people may be on the page: those of generated people alone."""
        return self.study.config.source.kind == "synthetic"

    @property
    def run(self) -> str:
        """How captions name the run: its profile."""
        return f"profile {self.study.config.profile}"

    def shown(self, faces: np.ndarray) -> np.ndarray:
        """Return pictures as the page may show them: grey tiles in the place of real people."""
        return faces if self.shows_faces else np.full_like(faces, 200)

    def spectrogram_voices(self, audio: np.ndarray) -> tuple[np.ndarray, str]:
        """Return voices whose spectrograms may be on the page, and whose they are, for the caption.

        A spectrogram can be turned back into speech: in the place of real people's voices stand
        as many of generated people.

        Parameters
        ----------
        audio
            `(n, samples)` int16 at the preparation's sample rate: the first of the training split.
        """
        if self.shows_faces:
            return audio, "the first of the training split"
        from s2f_lib.sources.synthetic.people import draw_population
        from s2f_lib.sources.synthetic.recordings import resynthesize_speech

        config = self.study.config
        world, rate_hz = config.source.synthetic, config.preparation.sample_rate_hz
        ids = [person.clip_id for person in draw_population(world)][: len(audio)]
        seconds = audio.shape[1] / rate_hz
        voices = resynthesize_speech(world, ids, sample_rate_hz=rate_hz, audio_s=seconds, workers=1)
        return voices, "of generated people, in the place of the real ones of the training split"

    def numbers(self, **values: float | int | str) -> None:
        """Glue values for the prose, each under its name.

        Raises
        ------
        InputError
            A value is neither a number nor a text, or is not finite.
        """
        from IPython.display import display

        for key, value in values.items():
            data = {f"{_GLUED}text/plain": repr(_plain(key, value))}
            display(data, raw=True, metadata={"scrapbook": {"name": key, "mime_prefix": _GLUED}})

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
            Columns are shown as they are named; numbers with `digits` decimals, where
            they are no integers.
        key
            The text refers to it as ``{numref}`tab-KEY```; the file is `NN_KEY.csv`.
        caption
            What was measured, without a full stop.
        n, of
            How many of what the run's numbers are made from: the caption ends with
            this and the profile.  Left out where the numbers are the report's alone.
        dashes
            Something may be missing, and is shown as a dash.

        Raises
        ------
        InputError
            Something is missing that may not be, or a cell holds NaN or infinity as a text.
        """
        from IPython.display import display

        texts = as_texts(table, digits=digits)
        _refuse_holes(table, texts, key=key, dashes=dashes)
        path = self.study.paths.tables / f"{self._number}_{key}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
        if n is not None:
            caption = f"{caption} (this run: n = {n:,} {of}, {self.run})"
        caption += "."
        name = f"tab-{key.replace('_', '-')}"
        data = {
            "text/markdown": _markdown(texts, name=name, caption=caption),
            "text/html": f"<p>{html.escape(caption)}</p>{texts.to_html(index=False)}",
            "text/plain": texts.to_string(index=False),
        }
        display(data, raw=True)

    def figure(self, figure: Figure, *, key: str) -> None:
        """Write a figure as PNG, show it in Jupyter, and glue it as `fig_KEY` for the text."""
        from IPython.display import display

        path = self.study.paths.figures / f"{self._number}_{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_FIGURE_DPI)
        path.write_bytes(buffer.getvalue())
        width_px = round(figure.get_figwidth() * 100)
        data = {"image/png": _base64(buffer.getvalue()), "text/plain": f"figure {key}"}
        metadata = {"scrapbook": {"name": f"fig_{key}", "mime_prefix": ""}, "image/png": {"width": width_px}}
        display(data, raw=True, metadata=metadata)

    def published_runs(self) -> None:
        """Show what longer runs, kept in `book/published`, have for this chapter, each under its name."""
        from IPython.display import display

        from s2f_lib.book.published import published_runs

        runs = published_runs(self.name)
        for run in runs:
            head = run.heading(self.name)
            data = {"text/markdown": f"{head}\n\n{run.shown_in(self.name)}", "text/plain": head}
            display(data, raw=True)
        if not runs:
            nothing = "None is kept for this chapter yet."
            display({"text/markdown": nothing, "text/plain": nothing}, raw=True)

    def provenance(self, config: StudyConfig | None = None) -> None:
        """Show what the page was made with, and glue `wall_min`: the last call of a chapter.

        Parameters
        ----------
        config
            Of a page whose numbers come from other settings than the run's; by default these.
        """
        config = self.study.config if config is None else config
        wall_s = time.perf_counter() - self._started
        self.numbers(wall_min=wall_s / 60)
        table = provenance_table(config, wall_s=wall_s)
        key = f"provenance_{self._number}"
        self.table(table, key=key, caption=f"What this page was made with, {self.run}")

    @property
    def _number(self) -> str:
        return self.name.split("_")[0]


def as_texts(table: pd.DataFrame, *, digits: int = 2) -> pd.DataFrame:
    """Return a table of texts as a reader sees it: numbers rounded, what is missing a dash."""
    return table.apply(lambda column: column.map(lambda value: _as_text(value, digits)))


def _refuse_holes(table: pd.DataFrame, texts: pd.DataFrame, *, key: str, dashes: bool) -> None:
    no_number = texts.map(lambda text: bool(_NO_NUMBER.search(text)))
    holes = no_number if dashes else no_number | table.isna()
    columns = [str(column) for column in table.columns[holes.to_numpy().any(axis=0)]]
    if columns:
        raise InputError(
            f"table {key!r} lacks numbers in {columns}: {int(holes.to_numpy().sum())} cells are missing, NaN "
            "or infinite; say dashes=True where something may be missing"
        )


def _as_text(value: object, digits: int) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return f"{float(value):,.{digits}f}"
    return str(value)


def _markdown(texts: pd.DataFrame, *, name: str, caption: str) -> str:
    """Return a MyST table with number, name and caption; columns of numbers at the right."""
    is_compact = texts.map(len).max().max() <= _LONGEST_COMPACT
    class_line = ":class: compact\n" if is_compact else ""
    numeric = [texts[column].map(_looks_numeric).all() for column in texts.columns]
    lines = [
        _row(str(column) for column in texts.columns),
        _row("---:" if right else ":---" for right in numeric),
        *(_row(row) for row in texts.itertuples(index=False)),
    ]
    return f"```{{table}} {caption}\n:name: {name}\n{class_line}\n" + "\n".join(lines) + "\n```"


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _looks_numeric(text: str) -> bool:
    return text == "-" or text.lstrip("-+").replace(",", "").replace(".", "").isdigit() or text[:1].isdigit()


def _plain(key: str, value: object) -> float | int | str:
    """Return a value of Python's own types, which `{glue:text}` can format."""
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise InputError(f"number {key!r} of the prose is {number}: expected a finite one")
        return number
    raise InputError(f"{key!r} of the prose is a {type(value).__name__}: expected a number or a text")


def _base64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()
