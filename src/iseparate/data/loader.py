"""Batches of training examples, made by worker processes ahead of the network.

The batches of an epoch are a function of (seed, epoch) alone. Processes that train together each take their rows of
every batch, in one piece, so two of them with batches of 4 see together what one with batches of 8 sees.

A run that is taken up again calls ``loader.set_epoch(epoch, first_batch)``: the batches before are not even read.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

from iseparate.data.excerpts import Example, Excerpts, Fault, Key
from iseparate.errors import AudioReadError, BackendError, IseparateError, UsageError

_LEAST_EXAMPLES = 1000
"""The share of unreadable excerpts is taken of so many examples at least: a few are forgiven from the start."""


class Batch(NamedTuple):
    """Examples one below the other."""

    stems: Tensor
    """float32 ``[B, S, C, n]``."""
    mixture: Tensor | None
    """float32 ``[B, C, n]``: the songs' own mixtures, where `Excerpts` was asked for them."""

    def mix(self) -> Tensor:
        """What the network hears, ``[B, C, n]``: the songs' own mixtures, or else the sum of the stems."""
        return self.stems.sum(1) if self.mixture is None else self.mixture


class EpochSampler(Sampler[Key]):
    """The keys of an epoch's examples in the order in which one process takes them.

    Args:
        length: examples in an epoch.
        batch_size: rows of this process.
        seed: of the order.
        rank: this process, counted from 0.
        world: processes that train together.
        shuffle: in a new order each epoch, or as they come.
        drop_last: leave out what does not fill a batch of all processes; otherwise the last batch is shorter, or
            with several processes filled from the beginning, since all must have as many.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
    ):
        if batch_size < 1 or not 0 <= rank < world:
            raise UsageError(
                f"a batch of {batch_size} for process {rank} of {world} was asked for: expected 1 or more, and "
                "processes counted from 0"
            )
        if drop_last and length < batch_size * world:
            raise UsageError(
                f"an epoch of {length} examples does not fill one batch of {batch_size * world}: use more songs, more "
                "excerpts of each, or a smaller batch"
            )
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._rank, self._world, self._shuffle, self._drop_last = rank, world, shuffle, drop_last
        self.epoch = 0
        self._first_batch = 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch that the next iteration goes through, and the batch it starts with."""
        # Lightning calls this with the epoch alone before each one, the one that was taken up again included.
        if epoch != self.epoch or first_batch:
            self.epoch, self._first_batch = epoch, first_batch

    @property
    def first_batch(self) -> int:
        """The batch that the next iteration starts with."""
        return self._first_batch

    @property
    def batches(self) -> int:
        """Batches in a whole epoch."""
        together = self._batch_size * self._world
        return self._length // together if self._drop_last else -(-self._length // together)

    def __len__(self) -> int:
        return max(0, self._rows() - self._first_batch * self._batch_size)

    def __iter__(self) -> Iterator[Key]:
        epoch, first, self._first_batch = self.epoch, self._first_batch, 0
        order = np.arange(self._length)
        if self._shuffle:
            np.random.default_rng([self._seed, epoch]).shuffle(order)
        together = self._batch_size * self._world
        order = order[: self.batches * together]
        if self._world > 1 and len(order) < self.batches * together:
            order = np.resize(order, self.batches * together)
        for at in range(first * together + self._rank * self._batch_size, len(order), together):
            for index in order[at : at + self._batch_size]:
                yield epoch, int(index)

    def _rows(self) -> int:
        if self._drop_last or self._world > 1:
            return self.batches * self._batch_size
        return self._length


class _Refusal(NamedTuple):
    """An error on its way out of a worker, without the worker's traceback."""

    error: IseparateError


class _Collated(NamedTuple):
    batch: Batch
    faults: tuple[Fault, ...]


