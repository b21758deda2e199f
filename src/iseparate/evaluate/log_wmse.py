"""logWMSE: the one score here that means something where a stem is silent.

It weighs the error by the ear's sensitivity and sets it against the level of the *mixture*, so a silent reference is
no special case: what counts is how much of the mixture is left in the estimate.

The metric is that of the package log-wmse-audio-quality 0.2.0 (Iver Jordal, Nomono, Apache-2.0). It is no dependency,
and installed without its own: it asks for soxr below 1, from which it needs nothing that soxr 1 lacks. Its PyTorch
descendant, torch-log-wmse, asks for torchaudio and computes other values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iseparate.errors import UsageError
from iseparate.evaluate.bsseval import check_shape, check_signal


def log_wmse(reference: NDArray[Any], estimate: NDArray[Any], mix: NDArray[Any], sample_rate: int) -> float:
    """How little the ear minds the error, the mixture's level being 0 dB.

    ``-4 ln(mean square of the weighted error + 1e-8)`` for each channel, and the mean of that: 73.7 at most, some 30
    being very good and 3 poor. Errors below -68 dB of the mixture's weighted level in its channel do not count. A
    channel in which the mixture is silent scores the highest value, whatever the estimate.

    Args:
        reference: floating-point ``[C, T]``, full scale ±1; may be silent.
        estimate: of the same shape.
        mix: what the estimate was made from, of the same shape.
        sample_rate: of all three, in Hz; the weighting happens at 44.1 kHz.

    Raises:
        AudioFormatError: shapes that differ, no samples, integers, NaN or infinity.
        UsageError: the package is not installed.
    """
    shape = check_shape("the reference", reference)
    signals = {"the reference": reference, "the estimate": estimate, "the mixture": mix}
    for what, signal in signals.items():
        check_signal(what, signal, shape, "the reference")
    try:
        from log_wmse_audio_quality import calculate_log_wmse  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise UsageError(
            "the metric log_wmse needs the package log-wmse-audio-quality, which is not installed: "
            "pip install --no-deps log-wmse-audio-quality"
        ) from error
    mix, estimate, reference = (signal.astype(np.float32, copy=False) for signal in (mix, estimate, reference))
    return float(calculate_log_wmse(mix, estimate, reference, sample_rate))
