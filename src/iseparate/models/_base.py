"""What every separation network is to the rest of the house."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from iseparate.errors import UsageError
from iseparate.types import ModelSpec, TrackStatistics


class SeparationModel(nn.Module):
    """Waveform in, waveforms out.

    Subclasses set `spec` before use and implement `forward`. A network whose segments need more than their own
    samples (a spectrogram's frames reach over the border) also implements `separate_segment`; one with
    ``spec.two_pass`` implements `analyse` and `synthesise`, which together give what `forward` gives.
    """

    spec: ModelSpec
    config: Any
    """The architecture's Config that the network was built from."""
    kernels: tuple[str, ...] = ()
    """Names of the submodules where the time goes: real tensors in and out, so that a runtime can replace them."""
    kernels_in_bf16: tuple[str, ...] = ()
    """Those of them that run in bf16 unasked, on a CPU made for it: they have no original to be equal to."""
    without_output: tuple[str, ...] = ()
    """Parameters that the published network has though `forward` does not depend on them: patterns of ``fnmatch``."""

    def forward(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """Separate whole signals in one pass.

        Args:
            mix: ``[B, C, T]`` at ``spec.sample_rate``, any T >= 1.
            track: what ``spec.track_statistics`` asks for; None: computed from `mix`.

        Returns:
            ``[B, S, C, T]``, stems in the order of ``spec.stems``.
        """
        raise NotImplementedError

    def separate_segment(self, mix: Tensor, track: TrackStatistics | None = None) -> Tensor:
        """Separate one segment of a longer signal, as the engine cuts it from ``spec``.

        Args:
            mix: ``[B, C, spec.segment_samples]``; what lies outside the song is zero.
            track: as in `forward`.

        Returns:
            ``[B, S, C, spec.segment_samples]``, its first and last ``spec.edge_samples`` being partial sums.
        """
        output: Tensor = self(mix, track)
        return output

    def analyse(self, mix: Tensor, start: int, stop: int) -> Iterator[Tensor]:
        """First pass of ``spec.two_pass``: the frames of one segment.

        Args:
            mix: ``[B, C, n]``, starting on ``spec.start_grid_samples``; the ends are taken for the song's.
            start: first frame wanted, counted from the segment's first sample.
            stop: the one after the last.

        Yields:
            ``[B, frames, spec.two_pass.frame_values]``, float32, in order, a few frames at a time.
        """
        raise NotImplementedError

    def synthesise(self, read: Callable[[], Iterable[Tensor]], samples: int) -> Iterator[Tensor]:
        """Second pass: the stems of one song out of all of its frames.

        Args:
            read: the frames ``[frames, spec.two_pass.frame_values]`` in order, from the start at every call.
            samples: length of the song.

        Yields:
            ``[S, C, n]``, together `samples` long.
        """
        raise NotImplementedError

    @property
    def trained_stems(self) -> tuple[str, ...]:
        """The stems that a loss compares: all but those that are what the others leave."""
        return self.spec.stems

    @property
    def input_transform(self) -> tuple[int, int] | None:
        """Frame and hop of the spectra whose statistics `set_input_statistics` takes; None: it takes none."""
        return None

    def set_input_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Scale the input by the training songs' spectra.

        Args:
            mean: of the mixtures' magnitudes, ``[bins]``, all those of `input_transform`.
            deviation: their standard deviation, above 0.

        Raises:
            UsageError: this network scales no input, or the statistics are not of its spectra.
        """
        del mean, deviation
        raise UsageError("this network scales no input; leave its initialisation at default")

    def training_loss(self, mix: Tensor, stems: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """What a training step minimises.

        Args:
            mix: ``[B, C, T]``.
            stems: the truth ``[B, S, C, T]``, in the order of `trained_stems`.
            criterion: of `iseparate.losses`, whose ``domain`` says what it compares.

        Returns:
            ``loss``, and parts of it to be logged.

        Raises:
            UsageError: the criterion compares what this network has not.
        """
        if criterion.domain != "waveform":
            raise UsageError(
                f"the loss compares what this network has not of its own (domain {criterion.domain}); name one on "
                "waveforms, such as l1"
            )
        return {"loss": criterion(self(mix), stems, mix)}

    def narrowed(self, stems: tuple[str, ...]) -> SeparationModel:
        """The smallest model that computes `stems`; its own ``spec.stems`` says what it does compute.

        Coupled networks stay together, so the default, right wherever one network yields all stems, is the
        whole model.
        """
        del stems
        return self
