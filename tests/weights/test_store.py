from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import iseparate.weights.store
from iseparate.errors import (
    CheckpointError,
    ChecksumError,
    DownloadError,
    OfflineError,
    OutputError,
    UsageError,
    WeightsError,
)
from iseparate.weights.card import Card, CardFile
from iseparate.weights.store import Entry, Store

PACKAGE_ROOT = Path(iseparate.weights.store.__file__).parents[2]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def join(raw_paths: list[Path], destination: Path) -> None:
    """A conversion: the raw files end to end, and a note beside them."""
    data = b"".join(path.read_bytes() for path in raw_paths)
    (destination / "model.safetensors").write_bytes(data)
    (destination / "names.json").write_text(json.dumps([path.name for path in raw_paths]))


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Told(list[str]):
    """A notify hook that remembers."""

    __call__ = list.append


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def store(tmp_path: Path, told: Told) -> Store:
    return Store(tmp_path / "cache", notify=told)


@pytest.fixture
def card(server, weights: bytes, make_card: Callable[..., Card]) -> Card:
    """Two files, both pinned."""
    head, tail = weights[:1000], weights[1000:]
    return make_card(
        CardFile(name="a.th", source=server.serve("/a", head), sha256=sha256(head), size_bytes=len(head)),
        CardFile(name="b.th", source=server.serve("/b", tail), sha256=sha256(tail)),
    )


# --- Pulling ------------------------------------------------------------------------------------------


def test_a_pull_makes_a_complete_entry_and_drops_the_raw_files(store: Store, card: Card, weights: bytes, told: Told):
    assert store.entry(card) is None
    entry = store.pull(card, convert=join)
    assert entry.weights_path.read_bytes() == weights
    assert json.loads((entry.path / "names.json").read_text()) == ["a.th", "b.th"]
    assert entry.weights_sha256 == sha256(weights)
    assert entry == store.entry(card)
    entry.verify()
    record = json.loads((entry.path / "entry.json").read_text())
    assert [file["source"] for file in record["raw_files"]] == [file.source for file in card.files]
    assert [file["sha256"] for file in record["raw_files"]] == [
        sha256(weights[:1000]),
        sha256(weights[1000:]),
    ]
    assert {file["name"]: file["size_bytes"] for file in record["files"]}["model.safetensors"] == len(weights)
    assert {"created", "versions"} <= set(record)
    kept = [name for name in files_under(store.root) if not name.endswith(".lock")]
    assert kept == [f"models/toy/{name}" for name in ("entry.json", "model.safetensors", "names.json")]
    assert told == []


def test_what_is_here_is_not_fetched_again_unless_forced(server, store: Store, card: Card, weights: bytes):
    first = store.pull(card, convert=join)
    server.requests.clear()
    assert store.pull(card, convert=pytest.fail) == first
    assert server.requests == []

    variant = card.model_copy(update={"id": "toy-official", "variant_of": "toy"})
    assert store.pull(variant, convert=pytest.fail).path == first.path

    again = store.pull(card, convert=lambda raw, to: (to / "model.safetensors").write_bytes(b"new"), force=True)
    assert len(server.requests) == 2
    assert again.weights_path.read_bytes() == b"new"
    assert files_under(again.path) == ["entry.json", "model.safetensors"]


def test_a_card_that_now_names_other_files_is_fetched_anew(server, store: Store, card: Card):
    store.pull(card, convert=join)
    (moved,) = (CardFile(name="a.th", source=server.serve("/new", b"new"), sha256=sha256(b"new")),)
    changed = card.model_copy(update={"files": (moved, card.files[1])})
    assert store.entry(changed) is None
    assert store.pull(changed, convert=join).weights_path.read_bytes().startswith(b"new")
    assert store.entry(card) is None


def test_the_directories_are_for_their_owner_alone(store: Store, card: Card):
    entry = store.pull(card, convert=join)
    for folder in (store.root, entry.path.parent, entry.path):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_progress_names_the_file(store: Store, card: Card):
    names: set[str] = set()
    store.pull(card, convert=join, progress=lambda done, total, name: names.add(name))
    assert names == {"a.th", "b.th"}


