"""A small file system of its own, to be filled; needs the right to mount."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.require import require

_SIZE_MIB = 32
_OTHER = "of another program"


@contextlib.contextmanager
def small_disk(home: Path) -> Iterator[Path]:
    """Mounted at `home`, which is made."""
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MIB}m", "tmpfs", str(home)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        require("tmpfs", "a full disk is tried on a file system of its own; run the tests as root")
    try:
        yield home
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def fill(home: Path) -> None:
    """Until no byte is left, as another program would."""
    for size in (65536, 1):
        with contextlib.suppress(OSError), (home / _OTHER).open("ab", buffering=0) as file:
            while file.write(b"x" * size):
                pass


def clear(home: Path) -> None:
    """Somebody makes room."""
    (home / _OTHER).unlink()


class Filler:
    """A program that writes all the time, and takes any byte that becomes free."""

    def __init__(self, home: Path) -> None:
        self._home, self._stop = home, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        fill(self._home)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        clear(self._home)

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            fill(self._home)
