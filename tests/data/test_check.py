"""Every kind of fault is found, named once, and none is found where there is none."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest
from small_data import RATE, STEMS, sound, write, write_coded, write_hq, write_song, write_stem_mp4

from iseparate.data import open_dataset
from iseparate.data.check import CODES, check_dataset
from iseparate.errors import UsageError


def check(spec, **options):
    return check_dataset(open_dataset(spec), **options)


def codes(report):
    return sorted((finding.code, finding.track, finding.source) for finding in report.findings)


@pytest.fixture
def song(tmp_path) -> Path:
    """One song of a MUSDB18-HQ; what else the set lacks is remarked on each time."""
    return write_song(tmp_path / "test" / "song")


def found_in(song: Path, **options):
    report = check(f"musdb18hq:{song.parents[1]}", **options)
    return [finding for finding in report.findings if finding.code != "incomplete-set"]


def only(findings):
    (finding,) = findings
    return finding


def test_a_sound_data_set_has_no_fault(tmp_path):
    report = check(f"musdb18hq:{write_hq(tmp_path)}")
    assert report.of_level("fault") == []
    assert codes(report) == [("incomplete-set", "", "")] * 3
    assert [track.title for track in report.tracks] == ["train/A", "valid/Leaf - Summerghost", "test/B"]
    assert all(-110 < track.residual_db < -60 for track in report.tracks)  # rounding to 16 bits


def test_measures(song):
    (track,) = check(f"musdb18hq:{song.parents[1]}").tracks
    truth = np.rint(sound(0) * 32768) / 32768  # the seed of the first stem
    drums = track.sources["drums"]
    assert drums.peak_dbfs == pytest.approx(20 * math.log10(np.abs(truth).max()), abs=0.01)
    assert drums.rms_dbfs == pytest.approx(10 * math.log10(np.square(truth).mean()), abs=0.01)
    assert (drums.sample_rate_hz, drums.channels, drums.samples) == (RATE, 2, 13_230)


def test_stem_files_are_judged_as_lossy(tmp_path):
    write_stem_mp4(tmp_path / "test" / "a.stem.mp4")
    report = check(f"musdb18:{tmp_path}")
    assert report.of_level("fault") == []
    assert -60 < report.tracks[0].residual_db < -20
    assert [f.code for f in check(f"musdb18:{tmp_path}", residual_limit_db=-60).of_level("fault")] == ["residual"]


def test_a_missing_stem(song):
    (song / "bass.wav").unlink()
    finding = only(found_in(song))
    assert (finding.code, finding.track, finding.source) == ("missing-stem", "test/song", "bass")
    assert "there is no bass; expected mixture, drums, bass, other, vocals" in finding.sentence


def test_an_empty_song(tmp_path, song):
    (tmp_path / "test" / "empty").mkdir()
    assert [finding.source for finding in found_in(song)] == ["mixture", *STEMS]


@pytest.mark.parametrize(
    "content", [b"", b"this is no sound at all, though its name says so\n" * 20, b"RIFF\0\0\0\0WAVE"]
)
def test_files_that_are_no_sound(song, content):
    (song / "drums.wav").write_bytes(content)
    finding = only(found_in(song))
    assert (finding.code, finding.source) == ("unreadable", "drums")
    assert "drums.wav" in finding.sentence


def test_a_truncated_file(song):
    path = song / "drums.wav"
    path.write_bytes(path.read_bytes()[:30_000])
    finding = only(found_in(song))
    assert (finding.code, finding.source) == ("unreadable", "drums")
    assert "incomplete" in finding.sentence


def test_numbers_that_are_none(song):
    part = sound(0)
    part[1, 9000] = np.nan
    write(song / "drums.wav", part, subtype="FLOAT")
    finding = only(found_in(song))
    assert (finding.code, finding.source) == ("unreadable", "drums")
    assert "NaN" in finding.sentence


def test_unequal_lengths(song, monkeypatch):
    monkeypatch.setattr("iseparate.data.check._BLOCK_SAMPLES", 1000)
    write(song / "drums.wav", sound(0)[:, :13_000])
    finding = only(found_in(song))
    assert finding.code == "small-length"
    assert "drums.wav has 13000 samples and " in finding.sentence
    write(song / "drums.wav", sound(0)[:, :6000])
    assert only(found_in(song)).code == "lengths"  # the residual is that of the common part


def test_unequal_rates_and_channels(song):
    write(song / "drums.wav", sound(0), rate=48_000)
    assert only(found_in(song)).code == "rates"
    write(song / "drums.wav", sound(0, channels=1))
    finding = only(found_in(song))
    assert finding.code == "channels"
    assert "drums.wav has 1 channels" in finding.sentence


@pytest.mark.parametrize(
    "change",
    [lambda x: np.roll(x, 3, axis=1), lambda x: 0.9 * x, lambda x: -x, lambda x: x[::-1], lambda x: sound(77)],
    ids=["shifted", "rescaled", "inverted", "swapped", "another"],
)
def test_stems_that_do_not_sum(song, change):
    write(song / "vocals.wav", np.ascontiguousarray(change(sound(3))))
    finding = only(found_in(song))
    assert finding.code == "residual"
    assert "expected below -50.0 dB" in finding.sentence
    assert found_in(song, residual_limit_db=10.0) == []


def test_the_residual_is_the_ratio_of_energies(song):
    write(song / "vocals.wav", 0.9 * sound(3), subtype="FLOAT")
    (track,) = check(f"musdb18hq:{song.parents[1]}").tracks
    mixture = sum(sound(k) for k in range(4))
    truth = 10 * math.log10(np.square(0.1 * sound(3)).sum() / np.square(mixture).sum())
    assert track.residual_db == pytest.approx(truth, abs=0.02)


def test_clipping_is_a_run_at_full_scale(song):
    part = sound(0)
    part[0, 100:102] = 1.0  # a peak
    part[1, 200:203] = -1.0
    part[1, 300:340] = 1.0
    write(song / "drums.wav", part)
    write(song / "mixture.wav", part + sound(1) + sound(2) + sound(3), subtype="FLOAT")
    findings = [finding for finding in found_in(song) if finding.source == "drums"]
    assert only(findings).code == "clipping"
    assert "in 2 places" in only(findings).sentence


def test_clipping_is_counted_across_blocks(monkeypatch, song):
    monkeypatch.setattr("iseparate.data.check._BLOCK_SAMPLES", 100)
    part = sound(0)
    part[0, 98:104] = 1.0
    part[0, 299:302] = 1.0
    write(song / "drums.wav", part)
    findings = [finding for finding in found_in(song, residual_limit_db=99.0) if finding.source == "drums"]
    assert "in 2 places" in only(findings).sentence


def test_silence(song):
    write(song / "bass.wav", 0 * sound(0))
    findings = found_in(song, residual_limit_db=99.0)
    assert only(findings).code == "silent-stem"
    for name in (*STEMS, "mixture"):
        write(song / f"{name}.wav", 0 * sound(0))
    report = found_in(song)
    assert sorted(finding.code for finding in report) == ["silent-mixture", *["silent-stem"] * 4]


def test_silence_all_over_where_the_mixture_is_the_sum(tmp_path):
    for name in ("vocals", "other"):
        write(tmp_path / "song" / f"{name}.wav", 0 * sound(0))
    assert codes(check(f"folder:{tmp_path}")) == [
        ("silent-mixture", "song", ""),
        ("silent-stem", "song", "other"),
        ("silent-stem", "song", "vocals"),
    ]
    write(tmp_path / "song" / "vocals.wav", sound(0))
    assert codes(check(f"folder:{tmp_path}")) == [("silent-stem", "song", "other")]


def test_a_stem_twice(song):
    write(song / "other.wav", sound(0))
    write(song / "mixture.wav", 2 * sound(0) + sound(1) + sound(3))
    finding = only(found_in(song))
    assert (finding.code, finding.source) == ("same-stem", "other")
    assert "the same as drums" in finding.sentence


def test_duplicates_within_and_between_subsets(tmp_path):
    root = write_hq(tmp_path, train=("A", "B"), test=("C", "D"))
    for name in ("drums", "vocals"):  # a copy in another format
        import soundfile

        samples, rate = soundfile.read(root / "train/A" / f"{name}.wav", dtype="int16")
        (root / "test/C" / f"{name}.wav").unlink()
        soundfile.write(root / "test/C" / f"{name}.flac", samples, rate)
    (root / "train/B/bass.wav").write_bytes((root / "train/A/bass.wav").read_bytes())
    report = check(f"musdb18hq:{root}", residual_limit_db=99.0)
    found = {finding.code: finding for finding in report.of_level("fault")}
    assert set(found) == {"leak", "duplicate"}
    assert found["leak"].track == "test/C"
    assert found["leak"].sentence.startswith("sample for sample the same as in train/A: drums, vocals; remove one")
    assert found["duplicate"].track == "train/B"


def test_silence_is_no_duplicate(tmp_path):
    root = write_hq(tmp_path, train=("A",), test=("C",))
    for path in ("train/A/bass.wav", "test/C/bass.wav"):
        write(root / path, 0 * sound(0))
    report = check(f"musdb18hq:{root}", residual_limit_db=99.0)
    assert report.of_level("fault") == []


def test_a_folder_of_ones_own(tmp_path):
    for k in range(3):
        write_song(tmp_path / f"song{k}", seed=k + 1, mixture=False)
    write_song(tmp_path / "instrumental", seed=8, stems=("drums", "bass"), mixture=False)
    (tmp_path / "notes").mkdir()
    report = check(f"folder:{tmp_path}")
    assert codes(report) == [("odd-stems", "instrumental", ""), ("passed-over", "", "")]
    assert "without other, vocals" in report.findings[1].sentence
    assert {track.residual_db for track in report.tracks} == {None}


def test_stems_of_several_files_are_summed(tmp_path):
    song = tmp_path / "song"
    for k in range(3):
        write(song / "other" / f"{k}.wav", sound(k))
    write(song / "drums.wav", sound(3, channels=2))
    write(song / "mixture.wav", sum(sound(k) for k in range(4)))
    report = check(f"folder:{tmp_path}")
    assert report.findings == ()
    assert report.tracks[0].residual_db < -60


def test_tracks_of_different_rates(tmp_path):
    for k, rate in enumerate((44_100, 48_000)):
        for j, stem in enumerate(("bass", "vocals")):
            write(tmp_path / f"song{k}" / f"{stem}.wav", sound(10 * k + j), rate=rate)
    assert codes(check(f"folder:{tmp_path}")) == [("mixed-rates", "", "")]


def test_loose_stems(tmp_path):
    write(tmp_path / "vocals" / "a.wav", sound(1))
    write(tmp_path / "vocals" / "b.wav", sound(1))
    write(tmp_path / "bass" / "c.wav", sound(2))
    (tmp_path / "bass" / "d.wav").write_text("nothing")
    assert codes(check(f"msst-2:{tmp_path}")) == [
        ("duplicate", "vocals/b.wav", ""),
        ("unreadable", "bass/d.wav", "bass"),
    ]


def test_several_at_a_time_find_the_same(tmp_path):
    root = write_hq(tmp_path, train=("A", "B", "C"), test=("D", "E"))
    (root / "train/B/bass.wav").unlink()
    shares: dict[str, float] = {}
    lock = threading.Lock()

    def progress(title: str, share: float) -> None:
        with lock:
            shares[title] = shares.get(title, 0) + share

    assert check(f"musdb18hq:{root}", jobs=3, progress=progress) == check(f"musdb18hq:{root}")
    assert shares == {f"{name}": pytest.approx(1.0) for name in ("train/A", "train/B", "train/C", "test/D", "test/E")}


def test_a_run_can_be_stopped(tmp_path):
    root = write_hq(tmp_path)

    def stop(title: str, share: float) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        check(f"musdb18hq:{root}", jobs=2, progress=stop)
    assert threading.active_count() == before


def test_memory_does_not_grow_with_the_song(tmp_path):
    import tracemalloc

    long = tmp_path / "song"
    samples = np.tile(sound(1, 1.0), 30)
    for stem in ("bass", "vocals"):
        write(long / f"{stem}.wav", samples)
    found = open_dataset(f"folder:{tmp_path}")
    tracemalloc.start()
    check_dataset(found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < samples.nbytes / 2  # a few MB of blocks, whatever the length


@pytest.mark.parametrize("options", [{"jobs": 0}, {"residual_limit_db": math.nan}])
def test_wrong_words(tmp_path, options):
    with pytest.raises(UsageError):
        check(f"musdb18hq:{write_hq(tmp_path)}", **options)


def test_mp3_stems_sum_well_enough_for_a_folder(tmp_path):
    parts = [sound(k, 1.0) for k in range(2)]
    for name, part in {"bass": parts[0], "vocals": parts[1], "mixture": parts[0] + parts[1]}.items():
        write_coded(tmp_path / "song" / f"{name}.mp3", [part], muxer="mp3", codec="libmp3lame", bit_rate=192_000)
    assert check(f"folder:{tmp_path}").of_level("fault") == []


def test_every_code_is_tested_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [code for code in CODES if f'"{code}"' not in text] == []
