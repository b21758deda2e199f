"""Several songs at a time in one process: they share the network's weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from iseparate.errors import UsageError

Result = TypeVar("Result")
Task = TypeVar("Task", bound=tuple[object, ...])


def run_jobs(
    work: Callable[..., Result], tasks: Sequence[Task], jobs: int, cancelled: threading.Event
) -> Iterator[Result]:
    """Yield ``work(*task)`` for every task, as they finish, `jobs` at a time.

    Args:
        work: runs in a thread of its own where jobs > 1; PyTorch's operators leave Python's lock free.
        tasks: arguments of each call.
        jobs: >= 1.
        cancelled: set when the caller stops early (Ctrl-C), so that running work can end itself.

    Raises:
        UsageError: jobs < 1.
    """
    if jobs < 1:
        raise UsageError(f"jobs is 1 or more; got {jobs}")
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield work(*task)
        return
    threads = torch.get_num_threads()
    share = max(1, threads // min(jobs, len(tasks)))

    def in_thread(task: Task) -> Result:
        torch.set_num_threads(share)  # each thread has a team of its own
        return work(*task)

    with ThreadPoolExecutor(jobs, thread_name_prefix="song") as pool:
        pending = {pool.submit(in_thread, task) for task in tasks}
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            cancelled.set()
            for future in pending:
                future.cancel()
            torch.set_num_threads(threads)