class _Speaking(torch.utils.data.Dataset[Any]):
    """Hands out errors that have a sentence as results: PyTorch would bury the sentence in a traceback."""

    def __init__(self, excerpts: Excerpts):
        self._excerpts = excerpts

    def __len__(self) -> int:
        return len(self._excerpts)

    def __getitems__(self, keys: Sequence[Key]) -> list[Example | _Refusal]:
        try:
            return [self._excerpts[key] for key in keys]
        except IseparateError as error:
            return [_Refusal(error)]


def _collate(examples: Sequence[Example | _Refusal]) -> _Collated | _Refusal:
    made = []
    for example in examples:
        if isinstance(example, _Refusal):
            return example
        made.append(example)
    mixtures = [example.mixture for example in made if example.mixture is not None]
    batch = Batch(torch.stack([example.stems for example in made]), torch.stack(mixtures) if mixtures else None)
    return _Collated(batch, tuple(fault for example in made for fault in example.faults))


_OUTLIVES_SECONDS = 30.0
"""How long a worker goes on after it was told to end: more than a training step takes, and the save after it."""


def _start_worker(worker: int) -> None:
    """Workers read while the network computes: they must not take its cores, nor end before it."""
    del worker
    torch.set_num_threads(1)
    if threading.current_thread() is threading.main_thread():
        # A service that is stopped sends this to all of its processes, and the last step still needs its batch.
        signal.signal(signal.SIGTERM, _end_later)
    info = get_worker_info()
    if info is not None:  # nothing of ours draws from it, but an augmentation of somebody else's might
        np.random.seed(info.seed % 2**32)


def _end_later(number: int, frame: object) -> None:
    del number, frame
    end = threading.Timer(_OUTLIVES_SECONDS, os._exit, (0,))
    end.daemon = True
    end.start()


class _End:
    """Tells workers to end, in place of an event whose lock a killed worker may have taken with it.

    PyTorch sets its event wherever a loader is put away, after a worker has died too, and would wait for that lock for
    ever.
    """

    def __init__(self, event: Any, workers: Sequence[Any]):
        self._event, self._workers, self._is_set = event, workers, False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if all(worker.is_alive() for worker in self._workers):
            self._event.set()
            return
        for worker in self._workers:
            worker.kill()


@dataclass
class FaultCount:
    """Unreadable excerpts so far; others stood in for them."""

    limit_share: float
    faults: int = 0
    examples: int = 0
    songs: set[tuple[str, str]] = field(default_factory=set)
    """Songs and sources that had one."""

    def add(self, faults: Sequence[Fault], examples: int) -> list[Fault]:
        """Count; return those whose file had none before. AudioReadError where there are too many."""
        self.examples += examples
        self.faults += len(faults)
        new = []
        for fault in faults:
            if (fault.song, fault.source) not in self.songs:
                self.songs.add((fault.song, fault.source))
                new.append(fault)
        if self.faults > self.limit_share * max(self.examples, _LEAST_EXAMPLES):
            raise AudioReadError(
                f"{self.faults} excerpts out of {self.examples} could not be read, more than {self.limit_share:.1%}; "
                f"`iseparate data check` finds what is wrong; the last one: {faults[-1] if faults else 'none'}"
            )
        return new


