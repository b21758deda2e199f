"""The losses of the literature, by the names that recipes use.

A criterion compares estimates ``[B, S, C, ...]`` with references of the same shape and returns one number to
minimise. Its `domain` says what it wants to see: waveforms ``[B, S, C, T]``, magnitude spectra
``[B, S, C, frames, bins]``, shares of the mixture's spectrum, waveforms and magnitudes both, or what a network of
several stages has inside; the model's ``training_loss`` brings
it. Numbers are means over the batch, so that two processes that average their gradients do as one with twice the
batch; the two that compare a batch's songs with each other or normalise over all of it say so.

=====================  ===============================================================================================
``l1``, ``mse``        mean absolute or squared error: of waveforms (Demucs), magnitudes (Open-Unmix, D3Net, Spleeter)
``si_sdr``, ``snr``    negated, in dB: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019
``pit``                any of these under the best permutation: Yu et al., ICASSP 2017; of ``si_sdr`` with `zero_mean`
                       the loss of TasNet, DPRNN and, block by block, Nachmani et al. 2020
``multi_resolution``   L1 plus magnitude spectra at several resolutions (Yamamoto et al. 2020), by ``auraloss``
``complex_stft``       L1 plus L1 of complex spectra at several resolutions: BS-RoFormer, Lu et al. 2023
``relative_error``     of shares of a spectrum: each stem's error beside the mixture's level (this project's)
``multi_domain``       magnitudes and weighted SDR over all combinations of sources: X-UMX, Sawata et al. 2021
``meta_tasnet``        SI-SDR, reconstruction, unlike and like latents, stage by stage: Samuel et al., ICASSP 2020
=====================  ===============================================================================================
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iseparate.errors import BackendError, UsageError

Domain = Literal["waveform", "magnitude", "shares", "both", "stages"]

_SILENCE = 1e-8
"""Sums of squares below this count as silence."""


class Criterion(nn.Module):
    """One number out of estimates and references."""

    domain: Domain = "waveform"

    def values(self, estimates: Tensor, references: Tensor) -> Tensor:
        """One number per example and stem: ``[B, S, ...]`` twice -> ``[B, S]``."""
        raise NotImplementedError

    def forward(self, estimates: Tensor, references: Tensor, mix: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The number to minimise.

        Args:
            estimates: ``[B, S, C, ...]``, in the criterion's domain.
            references: the same of the true stems.
            mix: waveform or magnitudes ``[B, C, ...]``, for criteria that look at what is left over.
        """
        return self.values(estimates, references).mean()


class LpError(Criterion):
    """Mean absolute (``power`` 1) or squared (2) error.

    Args:
        power: 1 or 2.
        domain: what is compared.
        stems: ``mean`` over the stems, or their ``sum`` (Spleeter).
    """

    def __init__(self, power: int, domain: Domain = "waveform", stems: Literal["mean", "sum"] = "mean"):
        super().__init__()
        if domain not in ("waveform", "magnitude") or stems not in ("mean", "sum"):
            raise ValueError(f"domain is waveform or magnitude, stems mean or sum; got {domain!r} and {stems!r}")
        self.domain = domain
        self._power, self._sums = power, stems == "sum"

    def values(self, estimates: Tensor, references: Tensor) -> Tensor:
        difference = estimates - references
        error = difference.abs() if self._power == 1 else difference.square()
        return error.flatten(2).mean(2)

    def forward(self, estimates: Tensor, references: Tensor, mix: Tensor | None = None) -> Tensor:
        loss = super().forward(estimates, references, mix)
        return loss * estimates.shape[1] if self._sums else loss


def l1(domain: Domain = "waveform", stems: Literal["mean", "sum"] = "mean") -> Criterion:
    """Mean absolute error."""
    return LpError(1, domain, stems)


def mse(domain: Domain = "waveform", stems: Literal["mean", "sum"] = "mean") -> Criterion:
    """Mean squared error."""
    return LpError(2, domain, stems)


