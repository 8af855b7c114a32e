"""Sorted runs of hashed ids, in files that are mapped or in memory, each with a filter of one or two bytes an id."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
import zlib
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
Hashes = NDArray[np.uint64]

#: Ids for which there is a cell of 64 bits in the filter, at most, and the bits that each sets: of look-ups of new ids
#: one in 25 to one in 300 is in vain.
_IDS_PER_CELL, _BITS = 8, 4
_ONE, _SIX = np.uint64(1), np.uint64(63)
#: Ids whose bits are set in the filter at once, to bound what is in memory beside it.
_AT_ONCE = 1 << 20


class SavedRun(msgspec.Struct):
    """A run in a snapshot: the file with its checksum, and the ids themselves where they are carried along."""

    file: str
    count: int
    crc: int
    carried: bytes = b""


class Run:
    """Distinct hashes in ascending order. `file` is the name of its file, empty while it is in memory only."""

    def __init__(self, hashes: Hashes, file: str = "", crc: int = 0) -> None:
        self.hashes, self.file, self._crc = hashes, file, crc
        cells = max(1, (len(hashes) // _IDS_PER_CELL).bit_length())
        self._shift = np.uint64(64 - cells)
        self._filter = np.zeros(1 << cells, np.uint64)
        for start in range(0, len(hashes), _AT_ONCE):
            part = hashes[start : start + _AT_ONCE]
            cell = self._cells(part)
            first = np.flatnonzero(np.diff(cell, prepend=-1))
            self._filter[cell[first]] |= np.bitwise_or.reduceat(bits_of(part), first)

    def _cells(self, hashes: Hashes) -> NDArray[np.int64]:
        """Where each hash is in the filter: in their order, so that sorted hashes have sorted cells."""
        cells: NDArray[np.int64] = (hashes >> self._shift).view(np.int64)
        return cells

    def __len__(self) -> int:
        return len(self.hashes)

    def mark(self, hashes: Hashes, bits: Hashes, found: NDArray[np.bool_]) -> None:
        """Set `found` where a hash is in this run; `bits` are `bits_of` the hashes."""
        maybe = np.flatnonzero(self._filter.take(self._cells(hashes)) & bits == bits)
        if len(maybe):
            wanted = hashes[maybe]
            at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
            found[maybe] |= self.hashes[at] == wanted

    def saved(self, *, carry: bool) -> SavedRun:
        """For a snapshot; `carry` takes the ids along, as is done where there is no file."""
        return SavedRun(self.file, len(self), self._crc, self.hashes.tobytes() if carry or not self.file else b"")


def bits_of(hashes: Hashes) -> Hashes:
    """The bits of each hash in its cell of any filter."""
    bits = np.zeros(len(hashes), np.uint64)
    for number in range(_BITS):
        bits |= _ONE << (hashes >> np.uint64(6 * number) & _SIX)
    return bits


class RunFiles:
    """The files of the runs of one owner, under `name` in `directory`; without a directory all stays in memory.

    Files never change. One is deleted when neither of the last two snapshots names it: the older one may be what a
    crash goes back to. A file that is damaged is known by its checksum, so nothing is forced to disk.
    """

    def __init__(self, name: str, directory: Path | None) -> None:
        self._name, self._directory = re.sub(r"[^A-Za-z0-9.-]", "-", name), directory
        self._kept: set[str] = set()
        self._failed = False

    def add(self, hashes: Hashes) -> Run:
        """A run of ascending hashes, in a new file where that can be written."""
        if self._directory is None:
            return Run(hashes)
        file, data = f"{self._name}.{uuid.uuid4().hex}.ids", hashes.tobytes()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / file).write_bytes(data)
            mapped = self._map(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                (self._directory / file).unlink()  # what was written of it takes room that is short
            if not self._failed:
                logger.error("ids stay in memory: no file can be written", extra={"detail": error.strerror})
            self._failed = True
            return Run(hashes)
        self._failed = False
        return Run(mapped, file, zlib.crc32(data))

    def open(self, saved: SavedRun) -> Run | None:
        """The run of a snapshot, from its file or what was carried along; None when both are gone."""
        if saved.file and self._directory is not None:
            try:
                mapped = self._map(saved.file)
                if len(mapped) == saved.count and zlib.crc32(mapped.data) == saved.crc:
                    self._kept.add(saved.file)
                    return Run(mapped, saved.file, saved.crc)
                logger.warning("a file of ids is damaged", extra={"file": saved.file})
            except (OSError, ValueError):
                pass  # the partition was moved here, or its files are lost: said below
        if len(saved.carried) == 8 * saved.count:
            return self.add(np.frombuffer(saved.carried, np.uint64))
        logger.warning("a file of ids is not here", extra={"file": saved.file, "ids": saved.count})
        return None

    def keep(self, named: set[str]) -> None:
        """Delete the files that neither this snapshot nor the one before names."""
        kept, self._kept = named | self._kept, named
        if self._directory is None or not self._directory.is_dir():
            return
        for path in self._directory.glob(f"{self._name}.*.ids"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _map(self, file: str) -> Hashes:
        assert self._directory is not None
        return np.memmap(self._directory / file, np.uint64, mode="r")
