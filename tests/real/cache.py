"""Where the tests keep what they fetch or build once, outside the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def cache() -> Path:
    """The directory, made when missing; CURB_TEST_CACHE names another one."""
    found = Path(os.environ.get("CURB_TEST_CACHE", "~/.cache/curb-tests")).expanduser()
    found.mkdir(parents=True, exist_ok=True)
    return found


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time."""
    with (cache() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(what: str, text: str) -> None:
    """To whoever waits, also while pytest captures."""
    print(f"[{what}] {text}", file=sys.__stderr__, flush=True)
