"""How spectrogram networks are trained: what their losses compare, and how their inputs are scaled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from iseparate.losses import CRITERIA
from iseparate.models import d3net, mmdenselstm, open_unmix, spleeter, uhl, x_umx
from iseparate.nn.stft import centred_spectrum, spectrum


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def noise(*shape):
    return 0.2 * torch.randn(*shape)


def magnitudes_of(model, sound):
    config = model.config
    return centred_spectrum(sound, model.window, config.hop_samples, config.padding).abs()


# -- losses -------------------------------------------------------------------------------------------------


def test_magnitudes_are_compared_before_the_filter():
    model = open_unmix.OpenUnmix(open_unmix.Config.tiny()).eval()
    stems = noise(2, 3, 2, 700)
    mix = stems.sum(1)
    loss = model.training_loss(mix, stems, CRITERIA["mse"](domain="magnitude"))["loss"]
    truth = torch.stack([magnitudes_of(model, stem) for stem in stems.unbind(1)], 1)
    expected = (model.estimate(magnitudes_of(model, mix)) - truth).square().mean()
    torch.testing.assert_close(loss, expected)


def test_waveforms_have_the_mixtures_phase(monkeypatch):
    """An estimate that is the mixture's own magnitudes is the mixture."""
    model = open_unmix.OpenUnmix(open_unmix.Config.tiny())
    monkeypatch.setattr(model, "estimate", lambda m: m[:, None].expand(-1, 3, -1, -1, -1))
    mix = noise(2, 2, 700)
    stems = mix[:, None].expand(-1, 3, -1, -1)
    assert model.training_loss(mix, stems, CRITERIA["l1"]())["loss"] < 1e-5


def test_a_residual_is_not_trained():
    config = replace(open_unmix.Config.tiny(), residual="residual")
    model = open_unmix.OpenUnmix(config)
    assert model.spec.stems[-1] == "residual"
    assert model.trained_stems == config.targets
    stems = noise(1, 3, 2, 700)
    assert model.training_loss(stems.sum(1), stems, CRITERIA["l1"]())["loss"].isfinite()


def test_x_umx_is_nothing_off_where_one_stem_is_all_there_is(monkeypatch):
    """Then the mixture's phase is its own, and both parts of the loss, over all combinations, are at their least."""
    model = x_umx.XUmx(x_umx.Config.tiny())
    stems = noise(2, 3, 2, 900)
    stems[:, 1:] = 0
    truth = torch.stack([magnitudes_of(model, stem) for stem in stems.unbind(1)], 1)
    monkeypatch.setattr(model, "estimate", lambda _: truth)
    criterion = CRITERIA["multi_domain"](trim_samples=200)
    good = model.training_loss(stems.sum(1), stems, criterion)
    assert good["loss"].abs() < 1e-4
    monkeypatch.setattr(model, "estimate", lambda _: truth.flip(1))
    bad = model.training_loss(stems.sum(1), stems, criterion)
    assert bad["magnitude_error"] > 0.1
    assert bad["weighted_sdr"] > 0.3


def test_spleeter_compares_the_bins_it_sees():
    """Frame k starts k hops after the first sample, and frames are filled up to what can be halved."""
    model = spleeter.Spleeter(spleeter.Config.tiny()).eval()
    config = model.config
    stems = noise(2, 2, 2, 256 + 7 * 64)
    mix = stems.sum(1)
    loss = model.training_loss(mix, stems, CRITERIA["l1"](domain="magnitude", stems="sum"))["loss"]

    def seen(sound):
        return spectrum(sound, model.analysis_window, config.hop_samples)[..., : config.frequency_bins].abs()

    expected = (model.networks(seen(mix)) - seen(stems)).abs().mean(dim=(0, 2, 3, 4)).sum()
    torch.testing.assert_close(loss, expected)


# -- D3Net's excerpts ---------------------------------------------------------------------------------------


