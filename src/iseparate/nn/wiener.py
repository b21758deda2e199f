"""Multichannel Wiener filtering by expectation-maximisation.

The model is a local Gaussian one (Duong et al. 2010; Nugraha et al. 2016): each source has a power per
time-frequency point and a spatial covariance per frequency, both estimated from the sources found so far.
Definition and constants follow norbert 0.2.1 (``norbert.wiener``, ``norbert.expectation_maximization``).
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor


class WienerRule(Enum):
    """Whose definition of the filter."""

    NORBERT = "norbert 0.2.1"
    OPEN_UNMIX = "openunmix 1.3.0, openunmix/filtering.py"
    SONY = "sony/ai-research-code, d3net/music-source-separation/filter.py"


def softmask(magnitudes: Tensor, mix: Tensor, eps: float) -> Tensor:
    """Share the mixture out in proportion to the sources' magnitudes.

    Args:
        magnitudes: ``[S, C, frames, bins]``, >= 0.
        mix: complex ``[C, frames, bins]``.
        eps: added to the denominator.

    Returns:
        complex ``[S, C, frames, bins]``.
    """
    return mix * (magnitudes / (eps + magnitudes.sum(0)))


def expectation_maximisation(sources: Tensor, mix: Tensor, iterations: int, eps: float) -> Tensor:
    """Refine source spectra by multichannel EM with statistics over all the frames given.

    Args:
        sources: complex ``[S, C, frames, bins]``, the starting point.
        mix: complex ``[C, frames, bins]``.
        iterations: number of EM steps, >= 0.
        eps: regularisation; its square root is added to the diagonal of the mixture's covariance.

    Returns:
        complex ``[S, C, frames, bins]``.
    """
    channels = mix.shape[0]
    identity = torch.eye(channels, dtype=mix.dtype, device=mix.device)
    for _ in range(iterations):
        power = sources.abs().square().mean(1)  # [S, frames, bins]
        covariance = torch.einsum("sctf,sdtf->sfcd", sources, sources.conj())
        covariance = covariance / (eps + power.sum(1))[..., None, None]
        mix_covariance = torch.einsum("stf,sfcd->tfcd", power.to(mix.dtype), covariance) + eps**0.5 * identity
        whitened = torch.linalg.solve(mix_covariance, mix.permute(1, 2, 0)[..., None])[..., 0]  # [T, F, C]
        sources = torch.einsum("stf,sfcd,tfd->sctf", power.to(mix.dtype), covariance, whitened)
    return sources


def wiener(
    magnitudes: Tensor,
    mix: Tensor,
    iterations: int = 1,
    use_softmask: bool = True,
    residual: bool = False,  # noqa: ARG001
    rule: WienerRule = WienerRule.NORBERT,  # noqa: ARG001
) -> Tensor:
    """Turn magnitude estimates into complex sources.

    Args:
        magnitudes: ``[S, C, frames, bins]``, >= 0.
        mix: complex ``[C, frames, bins]``.
        iterations: EM steps after the first guess, >= 0.
        use_softmask: the first guess is the ratio mask; False: the magnitudes with the mixture's phase.

    Returns:
        complex ``[S, C, frames, bins]``.
    """
    eps = torch.finfo(mix.dtype).eps
    sources = softmask(magnitudes, mix, eps) if use_softmask else torch.polar(magnitudes, mix.angle())
    if iterations == 0:
        return sources
    # EM's regularisation is absolute, so the scale is brought near one first (norbert does the same).
    scale = max(1.0, mix.abs().max().item() / 10)
    return expectation_maximisation(sources / scale, mix / scale, iterations, eps) * scale
