"""Which checkpoints are kept, and when a training ends early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from iseparate.train.module import LAST, TrainingModule

SAVE_MINUTES = 10.0


@dataclass(frozen=True)
class Choice:
    """By what checkpoints are chosen."""

    figure: str
    """Such as ``valid/loss``; see `TrainingModule.figures`."""
    more_is_better: bool = False

    def value(self, figures: Mapping[str, float]) -> float | None:
        """Less is better; None in an epoch without it, infinite where it is no number."""
        if self.figure not in figures:
            return None
        value = -figures[self.figure] if self.more_is_better else figures[self.figure]
        return value if math.isfinite(value) else math.inf


class StoppedError(Exception):
    """The user asked for the end, and everything is saved."""


class Keeper(Callback):
    """Writes ``last.ckpt`` at the end of each epoch and every few minutes, and the best ones; stops early.

    Args:
        folder: where checkpoints lie.
        about: see `iseparate.train.checkpoint.about`.
        choice: what tells which is best; schedules that watch look at it too.
        keep_best: how many of the best are kept, 0 or more.
        patience_epochs: without improvement, after which training ends; None: never.
        save_minutes: between two saves within an epoch.
        stop: asked after each batch whether the user wants to stop: then one more save, and an end.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        *,
        choice: Choice,
        keep_best: int = 1,
        patience_epochs: int | None = None,
        save_minutes: float = SAVE_MINUTES,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.folder = folder
        self._about = dict(about)
        self._choice, self._keep, self._patience = choice, keep_best, patience_epochs
        self._save_seconds = 60 * save_minutes
        self._stop = stop
        self._saved_at = time.monotonic()
        self._since_best = 0
        self._last_value: float | None = None
        self._best_value: float | None = None
        self.epochs = 0
        """That are finished."""
        self.best: list[tuple[float, str]] = []
        """Values (less is better) and names of the best checkpoints, the best first."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        trainer.should_stop = self._out_of_patience()  # a run that ended early is not taken up by accident

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch, pl_module
        if trainer.is_last_batch:
            return  # the epoch's end is about to save
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients are waiting, which a checkpoint does not hold
        at_the_end = trainer.max_steps > 0 and trainer.global_step >= trainer.max_steps
        due = at_the_end or time.monotonic() - self._saved_at > self._save_seconds
        # All processes must do the same, so the first one's word counts.
        due, stop = trainer.strategy.broadcast((due, self._stop()))
        if due or stop:
            self._save_last(trainer)
        if stop:
            raise StoppedError

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if not trainer.is_last_batch:
            return  # max_steps ended it, and it was saved where it stood
        self.epochs = trainer.current_epoch + 1
        value = self._choice.value(pl_module.figures)
        replaced: list[str] = []
        if value is not None:
            self._last_value = value
            improved = self._best_value is None or value < self._best_value
            self._best_value = value if improved else self._best_value
            self._since_best = 0 if improved else self._since_best + 1
        elif self._last_value is not None:  # patience is counted in epochs, validated or not
            self._since_best += 1
        if self._last_value is not None:
            pl_module.move_schedule(self._last_value)
        if value is not None:
            replaced = self._keep_if_good(trainer, value)
        self._save_last(trainer)
        for name in replaced:  # only now does no checkpoint name them any more
            (self.folder / Path(name).name).unlink(missing_ok=True)
        if self._out_of_patience():
            trainer.should_stop = True
        if trainer.strategy.broadcast(self._stop()):
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, TrainingModule)
        # In the middle of an epoch nothing is known of these very weights.
        scores = dict(pl_module.figures) if trainer.is_last_batch else {}
        checkpoint["iseparate"] = {**self._about, "scores": scores}

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": [list(pair) for pair in self.best],
            "since_best": self._since_best,
            "last_value": self._last_value,
            "best_value": self._best_value,
            "epochs": self.epochs,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = [(float(value), str(name)) for value, name in state_dict["best"]]
        self._since_best = int(state_dict["since_best"])
        self.epochs = int(state_dict["epochs"])
        self._last_value, self._best_value = state_dict["last_value"], state_dict["best_value"]

    def _out_of_patience(self) -> bool:
        return self._patience is not None and self._since_best >= self._patience

    def _keep_if_good(self, trainer: Trainer, value: float) -> list[str]:
        """Save it if it is among the best; return what has to go for it."""
        if len(self.best) >= self._keep and (not self.best or value >= self.best[-1][0]):
            return []
        name = f"best-{trainer.current_epoch + 1:04}.ckpt"
        ranked = sorted([*self.best, (value, name)])
        self.best = ranked[: self._keep]
        trainer.save_checkpoint(self.folder / name)
        return [old for _, old in ranked[self._keep :]] if trainer.is_global_zero else []

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self._saved_at = time.monotonic()
