from __future__ import annotations

import math

import pytest
import torch

from iseparate.nn.sinc_resample import SincResampler


def by_definition(x, old, new, zeros=24, rolloff=0.945):
    """One output sample at a time."""
    rate = rolloff * min(old, new)
    reach = math.ceil(zeros * old / rate)
    out = []
    for n in range(len(x) * new // old):
        step, phase = divmod(n, new)
        taps = []
        for k in range(-reach, reach + old):
            t = min(max(rate * (k / old - phase / new), -zeros), zeros)
            sinc = 1.0 if t == 0 else math.sin(math.pi * t) / (math.pi * t)
            taps.append(sinc * math.cos(math.pi * t / (2 * zeros)) ** 2)
        inputs = [x[min(max(step * old + k, 0), len(x) - 1)] for k in range(-reach, reach + old)]
        out.append(sum(a * b for a, b in zip(taps, inputs, strict=True)) / sum(taps))
    return torch.tensor(out)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (3, 2), (88200, 44100)])
@pytest.mark.parametrize("samples", [1, 2, 63, 64, 65, 200])
def test_it_is_the_definition(old, new, samples):
    chance = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, generator=chance)
    ratio = math.gcd(old, new)
    expected = by_definition(x.tolist(), old // ratio, new // ratio)
    ours = SincResampler(old, new)(x)
    assert ours.shape == expected.shape == (samples * new // old,)
    assert torch.allclose(ours, expected.float(), atol=2e-6)


def test_a_constant_stays_one():
    assert torch.allclose(SincResampler(1, 2)(torch.full((2, 3, 100), 0.7)), torch.tensor(0.7), atol=1e-6)


def test_tones_below_the_low_pass_come_back():
    t = torch.arange(4000) / 44100
    tone = torch.sin(2 * math.pi * 5000 * t)
    back = SincResampler(2, 1)(SincResampler(1, 2)(tone))
    assert (back - tone)[100:-100].abs().max() < 1e-3


def test_gradients_are_those_of_a_linear_map():
    down = SincResampler(2, 1).double()
    x = torch.randn(2, 140, dtype=torch.float64, requires_grad=True)
    down(x).pow(2).sum().backward()
    step = torch.zeros_like(x)
    step[1, 70] = 1e-2
    with torch.no_grad():
        change = (down(x + step).pow(2).sum() - down(x - step).pow(2).sum()) / 2e-2
    assert x.grad[1, 70].item() == pytest.approx(change.item(), rel=1e-3)
