from dataclasses import asdict, replace

import pytest
import torch

from iseparate.models._registry import architecture
from iseparate.models.cascade import Cascade, Config, Part


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Cascade(Config.tiny()).eval()


@pytest.fixture
def mix():
    return 0.1 * torch.randn(1, 2, 3000, generator=torch.Generator().manual_seed(1))


def test_each_part_hears_what_the_one_before_left(model, mix):
    first, second = model.parts
    with torch.inference_mode():
        vocals, accompaniment = first(mix).unbind(1)
        expected = torch.cat([vocals[:, None], second(accompaniment)], 1)
        torch.testing.assert_close(model(mix), expected)
    assert model.spec.stems == ("vocals", "drums", "bass", "other")


def test_nothing_of_the_song_is_lost(model, mix):
    assert model.spec.mixture_consistent
    assert model.spec.residual_stem == "other"
    with torch.inference_mode():
        torch.testing.assert_close(model(mix).sum(1), mix, atol=1e-5, rtol=0)


def test_vocals_alone_need_the_first_part_only(model, mix):
    whole = model.narrowed(("drums", "bass", "other"))
    short = model.narrowed(("vocals",))
    assert whole is model
    assert len(short.parts) == 1
    assert short.spec.stems == ("vocals",)
    with torch.inference_mode():
        torch.testing.assert_close(short(mix)[:, 0], model(mix)[:, 0])
    assert len(model.parts) == 2


BAND = Config.tiny().parts[1]
SPLEETER = Config.tiny().parts[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": (SPLEETER,)}, "parts"),
        ({"hands_on": ()}, "hands on"),
        ({"hands_on": ("drums",)}, "no stem drums"),
        ({"parts": (SPLEETER, Part(arch="cascade"))}, "none themselves"),
        ({"parts": (SPLEETER, SPLEETER)}, "same stem"),
        ({"parts": (SPLEETER, replace(BAND, config={**BAND.config, "sample_rate": 8000}))}, "one rate"),
        ({"parts": (SPLEETER, replace(BAND, config={"widths": "no"}))}, "cannot be built"),
        ({"parts": (SPLEETER, replace(BAND, config={**BAND.config, "depth": 3}))}, "no setting depth"),
        ({"parts": (SPLEETER, replace(BAND, config={**BAND.config, "hop_samples": 0}))}, "cannot be built"),
        ({"overlap": 1.0}, "overlap"),
    ],
)
def test_bundles_that_cannot_be_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Cascade(replace(Config.tiny(), **change))


def test_a_stem_that_was_handed_on_may_come_back_of_the_last_part(mix):
    """Drums, bass and other; and what is other, in two again, one of them called other."""
    torch.manual_seed(0)
    last = Part(arch="band", config={**BAND.config, "stems": ("piano", "other")})
    model = Cascade(replace(Config.tiny(), parts=(BAND, last), hands_on=("other",))).eval()
    assert model.spec.stems == ("drums", "bass", "piano", "other")
    assert model.spec.residual_stem == "other"
    assert model.spec.couples == (("drums", "bass"), ("piano", "other"))
    with torch.inference_mode():
        torch.testing.assert_close(model(mix).sum(1), mix, atol=1e-5, rtol=0)
    assert model.narrowed(("other",)) is model
    assert model.narrowed(("bass",)).spec.stems == ("drums", "bass")


def test_only_networks_that_bf16_leaves_alone_run_in_it():
    config = {**asdict(architecture("x_umx").config.tiny()), "targets": ("drums", "bass")}
    model = Cascade(replace(Config.tiny(), parts=(SPLEETER, Part(arch="x_umx", config=config))))
    assert len(model.kernels) == 2
    assert model.kernels_in_bf16 == ("parts.0.networks",)
