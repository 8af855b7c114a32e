"""A text file that a gateway reads: changed under a lock and in one step, so that nobody ever sees half of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from curb.stream.errors import PermanentError, TransientError

#: What does not go away by itself; a full disk does.
_PERMANENT = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS})


def read_text(path: Path) -> str:
    """All of it, line ends as they are. PermanentError when it is not there, may not be read or is no UTF-8."""
    with _errors(path):
        return _decoded(path, path.read_bytes())


def edit_text(path: Path, change: Callable[[str], str]) -> None:
    """Puts `change(text)` in place of the text, unless it is the same.

    Whoever edits the file with this function, in whatever process, waits for the others. Readers see the old file or
    the new one: it is written beside it and renamed. Its mode stays; a file that is a link is refused, since a rename
    would put a file in place of the link.
    """
    with _errors(path), _locked(path.parent):
        if path.is_symlink():
            raise PermanentError(f"{path} is a link; name the file itself")
        found = _decoded(path, path.read_bytes())
        text = change(found)
        if text != found:
            _replace(path, text.encode())


def _replace(path: Path, content: bytes) -> None:
    found = path.stat()
    written = path.with_name(f".{path.name}.curb")
    with written.open("wb") as file:
        os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode))
        with contextlib.suppress(PermissionError):  # only root may give files away; the mode is what lets others read
            os.fchown(file.fileno(), found.st_uid, found.st_gid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path}: {error.strerror or type(error).__name__}"
        raise (PermanentError if error.errno in _PERMANENT else TransientError)(message) from error


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise PermanentError(f"{path} is not UTF-8") from error
