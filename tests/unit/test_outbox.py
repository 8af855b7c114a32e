"""What is told when: threads, grouping, inhibition, repeats and quiet; everything once."""

from __future__ import annotations

from typing import Any

import pytest

from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Message
from curb.stream.records.spend import BudgetStatus
from tests.fakes.actions_house import House, settings
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.threaded import ThreadedChannel

QUIET = {"group_wait_seconds": 0, "group_by": [], "inhibit": False, "repeat_hours": 0}
HOUR = 3600.0


class ThreadedHouse(House):
    """A house whose channel has threads."""

    def __init__(self, telling: dict[str, Any] | None = None, **changes: Any) -> None:
        super().__init__(settings(telling=QUIET | (telling or {}), **changes))
        self.chat: ThreadedChannel = ThreadedChannel()
        self.drawing = False
        self.runner = self.new_runner()

    def titles(self, ref: str = "m1") -> list[str]:
        """The alerts in a message, the heading one first."""
        notice = self.chat.messages[ref]
        return [alert.alert_id for alert in (notice.alert, *notice.others)]


async def opened(telling: dict[str, Any] | None = None, **changes: Any) -> ThreadedHouse:
    house = ThreadedHouse(telling, **changes)
    await house.runner.open()
    return house


def alert(alert_id: str, revision: int = 1, **changes: Any) -> Message:
    base: dict[str, Any] = {"alert_id": alert_id, "fingerprint": f"f-{alert_id}", "revision": revision}
    return alert_message(an_alert(**{**base, **changes}))


# --- the thread -------------------------------------------------------------------------------------------------------


async def test_a_budget_is_said_again_at_each_threshold_and_not_for_figures() -> None:
    house = await opened()

    def at(revision: int, threshold: float, spent_usd: float, tier: str, channel: str = "budget") -> Message:
        budget = BudgetStatus(
            name="b", period="day", period_start=T0, period_end=T0 + 86400, amount_usd=100.0, spent_usd=spent_usd,
            threshold=threshold,
        )  # fmt: skip
        since = None if tier == "notice" else T0 + 60.0
        return alert(
            "a1", revision, kind="budget", tier=tier, channel=f"{channel}/{threshold:g}", budget=budget,
            updated_at=T0 + 60.0 * revision, tier_since=since,
        )  # fmt: skip

    for each in (
        at(1, 80.0, 85.0, "notice"),
        at(2, 100.0, 101.0, "page"),
        at(3, 100.0, 115.0, "page"),
        at(4, 120.0, 121.0, "page"),
        at(5, 120.0, 140.0, "page"),
    ):
        await house.say(each)
        await house.clock.advance(60)
    await house.restart()
    await house.wait(1)
    assert len(house.chat.posts) == 1
    said = [line for line in house.chat.replies["m1"] if line.kind not in ("chart", "step")]
    assert [(line.kind, line.loud) for line in said[1:]] == [("tier", True), ("crossed", True)]


async def test_steps_escalations_and_the_end_are_lines_of_one_thread_each_once() -> None:
    house = await opened()
    await house.say(alert("a1", tier="notice"))
    await house.clock.advance(60)
    await house.say(alert("a1", 2, tier="page", updated_at=T0 + 60))
    await house.wait(1)
    await house.say(alert("a1", 3, tier="page", updated_at=T0 + 90, usd_per_hour=13.0))
    await house.wait(1)
    over = {"status": "resolved", "resolved_at": T0 + 120, "updated_at": T0 + 120, "usd_per_hour": 12.0}
    await house.say(alert("a1", 4, tier="page", **over))
    await house.wait(4000)
    for _ in range(3):
        await house.wait(1)
    assert len(house.chat.posts) == 1
    assert house.chat.said() == ["applied", "tier", "effective", "resolved", "restored"]
    figures = [line for line in house.chat.replies["m1"] if line.kind == "figures"]
    assert figures == house.chat.replies["m1"][:1], "once, first"
    assert not figures[0].loud
    loud = {line.kind for line in house.chat.replies["m1"] if line.loud}
    assert loud == {"tier"}


