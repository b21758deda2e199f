"""One song on its way through the network: blocks in, blocks of stems out, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from iseparate.audio.layout import separation_groups
from iseparate.audio.resample import Resampler
from iseparate.engine.overlap import Chunker, OverlapAdd
from iseparate.engine.plan import Plan, Span
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
    """

    def __init__(
        self,
        model: SeparationModel,
        plans: Sequence[Plan],
        sample_rate: int,
        layout: Sequence[str],
        track: Sequence[TrackStatistics] = (),
        batch_size: int = 1,
    ):
        spec = model.spec
        channels = len(layout)
        self._spec = spec
        self._map = ChannelMap(layout, spec.channels)
        self._down = Resampler(sample_rate, spec.sample_rate, channels)
        self._up = Resampler(spec.sample_rate, sample_rate, channels * len(spec.stems))
        self._lanes = [_Lane(model, plan, track, batch_size) for plan in plans]
        self._removed = _Removed(spec, sample_rate, self._map, channels) if spec.residual_stem else None
        self._mix, self._ready = _Queue(), _Queue()

    def run(self, blocks: Iterable[Samples]) -> Iterator[StemBlock]:
        """Separate the song ``[C, n]`` block by block; what comes out has exactly its length."""
        for block in blocks:
            yield from self._pass(block, self._down.push(block))
        yield from self._end()

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


class _Lane:
    """One plan's way through the network, at the model's rate."""

    def __init__(self, model: SeparationModel, plan: Plan, track: Sequence[TrackStatistics], batch_size: int):
        self._model = model
        self._chunker = Chunker(plan)
        self._overlap_add = OverlapAdd(plan)
        self._track = track
        self._batch_size = batch_size
        self._waiting: list[tuple[Span, Array]] = []
        self._pushed_samples = 0
        self.done = _Queue()

    def push(self, signals: Array) -> Iterator[None]:
        """Take ``[groups, C, n]``; stops for breath after each batch, so that finished samples can be taken."""
        self._pushed_samples += signals.shape[-1]
        yield from self._collect(self._chunker.push(signals))

    def flush(self) -> Iterator[None]:
        """Run what is left."""
        yield from self._collect(self._chunker.flush())
        if self._waiting:
            self._run()
        self._give(self._overlap_add.flush(self._pushed_samples))
        yield

    def _give(self, samples: Array) -> None:
        """Pass on what is finished, but not what the last span has beyond the song's end: a resampler would hear it."""
        self.done.push(samples[..., : self._pushed_samples - self.done.total])

    def _collect(self, chunks: Iterator[tuple[Span, Array]]) -> Iterator[None]:
        for span, chunk in chunks:
            if self._waiting and self._waiting[0][1].shape != chunk.shape:  # the last one may be shorter
                self._run()
                yield
            self._waiting.append((span, chunk))
            if len(self._waiting) == self._batch_size:
                self._run()
                yield

    def _run(self) -> None:
        chunks = np.stack([chunk for _, chunk in self._waiting])  # [batch, groups, C, n]
        groups = chunks.shape[1]
        with torch.inference_mode():
            if self._track:  # each group has statistics of its own
                outputs = torch.stack([self._separate(chunks[:, g], self._track[g]) for g in range(groups)], 1)
            else:
                outputs = self._separate(chunks.reshape(-1, *chunks.shape[2:]), None)
                outputs = outputs.reshape(*chunks.shape[:2], *outputs.shape[1:])
        for (span, _), output in zip(self._waiting, outputs.numpy(), strict=True):
            self._give(self._overlap_add.push(span, output))
        self._waiting.clear()

    def _separate(self, chunks: Array, track: TrackStatistics | None) -> torch.Tensor:
        device = next((p.device for p in self._model.parameters()), None) or torch.device("cpu")
        return self._model.separate_segment(torch.from_numpy(chunks).to(device), track).float().cpu()


class _Removed:
    """What the network never gets to see: x - up(down(x)), and the channels that are not separated."""

    def __init__(self, spec: ModelSpec, sample_rate: int, channel_map: ChannelMap, channels: int):
        self._separated = channel_map.separated
        self._nothing = sample_rate == spec.sample_rate and len(self._separated) == channels
        self._up = Resampler(spec.sample_rate, sample_rate, channels)
        self._mix, self._seen = _Queue(), _Queue()

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


class _Queue:
    """Samples waiting on the last axis, first in first out."""

    def __init__(self) -> None:
        self._blocks: list[Array] = []
        self.size = 0
        self.total = 0
        self.channels = 0

    def push(self, block: Array) -> None:
        self.channels = block.shape[0]
        self._blocks.append(block)
        self.size += block.shape[-1]
        self.total += block.shape[-1]

    def pop(self, samples: int) -> Array:
        """The oldest `samples`; silence where there are not as many (a resampler's last one or two)."""
        joined = self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks, -1)
        taken, rest = joined[..., :samples], joined[..., samples:]
        self._blocks = [rest.copy()]
        self.size = rest.shape[-1]
        missing = samples - taken.shape[-1]
        return np.pad(taken, [(0, 0)] * (taken.ndim - 1) + [(0, missing)]) if missing > 0 else taken


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
