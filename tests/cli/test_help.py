"""What the command says of itself: help, version, completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import shellingham

import iseparate as package

VERBS = [
    "",
    "separate",
    "doctor",
    "demo",
    "models",
    "models list",
    "models info",
    "models pull",
    "models remove",
    "models import",
    "models export",
    "data",
    "data check",
    "data manifest",
    "data prepare",
    "data synthesize",
    "evaluate",
    "train",
    "reproduce",
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_every_verb_has_help_that_fits_a_terminal(iseparate, verb, word):
    outcome = iseparate(*verb.split(), word)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"Usage: iseparate {verb}".strip() in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    # Nothing of the source's own markup or of Python shows.
    assert not re.search(r"\[/?bold\]|<bool>.*<bool>.*<bool>|Annotated|functools", outcome.out)


def test_the_help_teaches_with_examples(iseparate):
    out = iseparate("separate", "--help").out
    for line in (
        "iseparate song.mp3",
        "iseparate album/ -o stems --format flac --skip-existing",
        "iseparate song.m4a --two-stems vocals --start 60 --duration 30",
    ):
        assert f" {line} " in out
    for option in ("--two-stems", "--shifts", "--jobs", "--filename", "--allow-truncated"):
        assert option in out


def test_the_examples_of_the_help_are_ones_that_work(iseparate, tiny, here):
    from stage import write_wav

    (here / "album").mkdir()
    for name in ("song.wav", "album/a.wav"):
        write_wav(here / name, seconds=2)
    assert iseparate("-n", tiny, "album/", "-o", "stems", "--format", "flac", "--skip-existing").status == 0
    assert iseparate("-n", tiny, "song.wav", "--stems", "vocals", "--start", "1", "--duration", "0.5").status == 0


@pytest.mark.parametrize("words", [[], ["models"]])
def test_no_words_at_all_show_the_help(iseparate, words):
    outcome = iseparate(*words)
    assert outcome.status == 2
    assert "Commands" in outcome.out
    assert outcome.err == ""


def test_version(iseparate):
    assert iseparate("--version").out == f"{package.__version__}\n"


def complete(*words):
    """What bash is offered for the last of these words."""
    outcome = subprocess.run(
        [sys.executable, "-c", "from iseparate.cli import app; app(prog_name='iseparate')"],
        env=os.environ
        | {
            "_ISEPARATE_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["iseparate", *words]),
            "COMP_CWORD": str(len(words)),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in outcome.stderr
    return outcome.stdout.split()


def test_the_shell_completes_verbs_options_and_models():
    assert complete("mod") == ["models"]
    assert {"pull", "info"} <= set(complete("models", ""))
    assert "spleeter-2stems" in complete("separate", "-n", "sple")
    assert "spleeter-2stems" in complete("-n", "sple")
    assert {"spleeter-4stems", "spleeter-4stems-official"} == set(complete("models", "pull", "spleeter-4"))
    assert "--skip-existing" in complete("song.mp3", "--sk")


def test_completion_can_be_installed(iseparate, monkeypatch):
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("bash", "/bin/bash"))  # tests may run under none
    outcome = iseparate("--show-completion")
    assert outcome.status == 0
    assert "_ISEPARATE_COMPLETE" in outcome.out or "COMPLETE" in outcome.out


def test_a_word_of_the_group_needs_no_torch():
    """Help, version and completion answer at once."""
    code = (
        "import sys; from iseparate.cli import main; sys.argv = ['iseparate', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'av' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
