"""A song's files appear together, whole, or not at all."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from toy_models import RATE, noise, read_sound, write_song

from iseparate.audio.decode import Decoder
from iseparate.engine.manifest import Manifest
from iseparate.engine.outputs import StemFiles, Storage, needed_bytes
from iseparate.errors import OutputError, UsageError

SAMPLES = 20_000


def manifest(stems):
    return Manifest(
        song="s", song_sha256="", model="m", weights_sha256="", settings={}, versions={}, sample_rate_hz=RATE,
        channels=2, samples=SAMPLES, gain_db=0, null_db=None, notes=[], created="", seconds=0, stems=stems,
    )  # fmt: skip


@pytest.fixture
def info(tmp_path):
    with Decoder(write_song(tmp_path / "in" / "song.wav", noise(SAMPLES), subtype="PCM_16")) as decoder:
        return decoder.info


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "toy" / "song"


def open_files(out, info, storage=None, **options):
    paths = {name: out / f"{name}.wav" for name in ("vocals", "drums")}
    return StemFiles(paths, out, info, storage or Storage(), **options)


def write_all(files, stems, blocks=4):
    for part in np.array_split(np.arange(SAMPLES), blocks):
        files.write({name: stem[:, part] for name, stem in stems.items()})
    stored = files.finish()
    files.commit(manifest(stored), files._folder / "iseparate.json")
    return stored


@pytest.fixture
def stems():
    return {"vocals": noise(SAMPLES, seed=1), "drums": noise(SAMPLES, seed=2)}


@pytest.fixture
def loud():
    """They sum to a song within full scale, but one of them is beyond it."""
    song = noise(SAMPLES, seed=3)
    return {"vocals": 3 * song, "drums": -2 * song}


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@contextmanager
def largest_file(size_bytes):
    """A disk on which no file can grow further than this; Python ignores the signal, so writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


STORAGES = [Storage(), Storage(clip="clamp"), Storage(bit_depth="32f")]


@pytest.mark.parametrize("storage", STORAGES, ids=["spooled", "direct", "float"])
def test_files_appear_only_when_all_is_there(out, info, stems, storage):
    with open_files(out, info, storage) as files:
        files.write(stems)
        stored = files.finish()
        assert [name for name in tree(out) if not name.startswith(".")] == []
        files.commit(manifest(stored), out / "iseparate.json")
        assert {"vocals.wav", "drums.wav", "iseparate.json"} <= set(tree(out))
    assert tree(out) == ["drums.wav", "iseparate.json", "vocals.wav"]
    for name, stem in stems.items():
        assert np.abs(read_sound(out / f"{name}.wav") - stem).max() <= 2**-15


