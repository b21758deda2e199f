"""`--json`: stdout is one JSON document whatever happens."""

from __future__ import annotations

from stage import RATE, write_wav


def test_songs_done_failed_and_skipped(separate, here):
    write_wav(here / "a.wav", seconds=0.25)
    (here / "b.wav").write_bytes(b"")
    separate("a.wav")
    write_wav(here / "c.wav")
    outcome = separate("a.wav", "b.wav", "c.wav", "gone", "--skip-existing", "--json")
    assert outcome.status == 1
    assert outcome.err == ""
    assert outcome.json["failed"] == 2
    songs = {song["song"]: song for song in outcome.json["songs"]}
    assert {name: song["status"] for name, song in songs.items()} == {
        "a.wav": "skipped",
        "b.wav": "failed",
        "c.wav": "done",
        "gone": "failed",
    }
    assert songs["a.wav"]["error"] is None
    assert "is empty" in songs["b.wav"]["error"]
    assert songs["b.wav"]["files"] == {}
    assert songs["a.wav"]["song_seconds"] == 0.25
    assert songs["c.wav"]["seconds"] > 0
    assert songs["c.wav"]["null_db"] < -90
    assert songs["c.wav"]["gain_db"] <= 0
    assert songs["c.wav"]["manifest"]["sample_rate_hz"] == RATE
    assert all((here / path).exists() for path in [*songs["c.wav"]["files"].values(), songs["c.wav"]["manifest_path"]])


def test_silence_has_no_null_depth(separate, here):
    import numpy as np
    import soundfile

    soundfile.write(here / "silence.wav", np.zeros((1000, 2)), RATE)
    (song,) = separate("silence.wav", "--json").json["songs"]
    assert song["null_db"] is None
    assert song["manifest"]["stems"]["vocals"]["peak_dbfs"] is None


def test_songs_that_are_all_missing(iseparate):
    outcome = iseparate("a.mp3", "b.mp3", "--json")
    assert outcome.status == 1
    assert [song["status"] for song in outcome.json["songs"]] == ["failed", "failed"]


def test_a_folder_without_songs(separate, here):
    (here / "empty").mkdir()
    outcome = separate("empty", "--json")
    assert outcome.status == 1
    assert "holds no audio file" in outcome.json["songs"][0]["error"]


def test_no_song_could_be_tried(separate, iseparate, here):
    write_wav(here / "a.wav")
    for outcome, status in (
        (separate("a.wav", "--stems", "drums", "--json"), 2),
        (separate("a.wav", "--start", "-1", "--json"), 2),
        (iseparate("a.wav", "-n", "nonesuch", "--json"), 2),
        (iseparate("a.wav", "--json"), 1),
    ):
        assert outcome.status == status
        assert outcome.json == {"songs": [], "failed": 1, "error": outcome.sentence}


def test_nothing_of_the_libraries_comes_between(execute, here, tiny):
    write_wav(here / "a.wav")
    (here / "b.mp3").write_text("no music " * 1000)
    outcome = execute("a.wav", "b.mp3", "-n", tiny, "--json")
    assert outcome.status == 1
    assert outcome.json["failed"] == 1
    assert outcome.err == ""
