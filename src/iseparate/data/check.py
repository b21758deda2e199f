"""What is wrong with a data set, found by decoding all of it once, block by block.

Faults spoil training or scores; remarks are for someone to look at. Every code is one of `CODES`.

The residual is the energy of mixture minus sum of stems beside that of the mixture, in dB, over the length that all
have. It is judged only where nothing else stands in the way: every stem there, one rate, everything readable. Its limit
comes from the kind of data set; where a file of the track is lossy it is at least `LOSSY_RESIDUAL_LIMIT_DB`, since what
was encoded file by file cannot sum exactly.

Duplicates are found by a hash of the decoded samples, so that a copy in another lossless format, under another name or
with other tags is one, and a song that was encoded again by a lossy codec is not. Silence is no duplicate of silence.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from iseparate.data.clip import Clip, Sound
from iseparate.data.open import Dataset
from iseparate.data.track import MIXTURE, Track
from iseparate.errors import AudioError, UsageError
from iseparate.types import Samples

Level = Literal["fault", "remark"]

CODES: Mapping[str, Level] = {
    "missing-stem": "fault",
    "unreadable": "fault",
    "rates": "fault",
    "channels": "fault",
    "lengths": "fault",
    "small-length": "remark",
    "residual": "fault",
    "silent-mixture": "fault",
    "same-stem": "fault",
    "duplicate": "fault",
    "leak": "fault",
    "clipping": "remark",
    "silent-stem": "remark",
    "passed-over": "remark",
    "incomplete-set": "remark",
    "mixed-rates": "remark",
    "odd-stems": "remark",
}
"""What a finding can be, and how much it matters."""

LENGTH_TOLERANCE_SECONDS = 0.1
"""Lengths that differ by less are encoders' padding, and a remark."""
CLIPPED = 32_767 / 32_768
"""Full scale of 16 bits; at or beyond it a sample may have been cut."""
CLIPPED_RUN_SAMPLES = 3
"""So many samples in a row at full scale are taken for clipping: one or two are a normalised peak."""
SILENCE_DBFS = -80.0
"""A source whose peak lies below this is silent: dither at most."""
LOSSY_RESIDUAL_LIMIT_DB = -20.0
"""AAC and MP3 at usual rates leave -25 to -50 dB; a wrong or missing stem is mostly louder than this."""
RESIDUAL_FLOOR_DB = -200.0
"""What an exact sum is reported as."""

_BLOCK_SAMPLES = 65_536


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd."""

    code: str
    track: str
    """The track's title; empty for the data set as a whole."""
    source: str
    """The stem or the mixture; empty for the track as a whole."""
    sentence: str

    @property
    def level(self) -> Level:
        """Whether it is a fault or a remark."""
        return CODES[self.code]


@dataclass(frozen=True)
class SourceFacts:
    """What was measured of a stem or a mixture."""

    sample_rate_hz: int
    channels: int
    samples: int
    peak_dbfs: float | None
    """None: digital silence."""
    rms_dbfs: float | None
    clipped_places: int
    """How many runs of `CLIPPED_RUN_SAMPLES` or more samples at full scale, over all channels."""
    samples_sha256: str
    """Of the decoded float32 samples."""


@dataclass(frozen=True)
class TrackFacts:
    """What was measured of a track."""

    title: str
    subset: str
    sources: dict[str, SourceFacts]
    residual_db: float | None
    """None: there is no mixture file, or the sum could not be judged."""
    residual_limit_db: float


@dataclass(frozen=True)
class Report:
    """All that was measured and found."""

    spec: str
    tracks: tuple[TrackFacts, ...]
    findings: tuple[Finding, ...]

    def of_level(self, level: Level) -> list[Finding]:
        """The findings that are faults, or remarks."""
        return [finding for finding in self.findings if finding.level == level]


