"""How long a song will take, and how much memory and disk, told before it starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from iseparate.audio.decode import AudioInfo
from iseparate.engine.outputs import Storage, needed_bytes
from iseparate.engine.separator import Separator
from iseparate.engine.stream import ChannelMap

_BUFFER_BYTES = 60 << 20  # decoder, resamplers, encoders, and the blocks between them


@dataclass(frozen=True)
class Prediction:
    """What to expect of one song."""

    seconds: float
    peak_memory_bytes: int | None
    """None where the system does not tell."""
    disk_bytes: int
    """Where the stems go, and in the folder for temporary files."""
    temporary_bytes: int = 0
    """Of these, the ones in the folder for temporary files, which go with the song's end."""


def predict(separator: Separator, info: AudioInfo, storage: Storage | None = None) -> Prediction | None:
    """Run one batch of noise through the network and extrapolate.

    Returns None where the song does not say how long it is.
    """
    if info.estimated_seconds is None:
        return None
    storage = storage or Storage()
    plan, spec = separator.plan, separator.spec
    groups = ChannelMap(info.layout, spec.channels).signals
    model_samples = round(info.estimated_seconds * spec.sample_rate)
    shifts = 1 if spec.two_pass else max(1, separator.settings["shifts"])  # see `SongStream`
    segments = sum(1 for _ in plan.spans(model_samples))
    batch = max(1, min(separator.batch_size, segments))
    # Groups of channels run together, unless each has statistics of its own; see `Lane`.
    calls, together = (groups, batch) if spec.track_statistics != "none" else (1, groups * batch)
    noise = torch.rand(together, spec.channels, plan.span(0).length_samples, device=separator.backend.device) - 0.5
    with torch.inference_mode():
        separator.model.separate_segment(noise)  # the first one also warms up
        per_batch = calls * min(_seconds(lambda: separator.model.separate_segment(noise)) for _ in range(3))
    samples = round(info.estimated_seconds * info.sample_rate)
    stored = storage.plan(info)
    # Decoding, resampling and encoding take a fraction of a percent of real time; a hundredth is on the safe side.
    seconds = shifts * segments / batch * per_batch + 0.01 * info.estimated_seconds
    temporary = separator.spooled_bytes(info.sample_rate, info.layout, info.estimated_seconds)
    memory = peak_memory_bytes()
    return Prediction(
        seconds,
        None if memory is None else memory + _BUFFER_BYTES,
        needed_bytes(stored, info, samples, len(spec.stems), storage.spools(stored)) + temporary,
        temporary,
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
