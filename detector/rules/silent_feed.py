"""The rule on silent feeds: a kind of data, or a team's part of it, that always came and is missing for too long.

Silence of spend can be a saving; silence of a feed means that nobody sees the spend. Only what is hardly ever silent
can be missed. When a whole kind of data is missing, its teams are not reported one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state import wording as explain
from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View

_Kind = Literal["principal", "node"]

#: The kinds of data, and what people call them.
_NAMES: dict[_Kind, str] = {"principal": "usage", "node": "GPU metrics"}
#: The feed of all data of a kind; a team's has the team's name.
_ALL = ""


class Params(NamedTuple):
    #: Minutes since its last data up to which a feed is active. By hand.
    active_min: float = 15.0
    #: Days of the share of time in which it is. By hand.
    share_days: float = 3.0
    #: Share of the longest silence that a day keeps: half is forgotten in five weeks. By hand.
    keep_longest: float = 0.98


P = Params()


class Config(RuleConfig):
    """When data that used to come are missing."""

    enabled: bool = Field(default=True, description="Whether silent feeds alert.")
    regular_share: float = Field(
        default=0.95, gt=0, le=1, description="Feeds that had data for a smaller share of the time are never missed."
    )
    all_minutes: float = Field(default=30, gt=0, description="Silence of a whole kind of data, such as all usage.")
    all_notice_minutes: float = Field(
        default=60, gt=0, description="From here on the silence of a whole kind is a notice, before a digest line."
    )
    team_minutes: float = Field(default=180, gt=0, description="Silence of one team while others have data: a digest.")
    factor: float = Field(
        default=3.0, ge=1, description="A silence is also this many times the longest the feed had before."
    )
    all_known_days: float = Field(default=2.0, ge=0, description="So long a whole kind of data must be known.")
    team_known_days: float = Field(
        default=8.0, ge=0, description="So long a team must be known: a weekend at least, which may be silent."
    )


SILENT_FEED = Family(
    "silent_feed",
    NOT_MEASURED,
    Docs(
        "silent feed",
        "data that no longer come",
        "all usage missing for an hour; one team for three",
        "notice, digest",
    ),
    by_worth=False,
)


class SilentFeed(Rule):
    """Rows are feeds: a kind of data and the value of the first tag of its series, such as the team.

    State: how long each feed is silent, the longest silence, the share of time with data.
    Update: with every bucket.
    Score: the silence, as a multiple of the limit.
    Source: our own, no paper.
    """

    name = "silent_feed"
    part = "silent feeds"
    families = (SILENT_FEED,)
    config = Config
    settings_at = "feed"
    moments = ("newest",)

    def __init__(self, config: Config, context: RuleContext, capacity: int = 16) -> None:
        self._settings, self._step_min = config, context.step_s / 60
        self._keys: dict[tuple[_Kind, str], int] = {}
        self._feeds = Columns(
            {
                "silent_min": Column((), np.float32),
                "longest_min": Column((), np.float32),
                "active_share": Column((), np.float32),
                "age_min": Column(),
                #: The number of the series that stands for the feed, -1 for none yet.
                "carrier": Column(dtype=np.int64, fill=-1),
                "whole": Column(dtype=np.bool_),
            },
            capacity,
        )
        #: The feed of each series of a kind, by its row there; follows from the registry.
        self._feed_of: dict[_Kind, NDArray[np.intp]] = {}
        self._wholes = np.zeros(0, np.intp)
        self.parts = {"feeds": self._feeds}
        self._newest: int | None = None

    def close(self, view: View) -> list[Finding]:
        """Findings of kind feed, one for all when everything of a kind is missing."""
        active = self._active(view)
        missing = self._missing(active)
        passed_min = self._step_min
        if self._newest is not None:
            # Silence goes on while buckets are passed over.
            passed_min = max(passed_min, (view.start - self._newest) / 60)
        self._newest = view.start
        self._learn(active, missing, passed_min)
        return self._findings(view)

    def _active(self, view: View) -> Bools:
        """Feeds with data in this bucket."""
        found: list[NDArray[np.intp]] = []
        for kind in _NAMES:
            subjects = view.of(kind)
            feeds = self._rows_of(view, kind, subjects.index)
            amounts = subjects.amounts
            with_data = (amounts.cost != 0) | (amounts.requests > 0) | (amounts.gpu_samples > 0)
            found.append(feeds[with_data])
            if with_data.any():
                found.append(np.array([self._keys[kind, _ALL]], np.intp))
        active = np.zeros(self._feeds.n, np.bool_)
        active[np.concatenate(found)] = True
        return active

    def _rows_of(self, view: View, kind: _Kind, index: NDArray[np.intp]) -> NDArray[np.intp]:
        """The feed of each series of a kind; new ones are added."""
        feeds = self._feed_of.get(kind, np.zeros(0, np.intp))
        if len(feeds) < len(index):
            self._row(kind, _ALL)
            new = [self._row(kind, view.registry.first_value(number)) for number in index[len(feeds) :].tolist()]
            feeds = self._feed_of[kind] = np.concatenate([feeds, np.array(new, np.intp)])
        return feeds

    def _row(self, kind: _Kind, name: str) -> int:
        row = self._keys.setdefault((kind, name), len(self._keys))
        self._feeds.grow(len(self._keys))
        self._feeds["whole"][row] = name == _ALL
        return row

    def _missing(self, active: Bools) -> Bools:
        """Feeds of teams whose whole kind is missing: this says nothing about the team."""
        missing: Bools = ~self._feeds["whole"] & ~active[self._whole_of()]
        return missing

    def _whole_of(self) -> NDArray[np.intp]:
        """The feed of the whole kind of each feed."""
        if len(self._wholes) < len(self._keys):
            self._wholes = np.array([self._keys[kind, _ALL] for kind, _ in self._keys], np.intp)
        return self._wholes

    def _learn(self, active: Bools, missing: Bools, passed_min: float) -> None:
        feeds = self._feeds
        silent, longest, share = feeds["silent_min"], feeds["longest_min"], feeds["active_share"]
        longest[...] *= P.keep_longest ** (passed_min / 1440)
        ended = active & (silent > 0)
        longest[...] = np.where(ended, np.maximum(longest, silent), longest)
        silent[...] = np.where(active, 0.0, np.where(missing, silent, silent + passed_min))
        learns = ~missing & ~self._long()
        feeds["age_min"][learns] += passed_min
        weight = np.minimum(1.0, passed_min / np.clip(feeds["age_min"], passed_min, 1440 * P.share_days))
        share[...] += np.where(learns, weight * ((silent <= P.active_min) - share), 0.0)

    def _threshold_min(self) -> Floats:
        settings, feeds = self._settings, self._feeds
        least = np.where(feeds["whole"], settings.all_minutes, settings.team_minutes)
        longest: Floats = np.maximum(least, settings.factor * feeds["longest_min"])
        return longest

    def _long(self) -> Bools:
        """Feeds whose silence should not be."""
        feeds, settings = self._feeds, self._settings
        days = np.where(feeds["whole"], settings.all_known_days, settings.team_known_days)
        known = (feeds["age_min"] >= 1440 * days) & (feeds["active_share"] >= settings.regular_share)
        return np.asarray(known & (feeds["silent_min"] > self._threshold_min()))

    def _findings(self, view: View) -> list[Finding]:
        missed = self._long()
        if not missed.any():
            return []
        long = [(kind, name, row) for (kind, name), row in self._keys.items() if missed[row]]
        whole = {kind: row for kind, name, row in long if name == _ALL}
        findings = []
        if whole:
            row = max(whole.values(), key=lambda each: float(self._feeds["silent_min"][each]))
            what = " and ".join(_NAMES[kind] for kind in whole)
            findings.append(self._finding(view, row, f"all {what} data are missing", whole=True))
        for kind, name, row in long:
            if name != _ALL and kind not in whole:
                findings.append(self._finding(view, row, f"its {_NAMES[kind]} data are missing", whole=False))
        # Two kinds may be missing for one team: that is one finding.
        return list({finding.series: finding for finding in reversed(findings)}.values())[::-1]

    def _finding(self, view: View, row: int, what: str, *, whole: bool) -> Finding:
        silent_min = float(self._feeds["silent_min"][row])
        notice = whole and silent_min >= self._settings.all_notice_minutes
        longest = explain.duration(60 * float(self._feeds["longest_min"][row]))
        return Finding(
            series=self._carrier(view, row),
            family=SILENT_FEED,
            kind="feed",
            tier="notice" if notice else "digest",
            score=silent_min / float(self._threshold_min()[row]),
            words=f"{what} for {explain.duration(60 * silent_min)}; the longest silence before was {longest}",
            excess_usd=0.0,
            lasting=True,
        )

    def _carrier(self, view: View, row: int) -> int:
        """The series that stands for the feed: the sum of its team, or the most expensive of a whole kind of data. It
        stays the same, or one incident would move from series to series."""
        carrier = self._feeds["carrier"]
        if carrier[row] < 0:
            kind, name = next(key for key, of in self._keys.items() if of == row)
            registry, rows = view.registry, self._feed_of[kind]
            own = np.flatnonzero(np.ones(len(rows), np.bool_) if name == _ALL else rows == row)
            parts = view.of(kind).index[own].tolist()
            # Scopes of one kind may begin with different tags: a sum stands for the feed under the tag of one of them.
            firsts = {_first(registry.tags[number]) for number in parts}
            sums = [int(number) for number in view.of("total").index if len(registry.tags[number]) == 1]
            numbers = [number for number in sums if _first(registry.tags[number]) in firsts] or parts
            carrier[row] = max(numbers, key=lambda each: (float(registry["total_usd"][each]), -each))
        return int(carrier[row])

    def dump(self) -> dict[str, NDArray[Any]]:
        """The parts, and the feeds of their rows as bytes."""
        keys = msgspec.msgpack.encode(list(self._keys))
        return {"keys": np.frombuffer(keys, np.uint8), **super().dump()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        super().load(arrays)
        keys = msgspec.msgpack.decode(arrays["keys"].tobytes(), type=list[tuple[_Kind, str]])
        self._keys = {key: row for row, key in enumerate(keys)}
        self._feed_of, self._wholes = {}, np.zeros(0, np.intp)


def _first(tags: Mapping[str, str]) -> tuple[str, str]:
    """The first tag of a series and its value."""
    return next(iter(tags.items()))
