"""BSS Eval: what a separated stem lacks and what it should not have, in decibels, frame by frame.

An estimate is split into four parts. With P_j the least-squares projection on the true image of its own stem,
delayed by 0 … 511 samples in every channel, and P_all that on the delayed images of all stems::

    estimate = s + e_spat + e_interf + e_artif       s         the true image of the stem
                                                     e_spat    P_j estimate - s
                                                     e_interf  P_all estimate - P_j estimate
                                                     e_artif   estimate - P_all estimate

    SDR = |s|² / |e_spat + e_interf + e_artif|²      ISR = |s|² / |e_spat|²
    SIR = |s + e_spat|² / |e_interf|²                SAR = |s + e_spat + e_interf|² / |e_artif|²

Definitions: Vincent, Gribonval and Févotte, "Performance measurement in blind audio source separation", IEEE TASLP
14(4), 2006 (v2, the *sources* version); Vincent, Araki and Bofill, ICA 2009 (v3, *images*); Stöter, Liutkus and Ito,
"The 2018 Signal Separation Evaluation Campaign", LVA/ICA 2018 (v4). Conventions and numbers are those of the PyPI
package museval 0.4.1 (``museval.metrics.bss_eval``), against which this is tested.

How it is fast: correlations are summed up in the spectra of short blocks, so that every pair of channels takes one
inverse transform in all; one Cholesky factor serves all estimates; projections are made block by block, their
energies summed and the samples dropped. Everything is float64. Besides the input, memory is held by the matrix of the
normal equations and its factor: 16 (stems x channels x filter_length)² bytes, 270 MB for four stereo stems.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iseparate.errors import AudioFormatError, UsageError

Mode = Literal["v4", "v3"]
Version = Literal["images", "sources"]

_MAX_PERMUTED = 8
"""Stems whose orders are all tried: 8! are forty thousand."""
_MAX_CHANNELS = 64
"""More than these are samples in the place of channels: their equations would take all memory there is."""
_BATCH_BLOCKS = 8
"""Blocks that are transformed at a time: few, so that they stay in the processor's cache."""
_SCAN_SAMPLES = 1 << 20
"""Samples that are checked for NaN at a time."""


@dataclass(frozen=True)
class BssScores:
    """Decibels by stem and frame, each float64 ``[S, frames]``; NaN where a score is undefined."""

    sdr: NDArray[np.float64]
    """Signal to distortion."""
    isr: NDArray[np.float64]
    """Image to spatial distortion; NaN throughout in the *sources* version, which forgives it."""
    sir: NDArray[np.float64]
    """Signal to interference."""
    sar: NDArray[np.float64]
    """Signal to artefacts."""
    permutation: NDArray[np.int64]
    """``[S, frames]``: the index of the estimate that was taken for each reference."""


