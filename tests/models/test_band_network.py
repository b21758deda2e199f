from dataclasses import replace

import pytest
import torch

from iseparate.losses import CRITERIA
from iseparate.models._registry import published_config
from iseparate.models.band import Band, Config
from iseparate.nn.stft import centred_spectrum, hann


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["u_net", "d3net"])
def model(request):
    torch.manual_seed(0)
    return Band(replace(Config.tiny(), body=request.param)).eval()


@pytest.mark.parametrize("samples", [1, 100, 4096, 5001])
def test_the_stems_sum_to_the_input(model, samples):
    mix = noise(2, 2, samples)
    with torch.inference_mode():
        torch.testing.assert_close(model(mix).sum(1), mix, atol=1e-6, rtol=0)


def test_shares_sum_to_one_and_cover_the_highest_bin(model):
    spectra = centred_spectrum(noise(1, 2, 3000), hann(256), 64)
    shares = model._ungrouped(model._shares(spectra))
    assert shares.shape == (1, 3, *spectra.shape[1:])
    torch.testing.assert_close(shares.sum(1), torch.ones(spectra.shape))


def test_the_level_of_the_input_does_not_matter(model):
    mix = noise(1, 2, 4000)
    with torch.inference_mode():
        torch.testing.assert_close(model(100 * mix), 100 * model(mix), atol=1e-4, rtol=1e-3)


def test_a_group_of_bins_shares_one_mask():
    model = Band(Config.tiny())
    bands = torch.arange(model.config.bands).float()
    bins = model._ungrouped(bands)
    assert bins.tolist() == [*range(96), *(96 + i // 2 for i in range(32)), 111]
    torch.testing.assert_close(model._grouped(torch.ones(129)), torch.tensor([1.0] * 96 + [2.0] * 16))


def test_the_loss_is_the_error_of_the_masked_spectra(model):
    """Its expansion of |mX - S|² against the difference itself, where every bin is a band of its own."""
    stems = noise(2, 3, 2, 2000)
    config = replace(model.config, linear_bins=128, body=model.config.body)
    torch.manual_seed(1)
    model = Band(config).eval()
    loss = model.training_loss(stems.sum(1), stems, CRITERIA["relative_error"](emphasis=0.0))["loss"]
    mix = centred_spectrum(stems.sum(1), hann(256), 64)
    truth = centred_spectrum(stems, hann(256), 64)
    error = (model._ungrouped(model._shares(mix)) * mix[:, None] - truth)[..., :-1].abs().square().mean((2, 3, 4))
    whole = mix[..., :-1].abs().square().mean((1, 2, 3))[:, None]
    torch.testing.assert_close(loss, (error / whole).sqrt().mean(), rtol=1e-4, atol=0)


def test_emphasis_makes_high_errors_dearer():
    criterion = CRITERIA["relative_error"]()
    shares, power = torch.zeros(1, 1, 1, 1, 64), torch.ones(1, 1, 1, 64)
    low, high = torch.zeros(1, 1, 1, 1, 64), torch.zeros(1, 1, 1, 1, 64)
    low[..., 1], high[..., 60] = 1.0, 1.0
    none = torch.zeros_like(shares)
    assert criterion.of_shares(shares, power, none, high) > criterion.of_shares(shares, power, none, low)


def test_sizes_of_the_published_networks():
    counts = {
        name: sum(p.numel() for p in Band(published_config(name)[1]).parameters()) for name in ("band", "band-d3net")
    }
    assert counts == {"band": 7_441_212, "band-d3net": 521_776}
    assert max(counts.values()) * 2 < 25e6  # bytes, as they are shipped


@pytest.mark.parametrize(
    "change",
    [
        {"stems": ("drums",)},
        {"stems": ("drums", "drums")},
        {"widths": (4, 6)},
        {"growth": (2, 3)},
        {"hop_samples": 100},
        {"linear_bins": 97},
        {"linear_bins": 200},
        {"narrowing": 0},
        {"narrowing": 64},
    ],
)
def test_settings_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"stems|widths|growth|hop|bins|bands|narrowing"):
        replace(Config.tiny(), **change)