class NegativeSdr(Criterion):
    """Negated signal-to-distortion ratio in dB, of all channels of a stem together.

    Where the reference is silent a ratio says nothing: there the estimate's own energy is judged, against `floor`. So
    noise of -20 dB in a silent stem costs 80 dB; draw fewer silent excerpts (``data.silence``) where that is too much.
    An estimate that is exactly zero has no gradient under SI-SDR: no scale of it is better than another.

    Args:
        scale_invariant: the reference is first scaled to fit the estimate (SI-SDR).
        zero_mean: channels lose their mean first, as TasNet's authors do.
        floor: energy per sample, added to both: with 1e-10 a perfect estimate of full scale has -100 dB.
    """

    def __init__(self, scale_invariant: bool = True, zero_mean: bool = False, floor: float = 1e-10):
        super().__init__()
        if not 0 < floor < 1:
            raise ValueError(f"floor is an energy per sample between 0 and 1, such as 1e-10; got {floor}")
        self._scale_invariant, self._zero_mean, self._floor = scale_invariant, zero_mean, floor

    def values(self, estimates: Tensor, references: Tensor) -> Tensor:
        if self._zero_mean:
            estimates = estimates - estimates.mean(-1, keepdim=True)
            references = references - references.mean(-1, keepdim=True)
        estimates, references = estimates.flatten(2), references.flatten(2)
        if self._scale_invariant:
            energy = references.square().sum(2, keepdim=True)
            gain = (estimates * references).sum(2, keepdim=True) / energy.clamp_min(_SILENCE)
            # A silent reference has no scale; scaled by nothing it would also forgive everything.
            references = torch.where(energy > _SILENCE, gain * references, references)
        signal = references.square().mean(2) + self._floor
        noise = (estimates - references).square().mean(2) + self._floor
        return 10 * (noise.log10() - signal.log10())


def si_sdr(zero_mean: bool = False, floor: float = 1e-10) -> Criterion:
    """Negated scale-invariant SDR, dB."""
    return NegativeSdr(True, zero_mean, floor)


def snr(zero_mean: bool = False, floor: float = 1e-10) -> Criterion:
    """Negated signal-to-noise ratio, dB."""
    return NegativeSdr(False, zero_mean, floor)


class PermutationInvariant(Criterion):
    """The smallest loss over all ways to pair estimates with references, example by example.

    Args:
        criterion: a criterion of this table as ``{name: ..., arguments}``.
    """

    most_stems = 6
    """Seven would be 5040 pairings."""

    def __init__(self, criterion: Mapping[str, Any] | str = "si_sdr"):
        super().__init__()
        self._inner = _inner(criterion)
        self.domain = self._inner.domain

    def values(self, estimates: Tensor, references: Tensor) -> Tensor:
        count = estimates.shape[1]
        if count > self.most_stems:
            raise ValueError(f"pit tries all orders of the stems, which takes at most {self.most_stems}; got {count}")
        # pairs[b, i, j]: estimate i for reference j
        rows = [self._inner.values(estimates[:, i : i + 1].expand_as(references), references) for i in range(count)]
        pairs = torch.stack(rows, 1)
        orders = torch.tensor(list(permutations(range(count))), device=pairs.device)
        by_order = pairs[:, orders, torch.arange(count, device=pairs.device)]
        best = by_order.sum(2).argmin(1)
        return by_order[torch.arange(len(best), device=best.device), best]


class MultiResolution(Criterion):
    """L1 of the waveform, plus ``auraloss``' magnitude spectra at several resolutions.

    One part of the latter, spectral convergence, is a ratio of norms over the whole batch; so half batches in two
    processes are not quite one batch, and a batch that is silent throughout costs much.

    Args:
        weight: of the spectra.
        fft_sizes, hop_sizes, win_lengths: one resolution each.
    """

    def __init__(
        self,
        weight: float = 1.0,
        fft_sizes: Sequence[int] = (1024, 2048, 512),
        hop_sizes: Sequence[int] = (120, 240, 50),
        win_lengths: Sequence[int] = (600, 1200, 240),
    ):
        super().__init__()
        if importlib.util.find_spec("auraloss") is None:
            raise BackendError("the loss multi_resolution needs auraloss: pip install 'iseparate[train]'")
        from auraloss.freq import MultiResolutionSTFTLoss

        if not len(fft_sizes) == len(hop_sizes) == len(win_lengths) > 0:
            raise ValueError("fft_sizes, hop_sizes and win_lengths are lists of one length")
        if any(not 0 < hop <= win <= fft for fft, hop, win in zip(fft_sizes, hop_sizes, win_lengths, strict=True)):
            raise ValueError("of each resolution the hop is at most the window, and the window at most the transform")
        _refuse_negative("weight", weight)
        self._weight = weight
        self._spectra = MultiResolutionSTFTLoss(list(fft_sizes), list(hop_sizes), list(win_lengths))

    def forward(self, estimates: Tensor, references: Tensor, mix: Tensor | None = None) -> Tensor:  # noqa: ARG002
        spectra: Tensor = self._spectra(estimates.flatten(0, 1), references.flatten(0, 1))
        return (estimates - references).abs().mean() + self._weight * spectra


