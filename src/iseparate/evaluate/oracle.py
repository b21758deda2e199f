"""Oracles: separators that are told the answer, and so bound what masks and linear filters can reach.

An oracle derives its filter from the true stems (the *references*) and applies it to the mixture. They therefore
have a registry of their own, and no card: ``oracle("irm2").separate(mix, references)``.

=================  ==================================================================================================
``irm1``           ideal ratio mask of magnitudes
``irm2``           ideal ratio mask of powers (``irm`` for short)
``ibm1``           ideal binary mask of magnitudes (``ibm`` for short)
``ibm2``           ideal binary mask of powers
``mwf``            multichannel Wiener filter under the local Gaussian model
``…-official``     ``ibm1``, ``ibm2`` and ``mwf`` as the reference program computes them: see the classes
=================  ==================================================================================================

Reference: github sigsep/sigsep-mus-oracle at 1590b09 (``IRM.py``, ``IBM.py``, ``MWF.py``), the oracles of SiSEC
2018, whose descriptions (github sigsep/sigsep-mus-2018, ``submissions/{IRM1,IRM2,IBM1,IBM2,MWF}``) are the definitions
where program and description disagree. Accompaniment there is the sum of all estimates but the vocals.

The transform is the reference's, ``scipy.signal.stft`` with 2048 samples and else its defaults: periodic Hann window,
hop of half a frame, zeros beyond the ends, spectra divided by the window's sum. All arithmetic is in float64.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from iseparate.errors import AudioFormatError, UnknownModelError
from iseparate.nn.stft import centred_signal, centred_spectrum

_FRAME_SAMPLES = 2048
_HOP_SAMPLES = 1024
_EPSILON = torch.finfo(torch.float64).eps
_BLOCK_FRAMES = 256
"""The filter of so many frames is held at a time: a matrix per bin and frame of a whole song would be too much."""


@dataclass(frozen=True)
class Oracle(ABC):
    """One definition of an ideal filter."""

    def separate(self, mix: NDArray[Any], references: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Estimate every stem from the mixture and all stems.

        Args:
            mix: floating-point ``[channels, samples]``, full scale ±1, at any rate.
            references: the true stems by name, one at least, each of the mixture's shape.

        Returns:
            The estimates under the references' names, each of the mixture's shape and type.

        Raises:
            AudioFormatError: no references, shapes that differ, no samples, integers, or NaN.
        """
        _check("the mixture", mix, None)
        if not references:
            raise AudioFormatError("an oracle needs the true stems of the mixture; none were given")
        for name, reference in references.items():
            _check(f"the reference {name!r}", reference, mix.shape)
        with torch.inference_mode():
            estimates = self._filtered(_spectrum(mix), references)
        return {name: estimate.numpy().astype(mix.dtype) for name, estimate in estimates.items()}

    @abstractmethod
    def _filtered(self, mix: _Spectrum, references: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """The estimates as waveforms. One reference's spectrum at a time: those of a song take hundreds of MB."""


@dataclass(frozen=True)
class RatioMask(Oracle):
    """Each bin is shared out in proportion to the references: ``|y_j|^a / sum_k |y_k|^a``, per channel.

    The estimates sum to the mixture wherever any reference sounds.
    """

    exponent: float
    """1: magnitudes; 2: powers."""

    def _filtered(self, mix: _Spectrum, references: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        total = _total(references, self.exponent).clamp_min_(_TINY)
        return {
            name: mix.waveform(mix.values * _power(reference, self.exponent).div_(total))
            for name, reference in references.items()
        }


@dataclass(frozen=True)
class BinaryMask(Oracle):
    """A bin goes whole to the reference that makes up more than `threshold` of it, per channel.

    By default of the references' sum, as SiSEC 2018 describes it: so above one half no bin has two owners, and a bin
    without a majority has none. The reference program (``-official``) compares with the *mixture* instead, which
    sources in opposite phase can cancel: there a bin can go to several stems at once.
    """

    exponent: float
    """1: magnitudes; 2: powers."""
    threshold: float = 0.5
    of_mixture: bool = False
    """True: the share is that of the mixture, and the threshold itself is enough."""

    def _filtered(self, mix: _Spectrum, references: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        estimates = {}
        if self.of_mixture:
            whole = mix.values.abs().pow_(self.exponent).add_(_EPSILON)
        else:
            whole = _total(references, self.exponent).mul_(self.threshold)
        for name, reference in references.items():
            power = _power(reference, self.exponent)
            owned = power.div_(whole) >= self.threshold if self.of_mixture else power > whole
            estimates[name] = mix.waveform(mix.values * owned)
        return estimates


@dataclass(frozen=True)
class MultichannelWiener(Oracle):
    """All channels are filtered jointly by ``v_j R_j (sum_k v_k R_k)^-1``.

    Model: Duong, Vincent and Gribonval, "Under-determined reverberant audio source separation using a full-rank
    spatial covariance model", IEEE TASLP 18(7), 2010: reference j has a power v per bin and frame and a spatial
    covariance R per bin. R is the mean over frames of ``y y^H`` over its mean power, scaled to the trace of the unit
    matrix; then ``v = y^H R^-1 y / channels``.

    The program (``-official``, two channels only) scales R by the trace over its axes of bins and channels: two
    numbers, out of the lowest two bins, that scale the columns of all of them. It also adds the machine epsilon to
    determinants, whatever their size, which weakens the filter where music is quiet. It is undefined (NaN) where a
    reference is silent in those two bins, and mostly where one is panned mono: here that is an AudioFormatError.
    """

    program_numerics: bool = False
    """True: the two peculiarities of the program."""

    def _filtered(self, mix: _Spectrum, references: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        channels = mix.values.shape[0]
        if self.program_numerics and channels != 2:
            raise AudioFormatError(f"mwf-official is defined for two channels and {channels} came; use mwf")
        spatial, power = {}, {}
        for name, reference in references.items():
            spectrum = _spectrum(reference).values
            spatial[name] = self._spatial_covariance(spectrum)
            inverse = self._inverse(spatial[name])
            quadratic = torch.einsum("ctf,fcd,dtf->tf", spectrum.conj(), inverse, spectrum)
            power[name] = quadratic.real.div_(channels)
        # C^-1 x is the same for every stem; it takes the place of x.
        whitened = mix.values
        for start in range(0, whitened.shape[1], _BLOCK_FRAMES):
            block = slice(start, start + _BLOCK_FRAMES)
            covariance = sum(
                (power[name][block, :, None, None] * spatial[name] for name in references),
                torch.zeros((), dtype=torch.complex128),
            )
            whitened[:, block] = torch.einsum("tfcd,dtf->ctf", self._inverse(covariance), whitened[:, block])
        if not whitened.isfinite().all():
            raise AudioFormatError(
                "mwf-official is undefined for these references, of which one is panned mono or silent in the lowest "
                "two bins; use mwf"
            )
        return {
            name: mix.waveform(torch.einsum("fcd,dtf->ctf", spatial[name], whitened).mul_(power[name]))
            for name in references
        }

    def _spatial_covariance(self, spectrum: Tensor) -> Tensor:
        """``[C, frames, bins]`` -> ``[bins, C, C]``."""
        channels, frames = spectrum.shape[:2]
        # The square root of the weight goes to either factor: there is no need for a matrix per bin and frame.
        level = spectrum.abs().square_().mean(0)
        level = (level + _EPSILON if self.program_numerics else level.clamp_min(_TINY)).sqrt_()
        unit = spectrum / level
        mean = torch.einsum("ctf,dtf->fcd", unit, unit.conj()) / frames
        identity = torch.eye(channels, dtype=torch.complex128)
        if self.program_numerics:
            trace = mean[0, 0] + mean[1, 1]
            return mean * channels / trace + _EPSILON * identity
        trace = mean.diagonal(dim1=1, dim2=2).sum(-1).real[:, None, None]
        # A reference that is silent in a bin has no direction there: it may as well have all.
        scaled = torch.where(trace > 0, mean * channels / trace.clamp_min(_TINY), identity)
        return scaled + _FLOOR * identity

    def _inverse(self, matrices: Tensor) -> Tensor:
        """Of ``[..., C, C]``, made regular."""
        if self.program_numerics:
            a, b, c, d = (matrices[..., i, j] for i in (0, 1) for j in (0, 1))
            adjugate = torch.stack([d, -b, -c, a], -1).reshape(matrices.shape)
            return adjugate.div_((_EPSILON + a * d - b * c)[..., None, None])
        channels = matrices.shape[-1]
        level = matrices.diagonal(dim1=-2, dim2=-1).real.mean(-1)[..., None, None]
        identity = torch.eye(channels, dtype=torch.complex128)
        # Relative to the matrix itself, so that a quiet passage is filtered like a loud one. What is silent in all
        # stems gets the unit matrix: the stems' powers are zero there, and so are the estimates.
        regular = torch.where(level > _TINY, matrices / level.clamp_min(_TINY) + _FLOOR * identity, identity)
        inverse: Tensor = torch.linalg.inv(regular)
        return inverse.div_(level.clamp_min(_TINY))


_FLOOR = 1e-10
"""Of a covariance matrix: the least power in any direction, as a share of the mean over directions."""
_TINY = 1e-150
"""Stands for the power of silence: less than that of the faintest sound in float32."""

ORACLES: Mapping[str, Oracle] = {
    "irm1": RatioMask(1),
    "irm2": RatioMask(2),
    "ibm1": BinaryMask(1),
    "ibm2": BinaryMask(2),
    "ibm1-official": BinaryMask(1, of_mixture=True),
    "ibm2-official": BinaryMask(2, of_mixture=True),
    "mwf": MultichannelWiener(),
    "mwf-official": MultichannelWiener(program_numerics=True),
}
_SHORT = {"irm": "irm2", "ibm": "ibm1", "ibm-official": "ibm1-official"}
"""What the reference program means by a name without a number."""


def is_oracle(name: str) -> bool:
    """True where `oracle` knows the name."""
    return name in ORACLES or name in _SHORT


def oracle(name: str) -> Oracle:
    """The oracle of that name; UnknownModelError with the nearest names."""
    if not is_oracle(name):
        near = difflib.get_close_matches(name, ORACLES, n=3) or list(ORACLES)
        raise UnknownModelError(f"no oracle is called {name[:80]!r}; there is {', '.join(near)}")
    return ORACLES[_SHORT.get(name, name)]


@dataclass(frozen=True)
class _Spectrum:
    """Of a waveform, complex ``[C, frames, bins]``, and the way back."""

    values: Tensor
    window: Tensor
    samples: int

    def waveform(self, values: Tensor) -> Tensor:
        """``[C, samples]`` of spectra that were derived from these."""
        return centred_signal(values, self.window, _HOP_SAMPLES, self.samples).mul_(self.window.sum())


def _spectrum(signal: NDArray[Any]) -> _Spectrum:
    window = torch.hann_window(_FRAME_SAMPLES, periodic=True, dtype=torch.float64)
    samples = signal.shape[-1]
    padded = F.pad(torch.from_numpy(signal.astype(np.float64)), (0, -samples % _HOP_SAMPLES))
    values = centred_spectrum(padded, window / window.sum(), _HOP_SAMPLES, "zeros")
    return _Spectrum(values, window, samples)


def _power(reference: NDArray[Any], exponent: float) -> Tensor:
    return _spectrum(reference).values.abs().pow_(exponent)


def _total(references: Mapping[str, NDArray[Any]], exponent: float) -> Tensor:
    powers = (_power(reference, exponent) for reference in references.values())
    total = next(powers)
    for power in powers:
        total += power
    return total


def _check(what: str, signal: NDArray[Any], shape: tuple[int, ...] | None) -> None:
    if signal.ndim != 2 or 0 in signal.shape:
        raise AudioFormatError(
            f"{what} has the shape {list(signal.shape)}; expected [channels, samples], none of them 0"
        )
    if shape is not None and signal.shape != shape:
        raise AudioFormatError(
            f"{what} has the shape {list(signal.shape)} and the mixture {list(shape)}; cut them to the same"
        )
    if not np.issubdtype(signal.dtype, np.floating):
        raise AudioFormatError(f"{what} holds {signal.dtype}; convert it to floating point, full scale ±1")
    if not np.isfinite(signal).all():
        raise AudioFormatError(f"{what} holds NaN or infinity; mend it first")
