from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest
from parcels import names_in, sha256

from iseparate.errors import ChecksumError, DownloadError, OutputError
from iseparate.weights.disk import disk_errors
from iseparate.weights.download import FRUITLESS_ATTEMPTS, download
from iseparate.weights.order import Promise


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


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
    download(url, tmp_path / "x", Promise(), name="x", progress=lambda done, total, name: totals.append(total))
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
def test_a_server_that_never_gets_further_is_given_up(server, weights: bytes, tmp_path: Path, behaviour: dict):
    url = server.serve("/x", weights, truncate_after=100_000, **behaviour)
    with pytest.raises(DownloadError, match=r"Only 100,000 of 300,000 bytes of x came from 127\.0\.0\.1.*again"):
        download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert len(server.requests) == FRUITLESS_ATTEMPTS
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
        patched.setattr("iseparate.weights.download.FRUITLESS_ATTEMPTS", 1)
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


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"url": 1, "validator": null, "total_bytes": "x"}', "\0"])
def test_a_part_without_a_good_record_is_not_gone_on_from(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
):
    url = leave_a_part(server, weights, tmp_path / "x", monkeypatch)
    (tmp_path / "x.part.json").write_text(record)
    download(url, tmp_path / "x", Promise(sha256(weights)), name="x")
    assert server.asked_ranges == [None]


def test_a_weak_etag_is_not_gone_on_from(server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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


def test_a_whole_part_is_only_verified(server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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
    assert len(server.requests) == FRUITLESS_ATTEMPTS


def test_nobody_listening_is_said(server, tmp_path: Path):
    url = server.url("/x")
    server.close()
    with pytest.raises(DownloadError, match="check the network"):
        download(url, tmp_path / "x", Promise(), name="x")


def test_a_silent_server_is_given_up(server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("iseparate.weights.download.TIMEOUT", httpx.Timeout(0.1))
    monkeypatch.setattr("iseparate.weights.download.FRUITLESS_ATTEMPTS", 2)
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
    monkeypatch.setattr("iseparate.weights.download._Part.have_bytes", 0)
    monkeypatch.setattr(
        "iseparate.weights.download._Part.discard", lambda part: part.body.unlink() or part.body.symlink_to("/dev/full")
    )
    with pytest.raises(OutputError, match="is full: free some space"), disk_errors(tmp_path):
        download(url, tmp_path / "x", Promise(), name="x")


def test_a_download_that_cannot_fit_is_not_begun(
    server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 5, 5))
    with pytest.raises(OutputError, match="is full: x needs 300,000 bytes more; free some space"):
        download(server.serve("/x", weights), tmp_path / "x", Promise(), name="x")
    assert not (tmp_path / "x").exists()
