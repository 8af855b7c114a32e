"""Remembers the ids of recent events in two generations, so that memory is bounded and forgetting is cheap."""

from __future__ import annotations

from collections.abc import Sequence

from curb.detector.settings import DedupeSettings


class RecentIds:
    """Ids seen within the window, `min_ids` of them in any case and `max_ids` at most.

    When the young generation is full, the old one goes.
    """

    def __init__(self, settings: DedupeSettings) -> None:
        self._settings = settings
        self._young: set[str] = set()
        self._old: set[str] = set()
        self._young_since = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def first_seen(self, ids: Sequence[str], received_at: float) -> list[bool] | None:
        """Which of `ids`, received until `received_at`, are new; None when all are. All are remembered."""
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
        """What `load` takes."""
        return list(self._young), list(self._old), self._young_since

    def load(self, young: list[str], old: list[str], young_since: float) -> None:
        """Remember what `dump` gave."""
        self._young, self._old, self._young_since = set(young), set(old), young_since


def _first_of_each(ids: Sequence[str], known: set[str]) -> list[bool]:
    """Flags the first of each id that is not in `known`."""
    first = dict(zip(reversed(ids), range(len(ids) - 1, -1, -1), strict=True))
    return [first[each] == at and each not in known for at, each in enumerate(ids)]
