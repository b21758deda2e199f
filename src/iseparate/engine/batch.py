"""Songs as files: each in a transaction of its own, so that one that fails leaves no trace and stops no other."""

from __future__ import annotations

import datetime
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iseparate.audio.decode import Decoder
from iseparate.audio.excerpt import Excerpt
from iseparate.engine.behind import Behind
from iseparate.engine.jobs import run_jobs
from iseparate.engine.manifest import Manifest, file_sha256, intact_stems, read_manifest
from iseparate.engine.names import Claims, Naming, safe_name, track_names
from iseparate.engine.null import NullMeter
from iseparate.engine.outputs import StemFiles, Storage
from iseparate.engine.request import Output, output_named, render
from iseparate.engine.results import Progress, Reporter, SongResult
from iseparate.engine.songs import find_songs
from iseparate.engine.stream import BLOCK_SAMPLES, StemBlock
from iseparate.errors import IseparateError
from iseparate.versions import versions

if TYPE_CHECKING:
    from iseparate.engine.separator import Separator


def separate_files(
    separator: Separator,
    songs: Sequence[str | Path],
    out: Path,
    *,
    outputs: Sequence[Output],
    storage: Storage,
    template: str,
    recursive: bool,
    skip_existing: bool,
    excerpt: Excerpt,
    jobs: int,
    callback: Callable[[Progress], None] | None,
    on_result: Callable[[SongResult], None] | None,
) -> list[SongResult]:
    """Separate files and folders of files; what `Separator.separate_to_files` does. See there for the arguments."""
    storage.check()
    naming = Naming(out / safe_name(separator.ready.id), template, separator.ready.id)
    found, failures = _expand(songs, recursive, out)
    batch = _Batch(separator, outputs, storage, naming, excerpt, skip_existing, callback, Claims(found))
    results = []
    tasks = list(zip(found, track_names(found), strict=True))
    for result in chain(failures, run_jobs(batch.run, tasks, jobs, batch.cancelled)):
        results.append(result)
        if on_result:
            on_result(result)
    return results


@dataclass(frozen=True)
class _Batch:
    """What the songs of a batch have in common."""

    separator: Separator
    outputs: Sequence[Output]
    storage: Storage
    naming: Naming
    excerpt: Excerpt
    skip_existing: bool
    callback: Callable[[Progress], None] | None
    claims: Claims
    cancelled: threading.Event = field(default_factory=threading.Event)

    def run(self, song: Path, track: str) -> SongResult:
        """Separate one song under a name of its own; a failure is a result too."""
        start = time.perf_counter()
        try:
            with self.excerpt.open(song) as decoder:
                result = self._separate(song, track, decoder, start)
        except IseparateError as error:
            return SongResult(song, "failed", error=str(error), seconds=time.perf_counter() - start)
        except OSError as error:
            complaint = f"{error.filename or song} cannot be read or written: {error.strerror or error}; check its disk"
            return SongResult(song, "failed", error=complaint, seconds=time.perf_counter() - start)
        except MemoryError:
            complaint = f"{song} needs more memory than there is; try fewer --jobs or a shorter --segment"
            return SongResult(song, "failed", error=complaint, seconds=time.perf_counter() - start)
        except RuntimeError as error:  # PyTorch's; it must not cost the user the other songs
            complaint = f"{song} failed by a fault of iseparate's; please report it: {type(error).__name__}: {error}"
            return SongResult(song, "failed", error=complaint, seconds=time.perf_counter() - start)
        return result

    def _separate(self, song: Path, track: str, decoder: Decoder, start: float) -> SongResult:
        info = decoder.info
        naming, ready = self.naming, self.separator.ready
        manifest_path = naming.manifest_path(track, self.storage.format, info.tags)
        facts: dict[str, Any] = {
            "song_sha256": file_sha256(song),
            "model": ready.id,
            "weights_sha256": ready.weights_sha256,
            "settings": self.separator.settings | asdict(self.storage) | asdict(self.excerpt),
        }
        before = read_manifest(manifest_path)
        earlier = before if self.skip_existing and before and before.describes(facts) else None
        outputs = self._with_earlier(earlier)
        paths = {o.name: naming.stem_path(track, o.name, self.storage.format, info.tags) for o in outputs}
        self.claims.add(song, [*paths.values(), manifest_path])
        intact = intact_stems(earlier, manifest_path.parent, paths) if earlier else {}
        if earlier and paths.keys() <= intact.keys():
            return SongResult(song, "skipped", paths, earlier, manifest_path, seconds=time.perf_counter() - start)
        # What is made anew has to fit what is kept, so it takes over its gain; a stem that had no part in that gain
        # could clip at it, so then all are made anew.
        if earlier is None or not intact or not paths.keys() <= earlier.stems.keys():
            earlier, intact = None, {}
        missing = [output for output in outputs if output.name not in intact]
        gain = 10 ** (earlier.gain_db / 20) if earlier else None
        notes = []
        if before and before.song_sha256 != facts["song_sha256"]:
            notes.append(f"the stems of another song, {before.song}, were at that place and are replaced.")
        expected = self.excerpt.expected_samples(info)
        report = Reporter(self.callback, str(song), info.sample_rate, expected)
        meter = NullMeter(self.separator.stems)

        def heard(seconds: float) -> None:
            self._stop_if_cancelled()
            report.heard(seconds)

        with StemFiles(
            {output.name: paths[output.name] for output in missing},
            manifest_path.parent,
            info,
            self.storage,
            gain,
            expected,
        ) as files:
            stretches = self.separator.stream(
                lambda: decoder.blocks(BLOCK_SAMPLES),
                info.sample_rate,
                info.layout,
                missing,
                expected_samples=expected,
                heard=heard,
            )

            def keep(stretch: StemBlock) -> None:
                files.write(render(missing, stretch.mix, stretch.stems))
                meter.add(stretch)

            with closing(stretches), Behind(keep) as behind:
                for stretch in stretches:
                    self._stop_if_cancelled()
                    behind.take(stretch)
                    report.done(meter.samples)
            report.done(meter.samples)
            stored = files.finish()
            null_db = meter.null_db if meter.null_db is not None or not earlier else earlier.null_db
            if files.is_clamped:
                null_db = None
            manifest = Manifest(
                song=song.name.encode("utf-8", "replace").decode("utf-8"),  # a name can be any bytes
                **facts,
                versions=versions(),
                sample_rate_hz=info.sample_rate,
                channels=info.channels,
                samples=meter.samples,
                gain_db=20 * math.log10(files.gain),
                null_db=null_db,
                notes=list(dict.fromkeys([*notes, *decoder.notes, *files.notes])),
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                seconds=round(time.perf_counter() - start, 3),
                stems=intact | stored,
            )
            files.commit(manifest, manifest_path)
        return SongResult(song, "done", paths, manifest, manifest_path, seconds=time.perf_counter() - start)

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise KeyboardInterrupt

    def _with_earlier(self, earlier: Manifest | None) -> Sequence[Output]:
        """What is asked for; with new stems also what an earlier run made, since all of a song's share one gain."""
        asked = {output.name: output for output in self.outputs}
        if earlier is None or asked.keys() <= earlier.stems.keys():
            return self.outputs
        spec = self.separator.spec
        others = (output_named(spec, name) for name in earlier.stems if name not in asked)
        return [*self.outputs, *(output for output in others if output)]


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
