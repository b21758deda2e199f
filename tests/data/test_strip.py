import json

import numpy as np
import pytest
import soundfile

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
    with pytest.raises(UsageError, match="another model's"):
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


def test_a_model_that_fails_leaves_nothing_half_written(songs, tmp_path):
    def fail(mix, sample_rate):
        raise OutputError("no")

    with pytest.raises(OutputError):
        strip(songs, tmp_path / "out", "vocals", fail, "half")
    assert not list((tmp_path / "out").rglob("*.wav"))