def check_dataset(
    dataset: Dataset,
    *,
    jobs: int = 1,
    residual_limit_db: float | None = None,
    progress: Callable[[str, float], None] = lambda *_: None,
) -> Report:
    """Decode every track once and say what is wrong with it.

    Memory does not grow with the length of the songs.

    Args:
        dataset: the tracks to look at.
        jobs: how many tracks at a time, each in a thread.
        residual_limit_db: what the stems' sum may miss of the mixture, for every track; None: as the kind of data set
            has it, or `LOSSY_RESIDUAL_LIMIT_DB`.
        progress: called from the threads with a track's title and the share of it that was done since last time.

    Raises:
        UsageError: `jobs` is below 1, or the limit is no number.
    """
    if jobs < 1:
        raise UsageError(f"jobs is 1 or more; got {jobs}")
    if residual_limit_db is not None and not math.isfinite(residual_limit_db):
        raise UsageError(f"the residual's limit is a number of decibels, such as -30; got {residual_limit_db}")
    stop = threading.Event()

    def look(track: Track) -> tuple[TrackFacts, list[Finding]]:
        return _TrackCheck(track, dataset, residual_limit_db, stop, progress).run()

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="check")
    try:
        results = list(pool.map(look, dataset.tracks))
    finally:
        stop.set()  # where the user stops the run, the tracks in work end at their next block
        pool.shutdown(cancel_futures=True)
    facts = [fact for fact, _ in results]
    findings = [
        *_of_the_set(dataset, facts),
        *itertools.chain.from_iterable(found for _, found in results),
        *_duplicates(facts),
    ]
    return Report(dataset.spec, tuple(facts), tuple(findings))


@dataclass
class _Meter:
    """Running measures of one source."""

    sound: Sound
    samples: int = 0
    peak: float = 0.0
    energy: float = 0.0
    clipped_places: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    _tail: NDArray[np.bool_] | None = None

    def add(self, block: Samples) -> None:
        self._hash.update(np.ascontiguousarray(block.T).data)
        self.samples += block.shape[1]
        magnitude = np.abs(block)
        self.peak = max(self.peak, float(magnitude.max()))
        self.energy += float(np.square(block, dtype=np.float64).sum())
        self._count_clipping(magnitude >= CLIPPED)

    def _count_clipping(self, full: NDArray[np.bool_]) -> None:
        """Count where a run of full samples reaches its length; runs may cross the blocks' ends."""
        run = CLIPPED_RUN_SAMPLES
        tail = np.zeros((full.shape[0], run), bool) if self._tail is None else self._tail
        full = np.concatenate([tail, full], axis=1)
        runs = np.lib.stride_tricks.sliding_window_view(full, run, axis=1)
        inside: NDArray[np.bool_] = np.all(runs, axis=2)
        self.clipped_places += int((inside[:, 1:] & ~inside[:, :-1]).sum())
        self._tail = full[:, -run:]

    def facts(self) -> SourceFacts:
        count = self.samples * self.sound.channels
        return SourceFacts(
            self.sound.sample_rate,
            self.sound.channels,
            self.samples,
            _round(_decibels(self.peak**2)),
            _round(_decibels(self.energy / count) if count else None),
            self.clipped_places,
            self._hash.hexdigest(),
        )


class _StoppedError(Exception):
    """The user has stopped the run."""


def _is_silent(fact: SourceFacts) -> bool:
    return fact.peak_dbfs is None or fact.peak_dbfs < SILENCE_DBFS