async def test_pictures_are_shown_at_important_changes_only() -> None:
    house = await opened()
    await house.say(alert("a1"))
    for revision in range(2, 6):
        await house.clock.advance(10)
        await house.say(alert("a1", revision, updated_at=T0 + 10 * revision))
    stages = [line for line in house.chat.replies["m1"] if line.kind == "chart"]
    assert len(stages) == 1
    await house.say(alert("a1", 6, status="resolved", resolved_at=T0 + 60, updated_at=T0 + 60))
    stages = [line for line in house.chat.replies["m1"] if line.kind == "chart"]
    assert len(stages) == 2
    without = await opened({"charts": False})
    await without.say(alert("a1"))
    assert all(line.kind != "chart" for line in without.chat.replies["m1"])


async def test_a_picture_that_cannot_be_had_holds_nothing_up() -> None:
    house = await opened()

    async def hook(point: str) -> None:
        if point == "before reply" and house.drawing:
            raise TransientError("the files' host is out of reach")

    async def reply(given: Any, ref: str) -> str:
        house.drawing = given.kind == "chart"
        return await ThreadedChannel.reply(house.chat, given, ref)

    house.chat.hook, house.chat.reply = hook, reply  # type: ignore[method-assign,assignment]
    await house.say(alert("a1"))
    await house.say(alert("a2", tags={"team": "ads", "api_key": "k2"}))
    assert [len(house.chat.posts), house.chat.said("m1"), house.chat.said("m2")] == [2, ["applied"], ["applied"]]
    assert house.runner.view()["problems"] == {}
    await house.wait(4 * HOUR)
    seen = len(house.chat.history)
    await house.wait(4 * HOUR)
    assert len(house.chat.history) == seen


@pytest.mark.parametrize("point", ["before reply", "after reply"])
async def test_a_line_is_there_once_after_a_crash_in_the_middle(point: str) -> None:
    house = await opened()
    died: list[str] = []

    async def hook(at: str) -> None:
        if at == point and not died:
            died.append(at)
            raise KeyboardInterrupt

    house.chat.hook = hook
    with pytest.raises(KeyboardInterrupt):
        await house.say(alert("a1"))
    await house.restart()
    await house.wait(1)
    assert house.chat.said() == ["applied"]
    assert len(house.chat.posts) == 1


async def test_a_line_that_is_refused_is_not_tried_again() -> None:
    house = await opened()

    async def hook(point: str) -> None:
        if point == "before reply":
            raise PermanentError("no such thread")

    house.chat.hook = hook
    await house.say(alert("a1"))
    await house.wait(60)
    assert house.chat.said() == []
    assert house.chat.messages["m1"].ledger[-1].state == "applied"


async def test_what_fires_again_is_said_once() -> None:
    house = await opened(mode="shadow")
    await house.say(alert("a1"))
    await house.say(alert("a1", 2, status="resolved", resolved_at=T0 + 60, updated_at=T0 + 60))
    await house.say(alert("a2", 1, tags={"team": "x", "api_key": "k2"}), alert("a1", 3, updated_at=T0 + 90))
    await house.wait(400)
    assert house.chat.said() == ["shadow", "resolved", "again"]


# --- grouping ---------------------------------------------------------------------------------------------------------

SEARCH, ADS = {"team": "search", "api_key": "k1"}, {"team": "ads", "api_key": "k2"}
OWNERS = {"group_by": ["team"], "group_wait_seconds": 5, "group_interval_minutes": 5}


async def test_alerts_of_one_owner_that_come_together_are_one_message() -> None:
    house = await opened(OWNERS)
    await house.say(alert("a1", tags=SEARCH))
    assert house.chat.posts == []
    await house.clock.advance(3)
    await house.say(alert("a2", tags={"team": "search", "api_key": "k2"}), alert("b1", tags=ADS))
    await house.wait(3)
    assert [house.titles("m1"), len(house.chat.posts)] == [["a1", "a2"], 1]
    await house.wait(3)
    assert house.titles("m2") == ["b1"]
    await house.wait(30)
    assert len(house.chat.posts) == 2
    assert "also" not in house.chat.said("m1")


