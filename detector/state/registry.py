"""The series of one shard: identity, first sight and total cost of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Column, Columns
from curb.detector.state.local_time import local_hour
from curb.detector.state.scopes import Role, Scope
from curb.stream.log.codec import UNREADABLE

_ABOVE: dict[Role, Role] = {"origin": "principal", "node": "group"}
#: A scope and tags of one of its series → the tags as people see them.
Shown = Callable[[str, dict[str, str]], dict[str, str]]
_tags_decoder = msgspec.json.Decoder(dict[str, str])


class SeriesStatus(NamedTuple):
    """One series now, for people."""

    scope: str
    tags: dict[str, str]
    #: 5-minute averages.
    usd_per_hour: float
    expected_usd_per_hour: float
    today_usd: float
    total_usd: float


class SeriesMoney(NamedTuple):
    """Every series of a shard now: each list and array has one entry a series."""

    scopes: Sequence[str]
    tags: Sequence[dict[str, str]]
    #: Dollars of all time: what was charged, which only grows, and what is left of it after credits.
    charged_usd: NDArray[np.float64]
    total_usd: NDArray[np.float64]
    #: 5-minute averages.
    usd_per_hour: NDArray[np.float64]
    expected_usd_per_hour: NDArray[np.float64]
    today_usd: NDArray[np.float64]


class SeriesRegistry:
    """Series numbered from 0 in the order of their first sum, with exact totals."""

    def __init__(self, scopes: Sequence[Scope], time_zone: str) -> None:
        self.scopes: list[str] = []
        self.tags: list[dict[str, str]] = []
        #: Rises when tags that people see change.
        self.shown = 0
        self._as: Shown = lambda scope, tags: tags
        self._configured = {scope.name: scope for scope in scopes}
        self._zone = ZoneInfo(time_zone)
        self._raw: list[bytes] = []
        self._numbers: dict[tuple[str, bytes], int] = {}
        #: Numbers of the series of each role, and of the series above each: the key of an origin, the group of a node;
        #: -1 without one.
        self._of_role: dict[Role, list[int]] = {role: [] for role in get_args(Role)}
        self._arrays: dict[Role, NDArray[np.intp]] = {}
        self._above: list[int] = []
        self._columns = Columns(
            {
                "first_seen": Column(dtype=np.int64),
                "total_usd": Column(),
                "charged_usd": Column(),
                "today_usd": Column(),
                "detect": Column(dtype=np.bool_),
                "planned": Column(dtype=np.bool_),
            },
            64,
        )
        self._today = 0

    def __len__(self) -> int:
        return len(self.scopes)

    def __getitem__(self, column: str) -> NDArray[Any]:
        """A column: first_seen (epoch s), total_usd, charged_usd (without credits), today_usd, detect, planned (carries
        tags beyond the scope's)."""
        return self._columns[column]

    def number(self, scope: str, raw_tags: bytes, first_seen: int) -> int:
        """The number of a series; a new one if it is unknown."""
        return self.numbers([scope], [raw_tags], [first_seen])[0]

    def numbers(self, scopes: Sequence[str], raw_tags: Sequence[bytes], first_seen: Sequence[int]) -> list[int]:
        """The numbers of many series; unknown ones are numbered in their order."""
        wanted = list(zip(scopes, raw_tags, strict=True))
        try:
            return list(map(self._numbers.__getitem__, wanted))
        except KeyError:
            new: dict[tuple[str, bytes], int] = {}
            for key, seen in zip(wanted, first_seen, strict=True):
                if key not in self._numbers:
                    new.setdefault(key, seen)
            self._add([(*key, seen) for key, seen in new.items()])
            return [self._numbers[key] for key in wanted]

    def find(self, scope: str, raw_tags: bytes) -> int | None:
        """The number of a series, None if there is none yet."""
        return self._numbers.get((scope, raw_tags))

    def key(self, number: int) -> tuple[str, msgspec.Raw]:
        """Scope and raw tags of a series."""
        return self.scopes[number], msgspec.Raw(self._raw[number])

    def show_as(self, shown: Shown) -> None:
        """Show series, also later ones, with other tags; those they came with lead to them as before."""
        self._as = shown
        self.shown += 1
        for number in range(len(self)):
            self._show(number)

    def _show(self, number: int) -> None:
        scope, tags = self.scopes[number], self.tags[number]
        self.tags[number] = now = self._as(scope, tags)
        if now != tags:
            self._numbers.setdefault((scope, msgspec.json.encode(now)), number)

    def first_value(self, number: int) -> str:
        """The value of a series' first tag as it came: unlike what is shown, it never changes."""
        return next(iter(_tags_decoder.decode(self._raw[number]).values()))

    def can_hold(self, scope: str, raw_tags: bytes) -> bool:
        """Whether these are tags of a series of the scope, as a rollup writes them."""
        if (scope, raw_tags) in self._numbers:
            return True
        try:
            tags = _tags_decoder.decode(raw_tags)
        except UNREADABLE:
            return False
        configured = self._configured.get(scope)
        return bool(tags) and (configured is None or tags.keys() >= set(configured.group_by))

    def of_role(self, role: Role) -> NDArray[np.intp]:
        """Numbers of the series of a role in order of arrival; those of `principal` carry no tags beyond their
        scope's: a series set apart by such a tag, as a job is, is no principal."""
        numbers, known = self._of_role[role], self._arrays.get(role)
        if known is None or len(known) < len(numbers):
            known = self._arrays[role] = np.array(numbers, np.intp)
            known.flags.writeable = False
        return known

    def above(self, number: int) -> int | None:
        """The series that a series is a part of: the principal of an origin or a job, the group of a node."""
        known = self._above[number]
        if known < 0:
            known = self._above[number] = self._find_above(number)
        return known if known >= 0 else None

    def _find_above(self, number: int) -> int:
        configured, tags = self._configured.get(self.scopes[number]), self.tags[number]
        if configured is None:
            return -1
        if self["planned"][number]:
            wanted = [configured]
        else:
            role = _ABOVE.get(configured.role)
            wanted = [scope for scope in self._configured.values() if scope.role == role]
        for scope in wanted:
            if set(scope.group_by) <= tags.keys():
                raw = msgspec.json.encode({tag: tags[tag] for tag in scope.group_by})
                return self._numbers.get((scope.name, raw), -1)
        return -1

    def wholes(self, number: int) -> list[int]:
        """The sums that a series is a part of, such as its team, as far as they are known here."""
        tags, found = self.tags[number], []
        for scope in self._configured.values():
            if scope.role == "total" and set(scope.group_by) <= tags.keys():
                raw = msgspec.json.encode({tag: tags[tag] for tag in scope.group_by})
                found.append(self._numbers.get((scope.name, raw), -1))
        return [each for each in found if each >= 0]

    def _add(self, series: Sequence[tuple[str, bytes, int]]) -> None:
        """Number new series: their scopes, tags and when they were first seen."""
        begin = len(self.scopes)
        detect, planned = [], []
        group_by = {name: frozenset(scope.group_by) for name, scope in self._configured.items()}
        for number, (scope, raw_tags, _) in enumerate(series, begin):
            tags, configured = _tags_decoder.decode(raw_tags), self._configured.get(scope)
            self._numbers[(scope, raw_tags)] = number
            self._raw.append(raw_tags)
            self.scopes.append(scope)
            self.tags.append(tags)
            self._show(number)
            self._above.append(-1)
            apart = configured is not None and not tags.keys() <= group_by[scope]
            detect.append(configured is not None and configured.detect)
            planned.append(apart)
            if configured is not None and not apart:
                self._of_role[configured.role].append(number)
        self._columns.grow(len(self.scopes))
        self["first_seen"][begin:] = [seen for _, _, seen in series]
        self["detect"][begin:], self["planned"][begin:] = detect, planned

    def add_cost(self, index: NDArray[np.int64], cost: NDArray[np.float64], bucket: NDArray[np.int64]) -> None:
        """Add sums to the totals, and to those of the day when they belong to it."""
        np.add.at(self["total_usd"], index, cost)
        np.add.at(self["charged_usd"], index, np.maximum(cost, 0.0))
        today = bucket >= self._today
        np.add.at(self["today_usd"], index[today], cost[today])

    def begin_day(self, bucket_start: int, open_usd: Callable[[int], NDArray[np.float64]]) -> bool:
        """Reset the totals of the day if `bucket_start` begins one; returns whether it does.

        `open_usd(since)` gives the dollars of each series in open buckets from `since` on.
        """
        midnight = _midnight(bucket_start, self._zone)
        if midnight > self._today:
            self._today = midnight
            self["today_usd"][...] = open_usd(midnight)
            return True
        return False

    def dump(self) -> dict[str, Any]:
        series = list(zip(self.scopes, self._raw, self["first_seen"].tolist(), strict=True))
        return {"series": series, "today": self._today, "arrays": self._columns.dump("series")}

    def load(self, series: Sequence[tuple[str, bytes, int]], today: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load what `dump` gave; the current configuration decides which scopes may alert."""
        self._add(series)
        self._today = today
        for column in ("total_usd", "today_usd"):
            self[column][...] = arrays[f"series.{column}"]
        # Snapshots of before this column: credits so far are not known.
        self["charged_usd"][...] = arrays.get("series.charged_usd", np.maximum(self["total_usd"], 0.0))


def _midnight(at: int, zone: ZoneInfo) -> int:
    """Epoch seconds of the local midnight before `at`, to the hour on a day of a clock change."""
    hour = local_hour(at, zone)
    return hour.start - 3600 * hour.of_day
