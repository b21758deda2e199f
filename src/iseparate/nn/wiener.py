"""Multichannel Wiener filtering by expectation-maximisation, after three definitions of it.

The model is a local Gaussian one (Duong et al. 2010; Nugraha et al. 2016; Uhlich et al. 2017): each source has a power
per time-frequency point and a spatial covariance per frequency, both estimated from the sources found so far. The
definitions agree in that and differ in what keeps them from dividing by zero, which is what a `WienerRule` holds.

Facts from norbert 0.2.1 (``norbert.wiener``, ``norbert.residual_model``), openunmix 1.3.0 (``openunmix.filtering``) and
sony/ai-research-code at cfe96df (``d3net/music-source-separation/filter.py``); no code of theirs.

The arithmetic between spectra is in double precision whatever their type: where the channels are nearly alike, as in
most music and in all mono, the determinant of the mixture's covariance cancels and single precision leaves no digit of
it. Done a few frames at a time, in the cache, that costs little. Statistics are taken over the frames given and no
others: whoever cuts a song into windows gets results that depend on their own window only.

Spectra come in blocks of frames that can be read again. What is in memory is one block; a song too long for that is
read once for each step's statistics and once for the result, its earlier steps being computed anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import torch
from torch import Tensor

from ..errors import UsageError

Read = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Blocks of a song's frames in order, from the start at every call: magnitudes and mixture as `wiener` takes them."""

_BLOCK_POINTS = 8192
"""Time-frequency points computed at a time; a plane of them is 128 KiB."""
_CANCELLED = 1e-13
"""A difference this small beside what it is taken between has no digit left in double precision."""


@dataclass(frozen=True)
class Definition:
    """The constants in which definitions of the filter differ."""

    source: str
    eps: float | None
    """Added to denominators; None: the machine epsilon of the mixture's real type."""
    loudest: float | None = 10.0
    """Louder spectra are filtered as if scaled down to this, for the regularisation is absolute; None: as they are."""
    regularised: bool = True
    """Whether the mixture's covariance gets the square root of `eps` on its diagonal."""
    power_floor: float = 0.0
    """This share of a source's highest power is added to all of its powers."""
    least_determinant: float = 0.0
    """Covariances with smaller determinants are inverted by their conjugate transpose over their squared norm."""
    subtracts_magnitudes: bool = False
    """The residual is a magnitude, estimated by `residual_magnitude`; else a spectrum, the mixture less the others."""
    silence: float = 0.0
    """What digital silence in the mixture is replaced by where magnitudes are to take its phase."""


class WienerRule(Enum):
    """Whose definition of the filter."""

    NORBERT = Definition("norbert 0.2.1", eps=None, subtracts_magnitudes=True)
    OPEN_UNMIX = Definition("openunmix 1.3.0, openunmix/filtering.py", eps=1e-10)
    OPEN_UNMIX_1_3 = replace(OPEN_UNMIX, silence=1.0)
    """With a fault of that version: its ``atan2`` writes ones over the silence in the mixture that it was given."""
    SONY = Definition(
        "sony/ai-research-code, d3net/music-source-separation/filter.py",
        eps=torch.finfo(torch.float64).eps,
        loudest=None,
        regularised=False,
        power_floor=1e-10,
        least_determinant=1e-10,
    )


def softmask(magnitudes: Tensor, mix: Tensor, eps: float) -> Tensor:
    """Share the mixture out in proportion to the sources' magnitudes.

    Args:
        magnitudes: ``[S, C, frames, bins]``, >= 0; C may be 1 for all channels alike.
        mix: complex ``[C, frames, bins]``.
        eps: added to the denominator.

    Returns:
        complex ``[S, C, frames, bins]``.

    """
    return _times(magnitudes, mix / (eps + magnitudes.sum(0)))


def with_phase_of(mix: Tensor, magnitudes: Tensor) -> Tensor:
    """Give magnitudes the phase of the mixture, which is 0 where that is silent.

    Args:
        mix: complex ``[C, frames, bins]``.
        magnitudes: ``[S, C, frames, bins]``, >= 0; C may be 1 for all channels alike.

    Returns:
        complex ``[S, C, frames, bins]``.

    """
    return _times(magnitudes, torch.where(mix == 0, 1, torch.sgn(mix)))


