"""Follows JSON-lines files that grow, rotate and are truncated, from a cursor that says how far each was read."""

from __future__ import annotations

import asyncio
import glob
import gzip
import hashlib
import logging
import os
import threading
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from curb.connectors.connector import Batch, Check
from curb.connectors.decode import Letters, Rejected
from curb.connectors.tokens.jsonl_lines import DEFAULT_LINE_BYTES, LineFormat, parse_lines, too_long
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError

logger = logging.getLogger(__name__)
CHUNK_BYTES = 1024 * 1024
#: Bytes at the start of a file that distinguish it from another file with the same inode.
_HEAD_BYTES = 1024
#: The offset of a stream that is being read: equal to no place, should the read fail.
_IN_USE = -1


class _Place(msgspec.Struct, omit_defaults=True):
    """How far one file was read."""

    path: str
    #: Device and inode: the file, whatever it is called now.
    file: str
    head: str = ""
    head_bytes: int = 0
    #: Decompressed bytes and lines read.
    offset: int = 0
    line: int = 1
    #: Inside a line that is too long, up to its end.
    skipping: bool = False
    #: Size and time of change when everything in it had been read; it is looked at again when they differ.
    seen: tuple[int, int] | None = None


class _Chunk(NamedTuple):
    data: bytes
    #: Nothing lies behind `data` now; `final`: and nothing ever will, so a last line without newline is whole.
    end: bool
    final: bool = False
    damaged: bool = False


class _OpenGzip(NamedTuple):
    """A compressed file held open: going to `offset` again would mean to decompress everything before it.

    `tail` is what lies between `offset` and where the stream is: the start of a line.
    """

    file: str
    offset: int
    tail: bytes
    stream: gzip.GzipFile


