"""`iseparate doctor` and `iseparate demo`."""

from __future__ import annotations

import pytest
from stage import left_behind, write_wav


def test_the_machine(iseparate, here):
    outcome = iseparate("doctor")
    assert (outcome.status, outcome.err) == (0, "")
    facts = dict(line.split("  ", 1) for line in outcome.out.splitlines())
    assert facts["device"].strip()
    assert facts["offline"].strip() == "yes"
    assert facts["weights here"].strip() == "none"
    assert "mp3" in facts["reads"]
    assert "opus" in facts["writes"]
    assert "cache" in facts["cache"]
    assert facts["cache size"].strip() == "0 MB"
    assert left_behind(here) == []


def test_a_new_machine_is_told_that_weights_will_be_fetched(iseparate, monkeypatch):
    monkeypatch.delenv("ISEPARATE_OFFLINE")
    assert iseparate("doctor").err == "note: no weights are in the cache yet; the first separation fetches them\n"


def test_what_a_song_will_take(iseparate, here, tiny):
    write_wav(here / "song.wav", 6, 2.0, 48_000)
    facts = iseparate("doctor", "song.wav", "-n", tiny, "--json").json
    assert facts["song"] == "pcm_s16le in wav, 48000 Hz, 6 channels, 16 bits, 0:02"
    assert facts["expected_seconds"] > 0
    assert facts["song_seconds"] == 2
    assert facts["expected_disk_bytes"] > 2 * 6 * 2 * 48_000 * 2
    assert facts["device"].startswith(("cpu", "cuda", "mps"))
    assert left_behind(here) == ["song.wav"]


def test_the_prediction_holds(iseparate, separate, here, tiny):
    write_wav(here / "song.wav", seconds=20)
    predicted = iseparate("doctor", "song.wav", "-n", tiny, "--json").json["expected_seconds"]
    taken = separate("song.wav", "--json").json["songs"][0]["seconds"]
    assert taken / 15 < predicted < taken * 15  # of a few busy milliseconds: no more than the order of magnitude


def test_a_device_that_is_not_here_is_said_to_be_unusable(iseparate):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    facts = iseparate("doctor", "-d", "cuda", "--json").json
    assert facts["device"].startswith("not usable: there is no usable cuda device")


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["gone.mp3"], 1, "gone.mp3 does not exist"),
        (["text.mp3"], 1, "text.mp3 cannot be read as sound"),
        (["song.wav"], 1, "downloads are switched off"),
        (["song.wav", "-n", "nonesuch"], 2, "no model called 'nonesuch'"),
    ],
)
def test_songs_of_which_nothing_can_be_told(iseparate, here, words, status, expected):
    write_wav(here / "song.wav")
    (here / "text.mp3").write_text("no music " * 1000)
    outcome = iseparate("doctor", *words)
    assert outcome.status == status
    assert expected in outcome.sentence


@pytest.fixture
def small_default(monkeypatch, tiny):
    """The demonstration, with a network that needs no fetching in place of the default one."""
    monkeypatch.setattr("iseparate.engine.separator.DEFAULT_MODEL", str(tiny))


def test_the_demonstration_with_a_song_of_ones_own(iseparate, here, small_default):
    write_wav(here / "song.wav")
    outcome = iseparate("demo", "song.wav")
    assert (outcome.status, outcome.err) == (0, "")
    for fact in ("separated/tiny/song/vocals.wav", "× real time", "stems null to -1"):
        assert fact in outcome.out
    assert (here / "separated/tiny/song/vocals.wav").exists()


def test_the_demonstration_of_a_broken_song(iseparate, here, small_default):
    (here / "song.wav").write_bytes(b"")
    outcome = iseparate("demo", "song.wav", "-o", "out")
    assert outcome.status == 1
    assert "song.wav is empty" in outcome.sentence


def test_the_demonstration_offline(iseparate):
    outcome = iseparate("demo")
    assert outcome.status == 1
    assert "downloads are switched off" in outcome.sentence
