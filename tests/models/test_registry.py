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
def test_none_that_recognises_says_what_was_tried(table, names):
    with pytest.raises(CheckpointError, match=r"no importer recognises this checkpoint.*tried: alpha old, alpha, beta"):
        find_importer(files(*names))
