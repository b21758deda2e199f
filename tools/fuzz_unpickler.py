"""The reader of PyTorch's checkpoints under a coverage-guided fuzzer, seeded with the goldens' checkpoints.

    pip install atheris
    python tools/fuzz_unpickler.py [--seconds 600] [--corpus FOLDER]

An input's first byte says what the rest is: a whole file, or the pickle of one whose storages are all there, so that
no archive's checksums stand between the fuzzer and the machine. What must hold is what tests/weights/
test_unpickle_fuzz.py asks of its own mutations: nothing runs, only a CheckpointError comes out, what is read is of the
promised types, and no file takes long or much memory. The first fault ends the run; its input lies in FOLDER.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import types
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "weights"))
with atheris.instrument_imports(include=["iseparate.weights", "pickletools"]):
    import test_unpickle_fuzz as rules
    import torch

    from iseparate.errors import CheckpointError
    from iseparate.weights import pickle_builders, unpickle
    from iseparate.weights.guards import Allowance, explaining, require_finite_tree

WHOLE_FILE, PICKLE = b"f", b"p"
MOST_BYTES_OF_A_SEED = 1 << 16
MOST_SECONDS = 20  # of a slow machine, and of code that reports where it goes
MOST_MEGABYTES = 3072  # PyTorch and the fuzzer's own tables included


class Storages(unpickle._Storages):
    """Every storage is there, of whatever size is declared, and zero."""

    def allocate(self, key: str, size_bytes: int, item_bytes: int) -> torch.Tensor:  # noqa: ARG002
        self.allowance.claim(size_bytes)
        return torch.zeros(size_bytes, dtype=torch.uint8)


class Fuzzed:
    """What the fuzzer calls."""

    def __init__(self, folder: Path, seeds: Path):
        self._path = folder / "checkpoint.th"
        "".encode("raw-unicode-escape")  # what is imported when first needed is imported now
        for seed in seeds.iterdir():
            self._read(seed.read_bytes())
        self._watch = rules.Watch(str(folder))
        sys.addaudithook(self._watch)
        sys.modules[rules.CANARY] = types.ModuleType(rules.CANARY)
        sys.modules[rules.CANARY].fire = self._watch.canary  # type: ignore[attr-defined]
        rules.require_alarm(self._watch)

    def __call__(self, data: bytes) -> None:
        self._watch.armed = True
        self._read(data)
        self._watch.armed = False
        if self._watch.seen:
            raise AssertionError(f"reading it did {self._watch.seen}")

    def _read(self, data: bytes) -> None:
        if data[:1] == PICKLE:
            self._read_pickle(data[1:])
        else:
            self._read_file(data[1:])

    def _read_file(self, data: bytes) -> None:
        self._path.write_bytes(data)
        _, fault = rules.attempt(self._path)
        if fault:
            raise AssertionError(fault)

    def _read_pickle(self, program: bytes) -> None:
        try:
            with explaining(self._path):
                value = unpickle._machine(io.BytesIO(program), Storages(Allowance(len(program))), nesting=0).run()
                require_finite_tree(value)
        except CheckpointError as error:
            if isinstance(error.__cause__, MemoryError):
                raise AssertionError("it asked for too much memory") from error  # noqa: TRY004 - a finding
            return
        rules.walk(value)


def write_seeds(folder: Path) -> None:
    """The goldens' files and pickles; large ones, which a fuzzer changes to no effect, are left out."""
    for number, original in enumerate(rules.originals()):
        for kind, content in ((WHOLE_FILE, original.data), (PICKLE, b"".join(original.programs))):
            if len(content) <= MOST_BYTES_OF_A_SEED:
                (folder / f"seed-{number}-{kind.decode()}").write_bytes(kind + content)
    for name, (content, _) in rules.BOMBS.items():
        if len(content) <= MOST_BYTES_OF_A_SEED:
            (folder / f"bomb-{name.replace(' ', '-')}").write_bytes(PICKLE + content)


def write_words(path: Path) -> None:
    """What the fuzzer may put in as a whole: names that are answered, names that attack, calls, huge lengths."""
    answered = [tuple(name.rsplit(".", 1)) for name in pickle_builders.BUILDERS]
    words = [rules.named(*names) for names in (*answered, *rules.TARGETS)]
    words += [*rules.ARGUMENTS, *rules.CALLS, *rules.STATES, *rules.HUGE, *rules.NUMBERS, *rules.VALUES]
    escaped = ("".join(f"\\x{octet:02x}" for octet in word) for word in words if 0 < len(word) <= 128)
    path.write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")


def main() -> None:
    """Prepare seeds and limits, and hand over to the fuzzer, which does not return."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, help="where inputs that reach new code are kept (build/fuzz-unpickler)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of odd escapes; showing one opens the source
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tempfile.tempdir = name
        corpus = (options.corpus or ROOT / "build" / "fuzz-unpickler").resolve()
        seeds = folder / "seeds"
        for made in (corpus, seeds):
            made.mkdir(parents=True, exist_ok=True)
        write_seeds(seeds)
        write_words(folder / "words")
        limits = [f"-max_total_time={options.seconds}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MEGABYTES}"]
        limits += [f"-max_len={MOST_BYTES_OF_A_SEED + 1}", f"-dict={folder / 'words'}", f"-artifact_prefix={corpus}/"]
        atheris.Setup([sys.argv[0], *limits, str(corpus), str(seeds)], Fuzzed(folder, seeds))
        atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
