"""Time of D3Net's vocals network on one patch: ours against the same network written out plainly.

    python bench/d3net.py [--runs 3] [--threads N]

Runs alternate, so that what else the machine does falls on all alike; the best of each is taken. The processor's peak
is that of a product of two square matrices, measured in the same run. Writes ``bench/results/d3net.md``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import report
from iseparate.models.d3net import PUBLISHED, TargetNetwork
from plain_d3net import PlainD3Net

SHAPE = (1, 2, 256, 2049)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours, plain = networks()
    magnitudes = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        expected = plain(magnitudes)
    work = counter.get_total_flops()
    candidates = [
        (name, precision, network)
        for precision in PRECISIONS
        for name, network in (("plain", plain), ("plain, channels last", LastChannels(plain)), ("ours", ours))
    ]
    errors = {(n, p): (run(network, p, magnitudes) - expected).abs().max().item() for n, p, network in candidates}
    best = {key: float("inf") for key in errors}
    peaks = dict.fromkeys(PRECISIONS, 0.0)
    for _ in range(options.runs):
        for name, precision, network in candidates:
            best[name, precision] = min(best[name, precision], seconds(lambda: run(network, precision, magnitudes)))  # noqa: B023
            peaks[precision] = max(peaks[precision], matrix_speed(PRECISIONS[precision]))
    rows = [
        {
            "network": name,
            "precision": precision,
            "seconds": f"{best[name, precision]:.2f}",
            "GFLOP/s": f"{work / best[name, precision] / 1e9:.0f}",
            "share of peak": f"{work / best[name, precision] / peaks[precision]:.0%}",
            "times plain fp32": f"{best['plain', 'fp32'] / best[name, precision]:.2f}",
            "largest error": f"{errors[name, precision]:.1e}",
        }
        for name, precision in best
    ]
    notes = [
        f"one patch of magnitudes {list(SHAPE)}, {work / 1e9:.0f} GFLOP; the patches of a song overlap by half",
        f"{options.threads} threads, the best of {options.runs} runs, which alternate",
        "peak: " + ", ".join(f"{p} {speed / 1e9:.0f} GFLOP/s" for p, speed in peaks.items()),
        "random weights, scaled by fan-in",
    ]
    report.write("d3net", "D3Net's vocals network: ours and the same written out plainly", notes, rows)


class LastChannels(nn.Module):
    """A network with its input and weights in the other memory format."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = PlainD3Net(network.sizes)
        self.network.load_state_dict(network.state_dict())
        self.eval().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))


def networks() -> tuple[TargetNetwork, PlainD3Net]:
    """Both with the same weights, lively but so scaled that activations stay near one."""
    torch.manual_seed(0)
    (sizes,) = PUBLISHED["d3net-vocals"].networks
    ours, plain = TargetNetwork(sizes, 2, "multi").eval(), PlainD3Net(sizes).eval()
    for part in ours.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, std=0.7 / part.weight[0].numel() ** 0.5)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            part.running_mean.normal_(std=0.3)
            part.running_var.uniform_(0.5, 1.5)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def run(network: nn.Module, precision: str, magnitudes: Tensor) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        output: Tensor = network(magnitudes)
    return output.float()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_speed(dtype: torch.dtype, size: int = 2048) -> float:
    """Operations per second in a product of two matrices, a multiplication and an addition counting as two."""
    a, b = torch.rand(2, size, size).to(dtype)
    return max(2 * size**3 / seconds(lambda: a @ b) for _ in range(3))


if __name__ == "__main__":
    main()
