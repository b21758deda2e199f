"""What a lossy codec does to a mix is done to its stems."""

from __future__ import annotations

import av
import numpy as np
import pytest

from iseparate.data.synthetic import codec, filters
from iseparate.data.synthetic.codec import Codec
from iseparate.data.synthetic.mixing import summed
from iseparate.data.synthetic.sounds import noise, stream
from iseparate.errors import BackendError

RATE = 44100
STEP = 2.0**-23
CODECS = (Codec("mp3", 128), Codec("aac", 128), Codec("opus", 96), Codec("vorbis", 128))


def stems(samples: int = 2 * RATE) -> dict[str, np.ndarray]:
    rng = stream(1, "codec test")
    hiss = filters.highpass(np.stack([noise(rng, samples), noise(rng, samples)]), 3000.0) * np.float32(0.02)
    hiss *= (np.arange(samples) % 11025 < 3000).astype(np.float32)
    hum = np.tile(np.sin(2 * np.pi * 110.0 * np.arange(samples) / RATE), (2, 1)).astype(np.float32) * np.float32(0.3)
    voice = filters.bandpass(np.stack([noise(rng, samples)] * 2), 300.0, 2500.0) * np.float32(0.1)
    found = {"drums": hiss, "bass": hum, "other": voice, "vocals": np.zeros_like(hum)}
    return {name: np.rint(stem / np.float32(STEP)) * np.float32(STEP) for name, stem in found.items()}


def power_above(sound: np.ndarray, hz: float) -> float:
    power = np.square(np.abs(np.fft.rfft(sound.mean(axis=0) * np.hanning(sound.shape[1]))))
    return float(power[np.fft.rfftfreq(sound.shape[1], 1 / RATE) > hz].sum())


@pytest.mark.parametrize("kept_in", CODECS, ids=str)
def test_the_stems_sum_to_the_coded_mix(kept_in):
    before = stems()
    after = codec.code(before, kept_in)
    assert tuple(after) == tuple(before)
    target = codec.coded(summed(before), kept_in)
    assert np.abs(target - summed(before)).max() > 1e-3, "the codec did something"
    assert np.abs(summed(after) - target).max() <= 4 * STEP
    wide = sum(stem.astype(np.float64) for stem in after.values())
    assert np.array_equal(summed(after), wide)
    for stem in after.values():
        assert stem.dtype == np.float32
        assert np.array_equal(stem, np.rint(stem / np.float32(STEP)) * np.float32(STEP))
    assert not np.any(after["vocals"]), "a silent stem stays silent"


@pytest.mark.parametrize("kept_in", CODECS, ids=str)
def test_a_stem_keeps_what_is_its_own(kept_in):
    before = stems()
    after = codec.code(before, kept_in)
    for name in ("bass", "other"):
        error = after[name] - before[name]
        assert 10 * np.log10(np.square(before[name]).sum() / np.square(error).sum()) > 9.0
    # what the hum's stem got of the noise of the others is a trifle
    assert power_above(after["bass"], 3000.0) < 1e-4 * power_above(after["drums"], 3000.0)


def test_what_the_codec_cuts_off_is_gone_from_all_stems():
    before = stems()
    after = codec.code(before, Codec("mp3", 128))
    for name in ("drums", "other"):
        assert power_above(before[name], 18000.0) > 0
        assert power_above(after[name], 18000.0) < 1e-3 * power_above(before["drums"], 18000.0)
    assert power_above(after["drums"], 5000.0) > 0.5 * power_above(before["drums"], 5000.0)


@pytest.mark.parametrize("kept_in", CODECS, ids=str)
@pytest.mark.parametrize("at", [0, 5000])
def test_the_coded_mix_is_in_its_place(kept_in, at):
    mix = np.zeros((2, RATE), dtype=np.float32)
    mix[:, at : at + 20000] = 0.1 * noise(stream(2, "place"), 20000)
    back = codec.coded(mix, kept_in)
    assert back.shape == mix.shape
    ahead = np.fft.irfft(np.fft.rfft(back[0], 1 << 17) * np.conj(np.fft.rfft(mix[0], 1 << 17)))
    assert int(np.argmax(ahead)) == 0
    beside = ahead[[-1, 1]].max() / ahead[0]
    assert beside < 0.9, "not between two samples either"


def test_what_the_codec_swaps_in_time_or_measures_is_the_same_again():
    kept_in = Codec("aac", 96)
    first, again = codec.code(stems(), kept_in), codec.code(stems(), kept_in)
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_delay_is_measured_not_assumed(monkeypatch):
    codec._delay_samples.cache_clear()
    through = codec._through
    monkeypatch.setattr(codec, "_through", lambda sound, kept_in: np.pad(through(sound, kept_in), ((0, 0), (777, 0))))
    mix = summed(stems(RATE // 2))
    late = codec.coded(mix, Codec("vorbis", 128))
    codec._delay_samples.cache_clear()
    monkeypatch.undo()
    assert np.array_equal(late, codec.coded(mix, Codec("vorbis", 128)))


@pytest.mark.parametrize("samples", [1, 100, 1024, 1025, 70_000])
def test_shares_add_up_at_any_length(samples):
    rng = stream(3, "shares")
    parts = {name: 0.1 * np.stack([noise(rng, samples), noise(rng, samples)]) for name in ("a", "b")}
    target = 0.1 * np.stack([noise(rng, samples), noise(rng, samples)])
    assert np.abs(summed(codec._shared_out(parts, target)) - target).max() < 1e-6
    same = codec._shared_out(parts, summed(parts))
    assert np.abs(same["a"] - parts["a"]).max() < 1e-6, "a codec that does nothing changes no stem"


def test_no_codec_no_change_and_silence_is_not_coded():
    before = stems(RATE)
    assert all(np.array_equal(after, before[name]) for name, after in codec.code(before, None).items())
    silent = {"a": np.zeros((2, 2000), dtype=np.float32)}
    assert not np.any(codec.code(silent, CODECS[0])["a"])


def test_what_would_clip_is_turned_down_together():
    loud = np.sign(np.sin(2 * np.pi * 100.0 * np.arange(RATE) / RATE)).astype(np.float32) * np.float32(0.99)
    square = {"a": np.stack([loud, loud]), "b": np.stack([loud, -loud]) * np.float32(2.0**-10)}
    assert np.abs(codec.coded(summed(square), CODECS[0])).max() > 1.0
    after = codec.code(square, CODECS[0])
    assert np.abs(summed(after)).max() < 1.0


def test_about_half_of_the_songs_are_coded_by_every_codec():
    drawn = [codec.draw(stream(seed, "codec")) for seed in range(400)]
    assert 0.4 < np.mean([kept_in is not None for kept_in in drawn]) < 0.6
    assert {kept_in.name for kept_in in drawn if kept_in} == {"mp3", "aac", "opus", "vorbis"}
    assert str(Codec("mp3", 192)) == "mp3 192 kb/s"


def test_an_encoder_that_is_missing_is_named(monkeypatch):
    def create(name, mode):
        return av.codec.codec.Codec("no such codec", mode)

    monkeypatch.setattr(codec.av.CodecContext, "create", create, raising=False)
    with pytest.raises(BackendError, match="libmp3lame, which this PyAV does not have"):
        codec.coded(np.zeros((2, 1000), dtype=np.float32), Codec("mp3", 320))
