"""Networks that need the whole song twice: equal to one pass, in constant memory, and nothing left on the disk."""

from __future__ import annotations

import errno
import io
import logging
import shutil
import tempfile
import time
import tracemalloc

import numpy as np
import pytest
import torch
from toy_models import RATE, Shares, SongMean, noise, one_pass, read_sound, separator_of, stream, write_song

from iseparate.audio.array import blocks_of
from iseparate.audio.decode import probe
from iseparate.audio.layout import unnamed_layout
from iseparate.audio.resample import resample
from iseparate.engine.outputs import Storage
from iseparate.engine.plan import Plan
from iseparate.engine.predict import predict
from iseparate.engine.request import resolve_outputs
from iseparate.engine.spool import Spool, SpooledFifo
from iseparate.engine.stream import SongStream
from iseparate.engine.two_pass import TwoPassLane
from iseparate.errors import OutputError, UsageError

SURROUND = ("FL", "FR", "FC", "LFE", "SL", "SR")


@pytest.fixture
def spools(monkeypatch):
    """Every temporary file that the engine makes."""
    files = []
    make = tempfile.TemporaryFile

    def recorded(**options):
        files.append(make(**options))
        return files[-1]

    monkeypatch.setattr("iseparate.engine.spool.tempfile.TemporaryFile", recorded)
    return files


def full_disk(monkeypatch, capacity_bytes):
    """A temporary folder that takes so much and no more."""

    class Full:
        def __init__(self, **options):
            self._file = io.BytesIO()
            self.closed = False

        def write(self, data):
            if self._file.tell() + memoryview(data).nbytes > capacity_bytes:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

        def seek(self, at):
            return self._file.seek(at)

        def readinto(self, buffer):
            return self._file.readinto(buffer)

        def close(self):
            self.closed = True
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("iseparate.engine.spool.tempfile.TemporaryFile", Full)


def short_plan(model, samples=500):
    return Plan.for_model(model.spec, segment_seconds=samples / model.spec.sample_rate)


# -- the result ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 49, 50, 51, 499, 500, 501, 549, 550, 551, 950, 3777])
@pytest.mark.parametrize(("block_samples", "batch_size"), [(1, 1), (333, 3), (100_000, 2)])
def test_two_passes_in_segments_are_one_pass(samples, block_samples, batch_size):
    model, song = SongMean(), noise(samples) + 0.1
    found = stream(model, song, plan=short_plan(model), block_samples=block_samples, batch_size=batch_size)
    assert found.shape == (2, 2, samples)
    assert np.abs(found - one_pass(model, song)).max() < 1e-5


def test_mono_and_surround_have_statistics_of_their_own():
    model, song = SongMean(), noise(3000, 6) + np.linspace(-0.3, 0.3, 6, dtype=np.float32)[:, None]
    found = stream(model, song, plan=short_plan(model), layout=SURROUND)
    for channels in ([0, 1], [4, 5], [2, 2]):
        expected = one_pass(model, song[channels])
        assert np.abs(found[:, channels] - expected).max() < 1e-5
    assert not found[:, 3].any(), "the LFE is not separated"
    mono = stream(model, song[:1], plan=short_plan(model))
    assert np.abs(mono - one_pass(model, song[[0, 0]])[:, :1]).max() < 1e-5


@pytest.mark.parametrize("rate", [22050, 48000])
def test_songs_of_another_rate(rate):
    model, song = SongMean(), noise(9001) * np.hanning(9001).astype(np.float32) + 0.1
    found = stream(model, song, plan=short_plan(model), rate=rate)
    stems = one_pass(model, resample(song, rate, RATE))
    expected = np.stack([resample(stem, RATE, rate, 9001) for stem in stems])
    assert np.abs(found - expected).max() < 1e-5


def test_a_residual_stem_gets_what_the_network_never_saw():
    model = SongMean(residual_stem="accompaniment")
    song = noise(4000, 6) + 0.1
    found = stream(model, song, plan=short_plan(model), layout=SURROUND)
    assert np.abs(found[1, 3] - song[3]).max() < 1e-6


def test_shifts_are_one_separation():
    song = noise(20_000) + 0.1
    unmoved = separator_of(SongMean()).separate(song, RATE)
    moved = separator_of(SongMean(), shifts=3, seed=1).separate(song, RATE)
    assert all(np.abs(unmoved[name] - moved[name]).max() < 1e-6 for name in unmoved)


# -- memory and disk ----------------------------------------------------------------------------------------


def peak_bytes(minutes, model):
    rate = model.spec.sample_rate
    block = noise(rate)
    tracemalloc.start()
    try:
        blocks = (block for _ in range(60 * minutes))
        pieces = SongStream(model, [Plan.for_model(model.spec)], rate, ("FL", "FR")).run(blocks)
        assert sum(piece.mix.shape[1] for piece in pieces) == 60 * minutes * rate
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("residual_stem", [None, "accompaniment"])
def test_memory_does_not_grow_with_the_song(residual_stem):
    model = SongMean(sample_rate=8000, residual_stem=residual_stem)
    short, long = (peak_bytes(minutes, model) for minutes in (1, 6))
    assert long < 1.02 * short + 50_000


