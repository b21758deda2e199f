from __future__ import annotations

import threading

import pytest

from iseparate.engine.behind import Behind


def test_every_item_is_done_in_order_and_before_the_end():
    done = []
    with Behind(done.append) as behind:
        for item in range(100):
            behind.take(item)
            assert len(done) >= item  # all but the one that was just taken
    assert done == [*range(100)]


def test_an_item_is_done_while_the_next_is_made():
    started, may_end = threading.Event(), threading.Event()

    def work(_):
        started.set()
        assert may_end.wait(10)

    with Behind(work) as behind:
        behind.take(1)
        assert started.wait(10)  # it runs though nobody waits for it
        may_end.set()


@pytest.mark.parametrize("last", [0, 3])
def test_a_fault_comes_out_and_ends_the_work(last):
    done = []

    def work(item):
        if item == 0:
            raise OSError("disk full")
        done.append(item)

    def run():
        with Behind(work) as behind:
            for item in range(last + 1):
                behind.take(item)

    with pytest.raises(OSError, match="disk full"):
        run()
    assert not done


def test_another_fault_is_not_hidden_by_one_behind_it():
    def work(_):
        raise OSError("disk full")

    def run():
        with Behind(work) as behind:
            behind.take(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
