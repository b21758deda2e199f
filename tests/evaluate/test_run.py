"""A run: whole files or none, taken up where it stopped, never mixed with another."""

from __future__ import annotations

import json
import re
import threading

import numpy as np
import pytest
from scored_songs import BSS, RATE, USDR, asked, noisy, session, song

from iseparate.errors import AudioReadError, OutputError, UsageError
from iseparate.evaluate.estimators import Estimator, mixture_estimator, oracle_estimator, separating
from iseparate.evaluate.run import open_run, read_run, stored_scores
from iseparate.evaluate.track_scores import read_track_scores, track_file_names


def run(folder, tracks, estimator=None, *, resume=False, chosen=None, metrics=(USDR,), words=None, **options):
    estimator = estimator or noisy()
    words = words or asked(estimator, tracks, metrics)
    with open_run(folder, words, session(), tracks, tracks if chosen is None else chosen, resume) as opened:
        return opened.run(estimator, metrics, **options)


def test_a_run_leaves_one_museval_file_per_track(tmp_path):
    tracks = [song("a", channels=1), song("b", subset="", channels=1)]
    results = run(tmp_path / "run", tracks, metrics=(BSS, USDR))
    assert [(result.track, result.status) for result in results] == [("a", "done"), ("b", "done")]
    document = json.loads((tmp_path / "run/test/a.json").read_text())
    assert [target["name"] for target in document["targets"]] == ["drums", "bass", "other", "vocals", "accompaniment"]
    frame = document["targets"][0]["frames"][1]
    assert (frame["time"], frame["duration"], set(frame["metrics"])) == (1.0, 1.0, {"SDR", "ISR", "SIR", "SAR"})
    scores = read_track_scores(tmp_path / "run/test/b.json")  # of no subset: where museval looks
    assert scores == results[1].scores
    assert frame["metrics"]["SDR"] == pytest.approx(
        results[0].scores.scores["bss_eval_v4"]["drums"]["SDR"][1], abs=1e-5
    )
    # The estimates are the stems and noise at -20 dB.
    assert results[0].scores.scores["usdr"]["drums"]["uSDR"][0] == pytest.approx(20, abs=0.3)
    assert set(results[0].spectra) == {"drums", "bass", "other", "vocals", "accompaniment"}
    assert not list(tmp_path.rglob("*.part"))


def test_a_track_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path):
    broken = song("broken")
    sounds = dict(broken.sounds)

    def refuse(source, start_samples=0, samples=None):
        raise AudioReadError("broken.wav is not sound")

    broken.read = refuse
    tracks = [broken, song("whole")]
    results = run(tmp_path, tracks)
    assert [result.status for result in results] == ["failed", "done"]
    assert results[0].error == "broken: broken.wav is not sound"
    assert not (tmp_path / "test/broken.json").exists()
    del broken.read
    broken.sounds = sounds
    assert [result.status for result in run(tmp_path, tracks, resume=True)] == ["done", "kept"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda stems: stems | {"bass": stems["bass"] * np.nan}, "the estimate of bass holds NaN or infinity"),
        (lambda stems: stems | {"bass": stems["bass"][:1]}, r"the estimate of bass has the shape \[1, 16000\]"),
        (lambda stems: stems | {"bass": stems["bass"][:, :100]}, "bass lasts 0.01 s and the track 2.00 s"),
        (lambda stems: {}, "there is no estimate to score"),
        (lambda stems: 1 / 0, "a fault of iseparate's; please report it: ZeroDivisionError"),
        (lambda stems: bytearray(1 << 62), "needs more memory than there is"),
    ],
)
def test_what_is_wrong_with_estimates_is_said(tmp_path, spoil, sentence):
    bad = Estimator("bad", "model", lambda audio, report: spoil(dict(audio.stems)))
    (result,) = run(tmp_path, [song()], bad)
    assert result.status == "failed"
    assert re.search(sentence, result.error), result.error


