"""What a terminal shows while songs are in work, and after."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from stage import write_wav

from iseparate.weights.card import find_card

pty = pytest.importorskip("pty")


def on_a_terminal(*words, columns=80):
    """All that the command writes to a terminal, control characters too."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "iseparate", *map(str, words)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm",
            "COLUMNS": str(columns),
            "LINES": "24",
        },
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    process.wait(timeout=60)
    return written.decode()


def test_bars_run_and_make_room_for_results(here, tiny):
    for name in "ab":
        write_wav(here / f"{name}.wav", seconds=8)
    shown = on_a_terminal("a.wav", "gone.wav", "b.wav", "-n", tiny, "-j", "2")
    assert re.search(r"a\.wav .*━.* 0:0[1-8] / 0:08", shown)
    # Each result begins a line of its own, cleared of bars, and bars never wipe one out.
    for result in ("✓", "error:"):
        for before in re.findall(rf"(.{{6}})(?:\x1b\[[0-9;]*m)*{result}", shown, re.DOTALL):
            assert re.search(r"(\n|\r|\x1b\[2K|\x1b\[0m)$", before), ascii(before)
    assert shown.count("✓") == 2
    assert "computer; check its spelling." in shown
    assert shown.rstrip().endswith("2 done, 1 failed")
    assert "\x1b[?25h" in shown  # the cursor is back


def test_sentences_are_wrapped_between_words(here):
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_a_terminal("models", "info", "spleeter-2stems", columns=60))
    prose = shown.split("architecture")[0]
    assert max(map(len, prose.splitlines())) <= 60
    assert find_card("spleeter-2stems").summary in " ".join(prose.split())
