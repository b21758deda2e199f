"""Against the formulas written out point by point, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iseparate.errors import UsageError
from iseparate.nn.wiener import (
    WienerRule,
    expectation_maximisation,
    local_gaussian_model,
    residual_magnitude,
    softmask,
    wiener,
    wiener_in_blocks,
)

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
    found = expectation_maximisation(sources, mix, iterations, eps=1e-10).numpy()
    assert np.abs(found - expected).max() < 1e-9


def test_em_estimates_nearly_sum_to_the_mixture():
    sources = spectra(3, 2, 6, 4)
    mix = spectra(2, 6, 4, seed=5)
    assert (expectation_maximisation(sources, mix, 2).sum(0) - mix).abs().max() < 1e-5


def test_no_iterations_change_nothing():
    sources = spectra(2, 2, 3, 3)
    assert torch.equal(expectation_maximisation(sources, sources.sum(0), 0), sources)


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


@pytest.mark.parametrize("rule", WienerRule)
@pytest.mark.parametrize("use_softmask", [False, True])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_silence_stays_silence(dtype, iterations, use_softmask, rule):
    mix = torch.zeros(2, 4, 3, dtype=dtype)
    found = wiener(torch.zeros(3, 2, 4, 3, dtype=mix.real.dtype), mix, iterations, use_softmask, rule=rule)
    assert found.shape == (3, 2, 4, 3)
    assert found.dtype == dtype
    assert not found.abs().any()


def test_a_silent_mixture_gives_nothing_away():
    """Whatever the network thinks it hears: after a step, a source is a filtered mixture."""
    mix = torch.zeros(2, 4, 3, dtype=torch.complex64)
    for rule in (WienerRule.NORBERT, WienerRule.OPEN_UNMIX, WienerRule.SONY):
        assert not wiener(torch.rand(3, 2, 4, 3), mix, 1, False, rule=rule).abs().any()


# Sony's rule


def sony_step(sources, mix):
    """The covariance of the mixture as it is, a floor under the powers, a pseudo-inverse where it is singular."""
    count, _, frames, bins = sources.shape
    found = np.zeros_like(sources)
    singular = 0
    power = (np.abs(sources) ** 2).mean(1)
    power += 1e-10 * power.max((1, 2), keepdims=True)
    for f in range(bins):
        covariances = [
            sources[j, :, :, f] @ sources[j, :, :, f].conj().T / (power[j, :, f].sum() + EPS) for j in range(count)
        ]
        for t in range(frames):
            total = sum(power[j, t, f] * covariances[j] for j in range(count))
            if abs(np.linalg.det(total)) >= 1e-10:
                inverse = np.linalg.inv(total)
            else:
                singular += 1
                inverse = total.conj().T / ((np.abs(total) ** 2).sum() + EPS)
            for j in range(count):
                found[j, :, t, f] = power[j, t, f] * covariances[j] @ inverse @ mix[:, t, f]
    return found, singular / (frames * bins)


@pytest.mark.parametrize(
    ("scale", "mono", "singular"), [(1, 0, 0), (100, 0, 0), (3e-3, 0, 0.5), (1e-4, 0, 1), (1, 1, 1)]
)
def test_sonys_rule_follows_its_formulas(scale, mono, singular):
    mix = scale * spectra(2, 8, 6)
    magnitudes = torch.rand(3, 2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * mix.abs()
    if mono:
        mix, magnitudes = mix[:1].expand(2, -1, -1), magnitudes[:, :1].expand(-1, 2, -1, -1)
    start = (magnitudes * torch.exp(1j * mix.angle())).numpy()
    expected, share = sony_step(start, mix.numpy())
    assert abs(share - singular) < 0.45, "the case should meet the branch it is for"
    found = wiener(magnitudes, mix, 1, use_softmask=False, rule=WienerRule.SONY).numpy()
    assert np.abs(found - expected).max() < 1e-9 * scale


def test_sonys_floor_lies_under_every_frame():
    """A frequency so quiet that the loudest one's floor is most of its power."""
    mix = 1e5 * spectra(2, 8, 6)
    mix[..., 2] *= 1e-6
    magnitudes = torch.rand(3, 2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * mix.abs()
    expected, _ = sony_step((magnitudes * torch.exp(1j * mix.angle())).numpy(), mix.numpy())
    found = wiener(magnitudes, mix, 1, use_softmask=False, rule=WienerRule.SONY).numpy()
    assert np.abs(found - expected)[..., 2].max() < 1e-9


@pytest.mark.parametrize("rule", [WienerRule.NORBERT, WienerRule.SONY])
def test_two_channels_in_closed_form_are_no_special_case(rule, monkeypatch):
    mix, magnitudes = spectra(2, 6, 5), torch.rand(3, 2, 6, 5, dtype=torch.float64)
    found = wiener(magnitudes, mix, 2, rule=rule)
    silent = torch.zeros(1, 6, 5, dtype=mix.dtype)
    # A third channel that is silent leaves the powers a third lower, and the regularised inverse of two as it was.
    padded = torch.cat([sources := softmask(magnitudes, mix, EPS), silent[None].expand(3, -1, -1, -1)], 1)
    power, covariance = local_gaussian_model(padded, EPS)
    assert torch.allclose(power, local_gaussian_model(sources, EPS)[0] * 2 / 3)
    assert torch.allclose(covariance[:, :2, :2], local_gaussian_model(sources, EPS)[1] * 3 / 2)
    assert not covariance[:, 2].abs().any()
    monkeypatch.setattr("iseparate.nn.wiener._Inverse.of_two_channels", lambda self, *args: self.of_any(*args))
    assert torch.allclose(wiener(magnitudes, mix, 2, rule=rule), found, atol=1e-9)


def test_a_panned_mono_mix_is_shared_out_under_sonys_rule():
    """The determinant is rounding noise and, at the level of real spectra, far above the rule's own threshold."""
    mono = 1000 * spectra(1, 12, 6)
    direction = torch.tensor([0.7, 0.3], dtype=torch.float64)[:, None, None]
    mix = mono * direction
    shares = torch.tensor([0.2, 0.8], dtype=torch.float64)[:, None, None, None]
    found = wiener(shares * mix.abs(), mix, 1, False, rule=WienerRule.SONY)
    assert (found.sum(0) - mix).abs().max() < 1e-6
    assert (found - found.sum(0) * shares**2 / (shares**2).sum()).abs().max() < 1e-6


# Residuals


def test_the_residual_of_open_unmix_is_the_rest_of_the_mixture():
    mix, magnitudes = spectra(2, 6, 4), torch.rand(2, 2, 6, 4, dtype=torch.float64)
    found = wiener(magnitudes, mix, 0, False, residual=True, rule=WienerRule.OPEN_UNMIX)
    assert torch.allclose(found.sum(0), mix)
    assert torch.allclose(found[:2].abs(), magnitudes)
    refined = wiener(magnitudes, mix, 1, False, residual=True, rule=WienerRule.OPEN_UNMIX)
    assert refined.shape == (3, 2, 6, 4)
    assert (refined.sum(0) - mix).abs().max() < 1e-3


@pytest.mark.parametrize("alpha", [1, 2])
def test_the_residual_magnitude_is_what_is_left_and_never_less_than_nothing(alpha):
    mix, magnitudes = spectra(2, 6, 4), torch.rand(2, 2, 6, 4, dtype=torch.float64)
    found = residual_magnitude(magnitudes, mix, alpha, autoscale=False)
    assert torch.equal(found[:2], magnitudes)
    assert torch.allclose(found[2], (mix.abs() ** alpha - magnitudes.sum(0)).clamp(min=0))
    assert (found[2] > 0).any()
    assert (found[2] == 0).any()
    scaled = residual_magnitude(magnitudes, mix, alpha)
    # Least squares: what is left unexplained has no likeness to the model.
    unexplained = mix.abs() ** alpha - scaled[:2].sum(0)
    assert (unexplained * magnitudes.sum(0)).sum(1).abs().max() < 1e-9


def test_one_magnitude_may_stand_for_all_channels():
    mix, magnitudes = spectra(2, 6, 4), torch.rand(2, 1, 6, 4, dtype=torch.float64)
    for residual in (False, True):
        for use_softmask in (False, True):
            found = wiener(magnitudes, mix, 1, use_softmask, residual)
            assert torch.equal(found, wiener(magnitudes.expand(-1, 2, -1, -1), mix, 1, use_softmask, residual))


# Computing


@pytest.mark.parametrize("rule", WienerRule)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("use_softmask", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_blocks_that_come_again_and_again_are_the_whole(rule, residual, use_softmask, iterations):
    """Loud, with a quiet and a silent stretch, so that no block has the statistics of all of them."""
    mix = 100 * spectra(2, 23, 5).to(torch.complex64)
    mix[:, 5:9] *= 1e-4
    mix[:, 9:14] = 0
    magnitudes = torch.rand(3, 2, 23, 5, generator=torch.Generator().manual_seed(0)) * mix.abs()
    settings = {"iterations": iterations, "use_softmask": use_softmask, "residual": residual, "rule": rule}
    whole = wiener(magnitudes, mix, **settings)
    for sizes in ([23], [1] * 23, [4, 5, 5, 9]):
        parts = [torch.split(magnitudes, sizes, 2), torch.split(mix, sizes, 1)]
        found = list(wiener_in_blocks(lambda parts=parts: zip(*parts, strict=True), **settings))
        assert [part.shape[2] for part in found] == sizes
        assert (torch.cat(found, 2) - whole).abs().max() < 1e-6 * whole.abs().max()
    apart = torch.cat([wiener(m, x, **settings) for m, x in zip(*parts, strict=True)], 2)
    if iterations:
        assert (apart - whole).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("settings", "readings"),
    [
        ({"rule": WienerRule.SONY, "iterations": 1}, 3),
        ({"rule": WienerRule.NORBERT, "iterations": 1}, 4),
        ({"rule": WienerRule.NORBERT, "iterations": 2, "residual": True}, 6),
        ({"rule": WienerRule.NORBERT, "iterations": 0}, 2),
    ],
)
def test_blocks_are_read_no_more_often_than_promised(settings, readings):
    mix, magnitudes = spectra(2, 6, 4), torch.rand(2, 2, 6, 4, dtype=torch.float64)
    count = 0

    def read():
        nonlocal count
        count += 1
        yield from zip(torch.split(magnitudes, 2, 2), torch.split(mix, 2, 1), strict=True)

    assert len(list(wiener_in_blocks(read, **settings))) == 3
    assert count == readings


def test_blocks_that_do_not_fit_are_refused_in_words():
    mix, magnitudes = spectra(2, 6, 4), torch.rand(2, 2, 6, 4, dtype=torch.float64)
    with pytest.raises(UsageError, match="nothing to filter"):
        list(wiener_in_blocks(list))
    with pytest.raises(UsageError, match="do not fit"):
        list(wiener_in_blocks(lambda: [(magnitudes, mix), (magnitudes[:, :, 1:], mix)]))


@pytest.mark.parametrize("rule", WienerRule)
def test_blocks_leave_no_trace(rule, monkeypatch):
    mix, magnitudes = spectra(2, 11, 4), torch.rand(2, 2, 11, 4, dtype=torch.float64)
    whole = wiener(magnitudes, mix, 2, rule=rule)
    monkeypatch.setattr("iseparate.nn.wiener._BLOCK_POINTS", 9)
    assert torch.allclose(wiener(magnitudes, mix, 2, rule=rule), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [WienerRule.OPEN_UNMIX, WienerRule.SONY])
def test_nearly_mono_spectra_survive_single_precision(rule):
    """Computed in single precision throughout, half of the result would be noise."""
    generator = torch.Generator().manual_seed(0)
    mono = torch.randn(1, 30, 20, dtype=torch.complex64, generator=generator)
    mix = mono + 1e-3 * torch.randn(2, 30, 20, dtype=torch.complex64, generator=generator)
    shares = torch.rand(3, 1, 30, 20, generator=generator)
    magnitudes = 100 * shares / shares.sum(0) * mix.abs()
    single = wiener(magnitudes, 100 * mix, 1, rule=rule)
    double = wiener(magnitudes.double(), 100 * mix.to(torch.complex128), 1, rule=rule)
    assert single.dtype == torch.complex64
    assert (single - double).abs().max() < 1e-4 * double.abs().max()


@pytest.mark.parametrize("rule", WienerRule)
@pytest.mark.parametrize("use_softmask", [False, True])
def test_gradients(rule, use_softmask, monkeypatch):
    monkeypatch.setattr("iseparate.nn.wiener._BLOCK_POINTS", 4)
    mix = spectra(2, 3, 2)
    mix[:, 0, 0] = 0
    magnitudes = (0.1 + torch.rand(2, 2, 3, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: wiener(m, mix, 1, use_softmask, True, rule), magnitudes, atol=1e-4)


@pytest.mark.parametrize(
    ("magnitudes", "mix", "iterations", "why"),
    [
        ((2, 2, 4, 3), (2, 4, 4), 1, "do not fit"),
        ((2, 2, 4), (2, 4, 3), 1, "do not fit"),
        ((2, 3, 4, 3), (2, 4, 3), 1, "do not fit"),
        ((0, 2, 4, 3), (2, 4, 3), 1, "do not fit"),
        ((2, 2, 0, 3), (2, 0, 3), 1, "do not fit"),
        ((2, 2, 4, 3), (2, 4, 3), -1, "0 or more"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(magnitudes, mix, iterations, why):
    with pytest.raises(UsageError, match=why):
        wiener(torch.ones(magnitudes), torch.ones(mix, dtype=torch.complex64), iterations)


def test_a_mixture_must_be_complex():
    with pytest.raises(UsageError, match="float32"):
        wiener(torch.ones(2, 2, 4, 3), torch.ones(2, 4, 3))
