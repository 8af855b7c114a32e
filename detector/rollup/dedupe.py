"""Ids of recent events in two generations: bounded memory, and dropping old ids is cheap."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from curb.stream.settings import Settings


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
        default=2_000_000,
        ge=2,
        description="Ids kept per partition; about 100 bytes each. The oldest half is dropped first.",
    )


class RecentIds:
    """Ids seen within the window, at least `min_ids` and at most `max_ids` of them.

    When the young generation is full, the old one is dropped.
    """

    def __init__(self, settings: DedupeSettings) -> None:
        self._settings = settings
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._young_since = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def first_seen(self, ids: Sequence[str], received_at: float) -> list[bool] | None:
        """True for each of `ids`, received by `received_at`, that is new; None when all are. Remembers all."""
        known = self._young.intersection(ids)
        before = len(self._young) - len(known)
        if self._old:
            known |= self._old.intersection(ids)
        self._young.update(ids)
        flags = None
        if len(self._young) - before < len(ids):
            flags = _first_of_each(ids, known)
        elif known:
            flags = [each not in known for each in ids]
        if not self._young_since:
            self._young_since = received_at
        count = len(self._young)
        over = received_at - self._young_since >= self._settings.window_s and count >= self._settings.min_ids
        if over or count >= self._settings.max_ids // 2:
            self._old, self._young, self._young_since = self._young, set(), received_at
        return flags

    def dump(self) -> tuple[list[str], list[str], float]:
        return list(self._young), list(self._old), self._young_since

    def load(self, young: list[str], old: list[str], young_since: float) -> None:
        self._young, self._old, self._young_since = set(young), set(old), young_since


def _first_of_each(ids: Sequence[str], known: set[str]) -> list[bool]:
    """Flags the first of each id that is not in `known`."""
    first = dict(zip(reversed(ids), range(len(ids) - 1, -1, -1), strict=True))
    return [first[each] == at and each not in known for at, each in enumerate(ids)]
