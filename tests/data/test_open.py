"""Kinds of data sets: what is found where, and what is said where nothing is."""

from __future__ import annotations

import os

import numpy as np
import pytest
from small_data import RATE, STEMS, sound, write, write_hq, write_song, write_stem_mp4

from iseparate.data import open_dataset
from iseparate.data.datasets._musdb import VALIDATION
from iseparate.data.datasets.folder import stem_name
from iseparate.data.kinds import dataset, kinds
from iseparate.errors import AudioError, UsageError


def titles(dataset):
    return [track.title for track in dataset.tracks]


# -- MUSDB18 -----------------------------------------------------------------------------------------------


def test_musdb18hq(tmp_path):
    found = open_dataset(f"musdb18hq:{write_hq(tmp_path)}")
    assert titles(found) == ["train/A", "valid/Leaf - Summerghost", "test/B"]
    assert found.stems == STEMS
    assert found.sample_rate == RATE
    assert found.missing == {"train": 85, "valid": 13, "test": 49}
    assert "academic" in found.licence_note
    for track in found.tracks:
        np.testing.assert_allclose(sum(track.read(stem) for stem in STEMS), track.read("mixture"), atol=1e-4)
    assert found.track("B") is found.track("test/B")
    found.require_songs()


def test_subsets_share_no_track(tmp_path):
    spec = f"musdb18hq:{write_hq(tmp_path)}"
    assert titles(open_dataset(spec, "train")) == ["train/A"]
    assert titles(open_dataset(spec, "valid")) == ["valid/Leaf - Summerghost"]
    assert titles(open_dataset(spec, "train+valid")) == ["train/A", "valid/Leaf - Summerghost"]
    assert open_dataset(spec, "test").missing == {"test": 49}


def test_the_validation_tracks_are_musdbs():
    yaml = pytest.importorskip("yaml")
    from importlib import metadata

    try:
        files = metadata.files("musdb") or []
    except metadata.PackageNotFoundError:
        pytest.skip("musdb is not installed")
    (config,) = (file for file in files if file.name == "mus.yaml")
    assert set(yaml.safe_load(config.locate().read_text())["validation_tracks"]) == VALIDATION
    assert len(VALIDATION) == 14


def test_wav_is_preferred_to_flac_and_case_does_not_matter(tmp_path):
    song = write_song(tmp_path / "test" / "x")
    write(song / "drums.flac", sound(7))
    (song / "bass.wav").rename(song / "Bass.WAV")
    (track,) = open_dataset(f"musdb18hq:{tmp_path}").tracks
    assert track.clips["drums"][0].path.name == "drums.wav"
    assert track.clips["bass"][0].path.name == "Bass.WAV"


def test_musdb18_streams_are_the_right_way_round(tmp_path):
    write_stem_mp4(tmp_path / "train" / "Leaf - Summerghost.stem.mp4", seed=1)
    write_stem_mp4(tmp_path / "test" / "B.stem.mp4", seed=2)
    (tmp_path / "test" / "notes.mp4").write_text("not a stem file")
    found = open_dataset(f"musdb18:{tmp_path}")
    assert titles(found) == ["valid/Leaf - Summerghost", "test/B"]
    for seed, track in zip((1, 2), found.tracks, strict=True):
        assert track.samples == RATE // 2
        for k, stem in enumerate(("drums", "bass", "other", "vocals")):
            truth = sound(100 * seed + k, 0.5)
            error = np.square(track.read(stem)[:, 2048:-2048] - truth[:, 2048:-2048]).mean()
            assert error < 0.01 * np.square(truth).mean(), stem


def test_the_sample_set_is_told_by_its_length(tmp_path, monkeypatch):
    monkeypatch.setattr("iseparate.data.datasets.musdb18._SAMPLE_SECONDS", 0.6)
    write_stem_mp4(tmp_path / "short" / "test" / "a.stem.mp4")
    assert open_dataset(tmp_path / "short").kind == "musdb18-7s"
    write_stem_mp4(tmp_path / "long" / "test" / "a.stem.mp4", seconds=0.7)
    assert open_dataset(tmp_path / "long").kind == "musdb18"


