"""One song on its way through the network: blocks in, blocks of stems out, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iseparate.audio.layout import separation_groups
from iseparate.audio.resample import Resampler
from iseparate.engine.fifo import Fifo
from iseparate.engine.lane import Lane
from iseparate.engine.plan import Plan
from iseparate.engine.spool import SpooledFifo
from iseparate.engine.two_pass import Heard, TwoPassLane
from iseparate.models._base import SeparationModel
from iseparate.types import ModelSpec, Samples, TrackStatistics

Array = NDArray[np.float32]
BLOCK_SAMPLES = 1 << 17
"""How much of a song is read at a time: it changes speed only."""


@dataclass(frozen=True)
class StemBlock:
    """A stretch of the song and the same stretch of every computed stem, each ``[C, n]`` at the song's rate."""

    mix: Samples
    stems: Mapping[str, Samples]


class ChannelMap:
    """A song's channels as the network wants them: one signal per stereo pair or lone speaker."""

    def __init__(self, layout: Sequence[str], model_channels: int):
        groups = separation_groups(layout)
        # A mono network hears the two sides of a pair one by one.
        self._groups = groups if model_channels > 1 else [(channel,) for group in groups for channel in group]
        self.signals = len(self._groups)
        """How many signals the network hears."""
        self._channels = len(layout)
        self._model_channels = model_channels
        self.separated = sorted(channel for group in self._groups for channel in group)
        """Channels that reach the network; the others (LFE) do not."""

    def spread(self, samples: Array) -> Array:
        """``[C, n]`` -> ``[groups, model channels, n]``; a lone channel is duplicated."""
        return np.stack([samples[[g[i % len(g)] for i in range(self._model_channels)]] for g in self._groups])

    def gather(self, stems: Array) -> Array:
        """``[groups, S, model channels, n]`` -> ``[S, C, n]``; a lone channel is the average, LFE is silent."""
        song = np.zeros((stems.shape[1], self._channels, stems.shape[-1]), np.float32)
        for group, signals in zip(self._groups, stems, strict=True):
            if len(group) == 1:
                song[:, group[0]] = signals.mean(1)
            else:
                for i, channel in enumerate(group):
                    song[:, channel] = signals[:, i]
        return song


class SongStream:
    """Separates one song that arrives in blocks.

    Args:
        model: prepared by a backend; all of its stems come out.
        plans: how the song is cut; outputs of several plans (shifts) are averaged.
        sample_rate: of the song.
        layout: names of its channels.
        track: one per group of channels, where the model asks for statistics of the whole song.
        batch_size: segments that run through the network together, >= 1.
        heard: told of the first pass, where the model needs two.
    """

    def __init__(
        self,
        model: SeparationModel,
        plans: Sequence[Plan],
        sample_rate: int,
        layout: Sequence[str],
        track: Sequence[TrackStatistics] = (),
        batch_size: int = 1,
        heard: Heard | None = None,
    ):
        spec = model.spec
        channels = len(layout)
        self._spec = spec
        self._map = ChannelMap(layout, spec.channels)
        self._down = Resampler(sample_rate, spec.sample_rate, channels)
        self._up = Resampler(spec.sample_rate, sample_rate, channels * len(spec.stems))
        self._lanes: list[Lane]
        queue: type[Fifo | SpooledFifo]
        if spec.two_pass:
            # Shifts are on the grid of the frames, so that the frames are the same whichever plan makes them.
            self._lanes, queue = [TwoPassLane(model, plans[0], batch_size, heard)], SpooledFifo
        else:
            self._lanes, queue = [Lane(model, plan, track, batch_size) for plan in plans], Fifo
        self._removed = _Removed(spec, sample_rate, self._map, channels, queue) if spec.residual_stem else None
        self._mix, self._ready = queue(), Fifo()

    def run(self, blocks: Iterable[Samples]) -> Generator[StemBlock]:
        """Separate the song ``[C, n]`` block by block; what comes out has exactly its length."""
        try:
            for block in blocks:
                yield from self._pass(block, self._down.push(block))
            yield from self._end()
        finally:
            self._close()

    def _close(self) -> None:
        for part in (*self._lanes, self._mix, self._removed):
            if part is not None:
                part.close()

    def _pass(self, block: Samples, at_model_rate: Samples) -> Iterator[StemBlock]:
        self._mix.push(block)
        if self._removed:
            self._removed.push(block, at_model_rate)
        if at_model_rate.shape[1]:
            signals = self._map.spread(at_model_rate)
            for lane in self._lanes:
                for _ in lane.push(signals):
                    yield from self._drain()

    def _end(self) -> Iterator[StemBlock]:
        if not self._mix.total:
            return
        empty = np.zeros((self._mix.channels, 0), np.float32)
        yield from self._pass(empty, self._down.flush())
        for lane in self._lanes:
            for _ in lane.flush():
                yield from self._drain()
        yield from self._drain(last=True)

    def _drain(self, last: bool = False) -> Iterator[StemBlock]:
        """Average what all lanes have finished and bring it back to the song's rate and channels."""
        ready = min(lane.done.size for lane in self._lanes)
        if not ready and not last:
            return
        parts = [lane.done.pop(ready) for lane in self._lanes]
        stems: Array = parts[0] if len(parts) == 1 else np.mean(parts, axis=0, dtype=np.float32)
        song = self._map.gather(stems)
        self._ready.push(self._up.push(song.reshape(self._up.channels, ready)))
        if last:
            self._ready.push(self._up.flush())
        removed = self._removed.ready_samples(last) if self._removed else self._mix.size
        samples = self._mix.size if last else min(self._ready.size, self._mix.size, removed)
        mix = self._mix.pop(samples)
        stems = self._ready.pop(samples).reshape(len(self._spec.stems), len(mix), samples)
        by_stem = dict(zip(self._spec.stems, stems, strict=True))
        if self._removed and (residual_stem := self._spec.residual_stem):
            by_stem[residual_stem] = by_stem[residual_stem] + self._removed.pop(samples)
        if mix.shape[1]:
            yield StemBlock(mix, by_stem)


