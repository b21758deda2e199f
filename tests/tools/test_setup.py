"""The scripts behind `make`: what they ask pip for, and what they say when Python will not do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAKE_PIP = """#!/usr/bin/env bash
echo "$*" >> "$LOG"
case "$*" in *--no-index*) exit "$AT_HAND" ;; esac
"""
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
*ensurepip*) exit {has_venv} ;;
*"print("*) echo {version} ;;
*version_info*) exit {too_old} ;;
*) exit 3 ;;
esac
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def install_torch(folder: Path, build: str, at_hand: bool) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    log = folder / "log"
    python = script(folder / "python", FAKE_PIP)
    environment = {**os.environ, "LOG": str(log), "AT_HAND": "0" if at_hand else "1"}
    done = subprocess.run(
        ["bash", "tools/install_torch.sh", str(python), build],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, log.read_text().splitlines()


@pytest.mark.parametrize("build", ["", "cpu"])
def test_a_wheel_at_hand_wins(tmp_path: Path, build: str) -> None:
    done, calls = install_torch(tmp_path, build, at_hand=True)
    assert done.returncode == 0
    assert len(calls) == 1
    assert "--no-index" in calls[0]
    assert "torch==" in calls[0]


def test_cpu_takes_pytorchs_own_index(tmp_path: Path) -> None:
    done, calls = install_torch(tmp_path, "cpu", at_hand=False)
    assert done.returncode == 0
    assert "--index-url https://download.pytorch.org/whl/cpu torch==" in calls[-1]


def test_default_takes_pips_index(tmp_path: Path) -> None:
    done, calls = install_torch(tmp_path, "", at_hand=False)
    assert done.returncode == 0
    assert "index-url" not in calls[-1]


def test_unknown_build_is_refused(tmp_path: Path) -> None:
    done, _ = install_torch(tmp_path, "gpu", at_hand=False)
    assert done.returncode == 1
    assert "TORCH is empty or cpu" in done.stderr


@pytest.mark.parametrize(
    ("has_venv", "too_old", "version", "sentence"),
    [
        (1, 0, "3.11", "apt-get install python3.11-venv"),
        (0, 1, "3.9", "needs 3.11 or newer"),
    ],
)
def test_unfit_python_is_named(tmp_path: Path, has_venv: int, too_old: int, version: str, sentence: str) -> None:
    text = FAKE_PYTHON.format(has_venv=has_venv, too_old=too_old, version=version)
    python = script(tmp_path / "python", text)
    done = subprocess.run(
        ["bash", "tools/make_venv.sh", str(python), str(tmp_path / "venv")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_missing_python_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "tools/make_venv.sh", "no-such-python", str(tmp_path / "venv")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no-such-python" in done.stderr
