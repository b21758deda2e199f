"""Lightning, set up for this machine, and what a training can stumble over in words."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from iseparate.data.loader import loader_fault
from iseparate.errors import BackendError, IseparateError, OutputError, TrainingError, UsageError
from iseparate.train.checkpoint import AtomicCheckpoints
from iseparate.train.keeper import StoppedError
from iseparate.train.processes import Processes
from iseparate.train.recipe import Recipe

_PATIENCE = timedelta(hours=24)
"""How long processes wait for the first one, which hashes, renders and judges. torchrun ends them if it dies."""

_ENDLESS = 1 << 30
"""Epochs, where steps are counted instead. Lightning's own word for it would make a run start its epoch anew."""


def choose_device(device: str, precision: str) -> tuple[str, int | None]:
    """Kind and number of the device: ``auto`` is the first of CUDA, Apple's MPS and CPU that there is.

    Raises:
        UsageError: that is no device.
        BackendError: there is none such here, or it does not know the precision.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isascii())):
        raise UsageError(f"there is no device {device!r}; say auto, cpu, cuda, cuda:N or mps")
    if number and not number.isdigit():
        raise UsageError(f"there is no device {device!r}; say auto, cpu, cuda, cuda:N or mps")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[kind]
    if int(number or 0) >= there:
        raise BackendError(f"there is no usable device {device} on this machine; say --device cpu")
    if precision == "fp16" and kind != "cuda":
        raise BackendError(
            f"fp16 is trained on CUDA devices only, and this is {kind}; --set loop.precision=bf16, or fp32"
        )
    return kind, int(number) if number else None


def make_trainer(
    recipe: Recipe,
    folder: Path,
    callbacks: list[pl.Callback],
    device: tuple[str, int | None],
    processes: Processes,
    validates: bool,
) -> pl.Trainer:
    """Lightning's loop for a recipe."""
    loop = recipe.loop
    kind, number = device
    together = processes.world > 1
    if together and number is not None:
        raise UsageError(f"under torchrun each process has a device of its own; say --device {kind}")
    # Named, since Lightning would guess it from whatever a cluster leaves in the environment.
    environment = TorchElasticEnvironment() if together else LightningEnvironment()
    return pl.Trainer(
        default_root_dir=folder,
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices=processes.local if number is None else [number],
        num_nodes=max(1, processes.world // processes.local),
        strategy=DDPStrategy(timeout=_PATIENCE) if together else "auto",
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[loop.precision],  # type: ignore[arg-type]
        max_epochs=loop.epochs or _ENDLESS,
        max_steps=loop.max_steps or -1,
        accumulate_grad_batches=loop.accumulate_batches,
        gradient_clip_val=loop.clip_norm,
        check_val_every_n_epoch=recipe.validation.every_epochs,
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        callbacks=[*callbacks, _Signals()],
        plugins=[AtomicCheckpoints(), environment],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


class _Signals(pl.Callback):
    """Gives SIGTERM back to whom it belonged: Lightning's handler waits for other processes inside of itself."""

    def __init__(self) -> None:
        self._handler: Any = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del trainer, pl_module
        if threading.current_thread() is threading.main_thread() and self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning speaks to its developers; what users need is said in our own sentences."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def in_words(folder: Path, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """What a training can stumble over, each in a sentence. Being stopped is nothing to stumble over."""
    at_interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except StoppedError:
        return
    except SystemExit as error:  # what Lightning makes of Ctrl-C, which it also switches off
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, at_interrupt)
        raise KeyboardInterrupt from None
    except Exception as error:
        said = _sentence(error, folder)
        if isinstance(said, BackendError) and stop():
            return  # what asked this process to end has ended its workers at once
        if said is error:
            raise
        raise said from error


def _sentence(error: Exception, folder: Path) -> Exception:
    """An error that the user can do something about; anything else as it is."""
    words = str(error)
    if isinstance(error, IseparateError):
        return error
    # The CPU's allocator has no class of its own.
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in words:
        return TrainingError(
            "there is not enough memory for a batch; set loop.batch_size lower and loop.accumulate_batches higher"
        )
    fault = loader_fault(error)  # PyTorch tells of a dead worker wherever the program happens to be
    if fault is not error:
        return fault
    if isinstance(error, OSError):
        where = error.filename or folder
        return OutputError(f"{where} failed the training: {error.strerror or error}; mend that and go on with --resume")
    if any(word in words for word in ("Connection closed by peer", "Connection reset by peer", "NCCL")):
        return TrainingError(
            "another of the processes that train together is gone, its own words say why; go on with --resume"
        )
    return error
