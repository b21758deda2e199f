from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseparate.engine.names import FIELDS, MAX_NAME_BYTES, Claims, Naming, safe_name, track_names
from iseparate.errors import OutputError, UsageError

NASTY = [
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "",
    "   ",
    "\0",
    "a\0b",
    "a/b\\c",
    "CON",
    "con.wav",
    "Nul.",
    "LPT1",
    "-rf",
    ".hidden",
    "x" * 300,
    "é" * 300,
    "😀" * 100,
    "line\nbreak\ttab\x1b[31m",
    "\u202egnp.exe",
    "C:\\Windows\\x",
    'a<b>c:d"e|f?g*h',
    "trailing. . .",
    "\udcff\udcfe",
    "~root",
    "$(reboot)",
    "{track}",
    "%s{0.__class__}",
]
ANY_TEXT = st.one_of(st.text(max_size=400), st.sampled_from(NASTY))


def is_harmless(name):
    return (
        name
        and name not in (".", "..")
        and not set(name) & set('<>:"/\\|?*\0')
        and not any(unicodedata.category(c)[0] == "C" for c in name)
        and len(name.encode()) <= MAX_NAME_BYTES + 1
        and name[0] not in ".-"
        and name[-1] not in ". "
        and not PureWindowsPath(name).is_reserved()
    )


@given(ANY_TEXT)
def test_any_text_becomes_a_harmless_name(text):
    assert is_harmless(safe_name(text)), safe_name(text)


@given(ANY_TEXT)
def test_a_safe_name_is_left_alone(text):
    assert safe_name(safe_name(text)) == safe_name(text)


@pytest.mark.parametrize("name", ["Ünïcode 世界", "01 - A & B (live) [2022]", "😀", "O'Neill", "a.b.c", "x,y;z+1=2"])
def test_ordinary_names_are_kept(name):
    assert safe_name(name) == name


def test_a_name_is_the_same_however_its_accents_are_spelt():
    decomposed = unicodedata.normalize("NFD", "Beyoncé")
    assert safe_name(decomposed) == safe_name("Beyoncé") == "Beyoncé"
    assert track_names([Path("a/Beyoncé.mp3"), Path(f"b/{decomposed}.mp3")]) == ["Beyoncé", "Beyoncé (2)"]


def test_a_long_name_keeps_its_ending():
    assert safe_name("x" * 300 + ".flac").endswith("x.flac")


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("template", ["{track}/{stem}.{ext}", "{artist}/{album}/{title} - {stem}.{ext}", "{stem}"])
def test_no_tag_leads_out_of_the_folder(tmp_path, template, text):
    naming = Naming(tmp_path, template, "toy")
    path = naming.stem_path(text, "vocals", "wav", {"title": text, "artist": text, "album": text})
    inside = Path(os.path.normpath(path)).relative_to(tmp_path)
    assert len(inside.parts) == template.count("/") + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@given(ANY_TEXT, ANY_TEXT)
def test_stems_of_one_song_never_share_a_path(track, title):
    for template in ("{title} - {stem}.{ext}", "{artist}{album}{track}{stem}", "{stem}/{track}.{ext}"):
        naming = Naming(Path("out"), template, "toy")
        stems = ("vocals", "drums", "bass", "no_vocals")
        paths = {naming.stem_path(track, stem, "wav", {"title": title}) for stem in stems}
        assert len(paths) == 4
        assert all(len(part.encode()) <= MAX_NAME_BYTES + 1 for path in paths for part in path.parts)


@given(st.lists(ANY_TEXT.filter(lambda t: t.strip("\0/. ")), max_size=6))
def test_songs_of_one_batch_never_share_a_folder(texts):
    songs = [
        Path("in") / str(i) / (text.replace("/", "_").replace("\0", "_") + ".mp3") for i, text in enumerate(texts * 2)
    ]
    naming = Naming(Path("out"), "{track}/{stem}.{ext}", "toy")
    paths = [naming.stem_path(name, "vocals", "wav", {}) for name in track_names(songs)]
    assert len({str(path).casefold() for path in paths}) == len(songs)


def test_same_named_songs_are_numbered_and_the_first_keeps_its_name():
    songs = [Path(p) for p in ("a/Song.mp3", "b/Song.flac", "c/song.mp3", "d/Song (2).mp3", "e/other.mp3")]
    assert track_names(songs) == ["Song", "Song (2)", "song (3)", "Song (2) (2)", "other"]


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{track}/{stem", "not valid"),
        ("{track}/{}.wav", "unknown field"),
        ("{track.__class__}/{stem}", "unknown field"),
        ("{track[0]}/{stem}", "unknown field"),
        ("{stem!r}", "plain fields only"),
        ("{stem:>100000000}", "plain fields only"),
        ("{singer}/{stem}", r"unknown field \{singer\}; there is \{track\}"),
        ("{track}.{ext}", "needs {stem}"),
        ("", "needs {stem}"),
        ("/abs/{stem}.{ext}", "leads out of the output folder"),
        ("../{stem}.{ext}", "leads out of the output folder"),
        ("x/../../{stem}", "leads out of the output folder"),
        ("y" * 250 + "{stem}.{ext}", "too long"),
    ],
)
def test_hostile_templates_are_refused_in_words(template, word):
    with pytest.raises(UsageError, match=word):
        Naming(Path("out"), template, "toy")


def test_every_field_can_be_used():
    template = "/".join(f"{{{field}}}" for field in FIELDS)
    path = Naming(Path("out"), template, "m").stem_path("t", "s", "e", {"title": "T", "artist": "A", "album": "B"})
    assert path == Path("out/t/s/e/m/T/A/B")


def test_a_missing_tag_is_the_tracks_name():
    assert Naming(Path("o"), "{artist}/{stem}", "m").stem_path("t", "s", "wav", {"artist": ""}) == Path("o/t/s")


def test_the_manifest_lies_in_the_songs_folder_or_beside_under_its_name():
    own, shared = Naming(Path("o"), "{track}/{stem}.wav", "m"), Naming(Path("o"), "{track}_{stem}.wav", "m")
    by_stem = Naming(Path("o"), "{artist}/{stem}/{track}.{ext}", "m")
    assert own.manifest_path("t", "wav", {}) == Path("o/t/iseparate.json")
    assert shared.manifest_path("t", "wav", {}) == Path("o/t.iseparate.json")
    assert by_stem.manifest_path("t", "wav", {"artist": "A/B"}) == Path("o/A_B/t.iseparate.json")


def test_a_song_of_the_batch_is_not_overwritten(tmp_path):
    song = tmp_path / "vocals.wav"
    song.touch()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="is a song of this batch"):
        Claims([song]).add(tmp_path / "other.wav", [tmp_path / "link" / "vocals.wav"])
