"""Work for the forecast pool's processes: some of it ends badly."""

from __future__ import annotations

import os
import signal
import time


def double(value: float) -> float:
    return 2 * value


def process_id() -> int:
    return os.getpid()


def fail(why: str) -> None:
    raise ValueError(why)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Longer than any test waits."""
    while True:
        time.sleep(60)


def fill_memory(mib: int) -> int:
    held = bytearray(mib * 1024 * 1024)
    held[::4096] = b"x" * len(held[::4096])
    return os.getpid()


def note(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")


def wait_for(path: str) -> None:
    """Until the file is there."""
    while not os.path.exists(path):
        time.sleep(0.01)
