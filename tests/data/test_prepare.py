"""Prepared data: the same samples, read fast; whole or not there; gone on with after any end."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import numpy as np
import pytest
from filelock import FileLock
from noise_songs import RATE, STEMS, noise, song
from typer.testing import CliRunner

from iseparate.audio.resample import resample
from iseparate.cli.data import data
from iseparate.data import open_dataset
from iseparate.data import prepare as preparing
from iseparate.data.prepare import needed_bytes, prepare
from iseparate.data.shards import Index
from iseparate.errors import AudioError, OutputError, TruncatedAudioError, UsageError


@pytest.fixture
def musdb(tmp_path):
    """Three songs, one of them with a mixture that the stems do not sum to."""
    home = tmp_path / "musdb"
    for number in range(3):
        sounds = {stem: noise(10 * number + i, 5000 + number, level=0.05) for i, stem in enumerate(STEMS)}
        mixture = np.sum(list(sounds.values()), axis=0, dtype=np.float32)
        song(home, number, sounds=sounds, mixture=mixture if number else mixture * 0.5)
    return f"musdb18hq:{home}"


def make(spec, folder, **options):
    return prepare(open_dataset(spec), folder, sample_rate=options.pop("sample_rate", RATE), **options)


@pytest.mark.parametrize("sample_format", ["int16", "float32"])
def test_prepared_songs_hold_the_same_samples(musdb, tmp_path, sample_format):
    result = make(musdb, tmp_path / "out", sample_format=sample_format)
    assert (result.songs, result.made, result.failed) == (3, 3, {})
    before, after = open_dataset(musdb), open_dataset(f"prepared:{tmp_path / 'out'}")
    assert [t.title for t in after.tracks] == [t.title for t in before.tracks]
    for old, new in zip(before.tracks, after.tracks, strict=True):
        assert (new.sample_rate, new.channels, new.samples) == (old.sample_rate, old.channels, old.samples)
        assert new.stems == old.stems
        for source in (*STEMS, "mixture"):
            np.testing.assert_allclose(new.read(source), old.read(source), atol=1e-6)
            part = new.read(source, 1234, 777)
            assert np.array_equal(part, new.read(source)[:, 1234 : 1234 + 777])
            assert np.array_equal(np.concatenate(list(new.blocks(source, 999)), axis=1), new.read(source))
        assert np.array_equal(new.read("vocals"), old.read("vocals"))


def test_a_plain_path_is_recognised_and_subsets_are_kept(musdb, tmp_path):
    make(musdb, tmp_path / "out")
    assert open_dataset(tmp_path / "out").kind == "prepared"
    assert len(open_dataset(tmp_path / "out", "train").tracks) == 3
    with pytest.raises(UsageError, match="no track of the subset test"):
        open_dataset(tmp_path / "out", "test")


def test_a_mixture_that_is_the_sum_is_not_stored(musdb, tmp_path):
    result = make(musdb, tmp_path / "out")
    stored = ["mixture" in track.sources for track in open_dataset(tmp_path / "out").tracks]
    assert stored == [True, False, False]
    on_disk = sum(path.stat().st_size for path in (tmp_path / "out/songs").glob("*.pcm"))
    assert result.size_bytes == on_disk == 2 * 2 * (5 * 5000 + 4 * 5001 + 4 * 5002)
    assert needed_bytes(open_dataset(musdb), RATE) >= on_disk


def test_resampled_as_the_project_resamples(musdb, tmp_path):
    make(musdb, tmp_path / "out", sample_rate=16_000, sample_format="float32")
    old, new = open_dataset(musdb).tracks[0], open_dataset(tmp_path / "out").tracks[0]
    assert (new.sample_rate, new.samples) == (16_000, 10_000)
    np.testing.assert_allclose(new.read("bass"), resample(old.read("bass"), RATE, 16_000), atol=1e-6)


def test_what_is_louder_than_full_scale_is_not_clipped(tmp_path):
    loud = noise(0, 5000) * 40
    assert np.abs(loud).max() > 2
    song(tmp_path / "musdb", sounds={"vocals": loud, "drums": noise(1, 5000)}, subtype="FLOAT")
    make(f"folder:{tmp_path / 'musdb' / 'train'}", tmp_path / "out")
    (track,) = open_dataset(tmp_path / "out").tracks
    np.testing.assert_allclose(track.read("vocals"), loud, atol=np.abs(loud).max() / 32_767)


def test_jobs_change_nothing(musdb, tmp_path):
    told = []
    make(musdb, tmp_path / "one")
    make(musdb, tmp_path / "three", jobs=3, progress=lambda *pair: told.append(pair))
    for path in sorted((tmp_path / "one/songs").glob("*.pcm")):
        assert path.read_bytes() == (tmp_path / "three/songs" / path.name).read_bytes()
    assert told[-1][0] == told[-1][1] == needed_bytes(open_dataset(musdb), RATE)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# Going on


def test_a_second_run_makes_nothing_and_a_changed_song_only_that(musdb, tmp_path):
    make(musdb, tmp_path / "out")
    assert make(musdb, tmp_path / "out").made == 0
    time.sleep(0.01)
    sounds = {stem: noise(77 + i, 6000) for i, stem in enumerate(STEMS)}
    song(tmp_path / "musdb", 1, sounds=sounds, mixture=noise(5, 6000))
    assert make(musdb, tmp_path / "out").made == 1
    assert np.array_equal(open_dataset(tmp_path / "out").tracks[1].read("drums"), sounds["drums"])
    assert make(musdb, tmp_path / "out", sample_format="float32").made == 3


@pytest.mark.parametrize("damage", ["shortened", "no samples", "no record", "no index"])
def test_what_is_damaged_is_made_again(musdb, tmp_path, damage):
    make(musdb, tmp_path / "out")
    target = tmp_path / "out/songs/000001.pcm"
    whole = target.read_bytes()
    match damage:
        case "shortened":
            os.truncate(target, 100)
        case "no samples":
            target.unlink()
        case "no record":
            target.with_suffix(".json").write_text("{}")
        case _:
            (tmp_path / "out/prepared.json").unlink()
    assert make(musdb, tmp_path / "out").made == (damage != "no index")
    assert target.read_bytes() == whole
    assert len(open_dataset(tmp_path / "out").tracks) == 3


def test_songs_that_are_gone_from_the_data_are_removed(musdb, tmp_path):
    make(musdb, tmp_path / "out")
    for path in (tmp_path / "musdb/train/song 2").iterdir():
        path.unlink()
    (tmp_path / "musdb/train/song 2").rmdir()
    assert make(musdb, tmp_path / "out").songs == 2
    assert sorted(path.name for path in (tmp_path / "out/songs").iterdir()) == [
        f"00000{n}.{end}" for n in (0, 1) for end in ("json", "pcm")
    ]


_KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from iseparate.data import open_dataset
from iseparate.data.prepare import prepare

def progress(done, total):
    if done > 0.5 * total:
        os.kill(os.getpid(), signal.SIGKILL)

prepare(open_dataset(sys.argv[1]), Path(sys.argv[2]), sample_rate=8000, progress=progress)
"""