# -- folders of songs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *((name, "vocals") for name in ("vocals", "Vocals30", "vocal", "voice", "VOX", "01 - Vocals", "lead_vocals")),
        *((name, "drums") for name in ("drums", "Drum", "drum-kit", "drums (2)")),
        *((name, "bass") for name in ("bass", "Bass Guitar", "bassguitar_1")),
        *((name, "mixture") for name in ("mixture", "MIX", "Full Mix")),
        *((name, "accompaniment") for name in ("instrumental", "no_vocals", "Karaoke")),
        ("BassDrums30", "bassdrums"),
        ("Lead Synth 3", "lead_synth"),
        ("808", "808"),
        *((name, "speaker1") for name in ("speaker1", "Speaker 1", "spk_1", "s1", "01 - speaker 1", "speaker01")),
        *((name, "speaker12") for name in ("speaker12", "S12", "ｓｐｅａｋｅｒ１２")),
        *((name, name) for name in ("speaker", "speaker_a")),
        ("speaker 1 talking 2", "speaker_talking"),
        ("bass1", "bass"),
        ("Ｖｏｃａｌｓ", "vocals"),
        ("ボーカル", "ボーカル"),
    ],
)
def test_spellings(name, stem):
    assert stem_name(name) == stem


def test_a_folder_for_each_song(tmp_path):
    write_song(tmp_path / "one", mixture=False)
    two = tmp_path / "two"
    for k, name in enumerate(
        ["Vocals1.wav", "vocals 2.flac", "drums.ogg", "drums.wav", "other/organ.wav", "other/x.wav"]
    ):
        write(two / name, sound(k), subtype="VORBIS" if name.endswith("ogg") else "PCM_16")
    write(two / "instrumental.wav", sound(9))
    (tmp_path / "empty").mkdir()
    write(tmp_path / "alone" / "bass.wav", sound(1))
    write(tmp_path / "mixed" / "mix.wav", sound(1))
    (tmp_path / "words").mkdir()
    write_song(tmp_path / "album" / "three")
    (tmp_path / "words" / "lyrics.txt").write_text("la")
    write(tmp_path / ".hidden" / "bass.wav", sound(1))
    found = open_dataset(f"folder:{tmp_path}")
    assert titles(found) == ["one", "two"]
    track = found.track("two")
    assert {stem: [clip.path.name for clip in clips] for stem, clips in track.clips.items()} == {
        "drums": ["drums.wav"],
        "other": ["organ.wav", "x.wav"],
        "vocals": ["Vocals1.wav", "vocals 2.flac"],
    }
    np.testing.assert_allclose(track.read("vocals"), sound(0) + sound(1), atol=1e-4)
    assert found.stems == ("bass", "drums", "other", "vocals")
    assert {item.path.name: item.reason for item in found.passed_over} == {
        "empty": "holds no sound file",
        "words": "holds no sound file",
        "album": "holds no sound file",
        "alone": "holds only one stem, bass, and no mixture",
        "mixed": "holds a mixture but no stem",
    }


def test_speakers_stay_apart(tmp_path):
    for k in (1, 2):
        write(tmp_path / "talk" / f"speaker{k}.wav", sound(k))
    (track,) = open_dataset(tmp_path).tracks
    assert track.stems == ("speaker1", "speaker2")
    np.testing.assert_allclose(track.read("speaker2"), sound(2), atol=1e-4)


def test_a_folder_for_each_stem_of_a_song(tmp_path):
    for name in ("vocals/lead.wav", "vocals/choir.wav", "brass/horn.wav"):
        write(tmp_path / "song" / name, sound(len(name)))
    (track,) = open_dataset(tmp_path).tracks
    assert {stem: len(clips) for stem, clips in track.clips.items()} == {"brass": 1, "vocals": 2}


def test_vocals_and_accompaniment_are_a_pair(tmp_path):
    for name in ("vocals", "instrumental"):
        write(tmp_path / "song" / f"{name}.wav", sound(len(name)))
    (track,) = open_dataset(tmp_path).tracks
    assert track.stems == ("accompaniment", "vocals")
    np.testing.assert_allclose(track.read("mixture"), track.read("vocals") + track.read("accompaniment"), atol=1e-7)