def test_nothing_is_left_after_a_song(spools):
    stream(SongMean(), noise(5000), plan=short_plan(SongMean()))
    assert len(spools) == 2, "frames of one signal, and the song"
    assert all(file.closed for file in spools)


def test_nothing_is_left_when_the_generator_is_closed(spools):
    model = SongMean()
    blocks = SongStream(model, [short_plan(model)], RATE, ("FL", "FR")).run([noise(20_000)])
    next(blocks)
    assert not any(file.closed for file in spools)
    blocks.close()
    assert len(spools) == 2
    assert all(file.closed for file in spools)


@pytest.mark.parametrize("when", ["analyse", "synthesise"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_when_the_network_fails(spools, monkeypatch, when, error):
    work = getattr(SongMean, when)

    def failing(self, *args):
        yield next(work(self, *args))
        raise error

    monkeypatch.setattr(SongMean, when, failing)
    with pytest.raises(error):
        separator_of(SongMean(), segment_seconds=0.05).separate(noise(20_000), RATE)
    assert spools
    assert all(file.closed for file in spools)


def test_one_pass_needs_no_spool(spools):
    notes = []
    separator = separator_of(Shares(), notify=notes.append)
    separator.separate(noise(5000), RATE)
    assert (spools, notes) == ([], [])
    assert separator.spooled_bytes(RATE, ("FL", "FR"), 60) == 0


@pytest.mark.parametrize("capacity_bytes", [0, 100_000])
def test_a_full_disk_costs_one_song_and_leaves_nothing(tmp_path, monkeypatch, capacity_bytes):
    long = write_song(tmp_path / "long.wav", noise(60_000))
    short = write_song(tmp_path / "short.wav", noise(2_000))
    full_disk(monkeypatch, capacity_bytes)
    separator = separator_of(SongMean(), segment_seconds=0.1)
    results = separator.separate_to_files([long, short], tmp_path / "out")
    assert [result.status for result in results] == ["failed", "done" if capacity_bytes else "failed"]
    assert "temporary folder (No space left on device)" in results[0].error
    assert "set TMPDIR" in results[0].error
    assert "\n" not in results[0].error
    assert not (tmp_path / "out" / "toy" / "long").exists()


def test_too_little_space_is_told_before_any_work(tmp_path, monkeypatch):
    song = write_song(tmp_path / "song.wav", noise(60_000))
    monkeypatch.setattr("iseparate.engine.spool.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    monkeypatch.setattr(SongMean, "analyse", lambda *_: pytest.fail("it has begun"))
    separator = separator_of(SongMean())
    words = r"needs about 1 MB in the temporary folder .+, which has 0 MB free; free some space, or set TMPDIR"
    with pytest.raises(OutputError, match=words):
        separator.separate(song)
    with pytest.raises(OutputError, match=words):
        separator.separate(read_sound(song), RATE)


def test_no_temporary_folder_at_all_is_told_in_words(monkeypatch):
    def none_there():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("iseparate.engine.spool.tempfile.gettempdir", none_there)
    with pytest.raises(OutputError, match=r"there is no folder for temporary files .+; set TMPDIR to one"):
        separator_of(SongMean()).separate(noise(1000), RATE)


# -- announcements ------------------------------------------------------------------------------------------


def megabytes_told(note):
    return float(note.split(" MB")[0].split()[-1])


def test_the_space_is_announced_before_the_first_pass(monkeypatch):
    events = []
    analyse = SongMean.analyse
    monkeypatch.setattr(SongMean, "analyse", lambda *args: events.append("work") or analyse(*args))
    separator = separator_of(SongMean(), notify=events.append)
    seconds = 20
    separator.separate(np.tile(noise(RATE), seconds), RATE)
    assert events[0].startswith("toy goes through a song twice, since its filter takes statistics of all of it")
    assert "\n" not in events[0]
    # Frames that hold every sample once, and the song itself: 4 bytes of either for two channels.
    assert megabytes_told(events[0]) == pytest.approx(2 * 2 * 4 * seconds * RATE / 1e6, rel=0.05)
    assert set(events[1:]) == {"work"}
    events.clear()
    separator.separate(noise(RATE), RATE)
    assert set(events) == {"work"}, "less than what was told before"


def test_a_song_of_unknown_length_is_announced_by_the_minute():
    notes = []
    separator = separator_of(SongMean(), notify=notes.append)
    song, outputs = noise(3000), resolve_outputs(separator.spec)
    assert list(separator.stream(lambda: blocks_of(song, 1000), RATE, unnamed_layout(2), outputs))
    assert megabytes_told(notes[0]) == pytest.approx(2 * 2 * 4 * 60 * RATE / 1e6, rel=0.05)
    assert "for each minute of the song" in notes[0]


def test_by_default_announcements_go_to_the_log(caplog):
    with caplog.at_level(logging.WARNING, logger="iseparate"):
        separator_of(SongMean()).separate(noise(1000), RATE)
    assert [record.message[:14] for record in caplog.records] == ["toy goes throu"]


def test_the_prediction_counts_the_temporary_space(tmp_path, spools):
    info = probe(write_song(tmp_path / "song.wav", noise(10 * RATE)))
    one, two = (predict(separator_of(model), info, Storage()) for model in (Shares((0.5, 0.5)), SongMean()))
    assert one.temporary_bytes == 0
    assert two.temporary_bytes == two.disk_bytes - one.disk_bytes
    separator_of(SongMean()).separate(tmp_path / "song.wav")
    assert two.temporary_bytes >= 2 * 2 * 4 * 10 * RATE
    assert two.temporary_bytes <= 1.05 * 2 * 2 * 4 * 10 * RATE


def test_progress_rises_through_both_passes(tmp_path):
    song = write_song(tmp_path / "song.wav", noise(60_000))
    told = []
    separator_of(SongMean(), segment_seconds=0.1).separate_to_files(song, tmp_path / "out", callback=told.append)
    seconds = [progress.done_seconds for progress in told]
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(60_000 / RATE)
    assert sum(one < 0.9 * 60_000 / RATE for one in seconds) > 5
    assert {progress.total_seconds for progress in told} == {60_000 / RATE}


def test_stopping_in_the_first_pass_leaves_nothing(tmp_path, spools):
    song = write_song(tmp_path / "song.wav", noise(60_000))

    def stop(progress):
        if progress.done_seconds > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        separator_of(SongMean(), segment_seconds=0.1).separate_to_files(song, tmp_path / "out", callback=stop)
    assert not (tmp_path / "out").exists()
    assert all(file.closed for file in spools)


def test_ctrl_c_ends_the_first_passes_of_other_songs(tmp_path, spools, monkeypatch):
    songs = [write_song(tmp_path / f"{name}.wav", noise(300_000)) for name in ("one", "two")]
    told = []

    def slowly(progress):
        told.append(progress)
        if progress.song == str(songs[0]):
            raise KeyboardInterrupt
        time.sleep(0.05)

    separator = separator_of(SongMean(), segment_seconds=0.1)
    with pytest.raises(KeyboardInterrupt):
        separator.separate_to_files(songs, tmp_path / "out", jobs=2, callback=slowly)
    assert len(told) < 30, "of 68 segments a song"
    assert all(file.closed for file in spools)


# -- spools -------------------------------------------------------------------------------------------------


def test_a_spool_gives_back_what_was_written_wherever():
    spool = Spool()
    assert spool.read(0, 0).shape == (0,)
    spool.write(4, np.arange(6, dtype=np.float32).reshape(2, 3).T)
    spool.write(0, np.full(4, 9, np.float32))
    assert spool.size == 10
    assert spool.read(3, 6).tolist() == [9, 0, 3, 1, 4, 2]
    spool.close()
    spool.close()
    assert spool.size == 0


def test_a_spooled_queue_is_a_queue():
    queue, song = SpooledFifo(), noise(100)
    for part in np.split(song, [0, 10, 11, 60], 1):
        queue.push(part)
    assert (queue.size, queue.total, queue.channels) == (100, 100, 2)
    assert np.array_equal(queue.pop(30), song[:, :30])
    queue.push(song[:, :5])
    assert np.array_equal(queue.pop(72), np.concatenate([song[:, 30:], song[:, :2]], 1))
    assert queue.size == 3
    assert np.array_equal(queue.pop(5), np.pad(song[:, 2:5], [(0, 0), (0, 2)]))
    assert queue.pop(0).shape == (2, 0)
    queue.close()


def test_segments_too_short_for_the_frames_are_refused():
    with pytest.raises(UsageError, match="too short for this model"):
        Plan.for_model(SongMean().spec, segment_seconds=50 / RATE)


def test_the_lane_keeps_every_frame_once():
    model = SongMean()
    lane = TwoPassLane(model, short_plan(model), batch_size=2)
    song = noise(1234)
    for block in np.split(song, 7 * [0] + [300, 301, 900], 1):
        list(lane.push(block[None]))
    assert lane.done.size == 0
    list(lane.flush())
    assert lane.done.total == 1234


@torch.inference_mode()
def test_the_toy_needs_the_whole_song():
    """Else these tests would show nothing."""
    song = torch.from_numpy(noise(1000) + np.linspace(0, 0.5, 1000, dtype=np.float32))[None]
    apart = torch.cat([SongMean()(song[..., :500]), SongMean()(song[..., 500:])], -1)
    assert (apart - SongMean()(song)).abs().max() > 0.1