class ComplexSpectra(Criterion):
    """L1 of the waveform plus L1 of complex spectra, summed over windows that share one hop.

    Source: W.-T. Lu, J.-C. Wang, Q. Kong, Y.-N. Hung, arXiv 2309.02612; transforms no shorter than the network's own
    and plain sums as in github lucidrains/BS-RoFormer.

    Args:
        weight: of the spectra.
        windows: frame lengths, in samples.
        hop_samples: of all.
        least_fft_samples: shorter windows are continued with zeros to this length.
    """

    def __init__(
        self,
        weight: float = 1.0,
        windows: Sequence[int] = (4096, 2048, 1024, 512, 256),
        hop_samples: int = 147,
        least_fft_samples: int = 2048,
    ):
        super().__init__()
        if not windows or min(windows) < 16 or not 1 <= hop_samples <= min(windows):
            raise ValueError("windows are 16 samples or more, and hop_samples at most the shortest")
        _refuse_negative("weight", weight)
        self._weight, self._windows, self._hop, self._least = weight, tuple(windows), hop_samples, least_fft_samples

    def values(self, estimates: Tensor, references: Tensor) -> Tensor:
        difference = estimates - references
        flat = difference.flatten(0, 2).float()  # the transform of half precision is not to be had everywhere
        total = difference.abs().flatten(2).mean(2)
        for size in self._windows:
            window = torch.hann_window(size, device=flat.device)
            length = max(size, self._least)
            padding = "reflect" if flat.shape[-1] > length // 2 else "constant"
            # The transform is linear: one of the difference serves for both.
            spectrum = torch.stft(flat, length, self._hop, size, window, pad_mode=padding, return_complex=True)
            error = spectrum.abs().flatten(1).mean(1).view(*difference.shape[:3]).mean(2)
            total = total + self._weight * error
        return total


class RelativeError(Criterion):
    """Each stem's error as a share of the mixture's level, for networks that share out the mixture's spectrum.

    The error of an estimate ``m X`` of a stem with the spectrum S has the power ``m² |X|² - 2 m Re(X* S) + |S|²``, in
    which all but the share m is known beforehand. A root of ratios: a decibel counts alike in loud and quiet excerpts,
    a silent stem is a stem like any other, and excerpts that go badly do not outweigh the rest.

    Args:
        emphasis: weight of the same ratio with the higher frequencies raised, which the power of bass and drums
            would hide.
        corner: where the raising is neutral, as a share of all bands.
        slope: its exponent, of power over frequency.
    """

    domain: Domain = "shares"

    def __init__(self, emphasis: float = 0.5, corner: float = 0.04, slope: float = 1.5):
        super().__init__()
        _refuse_negative("emphasis", emphasis)
        if not 0 < corner < 1:
            raise ValueError(f"corner is a share of all bands, between 0 and 1; got {corner}")
        self._emphasis, self._corner, self._slope = emphasis, corner, slope

    def of_shares(self, shares: Tensor, mix_power: Tensor, likeness: Tensor, power: Tensor) -> Tensor:
        """The number to minimise.

        Args:
            shares: ``[B, S, C, frames, bands]``.
            mix_power: ``|X|²`` of the mixture, ``[B, C, frames, bands]``.
            likeness: ``Re(X* S)`` of mixture and each stem, as `shares`.
            power: ``|S|²``, as `shares`.
        """
        error = (shares * (shares * mix_power[:, None] - 2 * likeness)).mean((2, 3)) + power.mean((2, 3))
        whole = mix_power.mean((1, 2))[:, None]
        raised = (torch.linspace(0, 1, error.shape[-1], device=error.device) / self._corner).clamp(0.2, 20)
        raised = raised.pow(self._slope)
        ratio = (error.mean(2).clamp_min(0) + _SILENCE) / (whole.mean(2) + _SILENCE)
        high = ((error * raised).mean(2).clamp_min(0) + _SILENCE) / ((whole * raised).mean(2) + _SILENCE)
        return ratio.sqrt().mean() + self._emphasis * high.sqrt().mean()


