"""Small networks whose right answer is known, and the few lines that run them."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import soundfile
import torch
from torch import nn

from iseparate.audio.layout import unnamed_layout
from iseparate.engine.plan import Plan
from iseparate.engine.separator import Separator
from iseparate.engine.stream import SongStream
from iseparate.models._base import SeparationModel
from iseparate.types import ModelSpec, TrackStatistics, TwoPass
from iseparate.weights.load import ReadyModel

RATE = 44100


class Shares(SeparationModel):
    """Each stem is a fixed share of the mixture, whatever the segment: the identity in disguise."""

    def __init__(self, shares=(0.75, 0.25), **spec):
        super().__init__()
        self.register_buffer("shares", torch.tensor(shares)[:, None, None])
        stems = ("vocals", "accompaniment", "other")[: len(shares)]
        defaults = {
            "sample_rate": RATE,
            "channels": 2,
            "context_samples": 0,
            "couples": (stems,),
            "mixture_consistent": True,
            "residual_stem": stems[-1],
        }
        self.spec = ModelSpec(stems=stems, **(defaults | spec))

    def forward(self, mix, track=None):
        return mix[:, None] * self.shares


class FadedShares(Shares):
    """As `Shares`, in segments whose outputs add up by themselves: they fade in and out over their edges."""

    def __init__(self, segment_samples=40, edge_samples=8, **spec):
        super().__init__(
            segment_samples=segment_samples,
            edge_samples=edge_samples,
            lead_samples=edge_samples,
            window="partial_sums",
            default_overlap=0.0,
            **spec,
        )
        fade_in = (torch.arange(edge_samples) + 0.5) / edge_samples
        body = torch.ones(segment_samples - 2 * edge_samples)
        self.register_buffer("fade", torch.cat([fade_in, body, 1 - fade_in]))

    def separate_segment(self, mix, track=None):
        return self(mix * self.fade)


class Convolutions(SeparationModel):
    """A nonlinear network that sees 10 samples to either side and takes what lies outside the song for silence."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv1d(2, 6, 9, padding=4)
        self.second = nn.Conv1d(6, 6, 7, dilation=2, padding=6)
        self.spec = ModelSpec(
            ("vocals", "drums", "other"), RATE, 2, context_samples=10, residual_stem="other", start_grid_samples=1
        )

    def forward(self, mix, track=None):
        return self.second(torch.tanh(self.first(mix))).unflatten(1, (3, 2))


