"""What every separation network is to the rest of the house."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from iseparate.types import ModelSpec, TrackStatistics


class SeparationModel(nn.Module):
    """Waveform in, waveforms out.

    Subclasses set `spec` before use and implement `forward`. A network whose segments need more than their own
    samples (a spectrogram's frames reach over the border) also implements `separate_segment`.
    """

    spec: ModelSpec
    config: Any
    """The architecture's Config that the network was built from."""
    kernels: ClassVar[tuple[str, ...]] = ()
    """Names of the submodules where the time goes: real tensors in and out, so that a runtime can replace them."""

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

    def narrowed(self, stems: tuple[str, ...]) -> SeparationModel:
        """The smallest model that computes `stems`; its own ``spec.stems`` says what it does compute.

        Coupled networks stay together, so the default, right wherever one network yields all stems, is the
        whole model.
        """
        del stems
        return self