def test_a_failed_download_leaves_no_entry_and_is_gone_on_from(
    server, store: Store, card: Card, weights: bytes, monkeypatch: pytest.MonkeyPatch
):
    server.pages["/b"].truncate_after = 50_000
    with monkeypatch.context() as patched:
        patched.setattr("iseparate.weights.download.FRUITLESS_ATTEMPTS", 1)
        with pytest.raises(DownloadError, match=r"Only 50,000 of 299,000 bytes of b\.th"):
            store.pull(card, convert=pytest.fail)
    assert store.entry(card) is None
    assert store.list() == []
    assert not (store.root / "models").exists()

    server.pages["/b"].truncate_after = None
    server.requests.clear()
    assert store.pull(card, convert=join).weights_path.read_bytes() == weights
    assert [(r.path, r.headers.get("Range")) for r in server.requests] == [("/b", "bytes=50000-")]


def test_wrong_bytes_leave_nothing(server, store: Store, card: Card):
    server.pages["/b"].body = bytes(299_000)
    with pytest.raises(ChecksumError, match=r"b.th is not what its card names"):
        store.pull(card, convert=pytest.fail)
    assert store.entry(card) is None
    assert not (store.root / "models").exists()


def test_a_checkpoint_that_cannot_be_converted_leaves_nothing(server, store: Store, card: Card):
    def refuse(raw_paths: list[Path], destination: Path) -> None:
        (destination / "model.safetensors").write_bytes(b"half")
        raise CheckpointError("no importer recognises it")

    with pytest.raises(CheckpointError):
        store.pull(card, convert=refuse)
    with pytest.raises(WeightsError, match=r"wrote no model.safetensors"):
        store.pull(card, convert=lambda raw, to: None)
    assert store.entry(card) is None
    assert [name for name in files_under(store.root) if not name.endswith(".lock")] == []


