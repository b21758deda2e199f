"""One training step: what a batch becomes, and what is minimised.

Everything random is a function of (seed, epoch, batch, process): a run that is taken up again draws what it would
have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from iseparate.data.augment import BATCH_AUGMENTATIONS, Draws, augment
from iseparate.data.loader import Batch
from iseparate.data.track import ACCOMPANIMENT, VOCALS
from iseparate.errors import TrainingError, UsageError
from iseparate.losses import CRITERIA
from iseparate.models._base import SeparationModel
from iseparate.train.figures import Means
from iseparate.train.optimize import OPTIMIZERS, SCHEDULES
from iseparate.train.recipe import Recipe

LAST = "last.ckpt"
_DROPOUT, _REMIX = 1, 2
"""What a stream of random numbers is for: the same seed must not mean the same numbers in two places."""


class TrainingModule(pl.LightningModule):
    """A network in training.

    Args:
        network: the model that is trained.
        recipe: how.
        heard: the stems that make up the mixture, as the batches bring them.
        samples: length of an example, when batches have been augmented.
    """

    def __init__(self, network: SeparationModel, recipe: Recipe, heard: Sequence[str], samples: int):
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.criterion = CRITERIA[recipe.loss.name](**recipe.loss.arguments)
        self.figures: dict[str, float] = {}
        """Of the present epoch, as far as it has come: ``train/loss``, ``valid/loss``, ``valid/score``, ..."""
        self.last_loss = math.nan
        self._samples = samples
        self._batch_augmentations = [BATCH_AUGMENTATIONS[p.name](**p.arguments) for p in recipe.data.batch_augment]
        self._sums = sums_of(network.trained_stems, heard)
        self._train, self._valid = Means(), Means()
        self._watched: Any = None
        self._watched_state: Any = None

    def on_train_epoch_start(self) -> None:  # not called where an epoch is taken up in its middle
        self.figures, self._train = {}, Means()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        seed, rank, world = self.recipe.loop.seed, self.global_rank, self.trainer.world_size
        # Dropout and the like draw from PyTorch's own generator.
        torch.manual_seed(int(Draws(seed, _DROPOUT, self.current_epoch, batch_idx, rank).integers((), 0, 2**62)))
        stems = batch.stems
        if self._batch_augmentations:
            draws = Draws(seed, _REMIX, self.current_epoch, batch_idx, rank=rank, world=world)
            stems = augment(self._batch_augmentations, stems, self.network.spec.sample_rate, draws, self._samples)
        mix = stems.sum(1) if self._batch_augmentations else batch.mix()
        parts = self.network.training_loss(mix, self.references(stems), self.criterion)
        values = dict(
            zip(parts, torch.stack([part.detach().double() for part in parts.values()]).tolist(), strict=True)
        )
        self.last_loss = values["loss"]
        if not math.isfinite(self.last_loss):
            raise TrainingError(
                f"the loss became {self.last_loss} at step {self.global_step} (epoch {self.current_epoch + 1}, batch "
                f"{batch_idx + 1}); {self._what_is_left()}; start anew with a lower optimizer.lr, or with a "
                "loop.clip_norm"
            )
        self._train.add(values, len(stems))
        return parts["loss"]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        del outputs, batch, batch_idx
        if self.trainer.is_last_batch:
            self.figures |= {f"train/{name}": value for name, value in self._train.means(self._over_all).items()}

    def on_validation_epoch_start(self) -> None:
        self._valid = Means()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        del batch_idx
        parts = self.network.training_loss(batch.mix(), self.references(batch.stems), self.criterion)
        self._valid.add({name: float(value) for name, value in parts.items()}, len(batch.stems))

    def on_validation_epoch_end(self) -> None:
        self.figures |= {f"valid/{name}": value for name, value in self._valid.means(self._over_all).items()}

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = OPTIMIZERS[recipe.optimizer.name](parameters, **recipe.optimizer.arguments)
        schedule = SCHEDULES[recipe.schedule.name](optimizer, **recipe.schedule.arguments)
        if schedule.watches:
            self._watched = schedule.scheduler  # moved by `move_schedule`, when the value is there
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule.scheduler, "interval": schedule.interval},
        }

    def move_schedule(self, value: float) -> None:
        """Tell a schedule that watches how good the network is; less is better. Once an epoch."""
        if self._watched is not None:
            self._watched.step(value)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        bad = [n for n, t in self.network.state_dict().items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if bad:
            raise TrainingError(
                f"the weights of {bad[0]} are no numbers any more at step {self.global_step}; {self._what_is_left()}; "
                "start anew with a lower optimizer.lr, or with a loop.clip_norm"
            )
        checkpoint["figures"] = {
            "now": dict(self.figures),
            "train": self._train.state(self._over_all, self.trainer.world_size),
        }
        if self._watched is not None:
            checkpoint["watched_schedule"] = self._watched.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.figures = dict(checkpoint["figures"]["now"])
        self._train.load(checkpoint["figures"]["train"])
        self._watched_state = checkpoint.get("watched_schedule")

    def on_fit_start(self) -> None:
        if self._watched is not None and self._watched_state is not None:
            self._watched.load_state_dict(self._watched_state)

    def references(self, stems: Tensor) -> Tensor:
        """The trained stems ``[B, S, C, n]``, each a sum of those that are heard."""
        return torch.stack([stems[:, list(parts)].sum(1) for parts in self._sums], 1)

    def _over_all(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.trainer.world_size == 1:
            return numbers
        # Apple's devices know no float64, and have no processes to share with.
        total = self.trainer.strategy.reduce(numbers.to(self.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.cpu()

    def _what_is_left(self) -> str:
        last = Path(self.trainer.default_root_dir) / LAST
        return f"{last} is whole, from before" if last.exists() else "no checkpoint was written yet"


def sums_of(trained: Sequence[str], heard: Sequence[str]) -> list[tuple[int, ...]]:
    """Which of the stems that are heard make up each that is trained.

    Raises:
        UsageError: one has none.
    """
    sums: list[tuple[int, ...]] = []
    for stem in trained:
        if stem in heard:
            sums.append((list(heard).index(stem),))
        elif stem == ACCOMPANIMENT and VOCALS in heard:
            sums.append(tuple(i for i, name in enumerate(heard) if name != VOCALS))
        else:
            raise UsageError(
                f"the network is trained for {stem}, which the data has not: its stems are {', '.join(heard)}; choose "
                "other data or another recipe"
            )
    return sums
