import dataclasses
import json

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from iseparate.data import open_dataset
from iseparate.data.strip import strip
from iseparate.errors import AudioError, OutputError, UsageError

STEMS = ("bass", "drums", "other", "vocals")


@pytest.fixture
def songs(tmp_path):
    chance = np.random.default_rng(0)
    for subset, name in (("train", "one"), ("train", "two"), ("valid", "three")):
        home = tmp_path / "songs" / subset / name
        home.mkdir(parents=True)
        for stem in STEMS:
            soundfile.write(home / f"{stem}.wav", 0.1 * chance.standard_normal((4000, 2)), 44100)
    return open_dataset(f"folder:{tmp_path / 'songs'}")


def half_of_it(mix, sample_rate):
    assert sample_rate == 44100
    return 0.5 * mix


def test_the_files_sum_to_what_the_model_left(songs, tmp_path):
    result = strip(songs, tmp_path / "out", "vocals", half_of_it, "half")
    assert (result.songs, result.fresh, dict(result.failed)) == (3, 3, {})
    stripped = open_dataset(f"folder:{tmp_path / 'out'}")
    assert stripped.stems == ("bass", "drums", "other", "residue")
    for track in stripped.tracks:
        before = songs.track(track.title)
        assert track.subset == before.subset
        np.testing.assert_allclose(track.read("mixture"), 0.5 * before.read("mixture"), atol=1e-4)
        np.testing.assert_allclose(track.read("drums"), before.read("drums"), atol=1e-4)


def test_finished_songs_are_left_alone_and_the_rest_is_made(songs, tmp_path):
    strip(songs, tmp_path / "out", "vocals", half_of_it, "half")
    (tmp_path / "out/train/two/bass.wav").unlink()
    for path in (tmp_path / "out/train/one").iterdir():
        path.unlink()
    (tmp_path / "out/train/one").rmdir()
    result = strip(songs, tmp_path / "out", "vocals", half_of_it, "half")
    assert result.fresh == 1
    assert not (tmp_path / "out/train/two/bass.wav").exists()


def test_other_work_is_refused(songs, tmp_path):
    strip(songs, tmp_path / "out", "vocals", half_of_it, "half")
    with pytest.raises(UsageError, match=r"stripped otherwise.*by half instead of third"):
        strip(songs, tmp_path / "out", "vocals", half_of_it, "third")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        strip(songs, tmp_path / "full", "vocals", half_of_it, "half")
    with pytest.raises(UsageError, match="has no guitar"):
        strip(songs, tmp_path / "new", "guitar", half_of_it, "half")
    assert json.loads((tmp_path / "out/stripped.json").read_text())["by"] == "half"


def test_a_song_that_cannot_be_read_is_left_out_in_words(songs, tmp_path):
    (tmp_path / "songs/train/one/bass.wav").write_bytes(b"no sound")
    result = strip(songs, tmp_path / "out", "vocals", half_of_it, "half")
    assert list(result.failed) == ["train/one"]
    assert not (tmp_path / "out/train/one").exists()


def test_no_song_at_all_is_an_error(songs, tmp_path):
    for path in (tmp_path / "songs").rglob("bass.wav"):
        path.write_bytes(b"no sound")
    with pytest.raises(AudioError, match="no song"):
        strip(songs, tmp_path / "out", "vocals", half_of_it, "half")


def test_a_disk_that_refuses_leaves_nothing_half_written(songs, tmp_path, monkeypatch):
    write, written = soundfile.write, []

    def refuse(path, *words, **more):
        written.append(path)
        if len(written) == 6:  # in the second song
            raise OSError("full")
        write(path, *words, **more)

    monkeypatch.setattr(soundfile, "write", refuse)
    with pytest.raises(OutputError, match="full"):
        strip(songs, tmp_path / "out", "vocals", half_of_it, "half")
    assert [path.name for path in (tmp_path / "out/train").iterdir()] == ["one"]
    monkeypatch.undo()
    assert strip(songs, tmp_path / "out", "vocals", half_of_it, "half").fresh == 2


def test_stripping_what_was_stripped_folds_the_residue_into_the_new_one(songs, tmp_path):
    strip(songs, tmp_path / "once", "vocals", half_of_it, "half")
    once = open_dataset(f"folder:{tmp_path / 'once'}")
    strip(once, tmp_path / "twice", "drums", half_of_it, "half")
    twice = open_dataset(f"folder:{tmp_path / 'twice'}")
    assert twice.stems == ("bass", "other", "residue")
    for track in twice.tracks:
        np.testing.assert_allclose(track.read("mixture"), 0.5 * once.track(track.title).read("mixture"), atol=2e-4)


def test_what_16_bits_would_clip_is_float(songs, tmp_path):
    loud = tmp_path / "songs/train/one/bass.wav"
    soundfile.write(loud, np.full((4000, 2), 1.5), 44100, subtype="FLOAT")
    strip(open_dataset(songs.spec), tmp_path / "out", "vocals", half_of_it, "half")
    assert soundfile.info(tmp_path / "out/train/one/bass.wav").subtype == "FLOAT"
    assert soundfile.info(tmp_path / "out/train/one/drums.wav").subtype == "PCM_16"
    assert soundfile.read(tmp_path / "out/train/one/bass.wav")[0].min() == 1.5


@pytest.mark.parametrize("change", [{"subset": "../x"}, {"name": "../../x"}, {"name": "/tmp/x"}, {"name": "."}])
def test_a_song_whose_name_leads_elsewhere_is_refused_before_anything_is_written(songs, tmp_path, change):
    hostile = dataclasses.replace(songs.tracks[0], **{"subset": "", **change})
    with pytest.raises(UsageError, match="would lie outside"):
        strip(dataclasses.replace(songs, tracks=(hostile,)), tmp_path / "out", "vocals", half_of_it, "half")
    assert not (tmp_path / "out").exists()


def test_two_runs_do_not_share_a_folder_and_what_a_kill_left_is_no_hindrance(songs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.stripped.json.part").write_text("{")
    with FileLock(tmp_path / "out/.lock"), pytest.raises(OutputError, match="another run"):
        strip(songs, tmp_path / "out", "vocals", half_of_it, "half")
    told = []
    strip(songs, tmp_path / "out", "vocals", half_of_it, "half", lambda done, of: told.append((done, of)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