@torch.inference_mode()
def bss_eval(
    references: NDArray[Any] | Sequence[NDArray[Any]],
    estimates: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    window_samples: int | None = 44100,
    hop_samples: int | None = None,
    mode: Mode = "v4",
    version: Version = "images",
    filter_length: int = 512,
    permute: bool = False,
) -> BssScores:
    """Score estimates against references, frame by frame.

    A frame in which any reference or estimate is silent has no scores, for any stem: all its values are NaN. Silent
    means that the channels *sum* to zero, so a stem in opposite phase counts as silent (both as museval has it).
    A stem that is silent from beginning to end, as reference or as estimate, has NaN in all frames, and the others are
    scored as if it were not silent there; museval refuses such songs.

    Args:
        references: the true images, floating-point ``[S, C, T]`` or a sequence of S arrays ``[C, T]``, which may be
            memory-mapped. All S sources of the mixture belong here: they define what interference is.
        estimates: the same in the same order.
        window_samples: length of a frame: one second at 44.1 kHz. None, or anything from T up, is one frame over all.
            Frames that would end beyond T are left out.
        hop_samples: distance of frames; None: one window.
        mode: ``v4`` finds the distortion filters once, over all T samples; ``v3`` anew in each frame.
        version: ``images`` compares with the true image, ``sources`` with its projection P_j: then filtering the
            estimate costs nothing (SDR = |s + e_spat|² / |e_interf + e_artif|²). The field uses ``images``.
        filter_length: taps of a distortion filter.
        permute: find the order of the estimates with the highest mean SIR, in ``v3`` for each frame. Frames
            without scores do not count.

    Raises:
        AudioFormatError: shapes that differ, no samples, integers, NaN or infinity.
        UsageError: an option out of its range, or `permute` with more than eight or with silent stems.
    """
    _check_options(window_samples, hop_samples, mode, version, filter_length)
    shape = _check_signals(references, estimates)
    stems, _, samples = shape
    silent = np.array([_silent(r) or _silent(e) for r, e in zip(references, estimates, strict=True)])
    if permute and (stems > _MAX_PERMUTED or silent.any()):
        why = "a silent stem fits any" if silent.any() else f"{stems} stems have too many orders"
        raise UsageError(f"the order of the estimates cannot be found: {why}; give them in order, without permute")

    song = _Song(references, estimates, shape, filter_length)
    sounding = [stem for stem in range(stems) if not silent[stem]]
    pairs = list(itertools.product(sounding, sounding)) if permute else [(stem, stem) for stem in sounding]
    frames = list(_frames(samples, window_samples, hop_samples))
    filters = song.filters(slice(0, samples), pairs) if mode == "v4" and pairs else None
    scores = np.full((4, stems, stems, len(frames)), np.nan)
    for index, frame in enumerate(frames):
        heard = (signal[:, frame] for group in (references, estimates) for signal in (group[i] for i in sounding))
        if pairs and not any(_silent(signal) for signal in heard):
            energies = song.energies(frame, pairs, filters or song.filters(frame, pairs), version)
            j, e = np.transpose(pairs)
            scores[:, j, e, index] = _decibels(energies, version)
    order = _best_order(scores[2], mode) if permute else np.arange(stems)[:, None]
    order = np.broadcast_to(order, (stems, len(frames)))
    chosen = scores[:, np.arange(stems)[:, None], order, np.arange(len(frames))]
    return BssScores(chosen[0], chosen[1], chosen[2], chosen[3], order.astype(np.int64))


