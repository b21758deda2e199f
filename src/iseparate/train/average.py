"""Moving averages of the weights, which often score better than the weights themselves.

Source: Polyak and Juditsky 1992; Demucs v3 (Défossez 2021) keeps several, per step and per epoch, and takes the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from iseparate.train.recipe import AverageRecipe


class MovingAverage:
    """An exponential moving average of a network's floating-point tensors: parameters and running statistics.

    Early on a fixed decay would average in the random start: it is capped at ``(1 + n) / (10 + n)`` after n updates.
    """

    def __init__(self, network: nn.Module, decay: float):
        self._decay = decay
        self._updates = 0
        self._kept = {name: tensor.detach().clone() for name, tensor in _averaged(network)}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the present weights."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for name, tensor in _averaged(network):
            self._kept[name].lerp_(tensor, 1 - decay)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """The network with the averaged weights, for as long as the block lasts."""
        self._swap(network)
        try:
            yield
        finally:
            self._swap(network)

    @torch.no_grad()
    def _swap(self, network: nn.Module) -> None:
        for name, tensor in _averaged(network):
            kept = self._kept[name]
            present = tensor.clone()
            tensor.copy_(kept)
            kept.copy_(present)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"updates": self._updates, "tensors": self._kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._updates = int(state["updates"])
        for name, kept in self._kept.items():
            kept.copy_(state["tensors"][name])


def _averaged(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What is averaged, under its name in the state dict: all but whole numbers, such as counts of batches."""
    kept = network.state_dict().keys()
    tensors = chain(network.named_parameters(), network.named_buffers())  # each once, though two names may share it
    return ((name, t.detach()) for name, t in tensors if name in kept and t.is_floating_point())


class Averages(Callback):
    """Keeps the averages of a recipe up to date and puts them into checkpoints. The first is what is validated."""

    def __init__(self, recipes: Sequence[AverageRecipe]):
        self._recipes = recipes
        self._averages: list[MovingAverage] = []
        self._seen_steps = 0
        self._loaded: Sequence[Mapping[str, Any]] | None = None
        self._swapped: AbstractContextManager[None] | None = None

    def names(self) -> tuple[str, ...]:
        """One word per average, such as ``step-0.999``."""
        return tuple(f"{recipe.every}-{recipe.decay:g}" for recipe in self._recipes)

    def all(self) -> Mapping[str, MovingAverage]:
        """The averages by name."""
        return dict(zip(self.names(), self._averages, strict=True))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer
        network = _network(pl_module)
        self._averages = [MovingAverage(network, recipe.decay) for recipe in self._recipes]
        if self._loaded is not None:
            for average, state in zip(self._averages, self._loaded, strict=True):
                average.load(state)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        self._seen_steps = trainer.global_step  # known only after `on_fit_start`, where a run is taken up again

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch, batch_idx
        if trainer.global_step != self._seen_steps:  # a batch that is only accumulated moves nothing
            self._seen_steps = trainer.global_step
            self._update("step", pl_module)
        if trainer.is_last_batch:  # before validation, which comes before the hook for an epoch's end
            self._update("epoch", pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer
        if self._averages:
            self._swapped = self._averages[0].applied(_network(pl_module))
            self._swapped.__enter__()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        if self._swapped is not None:
            self._swapped.__exit__(None, None, None)
            self._swapped = None

    def state_dict(self) -> dict[str, Any]:
        return {"averages": [average.state() for average in self._averages]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict["averages"]

    def _update(self, every: str, pl_module: LightningModule) -> None:
        for recipe, average in zip(self._recipes, self._averages, strict=True):
            if recipe.every == every:
                average.update(_network(pl_module))


def averaged_tensors(checkpoint: Mapping[str, Any], name: str | None = None) -> Mapping[str, Tensor] | None:
    """The tensors of an average in a checkpoint, by their names in the network's state dict; None where there is none.

    Args:
        checkpoint: as `iseparate.train.checkpoint.read_checkpoint` reads it.
        name: such as ``step-0.999``; None: the first, which is what was validated.
    """
    names = list(checkpoint["iseparate"]["averages"])
    if not names or (name is not None and name not in names):
        return None
    kept = checkpoint["callbacks"][Averages.__qualname__]["averages"]
    found: Mapping[str, Tensor] = kept[0 if name is None else names.index(name)]["tensors"]
    return found


def _network(pl_module: LightningModule) -> nn.Module:
    network = pl_module.network
    assert isinstance(network, nn.Module)
    return network
