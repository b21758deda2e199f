from __future__ import annotations

import numpy as np
import pytest
from toy_models import RATE, Bag, noise

from iseparate.engine.request import computed_stems, resolve_outputs
from iseparate.errors import UnknownStemError, UsageError
from iseparate.types import ModelSpec

TWO = ModelSpec(("vocals", "accompaniment"), RATE, 2, couples=(("vocals", "accompaniment"),))
FOUR_STEMS = ("vocals", "drums", "bass", "other")
FOUR = ModelSpec(FOUR_STEMS, RATE, 2, couples=(FOUR_STEMS,))
LOOSE = Bag().spec
HALF_LOOSE = Bag(couples=(("drums", "bass"),)).spec


def names(outputs):
    return [output.name for output in outputs]


def rendered(spec, outputs):
    """What the outputs are of a song of ones whose stems are 1, 2, 4, 8."""
    stems = {name: np.full((2, 3), 2.0**i, np.float32) for i, name in enumerate(spec.stems)}
    mix = np.full((2, 3), 100, np.float32)
    return {output.name: float(output.render(mix, stems)[0, 0]) for output in outputs}


def test_all_stems_are_the_default():
    assert names(resolve_outputs(FOUR)) == list(FOUR_STEMS)


def test_stems_come_in_the_order_asked_and_once():
    assert names(resolve_outputs(FOUR, ["bass", "vocals", "bass"])) == ["bass", "vocals"]


@pytest.mark.parametrize("alias", ["accompaniment", "instrumental", "no_vocals"])
def test_the_song_without_its_singer_goes_by_many_names(alias):
    assert names(resolve_outputs(TWO, [alias])) == ["accompaniment"]
    assert rendered(FOUR, resolve_outputs(FOUR, [alias])) == {"no_vocals": 2 + 4 + 8}


def test_an_alias_beside_the_stem_it_means_is_one_output():
    assert names(resolve_outputs(TWO, ["instrumental", "accompaniment"])) == ["accompaniment"]


def test_two_stems_of_a_coupled_model_add_up_the_others():
    assert rendered(FOUR, resolve_outputs(FOUR, two_stems="vocals")) == {"vocals": 1, "no_vocals": 14}
    assert rendered(TWO, resolve_outputs(TWO, two_stems="vocals")) == {"vocals": 1, "no_vocals": 2}


def test_two_stems_of_independent_networks_take_the_one_from_the_song():
    outputs = resolve_outputs(LOOSE, two_stems="drums")
    assert rendered(LOOSE, outputs) == {"drums": 2, "no_drums": 98}
    assert computed_stems(LOOSE, outputs) == ("drums",)


@pytest.mark.parametrize("spec", [FOUR, LOOSE])
@pytest.mark.parametrize("alias", ["instrumental", "no_vocals", "accompaniment"])
def test_two_stems_by_an_alias_are_the_same_two(spec, alias):
    by_alias = rendered(spec, resolve_outputs(spec, two_stems=alias))
    assert by_alias == rendered(spec, resolve_outputs(spec, two_stems="vocals"))


def test_exactly_the_needed_networks_run():
    def needed(spec, stems):
        return computed_stems(spec, resolve_outputs(spec, stems))

    assert needed(LOOSE, ["other"]) == ("other",)
    assert needed(LOOSE, ["bass", "vocals"]) == ("vocals", "bass")
    assert needed(HALF_LOOSE, ["bass"]) == ("drums", "bass")
    assert needed(HALF_LOOSE, ["vocals"]) == ("vocals",)
    assert needed(FOUR, ["bass"]) == FOUR_STEMS
    assert needed(LOOSE, ["instrumental"]) == ("vocals",)


def test_the_residual_is_what_all_stems_leave():
    outputs = resolve_outputs(FOUR, ["vocals"], residual=True)
    assert rendered(FOUR, outputs) == {"vocals": 1, "residual": 100 - 15}
    assert computed_stems(LOOSE, resolve_outputs(LOOSE, ["vocals"], residual=True)) == LOOSE.stems


def test_rendering_leaves_mixture_and_stems_alone():
    mix, stems = noise(50), {name: noise(50, seed=i) for i, name in enumerate(FOUR_STEMS)}
    before = mix.copy(), {name: stem.copy() for name, stem in stems.items()}
    for output in resolve_outputs(FOUR, ["vocals", "no_vocals"], residual=True):
        assert output.render(mix, stems).dtype == np.float32
    assert np.array_equal(mix, before[0])
    assert all(np.array_equal(stems[name], before[1][name]) for name in stems)


def test_an_unknown_stem_is_told_with_the_nearest():
    with pytest.raises(UnknownStemError, match=r"no stem 'vocal', it has .*; did you mean vocals\?"):
        resolve_outputs(FOUR, ["drums", "vocal"])
    with pytest.raises(UnknownStemError, match=r"no stem 'qqq', it has vocals, drums, bass, other$"):
        resolve_outputs(FOUR, two_stems="qqq")


def test_no_vocals_needs_vocals():
    with pytest.raises(UnknownStemError, match="no stem 'no_vocals'"):
        resolve_outputs(ModelSpec(("drums", "bass"), RATE, 2), ["no_vocals"])


def test_requests_that_say_nothing_or_too_much_are_refused():
    with pytest.raises(UsageError, match="no stem was asked for"):
        resolve_outputs(FOUR, [])
    with pytest.raises(UsageError, match="exclude each other"):
        resolve_outputs(FOUR, ["vocals"], two_stems="vocals")


def test_one_name_alone_is_a_list_of_one():
    assert names(resolve_outputs(FOUR, "vocals")) == ["vocals"]
