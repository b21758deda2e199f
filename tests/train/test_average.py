"""Moving averages of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iseparate.train.average import MovingAverage, averaged_tensors


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.fill_(value)


def test_the_decay_rises_to_its_value():
    module = network()
    fill(module, 0.0)
    average = MovingAverage(module, 0.5)
    fill(module, 1.0)
    expected = 0.0
    for update in range(1, 12):
        average.update(module)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay)
        assert average.state()["tensors"]["0.weight"].flatten().tolist() == pytest.approx([expected] * 6)


def test_running_statistics_are_averaged_and_counts_are_not():
    module = network()
    kept = MovingAverage(module, 0.9).state()["tensors"]
    assert kept.keys() == module.state_dict().keys() - {"1.num_batches_tracked"}


def test_buffers_that_no_checkpoint_holds_are_left_alone():
    module = network()
    module.register_buffer("window", torch.ones(3), persistent=False)
    assert "window" not in MovingAverage(module, 0.9).state()["tensors"]


def test_applied_and_taken_back():
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    average = MovingAverage(module, 0.9)
    fill(module, 2.0)
    with average.applied(module):
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                assert torch.equal(tensor, before[name])
    assert all((tensor == 2).all() for tensor in module.state_dict().values())
    with pytest.raises(RuntimeError), average.applied(module):
        raise RuntimeError
    assert all((tensor == 2).all() for tensor in module.state_dict().values())


def test_weights_that_two_layers_share_are_swapped_once():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    fill(module, 0.0)
    average = MovingAverage(module, 0.9)
    fill(module, 1.0)
    with average.applied(module):
        assert not module[1].weight.any()
    assert (module[0].weight == 1).all()


def test_kept_and_loaded():
    module = network()
    average = MovingAverage(module, 0.9)
    fill(module, 3.0)
    average.update(module)
    other = MovingAverage(network(), 0.9)
    other.load(average.state())
    fill(module, 5.0)
    average.update(module)
    other.update(module)
    for name, tensor in average.state()["tensors"].items():
        assert torch.equal(tensor, other.state()["tensors"][name])


def test_found_in_a_checkpoint():
    checkpoint = {
        "iseparate": {"averages": ["step-0.9", "epoch-0.5"]},
        "callbacks": {"Averages": {"averages": [{"tensors": {"a": 1}}, {"tensors": {"a": 2}}]}},
    }
    assert averaged_tensors(checkpoint) == {"a": 1}
    assert averaged_tensors(checkpoint, "epoch-0.5") == {"a": 2}
    assert averaged_tensors(checkpoint, "epoch-0.7") is None
    assert averaged_tensors({"iseparate": {"averages": []}}) is None