class Strided(SeparationModel):
    """A network of frames of four samples: where a segment starts matters, and five samples to either side."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.encode = nn.Conv1d(2, 8, 8, stride=4, padding=2)
        self.decode = nn.ConvTranspose1d(8, 4, 4, stride=4)
        self.spec = ModelSpec(
            ("vocals", "accompaniment"), RATE, 2, context_samples=5, start_grid_samples=4, length_multiple=4
        )

    def forward(self, mix, track=None):
        samples = mix.shape[-1]
        frames = torch.tanh(self.encode(nn.functional.pad(mix, (0, -samples % 4))))
        return self.decode(frames)[..., :samples].unflatten(1, (2, 2))


class SegmentMean(SeparationModel):
    """Sees its whole segment, so its output depends on how the song is cut."""

    def __init__(self, **spec):
        super().__init__()
        defaults = {"segment_samples": 100, "default_overlap": 0.25, "mixture_consistent": True}
        self.spec = ModelSpec(("vocals", "accompaniment"), RATE, 2, **(defaults | spec))

    def forward(self, mix, track=None):
        mean = mix.mean(-1, keepdim=True).expand_as(mix)
        return torch.stack([mean, mix - mean], 1)


class FrameMeans(SeparationModel):
    """Sees frames of 50 samples from the start of its segment on: any segment will do that starts on their grid."""

    def __init__(self):
        super().__init__()
        self.spec = ModelSpec(("vocals",), RATE, 2, segment_samples=500, start_grid_samples=50)

    def forward(self, mix, track=None):
        return mix.unflatten(-1, (-1, 50)).mean(-1).repeat_interleave(50, -1)[:, None]


class SongMean(SeparationModel):
    """Takes the mean of its own estimates over the whole song, in two passes: of every sample but the one before it."""

    hop = 50

    def __init__(self, sample_rate=RATE, **spec):
        super().__init__()
        frame = TwoPass(self.hop, 2 * self.hop, context_samples=self.hop)
        defaults = {"start_grid_samples": 2 * self.hop, "two_pass": frame, "couples": (("vocals", "accompaniment"),)}
        self.spec = ModelSpec(("vocals", "accompaniment"), sample_rate, 2, **(defaults | spec))

    def estimate(self, mix):
        return mix - 0.5 * nn.functional.pad(mix, (1, 0))[..., :-1]

    def forward(self, mix, track=None):
        estimate = self.estimate(mix)
        mean = estimate.mean(-1, keepdim=True).expand_as(estimate)
        return torch.stack([mean, estimate - mean], 1)

    def analyse(self, mix, start, stop):
        frames = mix.shape[-1] // self.hop + 1
        padded = nn.functional.pad(self.estimate(mix), (0, frames * self.hop - mix.shape[-1]))
        frames = padded.unflatten(-1, (frames, self.hop)).transpose(1, 2).flatten(2)
        yield from frames[:, start:stop].split(7, 1)

    def synthesise(self, read, samples):
        mean = sum(self._wave(frames).sum(-1, keepdim=True) for frames in read()) / samples
        for frames in read():
            wave = self._wave(frames)[..., :samples]
            samples -= wave.shape[-1]
            yield torch.stack([mean.expand_as(wave), wave - mean])

    def _wave(self, frames):
        return frames.unflatten(-1, (2, self.hop)).transpose(0, 1).flatten(1)


class Loudness(SeparationModel):
    """Works on the song brought to mean 0 and deviation 1, as Demucs does."""

    def __init__(self, sample_rate=RATE):
        super().__init__()
        self.spec = ModelSpec(
            ("vocals", "accompaniment"), sample_rate, 2, context_samples=0, track_statistics="mono_mean_std"
        )

    def forward(self, mix, track=None):
        if track is None:
            mono = mix.mean(1)
            track = TrackStatistics(mono.mean().item(), mono.std().item())
        normal = (mix - track.mean) / (track.std + 1e-8)
        return torch.stack([torch.tanh(normal), normal.square()], 1) * track.std + track.mean


class Bag(SeparationModel):
    """One network per stem; those in `couples` need each other, the others can run alone. Counts its runs."""

    def __init__(self, stems=("vocals", "drums", "bass", "other"), couples=(), runs=None):
        super().__init__()
        self.runs = dict.fromkeys(stems, 0) if runs is None else runs
        self.spec = ModelSpec(tuple(stems), RATE, 2, context_samples=0, couples=couples)

    def forward(self, mix, track=None):
        outputs = []
        for stem in self.spec.stems:
            self.runs[stem] += 1
            outputs.append(mix * (0.1 * len(stem)))
        return torch.stack(outputs, 1)

    def narrowed(self, stems):
        bag = Bag(stems, self.spec.couples, self.runs)
        bag.spec = replace(self.spec, stems=self.spec.needed_stems(tuple(stems)))
        return bag


class Fixed(SeparationModel):
    """Vocals are `gain` times the song, the rest is what is left of it: stems beyond full scale on demand."""

    def __init__(self, gain=3.0):
        super().__init__()
        self.gain = gain
        stems = ("vocals", "accompaniment")
        self.spec = ModelSpec(
            stems, RATE, 2, context_samples=0, couples=(stems,), mixture_consistent=True, residual_stem=stems[1]
        )

    def forward(self, mix, track=None):
        return torch.stack([self.gain * mix, (1 - self.gain) * mix], 1)


def noise(samples, channels=2, seed=0, level=0.2):
    """White noise ``[channels, samples]`` with that standard deviation, kept within full scale."""
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((channels, samples))).clip(-0.99, 0.99).astype(np.float32)


def cut(samples, block_samples):
    """Blocks of one size, or of the sizes in a list, over and over."""
    sizes = [block_samples] if isinstance(block_samples, int) else list(block_samples)
    start, turn = 0, 0
    while start < samples.shape[-1]:
        size = sizes[turn % len(sizes)]
        yield samples[..., start : start + size]
        start, turn = start + size, turn + 1


def stream(model, song, *, plan=None, plans=None, rate=None, layout=None, block_samples=4096, **options):
    """What the engine makes of a song: ``[S, C, T]``."""
    layout = layout or unnamed_layout(len(song))
    plans = plans or [plan or Plan.for_model(model.spec)]
    blocks = SongStream(model.eval(), plans, rate or model.spec.sample_rate, layout, **options)
    stems = [np.stack(list(b.stems.values())) for b in blocks.run(cut(song, block_samples))]
    return np.concatenate(stems, -1)


def one_pass(model, song):
    """The network on the whole song at once: ``[S, C, T]``."""
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(song)[None])[0].numpy()


def separator_of(model, name="toy", weights_sha256="0" * 64, **options):
    """A Separator around a network that no file holds."""
    ready = ReadyModel(name, model, "toy", None, weights_sha256)
    with mock.patch("iseparate.engine.separator.load_ready", return_value=ready):
        return Separator(name, **({"device": "cpu", "backend": "eager"} | options))


def write_song(path, samples, rate=RATE, subtype="FLOAT"):
    """A file of that sound, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.T, rate, subtype=subtype)
    return path


def read_sound(path):
    """``[C, T]`` float32 of a file."""
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def decibels(rest, whole):
    """Energy of one against the other."""
    return 10 * np.log10(max(np.square(rest, dtype=np.float64).sum(), 1e-30) / np.square(whole, dtype=np.float64).sum())
