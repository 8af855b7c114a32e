"""Another version of Curb for tests: the code of an earlier commit, run with the packages of this environment."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
#: How many commits ago. By hand: within one release; the records and snapshots of later versions have more fields.
COMMITS = int(os.environ.get("CURB_TEST_COMMITS_AGO", "40"))


def earlier_version(into: Path) -> tuple[str, Path]:
    """The commit, and the directory of its code; skips where the history does not reach back so far."""
    commit = _git("rev-parse", "--short", f"HEAD~{COMMITS}").strip()
    if not commit:
        pytest.skip(f"other version: no history of {COMMITS} commits (git fetch --unshallow)")
    packed = into / "code.tar"
    _git("archive", "--output", str(packed), commit)
    safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.3 has none
    with tarfile.open(packed) as tar:
        tar.extractall(into / "code", **safe)
    return commit, into / "code"


def _git(*arguments: str) -> str:
    """The output, or nothing where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""