def test_an_interrupted_conversion_does_not_cost_the_download(server, store: Store, card: Card):
    def interrupt(raw_paths: list[Path], destination: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull(card, convert=interrupt)
    server.requests.clear()
    store.pull(card, convert=join)
    assert server.requests == []


def test_a_song_beside_the_weights_comes_with_them(server, store: Store, make_card, weights: bytes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w.th", weights)
        archive.writestr("song.mp3", b"la la")
    url = server.serve("/a.zip", buffer.getvalue())
    song = CardFile(name="song.mp3", source=f"{url}#song.mp3", sha256=sha256(b"la la"))
    elsewhere = CardFile(name="other.mp3", source=server.serve("/other.mp3", b"do re"))
    card = make_card(CardFile(name="w.th", source=f"{url}#w.th", sha256=sha256(weights)), examples=(song, elsewhere))
    entry = store.pull(card, convert=join)
    assert entry.weights_path.read_bytes() == weights
    store.offline = True
    assert store.fetch_file(song.source, song.sha256, song.name).read_bytes() == b"la la"
    assert [request.path for request in server.requests] == ["/a.zip"]


# --- A tampered cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["a bit", "cut short", "gone"])
def test_a_tampered_entry_is_never_used_and_can_be_fetched_anew(store: Store, card: Card, weights: bytes, change: str):
    path = store.pull(card, convert=join).weights_path
    if change == "a bit":
        path.write_bytes(bytes([weights[0] ^ 1]) + weights[1:])
    elif change == "cut short":
        os.truncate(path, 1000)
    else:
        path.unlink()
    for use in (lambda: store.entry(card), lambda: store.pull(card, convert=join), store.list()[0].verify):
        with pytest.raises(ChecksumError, match=r"iseparate models pull toy --force"):
            use()
    assert store.pull(card, convert=join, force=True).weights_path.read_bytes() == weights


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: "",
        lambda record: "[]",
        lambda record: record[: len(record) // 2],
        lambda record: record.replace('"weights_id": "toy"', '"weights_id": "other"'),
        lambda record: record.replace('"format": 1', '"format": 0'),
        lambda record: record.replace('"model.safetensors"', '"../../../etc/passwd"'),
        lambda record: record.replace('"model.safetensors"', '"names.json"'),
    ],
)
def test_an_entry_with_a_spoilt_record_is_no_entry(store: Store, card: Card, weights: bytes, spoil):
    path = store.pull(card, convert=join).path / "entry.json"
    before = path.read_text()
    path.write_text(spoil(before))
    assert path.read_text() != before
    assert store.entry(card) is None
    assert store.list() == []
    assert store.pull(card, convert=join).weights_path.read_bytes() == weights


# --- Offline ------------------------------------------------------------------------------------------


def test_offline_uses_what_is_here_and_refuses_what_is_not(server, tmp_path: Path, card: Card):
    Store(tmp_path, offline=False).pull(card, convert=join)
    offline = Store(tmp_path, offline=True)
    server.requests.clear()
    assert isinstance(offline.pull(card, convert=pytest.fail), Entry)
    unknown = card.model_copy(update={"id": "other"})
    with pytest.raises(OfflineError, match=r"other are not in the cache .*run `iseparate models pull other`"):
        offline.pull(unknown, convert=join)
    with pytest.raises(OfflineError, match=r"song.mp3 is not in the cache"):
        offline.fetch_file(server.serve("/song", b"la"), None, "song.mp3")
    assert server.requests == []


def test_offline_may_still_read_local_files(tmp_path: Path, make_card):
    (tmp_path / "x.th").write_bytes(b"x")
    card = make_card(CardFile(name="x.th", source=f"file:{tmp_path}/x.th", sha256=sha256(b"x")))
    assert Store(tmp_path / "cache", offline=True).pull(card, convert=join).weights_path.read_bytes() == b"x"
    assert (tmp_path / "x.th").exists()


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_the_environment_chooses_place_and_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: bool
):
    monkeypatch.setenv("ISEPARATE_OFFLINE", value)
    monkeypatch.setenv("ISEPARATE_CACHE", str(tmp_path / "elsewhere"))
    store = Store()
    assert (store.root, store.offline) == (tmp_path / "elsewhere", expected)
    assert Store(tmp_path, offline=not expected).offline is not expected


def test_an_unclear_switch_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ISEPARATE_OFFLINE", "maybe")
    with pytest.raises(UsageError, match="ISEPARATE_OFFLINE is 'maybe'; expected 1 or 0"):
        Store()


# --- Trust on first use -------------------------------------------------------------------------------


def test_without_a_checksum_the_first_download_is_trusted_and_a_later_other_one_is_not(
    server, store: Store, make_card, told: Told, weights: bytes
):
    card = make_card(CardFile(name="x.th", source=server.serve("/x", weights)))
    entry = store.pull(card, convert=join)
    assert len(told) == 1
    assert sha256(weights) in told[0]
    assert entry.record.raw_files[0].trusted_on_first_use

    assert store.remove("toy")
    server.pages["/x"].body, server.pages["/x"].etag = b"something else", '"v2"'
    with pytest.raises(ChecksumError, match=rf"now gives other bytes .*{sha256(weights)}.*trusted\.json"):
        store.pull(card, convert=pytest.fail)
    assert store.entry(card) is None

    server.pages["/x"].body = weights
    store.pull(card, convert=join)
    assert len(told) == 1  # it is known by now


def test_a_prefix_is_not_the_whole_so_the_first_download_is_remembered_silently(
    server, store: Store, make_card, told: Told, weights: bytes
):
    card = make_card(CardFile(name="x.th", source=server.serve("/x", weights), sha256=sha256(weights)[:8]))
    store.pull(card, convert=join)
    assert told == []
    assert sha256(weights) in (store.root / "trusted.json").read_text()


