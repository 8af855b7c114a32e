"""Standing ceilings: set by policy, renewed, moved with use, lowest of all in force, and given back by everybody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from curb.actions.ledger.ledger import REAPER
from curb.actions.lifecycle.reaper import Reaper
from curb.actions.policy.standing import StandingPolicy, ceilings
from curb.actions.settings import ActionsSettings
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, PEAKS, STATE
from curb.stream.records.peaks import PrincipalPeak
from curb.stream.records.spend import Alert, Baseline, LedgerEntry
from tests.fakes.actions_house import NamedRate, settings
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.policy_gate import PolicyHouse

TAGS = {"team": "search", "project": "p", "api_key": "k1"}
#: Seconds of half a lease, and a bit.
HALF = 2 * 3600.0 + 60


def a_peak(key: str = "k1", highest: float = 20.0, **changes: Any) -> PrincipalPeak:
    tags = TAGS | {"api_key": key} | changes.pop("tags", {})
    fields = {"scope": "key", "at": T0, "known_days": 20.0, "usd_per_request": 0.02} | changes
    return PrincipalPeak(tags=tags, highest_per_minute=highest, **fields)


def config(policy: dict[str, Any] | None = None, **changes: Any) -> ActionsSettings:
    standing = {"name": "keys", "act": "gate", "floor_rpm": 10} | (policy or {})
    base: dict[str, Any] = {"actions": [NamedRate(kind="x", name="gate")], "standing": [standing]}
    return settings(**(base | changes))


class CeilingHouse(PolicyHouse):
    """A house in which peaks are on the log."""

    async def peak(self, *peaks: PrincipalPeak) -> None:
        await self.log.append(
            [Message(PEAKS, encode(each), key=f"{each.scope} {each.tags}".encode()) for each in peaks]
        )

    async def begin(self, *peaks: PrincipalPeak) -> None:
        await self.peak(*(peaks or (a_peak(),)))
        await self.runner.open()
        await self.passes()

    async def passes(self, count: int = 3, seconds: float = 61.0) -> None:
        for _ in range(count):
            await self.wait(seconds)

    def rpm(self, key: str = "k1") -> int | None:
        return self.policy_gate.keys[key]["rpm"]

    def of(self, do: str = "ceiling") -> list[LedgerEntry]:
        return [entry for entry in self.ledger() if entry.do == do]

    def steps_of(self, do: str = "ceiling") -> list[str]:
        return [entry.state for entry in self.of(do)]

    def alerts(self, kind: str = "ceiling") -> list[Alert]:
        found = [msgspec.json.decode(message.value, type=Alert) for message in self.log.of(ALERTS)]
        return [alert for alert in found if alert.kind == kind]


async def test_a_ceiling_is_set_read_back_and_renewed_before_its_lease_ends() -> None:
    house = CeilingHouse(config())
    await house.begin()
    assert house.rpm() == 40
    assert house.steps_of() == ["planned", "applied", "effective"]
    first = house.of()[-1]
    for _ in range(6):
        await house.wait(HALF)
    last = house.of()[-1]
    assert (house.rpm(), last.state, last.renewals) == (40, "effective", 6)
    assert last.lease_expires_at is not None
    assert first.lease_expires_at is not None
    assert last.lease_expires_at > first.lease_expires_at + 5 * HALF
    assert len(house.runner._memory.ledger.action(last.action_id).entries) == 4  # type: ignore[union-attr]
    assert house.policy_gate.calls == [("apply", "k1", {"rpm": 40})]
    assert house.chat.posts == []


async def test_what_is_found_lower_stays_and_nothing_is_below_the_floor() -> None:
    house = CeilingHouse(config({"floor_rpm": 100}), "k1", "k2", rpm=90)
    house.policy_gate.keys["k2"]["rpm"] = None
    await house.begin(a_peak("k1"), a_peak("k2"))
    assert (house.rpm("k1"), house.rpm("k2")) == (90, 100)


async def test_only_principals_that_opted_in_and_are_known_get_one() -> None:
    policy = {"match": {"team": "sea*"}, "known_days": 7}
    house = CeilingHouse(config(policy), "k1", "k2", "k3", "k4", rpm=None)
    critical = {"limits": {"criticality": [{"match": {"api_key": "k4"}, "is": "critical"}]}}
    house.config = config(policy, **critical)
    house.runner = house.new_runner()
    await house.begin(
        a_peak("k1"), a_peak("k2", tags={"team": "ads"}), a_peak("k3", known_days=3.0), a_peak("k4"), a_peak("other")
    )
    assert [house.rpm(key) for key in ("k1", "k2", "k3", "k4")] == [40, None, None, None]


async def test_shadow_records_what_it_would_set_once() -> None:
    house = CeilingHouse(config(mode="shadow"))
    await house.begin()
    await house.passes(5)
    assert (house.rpm(), house.steps_of()) == (500, ["shadow"])
    assert house.of()[0].plan.after == {"rpm": 40}
    await house.peak(a_peak(highest=60.0))
    await house.passes(2, 3600.0)
    assert [entry.plan.after["rpm"] for entry in house.of()] == [40, 120]


async def test_approve_asks_once_for_the_policy_and_for_later_keys() -> None:
    house = CeilingHouse(config(mode="approve", approvers={"owners": {"people": ["ana"]}}), "k1", "k2")
    await house.begin()
    (ask,) = house.of("allow ceilings")
    assert (house.rpm(), ask.state, ask.approvers) == (500, "proposed", ["ana"])
    assert ask.plan.summary == "keep the limits of 1 api_key at 2 times the highest minute of a month"
    assert [notice.alert.kind for notice in house.chat.posts] == ["ceiling"]
    await house.say(command_message("approve", T0, by="eve", action_id=ask.action_id))
    assert house.rpm() == 500
    await house.say(command_message("approve", T0 + 1, action_id=ask.action_id))
    await house.passes()
    assert (house.rpm(), house.steps_of("allow ceilings")[-1]) == (40, "approved")
    assert house.of()[0].approved_by == "ana"
    assert house.alerts()[-1].status == "resolved"
    await house.peak(a_peak("k2", highest=10.0))
    await house.restart()
    await house.passes()
    assert house.rpm("k2") == 20
    assert len({entry.action_id for entry in house.of("allow ceilings")}) == 1


async def test_a_denied_policy_is_not_asked_for_again() -> None:
    house = CeilingHouse(config(mode="approve", approvers={"owners": {"people": ["ana"]}}))
    await house.begin()
    (ask,) = house.of("allow ceilings")
    await house.say(command_message("deny", T0, action_id=ask.action_id))
    await house.passes(4)
    await house.restart()
    await house.passes(4)
    assert (house.rpm(), house.steps_of("allow ceilings")) == (500, ["proposed", "denied"])
    assert house.alerts()[-1].status == "resolved"


def soft(**changes: Any) -> Alert:
    baseline = Baseline(expected_usd_per_hour=2.0, requests_per_minute_p95=20.0, known_days=20.0)
    return an_alert(**({"tier": "soft", "tags": TAGS, "baseline": baseline, "channel": "fast/spend"} | changes))


async def test_the_lowest_is_enforced_and_each_undo_returns_to_the_next() -> None:
    house = CeilingHouse(config())
    await house.begin()
    seen = [house.rpm()]
    at = house.clock.now()
    await house.say(alert_message(soft(fired_at=at, updated_at=at)))
    await house.passes(2, 2.0)
    seen.append(house.rpm())
    page = soft(alert_id="a2", fingerprint="f2", tier="page", channel="dollars/30min", fired_at=at, updated_at=at + 60)
    page = msgspec.structs.replace(page, baseline=msgspec.structs.replace(page.baseline, requests_per_minute_p95=12.0))
    await house.say(alert_message(page))
    await house.passes(3, 2.0)
    seen.append(house.rpm())
    over = {"revision": 2, "status": "resolved", "updated_at": at + 90}
    await house.say(*(alert_message(msgspec.structs.replace(each, **over)) for each in (soft(fired_at=at), page)))
    await house.passes(1, 3600.0)
    await house.passes(2, 6.0)
    assert [*seen, house.rpm()] == [40, 20, 12, 40]
    before = {entry.plan.before["rpm"] for entry in house.ledger() if entry.plan.before}
    assert before == {500}


async def page_that_allows_300(house: CeilingHouse) -> None:
    """A page on the key, whose normal level is 300 requests a minute."""
    at = house.clock.now()
    many = Baseline(expected_usd_per_hour=2.0, requests_per_minute_p95=300.0, known_days=20.0)
    await house.say(alert_message(an_alert(tier="page", tags=TAGS, baseline=many, fired_at=at, updated_at=at)))
    await house.passes(3, 2.0)


async def test_a_throttle_that_would_allow_more_is_held_at_the_ceiling() -> None:
    house = CeilingHouse(config())
    await house.begin()
    await page_that_allows_300(house)
    assert (house.rpm(), house.policy_gate.aims[-1].at_most) == (40, 40)


async def test_of_two_policies_that_match_a_key_the_lower_ceiling_holds_a_throttle() -> None:
    teams = {"name": "teams", "act": "gate", "by": "team", "factor": 10}
    house = CeilingHouse(config(standing=[teams, {"name": "keys", "act": "gate"}]))
    await house.begin()
    await page_that_allows_300(house)
    assert (house.rpm(), house.policy_gate.aims[-1].at_most) == (40, 40)


async def test_it_follows_its_use_when_the_day_is_over() -> None:
    house = CeilingHouse(config())
    await house.begin()
    await house.peak(a_peak(highest=21.0))
    await house.passes()
    assert house.rpm() == 40  # within a tenth
    await house.peak(a_peak(highest=35.0))
    await house.passes()
    assert house.rpm() == 70
    assert [entry.plan.before["rpm"] for entry in house.of()] == [500] * len(house.of())
    assert "40 → 70 requests a minute" in next(e.detail for e in house.of() if e.state == "restored")


async def test_growth_near_it_is_a_notice_with_a_button_that_raises_it() -> None:
    house = CeilingHouse(config(approvers={"owners": {"people": ["ana"]}}))
    await house.begin()
    await house.peak(a_peak(today_per_minute=30.0))
    await house.passes()
    assert house.alerts() == []
    await house.peak(a_peak(today_per_minute=34.0))
    await house.passes()
    (notice,) = house.alerts()
    assert (notice.tier, notice.tags) == ("notice", TAGS)
    assert notice.reason == "its highest minute today had 34 requests, 85% of its ceiling of 40"
    (ask,) = house.of("raise ceiling")
    assert ask.plan.summary == "raise the ceiling of k1 from 40 to 68 requests per minute"
    assert house.rpm() == 40
    await house.say(command_message("approve", T0, action_id=ask.action_id))
    await house.passes()
    assert house.rpm() == 68
    assert house.alerts()[-1].status == "resolved"
    await house.peak(a_peak(highest=34.0))
    await house.passes()
    assert house.rpm() == 68


async def test_the_notice_ends_with_the_day() -> None:
    house = CeilingHouse(config())
    await house.begin()
    await house.peak(a_peak(today_per_minute=34.0))
    await house.passes()
    await house.peak(a_peak(highest=34.0))
    await house.passes()
    assert (house.rpm(), house.alerts()[-1].status) == (68, "resolved")
    assert house.steps_of("raise ceiling")[-1] == "denied"


async def test_halted_nothing_is_set_and_nothing_renewed() -> None:
    house = CeilingHouse(config(), "k1", "k2")
    await house.begin()
    await house.peak(a_peak("k2"))
    await house.say(command_message("halt", T0))
    await house.passes()
    assert (house.rpm("k1"), house.rpm("k2")) == (40, 500)
    await house.passes(3, HALF)
    assert (house.rpm("k1"), house.rpm("k2")) == (500, 500)
    await house.say(command_message("resume", T0 + 1))
    await house.passes()
    assert (house.rpm("k1"), house.rpm("k2")) == (40, 40)


async def test_what_a_person_undid_stays_away_for_a_week() -> None:
    house = CeilingHouse(config())
    await house.begin()
    await house.say(command_message("undo", T0, action_id=house.of()[0].action_id))
    await house.passes(3, 3600.0)
    await house.restart()
    await house.passes(3, 86400.0)
    assert house.rpm() == 500
    await house.passes(4, 86400.0)
    assert house.rpm() == 40


async def test_a_person_who_changes_the_limit_keeps_it() -> None:
    house = CeilingHouse(config())
    await house.begin()
    house.policy_gate.keys["k1"]["rpm"] = 77
    await house.wait(HALF)
    await house.passes(3)
    assert (house.rpm(), house.of()[-1].state) == (77, "drift")
    await house.passes(3, 3600.0)
    assert house.rpm() == 77


async def test_without_its_policy_it_is_given_back() -> None:
    house = CeilingHouse(config())
    await house.begin()
    house.config = config({"match": {"team": "ads"}})
    await house.restart()
    await house.passes()
    assert (house.rpm(), house.of()[-1].state) == (500, "restored")
    assert "does not ask for it any more" in house.of()[-1].detail


async def test_the_reaper_ends_what_a_dead_daemon_left_and_restore_all_ends_the_rest() -> None:
    house = CeilingHouse(config(), "k1", "k2")
    await house.begin(a_peak("k1"))
    await house.wait(HALF)  # renewed
    reaper = Reaper(house.log, house.clock, {"gate": house.policy_gate})
    await house.clock.advance(3 * 3600.0)
    assert (await reaper.once(), house.rpm()) == ([], 40)
    await house.clock.advance(3600.0 + 121)
    assert (await reaper.once(), house.rpm()) == ([], 500)
    assert (house.of()[-1].state, house.of()[-1].by) == ("restored", REAPER)
    await house.restart()
    await house.passes()
    assert house.rpm() == 40
    assert await reaper.restore_all("ana") == []
    assert house.rpm() == 500


async def test_ceilings_count_in_no_limit_of_actions_and_have_their_own() -> None:
    keys = [f"k{n}" for n in range(12)]
    house = CeilingHouse(config({"max_open": 8}), *keys)
    await house.begin(*(a_peak(key, highest=10.0 + n) for n, key in enumerate(keys)))
    await house.passes(10)
    held = [key for key in keys if house.rpm(key) != 500]
    assert held == keys[4:]  # the most expensive
    at = house.clock.now()
    await house.say(alert_message(soft(tier="page", channel="dollars/30min", fired_at=at, updated_at=at)))
    await house.passes(3, 2.0)
    assert house.rpm("k1") == 20
    assert not house.runner.view()["halted"]
    assert len(house.runner.view()["ceilings"]) == 8
    assert {row["do"] for row in house.runner.view()["open"]} == {"shave_to_normal"}


async def test_what_is_over_leaves_the_state_after_a_week() -> None:
    house = CeilingHouse(config())
    await house.begin()
    await house.peak(a_peak(highest=50.0))
    await house.passes()
    house.config = settings(actions=[NamedRate(kind="x", name="gate")])
    await house.restart()
    await house.passes(3)
    await house.passes(2, 8 * 86400.0)
    table = await house.log.table(STATE)
    assert [key for key in table if key.startswith(b"actions/ledger/")] == []


def test_a_key_with_several_tags_has_one_ceiling_for_the_sum_of_its_peaks() -> None:
    policy = StandingPolicy(name="keys", act="gate")
    peaks = [a_peak(tags={"team": "a"}), a_peak(tags={"team": "b"}, highest=30.0)]
    finer = a_peak(scope="model", tags={"model": "m"}, highest=500.0)
    (ceiling,) = ceilings([*peaks, finer], [policy], "gate", T0).values()
    assert (ceiling.limit(), ceiling.tags) == (100, {"project": "p", "api_key": "k1"})


@pytest.mark.parametrize("highest", [-5.0, 1e308])
def test_a_peak_that_cannot_be_is_no_peak(highest: float) -> None:
    found = ceilings([a_peak(highest=highest), a_peak("k2")], [StandingPolicy(name="keys", act="gate")], "gate", T0)
    assert [(each.value, each.limit()) for each in found.values()] == [("k2", 40)]


def test_a_peak_of_long_ago_counts_no_more() -> None:
    assert ceilings([a_peak()], [StandingPolicy(name="keys", act="gate")], "gate", T0 + 61 * 86400) == {}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"act": "other"}, "standing[0].act: no entry of `actions` is named 'other'"),
        ({"factor": 1.25, "near": 0.7}, "below 1, so every ordinary day would be a notice"),
        ({"mode": "approve"}, "nobody may approve"),
        ({"approvers": ["x"]}, "no entry of `approvers` is named 'x'"),
    ],
)
def test_mistakes_of_a_policy_are_named(policy: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="(?s)" + said.replace("[", r"\[").replace(".", r"\.")):
        config(policy)


def test_two_policies_of_one_name_and_an_action_without_a_rate_are_refused() -> None:
    policy = {"name": "keys", "act": "gate"}
    with pytest.raises(ValueError, match="two standing policies are named 'keys'"):
        config(standing=[policy, policy])
    with pytest.raises(ValueError, match="of kind x limits no rate of requests"):
        settings(standing=[policy])