def test_estimates_of_another_length_are_fitted_and_it_is_noted(tmp_path):
    def estimate(audio, report):
        return {name: stem[:, : -7 if name == "bass" else None] for name, stem in audio.stems.items()}

    (result,) = run(tmp_path, [song()], Estimator("short", "model", estimate))
    assert result.scores.notes == ("bass is 7 samples shorter than the mixture; zeros were added to its end",)


def test_a_silent_stem_is_a_result(tmp_path):
    track = song(channels=1)
    track.sounds = {**track.sounds, "bass": np.zeros_like(track.sounds["bass"])}
    (result,) = run(tmp_path, [track], metrics=(BSS,))
    assert result.status == "done"
    assert np.isnan(result.scores.scores["bss_eval_v4"]["bass"]["SDR"]).all()
    assert np.isfinite(result.scores.scores["bss_eval_v4"]["drums"]["SDR"]).all()
    assert "NaN" in (tmp_path / "test/song.json").read_text()
    assert stored_scores(tmp_path)[0].model_dump_json() == result.scores.model_dump_json()


def test_a_track_shorter_than_a_frame_is_one_frame(tmp_path):
    (result,) = run(tmp_path, [song(seconds=0.5, channels=1)], metrics=(BSS,))
    assert len(result.scores.scores["bss_eval_v4"]["drums"]["SDR"]) == 1


def test_resume_scores_only_what_is_missing(tmp_path):
    tracks = [song(name) for name in "abc"]
    run(tmp_path, tracks, chosen=tracks[:1])
    before = (tmp_path / "test/a.json").stat().st_mtime_ns
    calls = []
    estimator = noisy(calls=calls)
    results = run(tmp_path, tracks, estimator, resume=True)
    assert calls == ["b", "c"]
    assert [result.status for result in results] == ["kept", "done", "done"]
    assert (tmp_path / "test/a.json").stat().st_mtime_ns == before
    assert len(read_run(tmp_path).sessions) == 2


def test_a_folder_holds_one_run(tmp_path):
    tracks = [song("a"), song("b")]
    run(tmp_path, tracks)
    with pytest.raises(UsageError, match="holds a run already; go on with it by --resume, or choose another -o"):
        run(tmp_path, tracks)
    with pytest.raises(
        UsageError, match=r"was made with identity.level 0.1 and this call asks for 0.2; ask for the same"
    ):
        run(tmp_path, tracks, noisy(level=0.2), resume=True)
    with pytest.raises(UsageError, match="was made with metrics usdr and this call asks for usdr, bss_eval_v4"):
        run(tmp_path, tracks, metrics=(USDR, BSS), resume=True)
    with pytest.raises(UsageError, match="was made with tracks_sha256"):
        run(tmp_path, [song("a"), song("c")], resume=True)
    with pytest.raises(UsageError, match=r"scores that this call leaves out \(1 of . tracks, such as b\)"):
        run(tmp_path, tracks, chosen=tracks[:1], resume=True)
    # Better words for the same metric are no other metric.
    words = asked(noisy(), tracks).model_copy(update={"metrics": {"usdr": "in other words"}})
    run(tmp_path, tracks, resume=True, words=words)


def test_a_track_whose_stems_changed_is_not_kept(tmp_path):
    run(tmp_path, [song("a")])
    with pytest.raises(UsageError, match=r"a\.json is of a track with the stems .* remove that file"):
        run(tmp_path, [song("a", stems=("vocals", "other"))], resume=True)


@pytest.mark.parametrize("content", ["", "{}", '{"iseparate": {"format": 2}}', "[]", "\x00"])
def test_a_file_that_is_no_score_is_not_taken_for_one(tmp_path, content):
    run(tmp_path, [song("a")])
    (tmp_path / "test/a.json").write_text(content)
    with pytest.raises(UsageError, match=r"a\.json is not a file of scores that iseparate wrote; remove it"):
        run(tmp_path, [song("a")], resume=True)