class MultiDomain(Criterion):
    """X-UMX's: squared error of magnitudes, and weighted SDR of waveforms, over all combinations of sources.

    With four sources there are 14: singles, pairs and triples, each sum being compared with the sum of its references.
    Source: Sawata et al., "All for One and One for All", ICASSP 2021; the weighted SDR is that of Choi et al. 2019.

    Args:
        sdr_weight: of ``1 + wSDR``, which lies between 0 and 2.
        trim_samples: left out of the waveforms at either end (Sony's code: 200).
    """

    domain: Domain = "both"

    def __init__(self, sdr_weight: float = 10.0, trim_samples: int = 0):
        super().__init__()
        if trim_samples < 0:
            raise ValueError(f"trim_samples is 0 or more; got {trim_samples}")
        _refuse_negative("sdr_weight", sdr_weight)
        self._sdr_weight, self._trim = sdr_weight, trim_samples

    def of_both(
        self, waveforms: Tensor, references: Tensor, magnitudes: Tensor, reference_magnitudes: Tensor, mix: Tensor
    ) -> dict[str, Tensor]:
        """Estimates and references ``[B, S, C, T]``, magnitudes ``[B, S, C, frames, bins]``, mix ``[B, C, T]``."""
        count = waveforms.shape[1]
        if 2 * self._trim >= waveforms.shape[-1]:
            raise UsageError(
                f"the loss leaves out {self._trim} samples at either end, and an excerpt has {waveforms.shape[-1]}; "
                "choose longer excerpts or a smaller trim_samples"
            )
        cut = slice(self._trim, waveforms.shape[-1] - self._trim)
        waveforms, references, mix = waveforms[..., cut], references[..., cut], mix[..., cut]
        chosen = [c for size in range(1, max(count, 2)) for c in combinations(range(count), size)]
        error = torch.zeros((), device=mix.device)
        sdr = torch.zeros((), device=mix.device)
        for sources in chosen:
            index = list(sources)
            error = error + (magnitudes[:, index].sum(1) - reference_magnitudes[:, index].sum(1)).square().mean()
            sdr = sdr + _weighted_sdr(waveforms[:, index].sum(1), references[:, index].sum(1), mix).mean()
        error, sdr = error / len(chosen), 1 + sdr / len(chosen)
        return {"loss": error + self._sdr_weight * sdr, "magnitude_error": error, "weighted_sdr": sdr}