class _TrackCheck:
    """The check of one track."""

    def __init__(
        self,
        track: Track,
        dataset: Dataset,
        limit_db: float | None,
        stop: threading.Event,
        progress: Callable[[str, float], None],
    ):
        self._track = track
        self._dataset = dataset
        self._limit_db = dataset.residual_limit_db if limit_db is None else limit_db
        self._limit_is_asked = limit_db is not None
        self._stop = stop
        self._progress = progress
        self._findings: list[Finding] = []
        self._may_sum = True
        self._done = 0.0
        """Share of the track, in [0, 1]."""

    def run(self) -> tuple[TrackFacts, list[Finding]]:
        """Measure and judge."""
        self._find_missing_stems()
        meters = {name: _Meter(sound) for name, sound in self._probe().items()}
        residual, mixture_energy = self._measure(meters)
        self._progress(self._track.title, 1.0 - self._done)
        facts = {name: meter.facts() for name, meter in meters.items()}
        for name, fact in facts.items():
            self._judge_source(name, fact)
        if MIXTURE not in facts and not self._dataset.training_only:
            self._judge_sum(facts)
        self._judge_repeated_stems(facts)
        residual_db = self._judge_residual(residual, mixture_energy)
        return TrackFacts(self._track.title, self._track.subset, facts, residual_db, self._limit_db), self._findings

    def _found(self, code: str, source: str, sentence: str) -> None:
        self._findings.append(Finding(code, self._track.title, source, sentence))

    def _find_missing_stems(self) -> None:
        expected = (MIXTURE, *self._dataset.stems) if self._dataset.stems_are_fixed else ()
        for name in expected:
            if name not in self._track.sources:
                self._found("missing-stem", name, f"there is no {name}; expected {', '.join(expected)}")
                self._may_sum = False

    def _probe(self) -> dict[str, Sound]:
        """What each readable source is, after judging whether they fit together."""
        sounds: dict[str, list[tuple[Clip, Sound]]] = {}
        for name, clips in self._track.sources.items():
            try:
                sounds[name] = [(clip, clip.sound) for clip in clips]
            except AudioError as error:
                self._unreadable(name, error)
        every = [pair for pairs in sounds.values() for pair in pairs]
        if not self._limit_is_asked and not all(sound.is_lossless for _, sound in every):
            self._limit_db = max(self._limit_db, LOSSY_RESIDUAL_LIMIT_DB)
        self._judge_differing("rates", "Hz", {sound.sample_rate: clip for clip, sound in every})
        self._judge_differing("channels", "channels", {sound.channels: clip for clip, sound in every})
        self._judge_lengths(every)
        return {name: pairs[0][1] for name, pairs in sounds.items()}

    def _unreadable(self, name: str, error: AudioError) -> None:
        self._found("unreadable", name, str(error).rstrip("."))
        self._may_sum = False

    def _judge_differing(self, code: str, unit: str, clips: Mapping[int, Clip]) -> None:
        if len(clips) > 1:
            values = ", ".join(f"{clip.path.name} has {value} {unit}" for value, clip in sorted(clips.items()))
            self._found(code, "", f"{values}: expected one number; convert them to one")
            self._may_sum = False

    def _judge_lengths(self, every: list[tuple[Clip, Sound]]) -> None:
        lengths = {sound.samples: clip for clip, sound in every}
        if len(lengths) > 1:
            short, long = min(lengths), max(lengths)
            seconds = (long - short) / every[0][1].sample_rate
            self._found(
                "lengths" if seconds > LENGTH_TOLERANCE_SECONDS else "small-length",
                "",
                f"{lengths[short].path.name} has {short} samples and {lengths[long].path.name} {long} "
                f"({seconds:.3f} s more): expected one length; all are read as long as the shortest",
            )

    def _measure(self, meters: dict[str, _Meter]) -> tuple[float, float]:
        """Read all sources side by side; returns the energy of mixture minus stems, and of the mixture."""
        residual = mixture_energy = 0.0
        total_samples = sum(meter.sound.samples for meter in meters.values())
        with ExitStack() as stack:
            readers = {name: stack.enter_context(closing(self._blocks(name))) for name in meters}
            while readers and not self._stop.is_set():
                blocks: dict[str, Samples] = {}
                for name in list(readers):
                    try:
                        block = next(readers[name], None)
                    except AudioError as error:
                        self._unreadable(name, error)
                        del meters[name]
                        block = None
                    if block is None:
                        del readers[name]
                    else:
                        meters[name].add(block)
                        blocks[name] = block
                        self._advance(block.shape[1] / total_samples)
                if self._may_sum and MIXTURE in blocks and len(blocks) == len(meters):
                    width = min(block.shape[1] for block in blocks.values())
                    mixture = blocks.pop(MIXTURE)[:, :width].astype(np.float64)
                    mixture_energy += float(np.square(mixture).sum())
                    for block in blocks.values():
                        mixture -= block[:, :width]
                    residual += float(np.square(mixture).sum())
        if self._stop.is_set():
            raise _StoppedError
        return residual, mixture_energy

    def _advance(self, share: float) -> None:
        share = min(share, 1.0 - self._done)
        self._done += share
        self._progress(self._track.title, share)

    def _blocks(self, name: str) -> Generator[Samples]:
        """A source in order; the sum of its files as far as all of them go."""
        clips = self._track.sources[name]
        if len(clips) == 1:
            yield from clips[0].blocks(_BLOCK_SAMPLES)
            return
        for parts in zip(*(clip.blocks(_BLOCK_SAMPLES) for clip in clips), strict=False):
            width = min(part.shape[1] for part in parts)
            channels = max(part.shape[0] for part in parts)
            total = np.zeros((channels, width), np.float32)
            for part in parts:
                total += part[:, :width] if part.shape[0] in (1, channels) else 0
            yield total

    def _judge_sum(self, facts: Mapping[str, SourceFacts]) -> None:
        """The mixture, where the stems' sum stands in for it."""
        if facts and all(_is_silent(fact) for fact in facts.values()):
            self._found("silent-mixture", "", "all stems are silent, and so is their sum: expected a song; replace it")

    def _judge_source(self, name: str, fact: SourceFacts) -> None:
        if _is_silent(fact):
            silence = "silent" if fact.peak_dbfs is None else f"silent (its peak is {fact.peak_dbfs:.1f} dBFS)"
            if name == MIXTURE:
                self._found("silent-mixture", name, f"the mixture is {silence}: expected a song; replace the file")
            else:
                self._found("silent-stem", name, f"{name} is {silence}: scores of this stem will be undefined")
        if fact.clipped_places:
            self._found(
                "clipping",
                name,
                f"{name} stays at full scale for {CLIPPED_RUN_SAMPLES} samples or more in {fact.clipped_places} "
                f"place{'s' * (fact.clipped_places > 1)}: it may be clipped",
            )

    def _judge_repeated_stems(self, facts: Mapping[str, SourceFacts]) -> None:
        first: dict[str, str] = {}
        for name, fact in facts.items():
            if name == MIXTURE or fact.peak_dbfs is None:
                continue
            other = first.setdefault(fact.samples_sha256, name)
            if other != name:
                self._found("same-stem", name, f"{name} is sample for sample the same as {other}; replace one")

    def _judge_residual(self, residual: float, mixture_energy: float) -> float | None:
        if not self._may_sum or not mixture_energy:
            return None
        residual_db = max(_decibels(residual / mixture_energy) or RESIDUAL_FLOOR_DB, RESIDUAL_FLOOR_DB)
        if residual_db > self._limit_db:
            self._found(
                "residual",
                "",
                f"the stems do not sum to the mixture: the difference lies at {residual_db:.1f} dB, expected below "
                f"{self._limit_db:.1f} dB; look for a missing, shifted or rescaled stem, or a mastered mixture",
            )
        return round(residual_db, 2)


