"""``metrics.csv``: a row an epoch, for any program that draws."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from iseparate.errors import UsageError
from iseparate.train.module import TrainingModule
from iseparate.whole_file import write_whole

Row = dict[str, str]
"""Figures by name; ``epoch`` counts from 1, as people do."""


class Table(Callback):
    """Writes the table anew after each epoch; rows of epochs that are gone through again are replaced."""

    def __init__(self, path: Path):
        self._path = path
        self.rows: list[Row] = []
        self._started = time.monotonic()
        self._before_seconds = 0.0
        """Of the present epoch, in the run that this one goes on with."""
        self._learning_rate = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        del trainer, pl_module
        checkpoint["epoch_seconds"] = self._seconds()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        del trainer, pl_module
        self._before_seconds = float(checkpoint.get("epoch_seconds", 0.0))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        if trainer.current_epoch and trainer.is_global_zero:
            self.rows = [row for row in read_table(self._path) if _epoch(row) <= trainer.current_epoch]
        self._started = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        del pl_module, batch, batch_idx
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]  # schedules move it before the epoch's end

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if not trainer.is_global_zero or not trainer.is_last_batch:
            return
        row = {
            "epoch": str(trainer.current_epoch + 1),
            "step": str(trainer.global_step),
            "seconds": f"{self._seconds():.1f}",
            "learning_rate": f"{self._learning_rate:.6g}",
        }
        self.rows.append(row | {name: f"{value:.6g}" for name, value in sorted(pl_module.figures.items())})
        self._started, self._before_seconds = time.monotonic(), 0.0
        self._write()

    def _seconds(self) -> float:
        return self._before_seconds + time.monotonic() - self._started

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self._path, text.getvalue())


def read_table(path: Path) -> list[Row]:
    """The rows of ``metrics.csv``, empty figures left out; none where there is no file. UsageError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: value for name, value in row.items() if name and value} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read ({error}); move it away and go on") from error
    return [row for row in rows if _epoch(row)]


def _epoch(row: Row) -> int:
    text = row.get("epoch", "")
    return int(text) if text.isascii() and text.isdigit() else 0
