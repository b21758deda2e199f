"""The scores by name, each with the definition that tells it from others called SDR too.

=================  ===================================================================================================
``bss_eval_v4``    SDR, ISR, SIR, SAR of one-second frames; the tables of the MUSDB18 literature
``bss_eval_v3``    the same with filters found anew in every frame; higher, and slow
``usdr``           uSDR of the whole stem; the challenges since 2021 and the community's tables
``si_sdr``         SI-SDR of the whole stem
``log_wmse``       logWMSE of the whole stem; defined for silent stems
=================  ===================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iseparate.errors import AudioFormatError, UsageError
from iseparate.evaluate.bsseval import Mode, bss_eval, check_shape, check_signal
from iseparate.evaluate.log_wmse import log_wmse
from iseparate.evaluate.sdr import si_sdr, usdr
from iseparate.types import Samples

StemScores = dict[str, dict[str, NDArray[np.float64]]]
"""By stem and name of the value: ``[frames]``, or ``[1]`` for a whole stem, in dB (logWMSE: in its own unit)."""

_Scoring = Callable[[Mapping[str, Samples], Mapping[str, Samples], Samples, int], StemScores]


@dataclass(frozen=True)
class Metric:
    """One convention of scoring. Values of two conventions are not to be compared, whatever they are called."""

    name: str
    definition: str
    """One sentence with its source: what is computed over which frames, and how frames become one figure."""
    values: tuple[str, ...]
    framewise: bool
    """True: a value for each whole second of the track; a track shorter than that is one frame."""
    _scoring: _Scoring = field(repr=False)

    def score(
        self,
        references: Mapping[str, Samples],
        estimates: Mapping[str, Samples],
        mix: Samples,
        sample_rate: int,
    ) -> StemScores:
        """Score the estimates of one track.

        Args:
            references: the true stems by name, floating-point ``[C, T]``, full scale ±1. Metrics that tell interference
                take these, together, for all there is in the mixture.
            estimates: one for each reference, of its channels; others are passed over. One that is up to a second
                longer is cut, one that is up to a second shorter gets zeros at the end.
            mix: ``[C, T]``.
            sample_rate: of all, in Hz.

        Returns:
            Values by stem, in the references' order. NaN where a score is undefined, infinite where nothing disturbs.

        Raises:
            AudioFormatError: a missing estimate, channels or lengths that differ, no samples, integers, NaN, infinity.
            UsageError: the metric's package is not installed, or the rate is no whole number of Hz.
        """
        if not isinstance(sample_rate, (int, np.integer)) or sample_rate < 1:
            raise UsageError(f"the sample rate is {sample_rate!r}; expected a whole number of Hz, 1 or more")
        if not references:
            raise AudioFormatError("there are no references; a score needs the true stems")
        missing = [name for name in references if name not in estimates]
        if missing:
            came = ", ".join(estimates) or "none"
            raise AudioFormatError(
                f"there is no estimate of {', '.join(missing)} (there is: {came}); leave out its reference or add it"
            )
        first = next(iter(references))
        shape = check_shape(f"the reference {first!r}", references[first])
        for name, reference in references.items():
            check_signal(f"the reference {name!r}", reference, shape, f"the reference {first!r}")
        check_signal("the mixture", mix, shape, f"the reference {first!r}")
        fitted = {name: _fitted(name, estimates[name], shape, sample_rate) for name in references}
        return self._scoring(references, fitted, mix, int(sample_rate))


def pooled(frames: NDArray[np.float64]) -> float:
    """One figure for a track: the median of its finite frames, NaN where there is none.

    That is museval's rule, which writes infinite scores as NaN and passes over NaN.
    """
    values = np.asarray(frames, np.float64)
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def metric(name: str) -> Metric:
    """The metric of that name; UsageError with those there are."""
    if name not in METRICS:
        raise UsageError(f"no metric is called {name[:80]!r}; there is {', '.join(METRICS)}")
    return METRICS[name]


def _fitted(name: str, estimate: Samples, shape: tuple[int, int], sample_rate: int) -> Samples:
    """The estimate at the references' length."""
    what = f"the estimate of {name!r}"
    _, samples = check_shape(what, estimate)
    check_signal(what, estimate, (shape[0], samples), "the references")
    if abs(samples - shape[1]) > sample_rate:
        longer = "longer" if samples > shape[1] else "shorter"
        raise AudioFormatError(
            f"{what} is {abs(samples - shape[1]) / sample_rate:.2f} s {longer} than the references; separate the whole "
            "track, at its own sample rate"
        )
    return (
        np.pad(estimate[:, : shape[1]], [(0, 0), (0, max(0, shape[1] - samples))]) if samples != shape[1] else estimate
    )


def _bss_eval(
    references: Mapping[str, Samples], estimates: Mapping[str, Samples], _mix: Samples, sample_rate: int, *, mode: Mode
) -> StemScores:
    scores = bss_eval(
        list(references.values()), [estimates[name] for name in references], window_samples=sample_rate, mode=mode
    )
    return {
        name: {value: getattr(scores, value.lower())[stem] for value in _BSS_VALUES}
        for stem, name in enumerate(references)
    }


def _each(value: str, function: Callable[..., float], *, needs_mix: bool = False) -> _Scoring:
    """A metric that looks at one stem at a time."""

    def scoring(
        references: Mapping[str, Samples], estimates: Mapping[str, Samples], mix: Samples, sample_rate: int
    ) -> StemScores:
        more: tuple[Any, ...] = (mix, sample_rate) if needs_mix else ()
        return {
            name: {value: np.array([function(reference, estimates[name], *more)])}
            for name, reference in references.items()
        }

    return scoring


_BSS_VALUES = ("SDR", "ISR", "SIR", "SAR")

METRICS: Mapping[str, Metric] = {
    entry.name: entry
    for entry in (
        Metric(
            "bss_eval_v4",
            "BSS Eval v4, images version, as in museval 0.4.1 (Stöter, Liutkus and Ito, 2018): energy ratios in dB of "
            "each whole second, with 512-tap distortion filters found once over the track; a track's figure is the "
            "median of its finite frames.",
            _BSS_VALUES,
            True,
            partial(_bss_eval, mode="v4"),
        ),
        Metric(
            "bss_eval_v3",
            "BSS Eval v3, images version, as in museval 0.4.1 (Vincent, Araki and Bofill, 2009): energy ratios in dB "
            "of each whole second, with 512-tap distortion filters found in that second; a track's figure is the "
            "median of its finite frames.",
            _BSS_VALUES,
            True,
            partial(_bss_eval, mode="v3"),
        ),
        Metric(
            "usdr",
            "uSDR of the Music Demixing Challenge (Mitsufuji et al., 2022): 10 log10 of the stem's energy over that of "
            "the error, 1e-7 added to both, over all channels and samples of the track, without filters or frames.",
            ("uSDR",),
            False,
            _each("uSDR", usdr),
        ),
        Metric(
            "si_sdr",
            "SI-SDR (Le Roux et al., 2019) with one gain for all channels: 10 log10 of the energy of the stem at its "
            "best gain over that of the error, over all samples of the track; undefined for silence.",
            ("SI-SDR",),
            False,
            _each("SI-SDR", si_sdr),
        ),
        Metric(
            "log_wmse",
            "logWMSE of log-wmse-audio-quality (Jordal, 2023): -4 ln of the mean square of the error weighted by the "
            "ear's sensitivity, the mixture at 0 dB, over the track, mean of channels; defined for silent stems.",
            ("logWMSE",),
            False,
            _each("logWMSE", log_wmse, needs_mix=True),
        ),
    )
}
