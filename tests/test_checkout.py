"""Which commit made a result."""

from __future__ import annotations

import subprocess

import pytest

from iseparate import checkout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one package file, which is where this code believes to be."""
    package = tmp_path / "src" / "iseparate"
    package.mkdir(parents=True)
    (package / "checkout.py").write_text("a = 1\n")
    (tmp_path / "notes.md").write_text("before\n")

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(checkout, "_PACKAGE", package)
    monkeypatch.setattr(checkout, "__file__", str(package / "checkout.py"))
    return tmp_path, git


def test_the_commit_and_whether_the_source_was_changed(repository):
    root, git = repository
    head = git("rev-parse", "HEAD")
    assert checkout.commit() == head
    assert checkout.commit(7) == head[:7]
    (root / "notes.md").write_text("after\n")
    assert checkout.commit() == head  # words beside the source change no result
    (root / "src" / "iseparate" / "checkout.py").write_text("a = 2\n")
    assert checkout.commit(7) == f"{head[:7]} with changes"


def test_somebody_else_s_checkout_is_not_ours(repository):
    _, git = repository
    git("rm", "-q", "--cached", "src/iseparate/checkout.py")
    git("commit", "-q", "-m", "without us")
    assert checkout.commit() is None


def test_outside_a_checkout_and_without_git(repository, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(checkout, "_PACKAGE", tmp_path_factory.mktemp("installed"))
    assert checkout.commit() is None
    monkeypatch.setenv("PATH", "")
    assert checkout.commit() is None
