"""Training examples: which excerpts of which songs, read without decoding whole files.

An example is a function of (seed, epoch, index) alone: the number of workers and of processes, the order in which
they work, and where a run was taken up again change nothing. So a key ``(epoch, index)`` is all that travels to a
worker, and persistent workers need not be told of a new epoch.

The ways of the literature:

- `RandomSampling`: so many excerpts of every song in an epoch, anywhere in it (Open-Unmix, D3Net: 64), or so many of
  all songs (iSeparate: 6400);
- `SequentialSampling`: every window at a stride (Demucs: 10 s windows every second);
- `CentreSampling`: one excerpt from the middle of each song, for validation;
- mixing songs: each stem from another song and place (Uhlich et al. 2017; D3Net's and Open-Unmix's code always,
  Meta-TasNet for half of the examples);
- avoiding silence (`Silence`): excerpts in which a stem is hardly there are drawn anew but for a share, the idea of
  source activity detection in Band-Split RNN (Luo and Yu 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from iseparate.data.augment import Augmentation, Draws, augment, input_samples
from iseparate.data.track import MIXTURE, Track
from iseparate.errors import AudioError, AudioReadError, UnknownStemError, UsageError
from iseparate.types import Samples

Key = tuple[int, int]
"""Epoch and index of an example."""

MAX_ATTEMPTS = 20
"""Excerpts tried in place of unreadable ones before an example is given up."""


class Place(NamedTuple):
    """Where an excerpt starts: a song by its number, and the sample."""

    song: int
    start_samples: int


class Sampling(Protocol):
    """Which excerpts make an epoch."""

    def count(self, lengths: Sequence[int], samples: int) -> int:
        """Examples in an epoch, for songs of `lengths` and excerpts of `samples`."""

    def place(self, index: int, lengths: Sequence[int], samples: int, draws: Draws) -> Place:
        """Where example `index` starts."""


@dataclass(frozen=True)
class RandomSampling:
    """Excerpts from anywhere in a song: `per_song` of each, or `per_epoch` of songs drawn one by one."""

    per_song: int = 64
    per_epoch: int | None = None

    def __post_init__(self) -> None:
        _check_positive("per_song", self.per_song)
        _check_positive("per_epoch", 1 if self.per_epoch is None else self.per_epoch)

    def count(self, lengths: Sequence[int], samples: int) -> int:
        del samples
        return self.per_epoch or self.per_song * len(lengths)

    def place(self, index: int, lengths: Sequence[int], samples: int, draws: Draws) -> Place:
        song = int(draws.integers((), 0, len(lengths) - 1)) if self.per_epoch else index // self.per_song
        return anywhere(song, lengths, samples, draws)


@dataclass(frozen=True)
class SequentialSampling:
    """Windows at a stride from the start of each song, the last one reaching beyond its end; `repeat` times."""

    stride_samples: int
    repeat: int = 1

    def __post_init__(self) -> None:
        _check_positive("stride_samples", self.stride_samples)
        _check_positive("repeat", self.repeat)

    def _windows(self, lengths: Sequence[int], samples: int) -> list[int]:
        # Windows reach the end of the song: the last one may hold silence behind it.
        return [1 + -(-max(0, length - samples) // self.stride_samples) for length in lengths]

    def count(self, lengths: Sequence[int], samples: int) -> int:
        return self.repeat * sum(self._windows(lengths, samples))

    def place(self, index: int, lengths: Sequence[int], samples: int, draws: Draws) -> Place:
        del draws
        ends = np.cumsum(self._windows(lengths, samples))
        index %= int(ends[-1])
        song = int(np.searchsorted(ends, index, side="right"))
        first = int(ends[song - 1]) if song else 0
        start = (index - first) * self.stride_samples
        if start >= lengths[song]:  # a stride longer than the excerpt can step over the end
            start = max(0, lengths[song] - samples)
        return Place(song, start)


@dataclass(frozen=True)
class CentreSampling:
    """One excerpt from the middle of each song."""

    def count(self, lengths: Sequence[int], samples: int) -> int:
        del samples
        return len(lengths)

    def place(self, index: int, lengths: Sequence[int], samples: int, draws: Draws) -> Place:
        del draws
        return Place(index, max(0, lengths[index] - samples) // 2)


@dataclass(frozen=True)
class Silence:
    """Excerpts in which a stem is hardly there are drawn anew.

    A stem counts as there when at least `least_active_share` of its blocks of 0.1 s are louder than
    `threshold_db` (RMS over channels, 0 dB: full scale). With the chance `keep` a stem may be silent all the same,
    so that networks learn silence too.
    """

    threshold_db: float = -60.0
    least_active_share: float = 0.1
    keep: float = 0.1
    redraws: int = 8
    """How often an example is drawn anew at most: some songs have no vocals."""

    def __post_init__(self) -> None:
        if not (-200 <= self.threshold_db <= 0):
            raise UsageError(f"threshold_db is {self.threshold_db:g}: expected a level from -200 to 0 dB")
        if not (0 < self.least_active_share <= 1 and 0 <= self.keep <= 1):
            raise UsageError(
                f"least_active_share is {self.least_active_share:g} and keep {self.keep:g}: expected shares up to 1"
            )
        _check_positive("redraws", self.redraws)

    def is_silent(self, stem: Samples, sample_rate: int) -> bool:
        """Whether a stem ``[C, n]`` is hardly there."""
        block = max(1, min(sample_rate // 10, stem.shape[1]))
        whole = stem[:, : stem.shape[1] // block * block]
        power = np.square(whole.reshape(stem.shape[0], -1, block)).mean((0, 2))
        return bool((power > 10 ** (self.threshold_db / 10)).mean() < self.least_active_share)


@dataclass(frozen=True)
class Fault:
    """An excerpt that could not be read."""

    song: str
    source: str
    start_seconds: float
    reason: str
    """The reader's sentence."""

    def __str__(self) -> str:
        minutes, seconds = divmod(self.start_seconds, 60)
        return f"{self.song}, {self.source} at {int(minutes)}:{seconds:04.1f}: {self.reason}"


