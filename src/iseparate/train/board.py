"""What TensorBoard shows: the figures of every epoch, and now and then how the network sounds.

Sound and spectrograms come from one excerpt of the songs for validation, the same each time.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from iseparate.data.loader import Batch
from iseparate.nn.stft import hann, spectrum
from iseparate.train.module import TrainingModule

FOLDER = "tensorboard"
SOUND_MINUTES = 5.0
"""Between two excerpts, so that short epochs do not fill the disk."""
_FRAME_SAMPLES, _HOP_SAMPLES = 2048, 512
_QUIETEST_DB = -80.0


def is_here() -> bool:
    """Whether TensorBoard's writer is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class Board(Callback):
    """Writes events below ``tensorboard/``.

    Args:
        folder: of the training.
        excerpt: one example of the songs for validation, whose estimates are shown; None: figures only.
        sound_minutes: between two showings.
    """

    def __init__(self, folder: Path, excerpt: Batch | None = None, sound_minutes: float = SOUND_MINUTES):
        self._folder, self._excerpt, self._sound_seconds = folder, excerpt, 60 * sound_minutes
        self._shown_at: float | None = None
        self._writer: Any = None
        self._learning_rate = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote after its last checkpoint is gone through again.
        self._writer = SummaryWriter(self._folder / FOLDER, purge_step=trainer.current_epoch + 1)
        if self._excerpt is not None and trainer.current_epoch == 0:
            assert isinstance(pl_module, TrainingModule)
            network = pl_module.network
            self._show("mixture", self._excerpt.mix()[0], network.spec.sample_rate, 0)
            references = pl_module.references(self._excerpt.stems[:1])[0]
            for stem, reference in zip(network.trained_stems, references, strict=True):
                self._show(f"{stem}/reference", reference, network.spec.sample_rate, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        del pl_module, batch, batch_idx
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]  # schedules move it before the epoch's end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        now = time.monotonic()
        if self._writer is None or self._excerpt is None:
            return
        if self._shown_at is not None and now - self._shown_at < self._sound_seconds:
            return
        self._shown_at = now
        network = pl_module.network
        with torch.no_grad():
            estimates = network(self._excerpt.mix()[:1].to(pl_module.device))[0].float().cpu()
        for stem, estimate in zip(network.spec.stems, estimates, strict=True):
            self._show(f"{stem}/estimate", estimate, network.spec.sample_rate, trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if self._writer is not None:
            for name, value in pl_module.figures.items():
                self._writer.add_scalar(name, value, trainer.current_epoch + 1)
            self._writer.add_scalar("learning_rate", self._learning_rate, trainer.current_epoch + 1)
            self._writer.flush()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        del trainer, pl_module, exception
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _show(self, name: str, samples: Tensor, sample_rate: int, epoch: int) -> None:
        mono = samples.mean(0)
        self._writer.add_audio(name, mono.clamp(-1, 1)[None], epoch, sample_rate)
        if len(mono) >= _FRAME_SAMPLES:
            self._writer.add_image(name, spectrogram(mono)[None], epoch)


def spectrogram(mono: Tensor) -> Tensor:
    """The magnitudes of a signal ``[T]`` as a picture ``[bins, frames]`` in [0, 1], high frequencies above.

    1 is the loudest point, 0 what is 80 dB below it or less; silence is 0 throughout.
    """
    magnitudes = spectrum(mono[None], hann(_FRAME_SAMPLES), _HOP_SAMPLES).abs()[0]
    loudest = magnitudes.max()
    if not loudest > 0:
        return torch.zeros(magnitudes.shape[::-1])
    level_db = 20 * (magnitudes / loudest).clamp_min(1e-10).log10()
    return (1 - level_db / _QUIETEST_DB).clamp(0, 1).T.flip(0)