def test_a_download_that_does_not_convert_is_not_trusted(server, store: Store, make_card):
    card = make_card(CardFile(name="x.th", source=server.serve("/x", b"a bad gateway's page")))

    def refuse(raw_paths: list[Path], destination: Path) -> None:
        raise CheckpointError("not a checkpoint")

    with pytest.raises(CheckpointError):
        store.pull(card, convert=refuse)
    server.pages["/x"].body = b"the real thing"
    assert store.pull(card, convert=join).weights_path.read_bytes() == b"the real thing"


def test_an_unreadable_memory_is_said_not_forgotten(server, store: Store, make_card):
    card = make_card(CardFile(name="x.th", source=server.serve("/x", b"x")))
    store.pull(card, convert=join)
    (store.root / "trusted.json").write_text("{")
    with pytest.raises(WeightsError, match=r"trusted\.json.*cannot be read"):
        store.pull(card, convert=join, force=True)


def test_weights_that_forbid_commercial_use_warn(store: Store, card: Card, told: Told):
    forbidding = card.model_copy(update={"commercial_use": False, "weights_licence": "CC BY-NC 4.0"})
    store.pull(forbidding, convert=join)
    assert told == ["The weights of toy must not be used commercially: CC BY-NC 4.0."]
    store.pull(forbidding, convert=join)
    assert len(told) == 1


@pytest.mark.skipif(os.name != "posix", reason="asks for POSIX modes")
def test_a_cache_that_everybody_can_write_to_warns(store: Store, card: Card, told: Told):
    store.root.mkdir()
    store.root.chmod(0o777)
    store.pull(card, convert=join)
    assert "chmod o-w" in told[0]
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o777  # ours to warn of, not to change


# --- Loose files --------------------------------------------------------------------------------------


def test_a_loose_file_is_fetched_once_and_healed(server, store: Store, told: Told):
    url = server.serve("/song.mp3", b"la la la")
    path = store.fetch_file(url, sha256(b"la la la"), "song.mp3")
    assert (path.name, path.read_bytes()) == ("song.mp3", b"la la la")
    assert store.fetch_file(url, sha256(b"la la la"), "song.mp3") == path
    assert len(server.requests) == 1
    path.write_bytes(b"la la lb")
    assert store.fetch_file(url, sha256(b"la la la"), "song.mp3").read_bytes() == b"la la la"
    assert told == []
    assert not list((store.root / "downloads").iterdir())


def test_a_loose_file_without_a_checksum_is_trusted_on_first_use(server, store: Store, told: Told):
    url = server.serve("/song.mp3", b"la")
    path = store.fetch_file(url, None, "song.mp3")
    assert store.fetch_file(url, None, "song.mp3") == path
    assert (len(server.requests), len(told)) == (1, 1)
    server.pages["/song.mp3"].body = b"lo"
    path.unlink()
    with pytest.raises(ChecksumError, match="now gives other bytes"):
        store.fetch_file(url, None, "song.mp3")
    assert not path.exists()


@pytest.mark.parametrize("name", ["../song.mp3", "", "a/b", ".hidden"])
def test_a_loose_file_has_a_plain_name(server, store: Store, name: str):
    with pytest.raises(UsageError, match="cannot be fetched"):
        store.fetch_file(server.serve("/song.mp3", b"la"), None, name)


# --- Looking after the cache --------------------------------------------------------------------------


def test_list_size_and_remove(store: Store, card: Card, weights: bytes):
    assert store.list() == []
    assert store.size_bytes("toy") == 0
    assert store.remove("toy") is False
    entry = store.pull(card, convert=join)
    store.pull(card.model_copy(update={"id": "another"}), convert=join)
    (store.root / "models" / "rubbish").mkdir()
    assert [listed.weights_id for listed in store.list()] == ["another", "toy"]
    assert store.size_bytes("toy") == sum(path.stat().st_size for path in entry.path.iterdir()) > entry.size_bytes
    assert store.remove("toy") is True
    assert store.entry(card) is None
    assert [listed.weights_id for listed in store.list()] == ["another"]


