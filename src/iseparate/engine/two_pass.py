"""Networks whose filter takes its statistics from the whole song: every segment first, then the stems.

The first pass runs the network segment by segment, as one of finite context, and keeps the frames that it makes on
disk. The second lets the model read them, as often as it likes, and takes the stems from it block by block. So memory
does not grow with the song, and the result is that of the model on the whole song.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from iseparate.engine.lane import Lane
from iseparate.engine.plan import Plan, Span
from iseparate.engine.spool import VALUE_BYTES, Spool
from iseparate.models._base import SeparationModel
from iseparate.types import ModelSpec

Array = NDArray[np.float32]
Heard = Callable[[float], None]
"""Told in the first pass how many seconds of the song are behind it."""
_FRAMES_AT_A_TIME = 64
"""That the second pass reads at once: it changes memory only."""
_MARGIN = 1.02


def spooled_bytes(spec: ModelSpec, groups: int, channels: int, sample_rate: int, seconds: float) -> int:
    """Temporary space that a song takes: frames at the model's rate, and the song itself at its own.

    Args:
        spec: of the model; 0 where it needs one pass.
        groups: signals that the network hears of the song.
        channels: of the song.
        sample_rate: of the song.
        seconds: its length.
    """
    if spec.two_pass is None:
        return 0
    frames = seconds * spec.sample_rate / spec.two_pass.hop_samples + 1
    waiting = 1 if spec.residual_stem is None else 3  # what the residual stem is made of waits too
    values = frames * groups * spec.two_pass.frame_values + waiting * seconds * sample_rate * channels
    return int(_MARGIN * VALUE_BYTES * values)


class TwoPassLane(Lane):
    """A plan's way through such a network: nothing is done before `flush`.

    Args:
        model: one whose spec has `two_pass`.
        plan: how the song is cut for the first pass.
        batch_size: segments that run together.
        heard: see `Heard`.
    """

    def __init__(self, model: SeparationModel, plan: Plan, batch_size: int, heard: Heard | None = None):
        super().__init__(model, plan, (), batch_size)
        assert model.spec.two_pass is not None
        self._frame = model.spec.two_pass
        self._heard = heard
        self._spools: list[Spool] = []

    def flush(self) -> Iterator[None]:
        """Analyse what is left, then make the stems."""
        yield from self._run_rest()
        songs = [self._model.synthesise(self._reader(spool), self._pushed_samples) for spool in self._spools]
        while True:
            with torch.inference_mode():
                parts = [next(song, None) for song in songs]
            if parts[0] is None:
                break
            self.done.push(np.stack([part.float().cpu().numpy() for part in parts if part is not None]))
            yield
        self.close()

    def close(self) -> None:
        for spool in self._spools:
            spool.close()

    def _alike(self, one: tuple[Span, Array], other: tuple[Span, Array]) -> bool:
        return super()._alike(one, other) and self._frames_kept(one[0]) == self._frames_kept(other[0])

    def _frames_kept(self, span: Span) -> tuple[int, int]:
        """Which frames of a segment are kept, counted from its start: those of its core; of the last all to the end."""
        hop = self._frame.hop_samples
        is_last = span.keep_stop == self._pushed_samples
        stop = span.length_samples // hop + 1 if is_last else (span.keep_stop - span.start) // hop
        return (span.keep_start - span.start) // hop, stop

    def _run(self) -> None:
        chunks = np.stack([chunk for _, chunk in self._waiting])  # [batch, groups, C, n]
        groups = chunks.shape[1]
        if not self._spools:
            self._spools = [Spool() for _ in range(groups)]
        first, stop = self._frames_kept(self._waiting[0][0])
        with torch.inference_mode():
            mix = torch.from_numpy(chunks.reshape(-1, *chunks.shape[2:])).to(self._device)
            for frames in self._model.analyse(mix, first, stop):
                parts = frames.float().cpu().numpy().reshape(*chunks.shape[:2], -1, self._frame.frame_values)
                for (span, _), part in zip(self._waiting, parts, strict=True):
                    at = span.start // self._frame.hop_samples + first
                    for spool, values in zip(self._spools, part, strict=True):
                        spool.write(at * self._frame.frame_values, values)
                first += frames.shape[1]
        assert first == stop
        if self._heard:
            self._heard(self._waiting[-1][0].keep_stop / self._model.spec.sample_rate)
        self._waiting.clear()

    def _reader(self, spool: Spool) -> Callable[[], Iterator[torch.Tensor]]:
        values = self._frame.frame_values

        def read() -> Iterator[torch.Tensor]:
            frames = spool.size // values
            for start in range(0, frames, _FRAMES_AT_A_TIME):
                count = min(_FRAMES_AT_A_TIME, frames - start)
                block = spool.read(start * values, count * values).reshape(count, values)
                yield torch.from_numpy(block).to(self._device)

        return read
