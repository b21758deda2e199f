"""The cache of weights on this machine: fetched once, verified, converted, then used offline.

::

    ROOT/                    platformdirs' user cache, or what ISEPARATE_CACHE names
      models/ID/             one complete entry: model.safetensors and entry.json
      files/KEY/NAME         loose files, such as an example song
      downloads/ID/          parts of downloads, gone on from by the next attempt
      staging/ID/            an entry being made; what a killed process leaves here is never used
      locks/                 one process at a time makes an entry
      trusted.json           hashes of files for which nobody published one, from their first download

An entry appears under ``models`` by one rename, when everything in it is there. Directories are made for
their owner alone (mode 0700), since whoever can write here decides what a model sounds like; the mode of a
root that exists already is left as it is, so a read-only cache can be shared.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from iseparate.cache_folder import cache_folder
from iseparate.errors import ChecksumError, OfflineError, UsageError, WeightsError
from iseparate.weights.card import Card, CardFile, Count, FileName, Identifier, Sha256
from iseparate.weights.disk import disk_errors
from iseparate.weights.fetch import fetch
from iseparate.weights.order import Fetched, Wanted, sha256_of
from iseparate.weights.source import Progress, Source

WEIGHTS_NAME = "model.safetensors"
RECORD_NAME = "entry.json"
ENTRY_FORMAT = 1
"""Raised when entries made by older versions must not be used any more."""

Convert = Callable[[list[Path], Path], None]
"""Reads the raw files of a checkpoint and writes ``model.safetensors`` into a directory."""
Notify = Callable[[str], None]
"""Tells the user something, in one sentence."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class KeptFile(_Record):
    """A file of an entry as it was when the entry was made."""

    name: FileName
    sha256: Sha256 = Field(min_length=64)
    size_bytes: int


class RawFile(_Record):
    """A file that an entry was made from; itself not kept."""

    name: FileName
    source: str
    sha256: Sha256 = Field(min_length=64)
    size_bytes: int
    trusted_on_first_use: bool
    """True where nothing but its first download says that these are the right bytes."""


class EntryRecord(_Record):
    """What ``entry.json`` says."""

    format: int
    weights_id: Identifier
    created: datetime.datetime
    versions: dict[str, str]
    raw_files: tuple[RawFile, ...] = Field(min_length=1)
    files: tuple[KeptFile, ...] = Field(min_length=1)


class TrustedFile(_Record):
    """A hash that was taken on trust from a first download."""

    sha256: Sha256 = Field(min_length=64)
    size_bytes: Count
    first_seen: datetime.datetime


_TRUSTED = TypeAdapter(dict[str, TrustedFile])


