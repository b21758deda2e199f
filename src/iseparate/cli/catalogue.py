"""What is known of each system and each model, gathered from where it is written down: claimed apart from measured.

Cards and the literature's tables say what others *claim*; the record of parity says what was *measured* here; domain,
paper and parameters are the architecture's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from iseparate.evaluate.published import published_rows
from iseparate.weights.card import Card, load_cards
from iseparate.weights.parity import Comparison, measured_parity
from iseparate.weights.systems import PublishedSystem, published_systems


@dataclass(frozen=True)
class Claim:
    """Scores that somebody else printed."""

    values: Mapping[str, float]
    """By stem, in dB."""
    metric: str
    source: str
    verified: bool = True
    """False where nobody has looked them up in the source yet."""


@dataclass(frozen=True)
class Entry:
    """One system of the literature."""

    system: PublishedSystem
    models: tuple[Card, ...]
    """Whose weights are the system's, or hold it; a model and its official variant are two."""
    claims: tuple[Claim, ...]
    parity: Comparison | None
    """The largest error over the goldens that stand for it."""


def entries() -> list[Entry]:
    """Every system that can be built, by name."""
    cards = sorted(load_cards().values(), key=lambda card: card.id)
    found = []
    for system in sorted(published_systems(), key=lambda system: system.name):
        models = tuple(card for card in cards if system.name in card.systems)
        whole = [card for card in models if card.systems[0] == system.name]
        whole.sort(key=lambda card: card.weights_id != system.name)  # others of it may have seen more songs
        claims = claims_of(whole) or tuple(_tables_claims(system.name))
        found.append(Entry(system, models, claims, measured_parity().worst([system.name])))
    return found


def system_of(card: Card) -> PublishedSystem | None:
    """The system whose weights a model has; None: the card names none that this version can build."""
    named = {system.name: system for system in published_systems()}
    return named.get(card.systems[0]) if card.systems else None


def claims_of(cards: Iterable[Card]) -> tuple[Claim, ...]:
    """What the publishers of these models print of them, each once."""
    claims = [
        Claim(score.values, f"{score.dataset}, {score.metric}", score.source)
        for card in cards
        for score in card.published_scores
    ]
    return tuple(claim for index, claim in enumerate(claims) if claim not in claims[:index])


def short_paper(paper: str) -> str:
    """``"Stöter, Uhlich, Liutkus, Mitsufuji, JOSS 2019, https://…"`` as ``"Stöter et al. 2019"``."""
    words, _ = split_paper(paper)
    *authors, venue = words.split(", ")
    return authors[0] + " et al." * (len(authors) > 1) + " " + venue[-4:]


def split_paper(paper: str) -> tuple[str, str]:
    """Authors with venue and year, and the address."""
    words, _, address = paper.rpartition(", ")
    return words, address


def _tables_claims(system: str) -> Iterable[Claim]:
    """What the literature's tables print of a system that no model has; two tables may print it alike."""
    claims: dict[tuple[tuple[str, float], ...], Claim] = {}
    for table, row in published_rows():
        if row.builds == system and not row.extra_data:
            claim = Claim(row.sdr, table.metric_definition, row.read_in, row.evidence != "from memory")
            claims.setdefault(tuple(row.sdr.items()), claim)
    return claims.values()