def _times(magnitudes: Tensor, spectrum: Tensor) -> Tensor:
    """The product of real ``[S, ...]`` and complex ``[...]``, without a complex copy of the first."""
    real, imaginary = spectrum.real, spectrum.imag
    return torch.stack([torch.complex(one * real, one * imaginary) for one in magnitudes.to(real.dtype)])


def residual_magnitude(magnitudes: Tensor, mix: Tensor, alpha: float = 1.0, autoscale: bool = True) -> Tensor:
    """Estimate what the sources leave of the mixture by spectral subtraction (norbert's ``residual_model``).

    Args:
        magnitudes: ``[S, C, frames, bins]``, >= 0; C may be 1 for all channels alike.
        mix: complex ``[C, frames, bins]``.
        alpha: the magnitudes are to this power: 1 amplitudes, 2 energies.
        autoscale: each frequency's magnitudes are scaled to fit the mixture's over all frames, as norbert 0.2.1 does
            and later versions do only if asked. The residual is taken before, as there.

    Returns:
        ``[S + 1, C, frames, bins]``, the residual last.

    """
    gain = _residual_gain([(magnitudes, mix)], alpha) if autoscale else 1.0
    return _with_residual(magnitudes, mix, gain, alpha)


def _mixture_magnitude(magnitudes: Tensor, mix: Tensor, alpha: float) -> Tensor:
    return mix.abs().pow(alpha).clamp(min=torch.finfo(magnitudes.dtype).eps)


def _residual_gain(blocks: Iterable[tuple[Tensor, Tensor]], alpha: float = 1.0) -> Tensor:
    """What makes each frequency's magnitudes fit the mixture's over all frames, ``[C, 1, bins]``."""
    common: Tensor | float = 0.0
    own: Tensor | float = 0.0
    for magnitudes, mix in blocks:
        total = magnitudes.sum(0)
        product = _mixture_magnitude(magnitudes, mix, alpha) * total
        common = common + product.sum(1, keepdim=True, dtype=torch.float64)
        own = own + total.square().sum(1, keepdim=True, dtype=torch.float64)
    gain = torch.as_tensor(common / (torch.finfo(magnitudes.dtype).eps + own))
    return gain.to(magnitudes.dtype)


def _with_residual(magnitudes: Tensor, mix: Tensor, gain: Tensor | float, alpha: float = 1.0) -> Tensor:
    residual = (_mixture_magnitude(magnitudes, mix, alpha) - magnitudes.sum(0)).clamp(min=0)
    return torch.cat([(magnitudes * gain).expand(-1, len(mix), -1, -1), residual[None]])


