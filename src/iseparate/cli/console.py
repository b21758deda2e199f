"""What the terminal shows: results on stdout, everything else on stderr."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from rich.table import Table

    from iseparate.engine.results import Progress as SongProgress

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def fail(sentence: str) -> None:
    """One sentence on what went wrong."""
    print_prose(f"[red]error:[/red] {plain(sentence)}", err)


def note(sentence: str) -> None:
    """One sentence the user should know."""
    print_prose(f"[yellow]note:[/yellow] {plain(sentence)}", err)


def plain(text: str) -> str:
    """Text shown as it is: no markup, and no control characters, with which a file's name could drive a terminal."""
    return escape("".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in text))


def print_prose(text: str, console: Console = out) -> None:
    """Text wrapped at words on a terminal; each paragraph on one line elsewhere."""
    console.print(text, soft_wrap=not console.is_terminal)


def beside_bars() -> Console:
    """Where to print while bars are up: stdout, or the console they live on where both are one terminal.

    That one makes room for the line; from another it would be written into the bars.
    """
    return err if out.is_terminal and err.is_terminal else out


def print_table(table: Table) -> None:
    """A table, folded to the terminal's width; one line a row where it goes to a file or to another program."""
    console = out if out.is_terminal else Console(highlight=False, width=10_000)
    console.print(table)


class SongBars:
    """A progress bar per song in work."""

    def __init__(self, enabled: bool = True):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[position]}"),
            TimeRemainingColumn(compact=True),
            console=err,
            disable=not enabled or not err.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, progress: SongProgress) -> None:
        """Move a song's bar."""
        with self._lock:
            if progress.song not in self._tasks:
                name = escape(Path(progress.song).name)
                self._tasks[progress.song] = self._progress.add_task(name, total=None, position="")
        total = progress.total_seconds
        position = clock(progress.done_seconds) + (f" / {clock(total)}" if total else "")
        self._progress.update(
            self._tasks[progress.song], completed=progress.done_seconds, total=total, position=position
        )

    def remove(self, song: str) -> None:
        """Take a finished song's bar away."""
        task = self._tasks.pop(song, None)
        if task is not None:
            self._progress.remove_task(task)


@contextmanager
def download_bar() -> Iterator[DownloadBars]:
    """A bar per file while weights are fetched; nothing where nothing is."""
    progress = Progress(
        TextColumn("fetching {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    )
    with progress:
        yield DownloadBars(progress)


class DownloadBars:
    """Follows the store's progress calls."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, done_bytes: int, total_bytes: int | None, name: str) -> None:
        """Move the bar of the file `name`."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(escape(name), total=total_bytes)
        self._progress.update(self._tasks[name], completed=done_bytes, total=total_bytes)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, thing: str) -> str:
    """``1 song``, ``2 songs``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def megabytes(count: float) -> str:
    """Bytes in MB; in GB from a thousand of them, in kB below one."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 or not count else f"{count / 1e3:.0f} kB"