@pytest.mark.parametrize("storage", STORAGES, ids=["spooled", "direct", "float"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("when", ["before", "midway", "at the end"])
def test_a_failure_leaves_no_trace(tmp_path, out, info, stems, storage, error, when):
    def fail():
        with open_files(out, info, storage) as files:
            if when != "before":
                files.write(stems)
            if when == "at the end":
                files.finish()
            raise error

    before = tree(tmp_path)
    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == before


def test_a_failure_leaves_earlier_files_alone(out, info, stems):
    write_song(out / "vocals.wav", noise(10))
    (out / "mine.txt").write_text("mine")
    before = (out / "vocals.wav").read_bytes()

    def fail():
        with open_files(out, info) as files:
            files.write(stems)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert tree(out) == ["mine.txt", "vocals.wav"]
    assert (out / "vocals.wav").read_bytes() == before


def test_a_killed_process_leaves_nothing_under_a_final_name_and_the_next_one_cleans(tmp_path, out, info, stems):
    program = f"""
        import os, signal
        from pathlib import Path
        import numpy as np
        from iseparate.audio.decode import probe
        from iseparate.engine.outputs import StemFiles, Storage
        out = Path({str(out)!r})
        info = probe({str(tmp_path / "in" / "song.wav")!r})
        with StemFiles({{"vocals": out / "vocals.wav", "drums": out / "drums.wav"}}, out, info, Storage()) as files:
            block = np.zeros((2, 100_000), np.float32)
            files.write({{"vocals": block, "drums": block}})
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [name for name in tree(out) if not name.startswith(".iseparate-partial-")] == []
    assert len(list(out.rglob("*.spool"))) == 2
    with open_files(out, info) as files:
        assert len(list(out.iterdir())) == 1
        write_all(files, stems)
    assert tree(out) == ["drums.wav", "iseparate.json", "vocals.wav"]


def test_a_run_in_progress_is_not_cleaned_away(out, info, stems):
    with open_files(out, info) as first:
        first.write(stems)
        with open_files(out, info) as second:
            write_all(second, stems)
        first.commit(manifest(first.finish()), out / "iseparate.json")
    assert tree(out) == ["drums.wav", "iseparate.json", "vocals.wav"]


@pytest.mark.parametrize("storage", STORAGES, ids=["spooled", "direct", "float"])
def test_a_disk_that_fills_while_the_song_comes_leaves_no_trace(tmp_path, out, info, stems, storage):
    before = tree(tmp_path)
    with (
        pytest.raises(OutputError, match=r"cannot be written.*free"),
        largest_file(20_000),
        open_files(out, info, storage) as files,
    ):
        write_all(files, stems)
    assert tree(tmp_path) == before


def test_a_disk_that_fills_while_the_spool_is_encoded_leaves_no_trace(tmp_path, out, info, stems):
    before = tree(tmp_path)

    def fill():
        with open_files(out, info) as files:
            files.write(stems)
            with largest_file(20_000):
                files.finish()

    with pytest.raises(OutputError, match="cannot be written") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_a_disk_that_fills_at_the_manifest_leaves_no_trace(tmp_path, out, info, stems):
    before = tree(tmp_path)

    def fill():
        with open_files(out, info) as files:
            files.write(stems)
            stored = files.finish()
            with largest_file(10):
                files.commit(manifest(stored), out / "iseparate.json")

    with pytest.raises(OutputError, match="cannot be written"):
        fill()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("blocked", ["out", "out/toy", "out/toy/song"])
def test_a_file_where_a_folder_should_be_is_told(tmp_path, out, info, blocked):
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("in the way")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"cannot be written to .*song \(.*\): expected a writable place"):
        open_files(out, info).__enter__()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("taken", ["vocals.wav", "drums.wav"])
def test_a_folder_where_a_stem_should_be_is_told_before_the_work(tmp_path, out, info, taken):
    (out / taken).mkdir(parents=True)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=rf"{taken} is a folder, and a stem should go there"):
        open_files(out, info).__enter__()
    assert tree(tmp_path) == before


def test_too_little_space_is_told_before_the_work(tmp_path, out, info, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5_000_000))
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"has 5 MB free and the stems need about \d+ MB"):
        open_files(out, info, expected_samples=10 * RATE).__enter__()
    assert tree(tmp_path) == before


def test_the_space_foretold_is_enough_and_not_absurd(out, info, stems):
    """Measured at its highest: while the last spool is encoded."""
    used = []
    with open_files(out, info) as files:
        files.write(stems)
        stored = files.finish()
        used.append(sum(path.stat().st_size for path in out.rglob("*")))
        files.commit(manifest(stored), out / "iseparate.json")
    spools = 2 * SAMPLES * 2 * 4
    foretold = needed_bytes(Storage().plan(info), info, SAMPLES, 2, spooled=True)
    assert max(*used, spools + SAMPLES * 2 * 2) <= foretold < spools * 2 + (9 << 20)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_one_gain_for_all_so_that_they_still_sum_to_the_song(out, info, loud, format):
    with open_files(out, info, Storage(format, "24")) as files:
        stored = write_all(files, loud)
        gain = files.gain
    peak = np.abs(loud["vocals"]).max()
    assert gain == pytest.approx(1 / peak)
    assert stored["vocals"].peak_dbfs == pytest.approx(0, abs=0.01)
    found = sum(read_sound(out / f"{name}.wav") for name in loud)
    assert np.abs(found - gain * sum(loud.values())).max() < 3 * 2**-23


def test_stems_within_full_scale_are_left_alone(out, info, stems):
    with open_files(out, info) as files:
        write_all(files, stems)
        assert files.gain == 1
        assert files.notes == []


def test_clamp_cuts_off_and_says_so(out, info, loud):
    with open_files(out, info, Storage(bit_depth="24", clip="clamp")) as files:
        stored = write_all(files, loud)
        assert files.gain == 1
    assert np.abs(read_sound(out / "vocals.wav") - loud["vocals"].clip(-1, 1)).max() < 2**-22
    assert stored["vocals"].peak_dbfs == 0


@pytest.mark.parametrize("clip", ["rescale", "none"])
def test_float_output_keeps_what_is_beyond_full_scale(out, info, loud, clip):
    with open_files(out, info, Storage(bit_depth="32f", clip=clip)) as files:
        stored = write_all(files, loud)
        assert files.gain == 1
    assert np.array_equal(read_sound(out / "vocals.wav"), loud["vocals"])
    assert stored["vocals"].peak_dbfs == pytest.approx(20 * np.log10(np.abs(loud["vocals"]).max()), abs=0.01)


def test_without_a_gain_whole_numbers_are_clamped_and_counted(out, info, loud):
    with open_files(out, info, Storage(clip="none")) as files:
        write_all(files, loud)
        count = int((np.abs(loud["vocals"]) > 1).sum())
        assert f"{count} samples of vocals were clamped at full scale." in files.notes


def test_a_gain_from_before_is_taken_over(out, info, stems):
    with open_files(out, info, Storage(bit_depth="32f"), gain=0.25) as files:
        stored = write_all(files, stems)
    assert np.array_equal(read_sound(out / "drums.wav"), stems["drums"] * np.float32(0.25))
    assert stored["drums"].peak_dbfs == pytest.approx(20 * np.log10(np.abs(stems["drums"]).max() / 4), abs=0.01)


def test_levels_are_the_files_own(out, info, stems):
    with open_files(out, info, Storage(bit_depth="32f")) as files:
        stored = write_all(files, stems, blocks=7)
    sound = read_sound(out / "vocals.wav").astype(np.float64)
    assert stored["vocals"].peak_dbfs == pytest.approx(20 * np.log10(np.abs(sound).max()), abs=0.01)
    assert stored["vocals"].rms_dbfs == pytest.approx(10 * np.log10((sound**2).mean()), abs=0.01)


def test_silence_has_no_level(out, info):
    silent = {name: np.zeros((2, SAMPLES), np.float32) for name in ("vocals", "drums")}
    with open_files(out, info) as files:
        stored = write_all(files, silent)
    assert stored["vocals"].peak_dbfs is None
    assert stored["vocals"].rms_dbfs is None


@pytest.mark.parametrize("storage", STORAGES, ids=["spooled", "direct", "float"])
def test_a_network_that_yields_no_numbers_is_an_error(tmp_path, out, info, stems, storage):
    before = tree(tmp_path)
    stems["drums"][0, 777] = np.nan
    with pytest.raises(OutputError, match="not numbers"), open_files(out, info, storage) as files:
        write_all(files, stems)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("storage", "word"),
    [(Storage("xyz"), "xyz"), (Storage(bit_depth="12"), "12"), (Storage(clip="squash"), "clip is one of rescale")],
)
def test_a_storage_that_cannot_be_is_refused(storage, word):
    with pytest.raises(UsageError, match=word):
        storage.check()


@pytest.mark.parametrize(
    ("subtype", "depth"), [("PCM_U8", "16"), ("PCM_16", "16"), ("PCM_24", "24"), ("PCM_32", "32f"), ("FLOAT", "32f")]
)
def test_the_songs_own_depth_is_the_default(tmp_path, subtype, depth):
    with Decoder(write_song(tmp_path / "song.wav", noise(100), subtype=subtype)) as decoder:
        assert Storage().plan(decoder.info).bit_depth == depth


def test_a_hidden_folder_that_is_somebody_elses_is_left(out, info, stems):
    """No lock in it: it may be a second old, or no work of ours."""
    foreign = Path(out / ".iseparate-partial-0")
    foreign.mkdir(parents=True)
    with open_files(out, info) as files:
        write_all(files, stems)
    assert foreign.is_dir()