class ExcerptLoader(DataLoader[Any]):
    """A `torch.utils.data.DataLoader` that yields `Batch` and says in words what goes wrong.

    Each song and source that cannot be read somewhere is reported once; other excerpts stand in.

    Args:
        excerpts: the examples.
        batch_size: rows of this process.
        workers: processes that read ahead; 0 reads in this one.
        rank: this process among those that train together, counted from 0.
        world: how many train together.
        shuffle: a new order each epoch.
        drop_last: see `EpochSampler`.
        prefetch_batches: made ahead by each worker.
        pin_memory: for faster copies to a CUDA device.
        fault_limit_share: unreadable excerpts, as a share of at least 1000 examples, above which iterating raises.
        report: called with a sentence for the user; by default a warning is logged.

    Raises:
        UsageError: an epoch that does not fill a batch, numbers out of range.
        AudioReadError: while iterating: too many unreadable excerpts.
        BackendError: while iterating: a worker died.
    """

    def __init__(
        self,
        excerpts: Excerpts,
        batch_size: int,
        *,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        prefetch_batches: int = 2,
        pin_memory: bool = False,
        fault_limit_share: float = 0.01,
        report: Callable[[str], None] | None = None,
    ):
        if workers < 0 or prefetch_batches < 1:
            raise UsageError(
                f"{workers} workers with {prefetch_batches} batches each were asked for: expected 0 or more workers, "
                "and 1 batch or more"
            )
        sampler = EpochSampler(
            len(excerpts),
            batch_size,
            seed=excerpts.seed,
            rank=rank,
            world=world,
            shuffle=shuffle,
            drop_last=drop_last,
        )
        super().__init__(
            _Speaking(excerpts),
            batch_size=batch_size,
            sampler=sampler,
            drop_last=False,  # the sampler has seen to it, for all processes alike
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch_batches if workers else None,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(excerpts.seed),  # else each epoch would draw from the network's
        )
        self.excerpts = excerpts
        self.fault_count = FaultCount(fault_limit_share)
        self._epochs = sampler
        self._taken = (0, 0)  # batches of which epoch
        self._report = report or logging.getLogger(__name__).warning

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration goes through, or the present one is in."""
        return self._epochs.epoch

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch that the next iteration goes through, and the batch it starts with."""
        self._epochs.set_epoch(epoch, first_batch)

    def state_dict(self) -> dict[str, int]:
        """Where the run is: the epoch, and how many of its batches have been handed out."""
        epoch, taken = self._taken
        return {"epoch": self.epoch, "batch": taken if epoch == self.epoch else self._epochs.first_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self.set_epoch(state["epoch"], state["batch"])

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self._epochs.batches

    def _get_iterator(self) -> Any:
        iterator: Any = super()._get_iterator()
        if self.num_workers:
            iterator._workers_done_event = _End(iterator._workers_done_event, iterator._workers)
        return iterator

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        epoch, taken = self.epoch, self._epochs.first_batch
        self._taken = (epoch, taken)
        batches = super().__iter__()
        while True:
            try:
                made = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise loader_fault(error) from error
            except (ConnectionError, EOFError) as error:
                raise loader_fault(_told_by_signal(error)) from error
            if isinstance(made, _Refusal):
                raise made.error
            for fault in self.fault_count.add(made.faults, len(made.batch.stems)):
                self._report(f"an excerpt could not be read, another one stands in for it: {fault}")
            taken += 1
            self._taken = (epoch, taken)
            yield made.batch


_SIGNAL_SECONDS = 1.0
"""How long after its pipe broke the system may take to tell that a worker has died."""


def _told_by_signal(error: Exception) -> Exception:
    """What PyTorch makes of the signal that follows, or else the error.

    It raises wherever the program happens to be: better here than while the workers are put away, where Python would
    only print it.
    """
    try:
        time.sleep(_SIGNAL_SECONDS)
    except RuntimeError as told:
        return told
    return error


def loader_fault(error: Exception) -> Exception:
    """What PyTorch says of a dead worker, as a sentence; anything else as it is."""
    if isinstance(error, ConnectionError | EOFError):  # it died while it handed a batch over
        return BackendError(
            "a process that reads excerpts has died, most likely for want of memory: use fewer --workers or smaller "
            "batches, and go on with --resume"
        )
    died = re.search(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)", str(error))
    if died is None:
        return error
    reason = "shared memory" if "shared memory" in str(error) or "Bus error" in str(error) else "memory"
    return BackendError(
        f"a process that reads excerpts (pid {died[1].strip()}) has died, most likely for want of {reason}: use fewer "
        "--workers or smaller batches, and go on with --resume"
    )
