"""From a file to its stems, whole, with networks whose answer is known."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict

import numpy as np
import pytest
import soundfile
import torch
from toy_models import (
    RATE,
    Bag,
    Fixed,
    FrameMeans,
    Loudness,
    SegmentMean,
    Shares,
    decibels,
    noise,
    one_pass,
    read_sound,
    separator_of,
    write_song,
)

from iseparate.audio.encode import Encoder
from iseparate.audio.excerpt import Excerpt
from iseparate.engine.manifest import read_manifest
from iseparate.engine.separator import Separator
from iseparate.errors import AudioError, AudioFormatError, UnknownModelError, UnknownStemError, UsageError
from iseparate.models.spleeter import Config, Spleeter
from iseparate.types import Audio
from iseparate.weights.load import Weights, write_weights


@pytest.fixture
def song(tmp_path):
    return write_song(tmp_path / "music" / "song.wav", noise(30_000), subtype="PCM_16")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def spleeter_file(tmp_path_factory):
    """A tiny Spleeter, mixture-consistent, in our own format."""
    torch.manual_seed(0)
    config = Config(**{**vars(Config.tiny()), "mask_extension": "average"})
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_weights(path, Weights("spleeter", asdict(config), Spleeter(config).state_dict()))
    return path


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# -- the whole path -----------------------------------------------------------------------------------------


def test_a_weights_file_separates_a_song(spleeter_file, song, out):
    separator = Separator(spleeter_file, device="cpu", backend="eager")
    assert separator.stems == ("vocals", "accompaniment")
    (result,) = separator.separate_to_files(song, out, bit_depth="32f")
    assert result.status == "done"
    assert tree(out) == ["tiny/song/accompaniment.wav", "tiny/song/iseparate.json", "tiny/song/vocals.wav"]
    mix, stems = read_sound(song), separator.separate(song)
    assert np.array_equal(stems["vocals"], read_sound(result.files["vocals"]))
    assert decibels(sum(stems.values()) - mix, mix) <= -90
    assert -40 < decibels(stems["vocals"], mix) < -1
    assert result.manifest.null_db <= -90
    assert result.song_seconds == pytest.approx(30_000 / RATE)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_keep_rate_channels_and_length_and_sum_to_the_song(spleeter_file, tmp_path, rate, channels):
    mix = noise(rate // 12 + 1, channels)
    song = write_song(tmp_path / "a.wav", mix, rate)
    separator = Separator(spleeter_file, device="cpu", backend="eager")
    (result,) = separator.separate_to_files(song, tmp_path / "out")
    found = [read_sound(path) for path in result.files.values()]
    assert all(stem.shape == mix.shape for stem in found)
    assert all(soundfile.info(path).samplerate == rate for path in result.files.values())
    assert decibels(sum(found) - mix, mix) <= -90
    assert result.manifest.null_db <= -90


def test_surround_stays_surround(spleeter_file, tmp_path):
    mix, layout = noise(9000, 6), ("FL", "FR", "FC", "LFE", "BL", "BR")
    song = tmp_path / "film.wav"
    with Encoder(song, format="wav", sample_rate=48000, channels=6, bit_depth="32f", layout=layout) as encoder:
        encoder.write(mix)
    separator = Separator(spleeter_file, device="cpu", backend="eager")
    (result,) = separator.separate_to_files(song, tmp_path / "out")
    vocals, rest = (read_sound(path) for path in result.files.values())
    assert decibels(vocals + rest - mix, mix) <= -90
    assert not vocals[3].any()
    assert np.array_equal(rest[3], mix[3])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_network_that_needs_the_whole_song_gets_its_statistics(tmp_path, batch_size):
    mix = noise(40_000) + np.float32(0.05)
    song = write_song(tmp_path / "a.wav", mix)
    separator = separator_of(Loudness(), segment_seconds=0.1, batch_size=batch_size)
    expected = one_pass(Loudness(), mix)
    for given in (song, Audio(mix, RATE)):
        stems = separator.separate(given)
        assert np.abs(np.stack(list(stems.values())) - expected).max() < 1e-5


def test_files_and_arrays_give_the_same(song):
    separator = separator_of(SegmentMean())
    by_file, by_array = separator.separate(song), separator.separate(read_sound(song), RATE)
    assert by_file.sample_rate == by_array.sample_rate == RATE
    assert all(np.array_equal(by_file[name], by_array[name]) for name in by_file)


def test_an_excerpt_is_separated_as_a_song(song):
    part = separator_of(Shares()).separate(song, excerpt=Excerpt(start_seconds=0.1, duration_seconds=0.2))
    assert np.abs(sum(part.values()) - read_sound(song)[:, 4410 : 4410 + 8820]).max() < 1e-6


# -- shifts -------------------------------------------------------------------------------------------------


def shifted(seed, shifts=3, model=SegmentMean):
    return separator_of(model(), shifts=shifts, seed=seed).separate(noise(3000), RATE)["vocals"]


def test_shifts_are_repeatable_and_seeded():
    assert np.array_equal(shifted(7), shifted(7))
    assert np.abs(shifted(7) - shifted(8)).max() > 1e-4
    assert np.abs(shifted(7) - shifted(7, shifts=0)).max() > 1e-4


@pytest.mark.parametrize("model", [Shares, lambda: Shares(segment_samples=500, context_samples=None)])
def test_shifts_do_not_harm_the_identity(model):
    assert np.abs(shifted(3, 4, model) - 0.75 * noise(3000)).max() < 1e-6


def test_shifts_of_a_network_in_frames_stay_on_its_grid():
    assert np.abs(shifted(3, 4, FrameMeans) - shifted(0, 0, FrameMeans)).max() < 1e-6


# -- what runs and what is written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("couples", "asked", "ran"),
    [
        ((), ["bass"], {"bass"}),
        ((("drums", "bass"),), ["bass"], {"drums", "bass"}),
        ((("drums", "bass"),), ["vocals"], {"vocals"}),
        ((), ["no_vocals"], {"vocals"}),
        ((), None, {"vocals", "drums", "bass", "other"}),
    ],
)
def test_exactly_the_networks_needed_are_run(song, out, couples, asked, ran):
    bag = Bag(couples=couples)
    (result,) = separator_of(bag).separate_to_files(song, out, stems=asked)
    assert {stem for stem, runs in bag.runs.items() if runs} == ran
    assert set(result.files) == set(asked or ran)
    assert {path.stem for path in out.rglob("*.wav")} == set(asked or ran)
    assert (result.manifest.null_db is None) == (len(ran) < 4)


def test_two_stems_sum_to_the_song(song, out):
    (result,) = separator_of(Fixed(0.4)).separate_to_files(song, out, two_stems="vocals", bit_depth="32f")
    assert set(result.files) == {"vocals", "no_vocals"}
    assert np.abs(sum(read_sound(p) for p in result.files.values()) - read_sound(song)).max() < 1e-6


def test_the_residual_is_written_on_request(song, out):
    separator = separator_of(Bag(), name="bag")
    (result,) = separator.separate_to_files(song, out, stems=["drums"], residual=True, bit_depth="32f")
    shares = 0.1 * sum(map(len, separator.stems))
    assert np.abs(read_sound(result.files["residual"]) - (1 - shares) * read_sound(song)).max() < 1e-6


def test_unknown_stems_are_told_before_any_work(song, out):
    with pytest.raises(UnknownStemError, match="did you mean vocals"):
        separator_of(Shares()).separate_to_files(song, out, stems=["vocal"])
    assert not out.exists()


# -- the manifest -------------------------------------------------------------------------------------------


def test_the_manifest_says_how_it_was_made(song, out):
    (result,) = separator_of(SegmentMean(), shifts=2, seed=5).separate_to_files(song, out, format="flac")
    manifest = json.loads((out / "toy" / "song" / "iseparate.json").read_text())
    assert manifest["song"] == "song.wav"
    assert manifest["model"] == "toy"
    assert manifest["samples"] == 30_000
    assert (manifest["sample_rate_hz"], manifest["channels"]) == (RATE, 2)
    assert manifest["settings"]["seed"] == 5
    assert manifest["settings"]["format"] == "flac"
    assert manifest["stems"].keys() == {"vocals", "accompaniment"}
    assert "torch" in manifest["versions"]
    assert manifest["null_db"] <= -90
    assert read_manifest(out / "toy" / "song" / "iseparate.json") == result.manifest


def test_the_gain_of_loud_stems_is_reported_and_shared(song, out):
    (result,) = separator_of(Fixed(8.0)).separate_to_files(song, out, bit_depth="24")
    gain = 10 ** (result.manifest.gain_db / 20)
    assert gain < 0.5
    assert np.abs(sum(read_sound(p) for p in result.files.values()) - gain * read_sound(song)).max() < 1e-6
    assert result.manifest.null_db <= -90


# -- skip existing ------------------------------------------------------------------------------------------


def contents(result):
    return {name: path.read_bytes() for name, path in result.files.items()}


@pytest.fixture(params=["wav", "flac"])
def again(request, song, out):
    """Separate the same song again, loud stems and all; options override."""

    def run(model=None, name="toy", options=None, weights_sha256="0" * 64, **asked):
        separator = separator_of(model or Fixed(8.0), name, weights_sha256, **(options or {}))
        (result,) = separator.separate_to_files(song, out, **{"format": request.param, "skip_existing": True} | asked)
        return result

    return run


def test_what_is_whole_is_skipped(again):
    first, second = again(), again()
    assert (first.status, second.status) == ("done", "skipped")
    assert second.files == first.files
    assert second.manifest == first.manifest


@pytest.mark.parametrize("harm", ["remove", "flip", "cut"])
@pytest.mark.parametrize("stem", ["vocals", "accompaniment"])
def test_only_the_damaged_stem_is_made_again_just_as_it_was(again, harm, stem):
    first = again()
    before, path = contents(first), first.files[stem]
    (other,) = (p for name, p in first.files.items() if name != stem)
    untouched = other.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-7] if harm == "cut" else data)
    second = again()
    assert second.status == "done"
    assert contents(second) == before
    assert other.stat().st_mtime_ns == untouched
    assert second.manifest.stems == first.manifest.stems
    assert second.manifest.gain_db == pytest.approx(first.manifest.gain_db, abs=1e-12)
    assert again().status == "skipped"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "toy", "weights_sha256": "1" * 64},
        {"options": {"shifts": 1}},
        {"options": {"overlap": 0.5}},
        {"bit_depth": "24"},
        {"clip": "clamp"},
        {"excerpt": Excerpt(duration_seconds=0.1)},
    ],
    ids=str,
)
def test_what_would_be_made_otherwise_is_made_anew(again, change):
    again()
    second = again(**change)
    assert second.status == "done"
    assert second.manifest.stems["vocals"].sha256 is not None
    assert again(**change).status == "skipped"


def test_another_song_of_that_name_is_made_anew(again, song):
    first = contents(again())
    write_song(song, noise(30_000, seed=9), subtype="PCM_16")
    second = again()
    assert second.status == "done"
    assert all(contents(second)[name] != first[name] for name in first)


def test_a_stem_asked_for_later_does_not_clip_at_the_first_ones_gain(song, out):
    """The accompaniment alone fits full scale nearly as it is; the vocals beside it need far less gain."""
    separator = separator_of(Fixed(8.0))
    soft = separator_of(Fixed(0.5)).separate(song)["vocals"]
    assert np.abs(soft).max() < 1
    (first,) = separator.separate_to_files(song, out, stems=["accompaniment"], skip_existing=True)
    (second,) = separator.separate_to_files(song, out, skip_existing=True)
    assert second.manifest.gain_db < first.manifest.gain_db
    assert second.manifest.notes == []
    total = sum(read_sound(path) for path in second.files.values())
    assert np.abs(total - 10 ** (second.manifest.gain_db / 20) * read_sound(song)).max() < 2**-14


def test_asking_for_less_keeps_what_is_known_of_the_rest(again):
    first = again()
    first.files["vocals"].write_bytes(b"harmed")
    again(stems=["vocals", "accompaniment"])
    assert again(stems=["vocals"]).status == "skipped"
    assert again().status == "skipped"


def test_a_broken_manifest_means_all_anew(again, out):
    again()
    (out / "toy" / "song" / "iseparate.json").write_text("{")
    assert again().status == "done"


# -- several songs ------------------------------------------------------------------------------------------


def test_a_broken_first_song_does_not_stop_the_second(tmp_path, out):
    folder = tmp_path / "music"
    write_song(folder / "b.wav", noise(5000))
    (folder / "a.mp3").write_text("not music")
    told = []
    results = separator_of(Shares()).separate_to_files(folder, out, on_result=told.append)
    assert [(r.song.name, r.status) for r in results] == [("a.mp3", "failed"), ("b.wav", "done")]
    assert "a.mp3" in results[0].error
    assert "\n" not in results[0].error
    assert told == results
    assert {path.split("/")[1] for path in tree(out)} == {"b"}


def test_a_song_that_breaks_off_midway_leaves_nothing(tmp_path, out):
    song = write_song(tmp_path / "a.flac", noise(400_000), subtype="PCM_16")
    song.write_bytes(song.read_bytes()[: song.stat().st_size // 2])
    (result,) = separator_of(Shares()).separate_to_files(song, out)
    assert result.status == "failed"
    assert not out.exists() or list(out.rglob("*")) == []


@pytest.mark.parametrize("jobs", [1, 3])
def test_same_named_songs_do_not_overwrite_each_other(tmp_path, out, jobs):
    songs = [
        write_song(tmp_path / str(i) / name, noise(2000 + i), subtype="PCM_16")
        for i, name in enumerate(["x.wav", "X.wav", "x.flac"])
    ]
    results = separator_of(Shares()).separate_to_files(songs, out, bit_depth="24", jobs=jobs)
    by_song = {result.song: result for result in results}
    assert [by_song[song].files["vocals"].parent.name for song in songs] == ["x", "X (2)", "x (3)"]
    assert [read_sound(by_song[song].files["vocals"]).shape[1] for song in songs] == [2000, 2001, 2002]


@pytest.mark.parametrize("template", ["{stem}.{ext}", "{title}/{stem}.{ext}"])
def test_a_template_that_does_not_tell_songs_apart_fails_the_second(tmp_path, out, template):
    songs = [tmp_path / "a.flac", tmp_path / "b.flac"]
    for i, song in enumerate(songs):
        tags = {"title": "Intro"}
        with Encoder(song, format="flac", sample_rate=RATE, channels=2, tags=tags) as encoder:
            encoder.write(noise(2000 + i))
    first, second = separator_of(Shares()).separate_to_files(songs, out, filename=template)
    assert (first.status, second.status) == ("done", "failed")
    assert "would overwrite" in second.error
    assert "\n" not in second.error
    assert read_sound(first.files["vocals"]).shape[1] == 2000


def test_hostile_titles_stay_in_the_folder(tmp_path, out):
    songs = []
    for i, title in enumerate(["../../x", "/etc/passwd", "CON", "y" * 300, "🎸", "a\\b:c", ".."]):
        songs.append(tmp_path / "in" / f"{i}.flac")
        songs[-1].parent.mkdir(exist_ok=True)
        tags = {"title": title, "artist": title}
        with Encoder(songs[-1], format="flac", sample_rate=RATE, channels=2, tags=tags) as encoder:
            encoder.write(noise(100))
    before = set(tmp_path.rglob("*"))
    results = separator_of(Shares()).separate_to_files(songs, out, filename="{artist}/{title}-{stem}.{ext}")
    assert [result.status for result in results] == ["done"] * 7
    made = set(tmp_path.rglob("*")) - before
    assert all(path == out or out in path.parents for path in made)
    assert len([path for path in made if path.suffix in {".flac", ".wav"}]) == 14


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.wav", "世界 🎸.wav".encode(), b"-o.wav", b"{stem}.wav", b"a\nb.wav", b"....wav"]
)
def test_songs_of_any_name_can_be_separated(tmp_path, out, name):
    song = write_song(tmp_path / "x.wav", noise(1000))
    odd = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - bytes
    os.rename(song, odd)  # noqa: PTH104
    (result,) = separator_of(Shares()).separate_to_files(os.fsdecode(odd), out)
    assert (result.status, result.error) == ("done", None)
    assert all(path.is_file() for path in result.files.values())


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "a\0b.wav", "nowhere.wav", ""])
def test_songs_that_cannot_be_there_fail_in_words(tmp_path, out, song, name):
    first, second = separator_of(Shares()).separate_to_files([str(tmp_path / "in" / name), song], out)
    assert (first.status, second.status) == ("failed", "done")
    assert first.error
    assert "\n" not in first.error


def test_a_song_named_twice_is_separated_once(song, out):
    assert len(separator_of(Shares()).separate_to_files([song, str(song)], out)) == 1


def test_a_model_file_with_a_hostile_name_stays_in_the_folder(song, out):
    (result,) = separator_of(Shares(), name="..").separate_to_files(song, out)
    assert all(out in path.resolve().parents for path in result.files.values())


# -- stopping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_stopping_midway_leaves_nothing(tmp_path, out, error):
    song = write_song(tmp_path / "a.wav", noise(600_000))
    seen = []

    def stop(progress):
        seen.append(progress.done_seconds)
        if len(seen) == 2:
            raise error

    with pytest.raises(error):
        separator_of(Shares(segment_samples=RATE, context_samples=None)).separate_to_files(song, out, callback=stop)
    assert len(seen) == 2
    assert not out.exists()


def test_ctrl_c_with_several_jobs_ends_all_of_them(tmp_path, out):
    songs = [write_song(tmp_path / f"{i}.wav", noise(600_000)) for i in range(4)]
    before = threading.active_count()

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        separator_of(Shares(segment_samples=RATE)).separate_to_files(songs, out, jobs=2, callback=stop)
    assert threading.active_count() == before
    assert not out.exists() or tree(out) == []


def test_progress_rises_to_the_songs_length(tmp_path):
    song, seen = write_song(tmp_path / "a.wav", noise(600_000)), []
    separator_of(Shares(segment_samples=RATE)).separate(song, callback=seen.append)
    done = [progress.done_seconds for progress in seen]
    assert done == sorted(done)
    assert len(done) > 3
    assert done[-1] == seen[-1].total_seconds == pytest.approx(600_000 / RATE)


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "rate", "word"),
    [
        (np.zeros((2, 0), np.float32), RATE, r"\[2, 0\]"),
        (np.zeros((9, 10), np.float32), RATE, "1 to 8 channels"),
        (np.zeros((2, 3, 4), np.float32), RATE, r"\[2, 3, 4\]"),
        (np.zeros((2, 10), np.int16), RATE, "floating-point with full scale ±1; got int16"),
        (np.full((2, 10), np.nan), RATE, "NaN or infinity"),
        (np.full((2, 10), np.inf), RATE, "NaN or infinity"),
        (np.full((2, 10), 1e300), RATE, "NaN or infinity"),
    ],
)
def test_arrays_that_are_no_song_are_refused(samples, rate, word):
    with pytest.raises(AudioFormatError, match=word):
        separator_of(Shares()).separate(samples, rate)


@pytest.mark.parametrize("rate", [None, 0, 7999, 400_000, -44100])
def test_absurd_rates_are_refused(rate):
    with pytest.raises(UsageError, match="an array needs sample_rate="):
        separator_of(Shares()).separate(noise(10), rate)


def test_one_dimension_is_mono():
    stems = separator_of(Shares()).separate(noise(500)[0], RATE)
    assert stems["vocals"].shape == (1, 500)


def test_the_song_is_not_changed():
    song = noise(500)
    before = song.copy()
    stems = separator_of(Shares()).separate(song, RATE)
    for stem in stems.values():
        stem[:] = 0
    assert np.array_equal(song, before)


def test_a_missing_song_raises_where_there_is_only_one(tmp_path):
    with pytest.raises(AudioError, match="nowhere"):
        separator_of(Shares()).separate(tmp_path / "nowhere.wav")


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"shifts": -1}, "shifts"),
        ({"shifts": 1000}, "shifts"),
        ({"batch_size": 0}, "batch_size"),
        ({"overlap": 1}, "overlap"),
    ],
)
def test_options_out_of_range_are_refused(option, word):
    with pytest.raises(UsageError, match=word):
        separator_of(Shares(), **option)


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"format": "xyz"}, "xyz"),
        ({"jobs": 0}, "jobs"),
        ({"filename": "{x}"}, "unknown field"),
        ({"clip": "x"}, "clip"),
    ],
)
def test_options_that_no_song_can_have_are_refused_before_any_work(song, out, option, word):
    with pytest.raises(UsageError, match=word):
        separator_of(Shares()).separate_to_files(song, out, **option)
    assert not out.exists()


def test_an_unknown_model_is_told_with_the_nearest():
    with pytest.raises(UnknownModelError, match="spleeter-2stems"):
        Separator("spleeter-2stem", device="cpu")


def test_remaking_one_stem_keeps_the_others_in_the_manifest(tmp_path, out):
    song = write_song(tmp_path / "a.wav", noise(20_000))
    separator = separator_of(Shares())
    (whole,) = separator.separate_to_files(song, out)
    name = next(iter(whole.files))
    whole.files[name].write_bytes(b"damaged")
    (remade,) = separator.separate_to_files(song, out, stems=[name], skip_existing=True)
    assert remade.status == "done"
    assert remade.manifest.stems == whole.manifest.stems
    assert remade.manifest.null_db == whole.manifest.null_db
    assert [r.status for r in separator.separate_to_files(song, out, skip_existing=True)] == ["skipped"]


def test_a_fault_in_the_network_costs_one_song(tmp_path, out):
    class Fails(Shares):
        def separate_segment(self, mix, track=None):
            if mix.abs().max() > 0.9:
                raise RuntimeError("out of something")
            return super().separate_segment(mix, track)

    songs = [write_song(tmp_path / "a.wav", noise(9000) * 0 + 0.95), write_song(tmp_path / "b.wav", noise(9000) * 0.1)]
    results = separator_of(Fails()).separate_to_files(songs, out)
    assert [result.status for result in results] == ["failed", "done"]
    assert "out of something" in results[0].error


def test_new_stems_of_a_later_run_share_one_gain_with_the_earlier(tmp_path, out):
    song = write_song(tmp_path / "a.wav", noise(20_000) * 0 + 0.99)
    separator = separator_of(Shares())
    first_name, second_name = separator.stems[:2]
    separator.separate_to_files(song, out, stems=[first_name], skip_existing=True)
    (both,) = separator.separate_to_files(song, out, stems=[second_name], skip_existing=True)
    assert set(both.manifest.stems) == {first_name, second_name}
    (kept,) = separator.separate_to_files(song, out, stems=[first_name], skip_existing=True)
    assert kept.status == "skipped"


def test_a_disk_that_fails_to_be_read_costs_one_song(tmp_path, out, monkeypatch):
    songs = [write_song(tmp_path / f"{name}.wav", noise(9000)) for name in "ab"]
    hashed = iter([OSError(5, "Input/output error"), "ab" * 32])

    def sha256(path):
        outcome = next(hashed)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    monkeypatch.setattr("iseparate.engine.batch.file_sha256", sha256)
    results = separator_of(Shares()).separate_to_files(songs, out)
    assert [result.status for result in results] == ["failed", "done"]
    assert "Input/output error" in results[0].error


def test_a_song_of_the_batch_survives(tmp_path):
    separator = separator_of(Shares())
    folder = tmp_path / separator.ready.id
    folder.mkdir()
    song = write_song(folder / f"{separator.stems[0]}.wav", noise(9000))
    before = song.read_bytes()
    (result,) = separator.separate_to_files(song, tmp_path, filename="{stem}.{ext}")
    assert result.status == "failed"
    assert song.read_bytes() == before


def test_clamped_stems_claim_no_null(tmp_path, out):
    song = write_song(tmp_path / "a.wav", noise(9000) * 30)
    (result,) = separator_of(Shares()).separate_to_files(song, out, clip="clamp", bit_depth="32f")
    assert result.manifest.null_db is None
    assert any("clamped at full scale" in note for note in result.manifest.notes)


def test_another_songs_stems_are_not_replaced_silently(tmp_path, out):
    separator = separator_of(Shares())
    separator.separate_to_files(write_song(tmp_path / "a.wav", noise(9000)), out)
    (result,) = separator.separate_to_files(write_song(tmp_path / "a.wav", noise(8000)), out)
    assert any("another song" in note for note in result.manifest.notes)


def test_stems_among_songs_are_not_separated_again(tmp_path):
    song = write_song(tmp_path / "a.wav", noise(9000))
    separator = separator_of(Shares())
    separator.separate_to_files(song, tmp_path / "flat", filename="{track}-{stem}.{ext}")
    folder = tmp_path / "flat" / separator.ready.id
    write_song(folder / "new.wav", noise(9000))
    results = separator.separate_to_files(folder, tmp_path / "out")
    assert [result.song.name for result in results] == ["new.wav"]
