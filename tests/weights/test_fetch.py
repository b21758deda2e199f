from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from parcels import member, names_in, order, sha256, tar_of, zip_of

import iseparate
from iseparate.errors import ChecksumError, DownloadError, OutputError, UsageError
from iseparate.weights.fetch import fetch


def test_files_come_in_the_order_asked_for_and_each_archive_once(server, weights: bytes, tmp_path: Path):
    archive = server.serve("/a.tar.gz", tar_of(member("./d/one", weights), member("d/skip"), member("two", b"2")))
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


def test_the_hash_of_the_archive_and_of_the_member_are_both_checked(server, tmp_path: Path):
    packed = zip_of({"one": b"1"})
    url = server.serve("/a.zip", packed)
    with pytest.raises(ChecksumError, match=r"a\.zip is not what"):
        fetch([order(f"{url}#one", archive_sha256="0" * 64)], tmp_path / "out", tmp_path / "downloads")
    with pytest.raises(ChecksumError, match="out is not what"):
        fetch([order(f"{url}#one", sha256="0" * 64)], tmp_path / "out", tmp_path / "downloads")
    assert names_in(tmp_path / "out") == names_in(tmp_path / "downloads") == []
    fetch([order(f"{url}#one", archive_sha256=sha256(packed))], tmp_path / "out", tmp_path / "downloads")


def test_a_local_file_is_copied_not_moved(tmp_path: Path, weights: bytes):
    (tmp_path / "x.th").write_bytes(weights)
    came = fetch([order(f"file:{tmp_path}/x.th", sha256=sha256(weights))], tmp_path / "out", tmp_path / "downloads")
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


def test_the_hub_without_a_revision_is_asked_for_main(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    server.serve("/org/repo/resolve/main/x.th", b"1")
    fetch([order("hf:org/repo/x.th")], tmp_path / "out", tmp_path / "downloads")
    assert "Authorization" not in server.requests[0].headers

    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    with pytest.raises(UsageError, match="not encrypted"):
        fetch([order("hf:org/repo/y.th")], tmp_path / "out", tmp_path / "downloads")


def test_an_address_that_only_httpx_refuses_is_said(tmp_path: Path):
    with pytest.raises(DownloadError, match=r"is not a URL \(.*; mend the source of out"):
        fetch([order("https://\N{SNOWMAN}.org/x")], tmp_path / "out", tmp_path / "downloads")


def test_what_needs_no_download_does_not_wait_for_the_import_of_httpx():
    check = (
        "import sys, iseparate.weights.card, iseparate.weights.store;"
        "iseparate.weights.card.load_cards();"
        "sys.exit('httpx' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(iseparate.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", check], env=environment, check=False).returncode == 0
