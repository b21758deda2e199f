"""Songs and places that cannot be used: one sentence each, nothing left behind, and the rest of the batch is done."""

from __future__ import annotations

import functools
import os
import resource
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from stage import RATE, left_behind, music, picture, write_wav

from iseparate.audio.encode import Encoder


def encoded(path, format, seconds=1.0, **options):
    with Encoder(path, format=format, sample_rate=RATE, channels=2, **options) as encoder:
        encoder.write(music(seconds=seconds).T)
    return path


def cut_off(path, format, share=0.6, **options):
    encoded(path, format, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def cut_off_m4a(path):
    """What a broken download leaves of a file whose index comes first."""
    fast = path.with_name("fast.m4a")
    options = {"movflags": "faststart"}
    with (
        av.open(str(encoded(path, "m4a"))) as source,
        av.open(str(fast), "w", format="ipod", container_options=options) as copy,
    ):
        stream = copy.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    path.write_bytes(fast.read_bytes()[: int(fast.stat().st_size * 0.6)])
    fast.unlink()


def of_float(path, value):
    samples = music()
    samples[1000, 1] = value
    soundfile.write(path, samples, RATE, "FLOAT")


def silent_film(path):
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(video.encode(None))


def of_rate(path, rate):
    write_wav(path)
    raw = bytearray(path.read_bytes())
    raw[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(raw)


BAD_SONGS = {
    "missing": ("x.mp3", lambda path: None, "does not exist"),
    "name of 300 letters": ("x" * 300 + ".mp3", lambda path: None, "cannot be opened (File name too long)"),
    "in a file as if that were a folder": ("song.wav/x.mp3", lambda path: None, "cannot be opened (Not a directory)"),
    "empty": ("x.mp3", lambda path: path.touch(), "is empty (0 bytes)"),
    "text": ("x.mp3", lambda path: path.write_text("This is no music. " * 500), "cannot be read as sound"),
    "zeros": ("x.wav", lambda path: path.write_bytes(bytes(50_000)), "expected an audio or video file"),
    "playlist": ("x.m3u8", lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), "expected an audio"),
    "picture": ("x.png", lambda path: path.write_bytes(picture()), "holds no sound"),
    "silent film": ("x.mp4", silent_film, "holds no sound"),
    "no samples": ("x.wav", lambda path: soundfile.write(path, np.zeros((0, 2)), RATE), "0 samples"),
    "forty channels": ("x.wav", lambda path: write_wav(path, 40, 0.05), "40 channels: expected 1 to 8"),
    "NaN": ("x.wav", lambda path: of_float(path, np.nan), "not numbers (NaN or infinite)"),
    "infinity": ("x.wav", lambda path: of_float(path, -np.inf), "not numbers (NaN or infinite)"),
    "a rate of 1 Hz": ("x.wav", lambda path: of_rate(path, 1), "a sample rate of 1 Hz"),
    "a rate of 3 MHz": ("x.wav", lambda path: of_rate(path, 3_000_000), "a sample rate of 3000000 Hz"),
    "truncated mp3": ("x.mp3", lambda path: cut_off(path, "mp3"), "--allow-truncated"),
    "truncated flac": ("x.flac", lambda path: cut_off(path, "flac"), "--allow-truncated"),
    "truncated m4a": ("x.m4a", lambda path: cut_off(path, "m4a"), "the index that an MP4 file needs is missing"),
    "truncated m4a, index in front": ("x.m4a", cut_off_m4a, "--allow-truncated"),
    "truncated wav": ("x.wav", lambda path: cut_off(path, "wav"), "--allow-truncated"),
    "a named pipe": ("x.wav", os.mkfifo, "is a pipe or a device"),
    "empty folder": ("folder", lambda path: path.mkdir(), "folder holds no audio file"),
}


@pytest.mark.parametrize("case", BAD_SONGS)
def test_a_bad_song_has_its_sentence_and_the_others_are_done(separate, here, case):
    name, make, expected = BAD_SONGS[case]
    write_wav(here / "song.wav")
    make(here / name)
    outcome = separate(name, "song.wav", "--format", "flac")
    assert outcome.status == 1
    assert expected in outcome.sentence
    assert name in outcome.sentence
    assert "1 done, 1 failed" in outcome.out
    assert left_behind(here / "separated") == [
        "tiny",
        "tiny/song",
        "tiny/song/accompaniment.flac",
        "tiny/song/iseparate.json",
        "tiny/song/vocals.flac",
    ]


def test_a_folder_whose_first_song_is_broken(separate, here):
    (here / "album").mkdir()
    cut_off(here / "album/1.mp3", "mp3")
    write_wav(here / "album/2.wav")
    outcome = separate("album")
    assert outcome.status == 1
    assert outcome.sentence.startswith("album/1.mp3 is incomplete: its header declares 0:01.000")
    assert {p.name for p in (here / "separated/tiny").iterdir()} == {"2"}


def test_songs_that_are_all_missing_do_not_wait_for_the_model(iseparate, here):
    outcome = iseparate("a.mp3", "b.mp3", "-n", "spleeter-2stems")
    assert outcome.status == 1
    assert [line.split(" does")[0] for line in outcome.err.splitlines()] == ["error: a.mp3", "error: b.mp3"]
    assert iseparate("a.mp3").sentence.startswith("a.mp3 does not exist")


@pytest.mark.parametrize("format", ["mp3", "flac", "m4a"])
def test_a_truncated_song_is_used_when_told_to_and_says_so(separate, here, format):
    cut_off_m4a(here / "x.m4a") if format == "m4a" else cut_off(here / f"x.{format}", format)
    outcome = separate(f"x.{format}", "--allow-truncated")
    assert outcome.status == 0
    assert outcome.err.startswith("note: ")
    assert len(outcome.err.splitlines()) == 1
    length = soundfile.info(here / "separated/tiny/x/vocals.wav").duration
    assert 0.3 < length < 0.95


@pytest.mark.parametrize(
    "tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(200), b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000)]
)
def test_tags_behind_an_mp3_are_no_damage(separate, here, tail):
    path = encoded(here / "x.mp3", "mp3")
    path.write_bytes(path.read_bytes() + tail)
    outcome = separate("x.mp3")
    assert (outcome.status, outcome.err) == (0, "")
    assert soundfile.info(here / "separated/tiny/x/vocals.wav").frames == RATE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_song_that_may_not_be_read(separate, here):
    write_wav(here / "x.wav").chmod(0)
    write_wav(here / "song.wav")
    outcome = separate("x.wav", "song.wav")
    assert outcome.status == 1
    assert "may not be read" in outcome.sentence
    assert "1 done, 1 failed" in outcome.out


def test_no_song_is_refused_for_the_batch_by_its_permissions(separate, here, monkeypatch):
    write_wav(here / "song.wav")
    monkeypatch.setattr(os, "access", lambda *words, **options: False)
    assert separate("song.wav").status == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter everything")
def test_a_folder_that_may_not_be_entered(separate, here):
    (here / "closed").mkdir()
    write_wav(here / "closed/x.wav")
    (here / "closed").chmod(0)
    try:
        outcome = separate("closed/x.wav")
    finally:
        (here / "closed").chmod(0o700)
    assert outcome.status == 1
    assert "may not be read" in outcome.sentence


# -- places --------------------------------------------------------------------------------------------------


def test_a_file_where_a_folder_should_be(separate, here):
    write_wav(here / "song.wav")
    outcome = separate("song.wav", "-o", "song.wav")
    assert outcome.status == 1
    assert "cannot be written to song.wav/tiny/song (Not a directory)" in outcome.sentence


def test_a_folder_where_a_stem_should_be(separate, here):
    write_wav(here / "song.wav")
    (here / "separated/tiny/song/vocals.wav/mine").mkdir(parents=True)
    outcome = separate("song.wav")
    assert outcome.status == 1
    assert "vocals.wav" in outcome.sentence
    assert left_behind(here / "separated/tiny/song") == ["vocals.wav", "vocals.wav/mine"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a Linux file system that takes no files")  # noqa: PTH112
def test_a_place_that_takes_no_files(separate, here):
    write_wav(here / "song.wav")
    outcome = separate("song.wav", "-o", "/proc/separated")
    assert outcome.status == 1
    assert "/proc/separated" in outcome.sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written_to(separate, here):
    write_wav(here / "song.wav")
    (here / "closed").mkdir(mode=0o500)
    outcome = separate("song.wav", "-o", "closed")
    assert outcome.status == 1
    assert "Permission denied" in outcome.sentence


@pytest.mark.parametrize(
    "clip",
    [
        "rescale",
        "clamp",
    ],
)
def test_a_disk_that_fills_up_leaves_nothing(execute, here, tiny, clip):
    write_wav(here / "long.wav", seconds=1)
    write_wav(here / "short.wav", seconds=0.1)
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    outcome = execute("long.wav", "short.wav", "-n", tiny, "--clip", clip, preexec_fn=limit)
    assert outcome.status == 1
    assert "free" in outcome.sentence
    assert {p.name for p in (here / "separated/tiny").iterdir()} == {"short"}


def test_too_small_a_disk_is_noticed_before_the_work(separate, here, monkeypatch):
    write_wav(here / "song.wav")
    nearly_full = SimpleNamespace(total=10**9, used=999 * 10**6, free=10**6)
    monkeypatch.setattr("iseparate.engine.outputs.shutil.disk_usage", lambda path: nearly_full)
    outcome = separate("song.wav")
    assert outcome.status == 1
    assert "1 MB free" in outcome.sentence
    assert left_behind(here) == ["song.wav"]