async def test_one_that_comes_later_joins_aloud_and_after_the_interval_gets_its_own() -> None:
    house = await opened(OWNERS)
    await house.say(alert("a1", tags=SEARCH))
    await house.wait(6)
    await house.clock.advance(100)
    await house.say(alert("a2", tags=SEARCH | {"api_key": "k2"}, fired_at=T0 + 100, updated_at=T0 + 100))
    await house.wait(1)
    assert (house.titles("m1"), len(house.chat.posts)) == (["a1", "a2"], 1)
    (also,) = [line for line in house.chat.replies["m1"] if line.kind == "also"]
    assert (also.alert.alert_id, also.loud) == ("a2", True)
    await house.clock.advance(300)
    await house.say(alert("a3", tags=SEARCH | {"api_key": "k3"}, fired_at=T0 + 400, updated_at=T0 + 400))
    await house.wait(6)
    assert house.titles("m2") == ["a3"]


async def test_a_group_is_over_when_all_of_it_is_and_keeps_its_message_over_a_restart() -> None:
    house = await opened(OWNERS)
    await house.say(alert("a1", tags=SEARCH), alert("a2", tags=SEARCH | {"api_key": "k2"}))
    await house.wait(6)
    over: dict[str, Any] = {"status": "resolved", "resolved_at": T0 + 60, "updated_at": T0 + 60}
    await house.say(alert("a1", 2, tags=SEARCH, **over))
    await house.restart()
    await house.wait(1)
    assert house.titles("m1") == ["a2", "a1"]
    assert house.chat.messages["m1"].is_firing
    await house.say(alert("a2", 2, tags=SEARCH | {"api_key": "k2"}, **over))
    await house.wait(1)
    assert not house.chat.messages["m1"].is_firing
    assert len(house.chat.posts) == 1
    assert house.chat.said().count("resolved") == 1
    await house.wait(2 * HOUR)
    await house.wait(1)
    assert house.runner._memory.inbox.alerts == {}


async def test_a_page_does_not_hide_in_a_message_of_less() -> None:
    house = await opened(OWNERS)
    await house.say(alert("n1", tags=SEARCH, tier="notice"))
    await house.wait(6)
    await house.say(alert("p1", tags=SEARCH | {"api_key": "k2"}, fired_at=T0 + 6))
    await house.wait(6)
    assert [house.titles("m1"), house.titles("m2")] == [["n1"], ["p1"]]


async def test_who_lacks_the_tag_is_nobodys_group() -> None:
    house = await opened(OWNERS)
    await house.say(alert("a1", tags={"model": "m1"}), alert("a2", tags={"model": "m2"}))
    await house.wait(6)
    assert len(house.chat.posts) == 2


# --- inhibition -------------------------------------------------------------------------------------------------------

WIDE: dict[str, Any] = {"scope": "team", "tags": {"team": "search"}, "excess_usd": 50.0}


async def test_a_burn_of_the_whole_tells_of_its_parts_and_stops_no_action() -> None:
    house = await opened({"inhibit": True})
    await house.say(alert("a1"), alert("w", **WIDE))
    await house.wait(1)
    assert (house.titles("m1"), len(house.chat.posts)) == (["w", "a1"], 1)
    assert house.gate.limits["k1"] == 10
    assert "applied" in house.chat.said("m1")


@pytest.mark.parametrize(
    "changes",
    [
        {"excess_usd": 5.0},
        {"tier": "notice"},
        {"kind": "budget"},
        {"tags": {"team": "ads"}},
        {"money": "billed"},
        {"fired_at": T0 - 900, "resolved_at": T0 - 600, "status": "resolved"},
    ],
)
async def test_what_does_not_cover_it_keeps_nothing_back(changes: dict[str, Any]) -> None:
    house = await opened({"inhibit": True})
    await house.say(alert("a1"), alert("w", **{**WIDE, **changes}))
    await house.wait(1)
    assert len(house.chat.posts) == 2