def test_folders_with_subsets(tmp_path):
    write_song(tmp_path / "Training" / "a")
    write_song(tmp_path / "val" / "b")
    write_song(tmp_path / "test")  # a song of that name
    found = open_dataset(f"folder:{tmp_path}")
    assert titles(found) == ["test", "train/a", "valid/b"]
    assert titles(open_dataset(f"folder:{tmp_path}", "valid")) == ["valid/b"]
    with pytest.raises(UsageError, match="no track of the subset test: found train, valid"):
        open_dataset(f"folder:{tmp_path}", "test")


# -- the community trainer's layouts -----------------------------------------------------------------------


def test_msst_songs(tmp_path):
    write_song(tmp_path / "one")
    write_song(tmp_path / "two", seed=1, stems=("vocals", "Lead Synth 3"), mixture=False)
    for kind, mixing in (("msst-1", "any"), ("msst-4", "aligned")):
        found = open_dataset(f"{kind}:{tmp_path}")
        assert titles(found) == ["one", "two"]
        assert found.track("two").stems == ("Lead Synth 3", "vocals")
        assert found.mixing == mixing
        found.require_songs()


def test_msst_stem_folders(tmp_path):
    for k, name in enumerate(["vocals/a.wav", "vocals/b.flac", "bass/a.wav"]):
        write(tmp_path / name, sound(k))
    found = open_dataset(tmp_path)
    assert found.kind == "msst-2"
    assert titles(found) == ["bass/a.wav", "vocals/a.wav", "vocals/b.flac"]
    assert [track.stems for track in found.tracks] == [("bass",), ("vocals",), ("vocals",)]
    assert found.mixing == "random"
    with pytest.raises(UsageError, match="for training only: its files are stems of unrelated songs"):
        found.require_songs()


@pytest.mark.parametrize("column", ["instrum", "type"])
def test_msst_csv(tmp_path, column):
    write(tmp_path / "deep" / "a.wav", sound(1))
    other = write(tmp_path / "b.wav", sound(2))
    listing = tmp_path / "list.csv"
    listing.write_text(f"{column},path\nvocals,deep/a.wav\ndrums,{other}\ndrums,{other}\n", encoding="utf-8-sig")
    found = open_dataset(listing)
    assert found.kind == "msst-3"
    assert [(track.stems, track.samples) for track in found.tracks] == [(("vocals",), 13_230), (("drums",), 13_230)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "columns none: expected instrum"),
        (b"a,b\n1,2\n", "columns 'a', 'b': expected instrum"),
        (b"instrum,path\nvocals\n", "line 2: expected a stem and a path"),
        (b"instrum,path\nvocals,a\0b\n", "line"),
        (b"instrum,path\n\xff\xfe,x\n", "UTF-8"),
        (b'instrum,path\n"vocals,x\n', "cannot be read as a CSV"),
        (b"instrum,path\n", "is no msst-3"),
    ],
)
def test_bad_csv(tmp_path, content, sentence):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        open_dataset(f"msst-3:{tmp_path / 'list.csv'}")


# -- words -------------------------------------------------------------------------------------------------


def test_a_plain_path_is_recognised(tmp_path):
    assert open_dataset(write_hq(tmp_path / "hq")).kind == "musdb18hq"
    assert open_dataset(write_hq(tmp_path / "own", train=("X",))).kind == "folder"  # no track of MUSDB18
    assert open_dataset(write_hq(tmp_path / "MUSDB18-copy", train=("X",))).kind == "musdb18hq"
    assert open_dataset(f"auto:{tmp_path / 'hq'}").kind == "musdb18hq"
    odd = tmp_path / "with:colon"
    write_song(odd / "song")
    assert open_dataset(odd).kind == "folder"


