"""The nouns that every room of the house shares. Importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""A waveform of shape ``[channels, samples]``; full scale is ±1."""


@dataclass(frozen=True)
class Audio:
    """A waveform and its rate."""

    samples: Samples
    sample_rate: int


class Stems(Mapping[str, Samples]):
    """The stems of one song by name, each a float32 array ``[channels, samples]`` at `sample_rate`."""

    def __init__(self, stems: Mapping[str, Samples], sample_rate: int):
        self._stems = dict(stems)
        self.sample_rate = sample_rate

    def __getitem__(self, name: str) -> Samples:
        return self._stems[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stems)

    def __len__(self) -> int:
        return len(self._stems)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {list(stem.shape)}" for name, stem in self.items())
        return f"Stems({{{shapes}}}, sample_rate={self.sample_rate})"


Window = Literal["partial_sums", "triangular", "rectangular"]


@dataclass(frozen=True)
class TwoPass:
    """How a network runs whose last step needs statistics of the whole song, which only its own estimates tell.

    The first pass leaves frames behind, segment by segment; the second makes the stems of all of them together.
    """

    hop_samples: int
    """From frame to frame. A song of T samples has ``T // hop_samples + 1``, the first at its first sample."""
    frame_values: int
    """float32 numbers in a frame."""
    context_samples: int
    """How far to either side a frame depends on the input."""


@dataclass(frozen=True)
class ModelSpec:
    """What the engine needs to know of a network in order to run it on a song of any length.

    Lengths are in samples at `sample_rate`.
    """

    stems: tuple[str, ...]
    """Names of the outputs, in the order of the network's second axis."""
    sample_rate: int
    channels: int
    segment_samples: int | None = None
    """Length of the input of ``separate_segment``; None: any length will do."""
    default_segment_seconds: float = 10.0
    """Length of a free segment that nobody asked to change."""
    batch_seconds: float = 0.0
    """About how much is to run at a time where nobody says how many segments: more than one segment for a network
    whose time goes into reading its weights."""
    length_multiple: int = 1
    """A free segment is rounded up to a multiple of this."""
    start_grid_samples: int = 1
    """Segments start at multiples of this, counted from the first one."""
    lead_samples: int = 0
    """The first segment starts this much before the song, in silence."""
    edge_samples: int = 0
    """This much of a segment's output at either end is an unfinished sum that the neighbour's edge completes."""
    context_samples: int | None = None
    """How far to either side an output sample can depend on the input; None: unbounded."""
    default_overlap: float = 0.25
    """Share of a segment that it has in common with the next, in [0, 1)."""
    window: Window = "triangular"
    """How overlapping outputs are weighted; ``partial_sums``: the outputs already add up by themselves."""
    starts_to_the_end: bool = False
    """Overlapping segments start until the song's end, even where one before has reached it."""
    track_statistics: Literal["none", "mono_mean_std"] = "none"
    """What the network needs to know of the whole song before it can start."""
    two_pass: TwoPass | None = None
    """How to run it where segments separated one by one would have statistics of their own; None: one pass will do."""
    stems_in_any_order: bool = False
    """True where a segment's outputs may come in another order than those of the one before: speakers, by number."""
    couples: tuple[tuple[str, ...], ...] = ()
    """Groups of stems whose networks must run together; a stem in no group can run alone."""
    mixture_consistent: bool = False
    """True where the stems sum to the mixture."""
    silence_to_silence: bool = False
    """True where digital silence comes out as digital silence."""
    residual_stem: str | None = None
    """Which stem receives what the network never saw, so that the stems still sum to the song."""

    def needed_stems(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        """Every stem that has to be computed for `asked`, in the spec's order."""
        needed = set(asked)
        for group in self.couples:
            if needed & set(group):
                needed |= set(group)
        return tuple(stem for stem in self.stems if stem in needed)


@dataclass(frozen=True)
class TrackStatistics:
    """Mean and standard deviation of the mono mix over the whole song."""

    mean: float
    std: float


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint, read into plain data: what an importer gets to see.

    `tensors` maps names to ``torch.Tensor``; nested names are joined by dots (by slashes in HDF5). `metadata` is
    whatever else the file holds, in plain Python types and inert stand-ins for foreign classes.
    """

    name: str
    format: Literal["safetensors", "torch", "tensorflow", "hdf5", "yaml", "json"]
    tensors: Mapping[str, Any] = field(default_factory=dict)
    metadata: Any = None


Checkpoint = Mapping[str, CheckpointFile]
"""The files of a checkpoint by name."""
