"""What an ideal filter must do, whoever wrote it."""

from __future__ import annotations

import numpy as np
import pytest

from iseparate.errors import AudioFormatError, UnknownModelError
from iseparate.evaluate.oracle import ORACLES, is_oracle, oracle

ANY = sorted(ORACLES)
OURS = ["irm1", "irm2", "ibm1", "ibm2", "mwf"]


def stems(samples=30_000, channels=2, seed=0, count=3):
    """Noises of different colour, envelope and place."""
    chance = np.random.default_rng(seed)
    made = {}
    for i in range(count):
        noise = chance.standard_normal((channels, samples + 64))
        coloured = np.stack([np.convolve(c, np.hanning(4 + 9 * i), "same") for c in noise])[:, :samples]
        envelope = 0.55 + 0.45 * np.sin(np.arange(samples) / (500 + 900 * i) + i)
        width = np.eye(channels) + 0.6 * chance.standard_normal((channels, channels))
        made[f"stem{i}"] = 0.1 * (width @ (coloured * envelope))
    return made


def mixture(references):
    return sum(references.values())


def sdr(reference, estimate):
    return 10 * np.log10((reference**2).sum() / ((reference - estimate) ** 2).sum())


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("samples", [1, 2, 1023, 1024, 1025, 5000])
def test_estimates_have_the_mixtures_shape_and_type(name, samples):
    references = {k: v.astype(np.float32) for k, v in stems(samples).items()}
    estimates = oracle(name).separate(mixture(references), references)
    assert list(estimates) == list(references)
    for estimate in estimates.values():
        assert estimate.shape == (2, samples)
        assert estimate.dtype == np.float32
        assert np.isfinite(estimate).all()


@pytest.mark.parametrize("name", ANY)
def test_each_stem_is_nearer_than_the_mixture_is(name):
    references = stems()
    mix = mixture(references)
    for stem, estimate in oracle(name).separate(mix, references).items():
        assert sdr(references[stem], estimate) > sdr(references[stem], mix) + 3


@pytest.mark.parametrize("name", ANY)
def test_inputs_are_left_alone(name):
    references = stems()
    mix = mixture(references)
    before = [mix.copy(), *(r.copy() for r in references.values())]
    oracle(name).separate(mix, references)
    assert all(np.array_equal(a, b) for a, b in zip(before, [mix, *references.values()], strict=True))


@pytest.mark.parametrize("name", ["irm1", "irm2", "mwf"])
def test_ratio_masks_and_wiener_filters_lose_nothing(name):
    references = stems()
    mix = mixture(references)
    assert sdr(mix, mixture(oracle(name).separate(mix, references))) > 100


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("gain", [1e-5, 1e3])
def test_a_quiet_song_is_filtered_like_a_loud_one(name, gain):
    references = stems()
    loud = oracle(name).separate(mixture(references), references)
    scaled = {k: v * gain for k, v in references.items()}
    for stem, estimate in oracle(name).separate(mixture(scaled), scaled).items():
        assert sdr(loud[stem], estimate / gain) > 100


@pytest.mark.parametrize("name", OURS)
def test_what_is_alone_in_its_band_comes_back(name):
    """Two tones, far apart: any filter that knows the answer must find them."""
    time = np.arange(40_000) / 44_100
    references = {
        "low": np.outer([0.5, 0.3], np.sin(2 * np.pi * 440 * time)),
        "high": np.outer([0.1, 0.4], np.sin(2 * np.pi * 5000 * time)),
    }
    for stem, estimate in oracle(name).separate(mixture(references), references).items():
        inside = slice(4096, -4096)
        assert sdr(references[stem][:, inside], estimate[:, inside]) > 55


def test_powers_bind_tighter_than_magnitudes():
    """The squared share of the louder of two is nearer to one."""
    references = stems(count=2)
    mix = mixture(references)
    one, two = (oracle(name).separate(mix, references)["stem0"] for name in ("irm1", "irm2"))
    assert np.abs(one - two).max() > 1e-3