class _Removed:
    """What the network never gets to see: x - up(down(x)), and the channels that are not separated."""

    def __init__(
        self,
        spec: ModelSpec,
        sample_rate: int,
        channel_map: ChannelMap,
        channels: int,
        queue: type[Fifo | SpooledFifo] = Fifo,
    ):
        self._separated = channel_map.separated
        self._nothing = sample_rate == spec.sample_rate and len(self._separated) == channels
        self._up = Resampler(spec.sample_rate, sample_rate, channels)
        self._mix, self._seen = queue(), queue()

    def push(self, mix: Samples, at_model_rate: Samples) -> None:
        self._mix.push(mix)
        if not self._nothing:
            seen = np.zeros_like(at_model_rate)
            seen[self._separated] = at_model_rate[self._separated]
            self._seen.push(self._up.push(seen))

    def ready_samples(self, last: bool) -> int:
        """How many samples `pop` can give."""
        if last and not self._nothing:
            self._seen.push(self._up.flush())
        return self._mix.size if self._nothing or last else min(self._mix.size, self._seen.size)

    def pop(self, samples: int) -> Samples:
        mix = self._mix.pop(samples)
        return np.zeros_like(mix) if self._nothing else mix - self._seen.pop(samples)

    def close(self) -> None:
        """Let go of what is still waiting."""
        self._mix.close()
        self._seen.close()


def separate_blocks(
    model: SeparationModel,
    plans: Sequence[Plan],
    blocks: Callable[[], Iterable[Samples]],
    sample_rate: int,
    layout: Sequence[str],
    batch_size: int = 1,
    heard: Heard | None = None,
) -> Generator[StemBlock]:
    """Separate a song with a model as it is; see `SongStream`.

    `blocks` makes the song ``[C, n]`` block by block. It is called once, or twice where the model needs statistics of
    the whole song.
    """
    needs_track = model.spec.track_statistics != "none"
    track = track_statistics(blocks(), model.spec, sample_rate, layout) if needs_track else ()
    return SongStream(model, plans, sample_rate, layout, track, batch_size, heard).run(blocks())


def track_statistics(
    blocks: Iterable[Samples], spec: ModelSpec, sample_rate: int, layout: Sequence[str]
) -> list[TrackStatistics]:
    """Mean and unbiased standard deviation of each group's mono mix over the whole song, in one pass.

    Sums are kept in float64, so that block sizes change nothing above rounding.
    """
    channel_map = ChannelMap(layout, spec.channels)
    down = Resampler(sample_rate, spec.sample_rate, len(layout))
    count, total, squares = 0, np.zeros(1), np.zeros(1)

    def add(block: Samples) -> None:
        nonlocal count, total, squares
        mono = channel_map.spread(block).mean(1, dtype=np.float64)
        count += mono.shape[-1]
        total = total + mono.sum(-1)
        squares = squares + np.square(mono).sum(-1)

    for block in blocks:
        add(down.push(block))
    add(down.flush())
    mean = total / max(count, 1)
    variance = np.maximum(squares - count * mean**2, 0) / max(count - 1, 1)
    return [TrackStatistics(float(m), float(v) ** 0.5) for m, v in zip(mean, variance, strict=True)]
