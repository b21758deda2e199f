"""Wrong models, stems and options: exit status 2, one sentence, and no work done."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from stage import left_behind, write_wav

WRONG = {
    "--overlap 1.5": "overlap is a share of a segment in [0, 1)",
    "--overlap -0.1": "overlap is a share of a segment in [0, 1)",
    "--overlap nan": "overlap is a share of a segment in [0, 1)",
    "--shifts -1": "shifts is a number from 0 to 100; got -1",
    "--shifts 1000": "shifts is a number from 0 to 100; got 1000",
    "--segment 3": "segments are 0.4 s long and cannot be changed",
    "--batch-size 0": "batch_size is 1 or more; got 0",
    "-j 0": "jobs is 1 or more; got 0",
    "--format mp3 --bit-depth 16": "mp3 has no bit depth",
    "--bitrate 128": "a bit rate of 128 kbit/s was asked for a lossless format",
    "--format mp3 --bitrate 5": "expected 8 to 320",
    "--format wav --codec aac": "wav cannot be written with the codec 'aac'",
    "--format m4a --codec mp3": "choose aac or alac",
    "--format xyz": "invalid value for '--format' / '-f': 'xyz' is not one of 'wav', 'flac'",
    "--bit-depth 20": "'20' is not one of '16', '24', '32f'",
    "--clip maybe": "'maybe' is not one of 'rescale', 'clamp', 'none'",
    "--start -1": "start is a number of seconds, 0 or more; got -1",
    "--start nan": "start is a number of seconds, 0 or more; got nan",
    "--duration 0": "duration is a number of seconds, more than 0; got 0",
    "--duration inf": "duration is a number of seconds, more than 0; got inf",
    "--stream -1": "stream counts the sound tracks of a file from 0; got -1",
    "--filename {track}.{ext}": "needs {stem}",
    "--filename {stem": "is not valid",
    "--filename {stem}/": "names a folder",
    "--filename {stem.__class__}": "unknown field {stem.__class__}",
    "--filename {stem!r}": "plain fields only",
    "--filename {size}/{stem}": "unknown field {size}; there is {track}, {stem}",
    "--filename ../{stem}.{ext}": "leads out of the output folder",
    "--filename /{stem}.{ext}": "leads out of the output folder",
    "--stems ": "no stem was asked for; the model has vocals, accompaniment",
    "--stems vocal": "the model has no stem 'vocal', it has vocals, accompaniment; did you mean vocals?",
    "--stems vocals,drums": "the model has no stem 'drums'",
    "--two-stems drums": "the model has no stem 'drums'",
    "--stems vocals --two-stems vocals": "exclude each other",
    "--seed one": "invalid value for '--seed'",
    "--seed": "option '--seed' requires an argument",
    "--nonsense": "no such option: --nonsense",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_option_has_its_sentence(separate, here, words):
    write_wav(here / "song.wav")
    outcome = separate("song.wav", *words.split(" "))
    assert outcome.status == 2
    assert WRONG[words] in outcome.sentence
    assert left_behind(here) == ["song.wav"]


@pytest.mark.parametrize("words", ["--format mp3 --bit-depth 16", "--start -1", "--filename x", "--shifts -1"])
def test_a_wrong_option_is_found_before_weights_are_fetched(iseparate, here, words):
    write_wav(here / "song.wav")
    assert iseparate("song.wav", *words.split()).status == 2  # and not the 1 of weights that are not to be had


@pytest.mark.parametrize(
    ("words", "expected"), [("--start 5", "song.wav ends before 5 s"), ("--stream 7", "song.wav has no sound track 7")]
)
def test_what_only_the_song_can_tell_fails_the_song(separate, here, words, expected):
    write_wav(here / "song.wav")
    outcome = separate("song.wav", *words.split())
    assert outcome.status == 1
    assert expected in outcome.sentence
    assert left_behind(here) == ["song.wav"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-d", "cuda"], "there is no usable cuda device on this machine"),
        (["-d", "abacus"], "'abacus' is not a device; say cpu, cuda"),
    ],
)
def test_a_device_that_is_not_here(separate, here, words, expected):
    if words[1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    write_wav(here / "song.wav")
    outcome = separate("song.wav", *words)
    assert outcome.status != 0
    assert expected in outcome.sentence


# -- models --------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_answered_with_the_nearest_names(iseparate, here):
    write_wav(here / "song.wav")
    outcome = iseparate("song.wav", "-n", "spleter-2stem")
    assert outcome.status == 2
    assert "'spleter-2stem'" in outcome.sentence
    assert "did you mean spleeter-2stems" in outcome.sentence


@pytest.mark.parametrize("name", ["irm", "irm1", "ibm2-official", "mwf"])
def test_an_oracle_cannot_separate(iseparate, here, name):
    write_wav(here / "song.wav")
    outcome = iseparate("song.wav", "-n", name)
    assert outcome.status == 2
    assert f"{name} is an oracle: it needs the true stems" in outcome.sentence
    assert "iseparate.evaluate.oracle" in outcome.sentence
    assert left_behind(here) == ["song.wav"]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "x" * 5000, "nope.safetensors", "./nope.ckpt", "a\0b"])
def test_a_name_that_is_no_model(iseparate, here, name):
    write_wav(here / "song.wav")
    outcome = iseparate("song.wav", "-n", name)
    assert outcome.status in (1, 2)
    assert len(outcome.sentence) < 400


def test_weights_that_are_not_here_while_offline(iseparate, here):
    write_wav(here / "song.wav")
    outcome = iseparate("song.wav")
    assert outcome.status == 1
    assert "downloads are switched off" in outcome.sentence
    assert "iseparate models pull spleeter-2stems" in outcome.sentence


def of_metadata(path, tiny, **changes):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(tiny, framework="pt") as file:
        about = json.loads(file.metadata()["iseparate"]) | changes
        save_file({name: file.get_tensor(name) for name in file.keys()}, path, {"iseparate": json.dumps(about)})  # noqa: SIM118


CORRUPT = {
    "noise.safetensors": lambda path, tiny: path.write_bytes(bytes(range(256)) * 50),
    "cut.safetensors": lambda path, tiny: path.write_bytes(tiny.read_bytes()[:-500]),
    "empty.safetensors": lambda path, tiny: path.write_bytes(b""),
    "text.ckpt": lambda path, tiny: path.write_text("404: Not Found"),
    "noise.pt": lambda path, tiny: path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 50),
    "other.pt": lambda path, tiny: torch.save({"weight": torch.zeros(3)}, path),
    "future.safetensors": lambda path, tiny: of_metadata(path, tiny, format=99),
    "arch.safetensors": lambda path, tiny: of_metadata(path, tiny, arch="nonesuch"),
    "config.safetensors": lambda path, tiny: of_metadata(path, tiny, config={"filters": [2, 3], "hop_samples": -1}),
    "misfit.safetensors": lambda path, tiny: of_metadata(path, tiny, config={}),
    "list.safetensors": lambda path, tiny: of_metadata(path, tiny, config=[1]),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_checkpoint_has_its_sentence(iseparate, here, tiny, name):
    write_wav(here / "song.wav")
    CORRUPT[name](here / name, tiny)
    outcome = iseparate("song.wav", "-n", f"./{name}")
    assert outcome.status == 1
    assert len(outcome.sentence) < 600
    assert left_behind(here) == sorted([name, "song.wav"])


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrap", ["pickle", "torch"])
@pytest.mark.parametrize("trick", ["os.system", "open", "exec"])
def test_a_hostile_pickle_is_refused_and_never_run(iseparate, here, wrap, trick):
    import os

    write_wav(here / "song.wav")
    trace = here / "trace"
    payload = {
        "os.system": Hostile(os.system, f"touch {trace}"),
        "open": Hostile(open, str(trace), "w"),
        "exec": Hostile(exec, f"open({str(trace)!r}, 'w')"),
    }[trick]
    if wrap == "torch":
        torch.save({"state_dict": payload}, here / "evil.ckpt")
    else:
        (here / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": payload}, protocol=2))
    outcome = iseparate("song.wav", "-n", "./evil.ckpt")
    assert outcome.status == 1
    assert "evil.ckpt" in outcome.sentence
    assert not trace.exists()
    assert left_behind(here) == ["evil.ckpt", "song.wav"]


# -- verbs ---------------------------------------------------------------------------------------------------


def test_a_mistyped_verb(iseparate, here):
    outcome = iseparate("modles")
    assert outcome.status == 2
    assert outcome.sentence == "modles is neither a file nor a command; `iseparate --help` shows the commands"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("separate", "missing argument 'SONG'; `iseparate separate --help` shows what there is"),
        ("models nonesuch", "no such command 'nonesuch'"),
        ("models info", "missing argument"),
        ("models pull", "missing argument"),
        ("doctor a b c", "unexpected extra argument"),
        ("demo --loud", "no such option: --loud"),
    ],
)
def test_words_that_no_verb_takes(iseparate, words, expected):
    outcome = iseparate(*words.split())
    assert outcome.status == 2
    assert expected in outcome.sentence