def _of_the_set(dataset: Dataset, facts: list[TrackFacts]) -> Iterator[Finding]:
    for name, count in dataset.missing.items():
        yield Finding("incomplete-set", "", "", f"{count} tracks of the subset {name} are not here: a partial copy")
    for item in dataset.passed_over:
        yield Finding("passed-over", "", "", f"{item.path} {item.reason}, and is passed over")
    if not dataset.stems_are_fixed and not dataset.training_only:
        yield from _odd_stems(dataset.tracks)
    rates = [{source.sample_rate_hz for source in fact.sources.values()} for fact in facts]
    different = sorted(set().union(*(own for own in rates if len(own) == 1)))  # within a track it is a fault
    if len(different) > 1:
        yield Finding("mixed-rates", "", "", f"the tracks have different rates: {', '.join(map(str, different))} Hz")


def _odd_stems(tracks: Sequence[Track]) -> Iterator[Finding]:
    """Tracks whose stems are not those of most: an instrumental, or a misspelt file."""
    usual, count = Counter(frozenset(track.stems) for track in tracks).most_common(1)[0]
    for track in tracks if 2 * count > len(tracks) else ():
        own = frozenset(track.stems)
        differing = [f"without {', '.join(sorted(usual - own))}"] if usual - own else []
        differing += [f"with {', '.join(sorted(own - usual))}"] if own - usual else []
        if differing:
            yield Finding("odd-stems", track.title, "", f"other stems than most tracks: {' and '.join(differing)}")


def _duplicates(facts: list[TrackFacts]) -> Iterator[Finding]:
    """Tracks that hold what an earlier one holds, each named once beside each earlier one."""
    first: dict[str, tuple[TrackFacts, str]] = {}
    for fact in facts:
        shared: dict[str, tuple[TrackFacts, list[str]]] = {}
        for name, source in fact.sources.items():
            if source.peak_dbfs is None:
                continue
            earlier, other = first.setdefault(source.samples_sha256, (fact, name))
            if earlier is not fact:
                same = name if name == other else f"{name} (there {other})"
                shared.setdefault(earlier.title, (earlier, []))[1].append(same)
        for title, (earlier, names) in shared.items():
            leaks = earlier.subset != fact.subset
            yield Finding(
                "leak" if leaks else "duplicate",
                fact.title,
                "",
                f"sample for sample the same as in {title}: {', '.join(names)}; remove one"
                + (f" (what is in {earlier.subset or 'no subset'} must not be in {fact.subset})" if leaks else ""),
            )


def _decibels(power: float) -> float | None:
    return 10 * math.log10(power) if power > 0 else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
