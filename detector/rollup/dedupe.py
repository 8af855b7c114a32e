"""Ids of recent events, remembered for a time: hashes in a set, then in sorted runs that lie in files.

An id is remembered by a hash of 64 bits. With a full window of 86 million ids the chance that an event is taken for
another one is 5 in 10^12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.rollup.id_runs import Hashes, Run, RunFiles, SavedRun, bits_of
from curb.stream.settings import Settings

#: Slices of the window; one more is remembered while the newest fills. Fewer remember up to a half longer than asked
#: for, more cost a look-up each. By hand.
_SLICES = 6
#: Ids in the set before they become a run: 20 MB. By hand.
_YOUNG_IDS = 1 << 18
#: The newest runs are not merged and are also in the snapshot (8 MB), for whoever takes over without the files.
_NEWEST_RUNS = 4
#: Runs of one slice that are merged at once, so that each id is sorted three times an hour at 4,000 a second.
_MERGED_RUNS = 4
#: Seconds of a window that never ends.
_FOR_EVER_S = 1e12
#: Longer ids are hashed by their digest.
_WIDEST_ID = 64

#: Odd constants without structure, one for each 8 bytes of an id (digits of the golden ratio and of primes' roots).
_WORDS = np.array(
    [
        0x9E3779B97F4A7C15,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0xD6E8FEB86659FD93,
        0xA0761D6478BD642F,
        0xE7037ED1A0B428DB,
        0x8EBC6AF09C88C6E3,
        0x589965CC75374CC3,
    ],
    np.uint64,
)
_MIX, _HIGH, _LOW = np.uint64(0xFF51AFD7ED558CCD), np.uint64(32), np.uint64(29)


class DedupeSettings(Settings):
    """How long ids are remembered."""

    window_s: float = Field(
        default=6 * 3600.0, gt=0, description="An id is remembered at least this long, unless max_ids is reached."
    )
    min_ids: int = Field(
        default=100_000,
        ge=0,
        description="Ids remembered whatever their age, so that a replayed file that is read again after a crash "
        "counts once.",
    )
    max_ids: int = Field(
        default=120_000_000,
        ge=_SLICES + 2,
        description="Ids kept per partition: 8 bytes each on disk, 1 to 2 in memory. Six hours at 4,000 a second are "
        "101 million. The oldest are dropped first.",
    )


class _SavedSlice(msgspec.Struct):
    since: float
    offered: int
    runs: list[SavedRun]


class SavedIds(msgspec.Struct):
    """The ids in a snapshot of their owner."""

    young: bytes
    slices: list[_SavedSlice]
    forgotten_until: float


class _Slice:
    """Ids that came from `since` on (epoch seconds of receipt) to the start of the next slice."""

    def __init__(self, since: float) -> None:
        self.since = since
        #: Ids that came, repeats counted.
        self.offered = 0
        self.runs: list[Run] = []


class RecentIds:
    """Ids seen within the window, at least `min_ids` and at most `max_ids` of them.

    Time is given with every call. A slice ends, and the oldest is dropped, by what came alone, not by when it was
    asked for, so a replay decides the same. `directory` is where runs lie; without one they stay in memory.
    """

    def __init__(self, settings: DedupeSettings, name: str = "", directory: Path | None = None) -> None:
        self._settings = settings
        self._files = RunFiles(name, directory)
        self._young: set[int] = set()
        #: The same, as they came.
        self._batches: list[Hashes] = []
        self._slices: list[_Slice] = []
        #: Ids that came before this may be forgotten too early: dropped for their number, or their file was lost.
        self._forgotten_until = 0.0

    @classmethod
    def for_ever(cls) -> RecentIds:
        """For one reading of a whole log: a duplicate may come weeks later. Eight bytes for each id."""
        ids = cls(DedupeSettings(window_s=_FOR_EVER_S, min_ids=0))
        ids.begin_slice(0.0)
        return ids

    def __len__(self) -> int:
        return len(self._young) + sum(len(run) for each in self._slices for run in each.runs)

    def window_s(self, now: float) -> float:
        """How far back ids are really known, at most the window that is asked for."""
        return min(self._settings.window_s, now - self._forgotten_until)

    def is_due(self, received_at: float) -> bool:
        """Whether `begin_slice` is due before more ids are looked up."""
        if not self._slices:
            return True
        newest = self._slices[-1]
        full = newest.offered >= max(1, self._settings.max_ids // (_SLICES + 2))
        return full or received_at - newest.since >= self._settings.window_s / _SLICES

    def begin_slice(self, received_at: float) -> None:
        """End the newest slice and drop what is older than the window, or too much."""
        self._seal()
        self._slices.append(_Slice(received_at))
        counts = [each.offered for each in self._slices]
        while len(self._slices) > 1:
            total, rest = sum(counts), sum(counts[1:])
            aged = self._slices[1].since <= received_at - self._settings.window_s and rest >= self._settings.min_ids
            # The newest slice is empty yet: leave room for it.
            crowded = total > self._settings.max_ids - self._settings.max_ids // (_SLICES + 2)
            if not (aged or crowded):
                break
            if not aged:
                self._forgotten_until = self._slices[1].since
            del self._slices[0], counts[0]
        self._join_old(received_at - self._settings.window_s)

    def _join_old(self, until: float) -> None:
        """Make small slices that ended before `until` one: they are kept for their number, and each costs a look-up."""
        least, at = self._settings.min_ids // _SLICES, 0
        while at + 2 < len(self._slices) and self._slices[at + 2].since <= until:
            older, newer = self._slices[at : at + 2]
            if older.offered + newer.offered > least:
                at += 1
                continue
            older.offered += newer.offered
            older.runs += newer.runs
            del self._slices[at + 1]

    def offer(self, count: int) -> None:
        """So many ids are about to be looked up, in one call or more."""
        self._slices[-1].offered += count

    def first_seen(self, ids: Sequence[str]) -> NDArray[np.bool_] | None:
        """True for each of `ids` that is new; None when all are. Remembers all."""
        hashes = hashes_of(ids)
        bits, old = bits_of(hashes), np.zeros(len(hashes), np.bool_)
        for each in self._slices:
            for run in each.runs:
                run.mark(hashes, bits, old)
        keys = hashes.tolist()
        known, before = self._young.intersection(keys), len(self._young)
        self._young.update(keys)
        self._batches.append(hashes)
        if known or len(self._young) - before < len(keys):
            fresh = np.zeros(len(keys), np.bool_)
            fresh[np.unique(hashes, return_index=True)[1]] = True
            if known:
                fresh &= ~np.isin(hashes, np.fromiter(known, np.uint64, len(known)))
            old |= ~fresh
        if len(self._young) >= _YOUNG_IDS:
            self._seal()
        return ~old if old.any() else None

    def _seal(self) -> None:
        """Make the set a run of the newest slice, and merge older runs."""
        if self._young:
            self._slices[-1].runs.append(self._files.add(self._take_young()))
            self._young, self._batches = set(), []
        newest = {id(run) for run in [run for each in self._slices for run in each.runs][-_NEWEST_RUNS:]}
        for each in self._slices:
            settled = [run for run in each.runs if id(run) not in newest]
            if each is not self._slices[-1] and len(settled) == len(each.runs):
                merged = settled if len(settled) > 1 else []
            else:
                merged = _of_one_size(settled)
            if merged:
                run = self._files.add(np.sort(np.concatenate([run.hashes for run in merged]), kind="stable"))
                at = each.runs.index(merged[0])
                each.runs[at : at + len(merged)] = [run]

    def _take_young(self) -> Hashes:
        """The ids of the set in ascending order."""
        hashes: Hashes = np.sort(np.concatenate([np.zeros(0, np.uint64), *self._batches]))
        distinct: Hashes = hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]
        return distinct

    def dump(self) -> SavedIds:
        """What `load` takes; the files it names are kept until two later dumps do without them."""
        runs = [run for each in self._slices for run in each.runs]
        carried = {id(run) for run in runs[-_NEWEST_RUNS:] if len(run) <= 2 * _YOUNG_IDS}
        slices = [
            _SavedSlice(each.since, each.offered, [run.saved(carry=id(run) in carried) for run in each.runs])
            for each in self._slices
        ]
        self._files.keep({run.file for run in runs if run.file})
        young = self._take_young()
        self._batches = [young]
        return SavedIds(young.tobytes(), slices, self._forgotten_until)

    def load(self, saved: SavedIds, now: float) -> None:
        """Take over what `dump` gave. A run whose file is missing or damaged is forgotten, and the window says so."""
        self._batches = [np.frombuffer(saved.young, np.uint64)]
        self._young = set(self._batches[0].tolist())
        self._forgotten_until = saved.forgotten_until
        self._slices = []
        ends = [each.since for each in saved.slices[1:]] + [now]
        for each, end in zip(saved.slices, ends, strict=False):  # none before the first record
            loaded = _Slice(each.since)
            loaded.offered = each.offered
            runs = [self._files.open(run) for run in each.runs]
            loaded.runs = [run for run in runs if run is not None]
            if len(loaded.runs) < len(runs):
                self._forgotten_until = max(self._forgotten_until, end)
            self._slices.append(loaded)

    def load_ids(self, ids: Sequence[str], since: float) -> None:
        """Remember ids as earlier versions saved them, all of them received from `since` on."""
        self._slices = [_Slice(since)]
        self.offer(len(ids))
        for start in range(0, len(ids), _YOUNG_IDS):
            self.first_seen(ids[start : start + _YOUNG_IDS])


def _of_one_size(runs: list[Run]) -> list[Run]:
    """The first runs that lie side by side and are of one size, as many as are merged at once; or none."""
    for start in range(len(runs) - _MERGED_RUNS + 1):
        found = runs[start : start + _MERGED_RUNS]
        sizes = [len(run) for run in found]
        if max(sizes) < 2 * min(sizes):
            return found
    return []


def hashes_of(ids: Sequence[str]) -> Hashes:
    """64-bit hashes, the same in every process and whatever other ids stand beside."""
    try:
        text = np.array(ids, "S")
    except UnicodeEncodeError:
        text = np.array([each.encode("utf-8", "surrogatepass") for each in ids], "S")
    if text.dtype.itemsize > _WIDEST_ID:
        long = [each.encode("utf-8", "surrogatepass") for each in ids]
        text = np.array([each if len(each) <= _WIDEST_ID else _digest(each) for each in long], "S")
    words = text.astype(f"S{-(-text.dtype.itemsize // 8) * 8}", copy=False).view(np.uint64).reshape(len(ids), -1)
    mixed = words * _WORDS[: words.shape[1]]
    mixed ^= mixed >> _HIGH
    mixed *= _MIX
    mixed ^= mixed >> _LOW
    hashes: Hashes = mixed.sum(1, dtype=np.uint64)
    hashes ^= hashes >> _HIGH
    hashes *= _WORDS[0]
    hashes ^= hashes >> _LOW
    return hashes


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=_WIDEST_ID // 2).hexdigest().encode()
