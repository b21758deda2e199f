"""Hours of songs on disk: exact, resumable, the same whatever the number of processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from iseparate.data import open_dataset
from iseparate.data.datasets.synthetic import rendered_once
from iseparate.data.synthetic import folder
from iseparate.data.synthetic.band import render_song
from iseparate.data.synthetic.folder import BandSettings, render_folder, song_seed
from iseparate.errors import OutputError, UsageError

SHORT = BandSettings(seed=11, stems=("drums", "bass"), song_seconds=1.5)
THREE_SONGS = 3 * 1.5 / 3600.0


def digest(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def band(tmp_path_factory) -> Path:
    return render_folder(tmp_path_factory.mktemp("band"), THREE_SONGS, SHORT).root


def test_what_lies_there(band):
    facts = json.loads((band / "band.json").read_text())
    assert facts["settings"]["seed"] == 11
    assert [song["folder"] for song in facts["songs"]] == ["song-00000", "song-00001", "song-00002"]
    assert len({song["seed"] for song in facts["songs"]}) == 3
    assert "MIT" in (band / "NOTICE.txt").read_text()
    assert sorted(path.name for path in (band / "song-00001").iterdir()) == [
        "bass.flac",
        "drums.flac",
        "mixture.flac",
        "song.json",
    ]


@pytest.mark.parametrize("format_", ["flac", "wav"])
def test_files_hold_the_very_samples_and_sum_exactly(tmp_path, format_):
    settings = BandSettings(seed=11, stems=("drums", "bass"), song_seconds=1.5, format=format_)
    render_folder(tmp_path, 1.5 / 3600.0, settings)
    made = render_song(song_seed(11, 0), 1.5, ("drums", "bass"))
    read = {
        name: soundfile.read(tmp_path / "song-00000" / f"{name}.{format_}", dtype="float32")[0].T
        for name in ("drums", "bass", "mixture")
    }
    assert np.any(read["drums"])
    for name, stem in made.items():
        assert np.array_equal(read[name], stem)
    assert np.array_equal(read["mixture"], read["drums"] + read["bass"])


def test_more_processes_change_nothing(band, tmp_path):
    told: list[tuple[int, int]] = []
    result = render_folder(tmp_path, THREE_SONGS, SHORT, jobs=2, progress=lambda *now: told.append(now))
    assert digest(tmp_path) == digest(band)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert (result.songs, result.fresh) == (3, 3)


def test_more_hours_add_songs_and_leave_the_others_alone(tmp_path):
    render_folder(tmp_path, THREE_SONGS / 3, SHORT)
    first = digest(tmp_path / "song-00000")
    stamp = (tmp_path / "song-00000/bass.flac").stat().st_mtime_ns
    result = render_folder(tmp_path, 2 * THREE_SONGS / 3, SHORT)
    assert (result.songs, result.fresh) == (2, 1)
    assert digest(tmp_path / "song-00000") == first
    assert (tmp_path / "song-00000/bass.flac").stat().st_mtime_ns == stamp


def test_killed_midway_and_gone_on_with(band, tmp_path):
    root = tmp_path / "killed"
    command = (
        "from pathlib import Path; from iseparate.data.synthetic.folder import *\n"
        f"if __name__ == '__main__': render_folder(Path({str(root)!r}), {THREE_SONGS * 40!r}, "
        f"BandSettings(11, ('drums', 'bass'), 1.5), 2)"
    )
    script = tmp_path / "script.py"
    script.write_text(command)
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60.0
    while not ((root / "song-00000").exists() and (root / "song-00001").exists()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)  # its own processes notice and end
    kept = sorted(path.name for path in root.glob("song-*"))
    assert 2 <= len(kept) < 120
    for name in kept:  # whole, or not there
        assert len(list((root / name).iterdir())) == 4
    time.sleep(0.5)
    assert sorted(path.name for path in root.glob("song-*")) == kept  # nobody is rendering any more
    result = render_folder(root, len(kept) * 1.5 / 3600.0, SHORT)
    assert result.fresh <= 1  # processes may finish out of order
    assert not list(root.glob(".song-*"))
    for name in ("song-00000", "song-00001"):
        assert digest(root / name) == digest(band / name)


def test_it_is_a_data_set(band):
    dataset = open_dataset(band)
    assert dataset.kind == "synthetic"
    assert dataset.stems == ("bass", "drums")
    assert [track.subset for track in dataset.tracks] == ["train"] * 3
    track = dataset.tracks[1]
    assert (track.sample_rate, track.channels, track.samples) == (44100, 2, 66150)
    part = track.read("mixture", 1000, 500)
    assert np.array_equal(part, track.read("drums", 1000, 500) + track.read("bass", 1000, 500))


def test_every_tenth_song_is_for_testing(tmp_path):
    for number in (7, 8, 9, 18, 19, 20):
        song = tmp_path / f"song-{number:05d}"
        song.mkdir()
        for name in ("drums", "mixture"):
            (song / f"{name}.flac").touch()
    (tmp_path / "band.json").write_text("{}")
    subsets = {track.name: track.subset for track in open_dataset(f"synthetic:{tmp_path}").tracks}
    assert list(subsets.values()) == ["train", "valid", "test", "valid", "test", "train"]


def test_hours_at_seed_are_rendered_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(folder, "render", lambda seed, *_: asked.append(seed) or tiny_song())
    root = rendered_once("0.02@7")
    assert root.parent == tmp_path / "synthetic"
    assert len(list(root.glob("song-*"))) == 2
    assert rendered_once("0.02@7") == root
    assert asked == [song_seed(7, 0), song_seed(7, 1)]
    assert rendered_once("0.01@7") != root


def tiny_song():
    from iseparate.data.synthetic.band import RenderedSong

    return RenderedSong({"drums": np.zeros((2, 100), np.float32)}, {"sounds": []})


@pytest.mark.parametrize("words", ["", "7", "1@", "@3", "-1@3", "nan@2", "1@2@3", "1e3@1", "0@7"])
def test_words_that_are_no_hours_at_seed(words, tmp_path, monkeypatch):
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path))
    with pytest.raises(UsageError):
        rendered_once(words)


def test_a_folder_from_before_there_was_a_choice_is_gone_on_with(tmp_path):
    render_folder(tmp_path, THREE_SONGS / 3, SHORT)
    facts = json.loads((tmp_path / "band.json").read_text())
    del facts["settings"]["sounds"], facts["settings"]["dry"]
    (tmp_path / "band.json").write_text(json.dumps(facts))
    assert render_folder(tmp_path, THREE_SONGS / 3, SHORT).fresh == 0


def test_another_band_in_the_folder(band):
    with pytest.raises(UsageError, match="seed 11 instead of 12"):
        render_folder(band, THREE_SONGS, BandSettings(12, ("drums", "bass"), 1.5))


@pytest.mark.parametrize("content", ["", "[]", '{"settings": 3}', "\x00"])
def test_a_strange_band_file(tmp_path, content):
    (tmp_path / "band.json").write_text(content)
    with pytest.raises(UsageError, match="choose another folder"):
        render_folder(tmp_path, THREE_SONGS, SHORT)


@pytest.mark.parametrize(
    "strange",
    [
        *("", "[]", "{", "[" * 100_000, '{"sounds": null}', '{"sounds": [{}, 3]}'),
        '{"sounds": [{"name": "x", "licence": [], "credit": 3}]}',
    ],
)
def test_what_is_strange_in_a_songs_facts_is_passed_over(tmp_path, strange):
    render_folder(tmp_path, THREE_SONGS / 3, SHORT)
    (tmp_path / "song-00000/song.json").write_text(strange)
    assert render_folder(tmp_path, THREE_SONGS * 2 / 3, SHORT).fresh == 1
    assert "iseparate synthesis" in (tmp_path / "NOTICE.txt").read_text()
    assert "song-00001" in {song["folder"] for song in json.loads((tmp_path / "band.json").read_text())["songs"]}


def test_a_songs_facts_do_not_say_which_folder_it_is(tmp_path):
    render_folder(tmp_path, THREE_SONGS / 3, SHORT)
    (tmp_path / "song-00000/song.json").write_text('{"folder": "../elsewhere"}')
    render_folder(tmp_path, THREE_SONGS * 2 / 3, SHORT)
    assert json.loads((tmp_path / "band.json").read_text())["songs"][0]["folder"] == "song-00000"


def test_facts_that_a_kill_kept_from_being_written_are_written(tmp_path):
    render_folder(tmp_path, THREE_SONGS / 3, SHORT)
    facts = json.loads((tmp_path / "band.json").read_text())
    (tmp_path / "band.json").write_text(json.dumps(facts | {"songs": []}))
    render_folder(tmp_path, THREE_SONGS / 3, SHORT)
    assert json.loads((tmp_path / "band.json").read_text()) == facts


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    (tmp_path / ".song-00000.part").mkdir()
    with pytest.raises(UsageError, match="not empty"):
        render_folder(tmp_path, THREE_SONGS, SHORT)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", ".song-00000.part", ".lock"}


def test_two_runs_at_once(band):
    with FileLock(band / ".lock"):
        assert render_folder(band, THREE_SONGS, SHORT).fresh == 0  # nothing is left to write
        with pytest.raises(OutputError, match="another run"):
            render_folder(band, 2 * THREE_SONGS, SHORT)


def test_a_small_disk_is_noticed_first(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OutputError, match="fewer hours"):
        render_folder(tmp_path, THREE_SONGS, SHORT)
    assert not list(tmp_path.glob("song-*"))


def test_a_disk_that_fills_up_leaves_no_half_song(tmp_path, monkeypatch):
    def full(path, *_, **__):
        path.touch()
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folder, "_write_sound", full)
    with pytest.raises(OutputError, match="No space left"):
        render_folder(tmp_path, THREE_SONGS, SHORT)
    assert not list(tmp_path.glob("*song-*"))


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        render_folder(tmp_path / "file" / "band", THREE_SONGS, SHORT)


@pytest.mark.parametrize(
    ("hours", "jobs", "settings"),
    [
        (0.0, 1, SHORT),
        (-1.0, 1, SHORT),
        (float("nan"), 1, SHORT),
        (float("inf"), 1, SHORT),
        (1.0, 0, SHORT),
        (1.0, 1, BandSettings(0, format="mp3")),
        (1.0, 1, BandSettings(0, stems=("kazoo",))),
        (1.0, 1, BandSettings(-1)),
    ],
)
def test_bad_wishes(tmp_path, hours, jobs, settings):
    with pytest.raises(UsageError):
        render_folder(tmp_path / "new", hours, settings, jobs)
    assert not (tmp_path / "new").exists()