class Example(NamedTuple):
    """One training example."""

    stems: Tensor
    """float32 ``[S, C, n]``, stems in the order asked for."""
    mixture: Tensor | None
    """float32 ``[C, n]``, the song's own mixture where it was asked for."""
    faults: tuple[Fault, ...] = ()
    """What could not be read on the way; other excerpts stand in for it."""


@dataclass
class Excerpts(TorchDataset[Example]):
    """A map from ``(epoch, index)`` to an `Example`.

    These are tracks of any origin: what `iseparate.data.open.Dataset.mixing` allows is for the caller to heed, as
    training does before it starts. Excerpts beyond the end of a song hold silence there. Mono songs are duplicated for
    stereo networks, stereo songs averaged for mono ones.

    Args:
        tracks: songs, all at `sample_rate`.
        stems: sources in the order of the result; "accompaniment" is all but vocals. Every song has them all, unless
            songs are always mixed: then each stem comes from those that have it.
        samples: length of an example.
        sample_rate: in Hz.
        channels: of the result, 1 or 2.
        sampling: which excerpts make an epoch.
        mix_songs: chance that every stem of an example comes from a song and place of its own.
        augmentations: applied to each example in this order; longer excerpts are read where they shorten.
        later: what will be done to whole batches afterwards: examples are longer by what these cut off.
        silence: redraw excerpts with silent stems.
        may_be_silent: stems that `silence` does not look at.
        with_mixture: give the song's own mixture too, which need not be the sum of the stems; not with songs mixed
            or anything augmented.
        seed: of everything random.

    Raises:
        UsageError: no songs, other rates, missing stems, arguments that do not go together.
        AudioReadError: on reading, where `MAX_ATTEMPTS` excerpts one after the other are unreadable.
    """

    tracks: Sequence[Track]
    stems: Sequence[str]
    samples: int
    sample_rate: int
    channels: int = 2
    sampling: Sampling = field(default_factory=RandomSampling)
    mix_songs: float = 0.0
    augmentations: Sequence[Augmentation] = ()
    later: Sequence[Augmentation] = ()
    silence: Silence | None = None
    may_be_silent: Sequence[str] = ()
    with_mixture: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self._check()
        self._lengths = [track.samples for track in self.tracks]
        self._songs_with = {
            stem: [song for song, track in enumerate(self.tracks) if _has(track, stem)] for stem in self.stems
        }
        self._given_samples = input_samples(self.later, self.samples, self.sample_rate)
        self._read_samples = input_samples(self.augmentations, self._given_samples, self.sample_rate)

    def _check(self) -> None:
        if not self.tracks:
            raise UsageError("the data set has no songs in this subset; choose another subset or folder")
        _check_positive("samples", self.samples)
        if not self.stems or len(set(self.stems)) < len(self.stems):
            raise UsageError(f"the stems asked for are {list(self.stems)}: expected one or more, each once")
        if not 0 <= self.mix_songs <= 1:
            raise UsageError(f"mix_songs is {self.mix_songs:g}: expected a chance from 0 to 1")
        if self.channels not in (1, 2):
            raise UsageError(f"{self.channels} channels were asked for: expected 1 or 2")
        if self.with_mixture and (self.mix_songs or self.augmentations or self.later):
            raise UsageError("the songs' own mixtures go only with whole songs unchanged: leave out mixing and augment")
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}: expected 0 or more")
        for track in self.tracks:
            if track.sample_rate != self.sample_rate:
                raise UsageError(
                    f"{track.title} has a sample rate of {track.sample_rate} Hz and the training one of "
                    f"{self.sample_rate}: run `iseparate data prepare --sample-rate {self.sample_rate}` and train on "
                    "its result"
                )
            if track.channels not in (1, 2):
                raise UsageError(f"{track.title} has {track.channels} channels: expected mono or stereo songs")
        for stem in self.stems:
            without = [track for track in self.tracks if not _has(track, stem)]
            if len(without) == len(self.tracks) or (without and self.mix_songs < 1):
                raise UsageError(
                    f"{without[0].title} has no {stem}: it has {', '.join(without[0].stems)}; leave the song or the "
                    "stem out" + ("" if len(without) == len(self.tracks) else ", or set mix_songs to 1")
                )

    def __len__(self) -> int:
        return self.sampling.count(self._lengths, self._read_samples)

    def __getitem__(self, key: Key | int) -> Example:
        epoch, index = (0, key) if isinstance(key, int) else key
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return _Making(self, index, Draws(self.seed, epoch, index)).example()

    def read(self, source: str, place: Place) -> Samples:
        """A source from a place on, ``[channels, n]`` with silence beyond the song's end; AudioError."""
        track = self.tracks[place.song]
        there = min(self._read_samples, track.samples - place.start_samples)
        sound = track.read(source, place.start_samples, there)
        if not np.isfinite(sound.sum(dtype=np.float64)):
            raise AudioReadError("it holds samples that are not numbers; export the song again")
        if sound.shape[0] != self.channels:
            sound = sound.mean(0, keepdims=True) if self.channels == 1 else np.repeat(sound, 2, axis=0)
        return sound if there == self._read_samples else np.pad(sound, ((0, 0), (0, self._read_samples - there)))


