"""One song with its stems."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from iseparate.data.clip import Clip
from iseparate.errors import AudioFormatError, UnknownStemError, UsageError
from iseparate.types import Samples

MIXTURE = "mixture"
ACCOMPANIMENT = "accompaniment"
VOCALS = "vocals"

LENGTH_TOLERANCE = 0.1
"""How much of the longest source the shortest may lack. Encoders append milliseconds and exports some seconds of tail;
where more is missing, cutting all to the shortest would lose what the user thinks is there."""


@dataclass(frozen=True)
class Shape:
    """What the sources of a track have in common."""

    sample_rate: int
    channels: int
    samples: int


@dataclass(frozen=True)
class Track:
    """One song: a mixture and its stems, each in one file or several that are summed.

    Making a track opens no file. Tracks can be sent to other processes, and read from several threads at once.

    Sources are asked for by name: a stem, ``mixture`` (the file of that name, or else the sum of the stems), or
    ``accompaniment`` (the sum of all stems but the vocals, if no stem has that name).
    """

    name: str
    subset: str
    """Such as ``test``; empty where the data set knows no subsets."""
    clips: Mapping[str, tuple[Clip, ...]] = field(hash=False)
    """The files of each stem."""
    mixture_clips: tuple[Clip, ...] = ()
    """The files of the mixture; empty where it is the sum of the stems."""
    is_song: bool = True
    """False: a stem on its own, which belongs to no mixture."""

    @property
    def title(self) -> str:
        """``subset/name``: unique within a data set."""
        return f"{self.subset}/{self.name}" if self.subset else self.name

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems there are."""
        return tuple(self.clips)

    @property
    def sources(self) -> Mapping[str, tuple[Clip, ...]]:
        """The stems and, where it has files of its own, the mixture: all that lies on disk."""
        mixture = {MIXTURE: self.mixture_clips} if self.mixture_clips else {}
        return mixture | dict(self.clips)

    @property
    def sample_rate(self) -> int:
        """Samples per second of all sources; AudioError as for `shape`."""
        return self.shape.sample_rate

    @property
    def channels(self) -> int:
        """Channels of the widest source; AudioError as for `shape`."""
        return self.shape.channels

    @property
    def samples(self) -> int:
        """Length per channel of the shortest source; AudioError as for `shape`."""
        return self.shape.samples

    @cached_property
    def shape(self) -> Shape:
        """Rate, channels and length that the sources have in common.

        The shortest source sets the length: what others have beyond it is left out, and nothing is invented.

        Raises:
            AudioError: a file cannot be read, or the sources differ in rate, in channels (mono beside one other
                number is allowed), or by more than `LENGTH_TOLERANCE` in length.
        """
        sounds = [(clip, clip.sound) for clips in self.sources.values() for clip in clips]
        if not sounds:
            raise AudioFormatError(f"the track {self.title} has no sound file: expected its stems; complete it.")
        self._refuse_differing("Hz", {sound.sample_rate: clip for clip, sound in sounds})
        self._refuse_differing("channels", {sound.channels: clip for clip, sound in sounds if sound.channels > 1})
        lengths = sorted(((sound.samples, clip) for clip, sound in sounds), key=lambda pair: pair[0])
        rate = sounds[0][1].sample_rate
        (shortest, short), (longest, long) = lengths[0], lengths[-1]
        if shortest < (1 - LENGTH_TOLERANCE) * longest:
            raise AudioFormatError(
                f"the sources of the track {self.title} do not have one length: {short.path.name} lasts "
                f"{shortest / rate:.2f} s and {long.path.name} {longest / rate:.2f} s; export them again over the "
                "same stretch."
            )
        return Shape(rate, max(sound.channels for _, sound in sounds), shortest)

    def read(self, source: str, start_samples: int = 0, samples: int | None = None) -> Samples:
        """A part of a source, without decoding the rest where the format allows it (see `iseparate.data.clip`).

        Args:
            source: a stem, ``mixture`` or ``accompaniment``.
            start_samples: where it starts, 0 or more.
            samples: its length, 1 or more; None: to the end.

        Returns:
            float32 ``[channels, samples]`` at `sample_rate`, full scale ±1. Mono files are duplicated where others
            of the track have more channels. Sums are neither scaled nor clipped.

        Raises:
            UnknownStemError: no such source.
            UsageError: the part does not lie inside the track.
            AudioError: a file cannot be read, or as for `shape`.
        """
        clips = self.clips_of(source)
        length = self.samples
        count = length - start_samples if samples is None else samples
        if start_samples < 0 or count < 1 or start_samples + count > length:
            end = "the end" if samples is None else start_samples + samples
            raise UsageError(
                f"samples {start_samples} to {end} of the track {self.title} were asked for: expected a part of its "
                f"{length}."
            )
        total = self._widened(clips[0].read(start_samples, count))
        for clip in clips[1:]:
            total += self._widened(clip.read(start_samples, count))
        return total

    def blocks(self, source: str, block_samples: int = 65_536) -> Iterator[Samples]:
        """The whole of a source in order, ``[channels, block_samples]`` each, the last one shorter.

        Memory does not grow with the song. Raises as `read`.
        """
        clips = self.clips_of(source)
        left = self.samples
        for parts in zip(*(clip.blocks(block_samples) for clip in clips), strict=False):
            width = min(left, *(part.shape[1] for part in parts), block_samples)
            if not width:
                return
            left -= width
            if len(parts) == 1:
                yield self._widened(parts[0][:, :width])
            else:
                yield np.sum([self._widened(part[:, :width]) for part in parts], axis=0, dtype=np.float32)

    def clips_of(self, source: str) -> tuple[Clip, ...]:
        """The files whose sum is a source; UnknownStemError, with the nearest name, where there is none."""
        if source in self.clips:
            return self.clips[source]
        if source == MIXTURE and self.is_song:
            clips = self.mixture_clips or tuple(clip for clips in self.clips.values() for clip in clips)
        elif source == ACCOMPANIMENT and self.is_song:
            clips = tuple(clip for stem, clips in self.clips.items() if stem != VOCALS for clip in clips)
        else:
            clips = ()
        if clips:
            return clips
        if source in (MIXTURE, ACCOMPANIMENT) and not self.is_song:
            raise UnknownStemError(
                f"{self.title} is a stem on its own and has no {source}; make mixtures of several such stems, or name "
                "data of whole songs."
            )
        near = difflib.get_close_matches(source, self.stems, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UnknownStemError(
            f"the track {self.title} has no source {source!r}: it has {', '.join(self.stems) or 'no stem'}{hint}"
        )

    def _widened(self, part: Samples) -> Samples:
        return part if part.shape[0] == self.channels else np.repeat(part, self.channels, axis=0)

    def _refuse_differing(self, unit: str, clips: Mapping[int, Clip]) -> None:
        if len(clips) > 1:
            found = " and ".join(f"{clip.path.name} has {value} {unit}" for value, clip in sorted(clips.items()))
            raise AudioFormatError(
                f"the sources of the track {self.title} do not fit together: {found}; convert them to one."
            )
