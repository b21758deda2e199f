"""Batches: the same whatever the workers, processes and interruptions; and faults in words."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from noise_songs import RATE, STEMS, song
from torch.utils.data import DataLoader

from iseparate.data.augment import Gain
from iseparate.data.excerpts import Excerpts, Fault, RandomSampling
from iseparate.data.loader import EpochSampler, ExcerptLoader, FaultCount
from iseparate.errors import AudioReadError, BackendError, UsageError

N = 400


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    return [song(folder, number, RATE) for number in range(3)]


@pytest.fixture
def excerpts(tracks):
    return Excerpts(tracks, STEMS, N, RATE, sampling=RandomSampling(8), mix_songs=0.5, augmentations=[Gain()], seed=5)


def stems_of(loader):
    return [batch.stems for batch in loader]


def test_two_runs_with_one_seed_are_equal_whatever_the_workers(excerpts):
    alone, helped = ExcerptLoader(excerpts, 4), ExcerptLoader(excerpts, 4, workers=2)
    for epoch in (0, 1):
        for loader in (alone, helped):
            loader.set_epoch(epoch)
        here, there = stems_of(alone), stems_of(helped)
        assert len(here) == len(there) == len(alone) == 6
        assert all(map(torch.equal, here, there))


def test_epochs_differ_and_hold_every_example_once(excerpts):
    loader = ExcerptLoader(excerpts, 4)
    first = stems_of(loader)
    loader.set_epoch(1)
    assert not torch.equal(first[0], stems_of(loader)[0])
    sampler = EpochSampler(24, 4, seed=5)
    keys = list(sampler)
    assert sorted(keys) == [(0, i) for i in range(24)]
    sampler.set_epoch(1)
    assert [i for _, i in sampler] != [i for _, i in keys]


def test_the_networks_random_numbers_are_left_alone(excerpts):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    stems_of(ExcerptLoader(excerpts, 4))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_goes_on_where_it_stopped(excerpts, workers):
    whole = ExcerptLoader(excerpts, 4, workers=workers)
    whole.set_epoch(2)
    batches = iter(whole)
    before = [next(batches).stems for _ in range(2)]
    state = whole.state_dict()
    rest = [batch.stems for batch in batches]
    again = ExcerptLoader(excerpts, 4, workers=workers)
    again.load_state_dict(state)
    again.sampler.set_epoch(2)  # as Lightning does before each epoch
    assert state == {"epoch": 2, "batch": 2}
    assert again.state_dict() == state
    resumed = stems_of(again)
    assert len(before) + len(resumed) == len(whole)
    assert all(map(torch.equal, rest, resumed))
    assert len(stems_of(again)) == 6, "the next epoch is whole"


def test_processes_share_the_batches_of_one(excerpts):
    one = stems_of(ExcerptLoader(excerpts, 8))
    two = [stems_of(ExcerptLoader(excerpts, 4, rank=rank, world=2)) for rank in (0, 1)]
    for whole, left, right in zip(one, *two, strict=True):
        assert torch.equal(whole, torch.cat([left, right]))


@pytest.mark.parametrize(("length", "batch", "world"), [(10, 4, 1), (10, 2, 2), (10, 4, 3), (8, 4, 2), (3, 4, 2)])
def test_without_dropping_every_example_comes_and_processes_have_as_many(length, batch, world):
    parts = [list(EpochSampler(length, batch, rank=r, world=world, drop_last=False)) for r in range(world)]
    assert {index for part in parts for _, index in part} == set(range(length))
    assert len({len(part) for part in parts}) == 1
    for rank, part in enumerate(parts):
        sampler = EpochSampler(length, batch, rank=rank, world=world, drop_last=False)
        assert len(sampler) == len(part)
        assert sampler.batches == -(-len(part) // batch)


def test_dropping_keeps_whole_batches_only():
    sampler = EpochSampler(10, 4)
    assert len(list(sampler)) == len(sampler) == 8
    assert sampler.batches == 2


def test_in_order_without_shuffling():
    assert [i for _, i in EpochSampler(6, 2, shuffle=False)] == list(range(6))


def test_the_mix_is_the_sum_of_the_stems(excerpts, tmp_path):
    batch = next(iter(ExcerptLoader(excerpts, 4)))
    assert torch.equal(batch.mix(), batch.stems.sum(1))
    own = np.full((2, RATE), 0.25, np.float32)
    with_own = Excerpts([song(tmp_path, 0, RATE, mixture=own)], STEMS, N, RATE, with_mixture=True)
    batch = next(iter(ExcerptLoader(with_own, 4)))
    assert batch.mixture.shape == (4, 2, N)
    assert (batch.mix() == 0.25).all()


# PyTorch raises at the signal wherever the program happens to be; within a callback of the garbage collector Python
# only prints that. The sentence comes all the same.
raised_anywhere = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@raised_anywhere
def test_a_dead_worker_is_said_in_words(excerpts):
    loader = ExcerptLoader(excerpts, 1, workers=1)
    batches = iter(loader)
    next(batches)
    os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(BackendError, match=r"a process that reads excerpts .*has died.*--workers"):
        for _ in batches:
            pass


@raised_anywhere
def test_what_a_dead_worker_had_locked_is_not_waited_for(excerpts):
    loader = ExcerptLoader(excerpts, 1, workers=2)
    batches = iter(loader)
    next(batches)
    workers, event = loader._iterator._workers, loader._iterator._workers_done_event._event
    event._cond.acquire()  # as a worker that was killed while it looked whether to end
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(BackendError, match="has died"):
        for _ in batches:
            pass
    loader._iterator._shutdown_workers()  # as when it is put away
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


def test_a_dead_workers_signal_that_comes_after_its_broken_pipe_is_waited_for(excerpts, monkeypatch):
    def broken(_):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        raise ConnectionResetError
        yield

    def late(*_):
        raise RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed.")

    monkeypatch.setattr(DataLoader, "__iter__", broken)
    before = signal.signal(signal.SIGALRM, late)
    try:
        with pytest.raises(BackendError, match=r"\(pid 77\) has died"):
            stems_of(ExcerptLoader(excerpts, 1))
    finally:
        signal.signal(signal.SIGALRM, before)


def damage(track):
    path = track.clips["vocals"][0].path
    path.write_bytes(path.read_bytes()[: 44 + 400])


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_excerpts_are_replaced_and_reported_once_a_file(tmp_path, workers):
    songs = [song(tmp_path, number, RATE) for number in range(3)]
    excerpts = Excerpts(songs, STEMS, N, RATE, sampling=RandomSampling(8))
    damage(songs[1])
    told = []
    loader = ExcerptLoader(excerpts, 4, workers=workers, report=told.append, fault_limit_share=0.1)
    assert all(batch.stems.isfinite().all() for batch in loader)
    assert len(told) == 1
    assert "song 1" in told[0]
    assert "vocals.wav" in told[0]
    assert loader.fault_count.faults >= 8
    assert loader.fault_count.examples == 24


def test_too_many_corrupt_excerpts_end_the_run_in_words(tmp_path):
    songs = [song(tmp_path, number, RATE) for number in range(2)]
    excerpts = Excerpts(songs, STEMS, N, RATE, sampling=RandomSampling(40))
    damage(songs[0])
    with pytest.raises(AudioReadError, match=r"more than 1\.0%; `iseparate data check`"):
        stems_of(ExcerptLoader(excerpts, 4, report=lambda _: None))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_error_is_its_sentence_and_nothing_else(tmp_path, workers):
    songs = [song(tmp_path, 0, RATE)]
    excerpts = Excerpts(songs, STEMS, N, RATE)
    songs[0].clips["drums"][0].path.unlink()
    with pytest.raises(AudioReadError) as caught:
        stems_of(ExcerptLoader(excerpts, 4, workers=workers))
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_share_is_of_a_thousand_examples_at_least():
    count = FaultCount(0.01)
    fault = Fault("song", "bass", 61.5, "gone")
    assert count.add([fault] * 10, 8) == [fault]
    with pytest.raises(AudioReadError, match=r"song, bass at 1:01\.5: gone"):
        count.add([fault], 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 100}, "does not fill one batch of 100"),
        ({"batch_size": 0}, "batch of 0"),
        ({"batch_size": 4, "rank": 2, "world": 2}, "process 2 of 2"),
        ({"batch_size": 4, "workers": -1}, "workers"),
    ],
)
def test_what_cannot_be_is_refused(excerpts, arguments, words):
    with pytest.raises(UsageError, match=words):
        ExcerptLoader(excerpts, **arguments)