def test_a_wiener_filter_tells_directions_apart():
    """Same spectrum everywhere, left and right: no mask per channel knows more than the level, the matrices do."""
    chance = np.random.default_rng(3)
    references = {
        "left": np.outer([1.0, 0.9], chance.standard_normal(60_000)),
        "right": np.outer([0.9, -1.0], chance.standard_normal(60_000)),
    }
    mix = mixture(references)
    masked, filtered = (oracle(name).separate(mix, references) for name in ("irm2", "mwf"))
    for stem, reference in references.items():
        assert sdr(reference, filtered[stem]) > 40
        assert sdr(reference, masked[stem]) < 20


def test_binary_masks_give_a_bin_to_one_stem_at_most():
    references = stems()
    mix = mixture(references)
    exclusive, program = (sum(oracle(n).separate(mix, references).values()) for n in ("ibm1", "ibm1-official"))
    assert (exclusive**2).sum() < (mix**2).sum() < (program**2).sum()


def test_stems_that_cancel_have_no_majority_of_their_sum_but_one_each_of_the_mixture():
    tune = stems(count=1)["stem0"]
    references = {"a": tune, "b": tune, "c": -0.5 * tune}  # shares of the sum: 40, 40, 20 %; of the mixture: 67, 67, 33
    mix = mixture(references)
    for estimate in oracle("ibm1").separate(mix, references).values():
        assert not estimate.any()
    program = oracle("ibm1-official").separate(mix, references)
    assert sdr(mix, program["a"]) > 100
    assert sdr(mix, program["b"]) > 100
    assert not program["c"].any()


@pytest.mark.parametrize("name", OURS)
def test_silence_is_silent(name):
    silence = np.zeros((2, 5000))
    for estimate in oracle(name).separate(silence, {"a": silence, "b": silence}).values():
        assert not estimate.any()


@pytest.mark.parametrize("name", OURS)
def test_a_silent_stem_stays_silent_and_disturbs_none(name):
    references = stems()
    mix = mixture(references)
    without = oracle(name).separate(mix, references)
    estimates = oracle(name).separate(mix, {**references, "none": np.zeros_like(mix)})
    assert not estimates.pop("none").any()
    assert all(np.allclose(estimates[stem], without[stem], atol=1e-9) for stem in references)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_channels(name, channels):
    references = stems(8000, channels)
    estimates = oracle(name).separate(mixture(references), references)
    assert all(sdr(references[stem], estimate) > 0 for stem, estimate in estimates.items())


def test_a_wiener_filter_of_one_channel_is_the_ratio_mask_of_powers():
    references = stems(8000, channels=1)
    filtered, masked = (oracle(name).separate(mixture(references), references) for name in ("mwf", "irm2"))
    for stem in references:
        assert sdr(masked[stem], filtered[stem]) > 90


# -- names and complaints -------------------------------------------------------------------------------------


def test_short_names_are_the_programs_defaults():
    assert oracle("irm") == oracle("irm2")
    assert oracle("ibm") == oracle("ibm1")
    assert is_oracle("irm")
    assert is_oracle("mwf-official")
    assert not is_oracle("spleeter-2stems")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownModelError, match="no oracle is called 'irm3'; there is irm"):
        oracle("irm3")


GOOD = np.zeros((2, 100))
BAD = {
    "no references": (GOOD, {}, "needs the true stems"),
    "one axis": (GOOD[0], {"a": GOOD[0]}, r"the mixture has the shape \[100\]"),
    "no samples": (GOOD[:, :0], {"a": GOOD[:, :0]}, "none of them 0"),
    "other length": (GOOD, {"a": GOOD[:, :99]}, r"'a' has the shape \[2, 99\] and the mixture \[2, 100\]"),
    "integers": (GOOD, {"a": GOOD.astype(np.int16)}, "'a' holds int16"),
    "nan": (GOOD, {"a": GOOD * np.nan}, "'a' holds NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_sentence(case):
    mix, references, sentence = BAD[case]
    with pytest.raises(AudioFormatError, match=sentence):
        oracle("irm2").separate(mix, references)


def test_the_programs_wiener_filter_says_where_it_is_undefined():
    references = stems()
    with pytest.raises(AudioFormatError, match="mwf-official is undefined"):
        oracle("mwf-official").separate(
            mixture(references), {**references, "none": np.zeros_like(GOOD, shape=(2, 30_000))}
        )
    mono = stems(channels=1)
    with pytest.raises(AudioFormatError, match="two channels and 1 came; use mwf"):
        oracle("mwf-official").separate(mixture(mono), mono)
