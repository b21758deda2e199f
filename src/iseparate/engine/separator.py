"""The whole path, from a song to its stems: decode, chunk, model, overlap-add."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from iseparate.audio.array import blocks_of, checked_audio
from iseparate.audio.excerpt import Excerpt
from iseparate.audio.layout import unnamed_layout
from iseparate.engine.backend import Backend, Precision, Runtime, choose_backend
from iseparate.engine.batch import separate_files
from iseparate.engine.names import DEFAULT_TEMPLATE
from iseparate.engine.outputs import Storage
from iseparate.engine.plan import Plan
from iseparate.engine.request import Output, computed_stems, render, resolve_outputs
from iseparate.engine.results import Progress, Reporter, SongResult
from iseparate.engine.spool import folder, megabytes, require_space
from iseparate.engine.stream import BLOCK_SAMPLES, ChannelMap, StemBlock, separate_blocks
from iseparate.engine.two_pass import Heard, spooled_bytes
from iseparate.errors import UsageError
from iseparate.types import Audio, ModelSpec, Samples, Stems
from iseparate.weights.load import ReadyModel, load_ready
from iseparate.weights.source import Progress as DownloadProgress
from iseparate.weights.store import Store

DEFAULT_MODEL = "band-4stems"
MAX_SHIFT_SECONDS = 0.5
MAX_SHIFTS = 100

Blocks = Callable[[], Iterable[Samples]]
"""The song's blocks ``[C, n]`` from the start, as often as it is called."""


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
        batch_size: segments that run together; changes speed and memory only. None: the model's default.
        store: the cache of weights; None: the user's.
        download_progress: called while weights are fetched.
        notify: told in a sentence what a song will take beyond the usual, before it does: the temporary space of a
            model that goes through it twice. By default it goes to the log.

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
        batch_size: int | None = None,
        store: Store | None = None,
        download_progress: DownloadProgress | None = None,
        notify: Callable[[str], None] | None = None,
    ):
        if not 0 <= shifts <= MAX_SHIFTS:
            raise UsageError(f"shifts is a number from 0 to {MAX_SHIFTS}; got {shifts}")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size is 1 or more; got {batch_size}")
        self.backend: Backend = choose_backend(device, precision, backend)
        self.ready: ReadyModel = load_ready(model, store=store, progress=download_progress)
        self.spec = self.ready.model.spec
        self.plan = Plan.for_model(self.spec, overlap, segment_seconds)
        self.model = self.backend.prepare(self.ready.model)
        if shifts > 1 and self.spec.stems_in_any_order:
            raise UsageError(
                f"the stems of this model ({', '.join(self.spec.stems)}) come in any order, so several separations "
                "cannot be averaged; leave --shifts out"
            )
        self._shifts = _shift_samples(self.spec.sample_rate, self.spec.start_grid_samples, shifts, seed)
        self.batch_size = batch_size or _default_batch_size(self.spec, self.plan)
        self._notify = logging.getLogger("iseparate").warning if notify is None else notify
        self._announced_bytes = 0
        self.settings: dict[str, Any] = {
            "precision": self.backend.precision_of(self.model),
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
            OutputError: too little temporary space, for a model that goes through the song twice.
        """
        outputs = resolve_outputs(self.spec, stems, two_stems, residual)
        if isinstance(song, str | Path):
            excerpt = excerpt or Excerpt()
            with excerpt.open(Path(song)) as decoder:
                info = decoder.info
                expected = excerpt.expected_samples(info)
                report = Reporter(callback, str(song), info.sample_rate, expected)
                blocks = self.stream(
                    lambda: decoder.blocks(BLOCK_SAMPLES),
                    info.sample_rate,
                    info.layout,
                    outputs,
                    expected_samples=expected,
                    heard=report.heard,
                )
                return _collect(blocks, outputs, info.sample_rate, report)
        audio = checked_audio(song, sample_rate)
        samples, rate = audio.samples, audio.sample_rate
        layout = unnamed_layout(len(samples))
        length = samples.shape[1]
        report = Reporter(callback, "array", rate, length)
        blocks = self.stream(
            lambda: blocks_of(samples, BLOCK_SAMPLES),
            rate,
            layout,
            outputs,
            expected_samples=length,
            heard=report.heard,
        )
        return _collect(blocks, outputs, rate, report)

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
        return separate_files(
            self,
            [songs] if isinstance(songs, str | Path) else songs,
            Path(out),
            outputs=resolve_outputs(self.spec, stems, two_stems, residual),
            storage=Storage(format, bit_depth, bitrate_kbps, codec, clip),
            template=filename,
            recursive=recursive,
            skip_existing=skip_existing,
            excerpt=excerpt or Excerpt(),
            jobs=jobs,
            callback=callback,
            on_result=on_result,
        )

    def stream(
        self,
        blocks: Blocks,
        sample_rate: int,
        layout: Sequence[str],
        outputs: Sequence[Output],
        *,
        expected_samples: int | None = None,
        heard: Heard | None = None,
    ) -> Generator[StemBlock]:
        """Separate a song that arrives in blocks, in constant memory.

        A model with ``spec.two_pass`` yields nothing before it has heard all of the song. What it keeps on disk until
        then goes with the generator: exhaust it or close it.

        Args:
            blocks: called once, or twice where the model needs statistics of the whole song.
            sample_rate: of the song.
            layout: FFmpeg's names of its channels, such as ``("FL", "FR")``.
            outputs: what is wanted, which decides the stems that are computed.
            expected_samples: length of the song, as far as it is known: temporary space is checked for it at once.
            heard: told in the first of two passes how many seconds are behind it; may raise to end it.

        Yields:
            the same stretch of the song and of its computed stems, together exactly as long as the song.

        Raises:
            OutputError: too little temporary space for a model that goes through the song twice.
        """
        if self.spec.two_pass:
            self._announce(sample_rate, layout, expected_samples)
        model = self.model.narrowed(computed_stems(self.spec, outputs))
        plans = [self.plan.shifted(shift) for shift in self._shifts]
        return separate_blocks(model, plans, blocks, sample_rate, layout, self.batch_size, heard)

    def spooled_bytes(self, sample_rate: int, layout: Sequence[str], seconds: float) -> int:
        """Temporary space that a song takes while it is separated; 0 where the model goes through it once."""
        signals = ChannelMap(layout, self.spec.channels).signals
        return spooled_bytes(self.spec, signals, len(layout), sample_rate, seconds)

    def _announce(self, sample_rate: int, layout: Sequence[str], expected_samples: int | None) -> None:
        """Say what the first pass takes, unless a song that takes as much was announced before; refuse if too much."""
        seconds = 60.0 if expected_samples is None else expected_samples / sample_rate
        needed_bytes = self.spooled_bytes(sample_rate, layout, seconds)
        if needed_bytes > self._announced_bytes:
            self._announced_bytes = needed_bytes
            of = " for each minute of the song" if expected_samples is None else ""
            self._notify(
                f"{self.ready.id} goes through a song twice, since its filter takes statistics of all of it; the first "
                f"pass keeps about {megabytes(needed_bytes)}{of} in {folder()}."
            )
        if expected_samples is not None:
            require_space(needed_bytes)


def _collect(stretches: Generator[StemBlock], outputs: Sequence[Output], sample_rate: int, report: Reporter) -> Stems:
    parts: dict[str, list[Samples]] = {output.name: [] for output in outputs}
    done = 0
    with closing(stretches):
        for block in stretches:
            for name, samples in render(outputs, block.mix, block.stems).items():
                parts[name].append(samples)
            done += block.mix.shape[1]
            report.done(done)
    return Stems({name: np.concatenate(samples, 1) for name, samples in parts.items()}, sample_rate)


def _default_batch_size(spec: ModelSpec, plan: Plan) -> int:
    """As many segments as make up what the model likes to have at a time, whatever their length; at least one."""
    return max(1, round(spec.batch_seconds * spec.sample_rate / plan.segment_samples))


def _shift_samples(sample_rate: int, grid: int, shifts: int, seed: int) -> list[int]:
    """Random shifts on the grid on which segments start; the same for the same seed."""
    if not shifts:
        return [0]
    most = max(1, int(MAX_SHIFT_SECONDS * sample_rate) // grid)
    # Not cryptography: a repeatable choice.
    chance = random.Random(seed)  # noqa: S311
    return [chance.randint(0, most) * grid for _ in range(shifts)]
