"""One plan's way through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from iseparate.engine.fifo import Fifo
from iseparate.engine.order import StemOrder
from iseparate.engine.overlap import Chunker, OverlapAdd
from iseparate.engine.plan import Plan, Span
from iseparate.models._base import SeparationModel
from iseparate.types import TrackStatistics

Array = NDArray[np.float32]


class Lane:
    """One plan's way through the network, at the model's rate."""

    def __init__(self, model: SeparationModel, plan: Plan, track: Sequence[TrackStatistics], batch_size: int):
        self._model = model
        self._chunker = Chunker(plan)
        self._overlap_add = OverlapAdd(plan)
        self._order = StemOrder() if model.spec.stems_in_any_order else None
        self._track = track
        self._batch_size = batch_size
        self._waiting: list[tuple[Span, Array]] = []
        self._pushed_samples = 0
        self._device = next((p.device for p in model.parameters()), None) or torch.device("cpu")
        self.done = Fifo()

    def push(self, signals: Array) -> Iterator[None]:
        """Take ``[groups, C, n]``; stops for breath after each batch, so that finished samples can be taken."""
        self._pushed_samples += signals.shape[-1]
        yield from self._collect(self._chunker.push(signals))

    def flush(self) -> Iterator[None]:
        """Run what is left."""
        yield from self._run_rest()
        self._give(self._overlap_add.flush(self._pushed_samples))
        yield

    def close(self) -> None:
        """Let go of whatever is outside of memory."""

    def _run_rest(self) -> Iterator[None]:
        yield from self._collect(self._chunker.flush())
        if self._waiting:
            self._run()
            yield

    def _alike(self, one: tuple[Span, Array], other: tuple[Span, Array]) -> bool:
        """True where two segments can run together."""
        return one[1].shape == other[1].shape  # the last one may be shorter

    def _give(self, samples: Array) -> None:
        """Pass on what is finished, but not what the last span has beyond the song's end: a resampler would hear it."""
        self.done.push(samples[..., : self._pushed_samples - self.done.total])

    def _collect(self, chunks: Iterator[tuple[Span, Array]]) -> Iterator[None]:
        for span, chunk in chunks:
            if self._waiting and not self._alike(self._waiting[0], (span, chunk)):
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
            self._give(self._overlap_add.push(span, self._order.settle(span, output) if self._order else output))
        self._waiting.clear()

    def _separate(self, chunks: Array, track: TrackStatistics | None) -> torch.Tensor:
        return self._model.separate_segment(torch.from_numpy(chunks).to(self._device), track).float().cpu()
