"""The literature's tables of scores on MUSDB18, as data, and the records of what was measured of them here.

A table is a TOML file in ``tables/``: what a paper printed, row by row, with where each figure was read. Rows of two
tables that share an id are the same system in the same setting, so one measurement fills both. A measurement is a
JSON file that ``iseparate reproduce`` writes (`Reproduction`); only a whole one counts (`Reproduction.complete`).
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StringConstraints, ValidationError, model_validator

from iseparate.errors import OutputError, UsageError
from iseparate.whole_file import write_whole

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Decibels = Annotated[StrictFloat, Field(ge=-100, le=100)]

ROUNDING_DB = 0.011
"""How far a printed mean may lie from the mean of the printed stems, which are rounded to two digits."""
PARTIAL_SUFFIX = ".partial.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedRow(_Frozen):
    """One system of a table, with the figures that were printed of it."""

    id: Identifier
    system: Text
    """As printed."""
    extra_data: Text | None = None
    """What it was trained on beside MUSDB18's training songs; None: nothing."""
    sdr: dict[Text, Decibels] = Field(min_length=1)
    """By stem; a stem whose figure could not be read is missing."""
    average: Decibels | None = None
    """Mean over the table's stems, as printed."""
    evidence: Literal["stated", "recomputed", "from memory"]
    """*stated*: a page or README states the figures; *recomputed*: out of published results of each song; *from
    memory*: nobody looked them up yet."""
    read_in: Text
    """Where the figures were read."""
    builds: Identifier | None = None
    """The name under which `iseparate.build_model` builds the system."""
    reconstruction: bool = False
    """True where hyper-parameters of the system that is built had to be inferred."""
    card: Identifier | None = None
    """The model that runs the official weights as their publisher does."""
    oracle: Identifier | None = None
    """Or the oracle that the row is about."""
    unavailable: Text | None = None
    """Or why neither can be run."""
    note: Text | None = None

    @model_validator(mode="after")
    def _runs_one_way(self) -> Self:
        if sum(way is not None for way in (self.card, self.oracle, self.unavailable)) != 1:
            raise ValueError("exactly one of card, oracle and unavailable is to be given")
        return self

    @property
    def estimator(self) -> str | None:
        """Name of the model or oracle that reproduces the row; None: there is none."""
        return self.card or self.oracle

    @property
    def origin(self) -> str:
        """Where the figures come from, in words, with their doubts."""
        doubt = "; unverified" if self.evidence == "from memory" else ""
        return f"{self.evidence}: {self.read_in}{doubt}"


