from __future__ import annotations

import hashlib
import json

import pytest

from iseparate.engine.manifest import Manifest, StoredStem, file_sha256, intact_stems, read_manifest


def stored(path, folder):
    data = path.read_bytes()
    return StoredStem(
        file=path.relative_to(folder).as_posix(),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        peak_dbfs=-1.0,
        rms_dbfs=None,
    )


@pytest.fixture
def result(tmp_path):
    """Two stems, their paths and their manifest."""
    paths = {name: tmp_path / f"{name}.wav" for name in ("vocals", "drums")}
    for name, path in paths.items():
        path.write_bytes(name.encode() * 100)
    manifest = Manifest(
        song="ソング.mp3",
        song_sha256="ab" * 32,
        model="toy",
        weights_sha256="cd" * 32,
        settings={"overlap": 0.25, "seed": None},
        versions={"python": "3"},
        sample_rate_hz=44100,
        channels=2,
        samples=10,
        gain_db=-1.5,
        null_db=None,
        notes=["A note."],
        created="2022-01-01T00:00:00+00:00",
        seconds=1.0,
        stems={name: stored(path, tmp_path) for name, path in paths.items()},
    )
    return manifest, paths


SAME = {"song_sha256": "ab" * 32, "model": "toy", "settings": {"overlap": 0.25, "seed": None}}


def test_a_manifest_comes_back_as_it_was_written(result, tmp_path):
    manifest, _ = result
    manifest.write(tmp_path / "m.json")
    assert read_manifest(tmp_path / "m.json") == manifest
    assert "ソング" in (tmp_path / "m.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"stems": {"a": 3}}', "\x00\xff", "[" * 100_000]
)
def test_what_is_no_manifest_reads_as_none(tmp_path, text):
    (tmp_path / "m.json").write_text(text, encoding="latin-1")
    assert read_manifest(tmp_path / "m.json") is None


def test_no_file_a_folder_and_a_later_format_read_as_none(result, tmp_path):
    assert read_manifest(tmp_path / "nothing.json") is None
    assert read_manifest(tmp_path) is None
    later = result[0].model_dump() | {"format": 2}
    (tmp_path / "m.json").write_text(json.dumps(later))
    assert read_manifest(tmp_path / "m.json") is None


def test_whole_stems_are_intact(result, tmp_path):
    manifest, paths = result
    assert set(intact_stems(manifest, tmp_path, paths)) == {"vocals", "drums"}
    # Those that nobody asks for now are kept where they are.
    assert set(intact_stems(manifest, tmp_path, {"drums": paths["drums"]})) == {"vocals", "drums"}


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "replace by a folder"])
def test_a_damaged_stem_is_not(result, tmp_path, harm):
    manifest, paths = result
    path = paths["vocals"]
    data = bytearray(path.read_bytes())
    path.unlink()
    if harm == "flip":
        data[50] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[:-1])
    elif harm == "replace by a folder":
        path.mkdir()
    assert set(intact_stems(manifest, tmp_path, paths)) == {"drums"}


@pytest.mark.parametrize("change", [{"song_sha256": "ef" * 32}, {"model": "other"}, {"settings": {"overlap": 0.5}}])
def test_what_was_made_otherwise_is_not(result, tmp_path, change):
    manifest, _ = result
    assert manifest.describes(SAME)
    assert not manifest.describes(SAME | change)


def test_stems_elsewhere_or_unknown_are_not(result, tmp_path):
    manifest, _ = result
    elsewhere = {"vocals": tmp_path / "x" / "vocals.wav", "bass": tmp_path / "bass.wav"}
    assert set(intact_stems(manifest, tmp_path, elsewhere)) == {"drums"}


def test_the_hash_is_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