def test_a_killed_run_leaves_nothing_half_and_is_gone_on_with(musdb, tmp_path):
    out = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", _KILLED_IN_THE_MIDDLE, musdb, str(out)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert [path.name for path in sorted((out / "songs").glob("*.json"))] == ["000000.json"]
    assert len(list((out / "songs").glob("*.part"))) == 1, "it was killed in the middle of the second song"
    with pytest.raises(UsageError, match=r"prepared\.json"):
        open_dataset(f"prepared:{out}")
    result = make(musdb, out)
    assert (result.songs, result.made) == (3, 2)
    assert not list((out / "songs").glob("*.part"))
    make(musdb, tmp_path / "fresh")
    for path in (tmp_path / "fresh/songs").glob("*.pcm"):
        assert path.read_bytes() == (out / "songs" / path.name).read_bytes()


def test_a_stopped_run_stops_its_threads_and_leaves_no_part(musdb, tmp_path):
    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(musdb, tmp_path / "out", jobs=2, progress=stop)
    assert not list((tmp_path / "out/songs").glob("*.part"))
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())
    assert make(musdb, tmp_path / "out").songs == 3


# Faults


def test_an_unreadable_song_is_left_out_and_named(musdb, tmp_path):
    path = tmp_path / "musdb/train/song 1/bass.wav"
    path.write_bytes(path.read_bytes()[:3000])
    result = make(musdb, tmp_path / "out")
    assert (result.songs, list(result.failed)) == (2, ["train/song 1"])
    assert "bass.wav" in result.failed["train/song 1"]
    assert [track.name for track in open_dataset(tmp_path / "out").tracks] == ["song 0", "song 2"]


