"""Which stretches of a song the network sees, and what is kept of each: pure integers.

Three ways to cut, chosen by the model's spec:

- *context*: the network needs only so many samples to either side. Neighbouring cores abut; each is read with its
  context, never beyond the song, and only the core is kept. Equal to one pass. So is the first of two passes cut.
- *partial sums*: the outputs of neighbouring segments simply add up (a spectrogram network without overlap).
  Equal to one pass.
- *overlap*: segments overlap and are averaged under weights. The tails of each segment's output that are partial
  sums are cut off first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

from iseparate.errors import UsageError
from iseparate.types import ModelSpec


@dataclass(frozen=True)
class Span:
    """One segment: what is read and what is kept, in samples from the start of the song.

    Reading outside the song yields zeros.
    """

    index: int
    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def length_samples(self) -> int:
        """Samples that the network sees."""
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """An endless sequence of spans, and the rule that ends it."""

    mode: Literal["context", "partial_sums", "overlap"]
    segment_samples: int
    stride_samples: int
    first_start: int
    """Start of the first segment: zero or less."""
    trim_samples: int
    """*overlap*: what is cut off either end; *partial sums*: what overlaps the neighbour; *context*: the context."""
    grid_samples: int = 1
    tapered: bool = True
    free: bool = False
    """*overlap*: the last segment ends with the song, since the model takes any length."""
    to_the_end: bool = False
    """*overlap*: segments start until the song's end, even where one before has reached it."""

    @classmethod
    def for_model(cls, spec: ModelSpec, overlap: float | None = None, segment_seconds: float | None = None) -> Plan:
        """The plan for a model.

        Args:
            spec: the model's own word.
            overlap: share of a segment in common with the next, in [0, 1); None: the model's default.
            segment_seconds: length of a segment where the model leaves it free; None: its default.

        Raises:
            UsageError: the overlap is out of range, the segment too short, or the model has segments of its own.
        """
        overlap = spec.default_overlap if overlap is None else overlap
        if not 0 <= overlap < 1:
            raise UsageError(f"overlap is a share of a segment in [0, 1), for instance 0.25; got {overlap}")
        segment = _segment_samples(spec, segment_seconds)
        grid = spec.start_grid_samples
        shortest = 2 * spec.edge_samples + grid  # of which one step of the grid is kept
        if segment < shortest:
            raise UsageError(
                f"a segment of {segment / spec.sample_rate:.3f} s is too short for this model, whose own frames need "
                f"{shortest / spec.sample_rate:.3f} s; give --segment more"
            )
        if spec.window == "partial_sums" and overlap == 0:
            stride = segment - spec.edge_samples
            return cls("partial_sums", segment, stride, -spec.lead_samples, spec.edge_samples, grid)
        context = spec.two_pass.context_samples if spec.two_pass else spec.context_samples
        if context is not None and spec.segment_samples is None:
            return cls("context", segment, max(grid, segment // grid * grid), 0, context, grid)
        kept = segment - 2 * spec.edge_samples
        stride = max(grid, round(kept * (1 - overlap)) // grid * grid)
        tapered = spec.window != "rectangular"
        free = spec.segment_samples is None and spec.length_multiple == 1
        start, edge = -spec.lead_samples, spec.edge_samples
        return cls("overlap", segment, stride, start, edge, grid, tapered, free, spec.starts_to_the_end)

    @property
    def is_weighted(self) -> bool:
        """True where spans have samples in common whose average is taken."""
        return self.mode == "overlap" and self.stride_samples < self.segment_samples - 2 * self.trim_samples

    def shifted(self, shift_samples: int) -> Plan:
        """The same cuts, that much earlier: what the shift trick averages over."""
        return replace(self, first_start=self.first_start - shift_samples)

    def span(self, index: int, song_samples: int | None = None) -> Span:
        """The index-th span. Its *context* form is clipped to the song, which matters only near the end."""
        start = self.first_start + index * self.stride_samples
        if self.mode != "context":
            trim = self.trim_samples if self.mode == "overlap" else 0
            stop = start + self.segment_samples
            if self.free and song_samples is not None:
                stop = min(stop, song_samples + trim)
            return Span(index, start, stop, start + trim, stop - trim)
        core_start, core_stop = start, start + self.stride_samples
        read_start = (core_start - self.trim_samples) // self.grid_samples * self.grid_samples
        read_stop = core_stop + self.trim_samples
        if song_samples is not None:
            core_stop, read_stop = min(core_stop, song_samples), min(read_stop, song_samples)
        return Span(index, max(0, read_start), read_stop, max(0, core_start), core_stop)

    def is_needed(self, index: int, song_samples: int) -> bool:
        """True where the spans before this one leave samples of the song unfinished."""
        if index == 0:
            return True
        if self.mode == "overlap" and self.to_the_end:
            return self.span(index).keep_start < song_samples
        before = self.span(index - 1)
        unfinished = before.stop - self.trim_samples if self.mode == "partial_sums" else before.keep_stop
        return unfinished < song_samples

    def spans(self, song_samples: int) -> Iterator[Span]:
        """Every span of a song of that length, in order."""
        for index in count():
            if not self.is_needed(index, song_samples):
                return
            span = self.span(index, song_samples)
            if span.keep_stop > 0:  # a large shift can push the first spans out of the song
                yield span

    def weights(self) -> list[int]:
        """Weights of the samples a full span keeps: a triangle where spans overlap, else ones."""
        kept = self.segment_samples - 2 * self.trim_samples if self.mode == "overlap" else self.stride_samples
        if self.mode != "overlap" or not self.tapered:
            return [1] * kept
        return [*range(1, (kept + 1) // 2 + 1), *range(kept // 2, 0, -1)]


def _segment_samples(spec: ModelSpec, segment_seconds: float | None) -> int:
    if spec.segment_samples is not None:
        if segment_seconds is not None:
            own = spec.segment_samples / spec.sample_rate
            raise UsageError(f"this model's segments are {own:.1f} s long and cannot be changed; leave --segment out")
        return spec.segment_samples
    seconds = spec.default_segment_seconds if segment_seconds is None else segment_seconds
    if not 0 < seconds <= 3600:
        raise UsageError(f"a segment lasts more than 0 and at most 3600 seconds; got {seconds}")
    step = max(spec.length_multiple, 1)
    return max(step, -(-round(seconds * spec.sample_rate) // step) * step)
