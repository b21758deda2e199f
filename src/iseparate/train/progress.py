"""How far a training is, told after each batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


@dataclass(frozen=True)
class TrainingProgress:
    """Epochs and batches are counted from 1."""

    epoch: int
    epochs: int | None
    """None: until the steps are done."""
    batch: int
    batches: int
    loss: float
    """Of the last batch."""
    judging: bool = False
    """True while the network is being validated."""


class Teller(Callback):
    """Calls `tell` with a `TrainingProgress`, in the first process."""

    def __init__(self, tell: Callable[[TrainingProgress], None], epochs: int | None):
        self._tell, self._epochs = tell, epochs
        self._batch = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch
        self._batch = batch_idx + 1
        self._say(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say(trainer, pl_module, judging=True)

    def _say(self, trainer: Trainer, pl_module: LightningModule, judging: bool = False) -> None:
        if not trainer.is_global_zero:
            return
        loss: float = pl_module.last_loss  # type: ignore[assignment]
        batches = int(trainer.num_training_batches)
        self._tell(TrainingProgress(trainer.current_epoch + 1, self._epochs, self._batch, batches, loss, judging))