def test_no_readable_song_is_an_error(tmp_path):
    song(tmp_path / "musdb", 0, 500)
    for path in (tmp_path / "musdb/train/song 0").iterdir():
        path.write_text("not sound")
    with pytest.raises(AudioError, match="no song of"):
        make(f"folder:{tmp_path / 'musdb/train'}", tmp_path / "out")


def test_the_room_is_checked_before_anything_is_written(musdb, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: usage(10, 5, 5))
    with pytest.raises(OutputError, match=r"0\.07 GB .* 0\.00 GB free"):
        make(musdb, tmp_path / "out")
    assert not list((tmp_path / "out/songs").iterdir())


def test_where_there_is_no_room_earlier_work_stays_usable(musdb, tmp_path, monkeypatch):
    make(musdb, tmp_path / "out")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: usage(10, 5, 5))
    with pytest.raises(OutputError):
        make(musdb, tmp_path / "out", sample_rate=48_000)
    assert open_dataset(tmp_path / "out").tracks[0].read("bass").shape == (2, 5000)


def test_a_disk_that_fills_up_is_said_and_leaves_no_part(musdb, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            make(musdb, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "out/songs").iterdir())


def test_a_folder_with_something_else_in_it_is_refused(musdb, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("keep me")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        make(musdb, tmp_path / "out")
    assert (tmp_path / "out/thesis.txt").read_text() == "keep me"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        make(musdb, tmp_path / "file")


def test_two_runs_do_not_share_a_folder(musdb, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.lock"), pytest.raises(OutputError, match="another run"):
        make(musdb, tmp_path / "out")


@pytest.mark.parametrize(("option", "words"), [({"sample_rate": 5}, "5 Hz"), ({"jobs": 0}, "0 jobs")])
def test_what_cannot_be_is_refused(musdb, tmp_path, option, words):
    with pytest.raises(UsageError, match=words):
        make(musdb, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_shortened_later_is_said(musdb, tmp_path):
    make(musdb, tmp_path / "out")
    os.truncate(tmp_path / "out/songs/000000.pcm", 1000)
    with pytest.raises(TruncatedAudioError, match="has 1000 bytes"):
        open_dataset(tmp_path / "out").tracks[0].read("vocals", 0, 10)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"sample_rate": -1},
        {"extra": 1},
        {"songs": [{"file": "../../etc/passwd"}]},
        {"sample_format": "int64"},
    ],
)
def test_a_hostile_index_is_refused_in_words(musdb, tmp_path, change):
    make(musdb, tmp_path / "out")
    path = tmp_path / "out/prepared.json"
    content = json.loads(path.read_text())
    if "songs" in change:
        content["songs"][0] |= change["songs"][0]
    else:
        content |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="prepare the data again"):
        open_dataset(f"prepared:{tmp_path / 'out'}")
    for text in ("", "[1, 2", "null"):
        path.write_text(text)
        with pytest.raises(UsageError, match="prepare the data again"):
            open_dataset(f"prepared:{tmp_path / 'out'}")


def test_the_index_says_what_it_was_made_of(musdb, tmp_path):
    make(musdb, tmp_path / "out")
    index = Index.model_validate_json((tmp_path / "out/prepared.json").read_text())
    assert index.source == musdb
    assert index.songs[0].step == 2**-15


def test_the_command(musdb, tmp_path):
    words = ["prepare", musdb, "-o", str(tmp_path / "out"), "--sample-rate", str(RATE)]
    first = CliRunner().invoke(data, words)
    assert first.exit_code == 0, first.output
    assert "3 songs" in first.stdout
    assert "there already" not in first.stdout
    assert "3 of them were there already" in CliRunner().invoke(data, words).stdout
    path = tmp_path / "musdb/train/song 1/bass.wav"
    path.write_bytes(b"RIFF")
    failed = CliRunner().invoke(data, words)
    assert failed.exit_code == 1
    assert "2 songs" in failed.stdout
    assert "song 1 is left out" in failed.stderr
