"""The mixing desk and its filters, each for what it does to a signal."""

from __future__ import annotations

import numpy as np
import pytest

from iseparate.data.synthetic import filters, mixing
from iseparate.data.synthetic.sounds import Timbre, in_samples, place, sawtooth, steady_phase, stream

RATE = 44100


def tone(hz: float, samples: int = RATE, level: float = 0.5) -> np.ndarray:
    wave = level * np.sin(2 * np.pi * hz * np.arange(samples) / RATE)
    return np.stack([wave, wave]).astype(np.float32)


def level_db(sound: np.ndarray) -> float:
    return float(10 * np.log10(np.square(sound[:, 4000:-4000], dtype=np.float64).mean() + 1e-20))


@pytest.mark.parametrize(
    ("section", "hz", "expected_db"),
    [
        (filters.bell(1000.0, 6.0, 1.0), 1000.0, 6.0),
        (filters.bell(1000.0, -9.0, 1.0), 1000.0, -9.0),
        (filters.bell(1000.0, 6.0, 2.0), 100.0, 0.0),
        (filters.shelf(1000.0, 6.0, high=True), 10000.0, 6.0),
        (filters.shelf(1000.0, 6.0, high=True), 60.0, 0.0),
        (filters.shelf(1000.0, -6.0, high=False), 60.0, -6.0),
        (filters.shelf(1000.0, -6.0, high=False), 12000.0, 0.0),
    ],
)
def test_equaliser_sections(section, hz, expected_db):
    assert level_db(filters.bands(tone(hz), section)) - level_db(tone(hz)) == pytest.approx(expected_db, abs=0.3)


