"""Losses: values by hand, invariances, silence."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from iseparate.errors import BackendError, UsageError
from iseparate.losses import CRITERIA, MetaTasNet, MultiDomain


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def waves(batch=2, stems=3, channels=2, samples=3000):
    return torch.randn(batch, stems, channels, samples)


class TestLpError:
    def test_l1_and_mse_by_hand(self):
        references = torch.zeros(1, 2, 1, 4)
        estimates = torch.tensor([[[[1.0, -1, 1, -1]], [[3.0, 3, -3, -3]]]])
        assert CRITERIA["l1"]()(estimates, references) == 2
        assert CRITERIA["mse"]()(estimates, references) == 5

    def test_summed_over_stems(self):
        references, estimates = waves(), waves()
        mean, total = CRITERIA["l1"](), CRITERIA["l1"](stems="sum")
        torch.testing.assert_close(total(estimates, references), 3 * mean(estimates, references))

    def test_names_what_it_wants_to_see(self):
        assert CRITERIA["mse"](domain="magnitude").domain == "magnitude"
        with pytest.raises(ValueError, match="waveform or magnitude"):
            CRITERIA["mse"](domain="cepstrum")


class TestNegativeSdr:
    def test_snr_by_hand(self):
        references = torch.ones(1, 1, 1, 1000)
        loss = CRITERIA["snr"]()(references * 0.9, references)
        assert loss.item() == pytest.approx(-20, abs=1e-3)

    def test_scale_of_the_estimate_does_not_matter_to_si_sdr(self):
        references = waves()
        estimates = references + 0.1 * waves()
        loss = CRITERIA["si_sdr"]()
        torch.testing.assert_close(loss(estimates, references), loss(3 * estimates, references), atol=1e-3, rtol=0)
        assert abs(CRITERIA["snr"]()(3 * estimates, references) - loss(estimates, references)) > 10

    def test_si_sdr_by_hand(self):
        """The part of the estimate that is orthogonal to the reference is a tenth of it: 20 dB."""
        time = torch.arange(4000) / 4000 * 2 * math.pi * 10
        references = torch.sin(time)[None, None, None]
        estimates = 0.3 * (torch.sin(time) + 0.1 * torch.cos(time))[None, None, None]
        assert CRITERIA["si_sdr"]()(estimates, references).item() == pytest.approx(-20, abs=1e-2)

    def test_zero_mean_forgives_an_offset(self):
        references = waves() - waves().mean()
        assert CRITERIA["si_sdr"](zero_mean=True)(references + 1, references) < -80
        assert CRITERIA["si_sdr"]()(references + 1, references) > -5

    def test_noise_where_the_reference_is_silent_costs(self):
        silence = torch.zeros(1, 1, 1, 1000)
        loss = CRITERIA["si_sdr"]()
        assert loss(silence, silence) == 0
        assert loss(silence + 0.1, silence) > 50


class TestPermutationInvariant:
    def test_finds_the_order(self):
        references = waves(batch=3)
        estimates = torch.stack([references[0, [2, 0, 1]], references[1, [1, 0, 2]], references[2]])
        assert CRITERIA["pit"]()(estimates, references) < -80
        assert CRITERIA["si_sdr"]()(estimates, references) > -80

    def test_is_never_more_than_the_order_given(self):
        references, estimates = waves(), waves()
        inner = CRITERIA["l1"]()
        assert CRITERIA["pit"]({"name": "l1"})(estimates, references) <= inner(estimates, references)

    def test_refuses_what_it_cannot_permute(self):
        with pytest.raises(ValueError, match="no value per stem"):
            CRITERIA["pit"]("multi_domain")
        with pytest.raises(ValueError, match="there is no loss 'sdr'"):
            CRITERIA["pit"]("sdr")
        with pytest.raises(TypeError, match="is a name"):
            CRITERIA["pit"](["l1"])
        with pytest.raises(ValueError, match="at most 6"):
            CRITERIA["pit"]()(waves(stems=7), waves(stems=7))


class TestSpectra:
    def test_complex_spectra_see_phase_that_magnitudes_do_not(self):
        references = waves(samples=8192)
        loss = CRITERIA["complex_stft"](windows=[512], hop_samples=128)
        assert loss(references, references) == 0
        assert loss(-references, references) > loss(0.5 * references, references)

    def test_complex_spectra_are_the_plain_sums_of_the_reference(self):
        references, estimates = waves(samples=4096), waves(samples=4096)

        def spectra(sound, size):
            window = torch.hann_window(size)
            return torch.stft(sound.flatten(0, 2), max(size, 2048), 147, size, window, return_complex=True)

        expected = torch.nn.functional.l1_loss(estimates, references)
        for size in (1024, 256):
            expected += 0.5 * torch.nn.functional.l1_loss(spectra(estimates, size), spectra(references, size))
        loss = CRITERIA["complex_stft"](weight=0.5, windows=[1024, 256])
        torch.testing.assert_close(loss(estimates, references), expected)

    def test_a_short_excerpt_has_complex_spectra_too(self):
        assert CRITERIA["complex_stft"]()(waves(samples=100), waves(samples=100)).isfinite()

    def test_impossible_resolutions_are_refused(self):
        with pytest.raises(ValueError, match="hop_samples at most"):
            CRITERIA["complex_stft"](windows=[64], hop_samples=65)
        pytest.importorskip("auraloss")
        with pytest.raises(ValueError, match="the hop is at most the window"):
            CRITERIA["multi_resolution"](fft_sizes=[512], hop_sizes=[600], win_lengths=[512])

    def test_multi_resolution_names_its_library(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(BackendError, match=r"iseparate\[train\]"):
            CRITERIA["multi_resolution"]()

    def test_multi_resolution_is_smallest_for_the_truth(self):
        pytest.importorskip("auraloss")
        references = waves(samples=8192)
        loss = CRITERIA["multi_resolution"]()
        assert loss(references, references) < 1e-5 < loss(references * 0.5, references)


class TestMultiDomain:
    def both(self, waveforms, references, mix):
        magnitudes, truth = waveforms.abs()[..., None], references.abs()[..., None]
        return MultiDomain().of_both(waveforms, references, magnitudes, truth, mix)

    def test_is_nothing_for_the_truth(self):
        references = waves(stems=4)
        parts = self.both(references, references, references.sum(1))
        assert parts["loss"].abs() < 1e-5

    def test_opposite_is_worst(self):
        """Every cosine is -1 instead of 1, but for what the mixture leaves of a triple and its like."""
        references = waves(stems=2)
        good = self.both(references * 0.9, references, references.sum(1))["weighted_sdr"]
        bad = self.both(-references, references, references.sum(1))["weighted_sdr"]
        assert 0 < good < 0.1
        assert 1 < bad <= 2

    def test_all_combinations_count_alike(self):
        """One stem has 1 too much, another too little: of three singles and three pairs, four are off by 1."""
        references = waves(stems=3)
        truth = references.abs()[..., None]
        magnitudes = truth + torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1, 1)
        parts = MultiDomain().of_both(references, references, magnitudes, truth, references.sum(1))
        assert parts["magnitude_error"].item() == pytest.approx(4 / 6, rel=1e-5)

    def test_the_ends_can_be_left_out(self):
        references = waves(stems=2, samples=100)
        estimates = references.clone()
        estimates[..., :10] = 0
        estimates[..., -10:] = 0
        truth = references.abs()[..., None]
        parts = MultiDomain(trim_samples=10).of_both(estimates, references, truth, truth, references.sum(1))
        assert parts["loss"].abs() < 1e-5
        with pytest.raises(UsageError, match="an excerpt has 100"):
            MultiDomain(trim_samples=50).of_both(estimates, references, truth, truth, references.sum(1))

    def test_weights_are_not_negative(self):
        with pytest.raises(ValueError, match="sdr_weight is -1"):
            MultiDomain(sdr_weight=-1)


class TestMetaTasNet:
    def parts(self, latents, references=None, **weights):
        references = waves(2, 2, 1, 400) if references is None else references
        mix = references.sum(1)
        return MetaTasNet(**weights).of_stage(references, references, latents, mix, mix)

    def test_latents_by_hand(self):
        """Two features, two stems: orthogonal to each other, the same in both songs."""
        latents = torch.zeros(2, 2, 2, 3)
        latents[:, 0, 0] = 1
        latents[:, 1, 1] = 2
        parts = self.parts(latents)
        assert parts["dissimilarity"] == 0
        assert parts["similarity"].item() == pytest.approx(1)
        same = self.parts(torch.ones(2, 2, 2, 3))
        assert same["dissimilarity"].item() == pytest.approx(1)

    def test_the_sum_of_its_weighted_parts(self):
        parts = self.parts(torch.randn(2, 2, 4, 3))
        expected = parts["sdr"] + 0.05 * parts["reconstruction"] + 3 * parts["dissimilarity"] - 2 * parts["similarity"]
        torch.testing.assert_close(parts["loss"], expected)
        # two perfect stems, each as good as the floor lets it be
        assert parts["sdr"].item() == pytest.approx(2 * parts["reconstruction"].item(), abs=12)
        assert parts["sdr"] < -180

    def test_silent_stems_count_nowhere(self):
        references = waves(2, 2, 1, 400)
        latents = torch.randn(2, 2, 4, 3)
        references[0, 1] = 0
        estimates = references + 0.1 * torch.randn_like(references)
        mix = references.sum(1)
        loss = MetaTasNet()
        before = loss.of_stage(estimates, references, latents, mix, mix)
        estimates[0, 1], latents[0, 1] = 5, 7
        after = loss.of_stage(estimates, references, latents, mix, mix)
        torch.testing.assert_close(after["loss"], before["loss"])

    def test_silence_throughout_has_gradients(self):
        silence = torch.zeros(2, 2, 1, 400)
        estimates = silence.clone().requires_grad_()
        latents = torch.zeros(2, 2, 4, 3, requires_grad=True)
        parts = MetaTasNet().of_stage(estimates, silence, latents, silence[:, 0], silence[:, 0])
        parts["loss"].backward()
        assert parts["loss"] == 0
        assert torch.isfinite(estimates.grad).all()
        assert torch.isfinite(latents.grad).all()


WHOLE = ("multi_domain", "multi_resolution", "relative_error", "meta_tasnet")


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in WHOLE])
def test_gradients_on_silence_are_numbers(name):
    silence = torch.zeros(2, 2, 1, 5000)
    for references in (silence, waves(2, 2, 1, 5000)):
        estimates = silence.clone().requires_grad_()
        CRITERIA[name]()(estimates, references).backward()
        assert torch.isfinite(estimates.grad).all()


def test_gradients_of_all_domains_on_silence_are_numbers():
    silence = torch.zeros(2, 2, 1, 500)
    estimates = silence.clone().requires_grad_()
    MultiDomain().of_both(estimates, silence, estimates[..., None], silence[..., None], silence[:, 0])[
        "loss"
    ].backward()
    assert torch.isfinite(estimates.grad).all()


def test_gradients_of_shares_on_silence_are_numbers():
    silence = torch.zeros(2, 3, 2, 4, 8)
    shares = torch.full_like(silence, 1 / 3).requires_grad_()
    loss = CRITERIA["relative_error"]().of_shares(shares, silence[:, 0], silence, silence)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(shares.grad).all()


def test_gradients_of_several_resolutions_on_silence_are_numbers():
    pytest.importorskip("auraloss")
    silence = torch.zeros(2, 2, 1, 5000)
    for references in (silence, waves(2, 2, 1, 5000)):
        estimates = silence.clone().requires_grad_()
        CRITERIA["multi_resolution"]()(estimates, references).backward()
        assert torch.isfinite(estimates.grad).all()


@pytest.mark.parametrize("name", ["l1", "mse", "si_sdr", "snr", "pit", "complex_stft"])
def test_half_batches_average_to_the_whole(name):
    """So two processes do as one with twice the batch."""
    loss, estimates, references = CRITERIA[name](), waves(4), waves(4)
    halves = (loss(estimates[:2], references[:2]) + loss(estimates[2:], references[2:])) / 2
    torch.testing.assert_close(loss(estimates, references), halves)
