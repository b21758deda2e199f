"""Two processes with half a batch each do what one with the whole does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_training import FEED_FORWARD, figures, recipe, train, what_decides, write_songs

from iseparate.errors import UsageError
from iseparate.train.examples import loaders
from iseparate.train.processes import Processes

SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from small_training import FEED_FORWARD, recipe, train
*overrides, songs, out, resume = sys.argv[1:]
result = train(recipe(*overrides, model=FEED_FORWARD), songs, out, resume=resume == "True", save_minutes=0)
print(result.steps)
"""
OVERRIDES = (
    "loop.batch_size=4",
    "data.batch_augment=[{name: gain}, {name: remix, group: 2}]",
    "loop.averages=[{decay: 0.9}]",
    "loop.clip_norm=1.0",
)


def torchrun(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", script, *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)], check=False, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    songs = write_songs(tmp_path / "songs")
    one = train(recipe(*OVERRIDES, model=FEED_FORWARD), songs, tmp_path / "one")
    done = torchrun(tmp_path, *OVERRIDES, songs, tmp_path / "two", False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(one.steps)] * 2
    alone, together = what_decides(tmp_path / "one" / "last.ckpt"), what_decides(tmp_path / "two" / "last.ckpt")
    for name, tensor in alone["state_dict"].items():
        torch.testing.assert_close(together["state_dict"][name], tensor, rtol=1e-4, atol=1e-5)
    assert len(figures(tmp_path / "two")) == 3
    for one_row, two_row in zip(figures(tmp_path / "one")[1:], figures(tmp_path / "two")[1:], strict=True):
        for a, b in zip(one_row.split(","), two_row.split(","), strict=True):
            assert float(a) == pytest.approx(float(b), rel=1e-4)

    # What two began, one goes on with.
    longer = ("loop.epochs=3", *OVERRIDES)
    train(recipe(*longer, model=FEED_FORWARD), songs, tmp_path / "one", resume=True)
    train(recipe(*longer, model=FEED_FORWARD), songs, tmp_path / "two", resume=True)
    after = what_decides(tmp_path / "two" / "last.ckpt")["state_dict"]
    for name, tensor in what_decides(tmp_path / "one" / "last.ckpt")["state_dict"].items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-3, atol=1e-4)


def test_without_torchrun_there_is_one_process():
    assert Processes.of({"WORLD_SIZE": "8", "RANK": "3", "SLURM_NTASKS": "8"}) == Processes(1, 0, 1)


def test_what_torchrun_tells():
    told = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "RANK": "5", "LOCAL_WORLD_SIZE": "4"}
    assert Processes.of(told) == Processes(world=8, rank=5, local=4)
    assert not Processes.of(told).is_first


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loop.batch_size=3"], "a batch of 3 cannot be shared among 2 processes"),
        (
            ["loop.batch_size=4", "data.batch_augment=[{name: remix, group: 4}]"],
            "remix works in groups of 4, into which a batch of 2 in each process cannot be cut",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared(overrides, words):
    with pytest.raises(UsageError, match=words):
        loaders(recipe(*overrides), None, (), (), (), Processes(2, 0, 2), 0, False, print)