def local_gaussian_model(sources: Tensor, floor: Tensor | float, power_floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Estimate the power and the spatial covariance of each source.

    Args:
        sources: complex ``[S, C, frames, bins]``.
        floor: added to the sum of a bin's powers, which the covariance is divided by.
        power_floor: see `Definition`.

    Returns:
        Powers, real double ``[S, frames, bins]``, and Hermitian covariances, complex double ``[S, C, C, bins]``.

    """
    block = _Block(sources, sources[0])
    model = _Model.of([block], floor, power_floor)
    return block.power + model.least_power, model.covariance


class _Block:
    """A stretch of a song: sources ``[S, C, frames, bins]`` and mixture ``[C, frames, bins]``."""

    def __init__(self, sources: Tensor, mix: Tensor):
        self.sources, self.mix = sources, mix
        self._power: Tensor | None = None

    @property
    def power(self) -> Tensor:
        """Of each source, the mean over its channels, double ``[S, frames, bins]``."""
        if self._power is None:
            self._power = torch.cat([_power(piece.to(torch.complex128)) for piece in _pieces(self.sources)], 1)
        return self._power

    def outer(self) -> Tensor:
        """Sum over the frames of the outer products of the channels, ``[S, C, C, bins]``; finds the power as well."""
        powers = []
        total: Tensor | float = 0.0
        for piece in _pieces(self.sources):
            wide = piece.to(torch.complex128)
            powers.append(_power(wide))
            total = total + _outer(wide)
        self._power = torch.cat(powers, 1)
        return torch.as_tensor(total)


_ReadBlocks = Callable[[], Iterable[_Block]]


@dataclass(frozen=True)
class _Model:
    """The local Gaussian model of a song, but for the powers, which are the blocks' own."""

    covariance: Tensor
    """``[S, C, C, bins]``."""
    least_power: Tensor | float
    """Is added to all powers, ``[S, 1, 1]``."""

    @classmethod
    def of(cls, blocks: Iterable[_Block], floor: Tensor | float, power_floor: float) -> _Model:
        """Read the whole song once."""
        frames = 0
        outer: Tensor | float = 0.0
        total: Tensor | float = 0.0
        highest: Tensor | float = 0.0
        for block in blocks:
            outer = outer + block.outer()
            frames += block.power.shape[1]
            total = total + block.power.sum(1)
            if power_floor:
                loudest = block.power.amax((1, 2), keepdim=True)
                highest = loudest if isinstance(highest, float) else torch.maximum(highest, loudest)
        least = power_floor * highest
        total = total + (frames * least.squeeze(1) if isinstance(least, Tensor) else 0.0)
        assert isinstance(total, Tensor)
        return cls(outer / (floor + total)[:, None, None], least)

    def refined(self, block: _Block, inverse: _Inverse) -> _Block:
        """The block's likeliest sources under this model."""
        parts = zip(_pieces(block.power + self.least_power), _pieces(block.mix), strict=True)
        return _Block(torch.cat([_posterior(p, self.covariance, x, inverse) for p, x in parts], 2), block.mix)


def _power(block: Tensor) -> Tensor:
    return (block.real.square() + block.imag.square()).mean(1)


def _outer(block: Tensor) -> Tensor:
    """Sum over the frames of ``[S, C, frames, bins]`` the outer products of the channels: ``[S, C, C, bins]``."""
    channels = range(block.shape[1])
    conjugate = block.conj()
    rows = [torch.stack([(block[:, c] * conjugate[:, d]).sum(1) for d in channels], 1) for c in channels]
    return torch.stack(rows, 1)


def expectation_maximisation(
    sources: Tensor,
    mix: Tensor,
    iterations: int = 1,
    rule: WienerRule = WienerRule.NORBERT,
    eps: float | None = None,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Refine source spectra with statistics over all the frames given.

    Args:
        sources: complex ``[S, C, frames, bins]``, the starting point.
        mix: complex ``[C, frames, bins]``, one frame at least.
        iterations: number of steps, >= 0.
        rule: whose constants.
        eps: in place of the rule's own.
        scale: the result is that of `sources` and `mix` divided by this, times this.

    Returns:
        complex ``[S, C, frames, bins]``, of the type of `mix`.

    """
    eps = _eps(rule.value, mix, eps)
    (refined,) = _refined_blocks(_kept(lambda: [_Block(sources, mix)]), iterations, rule, eps, scale, _kept)()
    return refined.sources


def _kept(read: _ReadBlocks) -> _ReadBlocks:
    """The same blocks, held in memory with whatever is known of them."""
    blocks = list(read())
    return lambda: blocks


def _lazy(read: _ReadBlocks) -> _ReadBlocks:
    """The same blocks, made anew at every reading."""
    return read


def _refined_blocks(
    read: _ReadBlocks,
    iterations: int,
    rule: WienerRule,
    eps: float,
    scale: Tensor | float,
    remember: Callable[[_ReadBlocks], _ReadBlocks],
) -> _ReadBlocks:
    """The steps of EM, each a reading of the one before."""
    definition = rule.value
    # Scaling the regularisation, which is of the dimension of a power, spares scaling the spectra there and back.
    floor, diagonal = eps * scale**2, eps**0.5 * scale**2 if definition.regularised else 0.0
    inverse = _Inverse(diagonal, eps, definition.least_determinant)
    for _ in range(iterations):
        model = _Model.of(read(), floor, definition.power_floor)
        read = remember(partial(_step, read, model, inverse))
    return read


def _step(read: _ReadBlocks, model: _Model, inverse: _Inverse) -> Iterator[_Block]:
    return (model.refined(block, inverse) for block in read())


def _eps(definition: Definition, mix: Tensor, given: float | None) -> float:
    if given is not None:
        return given
    return torch.finfo(mix.dtype).eps if definition.eps is None else definition.eps


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Cut ``[..., frames, bins]`` into runs of a few frames."""
    yield from torch.split(tensor, max(1, _BLOCK_POINTS // tensor.shape[-1]), -2)


@dataclass(frozen=True)
class _Inverse:
    """How the mixture's covariance is inverted."""

    diagonal: Tensor | float
    eps: float
    least_determinant: float

    def of_two_channels(self, power: Tensor, covariance: Tensor, mix: Tensor) -> tuple[Tensor, ...]:
        """The inverse times the mixture, channel by channel, in closed form."""
        a, b = (_mixed(power, covariance[:, c, c].real) + self.diagonal for c in range(2))
        c = _mixed(power, covariance[:, 0, 1])
        # Rounding can leave the part that cancels below zero, where it cannot be.
        square = c.real.square() + c.imag.square()
        determinant = ((a - self.diagonal) * (b - self.diagonal) - square).clamp(min=0)
        determinant = determinant + self.diagonal * (a + b - self.diagonal)
        if not self.least_determinant:
            weight = 1 / determinant
            return (b * mix[0] - c * mix[1]) * weight, (a * mix[1] - c.conj() * mix[0]) * weight
        regular = determinant >= (_CANCELLED * a * b).clamp(min=self.least_determinant)
        norm = a.square() + b.square() + 2 * square + self.eps
        weight = 1 / torch.where(regular, determinant, norm)
        first = torch.where(regular, b * mix[0] - c * mix[1], a * mix[0] + c * mix[1])
        second = torch.where(regular, a * mix[1] - c.conj() * mix[0], b * mix[1] + c.conj() * mix[0])
        return first * weight, second * weight

    def of_any(self, power: Tensor, covariance: Tensor, mix: Tensor) -> tuple[Tensor, ...]:
        """The same for any number of channels."""
        identity = torch.eye(len(mix), dtype=mix.dtype, device=mix.device)
        total = torch.einsum("stf,scdf->tfcd", power.to(mix.dtype), covariance) + self.diagonal * identity
        column = mix.permute(1, 2, 0)[..., None]
        if not self.least_determinant:
            return tuple(torch.linalg.solve(total, column)[..., 0].unbind(-1))
        regular = (torch.linalg.det(total).abs() >= self.least_determinant)[..., None, None]
        norm = (total.real.square() + total.imag.square()).sum((-2, -1), keepdim=True) + self.eps
        solved = torch.linalg.solve(torch.where(regular, total, identity), column)
        return tuple(torch.where(regular, solved, total.mH @ column / norm)[..., 0].unbind(-1))


def _posterior(power: Tensor, covariance: Tensor, mix: Tensor, inverse: _Inverse) -> Tensor:
    """The likeliest sources given the mixture and the model: ``[S, C, frames, bins]``.

    Power · covariance · (the sum of these over the sources)⁻¹ · mix, from right to left.
    """
    wide = mix.to(covariance.dtype)
    explained = (inverse.of_two_channels if len(mix) == 2 else inverse.of_any)(power, covariance, wide)
    return torch.stack(
        [
            torch.stack([one * _mixed(explained, row) for row in matrix])
            for one, matrix in zip(power, covariance, strict=True)
        ]
    ).to(mix.dtype)


def _mixed(parts: Tensor | tuple[Tensor, ...], weights: Tensor) -> Tensor:
    """The sum of `parts`, ``[frames, bins]`` each, times their weights per bin, ``[parts, bins]``."""
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + part * weight
    return total


def wiener(
    magnitudes: Tensor,
    mix: Tensor,
    iterations: int = 1,
    use_softmask: bool = True,
    residual: bool = False,
    rule: WienerRule = WienerRule.NORBERT,
    eps: float | None = None,
) -> Tensor:
    """Turn magnitude estimates into complex sources.

    Args:
        magnitudes: ``[S, C, frames, bins]``, >= 0; C may be 1 for all channels alike.
        mix: complex ``[C, frames, bins]``, one frame at least. Its type decides about the result's and, where the
            rule says so, about the regularisation.
        iterations: EM steps after the first guess, >= 0.
        use_softmask: the first guess is the ratio mask; False: the magnitudes with the mixture's phase.
        residual: one more source, the last, is what the others leave of the mixture, in the rule's sense.
        rule: whose definition.
        eps: in place of the rule's own.

    Returns:
        complex ``[S, C, frames, bins]``, or S + 1 with the residual.

    Raises:
        UsageError: shapes or the number of iterations make no sense.

    """
    blocks = [(magnitudes, mix)]
    (filtered,) = _filtered(lambda: blocks, iterations, use_softmask, residual, rule, eps, in_memory=True)
    return filtered


def wiener_in_blocks(
    read: Read,
    iterations: int = 1,
    use_softmask: bool = True,
    residual: bool = False,
    rule: WienerRule = WienerRule.NORBERT,
    eps: float | None = None,
) -> Iterator[Tensor]:
    """As `wiener`, of a song that need not fit into memory: the statistics are those of all blocks together.

    Args:
        read: what `wiener` takes, cut along the frames. It is called ``iterations + 1`` times; once more where the
            rule scales loud spectra down, and where it fits the magnitudes for a residual; and once for a first look.
        iterations, use_softmask, residual, rule, eps: as `wiener`.

    Yields:
        complex ``[S, C, frames, bins]`` for each block, as it comes.

    Raises:
        UsageError: there is no block, or shapes or the number of iterations make no sense.

    """
    return _filtered(read, iterations, use_softmask, residual, rule, eps, in_memory=False)


def _filtered(
    read: Read,
    iterations: int,
    use_softmask: bool,
    residual: bool,
    rule: WienerRule,
    eps: float | None,
    in_memory: bool,
) -> Iterator[Tensor]:
    definition = rule.value
    first = next(iter(read()), None)
    if first is None:
        raise UsageError("there is nothing to filter; give one block of frames or more")
    _require_fit(*first, iterations)
    eps = _eps(definition, first[1], eps)
    if definition.silence and not use_softmask:
        read = partial(_sounding, read, definition.silence)
    gain = _residual_gain(read()) if residual and definition.subtracts_magnitudes else None
    scale: Tensor | float = 1.0
    if iterations and definition.loudest is not None:
        loudest = torch.stack([mix.abs().amax() for _, mix in read()]).amax()
        scale = (loudest / definition.loudest).clamp(min=1)

    def guesses() -> Iterator[_Block]:
        for magnitudes, mix in read():
            _require_fit(magnitudes, mix, iterations)
            known = magnitudes if gain is None else _with_residual(magnitudes, mix, gain)
            sources = softmask(known, mix, eps) if use_softmask else with_phase_of(mix, known)
            if residual and not definition.subtracts_magnitudes:
                sources = torch.cat([sources, (mix - sources.sum(0))[None]])
            yield _Block(sources, mix)

    remember = _kept if in_memory else _lazy
    for block in _refined_blocks(remember(guesses), iterations, rule, eps, scale, remember)():
        yield block.sources


def _sounding(read: Read, silence: float) -> Iterator[tuple[Tensor, Tensor]]:
    return ((magnitudes, torch.where(mix == 0, silence, mix)) for magnitudes, mix in read())


def _require_fit(magnitudes: Tensor, mix: Tensor, iterations: int) -> None:
    fits = magnitudes.ndim == 4 and magnitudes.shape[2:] == mix.shape[1:] and magnitudes.shape[1] in (1, len(mix))
    if not fits or not mix.is_complex() or 0 in (*magnitudes.shape, *mix.shape):
        raise UsageError(
            f"magnitudes of shape {list(magnitudes.shape)} and a mixture of {list(mix.shape)}, {mix.dtype}, do not "
            "fit; give [sources, channels, frames, bins] and complex [channels, frames, bins]"
        )
    if iterations < 0:
        raise UsageError(f"the filter cannot iterate {iterations} times; give 0 or more")
