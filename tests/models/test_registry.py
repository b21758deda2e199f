from __future__ import annotations

import re
from dataclasses import dataclass
from unittest import mock

import pytest

from iseparate.errors import CheckpointError, UnknownModelError
from iseparate.models import _registry
from iseparate.models._base import SeparationModel
from iseparate.models._registry import Architecture, architecture, architectures, find_importer, register
from iseparate.types import CheckpointFile


@dataclass(frozen=True)
class Picky:
    """An importer that knows files by their name."""

    name: str
    ending: str

    def recognises(self, files):
        return bool(files) and all(file.endswith(self.ending) for file in files)

    def convert(self, files):
        raise NotImplementedError


def files(*names):
    return {name: CheckpointFile(name, "torch") for name in names}


@pytest.fixture
def table():
    """Two architectures whose importers overlap on .both."""
    importers = {"alpha": (Picky("alpha old", ".a"), Picky("alpha", ".both")), "beta": (Picky("beta", ".both"),)}
    entries = {
        name: Architecture(name, SeparationModel, object, those, "A paper, 2020, https://example.org", "waveform")
        for name, those in importers.items()
    }
    with mock.patch.object(_registry, "architectures", return_value=entries):
        yield entries


def test_architectures_are_found_by_their_files_presence():
    assert "spleeter" in architectures()
    assert all(name == entry.name for name, entry in architectures().items())
    assert list(architectures()) == sorted(architectures())


def test_an_architecture_goes_by_its_name(table):
    assert architecture("beta") is table["beta"]


def test_an_unknown_architecture_is_told_with_the_nearest(table):
    with pytest.raises(UnknownModelError, match=r"no architecture is called 'alhpa'; there is alpha$"):
        architecture("alhpa")
    with pytest.raises(UnknownModelError, match=r"there is alpha, beta$"):
        architecture("zzz")


def test_one_name_is_given_once():
    with mock.patch.dict(_registry._TABLE, clear=True):
        told = {"config": object, "paper": "A paper, 2020, https://example.org", "domain": "waveform"}
        register("x", **told)(SeparationModel)
        with pytest.raises(ValueError, match="two architectures are registered as 'x'"):
            register("x", **told)(SeparationModel)


def test_every_published_system_has_a_paper_with_an_address():
    for entry in architectures().values():
        assert set(entry.papers) <= set(entry.published)
        for system in entry.published:
            assert re.fullmatch(r".+, (.+ )?\d{4}, https://\S+", entry.paper_of(system)), system
    assert architecture("mmdenselstm").paper_of("mmdensenet") != architecture("mmdenselstm").paper


def test_the_one_importer_that_recognises_is_found(table):
    found, importer = find_importer(files("m.a"))
    assert (found.name, importer.name) == ("alpha", "alpha old")


def test_several_that_recognise_ask_for_the_architecture(table):
    with pytest.raises(CheckpointError, match=r"several importers recognise m.both: alpha .*, beta .*arch="):
        find_importer(files("m.both"))
    assert find_importer(files("m.both"), "beta")[0].name == "beta"


@pytest.mark.parametrize("names", [(), ("m.x",), ("m.a", "m.x")])
def test_none_that_recognises_says_what_was_expected(table, names):
    with pytest.raises(CheckpointError, match=r"no importer recognises .* architectures alpha, beta, as"):
        find_importer(files(*names))
    with pytest.raises(CheckpointError, match=r"of alpha these kinds are read: alpha old, alpha$"):
        find_importer(files(*names), "alpha")


def test_a_stranger_is_told_by_a_few_of_its_tensors_however_many_and_odd(table):
    odd = {"a\x1b[31m": 0, "b\ud800": 0, "c" * 1000: 0, "d": 0, "e": 0}
    many = {f"{i}.x": CheckpointFile(f"{i}.x", "torch", odd) for i in range(500)}
    with pytest.raises(CheckpointError, match=r"0\.x, 1\.x, 2\.x and 497 more: .*\.\.\. and 2 more") as caught:
        find_importer(many)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
