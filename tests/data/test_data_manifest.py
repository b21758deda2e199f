"""The manifest is a name for the data: the same for the same bytes, another for any other."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from small_data import sound, write, write_hq, write_song, write_stem_mp4

from iseparate.data import open_dataset
from iseparate.data.manifest import differences, make_manifest, read_manifest
from iseparate.errors import AudioError, OutputError, UsageError


def manifest_of(spec, **options):
    return make_manifest(open_dataset(spec), **options)


@pytest.fixture
def root(tmp_path):
    return write_hq(tmp_path / "hq")


def test_what_it_says(root):
    import hashlib

    manifest = manifest_of(f"musdb18hq:{root}")
    assert [track.title for track in manifest.tracks] == ["test/B", "train/A", "valid/Leaf - Summerghost"]
    track = manifest.tracks[2]
    assert (track.sample_rate_hz, track.channels, track.samples) == (44_100, 2, 13_230)
    assert [file.source for file in track.files] == ["bass", "drums", "mixture", "other", "vocals"]
    file = track.files[0]
    content = (root / file.path).read_bytes()
    assert file.path == "train/Leaf - Summerghost/bass.wav"
    assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_it_depends_on_the_data_alone(root, tmp_path):
    first = manifest_of(f"musdb18hq:{root}")
    moved = shutil.move(root, tmp_path / "elsewhere")
    again = manifest_of(f"musdb18hq:{moved}", jobs=3)
    assert again.text() == first.text()
    for path in moved.rglob("*.wav"):
        os.utime(path, (0, 0))
    assert manifest_of(f"musdb18hq:{moved}").total_sha256 == first.total_sha256


def test_any_change_changes_the_total(root):
    totals = {manifest_of(f"musdb18hq:{root}").total_sha256}
    path = root / "test/B/drums.wav"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    totals.add(manifest_of(f"musdb18hq:{root}").total_sha256)
    path.rename(path.with_name("vocals.wav"))
    totals.add(manifest_of(f"musdb18hq:{root}").total_sha256)
    (root / "test/B").rename(root / "test/C")
    totals.add(manifest_of(f"musdb18hq:{root}").total_sha256)
    assert len(totals) == 4


def test_there_and_back(root, tmp_path):
    manifest = manifest_of(f"musdb18hq:{root}")
    path = tmp_path / "m.json"
    manifest.write(path)
    assert read_manifest(path) == manifest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hq", "m.json"]
    assert list(differences(manifest, manifest)) == []


def test_differences_are_named(root):
    before = manifest_of(f"musdb18hq:{root}")
    write(root / "test/B/drums.wav", sound(77))
    write(root / "train/A/vocals.flac", sound(78))
    (root / "train/A/vocals.wav").unlink()
    shutil.rmtree(root / "train/Leaf - Summerghost")
    write_song(root / "test/new", seed=9, seconds=0.2)
    found = list(differences(before, manifest_of(f"musdb18hq:{root}")))
    assert len(found) == 5
    assert found[0].startswith("test/B: test/B/drums.wav (drums) has changed, from 52964 bytes of SHA-256 ")
    assert found[1] == "test/new is not in the manifest"
    assert found[2:4] == [
        "train/A: train/A/vocals.flac (vocals) is not in the manifest",
        "train/A: train/A/vocals.wav (vocals) is missing",
    ]
    assert found[4] == "valid/Leaf - Summerghost is missing"


def test_five_streams_are_one_file(tmp_path):
    write_stem_mp4(tmp_path / "test" / "a.stem.mp4")
    (track,) = manifest_of(f"musdb18:{tmp_path}").tracks
    assert [(file.source, file.stream) for file in track.files] == [
        ("bass", 2),
        ("drums", 1),
        ("mixture", 0),
        ("other", 3),
        ("vocals", 4),
    ]
    assert len({file.sha256 for file in track.files}) == 1


def test_names_that_are_no_text(tmp_path):
    write_song(tmp_path / "plain").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xffodd"))
    manifest = manifest_of(f"folder:{tmp_path}")
    assert manifest.tracks[0].name == "\\xffodd"
    manifest.write(tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == manifest


def test_a_file_that_cannot_be_read(root):
    (root / "test/B/drums.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"drums\.wav"):
        manifest_of(f"musdb18hq:{root}", jobs=2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not a manifest"),
        ("[]", "is not a manifest"),
        ("[" * 100_000, "is not a manifest"),
        ("{}", "is not a manifest"),
        ("\xff", "is not a manifest"),
    ],
)
def test_bad_manifests(tmp_path, content, sentence):
    path = tmp_path / "m.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=sentence):
        read_manifest(path)


def test_manifests_of_others(root, tmp_path):
    path = tmp_path / "m.json"
    with pytest.raises(UsageError, match="cannot be read"):
        read_manifest(path)
    table = manifest_of(f"musdb18hq:{root}").model_dump()
    path.write_text(json.dumps(table | {"format": 2}))
    with pytest.raises(UsageError, match="has the format 2: expected 1"):
        read_manifest(path)
    path.write_text(json.dumps(table | {"stems": ["x"]}))
    with pytest.raises(UsageError, match="was changed by hand"):
        read_manifest(path)


def test_where_nothing_can_be_written(root, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        manifest_of(f"musdb18hq:{root}").write(tmp_path / "no" / "where.json")


def test_wrong_words(root):
    with pytest.raises(UsageError, match="jobs is 1 or more"):
        manifest_of(f"musdb18hq:{root}", jobs=0)
