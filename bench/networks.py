"""How near each published system's networks come to what this processor can do.

    python bench/networks.py [--seconds 12] [--only NAME ...]

For every system of `iseparate models systems`: the multiplications and additions of its whole forward pass over some
seconds of noise (counted by PyTorch; recurrent layers, which it does not count, by their sizes), the best time
of a few passes in fp32 and bf16 with random weights, and the share of the peak, which is what a large matrix product
reaches in the same run. Spectra, filters and overlap are in the time but not in the count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

import report
from iseparate.engine.backend import choose_backend
from iseparate.engine.memory import reuse_large_blocks
from iseparate.models._base import SeparationModel
from iseparate.weights.load import build_model
from iseparate.weights.systems import published_systems

PASSES = 3
ENOUGH_SECONDS = 5.0  # of passes: long ones need no repetition


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--only", nargs="*", help="names of systems")
    options = parser.parse_args()
    reuse_large_blocks()
    peaks = {"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    rows = []
    for system in published_systems():
        if options.only and system.name not in options.only:
            continue
        model = build_model(system.name).eval()
        mix = torch.rand(1, model.spec.channels, round(options.seconds * model.spec.sample_rate)) - 0.5
        operations = count(model, mix)
        row = {"system": system.name, "GFLOP": f"{operations / 1e9:.0f}"}
        for precision, best in peaks.items():
            model = choose_backend("cpu", precision).prepare(build_model(system.name))  # type: ignore[arg-type]
            seconds = best_time(partial(model, mix))
            row |= {
                f"{precision} s": f"{seconds:.2f}",
                f"{precision} × real time": f"{options.seconds / seconds:.1f}",
                f"{precision} share of peak": f"{operations / seconds / best:.0%}",
            }
        rows.append(row)
        print(row, flush=True)
    report.write(
        "networks",
        f"Networks on {options.seconds:g} s of sound",
        [
            f"`python bench/networks.py --seconds {options.seconds:g}`: whole forward passes, random weights, best of "
            f"up to {PASSES}; recurrent and elementwise work counts little and takes time.",
            f"Peak, in the same run: fp32 {peaks['fp32'] / 1e9:.0f}, bf16 {peaks['bf16'] / 1e9:.0f} GFLOP/s.",
        ],
        rows,
    )


def count(model: SeparationModel, mix: torch.Tensor) -> int:
    """Multiplications and additions of one pass."""
    recurrent = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: object) -> None:
        nonlocal recurrent
        assert isinstance(module, nn.RNNBase)
        x = inputs[0]
        steps = x.shape[0] * x.shape[1]  # batch and time, in either order
        weights = sum(p.numel() for name, p in module.named_parameters() if "weight" in name)
        recurrent += 2 * steps * weights

    for module in model.modules():  # PyTorch's counter stumbles over parametrised weights
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.RNNBase)]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(mix)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() + recurrent


def peak(dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    matrix = torch.rand(2048, 2048).to(dtype)
    return 2 * 2048**3 / best_time(lambda: matrix @ matrix, passes=8)


def best_time(work: Callable[[], object], passes: int = PASSES) -> float:
    with torch.inference_mode():
        work()
        times = []
        for _ in range(passes):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
            if sum(times) > ENOUGH_SECONDS:
                break
    return min(times)


if __name__ == "__main__":
    main()