def test_shaping_with_ones_changes_nothing_and_zeros_silence():
    sound = stream(0, "shape").standard_normal(RATE).astype(np.float32)
    frames = RATE // filters.HOP + 5
    ones = np.ones((frames, filters.FRAME // 2 + 1), dtype=np.float32)
    assert np.abs(filters.shape_frames(sound, ones) - sound)[1000:-1000].max() < 1e-4
    assert not np.any(filters.shape_frames(sound, 0 * ones))


def test_compressor_narrows_the_range():
    loud, soft = tone(300.0), tone(300.0, level=0.05)
    both = np.concatenate([loud, soft, loud], axis=1)
    pressed = mixing.compress(both, stream(3, "press"), chance_of=1.0, ratio=8.0)
    before = level_db(both[:, :RATE]) - level_db(both[:, RATE : 2 * RATE])
    after = level_db(pressed[:, 8000:RATE]) - level_db(pressed[:, RATE + 20000 : 2 * RATE])
    assert after < before - 3.0


def test_a_dry_desk_leaves_sounds_alone_and_draws_all_the_same():
    sound = tone(300.0)
    wet_rng, dry_rng = stream(2, "desk"), stream(2, "desk")
    for effect in (
        lambda rng: mixing.equalise(sound, rng, 3.0),
        lambda rng: mixing.compress(sound, rng, chance_of=1.0),
        lambda rng: mixing.chorus(sound, rng),
        lambda rng: sound + mixing.echo(sound, rng, 0.1),
        lambda rng: sound + mixing.reverb(sound, rng, (0.3, 0.3)),
    ):
        wet = effect(wet_rng)
        with mixing.desk(dry=True):
            dry = effect(dry_rng)
        assert np.array_equal(dry, sound)
        assert not np.array_equal(wet, sound)
        assert wet_rng.random() == dry_rng.random()
    assert not mixing.is_dry()


def test_reverb_lasts_and_falls():
    click = np.zeros((2, 2 * RATE), dtype=np.float32)
    click[:, 100] = 1.0
    wet = mixing.reverb(click, stream(1, "room"), (1.0, 1.0))
    early, late = np.square(wet[:, 2000:12000]).sum(), np.square(wet[:, 32000:42000]).sum()
    assert not np.any(np.abs(wet[:, :100]) > 1e-6)
    assert 1e-8 < late / early < 0.05


def test_a_room_is_heard_after_the_sound_has_travelled_and_then_falls():
    for seed in range(5):
        response = mixing.room(stream(seed, "box"))
        assert response.shape[0] == 2
        assert np.square(response, dtype=np.float64).sum(axis=1).mean() == pytest.approx(1.0, abs=1e-5)
        strongest = float(np.abs(response).max())
        first = int(np.argmax(np.abs(response).max(axis=0) > 0.1 * strongest))
        assert 1.0 / 343.0 < first / RATE < 4.0 / 343.0, "the pair is one to some three metres away"
        assert np.abs(response[:, : int(0.8 * RATE / 343.0)]).max() < 0.1 * strongest
        left = np.cumsum(np.square(response[0, ::-1]))[::-1]
        half = len(left) // 2
        assert left[half] < 0.02 * left[0]
        assert np.abs(response[0] - response[1]).max() > 0.1 * strongest, "two ears, two places"


def test_the_walls_of_a_box_mirror_the_source():
    size, source, ear = np.array([5.0, 4.0, 3.0]), np.array([1.0, 1.0, 1.0]), np.array([3.0, 1.0, 1.0])
    heard = mixing._mirror_images(size, source, ear, 0.5, 2000)

    def at(metres: float) -> float:
        return float(heard[round(metres * RATE / 343.0)])

    assert at(2.0) == pytest.approx(1 / 2.0)  # straight
    # floor and the wall at y = 0 are a metre away from both, so their images are alike
    assert at(np.hypot(2.0, 2.0)) == pytest.approx(2 * 0.5 / np.hypot(2.0, 2.0))
    assert at(4.0) > 0.5 / 4.0 - 1e-6  # the wall behind the source
    assert not np.any(heard[: round(2.0 * RATE / 343.0)])


def test_a_sweep_takes_what_is_above_its_cutoff_as_it_moves():
    high = tone(4000.0, 2 * RATE)
    frames = 2 * RATE // filters.HOP
    closing = np.where(np.arange(frames) < frames // 2, 16000.0, 500.0)
    swept = mixing.sweep(high, closing, 0.0)
    assert level_db(swept[:, :RATE]) == pytest.approx(level_db(high[:, :RATE]), abs=0.5)
    assert level_db(swept[:, RATE:]) == pytest.approx(level_db(high[:, RATE:]) - 36.0, abs=3.0)


def test_echoes_come_on_time():
    click = np.zeros((2, RATE), dtype=np.float32)
    click[:, 0] = 1.0
    wet = np.square(mixing.echo(click, stream(1, "echo"), 0.25)).sum(axis=0)
    assert abs(int(np.argmax(wet)) - in_samples(0.25)) < 60
    assert not np.any(wet[: in_samples(0.25) - 1] > 1e-9)


def test_the_pump_dips_after_a_kick_and_recovers():
    gain = mixing.pump(RATE, [0.2], 0.8, 0.05)
    assert gain[: in_samples(0.2)].min() == 1.0
    assert gain.min() < 0.4
    assert gain[in_samples(0.8)] > 0.99


def test_master_is_the_same_gain_for_all_stems():
    rng = stream(5, "stems")
    stems = {name: (3.0 * rng.standard_normal((2, RATE))).astype(np.float32) for name in ("a", "b")}
    done = mixing.master(stems, stream(5, "master"), -10.0)
    total = done["a"] + done["b"]
    assert np.abs(total).max() < 1.0
    assert np.array_equal(total, done["a"].astype(np.float64) + done["b"])
    # a stem twice as loud comes out twice as loud: what was done to both is one and the same
    doubled = mixing.master({"a": stems["a"], "b": 0.5 * stems["a"]}, stream(5, "master"), -10.0)
    assert np.abs(doubled["a"] - 2.0 * doubled["b"]).max() < 4 * 2.0**-23


def test_master_of_silence_is_silence():
    silent = {"a": np.zeros((2, 1000), dtype=np.float32)}
    assert not np.any(mixing.master(silent, stream(0, "master"), -10.0)["a"])


def test_the_limiter_keeps_its_word():
    bursts = (stream(2, "bursts").standard_normal((2, 3 * RATE)) * 0.1).astype(np.float32)
    bursts[:, 30000:30050] *= 80.0
    bursts[:, 70000] = 9.0
    limited = bursts * mixing._limiter_gain(bursts, 0.9)
    assert np.abs(limited).max() <= 0.9 + 1e-5
    assert level_db(limited[:, 100000:]) == pytest.approx(level_db(bursts[:, 100000:]), abs=0.1)  # it lets go again


def test_oscillators_do_not_fold_back():
    hz = 3000.0
    wave = Timbre(sawtooth()).sound(steady_phase(RATE, hz), hz, 17000.0)
    power = np.square(np.abs(np.fft.rfft(wave * np.hanning(RATE))))
    harmonic = np.zeros(len(power), dtype=bool)
    for number in range(1, 8):
        harmonic[int(number * hz) - 3 : int(number * hz) + 4] = True
    assert power[~harmonic].sum() / power.sum() < 1e-7


def test_placing_at_the_edges():
    bus = np.zeros((2, 10), dtype=np.float32)
    place(bus, np.arange(1, 6, dtype=np.float32), -2)
    assert bus[0].tolist() == [3, 4, 5, 0, 0, 0, 0, 0, 0, 0]
    place(bus, np.ones(5, dtype=np.float32), 8, 1.0, 0.5)
    assert bus[:, 8:].tolist() == [[1, 1], [0.5, 0.5]]
    place(bus, np.ones(5, dtype=np.float32), 50)
    place(bus, np.ones(5, dtype=np.float32), -50)
    assert bus.sum() == 27
