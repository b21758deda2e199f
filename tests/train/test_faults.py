"""What can go wrong in a training: said in words, and nothing is lost."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch
from filelock import FileLock
from small_training import RATE, assert_same, recipe, train, what_decides, write_songs

from iseparate.data.open import open_dataset
from iseparate.errors import BackendError, OutputError, TrainingError, UsageError
from iseparate.train import module
from iseparate.train.checkpoint import AtomicCheckpoints, read_checkpoint
from iseparate.train.machine import choose_device, in_words


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"))


def at_step(step: int, work):
    """A stand-in for `stop` that does something before a step and never stops."""
    asked = []

    def stop() -> bool:
        asked.append(None)
        if len(asked) == step:
            work()
        return False

    return stop


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_loss_that_is_no_number(bad, songs, tmp_path, monkeypatch):
    make = module.CRITERIA["mse"]
    calls = []

    class Bad(type(make())):
        def forward(self, *arguments):
            calls.append(None)
            return super().forward(*arguments) * (float(bad) if len(calls) > 4 else 1.0)

    monkeypatch.setattr(module, "CRITERIA", {"mse": lambda **arguments: Bad(2, **arguments)})
    with pytest.raises(TrainingError) as refusal:
        train(recipe(), songs, tmp_path / "out", save_minutes=0)
    last = tmp_path / "out" / "last.ckpt"
    assert str(refusal.value) == (
        f"the loss became {bad} at step 4 (epoch 1, batch 5); {last} is whole, from before; start anew with a lower "
        "optimizer.lr, or with a loop.clip_norm"
    )
    assert read_checkpoint(last)["global_step"] == 4


def test_weights_that_are_no_numbers_are_not_saved(songs, tmp_path):
    networks = []
    original = module.TrainingModule.on_fit_start
    out = tmp_path / "out"

    def spoil() -> None:
        with torch.no_grad():
            next(networks[0].parameters()).fill_(torch.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module.TrainingModule, "on_fit_start", lambda self: (networks.append(self.network), original(self))
        )
        with pytest.raises(TrainingError, match=r"the weights of .* are no numbers any more at step 3; .*last\.ckpt"):
            train(recipe(), songs, out, save_minutes=0, stop=at_step(3, spoil))
    assert all(torch.isfinite(t).all() for t in read_checkpoint(out / "last.ckpt")["state_dict"].values())


def test_a_full_disk(songs, tmp_path):
    """The real thing: the system refuses to write more than some bytes to a file."""
    out = tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError) as refusal:
            train(
                recipe(),
                songs,
                out,
                save_minutes=0,
                stop=at_step(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = out / "last.ckpt"
    sentence = str(refusal.value)
    assert sentence.startswith(f"the checkpoint {last} cannot be written: File too large; {last} is whole")
    assert sentence.endswith("from before: make room and go on with --resume")
    assert read_checkpoint(last)["global_step"] == 2
    assert not list(out.glob(".*.part"))

    train(recipe(), songs, out, resume=True)
    train(recipe(), songs, tmp_path / "whole")
    assert_same(what_decides(out / "last.ckpt"), what_decides(tmp_path / "whole" / "last.ckpt"))


def test_a_full_disk_at_the_first_checkpoint(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"cannot be written: No space left on device; make room and start anew"):
        AtomicCheckpoints().save_checkpoint({}, tmp_path / "best.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(songs, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another place with -o"):
        train(recipe(), songs, tmp_path / "file" / "out")


def test_two_trainings_in_one_folder(songs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(UsageError, match=f"another training is writing to {out}"):
        train(recipe(), songs, out)


def test_a_corrupt_song_is_stood_in_for(tmp_path):
    songs = write_songs(tmp_path / "songs")
    broken = songs / "song 1" / "drums.wav"
    sound, _ = soundfile.read(broken, dtype="float32")
    sound[100:] = np.nan
    soundfile.write(broken, sound, RATE, subtype="FLOAT")
    said = []
    result = train(recipe(), songs, tmp_path / "out", report=said.append)
    assert result.epochs == 2
    about = [sentence for sentence in said if "song 1" in sentence]
    assert len(about) == 1
    assert "could not be read, another one stands in for it" in about[0]


def test_a_dead_worker(songs, tmp_path):
    before = {child.pid for child in psutil.Process().children()}

    def kill_one() -> None:
        workers = [child for child in psutil.Process().children() if child.pid not in before]
        assert workers
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)

    plan, out = recipe("data.excerpts_per_song=20"), tmp_path / "out"
    with pytest.raises(BackendError, match=r"a process that reads excerpts .*has died"):
        train(plan, songs, out, workers=1, save_minutes=0, stop=at_step(3, kill_one))
    assert read_checkpoint(out / "last.ckpt")["global_step"] >= 2
    assert train(plan, songs, out, resume=True).epochs == 2


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), TrainingError, "not enough memory for a batch"),
        (torch.OutOfMemoryError("CUDA out of memory."), TrainingError, "not enough memory for a batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), TrainingError, "not enough memory"),
        (RuntimeError("[enforce fail] Connection closed by peer [127.0.0.1]"), TrainingError, "is gone"),
        (ConnectionResetError(104, "Connection reset by peer"), BackendError, "a process that reads excerpts has died"),
        (EOFError(), BackendError, "a process that reads excerpts has died"),
        (OSError(28, "No space left on device"), OutputError, "No space left on device"),
        (UsageError("as it is"), UsageError, "as it is"),
        (RuntimeError("a fault of ours"), RuntimeError, "a fault of ours"),
    ],
)
def test_faults_have_sentences(error, kind, words, tmp_path):
    with pytest.raises(kind, match=words), in_words(tmp_path):
        raise error


def test_ctrl_c_is_still_ctrl_c(songs, tmp_path):
    """In a notebook, say, where nobody gives a `stop`: Lightning alone would exit and switch Ctrl-C off."""
    at_interrupt = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(), songs, tmp_path / "out", stop=at_step(3, interrupt))
    assert signal.getsignal(signal.SIGINT) is at_interrupt


def test_sigterm_belongs_to_whom_it_did(songs, tmp_path):
    """Lightning's own handler talks to other processes inside of itself."""
    seen = []
    at_term = signal.signal(signal.SIGTERM, lambda *_: seen.append(None))
    try:
        train(recipe(), songs, tmp_path / "out", stop=at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert len(seen) == 1
    finally:
        signal.signal(signal.SIGTERM, at_term)


@pytest.mark.parametrize(
    ("device", "precision", "kind", "words"),
    [
        ("tpu", "fp32", UsageError, "there is no device 'tpu'"),
        ("cpu:1", "fp32", UsageError, "there is no device 'cpu:1'"),
        ("cuda:x", "fp32", UsageError, "there is no device 'cuda:x'"),
        ("cuda:77", "fp32", BackendError, "no usable device cuda:77"),
        ("cpu", "fp16", BackendError, "fp16 is trained on CUDA devices only"),
    ],
)
def test_devices_that_are_not_there(device, precision, kind, words):
    with pytest.raises(kind, match=words):
        choose_device(device, precision)


def test_data_without_the_stem(songs, tmp_path):
    with pytest.raises(UsageError, match="trained for bass, which the data has not: its stems are drums, vocals"):
        train(recipe("model.config.targets=[bass]"), songs, tmp_path / "out")


def test_data_at_another_rate(tmp_path):
    songs = write_songs(tmp_path / "songs", rate=16_000)
    with pytest.raises(UsageError, match="run `iseparate data prepare --sample-rate 8000`"):
        train(recipe(), songs, tmp_path / "out")


def test_data_whose_stems_belong_together(songs, tmp_path):
    from dataclasses import replace

    aligned = replace(open_dataset(songs), mixing="aligned")
    with pytest.raises(UsageError, match=r"--set data\.mix_songs=0"):
        train(recipe(), aligned, tmp_path / "out")
    shift = "data.batch_augment=[{name: shift, max_seconds: 0.01}]"
    with pytest.raises(UsageError, match=r"moves them apart; .* and leave shift out"):
        train(recipe("data.mix_songs=0", shift), aligned, tmp_path / "out")
    apart = replace(open_dataset(songs), mixing="random")
    with pytest.raises(UsageError, match=r"--set data\.mix_songs=1"):
        train(recipe(), apart, tmp_path / "out")