def test_two_processes_do_not_share_a_folder(tmp_path):
    tracks = [song()]
    words = asked(noisy(), tracks)
    with (
        open_run(tmp_path, words, session(), tracks, tracks, resume=False),
        pytest.raises(OutputError, match="another process is at work"),
        open_run(tmp_path, words, session(), tracks, tracks, resume=True),
    ):
        pass


def test_results_come_in_the_data_sets_order_whoever_is_first(tmp_path):
    tracks = [song(name) for name in "abc"]

    def backwards(work, tasks):
        return [work(*task) for task in reversed(tasks)]

    stages, seen = [], []
    results = run(
        tmp_path,
        tracks,
        in_jobs=backwards,
        on_stage=lambda *words: stages.append(words),
        on_result=lambda result: seen.append(result.track),
    )
    assert [result.track for result in results] == ["a", "b", "c"]
    assert seen == ["c", "b", "a"]
    assert ("c", "separating", 2.0, 2.0) in stages


def test_work_can_be_ended_from_outside(tmp_path):
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [song()], cancelled=cancelled)


def test_a_data_set_that_prescribes_stems_has_them_all(tmp_path):
    (result,) = run(tmp_path, [song(stems=("vocals", "other"))], required_stems=("vocals", "drums"))
    assert result.error.startswith("song: its file of drums is missing")


def test_a_full_disk_ends_the_run_and_leaves_no_half(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        tracks = [song("a")]
        words = asked(noisy(), tracks)
        with open_run(tmp_path, words, session(), tracks, tracks, resume=False) as opened:
            patch.setattr("os.fsync", full)
            with pytest.raises(OutputError, match="cannot be written \\(No space left"):
                opened.run(noisy(), (USDR,))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in (
        [".lock", "run.json"],
        ["run.json", ".lock"],
    )


def test_hostile_names_stay_in_the_folder(tmp_path):
    names = ["../../up", "a/b", "CON", ".hidden", "x" * 300, "\udcff bytes", "line\nbreak", "Song", "song", "é", "  "]
    files = track_file_names([song(name) for name in names])
    assert len({file.casefold() for file in files}) == len(names)
    assert files == track_file_names([song(name) for name in names])
    for file in files:
        assert "/" not in file
        assert not file.startswith(".")
        assert len(f"{file}.json.part".encode()) < 200
    assert files[-2] == "é"
    tracks = [song(name, seconds=0.1) for name in names]
    assert {result.status for result in run(tmp_path / "run", tracks)} == {"done"}
    assert {path.parent.parent.name for path in (tmp_path / "run").rglob("*.json") if path.name != "run.json"} == {
        "run"
    }


def test_two_tracks_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="two tracks called"):
        run(tmp_path, [song("a"), song("a", seed=1)])
    apart = [song("a"), song("a", seed=1, subset="train")]
    with pytest.raises(UsageError, match="2 tracks are called 'a', of the subsets test, train; choose one --subset"):
        run(tmp_path, apart)
    (only,) = run(tmp_path, apart, chosen=apart[1:])
    assert only.status == "done"


def test_mixture_oracle_and_model_are_estimators(tmp_path):
    track = song(seconds=3)
    halves = separating("halves", lambda mix, rate, report: {"vocals": mix / 2, "accompaniment": mix / 2}, {})
    figures = {}
    for estimator in (mixture_estimator(), oracle_estimator("irm2"), halves):
        (result,) = run(tmp_path / estimator.name, [track], estimator)
        figures[estimator.name] = result.scores.scores["usdr"]["vocals"]["uSDR"][0]
    # Four stems of one power: the mixture's error is three times the stem.
    assert figures["mixture"] == pytest.approx(-10 * np.log10(3), abs=0.2)
    assert figures["irm2"] > figures["halves"] > figures["mixture"]
    assert track.sample_rate == RATE
