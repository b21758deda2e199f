"""Downloads over HTTP: gone on from where they broke off, verified before they are named.

A download grows as ``NAME.part`` beside a small ``NAME.part.json`` that remembers which version of the file
it is a part of, so that a later attempt, in this process or the next, asks the server for the rest of that
version only (RFC 9110, sections 13.1.5 and 14.2). The file gets its name when its bytes have been verified.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import httpx

from iseparate.errors import ChecksumError, DownloadError
from iseparate.weights.disk import disk_full
from iseparate.weights.order import Promise, broken_promise
from iseparate.weights.source import Progress, is_private_enough

FRUITLESS_ATTEMPTS = 4
"""A download is given up after this many attempts in a row that bring nothing new."""
BACKOFF_SECONDS = 0.5
"""Pause after the first fruitless attempt; it doubles with each."""
LONGEST_PAUSE_SECONDS = 30.0
TIMEOUT = httpx.Timeout(30.0, connect=15.0)
LARGEST_DOWNLOAD_BYTES = 32 * 2**30
"""A server that goes on sending is cut off here."""

_STATUS_WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})


def download(
    url: str,
    path: Path,
    promise: Promise,
    *,
    name: str,
    headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Bring what lies at `url` to `path`, which appears only when whole and as promised.

    Goes on from the ``.part`` file of an earlier attempt where the server allows it, and tries again, a
    little later each time, as long as anything new comes. `headers` go to the host of `url` alone, not where
    it redirects to. Raises DownloadError, ChecksumError (the bad bytes are deleted), OSError.
    """
    part = _Part.beside(path, url)
    furthest_bytes, fruitless, clean_slates = part.have_bytes, 0, 1
    loopback = url.startswith("http:")

    def refuse_insecure(request: httpx.Request) -> None:
        if not is_private_enough(request.url.scheme, request.url.host, loopback_allowed=loopback):
            raise DownloadError(f"{_host(url)} redirects {name} to {request.url.host} without encryption; refused.")

    with httpx.Client(
        verify=_authorities(),
        timeout=TIMEOUT,
        follow_redirects=True,
        max_redirects=10,
        event_hooks={"request": [refuse_insecure]},
    ) as client:
        while True:
            try:
                if not part.is_whole:
                    _attempt(client, part, promise, name=name, headers=headers or {}, progress=progress)
                try:
                    promise.check(part.body, name)
                except ChecksumError:
                    # The beginning may have been damaged while it lay here: that deserves one clean attempt.
                    deserves_another = part.is_resumed and clean_slates > 0
                    part.discard()
                    if not deserves_another:
                        raise
                    furthest_bytes, clean_slates = 0, clean_slates - 1
                    continue
                part.body.replace(path)
                part.record.unlink(missing_ok=True)
            except _BrokenOffError as failure:
                fruitless = 1 if part.have_bytes > furthest_bytes else fruitless + 1
                furthest_bytes = max(furthest_bytes, part.have_bytes)
                if fruitless >= FRUITLESS_ATTEMPTS:
                    raise _gave_up(part, name, url, failure) from failure
                pause_seconds = max(failure.pause_seconds, BACKOFF_SECONDS * 2 ** (fruitless - 1))
                time.sleep(min(pause_seconds, LONGEST_PAUSE_SECONDS))
            else:
                return


class _BrokenOffError(Exception):
    """One attempt failed in a way that the next may not."""

    def __init__(self, reason: str, pause_seconds: float = 0.0):
        super().__init__(reason)
        self.pause_seconds = pause_seconds


