"""Which recorded sounds may be used, by licence, by what is installed, and by what the files themselves say."""

from __future__ import annotations

import dataclasses
import re

import pytest

from iseparate.data.synthetic.sampled import sources
from iseparate.data.synthetic.sampled.sources import (
    ALLOWED_LICENCES,
    OWN_SOUNDS,
    SOURCES,
    SoundSource,
    fingerprints,
    installed,
    named,
    notice,
)
from iseparate.errors import UsageError


@pytest.fixture
def kit(tmp_path) -> SoundSource:
    folder = tmp_path / "kit"
    folder.mkdir()
    (folder / "README").write_text("License is CC-BY")
    (folder / "kick.flac").write_bytes(b"boom")
    return SoundSource(
        name="kit",
        title="A kit",
        plays=("drums",),
        install="apt install kit",
        files=(str(tmp_path / "elsewhere"), str(folder)),
        licence="CC-BY-3.0",
        credit="Somebody, 2012",
        proof=("README", "License is CC-BY"),
    )


@pytest.fixture
def table(monkeypatch, kit):
    def use(*of: SoundSource) -> None:
        monkeypatch.setattr(sources, "SOURCES", of)
        named.cache_clear()

    use(kit)
    yield use
    named.cache_clear()


def test_no_licence_on_the_list_binds_what_learns_from_the_sounds():
    for licence in ALLOWED_LICENCES:
        assert re.fullmatch(r"MIT|CC0-1\.0|LicenseRef-public-domain|CC-BY-\d\.\d", licence)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_source_is_used_only_under_a_licence_of_the_list(source):
    if source in installed():
        assert source.licence in ALLOWED_LICENCES
    if source.licence not in ALLOWED_LICENCES:
        assert not source.allowed
        assert source.licence in source.refusal()
    assert source.credit
    assert source.install
    assert "://" not in source.credit + source.install


def test_names_are_unique():
    assert len({source.name for source in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize(
    "licence", ["GPL-2.0-only", "CC-BY-SA-3.0", "CC-BY-NC-4.0", "", "cc-by-3.0", "CC-BY-3.0 OR GPL"]
)
def test_other_licences_are_refused_though_the_sounds_are_here(kit, table, licence):
    assert installed() == (kit,)
    table(dataclasses.replace(kit, licence=licence))
    assert installed() == ()


def test_what_is_withheld_or_absent_or_says_otherwise_is_not_used(kit, table):
    table(dataclasses.replace(kit, withheld="of unclear origin"))
    assert installed() == ()
    absent = dataclasses.replace(kit, files=("/nowhere/kit", "no_such_package:kit"))
    assert absent.refusal() == "not installed: A kit"
    assert dataclasses.replace(kit, modules=("no_such_package",)).refusal() == "not installed: no_such_package"
    (kit.path() / "README").write_text("License is GPL")
    assert "README does not say" in kit.refusal()
    (kit.path() / "README").unlink()
    assert kit.refusal()


def test_fingerprints_change_with_the_sounds(kit, table):
    (word,) = fingerprints(installed())
    assert named((word,)) == (kit,)
    assert fingerprints(installed()) == (word,)
    (kit.path() / "kick.flac").write_bytes(b"bang")
    named.cache_clear()
    assert fingerprints(installed()) != (word,)
    with pytest.raises(UsageError, match=f"begun with the sounds {word}, and here there is kit="):
        named((word,))


def test_sounds_that_are_gone(kit, table):
    words = fingerprints(installed())
    table()
    with pytest.raises(UsageError, match="here there is none"):
        named(words)
    with pytest.raises(UsageError, match="iseparate data sounds"):
        fingerprints(())


def test_the_notice_names_licence_and_credit_of_each(kit):
    text = notice([OWN_SOUNDS, kit.credit_line()])
    assert "- iseparate synthesis: MIT" in text
    assert "- A kit: CC-BY-3.0 (https://creativecommons.org/licenses/by/3.0/); Somebody, 2012\n" in text