async def test_the_part_that_goes_on_heads_the_message_when_the_whole_is_over() -> None:
    house = await opened({"inhibit": True})
    await house.say(alert("a1"), alert("w", **WIDE))
    await house.say(alert("w", 2, **WIDE, status="resolved", resolved_at=T0 + 60, updated_at=T0 + 60))
    await house.wait(1)
    notice = house.chat.messages["m1"]
    assert (notice.alert.alert_id, notice.is_firing) == ("a1", True)
    assert "resolved" not in house.chat.said()


# --- one key, one thread ----------------------------------------------------------------------------------------------

KEY = {"team": "search", "api_key": "k1"}


def of_budget(alert_id: str, tags: dict[str, str], revision: int = 1, **changes: Any) -> Message:
    """A budget that crossed 80 %."""
    status = BudgetStatus(
        name="b", period="month", period_start=T0, period_end=T0 + 30 * 86400, amount_usd=100.0, spent_usd=85.0,
        threshold=80.0,
    )  # fmt: skip
    given = {"kind": "budget", "channel": "budget/80", "budget": status, "tier": "notice", "tags": tags}
    return alert(alert_id, revision, **{**given, **changes})


@pytest.mark.parametrize("tags", [KEY, {"api_key": "k1"}])
async def test_a_page_joins_the_thread_of_the_budget_of_its_key_aloud(tags: dict[str, str]) -> None:
    house = await opened({"inhibit": True}, mode="shadow")
    await house.say(of_budget("b1", tags))
    await house.wait(6)
    await house.clock.advance(HOUR)
    later = {"fired_at": T0 + HOUR, "updated_at": T0 + HOUR}
    await house.say(alert("p1", tags=KEY, **later))
    await house.wait(1)
    assert (house.titles("m1"), len(house.chat.posts)) == (["p1", "b1"], 1)
    (also,) = [line for line in house.chat.replies["m1"] if line.kind == "also"]
    assert (also.alert.alert_id, also.loud) == ("p1", True)
    await house.say(alert("p1", 2, tags=KEY, status="resolved", resolved_at=T0 + 2 * HOUR, **later))
    await house.wait(1)
    await house.restart()
    await house.wait(1)
    assert house.titles("m1")[0] == "b1"
    ends = [line.alert.alert_id for line in house.chat.replies["m1"] if line.kind == "resolved"]
    assert ends == ["p1"], "the burn is over, the budget's period is not"


async def test_a_budget_joins_the_thread_of_the_runaway_of_its_key() -> None:
    house = await opened({"inhibit": True}, mode="shadow")
    await house.say(alert("p1", tags=KEY))
    await house.wait(6)
    await house.say(of_budget("b1", KEY, fired_at=T0 + 60, updated_at=T0 + 60))
    await house.wait(1)
    assert (house.titles("m1"), house.chat.said("m1")[:2]) == (["p1", "b1"], ["shadow", "also"])


@pytest.mark.parametrize(
    ("tags", "changes"),
    [
        ({"team": "search"}, {}),
        ({"team": "search", "api_key": "k2"}, {}),
        ({"team": "ads", "api_key": "k1"}, {}),
        (KEY, {"fired_at": T0 - 25 * HOUR}),
        (KEY, {"status": "resolved", "fired_at": T0 - 2 * HOUR, "resolved_at": T0 - HOUR}),
    ],
)
async def test_another_subject_and_another_day_have_threads_of_their_own(
    tags: dict[str, str], changes: dict[str, Any]
) -> None:
    house = await opened({"inhibit": True}, mode="shadow")
    await house.say(of_budget("b1", tags, **changes))
    await house.wait(6)
    await house.say(alert("p1", tags=KEY))
    await house.wait(1)
    assert len(house.chat.posts) == 2


