"""Small tracks, a metric and estimators for what is tested about evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from iseparate.evaluate.estimators import Estimator
from iseparate.evaluate.metrics import METRICS
from iseparate.evaluate.run import Asked, this_session, tracks_sha256

RATE = 8000
USDR, BSS = METRICS["usdr"], METRICS["bss_eval_v4"]


@dataclass
class Song:
    """A track in memory, as those of a data set."""

    name: str
    sounds: Mapping[str, np.ndarray]
    subset: str = "test"
    sample_rate: int = RATE
    reads: list[str] = field(default_factory=list)

    @property
    def stems(self):
        return tuple(self.sounds)

    @property
    def samples(self):
        return next(iter(self.sounds.values())).shape[1]

    def read(self, source, start_samples=0, samples=None):
        self.reads.append(source)
        return sum(self.sounds.values()) if source == "mixture" else self.sounds[source]


def song(name="song", stems=("vocals", "drums", "bass", "other"), seconds=2.0, seed=0, channels=2, subset="test"):
    chance = np.random.default_rng([seed, *name.encode("utf-8", "replace")])
    shape = (channels, round(seconds * RATE))
    return Song(name, {stem: 0.1 * chance.standard_normal(shape).astype(np.float32) for stem in stems}, subset)


def noisy(name="noisy", level=0.1, calls=None) -> Estimator:
    """The true stems and some noise."""

    def estimate(audio, report):
        if calls is not None:
            calls.append(audio.track.name)
        report(audio.mix.shape[1] / RATE)
        chance = np.random.default_rng(7)
        return {
            stem: sound + level * 0.1 * chance.standard_normal(sound.shape).astype(np.float32)
            for stem, sound in audio.stems.items()
        }

    return Estimator(name, "model", estimate, {"weights_sha256": "0" * 64, "level": level})


def asked(estimator, tracks, metrics=(USDR,), data="folder:songs", subset="test") -> Asked:
    return Asked(
        estimator=estimator.name,
        kind=estimator.kind,
        identity=dict(estimator.identity),
        data=data,
        subset=subset,
        tracks_sha256=tracks_sha256(tracks),
        metrics={metric.name: metric.definition for metric in metrics},
        iseparate="1",
    )


def session():
    return this_session("iseparate evaluate -n noisy --data folder:songs")
