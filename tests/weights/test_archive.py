from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from parcels import member, order, tar_of, zip_of

from iseparate.errors import DownloadError
from iseparate.weights.fetch import fetch


@pytest.mark.parametrize("pack", [zip_of, lambda m: tar_of(*(member(*i) for i in m.items()), compress=False)])
def test_zip_and_plain_tar_are_read_too(tmp_path: Path, weights: bytes, pack: Callable[[dict[str, bytes]], bytes]):
    (tmp_path / "a").write_bytes(pack({"d/one": weights, "two": b"2"}))
    came = fetch([order(f"file:{tmp_path}/a#d/one")], tmp_path / "out", tmp_path / "downloads")
    assert came[0].path.read_bytes() == weights
    assert (tmp_path / "a").exists()


def symlink_in_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def twice_in_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x", "2")
    return buffer.getvalue()


HOSTILE = {
    "zip with an escape": lambda: zip_of({"x": b"1", "../evil": b"2"}),
    "zip with an absolute path": lambda: zip_of({"x": b"1", "/evil": b"2"}),
    "zip with a drive": lambda: zip_of({"x": b"1", "C:/evil": b"2"}),
    "zip with a link": symlink_in_zip,
    "zip with a name twice": twice_in_zip,
    "zip bomb": lambda: zip_of({"x": bytes(100 * 2**20)}),
    "tar with an escape": lambda: tar_of(member("x"), member("a/../../evil")),
    "tar with an absolute path": lambda: tar_of(member("/evil"), member("x")),
    "tar with a symbolic link": lambda: tar_of(member("x", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "tar with a hard link": lambda: tar_of(member("x", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
    "tar with a device": lambda: tar_of(member("x", b"", type=tarfile.CHRTYPE)),
    "tar with a name twice": lambda: tar_of(member("x", b"1"), member("./x", b"2")),
    "tar bomb": lambda: tar_of(member("x", bytes(100 * 2**20))),
    "tar bomb beside the member": lambda: tar_of(member("x"), member("y", bytes(100 * 2**20))),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_are_refused(tmp_path: Path, make: Callable[[], bytes]):
    (tmp_path / "a").write_bytes(make())
    with pytest.raises(DownloadError, match="not to be trusted"):
        fetch([order(f"file:{tmp_path}/a#x")], tmp_path / "deep" / "out", tmp_path / "downloads")
    assert not list(tmp_path.rglob("evil"))
    assert not Path("/evil").exists()


BROKEN = {
    "empty": lambda: b"",
    "a web page": lambda: b"<html><body>Please log in</body></html>" * 99,
    "half a zip": lambda: zip_of({"x": os.urandom(5000)})[:2500],
    "half a tar.gz": lambda: tar_of(member("x", os.urandom(50_000)))[:25_000],
    "a tar.gz with a changed bit": lambda: (
        (data := bytearray(gzip.compress(tar_of(member("x"), compress=False))))
        and bytes(data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])
    ),
    "without the member": lambda: zip_of({"y": b"1"}),
    "with a directory for it": lambda: zip_of({"x/": b""}),
    "tar without the member": lambda: tar_of(member("y")),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_broken_archives_are_refused_in_a_sentence(tmp_path: Path, make: Callable[[], bytes]):
    (tmp_path / "a").write_bytes(make())
    with pytest.raises(DownloadError, match=r"is not a whole|holds no file") as caught:
        fetch([order(f"file:{tmp_path}/a#x")], tmp_path / "out", tmp_path / "downloads")
    assert "\n" not in str(caught.value)