async def test_without_threads_a_page_does_not_hide_in_the_message_of_a_budget() -> None:
    house = House(settings(mode="shadow", telling=QUIET | {"inhibit": True}))
    await house.runner.open()
    await house.say(of_budget("b1", KEY))
    await house.wait(6)
    await house.say(alert("p1", tags=KEY))
    await house.wait(1)
    assert len(house.chat.posts) == 2


# --- repeats and quiet ------------------------------------------------------------------------------------------------


async def test_a_page_that_still_fires_is_told_again() -> None:
    house = await opened({"repeat_hours": 4}, mode="shadow")
    await house.say(alert("a1"), alert("n1", tier="notice", tags=ADS))
    await house.wait(3.9 * HOUR)
    assert "repeat" not in house.chat.said("m1")
    await house.wait(0.2 * HOUR)
    await house.wait(1)
    assert house.chat.said("m1").count("repeat") == 1
    await house.wait(9 * HOUR)
    assert house.chat.said("m1").count("repeat") == 2
    assert house.chat.said("m2") == ["shadow"]


async def test_where_there_is_no_thread_the_whole_is_said_again() -> None:
    house = House(settings(mode="shadow", telling=QUIET | {"repeat_hours": 4}))
    house.chat.can_edit = False
    await house.runner.open()
    await house.say(alert("a1"))
    await house.wait(4.1 * HOUR)
    await house.wait(1)
    assert len(house.chat.posts) == 2


async def test_quiet_until_then_and_no_action_waits_for_it() -> None:
    house = await opened({"repeat_hours": 1}, mode="auto")
    await house.say(alert("a1", tier="notice"))
    await house.say(command_message("snooze", T0, alert_id="a1", until=f"{T0 + 4 * HOUR:.0f}"))
    await house.wait(1)
    assert house.chat.messages["m1"].snoozed_until == T0 + 4 * HOUR
    await house.say(alert("a1", 2, updated_at=T0 + 60))
    await house.wait(3.5 * HOUR)
    assert all(not line.loud for line in house.chat.replies["m1"])
    assert "repeat" not in house.chat.said()
    assert "restored" in house.chat.said()
    await house.wait(0.6 * HOUR)
    await house.wait(1)
    assert house.chat.messages["m1"].snoozed_until is None
    assert "repeat" in house.chat.said()


async def test_what_was_quieted_before_it_was_told_is_told_afterwards_if_it_still_fires() -> None:
    house = await opened(mode="shadow")
    await house.say(command_message("snooze", T0, alert_id="a1", until=f"{T0 + HOUR:.0f}"), alert("a1"))
    assert house.chat.posts == []
    await house.wait(HOUR + 1)
    assert len(house.chat.posts) == 1


# --- once -------------------------------------------------------------------------------------------------------------


async def test_two_runners_on_one_log_tell_once() -> None:
    """The second takes over what the first has begun: only one is active, and the outbox is on the log."""
    house = await opened()
    await house.say(alert("a1"))
    first = house.runner
    house.runner = house.new_runner()
    await first.close()
    await house.runner.open()
    for _ in range(3):
        await first._notice_workers[0].work()  # it stands by and must not say a word
        await house.runner.step()
        await house.clock.advance(1)
    assert len(house.chat.posts) == 1
    assert house.chat.said() == ["applied"]


async def test_an_outage_ends_in_one_message_with_all_that_happened() -> None:
    house = await opened()
    away = True

    async def hook(point: str) -> None:
        if away and point == "before send":
            raise TransientError("Slack is away", retry_after=30.0)

    house.chat.hook = hook
    await house.say(alert("a1"))
    for revision in range(2, 5):
        await house.clock.advance(60)
        await house.say(alert("a1", revision, updated_at=T0 + 60 * revision))
    away = False
    await house.wait(400)
    assert len(house.chat.posts) == 1
    assert house.chat.posts[0].alert.revision == 4
    assert house.chat.said() == ["applied"]
