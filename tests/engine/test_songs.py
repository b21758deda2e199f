from __future__ import annotations

import pytest

from iseparate.engine.songs import find_songs
from iseparate.errors import AudioReadError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def found(folder, **options):
    return [path.relative_to(folder).as_posix() for path in find_songs(folder, **options)]


def test_songs_are_told_by_their_endings_and_sorted(tmp_path):
    make(tmp_path, "b.MP3", "a.flac", "cover.jpg", "notes.txt", "film.mkv", ".hidden.wav", "sub/c.wav")
    assert found(tmp_path) == ["a.flac", "b.MP3", "film.mkv"]


def test_recursion_enters_neither_hidden_folders_nor_results(tmp_path):
    make(tmp_path, "a.wav", "x/b.wav", "x/y/c.ogg", ".git/d.wav", "done/iseparate.json", "done/vocals.wav", "out/e.wav")
    assert found(tmp_path, recursive=True, leave_out=[tmp_path / "out"]) == ["a.wav", "x/b.wav", "x/y/c.ogg"]


def test_the_output_folder_is_left_out_however_it_is_written(tmp_path, monkeypatch):
    make(tmp_path, "music/a.wav", "music/out/b.wav")
    monkeypatch.chdir(tmp_path)
    for spelling in ("music/out", "music/../music/out", "./music/./out"):
        assert found(tmp_path / "music", recursive=True, leave_out=[type(tmp_path)(spelling)]) == ["a.wav"]


def test_a_link_back_up_does_not_find_songs_again(tmp_path):
    make(tmp_path, "a.wav", "x/b.wav")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    assert found(tmp_path, recursive=True) == ["a.wav", "x/b.wav"]


def test_a_linked_folder_of_songs_is_entered(tmp_path):
    make(tmp_path, "elsewhere/b.wav", "music/a.wav")
    (tmp_path / "music" / "more").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "music", recursive=True) == ["a.wav", "more/b.wav"]


def test_a_folder_without_songs_is_an_error_that_names_the_way_out(tmp_path):
    make(tmp_path, "readme.txt", "sub/a.wav")
    with pytest.raises(AudioReadError, match=r"holds no audio file .*--recursive"):
        find_songs(tmp_path)
    with pytest.raises(AudioReadError, match=r"holds no audio file \(such as .wav, .flac, .mp3\)$"):
        find_songs(make(tmp_path / "empty", "x.txt"), recursive=True)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(AudioReadError, match="cannot be read"):
        find_songs(tmp_path / "nowhere")
