"""What each difference between iSeparate's Demucs of 2022 and the official version 2 does to output or loss.

docs/explanation/predecessor-demucs.md tells them in words, in the same order.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from iseparate.engine.plan import Plan
from iseparate.engine.stream import SongStream
from iseparate.losses import CRITERIA
from iseparate.models._base import SeparationModel
from iseparate.models.demucs import Config, Demucs
from iseparate.types import ModelSpec, TrackStatistics

VERSION_2 = replace(Config.tiny(), widths=(4, 6, 8, 8))
PREDECESSOR = replace(VERSION_2, normalise="all", track_normalised=False)
ITS_PROGRAM = replace(PREDECESSOR, framing="doubled", overlap=0.0)


def network(config):
    torch.manual_seed(0)
    return Demucs(config).eval()


def noise(*shape, seed=0):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- level --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_its_level_is_that_of_each_input_not_of_the_song():
    """A quiet passage is made as loud as a loud one before the network hears it."""
    loud = noise(1, 2, 3000)
    quiet = 0.02 * loud
    statistics = TrackStatistics(loud.mean().item(), loud.std().item())
    as_if_loud = network(PREDECESSOR)(quiet) / 0.02 - network(PREDECESSOR)(loud)
    stays_quiet = network(VERSION_2)(quiet, statistics) / 0.02 - network(VERSION_2)(loud, statistics)
    assert as_if_loud.abs().max() < 0.02
    assert stays_quiet.abs().max() > 0.2


@torch.inference_mode()
def test_its_level_counts_the_silence_of_the_padding():
    """Half of what is heard is padding, so all is about √2 too loud, compared with training, where there is none."""
    model, mix = network(ITS_PROGRAM), noise(1, 2, 3000)
    padding = (ITS_PROGRAM.doubled_samples(3000) - 3000) // 2
    padded = torch.nn.functional.pad(mix, (padding, padding))
    assert mix.std() / model._inner_level(padded)[1] == pytest.approx(2**0.5, rel=0.03)
    # What that gain does to the stems, everything else being equal:
    exact = network(replace(PREDECESSOR, normalise="none"))
    input_, gain = noise(1, 2, PREDECESSOR.input_samples(1000)), 2**0.5
    moved = exact.separate_exactly(gain * input_) / gain - exact.separate_exactly(input_)
    assert moved.abs().max() > 1e-3


# -- lengths ------------------------------------------------------------------------------------------------


def disagreements(config, length):
    """How far apart in the song, in samples, what comes from below and what is added beside it are, layer by layer.

    Last, how much later than an estimate the target lies that training compares it with.
    """
    rate = 2 if config.resample else 1
    lengths = [rate * length]
    for _ in config.widths:
        lengths.append((lengths[-1] - config.kernel_size) // config.stride + 1)
    frames, start, apart = lengths[-1], 0, []
    for level in reversed(range(len(lengths))):
        apart.append(((lengths[level] - frames) // 2 - start) * config.stride**level / rate)
        if level:
            start = (start + (config.context - 1) // 2) * config.stride
            frames = (frames - config.context) * config.stride + config.kernel_size
    return apart


def test_its_layers_disagree_about_the_place():
    """All of them agree at the lengths of version 2; at those of the predecessor by a number that goes by the song."""
    released = Config()
    training = disagreements(released, int(0.88 * 441_000))
    assert training == [0, 0, 128, 160, 160, 162, 163]
    songs = [disagreements(released, released.doubled_samples(n))[-1] for n in range(7_938_000, 7_945_000, 97)]
    assert min(songs) < 20
    assert max(songs) >= 1000
    assert all(not any(disagreements(released, 447_146 + 2048 * k)) for k in range(5))
    assert all(max(disagreements(released, released.input_samples(n))) <= 0.5 for n in range(441_000, 446_000, 97))


@torch.inference_mode()
def test_what_no_convolution_reaches_still_changes_the_whole_output():
    """A hundred samples of silence after the end: the skips move by fifty, what comes from below does not."""
    plain = replace(PREDECESSOR, normalise="none", lstm_layers=0, resample=False, init_deviation=1.0)
    model, x = network(plain), noise(1, 2, plain.input_samples(5700))
    exact = model.separate_exactly(x)
    longer = model.separate_exactly(torch.nn.functional.pad(x, (0, 100)))
    assert longer.shape == exact.shape
    inside = slice(1000, 4000)
    error = [(longer[..., 1000 + k : 4000 + k] - exact[..., inside]).std() for k in range(-60, 61)]
    assert min(error) > 0.05 * exact[..., inside].std()


def test_what_a_wrong_place_costs():
    """The loss of a perfect estimate that is 163 samples early, as a share of that of silence."""
    tone = torch.sin(torch.arange(44100) * (2 * torch.pi * 440 / 44100)).expand(1, 1, 2, -1)
    criterion = CRITERIA["l1"]()
    early = criterion(tone[..., 163:], tone[..., :-163])
    assert early > 1.2 * criterion(torch.zeros_like(tone), tone)


@torch.inference_mode()
def test_it_works_on_twice_the_song():
    released = Config()
    song = 180 * 44100
    assert released.doubled_samples(song) / song == pytest.approx(2, rel=0.001)
    assert released.input_samples(song) / song == pytest.approx(1, rel=0.001)


@torch.inference_mode()
def test_its_framing_changes_the_stems():
    mix = noise(1, 2, 3000)
    ours = network(PREDECESSOR)(mix)
    assert (network(ITS_PROGRAM)(mix) - ours).abs().max() > 0.2 * ours.abs().max()


# -- shifts -------------------------------------------------------------------------------------------------


class Copy(SeparationModel):
    """Every stem is the mixture: what comes out is what the shift trick itself does."""

    def __init__(self):
        super().__init__()
        self.spec = ModelSpec(stems=("a", "b"), sample_rate=1000, channels=1)

    def forward(self, mix, track=None):
        return mix[:, None].repeat(1, 2, 1, 1)


def test_its_shift_trick_loses_the_end_and_moves_the_rest():
    """Rolled by the offset, silence in place of what came around, and cut at another place than it was moved to."""
    mix, most, offset = noise(1, 1, 4000), 500, 300
    rolled = torch.roll(mix, offset, -1)
    rolled[..., :offset] = 0
    theirs = Copy()(rolled)[0, 0, :, most - offset :]
    assert theirs.shape[-1] == 4000 - 200  # another length for each offset: their sum is an error
    assert not torch.allclose(theirs[..., :3500], mix[0, :, :3500], atol=0.1)
    moved = torch.stack([(theirs[..., 500:3000] - mix[0, :, 500 + k : 3000 + k]).abs().max() for k in range(-400, 400)])
    assert moved.argmin() - 400 == 200 - 300
    assert moved.min() < 1e-6

    plan = Plan.for_model(Copy().spec, segment_seconds=1.0)
    plans = [plan.shifted(shift) for shift in (offset, 41)]
    (*blocks,) = SongStream(Copy(), plans, 1000, ("FC",)).run([mix[0].numpy()])
    ours = torch.cat([torch.from_numpy(block.stems["a"]) for block in blocks], -1)
    assert torch.allclose(ours, mix[0], atol=1e-6)


# -- training -----------------------------------------------------------------------------------------------


def test_its_loss_hears_loud_songs_most():
    criterion, stems = CRITERIA["l1"](), noise(2, 4, 2, 3000)
    ratios = []
    for config in (PREDECESSOR, VERSION_2):
        loud, quiet = (network(config).training_loss(x.sum(1), x, criterion)["loss"] for x in (stems, 0.2 * stems))
        ratios.append((quiet / loud).item())
    assert ratios == pytest.approx([0.2, 1.0], rel=1e-3)


@torch.inference_mode()
def test_the_order_of_stems_is_a_name_only():
    order = ("vocals", "drums", "bass", "other")
    mix = noise(1, 2, 1500)
    assert torch.equal(network(replace(PREDECESSOR, stems=order))(mix), network(PREDECESSOR)(mix))
    assert network(replace(PREDECESSOR, stems=order)).spec.stems == order
