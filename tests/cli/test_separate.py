"""Good songs: what comes out, where, and in which shape."""

from __future__ import annotations

import hashlib
import json
import os
import sys

import numpy as np
import pytest
import soundfile
from stage import RATE, left_behind, music, picture, write_wav

from iseparate.audio.decode import Decoder
from iseparate.audio.encode import Encoder


def decode(path):
    with Decoder(path) as decoder:
        return np.concatenate(list(decoder.blocks()), axis=1), decoder.info


def samples(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def test_a_song_comes_out_as_stems_that_sum_to_it(separate, here):
    song = write_wav(here / "song.wav")
    outcome = separate("song.wav", "--bit-depth", "32f")
    assert outcome.status == 0
    assert outcome.err == ""
    assert "song.wav → separated/tiny/song" in outcome.out
    assert "vocals.wav, accompaniment.wav" in outcome.out
    assert "× real time" in outcome.out
    assert left_behind(here / "separated") == [
        "tiny",
        "tiny/song",
        "tiny/song/accompaniment.wav",
        "tiny/song/iseparate.json",
        "tiny/song/vocals.wav",
    ]
    total = samples("separated/tiny/song/vocals.wav") + samples("separated/tiny/song/accompaniment.wav")
    assert np.abs(total - samples(song)).max() < 10 ** (-90 / 20)


@pytest.mark.parametrize("words", [["separate", "-n", "M", "S"], ["S", "-n", "M"], ["-n", "M", "S"], ["S", "--name=M"]])
def test_the_verb_can_be_left_out(iseparate, here, tiny, words):
    write_wav(here / "s.wav")
    outcome = iseparate(*(word.replace("M", str(tiny)).replace("S", "s.wav") for word in words))
    assert outcome.status == 0
    assert (here / "separated/tiny/s/vocals.wav").exists()


def test_a_song_named_as_a_verb_is_reached_through_its_path(iseparate, here, tiny):
    write_wav(here / "demo.wav").rename(here / "demo")
    assert iseparate("./demo", "-n", tiny).status == 0
    assert (here / "separated/tiny/demo/vocals.wav").exists()


@pytest.mark.parametrize(
    ("options", "ending", "codec", "bits"),
    [
        (["--format", "wav"], "wav", "pcm_s16le", 16),
        (["--format", "wav", "--bit-depth", "24"], "wav", "pcm_s24le", 24),
        (["--format", "wav", "--bit-depth", "32f"], "wav", "pcm_f32le", 32),
        (["--format", "flac"], "flac", "flac", 16),
        (["--format", "flac", "--bit-depth", "24"], "flac", "flac", 24),
        (["-f", "mp3", "--bitrate", "192"], "mp3", "mp3", None),
        (["-f", "m4a"], "m4a", "aac", None),
        (["-f", "m4a", "--codec", "alac"], "m4a", "alac", 16),
        (["-f", "ogg"], "ogg", "vorbis", None),
        (["-f", "opus"], "opus", "opus", None),
    ],
)
def test_formats_keep_length_tags_and_cover(separate, here, options, ending, codec, bits):
    tags = {"title": "Sōng", "artist": "Nobody & Co", "album": "A/B", "date": "1999"}
    with Encoder(
        here / "song.flac", format="flac", sample_rate=RATE, channels=2, tags=tags, cover=("image/png", picture())
    ) as e:
        e.write(music().T)
    assert separate("song.flac", *options).status == 0
    for stem in ("vocals", "accompaniment"):
        found, info = decode(here / f"separated/tiny/song/{stem}.{ending}")
        assert (info.codec, info.bit_depth) == (codec, bits)
        assert info.sample_rate == (48_000 if ending == "opus" else RATE)
        assert found.shape[1] == round(len(music()) * info.sample_rate / RATE)
        assert {name: info.tags.get(name) for name in tags} == tags
        if ending != "wav":
            assert info.cover is not None
            assert info.cover[1] == picture()


@pytest.mark.parametrize(("channels", "rate"), [(1, 44_100), (6, 44_100), (2, 48_000), (2, 96_000), (1, 8_000)])
def test_rate_channels_and_length_are_the_songs_own(separate, here, channels, rate):
    song = write_wav(here / "song.wav", channels, 0.2501, rate)
    assert separate("song.wav", "--bit-depth", "32f").status == 0
    stems = [here / f"separated/tiny/song/{stem}.wav" for stem in ("vocals", "accompaniment")]
    for stem in stems:
        assert soundfile.info(stem).samplerate == rate
        assert samples(stem).shape == samples(song).shape
    # All that the network cannot see goes to the accompaniment: the low frequencies of 5.1, what resampling removes.
    assert np.abs(sum(map(samples, stems)) - samples(song)).max() < 10 ** (-90 / 20)


def test_two_stems_and_residual(separate, here):
    song = write_wav(here / "song.wav")
    assert separate("song.wav", "--two-stems", "vocals", "--residual", "--bit-depth", "32f").status == 0
    folder = here / "separated/tiny/song"
    assert {p.name for p in folder.iterdir()} == {"vocals.wav", "no_vocals.wav", "residual.wav", "iseparate.json"}
    assert np.abs(samples(folder / "vocals.wav") + samples(folder / "no_vocals.wav") - samples(song)).max() < 1e-5
    assert np.abs(samples(folder / "residual.wav")).max() < 1e-5


@pytest.mark.parametrize(
    ("asked", "made"), [("vocals", "vocals"), ("instrumental", "accompaniment"), (" vocals ,", "vocals")]
)
def test_only_the_stems_asked_for_are_written(separate, here, asked, made):
    write_wav(here / "song.wav")
    assert separate("song.wav", "--stems", asked).status == 0
    assert {p.name for p in (here / "separated/tiny/song").iterdir()} == {f"{made}.wav", "iseparate.json"}


def test_a_part_of_a_song(separate, here):
    write_wav(here / "song.wav", seconds=1.0)
    separate("song.wav", "-o", "whole", "--bit-depth", "32f")
    assert separate("song.wav", "--start", "0.25", "--duration", "0.5", "--bit-depth", "32f").status == 0
    part = [samples(here / f"separated/tiny/song/{stem}.wav") for stem in ("vocals", "accompaniment")]
    assert part[0].shape == (2, RATE // 2)
    cut = samples(here / "song.wav")[:, RATE // 4 : RATE // 4 + RATE // 2]
    assert np.abs(sum(part) - cut).max() < 1e-5


def test_stems_share_one_gain_where_one_would_clip(separate, here):
    # Floating-point samples may exceed full scale; at three times that, one of two stems must as well.
    soundfile.write(here / "loud.wav", music() * 3, RATE, "FLOAT")
    outcome = separate("loud.wav", "--bit-depth", "16", "--json")
    (song,) = outcome.json["songs"]
    stems = [samples(path) for path in song["files"].values()]
    gain = 10 ** (song["gain_db"] / 20)
    assert gain < 0.9
    assert np.abs(sum(stems) - samples(here / "loud.wav") * gain).max() < 3 / 32768


def test_the_manifest_says_how_the_stems_were_made(separate, here, tiny):
    song = write_wav(here / "song.wav")
    separate("song.wav", "--shifts", "2", "--seed", "5", "--overlap", "0")
    manifest = json.loads((here / "separated/tiny/song/iseparate.json").read_text())
    assert manifest["song"] == "song.wav"
    assert manifest["song_sha256"] == hashlib.sha256(song.read_bytes()).hexdigest()
    assert manifest["model"] == "tiny"
    assert manifest["weights_sha256"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert manifest["settings"] | {"shifts": 2, "seed": 5, "overlap": 0.0, "format": "wav"} == manifest["settings"]
    assert {"iseparate", "python", "torch", "numpy"} <= set(manifest["versions"])
    assert (manifest["sample_rate_hz"], manifest["channels"], manifest["samples"]) == (RATE, 2, len(music()))
    assert manifest["null_db"] < -90
    assert manifest["gain_db"] <= 0
    for stem, stored in manifest["stems"].items():
        path = here / "separated/tiny/song" / stored["file"]
        assert path.name == f"{stem}.wav"
        assert stored["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        peak_db = 20 * np.log10(np.abs(samples(path)).max())
        assert stored["peak_dbfs"] == pytest.approx(peak_db, abs=0.1)


def test_shifts_are_repeatable_and_follow_their_seed(separate, here):
    write_wav(here / "song.wav")
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert separate("song.wav", "-o", out, "--shifts", 1, "--seed", seed).status == 0
    a, b, c = ((here / out / "tiny/song/vocals.wav").read_bytes() for out in "abc")
    assert a == b
    assert a != c


def test_folders_are_searched_and_deeper_only_when_asked(separate, here):
    (here / "album/disc").mkdir(parents=True)
    write_wav(here / "album/one.wav")
    write_wav(here / "album/disc/two.wav")
    (here / "album/notes.txt").write_text("no song")
    outcome = separate("album")
    assert outcome.status == 0
    assert {p.name for p in (here / "separated/tiny").iterdir()} == {"one"}
    outcome = separate("album", "--recursive", "--skip-existing")
    assert outcome.status == 0
    assert {p.name for p in (here / "separated/tiny").iterdir()} == {"one", "two"}
    assert "1 done, 1 skipped" in outcome.out


def test_stems_of_an_earlier_run_are_not_taken_for_songs(separate, here):
    write_wav(here / "song.wav")
    for _ in range(2):
        outcome = separate(".", "--recursive", "--json")
        assert [song["song"] for song in outcome.json["songs"]] == ["song.wav"]


def test_songs_of_one_name_do_not_overwrite_each_other(separate, here):
    for folder, seed in (("a", 1), ("b", 2)):
        (here / folder).mkdir()
        write_wav(here / folder / "song.wav", seed=seed)
    assert separate("a/song.wav", "b/song.wav", "--bit-depth", "32f").status == 0
    for folder, track in (("a", "song"), ("b", "song (2)")):
        total = sum(samples(here / f"separated/tiny/{track}/{stem}.wav") for stem in ("vocals", "accompaniment"))
        assert np.abs(total - samples(here / folder / "song.wav")).max() < 1e-5


def test_a_template_that_does_not_tell_songs_apart_costs_the_second_not_the_first(separate, here):
    write_wav(here / "a.wav", seed=1)
    write_wav(here / "b.wav", seed=2)
    outcome = separate("a.wav", "b.wav", "--filename", "{stem}.{ext}", "--bit-depth", "32f")
    assert outcome.status == 1
    assert "b.wav would overwrite separated/tiny/vocals.wav, a stem of a.wav" in outcome.sentence
    total = sum(samples(here / f"separated/tiny/{stem}.wav") for stem in ("vocals", "accompaniment"))
    assert np.abs(total - samples(here / "a.wav")).max() < 1e-5


@pytest.mark.parametrize("title", ["../../x", "/etc/passwd", "..", "a\\..\\b", "CON", "\U0001f3b5" * 200])
def test_titles_that_look_like_paths_stay_below_the_output(separate, here, title):
    with Encoder(
        here / "s.flac", format="flac", sample_rate=RATE, channels=2, tags={"title": title, "artist": title}
    ) as e:
        e.write(music().T)
    outcome = separate("s.flac", "-o", "out/deep", "--filename", "{artist}/{title}/{stem}.{ext}", "--json")
    assert outcome.status == 0
    root = (here / "out/deep/tiny").resolve()
    for path in outcome.json["songs"][0]["files"].values():
        inside = (here / path).resolve().relative_to(root)
        assert len(inside.parts) == 3
    assert {p.name for p in here.iterdir()} == {"s.flac", "out"}


def test_a_song_whose_own_name_is_odd(separate, here):
    name = "[red] \n -weird; $(touch x) 'ü'.wav"
    write_wav(here / "plain.wav").rename(here / name)
    outcome = separate("./" + name, "--json")
    assert outcome.status == 0
    assert all((here / path).exists() for path in outcome.json["songs"][0]["files"].values())
    assert separate("./" + name, "--skip-existing").status == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_name_that_is_no_text_on_a_terminal_that_knows_ascii_only(start, here, tiny, monkeypatch):
    name = os.fsdecode(b"caf\xe9.wav")
    write_wav(here / "plain.wav").rename(here / name)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start(name, "gone.wav", "-n", tiny)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "1 done, 1 failed" in out
    assert err.startswith("error: gone.wav does not exist")
    assert len(list((here / "separated/tiny").rglob("vocals.wav"))) == 1


def test_several_songs_at_a_time_give_the_same_files(separate, here):
    for number in range(3):
        write_wav(here / f"{number}.wav", seed=number)
    (here / "bad.wav").write_bytes(b"RIFF")
    words = ("0.wav", "bad.wav", "1.wav", "2.wav")
    one, two = separate(*words, "-o", "one", "-j", 1), separate(*words, "-o", "two", "-j", 2)
    assert (one.status, two.status) == (1, 1)
    assert one.err == two.err
    assert "3 done, 1 failed" in two.out
    for path in (here / "one").rglob("*.wav"):
        assert path.read_bytes() == (here / "two" / path.relative_to(here / "one")).read_bytes()
    assert left_behind(here / "one") == left_behind(here / "two")


def test_skip_existing_makes_what_is_missing_damaged_or_changed(separate, here):
    write_wav(here / "song.wav")
    separate("song.wav")
    folder = here / "separated/tiny/song"
    vocals, rest = folder / "vocals.wav", folder / "accompaniment.wav"
    first = vocals.read_bytes(), rest.read_bytes()

    def again(*words):
        (song,) = separate("song.wav", "--skip-existing", "--json", *words).json["songs"]
        return song["status"]

    before = vocals.stat().st_mtime_ns
    assert again() == "skipped"
    assert vocals.stat().st_mtime_ns == before

    vocals.unlink()
    kept = rest.stat().st_mtime_ns
    assert again() == "done"
    assert (vocals.read_bytes(), rest.read_bytes()) == first
    assert rest.stat().st_mtime_ns == kept

    damaged = bytearray(first[1])
    damaged[-1] ^= 1
    rest.write_bytes(damaged)
    kept = vocals.stat().st_mtime_ns
    assert again() == "done"
    assert rest.read_bytes() == first[1]
    assert vocals.stat().st_mtime_ns == kept

    assert again("--shifts", "1") == "done"
    assert again("--shifts", "1") == "skipped"
    write_wav(here / "song.wav", seed=9)
    assert again("--shifts", "1") == "done"
    (folder / "iseparate.json").write_text("{")
    assert again("--shifts", "1") == "done"


def test_a_skipped_song_is_said_to_be_kept(separate, here):
    write_wav(here / "song.wav")
    separate("song.wav")
    outcome = separate("song.wav", "--skip-existing")
    assert outcome.status == 0
    assert "song.wav kept separated/tiny/song" in outcome.out