@dataclass
class _Part:
    """The beginning of a file on disk, and which version of the file it begins."""

    body: Path
    record: Path
    validator: str | None = None
    """A strong ETag, or a Last-Modified date: what If-Range takes."""
    total_bytes: int | None = None
    is_resumed: bool = False
    """True where its bytes came in more than one attempt."""
    url: str = field(default="", repr=False)

    @classmethod
    def beside(cls, path: Path, url: str) -> Self:
        """Find what an earlier attempt at `path` left, or nothing yet."""
        part = cls(path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json"), url=url)
        with suppress(OSError, ValueError, KeyError, TypeError):  # an unreadable record means a fresh start
            known = json.loads(part.record.read_text())
            if known["url"] == url and isinstance(known["validator"], str):
                part.validator = known["validator"]
                part.total_bytes = known["total_bytes"] if isinstance(known["total_bytes"], int) else None
                part.is_resumed = part.have_bytes > 0
        return part

    @property
    def have_bytes(self) -> int:
        return self.body.stat().st_size if self.body.exists() else 0

    @property
    def is_whole(self) -> bool:
        return self.total_bytes is not None and self.have_bytes == self.total_bytes

    def begin(self, validator: str | None, total_bytes: int | None) -> None:
        """Start from nothing with another version of the file."""
        self.discard()
        self.validator, self.total_bytes = validator, total_bytes
        record = {"url": self.url, "validator": validator, "total_bytes": total_bytes}
        self.record.write_text(json.dumps(record))

    def discard(self) -> None:
        self.body.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)
        self.validator, self.total_bytes, self.is_resumed = None, None, False


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Read the certificates that we trust, which takes longer than a small download."""
    return httpx.create_ssl_context()


def _attempt(
    client: httpx.Client,
    part: _Part,
    promise: Promise,
    *,
    name: str,
    headers: Mapping[str, str],
    progress: Progress | None,
) -> None:
    """Make one request; afterwards `part` is whole, as far as the server tells."""
    asked = {"Accept-Encoding": "identity", "User-Agent": "iseparate", **headers}
    have_bytes = part.have_bytes
    if have_bytes and part.validator:
        asked |= {"Range": f"bytes={have_bytes}-", "If-Range": part.validator}
    else:
        part.discard()
    try:
        with client.stream("GET", part.url, headers=asked) as response:
            _match_answer(response, part, name)
            _refuse_wrong_size(part, promise, name)
            _receive(response, part, promise, name, progress)
    except httpx.TooManyRedirects as error:
        raise DownloadError(
            f"{_host(part.url)} redirects {name} in a circle; try later, or report the card."
        ) from error
    except httpx.TransportError as error:
        raise _BrokenOffError(str(error).rstrip(".") or type(error).__name__) from error
    except httpx.InvalidURL as error:
        raise DownloadError(f"{part.url[:200]!r} is not a URL ({error}); mend the source of {name}.") from error
    except httpx.HTTPError as error:
        raise DownloadError(f"{_host(part.url)} answers nonsense for {name} ({error}); report the card.") from error
    if part.total_bytes is not None and part.have_bytes < part.total_bytes:
        raise _BrokenOffError("the connection ended early")


def _match_answer(response: httpx.Response, part: _Part, name: str) -> None:
    """Make `part` begin what the server is about to send, or raise."""
    if response.status_code == httpx.codes.OK:  # the whole file: no ranges there, or another version since
        declared = response.headers.get("Content-Length", "")
        chunked = "Transfer-Encoding" in response.headers
        part.begin(_validator(response), int(declared) if declared.isdecimal() and not chunked else None)
    elif response.status_code == httpx.codes.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        total_bytes = int(span[3]) if span and span[3] != "*" else part.total_bytes
        fits = (
            span is not None
            and int(span[1]) == part.have_bytes
            and part.total_bytes in (None, total_bytes)
            and _validator(response) in (None, part.validator)
        )
        if not fits:
            part.discard()
            raise _BrokenOffError("the server sent another part than the one asked for")
        part.is_resumed, part.total_bytes = True, total_bytes
    elif response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.discard()
        raise _BrokenOffError("the file at the server has become shorter")
    elif response.status_code in _STATUS_WORTH_ANOTHER_TRY:
        wait = response.headers.get("Retry-After", "")
        raise _BrokenOffError(f"HTTP status {response.status_code}", float(wait) if wait.isdecimal() else 0.0)
    else:
        raise DownloadError(
            f"{_host(part.url)} refuses {name} with HTTP status {response.status_code} "
            f"{response.reason_phrase}: {_advice(response.status_code)}"
        )


def _receive(response: httpx.Response, part: _Part, promise: Promise, name: str, progress: Progress | None) -> None:
    limit_bytes = promise.size_bytes or LARGEST_DOWNLOAD_BYTES
    done_bytes = part.have_bytes
    if part.total_bytes is not None and part.total_bytes - done_bytes > shutil.disk_usage(part.body.parent).free:
        raise disk_full(part.body.parent, f"{name} needs {part.total_bytes - done_bytes:,} bytes more; ")
    with part.body.open("ab") as file:
        if progress:
            progress(done_bytes, part.total_bytes, name)
        for block in response.iter_raw():
            done_bytes += len(block)
            if done_bytes > limit_bytes:
                file.close()
                part.discard()
                raise broken_promise(name, f"more than {limit_bytes:,} bytes came")
            file.write(block)
            if progress:
                progress(done_bytes, part.total_bytes, name)


def _refuse_wrong_size(part: _Part, promise: Promise, name: str) -> None:
    """Say so before a gigabyte of the wrong file has come."""
    if None not in (part.total_bytes, promise.size_bytes) and part.total_bytes != promise.size_bytes:
        offered_bytes = part.total_bytes
        part.discard()
        raise broken_promise(name, f"{offered_bytes:,} bytes are offered where {promise.size_bytes:,} were promised")


def _validator(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):  # a weak one may stand for other bytes
        return etag
    modified: str | None = response.headers.get("Last-Modified")
    return modified


def _gave_up(part: _Part, name: str, url: str, failure: _BrokenOffError) -> DownloadError:
    came = f"{part.have_bytes:,} of {part.total_bytes:,}" if part.total_bytes else f"{part.have_bytes:,}"
    return DownloadError(
        f"Only {came} bytes of {name} came from {_host(url)} ({failure}); check the network and run the "
        "same command again, which goes on from there if the server can."
    )


def _advice(status: int) -> str:
    if status in (401, 403):
        return "it wants you to log in or to accept its terms; for a Hugging Face hub, set HF_TOKEN."
    return "what the card names is no longer there; upgrade iseparate, or mend the card."


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
