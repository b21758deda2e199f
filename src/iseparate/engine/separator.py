"""The whole path, from a song to its stems: decode, chunk, model, overlap-add, encode."""

from __future__ import annotations

import datetime
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from iseparate.audio.decode import AudioInfo, Decoder
from iseparate.audio.layout import unnamed_layout
from iseparate.engine.backend import Backend, Precision, Runtime, choose_backend
from iseparate.engine.jobs import run_jobs
from iseparate.engine.manifest import Manifest, file_sha256, intact_stems, read_manifest
from iseparate.engine.names import DEFAULT_TEMPLATE, Claims, Naming, safe_name, track_names
from iseparate.engine.outputs import StemFiles, Storage
from iseparate.engine.plan import Plan
from iseparate.engine.request import Output, computed_stems, resolve_outputs
from iseparate.engine.songs import find_songs
from iseparate.engine.stream import SongStream, StemBlock, track_statistics
from iseparate.errors import AudioFormatError, IseparateError, UsageError
from iseparate.types import Audio, Samples, Stems
from iseparate.versions import versions
from iseparate.weights.load import ReadyModel, load_ready
from iseparate.weights.source import Progress as DownloadProgress
from iseparate.weights.store import Store

DEFAULT_MODEL = "spleeter-2stems"
MAX_SHIFT_SECONDS = 0.5
MAX_SHIFTS = 100
BLOCK_SAMPLES = 1 << 17

Blocks = Callable[[], Iterable[Samples]]
"""The song's blocks ``[C, n]`` from the start, as often as it is called."""


@dataclass(frozen=True)
class Progress:
    """How far a song is."""

    song: str
    done_seconds: float
    total_seconds: float | None
    """None: the song does not say how long it is."""


@dataclass(frozen=True)
class SongResult:
    """What became of one song of a batch."""

    song: Path
    status: Literal["done", "skipped", "failed"]
    files: dict[str, Path] = field(default_factory=dict)
    manifest: Manifest | None = None
    manifest_path: Path | None = None
    error: str | None = None
    seconds: float = 0.0
    """Wall time."""

    @property
    def song_seconds(self) -> float:
        """Length of the song."""
        return self.manifest.samples / self.manifest.sample_rate_hz if self.manifest else 0.0


@dataclass(frozen=True)
class Excerpt:
    """Which part of a file is the song."""

    stream: int = 0
    start_seconds: float = 0.0
    duration_seconds: float | None = None
    allow_truncated: bool = False

    def __post_init__(self) -> None:
        if self.stream < 0:
            raise UsageError(f"stream counts the sound tracks of a file from 0; got {self.stream}")
        if not 0 <= self.start_seconds < math.inf:
            raise UsageError(f"start is a number of seconds, 0 or more; got {self.start_seconds:g}")
        if self.duration_seconds is not None and not 0 < self.duration_seconds < math.inf:
            raise UsageError(f"duration is a number of seconds, more than 0; got {self.duration_seconds:g}")


