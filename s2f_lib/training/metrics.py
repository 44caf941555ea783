"""The table of metrics: a row an epoch, as CSV, as a log line, and as TensorBoard events where asked."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from s2f_lib.errors import ConfigError

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"


class MetricsLog:
    """Keeps the rows of a run.

    Parameters
    ----------
    folder
        Where `metrics.csv` goes, and `events/` for TensorBoard.
    tensorboard
        Whether events are written.

    Raises
    ------
    ConfigError
        TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self._folder = folder
        self.rows: list[dict[str, float]] = []
        self._writer = _writer(folder / "events") if tensorboard else None

    def add(self, row: dict[str, float], *, epochs: int) -> None:
        """Add an epoch's row, and write and log it."""
        self.rows.append(row)
        self.write()
        epoch = int(row["epoch"])
        logger.info("epoch %d of %d: %s", epoch, epochs, format_metrics(row))
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, epoch)
            self._writer.flush()

    def write(self) -> None:
        """Write the table, whole or not at all."""
        path = self._folder / METRICS_FILE
        temporary = path.with_name(f".{path.name}.tmp")
        self.table().to_csv(temporary, index=False)
        temporary.replace(path)

    def table(self) -> pd.DataFrame:
        """Return the rows so far."""
        return pd.DataFrame(self.rows)

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def format_metrics(row: dict[str, float]) -> str:
    """Return a row as "name value, name value", without the epoch."""
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")


def _writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "tensorboard is on, but the package tensorboard is not installed: "
            'type `pip install "s2f_lib[tensorboard]"`, or leave it off (metrics.csv is written in any case)'
        ) from None
    return SummaryWriter(str(folder))