def bss_eval_like_museval(
    references: NDArray[Any],
    estimates: NDArray[Any],
    win: int = 44100,
    hop: int = 44100,
    mode: Mode = "v4",
    padding: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """SDR, ISR, SIR and SAR under the name and rules of ``museval.evaluate``, arrays ``[S, T, C]``.

    Estimates are cut or filled with zeros at the end to the references' length.

    Raises:
        ValueError: a reference or an estimate is silent throughout, as in museval. (`AudioFormatError` and
            `UsageError` as in `bss_eval`; the latter is a ValueError too.)
    """
    references, estimates = np.asarray(references), np.asarray(estimates)
    if references.ndim != 3 or estimates.ndim != 3:
        came = f"{references.ndim} and {estimates.ndim}"
        raise AudioFormatError(f"references and estimates have {came} dimensions; expected [stems, samples, channels]")
    samples = references.shape[1]
    if padding:
        missing = max(0, samples - estimates.shape[1])
        estimates = np.pad(estimates[:, :samples], [(0, 0), (0, missing), (0, 0)])
    stems = (references.transpose(0, 2, 1), estimates.transpose(0, 2, 1))
    for what, group in zip(("reference", "estimate"), stems, strict=True):
        for index, signal in enumerate(group):
            if _silent(signal):
                raise UsageError(
                    f"{what} {index} is silent; leave the stem out, or call bss_eval, which passes over it"
                )
    scores = bss_eval(*stems, window_samples=win, hop_samples=hop, mode=mode)
    return scores.sdr, scores.isr, scores.sir, scores.sar


class _Filters:
    """Distortion filters, the last axis taps.

    `everything`, ``[S*C of estimates, S*C of references, taps]``, project on all references; `own`,
    ``[pairs, C of the estimate, C of the reference, taps]``, on one.
    """

    def __init__(self, everything: Tensor, own: Tensor):
        self._taps = (everything, own)
        self._size = 0
        self._spectra = self._taps

    def spectra(self, size: int) -> tuple[Tensor, Tensor]:
        """Those of both. They are kept, as every frame asks for the same size."""
        if size != self._size:
            everything, own = self._taps
            self._size, self._spectra = size, (torch.fft.rfft(everything, size), torch.fft.rfft(own, size))
        return self._spectra


class _Song:
    """References and estimates, read in stretches of float64 that are zero outside a frame."""

    def __init__(
        self,
        references: Sequence[NDArray[Any]] | NDArray[Any],
        estimates: Sequence[NDArray[Any]] | NDArray[Any],
        shape: tuple[int, int, int],
        taps: int,
    ):
        self._signals = [*references, *estimates]
        self._stems, self._channels, _ = shape
        self._taps = taps
        # Blocks some sixteen filters long waste little on the overlap and fit a cache (those of correlations are a
        # quarter of that: there is more to hold at a time); FFTs like powers of two.
        self._longest = max(8192, 1 << (16 * taps - 1).bit_length())

    def filters(self, frame: slice, pairs: Sequence[tuple[int, int]]) -> _Filters:
        """Least squares over `frame`."""
        gram, moments = self._normal_equations(frame)
        width = self._channels
        kinds = self._kinds(frame)
        everything = _projection(gram, moments, kinds)
        own = []
        for j, of_pairs in itertools.groupby(pairs, lambda pair: pair[0]):
            rows = slice(j * width, (j + 1) * width)
            columns = [column for _, e in of_pairs for column in range(e * width, (e + 1) * width)]
            solution = _projection(gram[rows, :, rows], moments[rows, :, columns], kinds[rows])
            own.append(solution.reshape(width, self._taps, -1, width).permute(2, 3, 0, 1))
        return _Filters(everything.permute(2, 0, 1), torch.cat(own))

    def energies(
        self, frame: slice, pairs: Sequence[tuple[int, int]], filters: _Filters, version: Version
    ) -> NDArray[np.float64]:
        """``[7, pairs]`` of s, e_spat, s + e_spat, e_interf, s + e_spat + e_interf, e_artif, and the SDR's denominator.

        The filtered signals are longer than the frame by the filter, and the tail counts.
        """
        outputs = frame.stop - frame.start + self._taps - 1
        blocks = -(-outputs // (self._longest - self._taps + 1))
        step = -(-outputs // blocks)
        size = 1 << (step + self._taps - 2).bit_length()
        everything, own = filters.spectra(size)
        j, e = torch.tensor(pairs).T
        total = torch.zeros(7, len(pairs), dtype=torch.float64)
        for first in range(0, blocks, _BATCH_BLOCKS):
            count = min(_BATCH_BLOCKS, blocks - first)
            start = frame.start + first * step
            signals = self._read(frame, start - self._taps + 1, start + count * step)
            references = signals[: self._stems * self._channels]
            spectra = torch.fft.rfft(references.unfold(1, step + self._taps - 1, step), size)
            now = signals[:, self._taps - 1 :].reshape(2, self._stems, self._channels, -1)

            def filtered(banks: Tensor, inputs: Tensor, size: int = size, step: int = step) -> Tensor:
                # banks [..., inputs, bins], inputs [..., inputs, blocks, bins] -> [..., samples]
                products = banks[..., 0, None, :] * inputs[..., 0, :, :]
                for index in range(1, banks.shape[-2]):
                    products.addcmul_(banks[..., index, None, :], inputs[..., index, :, :])
                keep = slice(self._taps - 1, self._taps - 1 + step)
                signals: Tensor = torch.fft.irfft(products, size)[..., keep].flatten(-2)
                return signals

            by_stem = spectra.reshape(self._stems, 1, self._channels, count, -1)
            on_all = filtered(everything, spectra).reshape(self._stems, self._channels, -1)[e]
            on_own = filtered(own, by_stem[j])
            true, estimate = now[0, j], now[1, e]
            target = true if version == "images" else on_own
            parts = (true, on_own - true, on_own, on_all - on_own, on_all, estimate - on_all, estimate - target)
            for index, part in enumerate(parts):
                total[index] += _energy(part)
        return total.numpy()

    def _normal_equations(self, frame: slice) -> tuple[Tensor, Tensor]:
        """Inner products of all references' delays with each other, ``[S*C, taps, S*C, taps]``, and with estimates.

        Those, ``[S*C of references, taps, S*C of estimates]``, are with the estimate as it is.
        """
        taps, count = self._taps, self._stems * self._channels
        longest = min(self._longest // 4, 1 << (frame.stop - frame.start + taps - 2).bit_length())
        step = longest - taps + 1
        cross = torch.zeros(longest // 2 + 1, count, 2 * count, dtype=torch.complex128)
        for start in range(frame.start, frame.stop, step * _BATCH_BLOCKS):
            blocks = min(_BATCH_BLOCKS, -(-(frame.stop - start) // step))
            signals = self._read(frame, start, start + blocks * step + taps - 1)
            later = signals.unfold(1, longest, step)
            # Padded by a filter's length, the circular correlation of a block with itself and what follows is plain.
            # Products of matrices are several times as fast on contiguous ones.
            now = torch.fft.rfft(later[:count, :, :step], longest).permute(2, 0, 1).contiguous()
            cross.baddbmm_(now.conj(), torch.fft.rfft(later).permute(2, 1, 0).contiguous())
        # lags[k, p, q]: sum over t of p[t] q[t + k]
        lags = torch.fft.irfft(cross, longest, dim=0)[:taps]
        gram = torch.empty(count, taps, count, taps, dtype=torch.float64)
        for p, q in itertools.product(range(count), repeat=2):
            both_sides = torch.cat([lags[1:, q, p].flip(0), lags[:, p, q]])
            gram[p, :, q] = both_sides.unfold(0, taps, 1).flip(1)
        # museval's guard against singular matrices, whatever their size.
        gram.reshape(count * taps, -1).diagonal().add_(torch.finfo(torch.float64).eps)
        return gram, lags[:, :, count:].permute(1, 0, 2)

    def _kinds(self, frame: slice) -> list[int]:
        """For each channel of the references the first channel that is the same as it in `frame`."""
        channels = [channel for signal in self._signals[: self._stems] for channel in signal]
        stretches = [
            slice(start, min(start + _SCAN_SAMPLES, frame.stop))
            for start in range(frame.start, frame.stop, _SCAN_SAMPLES)
        ]
        kinds: list[int] = []
        for index, channel in enumerate(channels):
            same = (
                kind
                for kind in dict.fromkeys(kinds)
                if all(np.array_equal(channels[kind][stretch], channel[stretch]) for stretch in stretches)
            )
            kinds.append(next(same, index))
        return kinds

    def _read(self, frame: slice, start: int, stop: int) -> Tensor:
        """``[2*S*C, stop - start]``: the references' channels, then the estimates', zero outside `frame`."""
        block = np.zeros((len(self._signals), self._channels, stop - start))
        inside = slice(max(start, frame.start), min(stop, frame.stop))
        if inside.start < inside.stop:
            for index, signal in enumerate(self._signals):
                block[index, :, inside.start - start : inside.stop - start] = signal[:, inside]
        return torch.from_numpy(block.reshape(-1, stop - start))


def _projection(gram: Tensor, moments: Tensor, kinds: Sequence[int]) -> Tensor:
    """Filters ``[references, taps, estimates]`` of ``[references, taps, references, taps]`` and inner products.

    Of references that are the same (both channels of a mono stem) one is enough; the others' filters are zero. The
    projection is no other, and the equations stay regular.
    """
    taps = gram.shape[1]
    used = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    if len(used) < len(kinds):
        gram = gram[used][:, :, used]
    solution = _solved(gram.reshape(len(used) * taps, -1), moments[used].reshape(len(used) * taps, -1))
    filters = torch.zeros_like(moments)
    filters[used] = solution.reshape(len(used), taps, -1)
    return filters


def _solved(gram: Tensor, moments: Tensor) -> Tensor:
    """Filters of the normal equations."""
    factor, failed = torch.linalg.cholesky_ex(gram)
    if not failed:
        return torch.cholesky_solve(moments, factor)
    # References that are combinations of others make the matrix singular up to rounding. Any solution will do, as
    # what they differ in is filtered to nothing; the guard, now of the rounding's size, keeps pivots from being zero.
    del factor
    gram.diagonal().add_(gram.diagonal().max() * torch.finfo(torch.float64).eps)
    solution: Tensor
    solution, failed = torch.linalg.solve_ex(gram, moments)
    if failed or not solution.isfinite().all():
        solution = torch.linalg.lstsq(gram, moments, driver="gelsd").solution
    return solution


def _energy(part: Tensor) -> Tensor:
    """Over channels and samples of ``[pairs, C, samples]``."""
    energy: Tensor = torch.linalg.vector_norm(part, dim=(1, 2)).square_()
    return energy


def _decibels(energies: NDArray[np.float64], version: Version) -> NDArray[np.float64]:
    """``[4, pairs]``: SDR, ISR, SIR, SAR; infinite where nothing disturbs."""
    true, spatial, own, interference, projected, artifacts, distortion = energies
    above = [true if version == "images" else own, true, own, projected]
    below = [distortion, spatial, interference, artifacts]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = 10 * np.log10(np.divide(above, below))
    if version == "sources":
        ratios[1] = np.nan
    return np.asarray(ratios)


def _best_order(sir: NDArray[np.float64], mode: Mode) -> NDArray[np.int64]:
    """``[S, 1]`` or, for v3, ``[S, frames]``: which estimate each reference gets, of ``sir[reference, estimate]``."""
    stems = np.arange(sir.shape[0])
    orders = np.array(list(itertools.permutations(stems)))
    scored = sir if mode == "v3" else sir[..., ~np.isnan(sir).any((0, 1))].mean(-1, keepdims=True)
    means = np.stack([scored[stems, order].mean(0) for order in orders])
    return np.asarray(orders[np.argmax(np.nan_to_num(means, nan=0.0, posinf=np.inf, neginf=-np.inf), 0)].T)


def _frames(samples: int, window_samples: int | None, hop_samples: int | None) -> Iterator[slice]:
    if window_samples is None or window_samples >= samples:
        yield slice(0, samples)
        return
    for start in range(0, samples - window_samples + 1, hop_samples or window_samples):
        yield slice(start, start + window_samples)


def _silent(signal: NDArray[Any]) -> bool:
    """True where the channels of ``[C, T]`` sum to zero throughout."""
    stretches = range(0, signal.shape[1], _SCAN_SAMPLES)
    return not any(signal[:, start : start + _SCAN_SAMPLES].sum(0, dtype=np.float64).any() for start in stretches)


def _check_options(window: int | None, hop: int | None, mode: str, version: str, filter_length: int) -> None:
    for what, value in (("window_samples", window), ("hop_samples", hop), ("filter_length", filter_length)):
        if value is not None and (not isinstance(value, (int, np.integer)) or value < 1):
            raise UsageError(f"{what} is {value!r}; expected a whole number of samples, 1 or more")
    for what, word, words in (("mode", mode, get_args(Mode)), ("version", version, get_args(Version))):
        if word not in words:
            raise UsageError(f"{what} is {word!r}; expected {' or '.join(words)}")


def _check_signals(
    references: Sequence[Any] | NDArray[Any], estimates: Sequence[Any] | NDArray[Any]
) -> tuple[int, int, int]:
    """The common shape ``[S, C, T]``."""
    if len(references) == 0 or len(references) != len(estimates):
        raise AudioFormatError(
            f"{len(references)} references and {len(estimates)} estimates came; give one estimate for each reference"
        )
    shape = check_shape("reference 0", references[0])
    for what, group in (("reference", references), ("estimate", estimates)):
        for index, signal in enumerate(group):
            check_signal(f"{what} {index}", signal, shape, "reference 0")
    return len(references), *shape


def check_shape(what: str, signal: Any) -> tuple[int, int]:
    """The shape ``[C, T]`` of what every other signal is held against; AudioFormatError where it has another."""
    shape = np.shape(signal)
    if len(shape) != 2 or 0 in shape:
        raise AudioFormatError(f"{what} has the shape {list(shape)}; expected [channels, samples], none of them 0")
    if shape[0] > _MAX_CHANNELS:
        raise AudioFormatError(
            f"{what} has the shape {list(shape)}, that is {shape[0]} channels; expected [channels, samples], so "
            "transpose it if samples come first, as in museval"
        )
    return shape[0], shape[1]


def check_signal(what: str, signal: Any, shape: tuple[int, int], model: str) -> None:
    """AudioFormatError unless `signal` is a finite floating-point array of the shape that `model` has."""
    if np.shape(signal) != shape:
        raise AudioFormatError(
            f"{what} has the shape {list(np.shape(signal))} and {model} {list(shape)}; give all the same channels and "
            "length"
        )
    if not isinstance(signal, np.ndarray) or not np.issubdtype(signal.dtype, np.floating):
        kind = getattr(signal, "dtype", type(signal).__name__)
        raise AudioFormatError(f"{what} holds {kind}; convert it to a floating-point array, full scale ±1")
    for start in range(0, signal.shape[1], _SCAN_SAMPLES):
        if not np.isfinite(signal[:, start : start + _SCAN_SAMPLES]).all():
            raise AudioFormatError(f"{what} holds NaN or infinity; mend it first")
