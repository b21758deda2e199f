"""Each augmentation does to the signal what it says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iseparate.data.augment import (
    AUGMENTATIONS,
    BATCH_AUGMENTATIONS,
    Draws,
    FlipSign,
    Gain,
    Loudness,
    Narrow,
    PitchTempo,
    Remix,
    Room,
    Saturate,
    Shift,
    SmoothEq,
    Speed,
    SwapChannels,
    Tilt,
    augment,
    input_samples,
)
from iseparate.errors import UsageError

RATE = 44_100


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn(4, 3, 2, 4000, generator=torch.Generator().manual_seed(0)) * 0.1


def tone(hz: float, seconds: float = 2.0, level: float = 0.3) -> torch.Tensor:
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (level * torch.sin(2 * np.pi * hz * t)).float().expand(1, 2, -1)


def loudest_hz(sound: torch.Tensor) -> float:
    middle = sound[..., 4000:-4000].flatten(0, -2)[0].double()
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle), dtype=torch.float64), 1 << 20).abs()
    return float(spectrum.argmax()) * RATE / (1 << 20)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_a_function_of_its_draws(name, batch):
    if name in ("pitch_tempo", "loudness"):
        pytest.importorskip({"pitch_tempo": "python_stretch", "loudness": "pyloudnorm"}[name])
    make = AUGMENTATIONS[name](**({"max_seconds": 0.01} if name == "shift" else {}))
    before = batch.clone()
    first, again, other = (make(batch, RATE, Draws(1, 2, k)) for k in (3, 3, 4))
    assert torch.equal(first, again)
    assert name in ("loudness", "pitch_tempo", "speed") or not torch.equal(first, other)
    assert torch.equal(batch, before), "what came must be left as it was"
    assert first.shape[:-1] == batch.shape[:-1]
    assert first.isfinite().all()


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name not in ("pitch_tempo", "loudness")])
def test_one_excerpt_and_a_batch_are_both_taken(name, batch):
    make = AUGMENTATIONS[name](**({"max_seconds": 0.01} if name == "shift" else {}))
    assert make(batch[0], RATE, Draws(1)).shape == make(batch, RATE, Draws(1)).shape[1:]


@pytest.mark.parametrize("name", BATCH_AUGMENTATIONS)
def test_two_processes_with_half_a_batch_do_what_one_does(name, batch):
    make = BATCH_AUGMENTATIONS[name](**{"shift": {"max_seconds": 0.01}, "remix": {"group": 2}}.get(name, {}))
    whole = make(batch, RATE, Draws(7, 8))
    halves = [make(batch[2 * rank :][:2], RATE, Draws(7, 8, rank=rank, world=2)) for rank in (0, 1)]
    assert torch.allclose(torch.cat(halves), whole, atol=1e-6)


def test_gain_scales_each_stem_by_its_own_factor_in_range(batch):
    ones = torch.ones(2000, 2, 2, 1)
    gains = Gain(0.25, 1.25)(ones, RATE, Draws(0))
    assert gains.min() >= 0.25
    assert gains.max() < 1.25
    assert gains.mean() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(gains[:, :, 0], gains[:, :, 1]), "channels of one stem belong together"
    assert not torch.equal(gains[:, 0], gains[:, 1])


def test_swapped_channels_are_the_same_channels():
    stems = torch.tensor([1.0, 2.0])[:, None].expand(1000, 1, 2, 1)
    swapped = SwapChannels(0.3)(stems, RATE, Draws(0))
    assert torch.equal(swapped.sum(2), stems.sum(2))
    assert (swapped[:, 0, 0, 0] == 2).float().mean() == pytest.approx(0.3, abs=0.05)
    assert torch.equal(SwapChannels(1)(stems[:, :, :1], RATE, Draws(0)), stems[:, :, :1])


def test_flipped_signs(batch):
    flipped = FlipSign(0.5)(batch, RATE, Draws(0)) / batch
    assert set(flipped[..., 0].flatten().tolist()) == {1.0, -1.0}
    assert torch.equal(FlipSign(0)(batch, RATE, Draws(0)), batch)


def test_shift_cuts_each_stem_at_its_own_start():
    ramp = torch.arange(200.0).expand(50, 3, 2, 200)
    shifted = Shift(max_seconds=100 / RATE)(ramp, RATE, Draws(0))
    assert shifted.shape[-1] == 100
    starts = shifted[..., 0]
    assert torch.equal(shifted, starts[..., None] + torch.arange(100.0))
    assert (starts.min(), starts.max()) == (0, 100), "the whole range, both ends"
    assert not torch.equal(starts[:, 0], starts[:, 1])
    together = Shift(100 / RATE, together=True)(ramp, RATE, Draws(0))[..., 0]
    assert torch.equal(together[:, 0], together[:, 1])
    assert len(set(together[:, 0, 0].tolist())) > 10


def test_narrowing_keeps_the_middle_and_shrinks_the_sides(batch):
    narrowed = Narrow(1.0, 0.3, 0.3)(batch, RATE, Draws(0))
    assert torch.allclose(narrowed.mean(2), batch.mean(2), atol=1e-6)
    assert torch.allclose(narrowed[:, :, 0] - narrowed[:, :, 1], 0.3 * (batch[:, :, 0] - batch[:, :, 1]), atol=1e-6)
    mono = Narrow(1.0, 0.0, 0.0)(batch, RATE, Draws(0))
    assert torch.allclose(mono[:, :, 0], mono[:, :, 1], atol=1e-7)
    assert torch.allclose(Narrow(0.0)(batch, RATE, Draws(0)), batch, atol=1e-6)


@pytest.mark.parametrize("octaves", [-2, -1, 0, 1, 2])
def test_tilt_raises_octaves_by_its_slope(octaves):
    draws = Draws(5)
    slope = float(draws.uniform((1,), -6, 6))
    stem = tone(1000 * 2.0**octaves)
    level = Tilt(1.0, 6.0)(stem, RATE, Draws(5))[..., 5000:-5000].std() / stem[..., 5000:-5000].std()
    assert 20 * torch.log10(level) == pytest.approx(slope * octaves, abs=0.1)


def test_tilt_neither_delays_nor_wraps_around():
    click = torch.zeros(1, 1, 4000)
    click[..., 10] = 1
    tilted = Tilt(1.0, 3.0)(click, RATE, Draws(1))
    assert tilted.abs().argmax() == 10
    assert tilted[..., 2000:].abs().max() < 1e-3


@pytest.mark.parametrize("hz", [20.0, 63.0, 1000.0, 5000.0])
def test_smooth_eq_is_a_sum_of_cosines_over_log_frequency(hz):
    amplitudes = Draws(5).normal((1, 3), 2.0)[0].double().numpy()
    place = np.log2(hz / 20) / np.log2(1000)
    expected_db = sum(a * np.cos(np.pi * k * place) for k, a in enumerate(amplitudes, 1))
    stem = tone(hz, 4.0)
    level = SmoothEq(1.0, 2.0, 3)(stem, RATE, Draws(5))[..., 30000:-30000].std() / stem[..., 30000:-30000].std()
    assert 20 * float(torch.log10(level)) == pytest.approx(expected_db, abs=0.1)


def test_smooth_eq_draws_for_each_stem_and_both_channels_alike():
    clicks = torch.zeros(100, 2, 2, 2000)
    clicks[..., 1000] = 1
    after = SmoothEq(0.6)(clicks, RATE, Draws(3))
    assert torch.equal(after[:, :, 0], after[:, :, 1])
    left_alone = (after == clicks).all(-1).all(-1)
    assert left_alone.float().mean() == pytest.approx(0.4, abs=0.1)
    changed = after[~left_alone][:, 0]
    assert not torch.equal(changed[0], changed[1])
    gains_db = 20 * torch.log10(torch.fft.rfft(changed, 1 << 16).abs())
    assert gains_db[:, 1000:20000].std() == pytest.approx(3.2, abs=0.8)
    assert gains_db.abs().max() < 25


@pytest.mark.parametrize("samples", [1, 100, 8192, 57_345, 264_600])
def test_filters_neither_delay_nor_wrap_around(samples):
    click = torch.zeros(1, 1, samples)
    click[..., 0] = 1
    for make in (SmoothEq(1.0, 3.0), Tilt(1.0, 3.0)):
        filtered = make(click, RATE, Draws(1))
        assert filtered.shape == click.shape
        assert filtered.abs().argmax() == 0
        assert samples < 8192 or filtered[..., samples // 2 :].abs().max() < 1e-3


@pytest.mark.parametrize(
    "values", [{"probability": 2}, {"deviation_db": -1}, {"deviation_db": float("nan")}, {"cosines": 0}]
)
def test_smooth_eq_refuses(values):
    with pytest.raises(UsageError, match="expected a number from"):
        SmoothEq(**values)


def test_smooth_eq_refuses_half_a_cosine():
    with pytest.raises(UsageError, match="whole number"):
        SmoothEq(cosines=2.5)


def test_saturation_flattens_peaks_and_keeps_the_level():
    sound = tone(200.0) * torch.linspace(0.1, 1.0, 2 * RATE)
    driven = Saturate(1.0, 12.0, 12.0)(sound, RATE, Draws(1))

    def crest(some):
        return float(some.abs().max() / some.square().mean().sqrt())

    assert driven.square().mean().item() == pytest.approx(sound.square().mean().item(), rel=1e-4)
    assert crest(driven) < 0.6 * crest(sound)
    gentle = Saturate(1.0, -40.0, -40.0)(sound, RATE, Draws(1))
    assert torch.allclose(gentle, sound, atol=1e-3)
    silence = torch.zeros(1, 2, 100)
    assert torch.equal(Saturate(1.0)(silence, RATE, Draws(1)), silence)


def test_a_room_follows_the_sound_with_the_energy_and_the_fall_that_were_asked():
    click = torch.zeros(2, 2, RATE)
    click[..., 1000] = 1.0
    heard = Room(1.0, 0.3, 0.3, -10.0, -10.0)(click, RATE, Draws(3)).double()
    assert torch.equal(heard[..., :999].float().abs() < 1e-4, torch.ones(2, 2, 999, dtype=torch.bool))
    tail = heard - click
    energy_db = 10 * torch.log10(tail.square().sum(-1))
    assert torch.allclose(energy_db, torch.full((2, 2), -10.0, dtype=torch.float64), atol=0.1)
    early, late = (tail[..., at : at + 2000].square().mean(-1) for at in (1000, 1000 + round(0.15 * RATE)))
    assert torch.allclose(10 * torch.log10(early / late), torch.full((2, 2), 30.0, dtype=torch.float64), atol=1.5)
    assert abs(float(torch.corrcoef(tail[0])[0, 1])) < 0.1, "each side has noise of its own"
    assert Room(1.0, 5.0, 9.0)(click[..., :10], RATE, Draws(3)).shape == (2, 2, 10)


def test_pitch_and_tempo_move_alone():
    pytest.importorskip("python_stretch")
    stem = tone(440, 2.5)
    for seed in range(3):
        draws = Draws(seed)
        semitones = int(draws.integers((), -3, 3))
        up = PitchTempo(1.0, max_semitones=3, tempo_deviation_percent=0)(stem, RATE, Draws(seed))
        assert loudest_hz(up) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.004)
        assert up.std() == pytest.approx(float(stem.std()), rel=0.1)


def test_a_faster_tempo_brings_events_earlier_at_the_same_pitch():
    pytest.importorskip("python_stretch")
    draws = Draws(3)
    draws.integers((), 0, 0)
    tempo = 1 + float(draws.normal((), 10.0).clamp(-12, 12)) / 100
    sound = torch.zeros(1, 2, 3 * RATE)
    sound[..., 2 * RATE : 2 * RATE + 8000] = tone(440)[..., :8000]
    fast = PitchTempo(1.0, max_semitones=0, tempo_deviation_percent=10)(sound, RATE, Draws(3))
    centre = (fast[0, 0].square() * torch.arange(fast.shape[-1])).sum() / fast[0, 0].square().sum()
    assert abs(tempo - 1) > 0.02
    assert float(centre) == pytest.approx((2 * RATE + 4000) / tempo, abs=600)


def test_stems_of_an_excerpt_change_together():
    pytest.importorskip("python_stretch")
    stems = tone(440).expand(2, 2, -1)
    changed = PitchTempo(1.0)(stems, RATE, Draws(1))
    assert torch.equal(changed[0], changed[1])
    apart = PitchTempo(1.0, together=False)(stems, RATE, Draws(1))
    assert not torch.equal(apart[0], apart[1])
    assert torch.equal(PitchTempo(0.0)(stems, RATE, Draws(1)), stems[..., : changed.shape[-1]])


def test_speed_moves_pitch_by_its_factor():
    factor = float(Draws(2).uniform((), 0.8, 1.2))
    played = Speed(1.0, 0.8, 1.2)(tone(440), RATE, Draws(2))
    assert loudest_hz(played) == pytest.approx(440 * factor, rel=0.002)
    assert played.shape[-1] == int(2 * RATE / 1.2)


def test_loudness_is_reached():
    pyloudnorm = pytest.importorskip("pyloudnorm")
    stems = torch.stack([tone(500)[0], tone(700, level=0.01)[0]])
    meter = pyloudnorm.Meter(RATE)
    of_mix = Loudness(-20, -20)(stems, RATE, Draws(0))
    assert meter.integrated_loudness(of_mix.sum(0).T.numpy()) == pytest.approx(-20, abs=0.05)
    assert torch.allclose(of_mix[0] / of_mix[1].abs().max(), stems[0] / stems[1].abs().max(), atol=1e-4), "one gain"
    for stem in Loudness(-23, -23, of="stems", max_gain_db=60)(stems, RATE, Draws(0)):
        assert meter.integrated_loudness(stem.T.numpy()) == pytest.approx(-23, abs=0.05)
    silence = torch.zeros(2, 2, RATE)
    assert torch.equal(Loudness()(silence, RATE, Draws(0)), silence)
    assert torch.equal(Loudness()(stems[..., :100], RATE, Draws(0)), stems[..., :100]), "too short to measure"


def test_remix_moves_stems_within_their_groups_only():
    numbers = torch.arange(8.0)[:, None, None, None].expand(8, 4, 2, 3)
    mixed = Remix(group=4)(numbers, RATE, Draws(1))[:, :, 0, 0]
    for group in (slice(0, 4), slice(4, 8)):
        for stem in range(4):
            assert sorted(mixed[group, stem].tolist()) == list(map(float, range(8)))[group]
    assert len({tuple(column) for column in mixed.T.tolist()}) > 1, "each stem has its own order"
    assert torch.equal(Remix(group=4, probability=0)(numbers, RATE, Draws(1)), numbers)


def test_remix_refuses_what_it_cannot_group():
    with pytest.raises(UsageError, match="groups of 4"):
        Remix()(torch.zeros(6, 2, 2, 5), RATE, Draws(0))
    with pytest.raises(UsageError, match="batch_augment"):
        Remix()(torch.zeros(2, 2, 5), RATE, Draws(0))


@pytest.mark.parametrize("samples", [1000, 12_345, 44_101])
def test_a_chain_leaves_exactly_what_was_asked(samples):
    chain = [Gain(), Shift(0.1), Speed(1.0, 0.9, 1.1), Speed(0.5, 0.8, 0.9)]
    try:
        import python_stretch  # noqa: F401

        chain.append(PitchTempo(1.0))
    except ImportError:
        pass
    stems = torch.randn(2, 2, input_samples(chain, samples, RATE))
    for seed in range(4):
        assert augment(chain, stems, RATE, Draws(seed), samples).shape == (2, 2, samples)


@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [
        ("gain", {"low": 1.0, "high": 0.5}, "order"),
        ("gain", {"low": -1}, "low"),
        ("gain", {"low": "loud"}, "low"),
        ("swap_channels", {"probability": 1.5}, "probability"),
        ("shift", {"max_seconds": float("nan")}, "max_seconds"),
        ("pitch_tempo", {"max_semitones": 1.5}, "whole"),
        ("pitch_tempo", {"max_tempo_percent": 300}, "max_tempo_percent"),
        ("loudness", {"of": "drums"}, "mixture or stems"),
        ("tilt", {"pivot_hz": 0}, "pivot_hz"),
        ("saturate", {"low_db": 6.0}, "order"),
        ("saturate", {"high_db": 90.0}, "high_db"),
        ("room", {"low_seconds": 0.0}, "low_seconds"),
        ("room", {"high_seconds": 60.0}, "high_seconds"),
        ("remix", {"group": 0}, "group"),
    ],
)
def test_ranges_are_checked_when_it_is_made(name, arguments, word):
    with pytest.raises(UsageError, match=word):
        (AUGMENTATIONS | BATCH_AUGMENTATIONS)[name](**arguments)


def test_a_shift_longer_than_the_stems_is_refused():
    with pytest.raises(UsageError, match="shifted"):
        Shift(1.0)(torch.zeros(1, 2, 100), RATE, Draws(0))
