"""A principal is its key: records that lack the team, spell it otherwise or moved belong to the series it has."""

from __future__ import annotations

import msgspec
import pytest
from pydantic import ValidationError

from curb.detector.bills.lanes import ShardWithBills
from curb.detector.pipeline import Pipeline
from curb.detector.rollup.tag_table import GuardSettings, SeriesTable
from curb.detector.settings import DetectorSettings
from curb.detector.state.homes import Homes
from curb.detector.state.reader import PartialSum
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.scopes import DEFAULT_SCOPES, Scope
from curb.stream.log.codec import encode_lines
from tests.fakes.spend import T0, usage

KEY = {"team": "search", "project": "web", "api_key": "k1"}


class Placed:
    """Homes with a registry, fed part by part."""

    def __init__(self) -> None:
        self.registry = SeriesRegistry(DEFAULT_SCOPES, "UTC")
        self.homes = Homes(DEFAULT_SCOPES, self.registry)

    def add(self, tags: dict[str, str], scope: str = "key", usd: float = 1.0) -> dict[str, str]:
        """The tags of the series, as shown."""
        names = next(each for each in DEFAULT_SCOPES if each.name == scope).series(tags)
        part = PartialSum(
            scope=scope, tags=msgspec.Raw(msgspec.json.encode(dict(names))), bucket_start=T0, effective_cost=usd
        )
        self.homes.place([part])
        return self.registry.tags[self.registry.number(scope, bytes(part.tags), T0)]


@pytest.mark.parametrize(
    "tags",
    [
        {"project": "web", "api_key": "k1"},
        {"api_key": "k1"},
        KEY | {"team": "SEARCH"},
        KEY | {"team": "growth", "project": "other"},
    ],
)
def test_one_key_is_one_series(tags: dict[str, str]) -> None:
    subject = Placed()
    subject.add(KEY)
    subject.add(KEY | {"model": "m", "region": "r"}, "origin")
    assert subject.add(tags) == KEY
    assert subject.add(tags | {"model": "m", "region": "r"}, "origin") == KEY | {"model": "m", "region": "r"}
    assert len(subject.registry) == 2


def test_totals_follow_the_record() -> None:
    subject = Placed()
    subject.add(KEY, "team")
    assert subject.add(KEY | {"team": "SEARCH"}, "team") == {"team": "SEARCH"}


def test_models_and_jobs_still_set_apart() -> None:
    subject = Placed()
    subject.add(KEY)
    assert subject.add({"api_key": "k1", "job": "nightly"}) == KEY | {"job": "nightly"}
    assert subject.add({"api_key": "k1", "model": "n", "region": "r"}, "origin") == KEY | {"model": "n", "region": "r"}


def test_records_without_a_key_are_told_apart_by_team() -> None:
    subject = Placed()
    assert subject.add({"team": "search"}) != subject.add({"team": "growth"})


def test_a_team_that_comes_later_is_shown_at_once() -> None:
    subject = Placed()
    assert subject.add({"api_key": "k1"})["team"] == "__untagged__"
    assert subject.add(KEY) == KEY
    assert subject.add({"api_key": "k1", "model": "m", "region": "r"}, "origin")["team"] == "search"
    assert len(subject.registry) == 2


def test_a_key_that_moved_is_shown_with_its_new_team_a_day_later_and_keeps_its_series() -> None:
    subject, moved = Placed(), KEY | {"team": "growth"}
    subject.add(KEY, usd=5.0)
    assert subject.add(moved, usd=9.0) == KEY
    subject.homes.begin_day()
    assert subject.add({"api_key": "k1"}, usd=50.0) == moved
    subject.homes.begin_day()
    assert subject.add(KEY) == moved, "what lacks a team does not count against one"
    assert len(subject.registry) == 1
    assert subject.registry.find("key", msgspec.json.encode(moved)) == 0, "an alert's tags lead to the series"


