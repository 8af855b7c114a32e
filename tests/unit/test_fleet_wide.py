"""Many keys with the same trouble at once are one incident on what they share; a few of them are their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest

from curb.detector.incidents.incidents import Episode
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.judge import Scoring
from curb.detector.settings import DetectorSettings
from curb.detector.state.registry import SeriesRegistry
from curb.stream.records.spend import Alert
from curb.testing.rules import DAY, HOUR, T0, Fleet, Row

pytestmark = pytest.mark.long

WARM = 3.5 * DAY
#: What happens to a key's row in a bucket that starts so many seconds after the warm-up.
Trouble = Callable[[int, float], dict[str, float]]


class Company:
    """Keys of three teams, some on another model; the detector of the shipped defaults."""

    def __init__(self, step_s: int = 300, keys: int = 12, others: int = 3) -> None:
        settings = DetectorSettings(bucket_s=step_s)
        self.fleet = Fleet(step_s, stream_since=T0)
        self.registry: SeriesRegistry = self.fleet.registry
        self.scoring = Scoring(settings, self.registry, Knowledge(settings.scopes, "UTC"))
        self.keys, self.others, self.step_s = keys, others, step_s
        self.draw = np.random.default_rng(5)

    def rows(self, trouble: Trouble | None = None) -> Iterable[Row]:
        for key in range(self.keys + self.others):
            requests = float(self.draw.poisson(60 * self.step_s / 300))
            row: dict[str, Any] = {
                "tags": {
                    "team": f"t{key % 3}",
                    "project": "p",
                    "api_key": f"k{key:02d}",
                    "model": "large" if key < self.keys else "small",
                    "region": "r",
                },
                "cost": 0.02 * requests,
                "requests": requests,
                "users": float(self.draw.integers(8, 12)),
                "input_tokens": 800.0 * requests,
                "output_tokens": 200.0 * requests,
            }
            more = trouble(key, self.fleet.now - T0 - WARM) if trouble is not None else {}
            yield (
                row
                | {name: row.get(name, 0.0) * factor for name, factor in more.items() if name != "failing"}
                | ({"errors": more["failing"] * requests} if "failing" in more else {})
            )

    def run(self, seconds: float, trouble: Trouble | None = None) -> list[Alert]:
        alerts: list[Alert] = []
        until = self.fleet.now + seconds
        while self.fleet.now < until:
            view = self.fleet.view(self.rows(trouble))
            self.scoring.grow(view.start)
            bucket = view.bucket
            alerts += self.scoring.close(bucket.start, bucket.amounts, False, float(T0), bucket.at, {}, {})[1]
        return alerts

    def trouble(self, hours: float, trouble: Trouble) -> list[Alert]:
        """What it says of it, after days without any, which it has nothing to say about."""
        assert self.run(WARM) == []
        return self.run(hours * HOUR, trouble)


def at_last(alerts: Iterable[Alert]) -> list[Alert]:
    """What fires in the end. What fired before was of the few keys that were found a moment before the others."""
    newest = {each.alert_id: each for each in alerts}
    assert sum(each.scope == "key" for each in newest.values()) <= 4
    return [each for each in newest.values() if each.status == "firing"]


def subjects(alerts: Iterable[Alert]) -> list[tuple[str, dict[str, str]]]:
    """Scope and tags of each alert, once."""
    return [(each.scope, dict(each.tags)) for each in alerts if each.revision == 1]


@pytest.mark.parametrize("step_s", [60, 300])
def test_an_outage_of_a_model_is_one_alert_with_the_list(step_s: int) -> None:
    def outage(key: int, since: float) -> dict[str, float]:
        # Clients ask three times as often, and most of it fails.
        return {"failing": 0.8, "cost": 3.0} if key < 12 and since >= 0 else {}

    company = Company(step_s)
    alerts = company.trouble(1.5, outage)
    (newest,) = at_last(alerts)
    assert newest.tags == {"model": "large"}
    assert (newest.status, newest.channel, newest.kind) == ("firing", "errors/fleet", "runaway")
    assert newest.reason.startswith("12 keys at once (k")
    assert " and 7 more" in newest.reason
    assert "of its requests fail" in newest.reason
    assert newest.excess_usd > 0
    over = company.run(3 * HOUR)
    assert {each.alert_id for each in over} == {newest.alert_id}
    assert over[-1].status == "resolved"


def test_four_keys_that_fail_are_four_incidents() -> None:
    def few(key: int, since: float) -> dict[str, float]:
        return {"failing": 0.8, "cost": 3.0} if key < 4 else {}

    found = subjects(Company().trouble(1.5, few))
    assert sorted(tags["api_key"] for _, tags in found) == ["k00", "k01", "k02", "k03"]


def test_five_of_many_keys_that_fail_speak_for_themselves() -> None:
    def few(key: int, since: float) -> dict[str, float]:
        # The other 25 fail a little, as keys do, and together more than these.
        return {"failing": 0.5, "cost": 3.0} if key < 5 else {"failing": 0.24}

    found = subjects(Company(keys=30, others=0).trouble(1.5, few))
    assert len([tags for scope, tags in found if scope == "key"]) == 5


def test_a_more_expensive_model_is_one_alert() -> None:
    def price(key: int, since: float) -> dict[str, float]:
        return {"cost": 6.0} if key < 12 else {}

    (newest,) = at_last(Company().trouble(2, price))
    assert (newest.tags, newest.tier) == ({"model": "large"}, "page")


def test_a_release_that_lengthens_prompts_is_one_alert() -> None:
    def release(key: int, since: float) -> dict[str, float]:
        return {"input_tokens": 4.0, "cost": 1.9} if key < 12 else {}

    (newest,) = at_last(Company().trouble(2.8, release))
    assert (newest.tags, newest.channel) == ({"model": "large"}, "context/fleet")


def test_a_loop_on_one_key_beside_an_outage_is_its_own() -> None:
    def both(key: int, since: float) -> dict[str, float]:
        loop = {"cost": 40.0, "requests": 40.0} if key == 14 and since >= HOUR else {}
        return {"failing": 0.8, "cost": 3.0} if key < 12 else loop

    found = subjects(Company().trouble(3, both))
    assert ("model", {"model": "large"}) in found
    assert [tags["api_key"] for scope, tags in found if scope == "key"] == ["k14"]


def test_what_began_alone_ends_when_it_is_everybodys() -> None:
    def spreads(key: int, since: float) -> dict[str, float]:
        return {"failing": 0.8, "cost": 3.0} if key < 12 and since >= 120 * key else {}

    (newest,) = at_last(Company().trouble(2, spreads))
    assert newest.tags == {"model": "large"}


def test_one_that_goes_on_failing_speaks_for_itself_after() -> None:
    def rest(key: int, since: float) -> dict[str, float]:
        return {"failing": 0.8, "cost": 3.0} if key < 12 and (since < 2 * HOUR or key == 3) else {}

    alerts = Company().trouble(5, rest)
    (newest,) = at_last(alerts)
    assert newest.tags["api_key"] == "k03"
    assert ("model", {"model": "large"}) in subjects(alerts)


def test_it_goes_on_where_it_was_saved() -> None:
    def outage(key: int, since: float) -> dict[str, float]:
        return {"failing": 0.8, "cost": 3.0} if key < 12 else {}

    company = Company()
    (before,) = at_last(company.trouble(1, outage))
    episodes, arrays = company.scoring.dump()
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(episodes), type=dict[int, Episode])
    settings = DetectorSettings(bucket_s=300)
    company.scoring = Scoring(settings, company.registry, Knowledge(settings.scopes, "UTC"))
    company.scoring.load(saved, {part: {n: np.array(a) for n, a in each.items()} for part, each in arrays.items()})
    assert {each.alert_id for each in company.run(HOUR, outage)} == {before.alert_id}
