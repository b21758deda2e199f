"""Optimizers and schedules by name."""

from __future__ import annotations

import math

import pytest
import torch

from iseparate.train.optimize import OPTIMIZERS, SCHEDULES


def optimizer(lr: float = 1.0):
    return OPTIMIZERS["sgd"]([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(name: str, count: int, **arguments) -> list[float]:
    """The learning rate at each step or epoch."""
    made = optimizer()
    schedule = SCHEDULES[name](made, **arguments)
    found = []
    for _ in range(count):
        found.append(made.param_groups[0]["lr"])
        made.step()
        schedule.scheduler.step()
    return found


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_downhill(name):
    parameter = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    made = OPTIMIZERS[name]([parameter], lr=0.01)
    before = parameter.square().sum().item()
    for _ in range(20):
        made.zero_grad()
        parameter.square().sum().backward()
        made.step()
    assert parameter.square().sum().item() < before


def test_weight_decay_of_adam_is_in_the_gradient_and_of_adamw_beside_it():
    steps = {}
    for name in ("adam", "adamw"):
        parameter = torch.nn.Parameter(torch.tensor([10.0]))
        made = OPTIMIZERS[name]([parameter], lr=0.1, weight_decay=0.5)
        parameter.grad = torch.tensor([-5.0])  # exactly what L2 takes away
        made.step()
        steps[name] = parameter.item()
    assert steps["adam"] == pytest.approx(10.0)
    assert steps["adamw"] == pytest.approx(10.0 * (1 - 0.1 * 0.5) + 0.1)


def test_constant():
    assert rates("constant", 3) == [1, 1, 1]
    assert rates("constant", 5, warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_step():
    assert rates("step", 5, at_epochs=[2, 4], factor=0.1) == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_exponential():
    assert rates("exponential", 3, factor=0.5) == pytest.approx([1, 0.5, 0.25])
    assert rates("exponential", 5, factor=0.5, every_epochs=2) == pytest.approx([1, 1, 0.5, 0.5, 0.25])


def test_cosine():
    found = rates("cosine", 12, steps=10, floor=0.1)
    assert found[0] == 1
    assert found[5] == pytest.approx(0.1 + 0.9 / 2)
    assert found[10:] == pytest.approx([0.1, 0.1])
    warm = rates("cosine", 12, steps=10, warmup_steps=2)
    assert warm[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert warm[6] == pytest.approx(0.5)
    assert warm[10:] == pytest.approx([0, 0], abs=1e-12)


def test_cosine_restarts():
    found = rates("cosine_restarts", 9, period_steps=2, period_factor=2, height_factor=0.5)
    quarter = [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert found[:6] == pytest.approx([1, 0.5, *(0.5 * q for q in quarter)])
    assert found[6] == pytest.approx(0.25)


def test_cosine_restarts_do_not_go_below_the_floor():
    found = rates("cosine_restarts", 10, period_steps=2, height_factor=0.5, floor=0.2)
    assert found[:6] == pytest.approx([1, 0.6, 0.5, 0.35, 0.25, 0.225])
    assert found[6:] == pytest.approx([0.2] * 4)  # a quarter of the first height and less lies below it


def test_cyclic():
    assert rates("cyclic", 5, lowest=0.2, period_epochs=4) == pytest.approx([1, 0.6, 0.2, 0.6, 1])


@pytest.mark.parametrize("above", [0.0, 2.5, 100.0])
def test_plateau_moves_by_the_value(above):
    """Also where less is better below 0, as of losses in dB."""
    made = optimizer()
    schedule = SCHEDULES["plateau"](made, factor=0.5, patience_epochs=1, cooldown_epochs=0)
    assert schedule.watches
    found = []
    for value in (3.0 - above, 2.0 - above, 2.0 - above, 2.0 - above, 1.0 - above, 1.0 - above, 1.0 - above):
        schedule.scheduler.step(value)
        found.append(made.param_groups[0]["lr"])
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("constant", {"warmup_steps": -1}),
        ("step", {"at_epochs": [3, 2]}),
        ("step", {"at_epochs": [0]}),
        ("step", {"at_epochs": []}),
        ("step", {"at_epochs": [1], "factor": 0}),
        ("exponential", {"factor": -1}),
        ("exponential", {"factor": 0.5, "every_epochs": 0}),
        ("plateau", {"factor": 1.5}),
        ("plateau", {"patience_epochs": -1}),
        ("cosine", {"steps": 0}),
        ("cosine", {"steps": 5, "warmup_steps": 5}),
        ("cosine", {"steps": 5, "floor": 2}),
        ("cosine_restarts", {"period_steps": 0}),
        ("cosine_restarts", {"period_steps": 5, "period_factor": 0.5}),
        ("cosine_restarts", {"period_steps": 5, "floor": 1.5}),
        ("cyclic", {"lowest": -0.5}),
        ("cyclic", {"lowest": 0.5, "period_epochs": 1}),
    ],
)
def test_schedules_refuse_what_makes_no_sense(name, arguments):
    with pytest.raises(ValueError, match="expected"):
        SCHEDULES[name](optimizer(), **arguments)


@pytest.mark.parametrize("arguments", [{"lr": 0.0}, {"lr": -1.0}, {"lr": math.inf}, {"lr": 1.0, "weight_decay": -1.0}])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizers_refuse_what_makes_no_sense(name, arguments):
    with pytest.raises(ValueError, match="expected"):
        OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(1))], **arguments)