def test_a_dump_goes_on_where_it_was() -> None:
    subject, moved = Placed(), KEY | {"team": "growth"}
    subject.add(KEY, usd=5.0)
    subject.add(moved, usd=9.0)
    subject.homes.begin_day()
    subject.add(KEY, usd=9.0)
    again = Placed()
    registry = subject.registry.dump()
    again.registry.load(registry["series"], registry["today"], registry["arrays"])
    again.homes.load(subject.homes.dump(), [])
    assert again.homes.dump() == subject.homes.dump()
    assert again.add({"api_key": "k1"}) == moved
    again.homes.begin_day()
    assert again.add({"api_key": "k1"}) == KEY


def test_a_state_from_before_is_at_home_in_the_oldest_series() -> None:
    old = Placed()
    for tags in (KEY, KEY | {"team": "SEARCH"}):
        old.registry.number("key", msgspec.json.encode(tags), T0)
    old.homes.load(None, [])
    assert old.add(KEY | {"team": "SEARCH"}) == KEY
    assert len(old.registry) == 2


def test_all_series_of_a_key_go_to_one_partition() -> None:
    table = SeriesTable(DEFAULT_SCOPES, GuardSettings(), 64)
    for team in ("search", "growth", "labs", ""):
        tags = ({"team": team} if team else {}) | {"api_key": "k1", "model": "m"}
        table.combinations([msgspec.json.encode(tags)], [0.0])
    placed = {each.scope: {e.partition for e in table.series if e.scope == each.scope} for each in table.series}
    assert len(placed["key"] | placed["origin"]) == 1
    assert len(placed["team"]) > 1


def test_a_scope_is_identified_by_a_tag_it_has() -> None:
    with pytest.raises(ValidationError, match="group_by does not name"):
        Scope(name="key", group_by=("team",), identified_by="api_key")


def test_a_steady_key_that_loses_its_team_now_and_then_is_quiet_and_counted_once() -> None:
    """Its whole shard, restored in the middle, goes on to the bit."""
    pipeline = Pipeline(DetectorSettings(bucket_s=3600))
    for hour in range(24 * 6):
        at = T0 + 3600 * hour
        team = ("search", "Search", "")[hour % 3] if hour > 30 else "search"
        record = usage(f"{hour}", at, 5.0, received_at=at + 60, key="k1")
        tags = {tag: value for tag, value in (record.tags | {"team": team}).items() if value}
        pipeline.feed(encode_lines([msgspec.structs.replace(record, tags=tags)]))
    pipeline.tick(T0 + 6 * 86400)
    assert [alert for alert in pipeline.alerts if alert.tier != "digest"] == []
    (found,) = [(tags, usd) for tags, usd in pipeline.shard.totals("key") if tags["api_key"] == "k1"]
    assert found == ({"team": "search"} | {k: v for k, v in found[0].items() if k != "team"}, 5.0 * 24 * 6)
    data = pipeline.shard.snapshot()
    again = ShardWithBills(DetectorSettings(bucket_s=3600))
    again.restore(data)
    assert again.snapshot() == data


def test_a_key_that_moved_may_fall_silent_after_a_restart() -> None:
    pipeline = Pipeline(DetectorSettings(bucket_s=3600))
    for hour in range(24 * 12):
        for key in ("k1", "k2"):
            at = T0 + 3600 * hour
            team = "growth" if key == "k1" and hour > 24 * 9 else "labs" if key == "k1" else "search"
            if key == "k1" and hour > 24 * 11:
                continue
            record = usage(f"{key}-{hour}", at, 5.0, received_at=at + 60, key=key)
            pipeline.feed(encode_lines([msgspec.structs.replace(record, tags=record.tags | {"team": team})]))
        if hour == 24 * 11:
            restored = ShardWithBills(DetectorSettings(bucket_s=3600))
            restored.restore(pipeline.shard.snapshot())
            pipeline.shard = restored
    pipeline.tick(T0 + 14 * 86400)
    silent = [alert for alert in pipeline.alerts if alert.kind == "feed"]
    assert silent
    assert [alert for alert in pipeline.alerts if alert.tier == "page"] == []
