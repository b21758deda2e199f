"""Which commit of the source made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def commit(digits: int = 40) -> str | None:
    """The commit that this code is checked out at, `` with changes`` where it was changed; None outside a checkout.

    `digits` are those of the hash, from 4 to 40; git gives more where so few would be ambiguous.
    """
    try:
        # An environment that lies in somebody else's checkout is no part of it.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return _git("rev-parse", f"--short={digits}", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *words],  # noqa: S607
        cwd=_PACKAGE,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
