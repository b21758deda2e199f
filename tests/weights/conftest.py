"""A web server on this machine that misbehaves on request, and cards that point at it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from iseparate.weights.card import Card, CardFile


@dataclass
class Page:
    """What the server has under one path, and how badly it serves it."""

    body: bytes = b""
    etag: str | None = '"v1"'
    ranges: bool = True
    truncate_after: int | None = None
    """Close the connection after this many bytes of an answer."""
    truncate_times: int = 10**6
    declared_length: int | None = None
    """The Content-Length of a whole answer; None: the true one."""
    chunked: bool = False
    statuses: list[int] = field(default_factory=list)
    """Answers to give first, one a request."""
    redirect: str | None = None
    pause_seconds: float = 0.0
    """Before each 16 KiB."""
    broken_range: bool = False
    """Answer a range with the wrong one."""


@dataclass
class Request:
    path: str
    headers: dict[str, str]


class HostileServer:
    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests.append(Request(self.path, dict(self.headers)))
                page = outer.pages.get(self.path)
                if page is None:
                    return self._plain(404)
                if page.statuses:
                    return self._plain(page.statuses.pop(0))
                if page.redirect is not None:
                    self.send_response(302)
                    self.send_header("Location", page.redirect)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                return self._serve(page)

            def _plain(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _serve(self, page: Page) -> None:
                start = 0
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                same = self.headers.get("If-Range") in (None, page.etag)
                if asked and page.ranges and same:
                    start = int(asked[1])
                    if start >= len(page.body):
                        return self._plain(416)
                    self.send_response(206)
                    shown = start + 1 if page.broken_range else start
                    self.send_header("Content-Range", f"bytes {shown}-{len(page.body) - 1}/{len(page.body)}")
                else:
                    self.send_response(200)
                body = page.body[start:]
                if page.etag:
                    self.send_header("ETag", page.etag)
                if page.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    length = len(body) if page.declared_length is None or start else page.declared_length
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                truncated = page.truncate_after is not None and page.truncate_times > 0
                if truncated:
                    page.truncate_times -= 1
                    body = body[: page.truncate_after]
                self.close_connection = truncated or page.declared_length is not None
                try:
                    for at in range(0, len(body), 16384):
                        time.sleep(page.pause_seconds)
                        block = body[at : at + 16384]
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if page.chunked else block)
                    if page.chunked and not truncated:
                        self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def serve(self, path: str, body: bytes = b"", **behaviour: Any) -> str:
        """Put something under a path, to be served as `Page` says; gives its URL."""
        self.pages[path] = Page(body, **behaviour)
        return self.url(path)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self._server.server_address[1]}{path}"

    @property
    def asked_ranges(self) -> list[str | None]:
        return [request.headers.get("Range") for request in self.requests]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[HostileServer]:
    hostile = HostileServer()
    yield hostile
    hostile.close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings and proxies of the machine out of the tests, and pauses short."""
    for variable in ("CACHE", "OFFLINE", "CARDS"):
        monkeypatch.delenv(f"ISEPARATE_{variable}", raising=False)
    for variable in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1,localhost")
    monkeypatch.setattr("iseparate.weights.download.BACKOFF_SECONDS", 0.01)


@pytest.fixture
def weights() -> bytes:
    """Bytes that do not compress, as weights do not."""
    return np.random.default_rng(7).bytes(300_000)


@pytest.fixture
def make_card() -> Callable[..., Card]:
    def make(*files: CardFile, **fields: Any) -> Card:
        return Card(
            **{
                "id": "toy",
                "arch": "toy",
                "title": "Toy",
                "summary": "A toy.",
                "stems": ("vocals", "accompaniment"),
                "sample_rate_hz": 44100,
                "channels": 2,
                "files": files,
                "code_licence": "MIT",
                "weights_licence": "MIT",
                "commercial_use": True,
                "training_data": "none",
                "status": "format proven by golden",
                **fields,
            }
        )

    return make
