"""A run that is ended midway leaves whole files or none, and the next one takes up where it stopped."""

from __future__ import annotations

import signal
import sys
import time

import pytest
import soundfile
from stage import left_behind, write_wav

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as Unix has them")

SECONDS = 10


@pytest.fixture
def midway(start, here, tiny):
    """A run whose first song is done and whose second has written part of its stems."""
    write_wav(here / "a.wav", seconds=0.1)
    write_wav(here / "b.wav", seconds=SECONDS)

    def begin(*words):
        process = start("a.wav", "b.wav", "-n", tiny, "--shifts", "8", *words)
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in (here / "separated").rglob("b/.iseparate-partial-*/*.s*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    return begin


def whole(folder):
    return left_behind(folder) == ["accompaniment.wav", "iseparate.json", "vocals.wav"]


@pytest.mark.parametrize("words", [[], ["-j", "2"]], ids=["one song at a time", "two songs at a time"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_is_stopped_cleans_up(midway, here, number, words):
    process = midway(*words)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == "error: stopped; finished songs are kept, and no stem is left half-written\n"
    assert whole(here / "separated/tiny/a")
    assert not (here / "separated/tiny/b").exists()


def test_a_run_that_is_killed_is_taken_up_by_the_next(midway, separate, here):
    process = midway()
    process.kill()
    process.communicate()
    hidden = left_behind(here / "separated/tiny/b")
    assert hidden
    assert all(name.startswith(".iseparate-partial-") for name in hidden)
    first = (here / "separated/tiny/a/vocals.wav").stat().st_mtime_ns
    # The songs are shorter now, which only makes the test so: what is looked at is what was left behind.
    write_wav(here / "b.wav", seconds=0.1)
    outcome = separate("a.wav", "b.wav", "--shifts", "8", "--skip-existing")
    assert outcome.status == 0
    assert "1 done, 1 skipped" in outcome.out
    assert (here / "separated/tiny/a/vocals.wav").stat().st_mtime_ns == first
    assert whole(here / "separated/tiny/b")
    assert soundfile.info(here / "separated/tiny/b/vocals.wav").frames == 4410


def test_a_reader_that_goes_away_is_no_catastrophe(start):
    process = start("models", "list", "--json")
    process.stdout.close()
    process.wait(timeout=30)
    assert "Traceback" not in process.stderr.read()