def test_an_excerpt_is_one_patch_to_d3net():
    """Whole halvings go through the network as they are: no overlap, one order of the channels."""
    model = d3net.D3Net(d3net.Config.tiny()).eval()
    magnitudes = noise(2, 2, 8, model.config.bins).abs()
    expected = torch.stack([network(magnitudes) for network in model.networks.values()], 1)
    assert torch.equal(model.estimate_in_training(magnitudes), expected)
    assert not torch.allclose(model.estimate(magnitudes), expected)


@pytest.mark.parametrize("frames", [1, 7, 8, 13])
def test_an_excerpt_of_any_length_will_do(frames):
    model = d3net.D3Net(d3net.Config.tiny())
    magnitudes = noise(2, 2, frames, model.config.bins).abs()
    assert model.estimate_in_training(magnitudes).shape == (2, 2, 2, frames, model.config.bins)


# -- statistics of the input --------------------------------------------------------------------------------


def statistics(model):
    bins = model.config.bins
    return torch.linspace(0.2, 1.5, bins), torch.linspace(0.5, 3, bins)


SCALED = {
    "d3net": (d3net.D3Net, d3net.Config.tiny()),
    "mmdenselstm": (mmdenselstm.MMDenseLSTM, mmdenselstm.Config.tiny()),
    "uhl": (uhl.Uhl, uhl.Config.tiny()),
}


@pytest.mark.parametrize("name", SCALED)
def test_standardised_bins_are_what_the_network_sees(name):
    """With statistics it sees of m what it saw before of (m - mean) / deviation."""
    make, config = SCALED[name]
    model = make(config).eval()
    mean, deviation = statistics(model)
    magnitudes = noise(1, 2, 12, config.bins).abs()
    before = [network(standardised(magnitudes, mean, deviation)) for network in model.networks.values()]
    model.set_input_statistics(mean, deviation)
    for network, expected in zip(model.networks.values(), before, strict=True):
        found = network(magnitudes)
        scale = deviation if name == "uhl" else 1  # its outputs start at the mixtures'
        seen = slice(0, 62)  # of all these networks; above, the mixture passes
        torch.testing.assert_close(found[..., seen], (expected * scale)[..., seen], atol=1e-4, rtol=1e-4)


def standardised(magnitudes, mean, deviation):
    return (magnitudes - mean) / deviation


@pytest.mark.parametrize("kind", ["open_unmix", "x_umx"])
@pytest.mark.parametrize("training", [True, False])
def test_open_unmix_hears_standardised_bins(kind, training):
    model = {"open_unmix": open_unmix.OpenUnmix, "x_umx": x_umx.XUmx}[kind](
        {"open_unmix": open_unmix.Config.tiny(), "x_umx": x_umx.Config.tiny()}[kind]
    ).train(training)
    mean, deviation = statistics(model)
    magnitudes = noise(3, 2, 12, model.config.bins).abs()
    before = [network.encode(standardised(magnitudes, mean, deviation)) for network in model.networks.values()]
    model.set_input_statistics(mean, deviation)
    for network, expected in zip(model.networks.values(), before, strict=True):
        torch.testing.assert_close(network.encode(magnitudes), expected, atol=1e-4, rtol=1e-4)


def test_d3net_keeps_bins_it_only_passes_in_its_statistics():
    """Sony's offset and scale are of all bins of a frame, though the network looks at fewer."""
    model = d3net.D3Net(d3net.Config.tiny())
    mean, deviation = statistics(model)
    model.set_input_statistics(mean, deviation)
    for network in model.networks.values():
        assert torch.equal(network.offset, mean)
        assert torch.equal(network.scale, deviation)
        assert network.offset.requires_grad


def test_a_network_folded_before_is_folded_anew():
    model = d3net.D3Net(d3net.Config.tiny()).eval()
    magnitudes = noise(1, 2, 8, model.config.bins).abs()
    network = model.networks["vocals"]
    with torch.no_grad():
        before = network(magnitudes)
        model.set_input_statistics(*statistics(model))
        assert not torch.allclose(network(magnitudes), before)