class PublishedTable(_Frozen):
    """A table of the literature."""

    id: Identifier
    title: Text
    printed_in: Text
    data: Identifier
    """Kind of the data set, as ``--data`` names it."""
    subset: Text
    tracks: Annotated[int, Field(gt=0)]
    """How many songs the scores are over."""
    stems: tuple[Text, ...] = Field(min_length=1)
    metric: Identifier
    """Name in `iseparate.evaluate.metrics`."""
    metric_definition: Text
    left_out: tuple[Text, ...] = ()
    """Rows that the paper has and this table has not, each with the reason."""
    rows: tuple[PublishedRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_agree(self) -> Self:
        ids = [row.id for row in self.rows]
        for row in self.rows:
            if ids.count(row.id) > 1:
                raise ValueError(f"the row {row.id!r} occurs twice")
            for stem in row.sdr:
                if stem not in self.stems:
                    raise ValueError(f"the row {row.id!r} scores {stem!r}, not one of {', '.join(self.stems)}")
            if row.average is not None and len(row.sdr) == len(self.stems):
                mean = sum(row.sdr.values()) / len(row.sdr)
                if abs(mean - row.average) > ROUNDING_DB:
                    raise ValueError(f"the row {row.id!r} has the average {row.average}, its stems {mean:.3f}")
        return self


class Reproduction(_Frozen):
    """What a command of this repository measured of a row."""

    row: Identifier
    estimator: Identifier
    data: Identifier
    subset: Text
    tracks: Annotated[int, Field(gt=0)]
    """Songs that were scored."""
    partial: bool
    """True where data, subset, tracks or songs were not the row's: never shown in a table."""
    metric: Identifier
    metric_definition: Text
    sdr: dict[Text, Decibels] = Field(min_length=1)
    average: Decibels
    """Mean over the stems."""
    weights_sha256: Text | None = None
    """Of the model; an oracle has none."""
    command: Text
    machine: Text
    commit: Text
    date: datetime.date
    versions: dict[str, str]

    def complete(self, table: PublishedTable, row: PublishedRow) -> bool:
        """True where this is a measurement of that row, over all of its songs, by its metric."""
        same = (self.row, self.estimator, self.data, self.subset, self.tracks, self.metric, set(self.sdr))
        asked = (row.id, row.estimator, table.data, table.subset, table.tracks, table.metric, set(table.stems))
        return not self.partial and same == asked

    @property
    def file_name(self) -> str:
        """``<row>.json``, or ``<row>.partial.json``: a partial result never lies where a whole one did."""
        return self.row + (PARTIAL_SUFFIX if self.partial else ".json")


def parse_table(text: bytes, origin: str) -> PublishedTable:
    """Read one table; UsageError, naming file and field, where it is not valid."""
    try:
        return PublishedTable.model_validate(tomllib.loads(text.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"The table {origin} is not valid TOML: {error}; mend it.") from error
    except ValidationError as error:
        raise UsageError(f"The table {origin} is not valid: {_first_fault(error)}; mend it.") from error


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Every table of this package, D3Net's first."""
    folder = resources.files("iseparate.evaluate").joinpath("tables")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    tables = [parse_table(file.read_bytes(), file.name) for file in files]
    _refuse_disagreement(tables)
    return tuple(sorted(tables, key=lambda table: table.id != "d3net"))


def published_rows() -> Iterator[tuple[PublishedTable, PublishedRow]]:
    """Every row with its table; a system that two tables print comes twice."""
    for table in published_tables():
        for row in table.rows:
            yield table, row


def find_row(name: str) -> tuple[PublishedTable, PublishedRow]:
    """The first table's row of that id; UsageError with the nearest ids where there is none."""
    rows = {row.id: (table, row) for table, row in reversed(list(published_rows()))}
    if name in rows:
        return rows[name]
    # People know the system by its printed name too; both lead to the id.
    known = {row.system.lower(): row.id for _, row in rows.values()} | {row_id: row_id for row_id in rows}
    near = list(dict.fromkeys(known[key] for key in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)))
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        f"no row of the literature's tables is called {name[:80]!r}: {hint}`iseparate reproduce --list` shows them"
    )


def read_reproductions(folder: Path) -> dict[str, Reproduction]:
    """Every measurement in a folder by its row, without the partial ones; none where there is no folder.

    Raises UsageError where a file is not such a record.
    """
    found: dict[str, Reproduction] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(PARTIAL_SUFFIX):
            continue
        try:
            record = Reproduction.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise UsageError(
                f"{path} is not a record of `iseparate reproduce`: {_first_fault(error)}; remove it"
            ) from error
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}); mend its permissions or remove it") from error
        if path.name != record.file_name:
            raise UsageError(f"{path} should be named {record.file_name}, after what it holds; rename it")
        found[record.row] = record
    return found


def write_reproduction(record: Reproduction, folder: Path) -> Path:
    """Write a record under its name, whole or not at all; OutputError."""
    path = folder / record.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, record.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); choose another folder with --record"
        ) from error
    return path


def measured(record: Mapping[str, Reproduction], table: PublishedTable, row: PublishedRow) -> Reproduction | None:
    """The measurement that fills a row, if there is one."""
    found = record.get(row.id)
    return found if found is not None and found.complete(table, row) else None


def _refuse_disagreement(tables: list[PublishedTable]) -> None:
    """A measurement belongs to a row's id, so that id must mean the same in every table."""
    meanings: dict[str, tuple[object, ...]] = {}
    for table in tables:
        for row in table.rows:
            meaning = (row.estimator, row.unavailable, table.data, table.subset, table.tracks, table.metric)
            if meanings.setdefault(row.id, meaning) != meaning:
                raise UsageError(
                    f"The row {row.id} of the table {table.id} means something else in another; rename it."
                )


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in fault["loc"])
    complaint = fault["msg"].removeprefix("Value error, ")
    return f"{field}: {complaint}" if field else complaint