class _Making:
    """One example on its way: what is drawn for it, and what could not be read."""

    def __init__(self, excerpts: Excerpts, index: int, draws: Draws):
        self._of, self._index, self._draws = excerpts, index, draws
        self._faults: list[Fault] = []

    def example(self) -> Example:
        of, draws = self._of, self._draws
        mixes = bool(draws.chance(of.mix_songs))
        keep = of.silence.keep if of.silence else 1.0
        may_be_silent = dict(zip(of.stems, draws.chance(keep, (len(of.stems),)).tolist(), strict=True))
        heard = [stem for stem, may in may_be_silent.items() if not may and stem not in of.may_be_silent]
        if mixes:
            read = [self._from([stem], self._anywhere(stem), heard)[0] for stem in of.stems]
        else:
            place = of.sampling.place(self._index, of._lengths, of._read_samples, draws)
            read = self._from([*of.stems, MIXTURE] if of.with_mixture else of.stems, place, heard)
        sounds = torch.from_numpy(np.stack(read))
        stems, mixture = sounds[: len(of.stems)], (sounds[-1] if of.with_mixture else None)
        stems = augment(of.augmentations, stems, of.sample_rate, draws, of._given_samples)
        return Example(stems.contiguous(), mixture, tuple(self._faults))

    def _from(self, sources: Sequence[str], place: Place, heard: Sequence[str]) -> list[Samples]:
        """Excerpts of sources from one place, ``[C, n]`` each; from another one where that will not do."""
        of, redrawn, failed = self._of, 0, 0
        while True:
            sounds = self._read(sources, place)
            if sounds is None:
                failed += 1
                if failed == MAX_ATTEMPTS:
                    raise AudioReadError(
                        f"{failed} excerpts one after the other could not be read, the last one: {self._faults[-1]}"
                    )
                place = self._anywhere(sources[0])
            elif of.silence and redrawn < of.silence.redraws and self._lacks(sounds, heard):
                redrawn += 1
                # The song keeps its share of the epoch, unless it has hardly anything of that stem.
                if redrawn <= of.silence.redraws // 2:
                    place = anywhere(place.song, of._lengths, of._read_samples, self._draws)
                else:
                    place = self._anywhere(sources[0])
            else:
                return list(sounds.values())

    def _read(self, sources: Sequence[str], place: Place) -> dict[str, Samples] | None:
        sounds = {}
        for source in sources:
            try:
                sounds[source] = self._of.read(source, place)
            except AudioError as error:
                title = self._of.tracks[place.song].title
                seconds = place.start_samples / self._of.sample_rate
                self._faults.append(Fault(title, source, seconds, str(error)))
                return None
        return sounds

    def _lacks(self, sounds: dict[str, Samples], heard: Sequence[str]) -> bool:
        rule, rate = self._of.silence, self._of.sample_rate
        return rule is not None and any(rule.is_silent(sounds[stem], rate) for stem in heard if stem in sounds)

    def _anywhere(self, source: str) -> Place:
        """A place in any song that has a source."""
        songs = self._of._songs_with[source]
        song = songs[int(self._draws.integers((), 0, len(songs) - 1))]
        return anywhere(song, self._of._lengths, self._of._read_samples, self._draws)


def anywhere(song: int, lengths: Sequence[int], samples: int, draws: Draws) -> Place:
    """A place in a song, all of them equally likely, from which an excerpt fits where one does."""
    return Place(song, int(draws.integers((), 0, max(0, lengths[song] - samples))))


def _has(track: Track, source: str) -> bool:
    try:
        track.clips_of(source)
    except UnknownStemError:
        return False
    return True


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name} is {value}: expected 1 or more")