class Separator:
    """Separates songs with one model.

    Args:
        model: a card's id, a weights file of ours, or an official checkpoint.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        backend: auto, eager, compile, openvino or onnx.
        overlap: share of a segment in common with the next, in [0, 1); None: the model's default.
        segment_seconds: length of a segment, where the model leaves it free.
        shifts: average this many separations of the song moved by random times up to half a second; 0: one, unmoved.
        seed: of the shifts.
        batch_size: segments that run together; changes speed and memory only.
        store: the cache of weights; None: the user's.
        download_progress: called while weights are fetched.

    Raises:
        UnknownModelError, WeightsError: the model cannot be made ready.
        BackendError: device, precision or backend are not to be had here.
        UsageError: an option out of range.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        backend: Runtime = "auto",
        overlap: float | None = None,
        segment_seconds: float | None = None,
        shifts: int = 0,
        seed: int = 0,
        batch_size: int = 1,
        store: Store | None = None,
        download_progress: DownloadProgress | None = None,
    ):
        if not 0 <= shifts <= MAX_SHIFTS:
            raise UsageError(f"shifts is a number from 0 to {MAX_SHIFTS}; got {shifts}")
        if batch_size < 1:
            raise UsageError(f"batch_size is 1 or more; got {batch_size}")
        self.backend: Backend = choose_backend(device, precision, backend)
        self.ready: ReadyModel = load_ready(model, store=store, progress=download_progress)
        self.spec = self.ready.model.spec
        self.plan = Plan.for_model(self.spec, overlap, segment_seconds)
        self.model = self.backend.prepare(self.ready.model)
        self._shifts = _shift_samples(self.spec.sample_rate, self.spec.start_grid_samples, shifts, seed)
        self._batch_size = batch_size
        self.settings: dict[str, Any] = {
            "precision": self.backend.precision,
            "backend": self.backend.runtime,
            "overlap": overlap if overlap is not None else self.spec.default_overlap,
            "segment_samples": self.plan.segment_samples,
            "shifts": shifts,
            "seed": seed if shifts else None,
        }

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the model's stems."""
        return self.spec.stems

    def separate(
        self,
        song: str | Path | Audio | ArrayLike,
        sample_rate: int | None = None,
        *,
        stems: Sequence[str] | None = None,
        two_stems: str | None = None,
        residual: bool = False,
        excerpt: Excerpt | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> Stems:
        """Separate one song in memory.

        Args:
            song: a path, or float samples ``[C, T]`` or ``[T]`` (full scale ±1).
            sample_rate: of an array.
            stems: names; None: all.
            two_stems: this stem and ``no_<stem>`` instead.
            residual: also ``residual``, the song minus all stems.
            excerpt: which part of a file.
            callback: told of the progress.

        Returns:
            the stems at the song's own rate, each of the song's own shape ``[C, T]``.

        Raises:
            AudioError: the song cannot be used.
            UnknownStemError: no such stem.
        """
        outputs = resolve_outputs(self.spec, stems, two_stems, residual)
        if isinstance(song, str | Path):
            with _open(Path(song), excerpt or Excerpt()) as decoder:
                info = decoder.info
                return self._collect(
                    self._run(lambda: decoder.blocks(BLOCK_SAMPLES), info.sample_rate, info.layout, outputs),
                    outputs, info.sample_rate, str(song), info.estimated_seconds, callback,
                )  # fmt: skip
        audio = _checked_audio(song, sample_rate)
        blocks = _blocks_of(audio.samples)
        layout = unnamed_layout(len(audio.samples))
        seconds = audio.samples.shape[1] / audio.sample_rate
        return self._collect(
            self._run(blocks, audio.sample_rate, layout, outputs),
            outputs, audio.sample_rate, "array", seconds, callback,
        )  # fmt: skip

    def separate_to_files(
        self,
        songs: str | Path | Sequence[str | Path],
        out: str | Path = "separated",
        *,
        format: str = "wav",
        bit_depth: str | None = None,
        bitrate_kbps: int | None = None,
        codec: str | None = None,
        clip: Literal["rescale", "clamp", "none"] = "rescale",
        stems: Sequence[str] | None = None,
        two_stems: str | None = None,
        residual: bool = False,
        filename: str = DEFAULT_TEMPLATE,
        recursive: bool = False,
        skip_existing: bool = False,
        excerpt: Excerpt | None = None,
        jobs: int = 1,
        callback: Callable[[Progress], None] | None = None,
        on_result: Callable[[SongResult], None] | None = None,
    ) -> list[SongResult]:
        """Separate files and folders of files into ``<out>/<model>/``. A song that fails does not stop the others.

        Args:
            songs: paths of songs or folders.
            out: where the model's folder is made.
            format: wav, flac, mp3, m4a, ogg or opus.
            bit_depth: 16, 24 or 32f; None: the song's own.
            bitrate_kbps: of a lossy format.
            codec: for m4a: aac or alac.
            clip: what happens beyond full scale: rescale (all stems alike), clamp or none.
            stems, two_stems, residual, excerpt: as `separate`.
            filename: template of the paths; see `iseparate.engine.names`.
            recursive: look in the folders below a folder too.
            skip_existing: leave alone what an earlier run left whole; make what is missing or damaged.
            jobs: songs at a time; the processor's cores are shared out among them.
            callback: told of the progress within a song, from whichever thread works on it.
            on_result: told of each song when it is over, in the calling thread.

        Returns:
            one result per song, failed ones too.

        Raises:
            UsageError: options that no song could be separated with.
        """
        outputs = resolve_outputs(self.spec, stems, two_stems, residual)
        storage = Storage(format, bit_depth, bitrate_kbps, codec, clip)
        storage.check()
        naming = Naming(Path(out) / safe_name(self.ready.id), filename, self.ready.id)
        found, results = _expand([songs] if isinstance(songs, str | Path) else songs, recursive, Path(out))
        for result in results:
            if on_result:
                on_result(result)
        cancelled = threading.Event()
        claims = Claims()

        def one(song: Path, track: str) -> SongResult:
            start = time.perf_counter()
            try:
                return self._separate_file(
                    song,
                    track,
                    naming,
                    outputs,
                    storage,
                    excerpt or Excerpt(),
                    skip_existing,
                    callback,
                    cancelled,
                    claims,
                )
            except IseparateError as error:
                return SongResult(song, "failed", error=str(error), seconds=time.perf_counter() - start)

        for result in run_jobs(one, list(zip(found, track_names(found), strict=True)), jobs, cancelled):
            results.append(result)
            if on_result:
                on_result(result)
        return results

    def _separate_file(
        self,
        song: Path,
        track: str,
        naming: Naming,
        outputs: Sequence[Output],
        storage: Storage,
        excerpt: Excerpt,
        skip_existing: bool,
        callback: Callable[[Progress], None] | None,
        cancelled: threading.Event,
        claims: Claims,
    ) -> SongResult:
        start = time.perf_counter()
        with _open(song, excerpt) as decoder:
            info = decoder.info
            paths = {o.name: naming.stem_path(track, o.name, storage.format, info.tags) for o in outputs}
            claims.add(song, paths.values())
            manifest_path = naming.manifest_path(track, next(iter(paths.values())))
            facts: dict[str, Any] = {
                "song_sha256": file_sha256(song),
                "model": self.ready.id,
                "weights_sha256": self.ready.weights_sha256,
                "settings": self.settings | asdict(storage) | asdict(excerpt),
            }
            earlier = read_manifest(manifest_path) if skip_existing else None
            # A stem that the earlier run did not make had no part in its gain, and could clip at it: all anew then.
            same_stems = earlier and paths.keys() <= earlier.stems.keys()
            intact = intact_stems(earlier, manifest_path.parent, paths, facts) if same_stems else {}
            if earlier and len(intact) == len(paths):
                return SongResult(song, "skipped", paths, earlier, manifest_path, seconds=time.perf_counter() - start)
            missing = [o for o in outputs if o.name not in intact]
            # What is made anew has to fit what is kept, so it takes over its gain.
            gain = 10 ** (earlier.gain_db / 20) if earlier and intact else None
            expected = _expected_samples(info, excerpt)
            with StemFiles(
                {o.name: paths[o.name] for o in missing}, manifest_path.parent, info, storage, gain, expected
            ) as files:
                meter = _NullMeter(self.spec.stems)
                for block in self._run(lambda: decoder.blocks(BLOCK_SAMPLES), info.sample_rate, info.layout, missing):
                    if cancelled.is_set():
                        raise KeyboardInterrupt
                    files.write(_render(block, missing))
                    meter.add(block)
                    _tell(callback, str(song), meter.samples, info.sample_rate, expected)
                stored = files.finish()
                manifest = Manifest(
                    song=song.name.encode("utf-8", "replace").decode("utf-8"),  # a name can be any bytes
                    **facts,
                    versions=versions(),
                    sample_rate_hz=info.sample_rate,
                    channels=info.channels,
                    samples=meter.samples,
                    gain_db=20 * math.log10(files.gain),
                    null_db=meter.null_db,
                    notes=[*decoder.notes, *files.notes],
                    created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    seconds=round(time.perf_counter() - start, 3),
                    stems=intact | stored,
                )
                files.commit(manifest, manifest_path)
        return SongResult(song, "done", paths, manifest, manifest_path, seconds=time.perf_counter() - start)

    def _run(
        self, blocks: Blocks, sample_rate: int, layout: Sequence[str], outputs: Sequence[Output]
    ) -> Iterator[StemBlock]:
        """The song in aligned blocks of mixture and stems."""
        model = self.model.narrowed(computed_stems(self.spec, outputs))
        track = (
            track_statistics(blocks(), self.spec, sample_rate, layout) if self.spec.track_statistics != "none" else ()
        )
        plans = [self.plan.shifted(shift) for shift in self._shifts]
        stream = SongStream(model, plans, sample_rate, layout, track, self._batch_size)
        return stream.run(blocks())

    def _collect(
        self,
        blocks: Iterator[StemBlock],
        outputs: Sequence[Output],
        sample_rate: int,
        name: str,
        seconds: float | None,
        callback: Callable[[Progress], None] | None,
    ) -> Stems:
        parts: dict[str, list[Samples]] = {output.name: [] for output in outputs}
        done = 0
        for block in blocks:
            for stem, samples in _render(block, outputs).items():
                parts[stem].append(samples)
            done += block.mix.shape[1]
            _tell(callback, name, done, sample_rate, None if seconds is None else round(seconds * sample_rate))
        return Stems({stem: np.concatenate(samples, 1) for stem, samples in parts.items()}, sample_rate)


class _NullMeter:
    """How nearly the stems sum to the song, on float samples at the song's rate."""

    def __init__(self, stems: Sequence[str]):
        self._stems = set(stems)
        self.samples = 0
        self._song = self._rest = 0.0
        self._complete = True

    def add(self, block: StemBlock) -> None:
        self.samples += block.mix.shape[1]
        self._complete &= set(block.stems) == self._stems
        rest = block.mix - np.sum(list(block.stems.values()), axis=0)
        self._rest += float(np.vdot(rest, rest))
        self._song += float(np.vdot(block.mix, block.mix))

    @property
    def null_db(self) -> float | None:
        """Energy of what is left against the song's, in dB; None where it says nothing (silence, not all stems)."""
        if not self._complete or not self._song:
            return None
        return round(10 * math.log10(max(self._rest / self._song, 1e-20)), 2)


def _render(block: StemBlock, outputs: Sequence[Output]) -> dict[str, Samples]:
    return {output.name: output.render(block.mix, block.stems) for output in outputs}


def _tell(callback: Callable[[Progress], None] | None, song: str, done: int, rate: int, expected: int | None) -> None:
    if callback:
        callback(Progress(song, done / rate, None if expected is None else expected / rate))


def _shift_samples(sample_rate: int, grid: int, shifts: int, seed: int) -> list[int]:
    """Random shifts on the grid on which segments start; the same for the same seed."""
    if not shifts:
        return [0]
    most = max(1, int(MAX_SHIFT_SECONDS * sample_rate) // grid)
    # Not cryptography: a repeatable choice.
    chance = random.Random(seed)  # noqa: S311
    return [chance.randint(0, most) * grid for _ in range(shifts)]


def _open(path: Path, excerpt: Excerpt) -> Decoder:
    return Decoder(
        path,
        stream=excerpt.stream,
        start_seconds=excerpt.start_seconds,
        duration_seconds=excerpt.duration_seconds,
        allow_truncated=excerpt.allow_truncated,
    )


def _expected_samples(info: AudioInfo, excerpt: Excerpt) -> int | None:
    if info.estimated_seconds is None:
        return None
    seconds = max(0.0, info.estimated_seconds - excerpt.start_seconds)
    if excerpt.duration_seconds is not None:
        seconds = min(seconds, excerpt.duration_seconds)
    return round(seconds * info.sample_rate)


def _expand(songs: Sequence[str | Path], recursive: bool, out: Path) -> tuple[list[Path], list[SongResult]]:
    """Files out of files and folders, and a failure for each folder that yields none."""
    found: list[Path] = []
    failures = []
    for song in map(Path, songs):
        try:
            found += find_songs(song, recursive, leave_out=[out]) if _is_folder(song) else [song]
        except IseparateError as error:
            failures.append(SongResult(song, "failed", error=str(error)))
        except OSError as error:  # a name that is too long
            failures.append(SongResult(song, "failed", error=f"{song} cannot be read: {error.strerror}"))
    return list(dict.fromkeys(found)), failures


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission, too long a name: opening it will say so
        return False


def _checked_audio(song: Audio | ArrayLike, sample_rate: int | None) -> Audio:
    if isinstance(song, Audio):
        return _checked_audio(song.samples, song.sample_rate)
    if sample_rate is None or not 8000 <= sample_rate <= 384_000:
        raise UsageError(f"an array needs sample_rate=, from 8000 to 384000 Hz; got {sample_rate}")
    array = np.asarray(song)
    if array.dtype.kind != "f":
        raise AudioFormatError(f"samples must be floating-point with full scale ±1; got {array.dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such below
        samples = np.atleast_2d(array).astype(np.float32)
    if samples.ndim != 2 or not 1 <= len(samples) <= 8 or not samples.shape[1]:
        raise AudioFormatError(f"samples must be [channels, samples] with 1 to 8 channels; got {list(array.shape)}")
    if not np.isfinite(samples).all():
        raise AudioFormatError("the samples contain NaN or infinity; replace them first (numpy.nan_to_num)")
    return Audio(samples, sample_rate)


def _blocks_of(samples: Samples) -> Blocks:
    return lambda: (samples[:, i : i + BLOCK_SAMPLES] for i in range(0, samples.shape[1], BLOCK_SAMPLES))


__all__ = ["Excerpt", "Progress", "Separator", "SongResult"]