class MetaTasNet(Criterion):
    """Meta-TasNet's: of each stage SI-SDR per stem, and what shapes the encoder and the decoder around the masks.

    Source: D. Samuel, A. Ganeshan, J. Naradowsky, ICASSP 2020; github pfnet-research/meta-tasnet at 30eba96,
    ``utility/loss.py``. The model adds up the stages. The likeness of one stem's latents is measured between
    neighbours in the batch, the last one's being the first: half batches in two processes are not quite one batch.

    Args:
        reconstruction_weight: of the negated SI-SDR of the mixture that is encoded and decoded without masks.
        dissimilarity_weight: of the cosine between the latents of two stems.
        similarity_weight: of the cosine between one stem's latents in two songs, which is to grow.
    """

    domain: Domain = "stages"

    def __init__(
        self, reconstruction_weight: float = 0.05, dissimilarity_weight: float = 3.0, similarity_weight: float = 2.0
    ):
        super().__init__()
        _refuse_negative("reconstruction_weight", reconstruction_weight)
        _refuse_negative("dissimilarity_weight", dissimilarity_weight)
        _refuse_negative("similarity_weight", similarity_weight)
        self._weights = reconstruction_weight, dissimilarity_weight, similarity_weight
        self._sdr = NegativeSdr()

    def of_stage(
        self, estimates: Tensor, references: Tensor, latents: Tensor, reconstruction: Tensor, mix: Tensor
    ) -> dict[str, Tensor]:
        """The loss of one stage and its parts. Silent stems count in none of them.

        Args:
            estimates: ``[B, S, C, T]`` at the stage's rate.
            references: the same of the true stems.
            latents: of the encoded true stems, ``[B, S, features, frames]``.
            reconstruction: the mixture through encoder and decoder, ``[B, C, T]``.
            mix: ``[B, C, T]``.
        """
        sounds = (references.flatten(2).square().sum(2) > _SILENCE).float()
        sdr = self._sdr.values(estimates, references) * sounds
        sdr = (sdr.sum(0) / sounds.sum(0).clamp_min(1)).sum()
        rebuilt = self._sdr(reconstruction[:, None], mix[:, None])
        pairs = list(combinations(range(latents.shape[1]), 2))
        unlike = latents.new_zeros(())
        if pairs:
            a, b = [i for i, _ in pairs], [j for _, j in pairs]
            unlike = _mean_cosine(latents[:, a].abs(), latents[:, b].abs(), sounds[:, a] * sounds[:, b])
        like = _mean_cosine(latents, latents.roll(1, 0), sounds * sounds.roll(1, 0))
        weights = self._weights
        loss = sdr + weights[0] * rebuilt + weights[1] * unlike - weights[2] * like
        return {"loss": loss, "sdr": sdr, "reconstruction": rebuilt, "dissimilarity": unlike, "similarity": like}


def _mean_cosine(a: Tensor, b: Tensor, counts: Tensor) -> Tensor:
    """Of latents ``[B, n, features, frames]`` frame by frame, over those pairs that count ``[B, n]``."""
    cosines = nn.functional.cosine_similarity(a, b, dim=2).mean(-1) * counts
    return cosines.sum() / counts.sum().clamp_min(1)


def _weighted_sdr(estimate: Tensor, reference: Tensor, mix: Tensor) -> Tensor:
    """In [-1, 1] per example and channel, -1 being perfect: cosines of the source and of what it leaves, weighted."""
    rest, rest_estimate = mix - reference, mix - estimate
    ours, theirs = reference.square().sum(-1), rest.square().sum(-1)
    share = ours / (ours + theirs).clamp_min(_SILENCE)
    return -share * _cosine(estimate, reference) - (1 - share) * _cosine(rest_estimate, rest)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    # The floor is inside the root: the gradient of a norm at silence is not a number.
    norm = ((a.square().sum(-1) + _SILENCE) * (b.square().sum(-1) + _SILENCE)).sqrt()
    return (a * b).sum(-1) / norm


def _refuse_negative(name: str, weight: float) -> None:
    if not 0 <= weight < float("inf"):
        raise ValueError(f"{name} is {weight}; expected 0 or more")


def _inner(part: Mapping[str, Any] | str) -> Criterion:
    """The criterion that a recipe names within another; TypeError, ValueError."""
    if not isinstance(part, str | Mapping):
        raise TypeError(f"the loss to permute is a name, or {{name: ..., arguments}}; got {part!r}")
    arguments = {"name": part} if isinstance(part, str) else dict(part)
    name = str(arguments.pop("name", ""))
    alone = [
        known
        for known in CRITERIA
        if known not in ("pit", "multi_resolution", "relative_error", "multi_domain", "meta_tasnet")
    ]
    if name in CRITERIA and name not in alone:
        raise ValueError(f"{name} has no value per stem, which pit needs; take {', '.join(alone)}")
    if name not in alone:
        raise ValueError(f"there is no loss {name!r} to permute; there are {', '.join(alone)}")
    return CRITERIA[name](**arguments)


CRITERIA: Mapping[str, Callable[..., Criterion]] = {
    "l1": l1,
    "mse": mse,
    "si_sdr": si_sdr,
    "snr": snr,
    "pit": PermutationInvariant,
    "multi_resolution": MultiResolution,
    "complex_stft": ComplexSpectra,
    "relative_error": RelativeError,
    "multi_domain": MultiDomain,
    "meta_tasnet": MetaTasNet,
}
