"""Optimizers and schedules by the names that recipes use.

What a recipe gives are the keyword-only arguments; the parameters, or the optimizer, come from the loop. All raise
ValueError for numbers out of their range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, MultiStepLR, ReduceLROnPlateau

Parameters = Iterable[nn.Parameter]


@dataclass(frozen=True)
class Schedule:
    """A schedule, and when it moves."""

    scheduler: Any
    """A ``torch.optim.lr_scheduler``."""
    interval: Literal["step", "epoch"] = "epoch"
    watches: bool = False
    """True where it moves by the value that checkpoints are chosen by."""


def adam(
    parameters: Parameters, *, lr: float, beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.0
) -> Optimizer:
    """Adam; the weight decay is added to the gradient (L2), as the literature before 2019 means it."""
    _check_optimizer(lr, weight_decay, beta1=beta1, beta2=beta2)
    return torch.optim.Adam(parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def adamw(
    parameters: Parameters, *, lr: float, beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.01
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""
    _check_optimizer(lr, weight_decay, beta1=beta1, beta2=beta2)
    return torch.optim.AdamW(parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def radam(
    parameters: Parameters, *, lr: float, beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.0
) -> Optimizer:
    """Rectified Adam (Liu et al., ICLR 2020)."""
    _check_optimizer(lr, weight_decay, beta1=beta1, beta2=beta2)
    return torch.optim.RAdam(parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def rmsprop(parameters: Parameters, *, lr: float, alpha: float = 0.99, weight_decay: float = 0.0) -> Optimizer:
    """RMSprop."""
    _check_optimizer(lr, weight_decay, alpha=alpha)
    return torch.optim.RMSprop(parameters, lr=lr, alpha=alpha, weight_decay=weight_decay)


def sgd(parameters: Parameters, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> Optimizer:
    """Stochastic gradient descent."""
    _check_optimizer(lr, weight_decay, momentum=momentum)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


def constant(optimizer: Optimizer, *, warmup_steps: int = 0) -> Schedule:
    """The rate given, after a linear rise over the first steps."""
    _check("warmup_steps", warmup_steps, 0)
    return Schedule(LambdaLR(optimizer, lambda step: _warmth(step, warmup_steps)), "step")


def step(optimizer: Optimizer, *, at_epochs: list[int], factor: float = 0.1) -> Schedule:
    """Times `factor` after each of these epochs."""
    _check("factor", factor, 0, above=True)
    if not at_epochs or min(at_epochs) < 1 or sorted(set(at_epochs)) != at_epochs:
        raise ValueError(f"at_epochs is {at_epochs}: expected rising numbers from 1 on")
    return Schedule(MultiStepLR(optimizer, at_epochs, factor))


def exponential(optimizer: Optimizer, *, factor: float, every_epochs: int = 1) -> Schedule:
    """Times `factor` every so many epochs."""
    _check("factor", factor, 0, above=True)
    _check("every_epochs", every_epochs, 1)
    if every_epochs == 1:
        return Schedule(ExponentialLR(optimizer, factor))
    return Schedule(LambdaLR(optimizer, lambda epoch: factor ** (epoch // every_epochs)))


def plateau(
    optimizer: Optimizer, *, factor: float = 0.3, patience_epochs: int = 80, cooldown_epochs: int = 10
) -> Schedule:
    """Times `factor` when the value that checkpoints are chosen by has not improved for so many epochs."""
    _check("factor", factor, 0, 1, above=True)
    _check("patience_epochs", patience_epochs, 0)
    _check("cooldown_epochs", cooldown_epochs, 0)
    scheduler = _Plateau(optimizer, factor=factor, patience=patience_epochs, cooldown=cooldown_epochs)
    return Schedule(scheduler, watches=True)


class _Plateau(ReduceLROnPlateau):
    """PyTorch's, but for values below 0, such as losses in dB: there it takes one slightly worse for an improvement."""

    def _is_better(self, a: float, best: float) -> bool:
        least = self.threshold * abs(best) if math.isfinite(best) else 0.0
        return a < best - least


def cosine(optimizer: Optimizer, *, steps: int, warmup_steps: int = 0, floor: float = 0.0) -> Schedule:
    """Half a cosine over `steps`, down to `floor` times the rate, after a linear rise (Loshchilov and Hutter 2017)."""
    _check("steps", steps, 1)
    _check("warmup_steps", warmup_steps, 0, steps - 1)
    _check("floor", floor, 0, 1)

    def factor(step: int) -> float:
        progress = min(1.0, max(0, step - warmup_steps) / max(1, steps - warmup_steps))
        return _warmth(step, warmup_steps) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))

    return Schedule(LambdaLR(optimizer, factor), "step")


def cosine_restarts(
    optimizer: Optimizer,
    *,
    period_steps: int,
    period_factor: float = 1.0,
    height_factor: float = 1.0,
    floor: float = 0.0,
) -> Schedule:
    """Half a cosine down to `floor` times the rate, again and again (SGDR, Loshchilov and Hutter 2017).

    Each period and each height is so much that of the one before; a height below the floor stays there.
    """
    _check("period_steps", period_steps, 1)
    _check("period_factor", period_factor, 1)
    _check("height_factor", height_factor, 0, above=True)
    _check("floor", floor, 0, 1)

    def factor(step: int) -> float:
        start, length, height = 0.0, float(period_steps), 1.0
        while step >= start + length:
            start, length, height = start + length, length * period_factor, height * height_factor
        above = max(0.0, height - floor)
        return floor + above * 0.5 * (1 + math.cos(math.pi * (step - start) / length))

    return Schedule(LambdaLR(optimizer, factor), "step")


def cyclic(optimizer: Optimizer, *, lowest: float, period_epochs: int = 2) -> Schedule:
    """From the rate down to `lowest` times it and back, in straight lines (Smith 2017)."""
    _check("lowest", lowest, 0, 1)
    _check("period_epochs", period_epochs, 2)

    def factor(epoch: int) -> float:
        place = (epoch % period_epochs) / period_epochs
        return lowest + (1 - lowest) * abs(2 * place - 1)

    return Schedule(LambdaLR(optimizer, factor))


def _check_optimizer(lr: float, weight_decay: float, **shares: float) -> None:
    _check("lr", lr, 0, above=True)
    _check("weight_decay", weight_decay, 0)
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value:g}: expected 0 or more, and less than 1")


def _check(name: str, value: float, least: float, most: float = math.inf, above: bool = False) -> None:
    """Raise ValueError for a number out of its range; with `above` it must be more than the least."""
    if not math.isfinite(value) or not least <= value <= most or (above and value == least):
        low = f"more than {least:g}" if above else f"{least:g} or more"
        raise ValueError(
            f"{name} is {value:g}: expected {low}" + (f", and at most {most:g}" if most < math.inf else "")
        )


def _warmth(step: int, warmup_steps: int) -> float:
    return 1.0 if step >= warmup_steps else (step + 1) / (warmup_steps + 1)


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "radam": radam,
    "rmsprop": rmsprop,
    "sgd": sgd,
}
SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step,
    "exponential": exponential,
    "plateau": plateau,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "cyclic": cyclic,
}