@dataclass(frozen=True)
class Entry:
    """Weights in the cache, ready to load."""

    path: Path
    record: EntryRecord

    @property
    def weights_id(self) -> str:
        """Key of the entry; see `Card.weights_id`."""
        return self.record.weights_id

    @property
    def weights_path(self) -> Path:
        """The tensors, as safetensors."""
        return self.path / WEIGHTS_NAME

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of `weights_path` in 64 hexadecimal digits."""
        return next(file.sha256 for file in self.record.files if file.name == WEIGHTS_NAME)

    @property
    def files(self) -> tuple[KeptFile, ...]:
        """All files of the entry but its record."""
        return self.record.files

    @property
    def size_bytes(self) -> int:
        """What the files take up."""
        return sum(file.size_bytes for file in self.files)

    def verify(self) -> None:
        """Hash every file again; ChecksumError where one has changed since it was written."""
        for file in self.files:
            path = self.path / file.name
            try:
                untouched = path.stat().st_size == file.size_bytes and sha256_of(path) == file.sha256
            except OSError as error:
                raise ChecksumError(
                    f"{path} cannot be read ({error.strerror}), though the cache holds {self.weights_id}; "
                    f"fetch it anew with `iseparate models pull {self.weights_id} --force`."
                ) from error
            if not untouched:
                raise ChecksumError(
                    f"{path} has changed since it was made and is not used; fetch it anew with "
                    f"`iseparate models pull {self.weights_id} --force`."
                )

    def serves(self, card: Card) -> bool:
        """Tell whether the entry was made from the very files that the card names."""
        made_from = {file.name: file for file in self.record.raw_files}
        return self.weights_id == card.weights_id and all(
            file.name in made_from
            and made_from[file.name].source == file.source
            and made_from[file.name].sha256.startswith(file.sha256 or "")
            for file in card.files
        )


class Store:
    """The cache of weights.

    `root` defaults to ``ISEPARATE_CACHE`` or the user's cache directory, `offline` to ``ISEPARATE_OFFLINE``;
    `notify` tells the user what happens on trust or under conditions, by default through the log.
    """

    def __init__(self, root: Path | None = None, offline: bool | None = None, notify: Notify | None = None):
        self.root = root.expanduser().absolute() if root else cache_folder()
        self.offline = _is_set("ISEPARATE_OFFLINE") if offline is None else offline
        self._notify = logging.getLogger("iseparate").warning if notify is None else notify

    def entry(self, card: Card) -> Entry | None:
        """Return the weights of a card, hashed anew; None where they are not here, or not those it names now.

        Raises ChecksumError where they have been changed since they were written.
        """
        entry = self._read_entry(card.weights_id)
        if entry is None or not entry.serves(card):
            return None
        entry.verify()
        return entry

    def pull(self, card: Card, *, convert: Convert, progress: Progress | None = None, force: bool = False) -> Entry:
        """Make sure that the weights of a card are here, and return them.

        Fetches the card's files, verifies them, has `convert` write ``model.safetensors`` into a new
        directory and makes that the entry; the raw files are dropped. An example song inside the same archive
        is kept too. `force` fetches anew what is here already. Another process that pulls the same weights is
        waited for.

        Raises OfflineError, DownloadError, ChecksumError, OutputError, UsageError, and whatever `convert`
        raises.
        """
        if not force and (entry := self.entry(card)):
            return entry
        if self.offline and not all(file.parsed_source.is_local for file in card.files):
            raise OfflineError(
                f"The weights of {card.id} are not in the cache {self.root}, and downloads are switched "
                f"off; when online, run `iseparate models pull {card.id}` without ISEPARATE_OFFLINE."
            )
        with disk_errors(self.root), self._lock(card.weights_id):
            if not force and (entry := self.entry(card)):  # by another process, meanwhile
                return entry
            self._warn(card)
            return self._make_entry(card, convert, progress)

    def fetch_file(self, source: str, sha256: str | None, name: str, progress: Progress | None = None) -> Path:
        """Return one loose file, such as an example song, from the cache or else from its source.

        Raises OfflineError, DownloadError, ChecksumError, OutputError, UsageError.
        """
        try:
            order = CardFile(name=name, source=source, sha256=sha256).wanted()
        except ValidationError as error:
            raise UsageError(f"{name!r} from {source!r} cannot be fetched: {error.errors()[0]['msg']}.") from error
        path = self._loose_path(order.source, name)
        if self._is_right_loose_file(path, order):
            return path
        if self.offline and not order.source.is_local:
            raise OfflineError(
                f"{name} is not in the cache {self.root}, and downloads are switched off; unset ISEPARATE_OFFLINE."
            )
        key = f"file-{path.parent.name}"
        with disk_errors(self.root), self._lock(key):
            if not self._is_right_loose_file(path, order):
                downloads = self.root / "downloads" / key
                with self._staging(key) as staging:
                    (came,) = fetch([order], staging, downloads, progress)
                    self._check_trust([came], downloads)
                    self._trust([came])
                    self._keep_loose(came)
                shutil.rmtree(downloads)
        return path

    def remove(self, weights_id: str) -> bool:
        """Delete an entry and any part of its download; False if there was none. Trusted hashes stay."""
        _refuse_strange_id(weights_id)
        folders = [self.root / room / weights_id for room in ("models", "downloads", "staging")]
        if not any(folder.exists() for folder in folders):
            return False
        with disk_errors(self.root), self._lock(weights_id):
            for folder in folders:
                if folder.exists():
                    shutil.rmtree(folder)
        return True

    def size_bytes(self, weights_id: str) -> int:
        """Sum up what an entry takes up on disk; 0 where there is none."""
        _refuse_strange_id(weights_id)
        return sum(path.stat().st_size for path in (self.root / "models" / weights_id).rglob("*") if path.is_file())

    def list(self) -> list[Entry]:
        """Return all entries, by id; none is hashed, so `Entry.verify` before use."""
        models = self.root / "models"
        names = sorted(path.name for path in models.iterdir()) if models.is_dir() else []
        return [entry for name in names if (entry := self._read_entry(name))]

    # --- Making an entry -----------------------------------------------------------------------------------

    def _make_entry(self, card: Card, convert: Convert, progress: Progress | None) -> Entry:
        downloads = self.root / "downloads" / card.weights_id
        files = [file.wanted() for file in card.files]
        containers = {order.source.container for order in files}
        examples = [file.wanted() for file in card.examples if file.parsed_source.container in containers]
        with self._staging(card.weights_id) as staging:
            came = fetch([*files, *examples], staging / "raw", downloads, progress)
            self._check_trust(came, downloads)
            raw_files, songs = came[: len(files)], came[len(files) :]
            fresh = staging / "entry"
            fresh.mkdir(mode=0o700)
            try:
                convert([file.path for file in raw_files], fresh)
                if not (fresh / WEIGHTS_NAME).is_file():
                    raise WeightsError(
                        f"The conversion of {card.id} wrote no {WEIGHTS_NAME}; please report this fault."
                    )
            except WeightsError:
                shutil.rmtree(downloads)  # what cannot be converted must not be met again
                raise
            record = EntryRecord(
                format=ENTRY_FORMAT,
                weights_id=card.weights_id,
                created=_now(),
                versions={"iseparate": _own_version(), "python": platform.python_version()},
                raw_files=tuple(_raw_record(file) for file in raw_files),
                files=tuple(_kept_record(path) for path in sorted(fresh.iterdir())),
            )
            (fresh / RECORD_NAME).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
            for song in songs:
                self._keep_loose(song)
            self._trust(raw_files)

            path = self.root / "models" / card.weights_id
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if path.exists():
                path.rename(staging / "old")
            fresh.rename(path)
        shutil.rmtree(downloads)
        return Entry(path, record)

    def _read_entry(self, weights_id: str) -> Entry | None:
        path = self.root / "models" / weights_id
        try:
            record = EntryRecord.model_validate_json((path / RECORD_NAME).read_bytes())
        except (OSError, ValidationError):
            return None
        usable = record.format == ENTRY_FORMAT and record.weights_id == weights_id
        has_weights = any(file.name == WEIGHTS_NAME for file in record.files)
        return Entry(path, record) if usable and has_weights else None

    @contextmanager
    def _staging(self, key: str) -> Iterator[Path]:
        """Give an empty directory on the disk of the cache, under the lock of `key`."""
        staging = self.root / "staging" / key
        if staging.exists():  # of a process that was killed
            shutil.rmtree(staging)
        staging.mkdir(mode=0o700)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        folder = self.root / "locks"
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for room in (folder, self.root / "staging", self.root / "downloads"):
            room.mkdir(exist_ok=True, mode=0o700)
        lock = FileLock(folder / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._notify(f"Another process is working on {key} in the cache; waiting for it.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _warn(self, card: Card) -> None:
        if not card.commercial_use:
            self._notify(f"The weights of {card.id} must not be used commercially: {card.weights_licence}.")
        if os.name == "posix" and self.root.stat().st_mode & stat.S_IWOTH:
            self._notify(f"Every user of this machine can write to {self.root} and so change weights; chmod o-w it.")

    # --- Loose files ---------------------------------------------------------------------------------------

    def _loose_path(self, source: Source, name: str) -> Path:
        return self.root / "files" / hashlib.sha256(source.text.encode()).hexdigest()[:16] / name

    def _is_right_loose_file(self, path: Path, order: Wanted) -> bool:
        if not path.is_file():
            return False
        trusted = self._trusted().get(order.source.text)
        promised = order.sha256 or (trusted.sha256 if trusted else None)
        return promised is not None and sha256_of(path).startswith(promised)

    def _keep_loose(self, file: Fetched) -> None:
        path = self._loose_path(file.wanted.source, file.wanted.name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.path.replace(path)
        self._remember([file])  # by its hash it is recognised later

    # --- Trust on first use --------------------------------------------------------------------------------

    def _trusted(self) -> dict[str, TrustedFile]:
        path = self.root / "trusted.json"
        try:
            return _TRUSTED.validate_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise WeightsError(
                f"{path}, which remembers the hashes of earlier downloads, cannot be read; mend it, or "
                "delete it to trust the next downloads anew."
            ) from error

    def _check_trust(self, came: Sequence[Fetched], downloads: Path) -> None:
        trusted = self._trusted()
        for file in came:
            known = trusted.get(file.wanted.source.text)
            if known and not file.wanted.is_pinned and known.sha256 != file.sha256:
                shutil.rmtree(downloads)
                raise ChecksumError(
                    f"{file.wanted.source} now gives other bytes (SHA-256 {file.sha256}) than on "
                    f"{known.first_seen:%Y-%m-%d} ({known.sha256}); if its publisher says why, delete its "
                    f"lines in {self.root / 'trusted.json'} and pull again."
                )

    def _trust(self, came: Sequence[Fetched]) -> None:
        """Remember the hashes of files that no card pins, and say so for those that come without any."""
        unpinned = [file for file in came if not file.wanted.is_pinned]
        for file in self._remember(unpinned):
            if file.wanted.sha256 is None:
                self._notify(
                    f"Nobody published a checksum of {file.wanted.source}: this first download is trusted, "
                    f"and its SHA-256 {file.sha256} remembered."
                )

    def _remember(self, came: Sequence[Fetched]) -> Sequence[Fetched]:
        """Record the hashes of files; returns those not yet known."""
        if not came:
            return []
        with self._lock("trusted"):
            trusted = self._trusted()
            unknown = [file for file in came if file.wanted.source.text not in trusted]
            for file in came:
                if file in unknown or file.wanted.is_pinned:
                    seen = TrustedFile(sha256=file.sha256, size_bytes=file.size_bytes, first_seen=_now())
                    trusted[file.wanted.source.text] = seen
            path = self.root / "trusted.json"
            fresh = path.with_suffix(".json.new")
            fresh.write_bytes(_TRUSTED.dump_json(trusted, indent=2) + b"\n")
            fresh.replace(path)
        return unknown


def _raw_record(file: Fetched) -> RawFile:
    return RawFile(
        name=file.wanted.name,
        source=file.wanted.source.text,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        trusted_on_first_use=not file.wanted.is_pinned,
    )


def _kept_record(path: Path) -> KeptFile:
    return KeptFile(name=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


def _refuse_strange_id(weights_id: str) -> None:
    """Let nothing path-like pass, since an id becomes a directory."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", weights_id):
        raise UsageError(f"{weights_id[:80]!r} is not a model's id; `iseparate models list` shows those there are.")


def _is_set(variable: str) -> bool:
    value = os.environ.get(variable, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise UsageError(f"{variable} is {value[:40]!r}; expected 1 or 0.")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _own_version() -> str:
    try:
        return importlib.metadata.version("iseparate")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