class JsonlFiles:
    """Reads one file, a directory or a glob pattern, one chunk of one file a call, in the order of the names."""

    def __init__(
        self,
        path: Path,
        name: str,
        form: LineFormat,
        clock: Clock,
        *,
        max_line_bytes: int = DEFAULT_LINE_BYTES,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._path, self._name, self._format, self._clock = path.expanduser(), name, form, clock
        self._max_line_bytes = max_line_bytes
        self._chunk_bytes = max(chunk_bytes, max_line_bytes + 1)
        self._open: _OpenGzip | None = None
        self._lock = threading.Lock()
        self._warned = False

    async def read(self, cursor: str | None) -> Batch:
        """Raises TransientError when a file cannot be read now, PermanentError when it may not be read."""
        return await asyncio.to_thread(self._read, cursor)

    async def check(self) -> list[Check]:
        """Whether there are files, and whether each may be read."""
        return await asyncio.to_thread(self._check)

    async def close(self) -> None:
        with self._lock:
            self._close_gzip()

    def _check(self) -> list[Check]:
        paths = self._matches()
        if not paths:
            return [Check(f"files at {self._path}", False, "there are none; new ones will be read when they come")]
        refused = [path for path in paths if not os.access(path, os.R_OK)]
        checks = [Check(f"files at {self._path}", True, f"{len(paths)} files")]
        return checks + [Check(f"read {path}", False, "permission denied", "read") for path in refused]

    def _read(self, cursor: str | None) -> Batch:
        with self._lock:  # a read that was given up may still be running
            try:
                return self._next(_decode_cursor(cursor))
            except PermissionError as error:
                raise PermanentError(f"{error.filename}: permission denied") from error
            except OSError as error:
                raise TransientError(f"{error.filename or self._path}: {error.strerror}") from error

    def _next(self, known: dict[str, _Place]) -> Batch:
        """What the first file with something new gives."""
        places = self._places(known)
        self._warn_when_empty(places)
        for place in places.values():
            try:
                state = _state(place.path)
            except FileNotFoundError:
                continue  # moved away between listing and reading; found under its new name next time
            if state == place.seen:
                continue
            before = msgspec.structs.replace(place)
            batch = self._read_file(place, state)
            if batch.records or batch.dead or place.offset != before.offset:
                return batch._replace(cursor=_encode_cursor(places), more=True)
        return Batch((), _encode_cursor(places))

    # --- which files -----------------------------------------------------------------------------------------------

    def _places(self, known: dict[str, _Place]) -> dict[str, _Place]:
        """Where to go on: a place per file that is there, under its present name; renamed files first."""
        places: dict[str, _Place] = {}
        matched = {path: _file_id(path) for path in self._matches()}
        renamed = {file: place for file, place in known.items() if file not in matched.values()}
        for path, file in (*_find(renamed).items(), *matched.items()):
            place = known.get(file)
            if place is None or not _same_file(place, path):
                if path not in matched:
                    continue
                place = _Place(path, file)
            place.path = path
            places[file] = place
        return places

    def _warn_when_empty(self, places: dict[str, _Place]) -> None:
        if not places and not self._warned:
            logger.warning("no file there yet", extra={"connector": self._name, "path": str(self._path)})
        self._warned = not places

    def _matches(self) -> list[str]:
        if self._path.is_dir():
            return sorted(str(path) for pattern in ("*.jsonl", "*.jsonl.gz") for path in self._path.glob(pattern))
        if self._path.exists():
            return [str(self._path)]
        return sorted(path for path in glob.glob(str(self._path), recursive=True) if os.path.isfile(path))

    # --- one file --------------------------------------------------------------------------------------------------

    def _read_file(self, place: _Place, state: tuple[int, int]) -> Batch:
        """The next chunk of whole lines; moves `place` behind them."""
        compressed = place.path.endswith(".gz")
        with open(place.path, "rb") as raw:
            chunk = self._gzip_chunk(place) if compressed else _plain_chunk(place, raw, self._chunk_bytes)
            if place.head_bytes < _HEAD_BYTES:
                place.head, place.head_bytes = _head(raw, state[0] if compressed else place.offset + len(chunk.data))
        letters = Letters(self._name, self._clock.now())
        lines, consumed = self._whole_lines(place, chunk, letters)
        batch = parse_lines(
            lines,
            self._format,
            source=self._name,
            location=place.path,
            at=self._clock.now(),
            first_line=place.line,
            max_line_bytes=self._max_line_bytes,
        )
        place.line += len(lines)
        place.offset += consumed
        if compressed:
            self._keep_gzip(place, chunk, chunk.data[consumed:])
        if chunk.damaged:
            where = f"{place.path}@{place.offset}"
            letters.add(Rejected("invalid", "the compressed file is damaged here"), location=where, content=b"")
        place.seen = state if chunk.end else None
        return batch._replace(dead=[*letters.messages(), *batch.dead])

    def _whole_lines(self, place: _Place, chunk: _Chunk, letters: Letters) -> tuple[list[bytes], int]:
        """The whole lines in the chunk and how many of its bytes are done with."""
        data, start = chunk.data, 0
        if place.skipping:
            newline = data.find(b"\n")
            if newline < 0:
                return [], len(data)
            place.skipping, start = False, newline + 1
            place.line += 1
        stop = len(data) if chunk.final else data.rfind(b"\n") + 1
        if stop <= start and len(data) - start > self._max_line_bytes:
            location = f"{place.path}:{place.line}"
            letters.add(too_long(self._max_line_bytes), location=location, content=data[start:])
            place.skipping = True
            return [], len(data)
        if stop <= start:
            return [], start
        lines = data[start:stop].split(b"\n")
        return lines[:-1] if lines[-1] == b"" else lines, stop

    # --- compressed files ------------------------------------------------------------------------------------------

    def _gzip_chunk(self, place: _Place) -> _Chunk:
        data = bytearray()
        try:
            stream, tail = self._gzip_at(place)
            data += tail
            while len(data) < self._chunk_bytes:
                part = stream.read1(self._chunk_bytes - len(data))
                if not part:
                    return _Chunk(bytes(data), end=True, final=True)
                data += part
        except EOFError:  # still being written
            self._close_gzip()
            return _Chunk(bytes(data), end=True)
        except (gzip.BadGzipFile, zlib.error):
            self._close_gzip()
            return _Chunk(bytes(data), end=True, damaged=True)
        return _Chunk(bytes(data), end=False)

    def _gzip_at(self, place: _Place) -> tuple[gzip.GzipFile, bytes]:
        """The decompressed file, and what was read of it behind the place already. Raises what reading raises."""
        held = self._open
        if held and held.file == place.file and held.offset == place.offset:
            self._open = held._replace(offset=_IN_USE)
            return held.stream, held.tail
        self._close_gzip()
        stream = gzip.open(place.path, "rb")  # noqa: SIM115 - stays open between reads, closed by _close_gzip
        self._open = _OpenGzip(place.file, _IN_USE, b"", stream)
        stream.seek(place.offset)
        return stream, b""

    def _keep_gzip(self, place: _Place, chunk: _Chunk, tail: bytes) -> None:
        if chunk.end:
            self._close_gzip()
        elif self._open:
            self._open = self._open._replace(offset=place.offset, tail=tail)

    def _close_gzip(self) -> None:
        if self._open:
            self._open.stream.close()
            self._open = None


def _plain_chunk(place: _Place, raw: IO[bytes], chunk_bytes: int) -> _Chunk:
    raw.seek(place.offset)
    data = raw.read(chunk_bytes)
    return _Chunk(data, end=len(data) < chunk_bytes)


def _decode_cursor(cursor: str | None) -> dict[str, _Place]:
    places = [] if cursor is None else msgspec.json.decode(cursor, type=list[_Place])
    return {place.file: place for place in places}


def _encode_cursor(places: dict[str, _Place]) -> str:
    return msgspec.json.encode(list(places.values())).decode()


def _file_id(path: str) -> str:
    status = os.stat(path)
    return f"{status.st_dev}:{status.st_ino}"


def _state(path: str) -> tuple[int, int]:
    """Size and time of the last change."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _find(missing: dict[str, _Place]) -> dict[str, str]:
    """Path → file of those of the missing files that were renamed within their directory."""
    found = {}
    for directory in {os.path.dirname(place.path) or "." for place in missing.values()}:
        if not os.path.isdir(directory):
            continue
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_file() and (file := _file_id(entry.path)) in missing:
                    found[entry.path] = file
    return found


def _same_file(place: _Place, path: str) -> bool:
    """Whether the file still begins as it did and was not cut; else it is another one and read from its start."""
    state = _state(path)
    if state == place.seen or not place.head_bytes:
        return True
    if not path.endswith(".gz") and state[0] < place.offset:
        return False
    with open(path, "rb") as raw:
        return _head(raw, place.head_bytes) == (place.head, place.head_bytes)


def _head(raw: IO[bytes], limit: int) -> tuple[str, int]:
    """Hash and length of the first bytes, at most `limit`."""
    raw.seek(0)
    data = raw.read(min(_HEAD_BYTES, limit))
    return hashlib.sha256(data).hexdigest()[:16], len(data)