@pytest.mark.parametrize("weights_id", ["../toy", "/etc", "", ".", "..", "toy/../../x"])
def test_a_strange_id_touches_nothing(store: Store, weights_id: str):
    with pytest.raises(UsageError, match="is not a model's id"):
        store.remove(weights_id)
    with pytest.raises(UsageError, match="is not a model's id"):
        store.size_bytes(weights_id)


def test_a_full_disk_and_an_unwritable_cache_are_said(tmp_path: Path, store: Store, card: Card):
    def fill(raw_paths: list[Path], destination: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="is full: free some space, or set ISEPARATE_CACHE"):
        store.pull(card, convert=fill)
    assert store.entry(card) is None
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be written .*set ISEPARATE_CACHE to another directory"):
        Store(tmp_path / "file" / "cache").pull(card, convert=join)
    with pytest.raises(OutputError, match="cannot be written"):
        Store(tmp_path / "file").fetch_file(card.files[0].source, None, "a.th")


def test_a_fault_of_the_conversion_is_not_blamed_on_the_disk(store: Store, card: Card):
    def fail(raw_paths: list[Path], destination: Path) -> None:
        (destination / "missing").read_bytes()

    with pytest.raises(FileNotFoundError):
        store.pull(card, convert=fail)


# --- Several processes --------------------------------------------------------------------------------

PULL = """
import sys
from pathlib import Path
from iseparate.weights.card import Card
from iseparate.weights.store import Store

def join(raw_paths, destination):
    (destination / "model.safetensors").write_bytes(b"".join(path.read_bytes() for path in raw_paths))

card = Card.model_validate_json(sys.argv[2])
print(Store(Path(sys.argv[1]), notify=print).pull(card, convert=join).weights_sha256)
"""


def start_pull(store: Store, card: Card) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PULL, str(store.root), card.model_dump_json()],
        env=os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a kill that cannot be caught")
def test_a_killed_download_is_never_used_and_is_gone_on_from(server, store: Store, card: Card, weights: bytes):
    server.pages["/b"].pause_seconds = 0.05
    process = start_pull(store, card)
    parts = store.root / "downloads" / "toy"
    wait_until(lambda: any(part.stat().st_size > 16_384 for part in parts.glob("*.part")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    assert store.entry(card) is None
    assert store.list() == []
    (part,) = parts.glob("*.part")
    came_bytes = part.stat().st_size
    assert 0 < came_bytes < 299_000

    server.pages["/b"].pause_seconds = 0.0
    server.requests.clear()
    assert store.pull(card, convert=join).weights_path.read_bytes() == weights
    assert [(r.path, r.headers.get("Range")) for r in server.requests] == [("/b", f"bytes={came_bytes}-")]
    assert not list((store.root / "staging").iterdir())
    assert not list((store.root / "downloads").iterdir())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a kill that cannot be caught")
def test_what_a_process_killed_while_converting_leaves_is_never_used(server, store: Store, card: Card, weights: bytes):
    staged = store.root / "staging" / "toy" / "entry"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"half")
    assert store.entry(card) is None
    assert store.pull(card, convert=join).weights_path.read_bytes() == weights
    assert not staged.exists()


def test_two_processes_that_pull_at_once_download_once(server, store: Store, card: Card, weights: bytes):
    server.pages["/b"].pause_seconds = 0.05
    processes = [start_pull(store, card) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].split("\n") for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert all(sha256(weights) in answer for answer in answers)
    assert sum("Another process is working on toy" in line for answer in answers for line in answer) == 1
    assert sorted(request.path for request in server.requests) == ["/a", "/b"]


def test_removing_takes_parts_of_downloads_too(server, store: Store, card: Card, monkeypatch: pytest.MonkeyPatch):
    server.pages["/b"].truncate_after = 50_000
    monkeypatch.setattr("iseparate.weights.download.FRUITLESS_ATTEMPTS", 1)
    with pytest.raises(DownloadError):
        store.pull(card, convert=join)
    assert store.remove("toy") is True
    assert not list((store.root / "downloads").iterdir())