@pytest.mark.parametrize(
    ("spec", "subset", "sentence"),
    [
        ("musdb18hk:{}", None, "no kind of data set called 'musdb18hk': did you mean musdb18hq?"),
        ("nonsense:x", None, "called 'nonsense': expected folder, msst-1"),
        ("musdb18hq:{}/nowhere", None, "does not exist: expected train/NAME/"),
        ("{}/nowhere", None, "does not exist: expected the folder of a data set"),
        ("musdb18:{}", None, r"is no musdb18: looked for train/NAME.stem.mp4 .* found 2 folders \(test, train\)"),
        ("folder:{}/train/A/drums.wav", None, "found a .wav file"),
        ("{}/train/A", None, "no kind of data set is recognised"),
        ("{}/empty", None, "no kind of data set is recognised in .*/empty: found an empty folder; name the kind"),
        ("musdb18hq:{}", "tset", "musdb18hq has no subset 'tset': it has train, valid, test; did you mean test"),
        ("msst-1:{}/train", "test", "msst-1 has no subset 'test': it has none"),
        ("musdb18hq:{}", "", "has no subset ''"),
    ],
)
def test_wrong_words(tmp_path, spec, subset, sentence):
    write_hq(tmp_path)
    if "empty" in spec:
        (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=sentence):
        open_dataset(spec.format(tmp_path), subset)


def test_tracks_by_name(tmp_path):
    found = open_dataset(write_hq(tmp_path, test=("A", "B")))
    with pytest.raises(UsageError, match="has 2 tracks called 'A'"):
        found.track("A")
    with pytest.raises(UsageError, match="has no tracks called 'tset/B'; did you mean 'test/B'"):
        found.track("tset/B")


def test_kinds_are_registered_once():
    assert {"musdb18", "musdb18hq", "musdb18-7s", "folder", "msst-1", "msst-2", "msst-3", "msst-4"} <= set(kinds())
    with pytest.raises(ValueError, match="two kinds"):
        dataset("folder", sought="")(lambda root: [])


# -- hostile folders ---------------------------------------------------------------------------------------


def test_links_that_lead_in_circles(tmp_path):
    song = write_song(tmp_path / "song")
    (tmp_path / "up").symlink_to("..")
    (tmp_path / "self").symlink_to("self")
    (song / "other").symlink_to("..")
    (song / "loop.wav").symlink_to("loop.wav")
    (song / "gone.wav").symlink_to("nowhere")
    found = open_dataset(f"folder:{tmp_path}")
    assert titles(found) == ["song"]
    (track,) = found.tracks
    assert set(track.stems) == {*STEMS, "loop", "gone"}
    with pytest.raises(AudioError, match=r"loop\.wav|gone\.wav"):
        _ = track.samples


def test_names_of_any_length_and_bytes(tmp_path):
    long = write_song(tmp_path / ("é" * 120))
    write(long / f"{'x' * 250}.wav", sound(1))
    odd = os.fsencode(tmp_path) + b"/\xff\xfe\n\x1b[31m"
    write_song(tmp_path / "plain").rename(os.fsdecode(odd))
    found = open_dataset(f"folder:{tmp_path}")
    assert len(found.tracks) == 2
    for track in found.tracks:
        assert track.read("mixture", 0, 10).shape == (2, 10)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    write_song(tmp_path / "song")
    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
        open_dataset(f"folder:{tmp_path}")


def test_a_folder_with_a_sounds_name_is_no_sound(tmp_path):
    song = write_song(tmp_path / "song")
    (song / "synth.wav").mkdir()
    (track,) = open_dataset(f"folder:{tmp_path}").tracks
    assert "synth" not in track.stems


def test_words_that_stand_for_a_folder(tmp_path, monkeypatch):
    """A kind may make its folder on asking: the band renders so many hours into the cache."""
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path))
    monkeypatch.setattr("iseparate.data.datasets.synthetic._CACHED_SONG_SECONDS", 2.0)
    data = open_dataset("synthetic:0.0001@3")
    assert data.root.is_relative_to(tmp_path)
    assert data.stems == ("bass", "drums", "other", "vocals")
    with pytest.raises(UsageError, match="HOURS@SEED"):
        open_dataset("synthetic:nowhere")
