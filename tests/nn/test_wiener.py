"""Against the formulas written out point by point, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iseparate.nn.wiener import expectation_maximisation, softmask, wiener

EPS = float(np.finfo(np.float64).eps)


def spectra(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def one_step(sources, mix, eps):
    """One EM step: spatial covariances, then the multichannel Wiener gain of each source at each point."""
    count, channels, frames, bins = sources.shape
    power = (np.abs(sources) ** 2).mean(1)
    found = np.zeros_like(sources)
    for f in range(bins):
        covariances = []
        for j in range(count):
            outer = sum(np.outer(sources[j, :, t, f], sources[j, :, t, f].conj()) for t in range(frames))
            covariances.append(outer / (eps + power[j, :, f].sum()))
        for t in range(frames):
            total = np.sqrt(eps) * np.eye(channels) + sum(power[j, t, f] * covariances[j] for j in range(count))
            for j in range(count):
                gain = power[j, t, f] * covariances[j] @ np.linalg.inv(total)
                found[j, :, t, f] = gain @ mix[:, t, f]
    return found


@pytest.mark.parametrize(("count", "channels"), [(2, 2), (4, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize("iterations", [1, 3])
def test_em_follows_the_formulas(count, channels, iterations):
    sources = spectra(count, channels, 5, 4)
    mix = sources.sum(0) + 0.1 * spectra(channels, 5, 4, seed=1)
    expected = sources.numpy()
    for _ in range(iterations):
        expected = one_step(expected, mix.numpy(), 1e-10)
    found = expectation_maximisation(sources, mix, iterations, 1e-10).numpy()
    assert np.abs(found - expected).max() < 1e-9


def test_em_estimates_nearly_sum_to_the_mixture():
    sources = spectra(3, 2, 6, 4)
    mix = spectra(2, 6, 4, seed=5)
    assert (expectation_maximisation(sources, mix, 2, EPS).sum(0) - mix).abs().max() < 1e-5


def test_no_iterations_change_nothing():
    sources = spectra(2, 2, 3, 3)
    assert torch.equal(expectation_maximisation(sources, sources.sum(0), 0, EPS), sources)


def test_the_softmask_shares_the_mixture_out():
    mix = spectra(2, 4, 3)
    found = softmask(torch.stack([torch.full((2, 4, 3), 3.0), torch.full((2, 4, 3), 1.0)]).double(), mix, EPS)
    assert torch.allclose(found[0], 0.75 * mix)
    assert torch.allclose(found[1], 0.25 * mix)


def test_without_the_softmask_magnitudes_take_the_mixtures_phase():
    mix, magnitudes = spectra(2, 4, 3), torch.rand(2, 2, 4, 3, dtype=torch.float64)
    found = wiener(magnitudes, mix, iterations=0, use_softmask=False)
    assert torch.allclose(found.abs(), magnitudes)
    assert torch.allclose(found[1].angle(), mix.angle())


def test_true_magnitudes_are_improved_upon_by_em():
    """Two sources, each from a direction of its own: what EM is for, and what a mask alone cannot tell apart."""
    directions = torch.tensor([[1.0, 0.1], [0.2, 1.0]], dtype=torch.float64)
    mono = spectra(2, 1, 60, 5)
    sources = mono * directions[:, :, None, None]
    mix = sources.sum(0)
    errors = [(wiener(sources.abs(), mix, n) - sources).abs().square().mean() for n in (0, 1, 4)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < errors[1]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_loud_spectra_are_scaled_before_em_and_back(scale):
    """Full scale at 4096 points a frame is thousands; the regularisation is absolute."""
    mix, magnitudes = scale * spectra(2, 6, 4), scale * torch.rand(2, 2, 6, 4, dtype=torch.float64)
    found = wiener(magnitudes, mix, 1)
    down = max(1.0, mix.abs().max().item() / 10)
    start = softmask(magnitudes, mix, EPS).numpy() / down
    assert np.abs(found.numpy() / down - one_step(start, mix.numpy() / down, EPS)).max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_silence_stays_silence(dtype, iterations):
    mix = torch.zeros(2, 4, 3, dtype=dtype)
    found = wiener(torch.zeros(3, 2, 4, 3, dtype=mix.real.dtype), mix, iterations)
    assert found.shape == (3, 2, 4, 3)
    assert not found.abs().any()
