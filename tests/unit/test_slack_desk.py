"""What people ask in Slack: who may, which records it becomes, and that nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from curb.actions.notify.names import TagNames
from curb.actions.notify.protocol import Notice
from curb.actions.slack.blocks import blocks
from curb.actions.slack.buttons import VERBS, Buttons, May
from curb.actions.slack.desk import Desk, SlackAnswer
from curb.actions.slack.notifier import Config
from curb.actions.slack.requests import UnreadableError, from_form, read
from curb.actions.slack.signed import Signatures
from curb.stream.clock import ManualClock
from curb.stream.records.spend import Alert, Command, Feedback, LedgerEntry, Plan, PlannedActivity
from tests.fakes.alerts import T0, an_alert
from tests.fakes.slack_people import ANA, BOB, SIGNING_SECRET, press, signed, slash, submission

EVERYTHING = {verb: [ANA] for verb in VERBS}


def entry(state: str = "applied", **changes: Any) -> LedgerEntry:
    plan = Plan(action="gate", target="t", summary="limit k1 to 20", before={"rpm": None}, after={"rpm": 20})
    base = LedgerEntry(
        action_id="act1", state="applied", at=T0, alert_id="a1", fingerprint="f1", plan=plan, do="shave_to_normal"
    )
    return msgspec.structs.replace(base, state=state, **changes)


class Log:
    """What the desk may know."""

    def __init__(self, *entries: LedgerEntry, alert: Alert | None = None) -> None:
        self.entries = entries
        self.known = alert or an_alert()

    def alert(self, alert_id: str) -> Alert | None:
        return self.known if alert_id == self.known.alert_id else None

    def action(self, action_id: str) -> Sequence[LedgerEntry]:
        return [each for each in self.entries if each.action_id == action_id]

    def tags(self) -> Iterable[str]:
        return ("team", "project", "api_key")

    async def names(self) -> TagNames:
        return TagNames()

    async def status(self) -> Sequence[str]:
        return ["all is well", "two lines"]


def config(**changes: Any) -> Config:
    base = {"kind": "slack", "name": "chat", "token": "xoxb-1", "channel": "C0123456789", "app_token": "xapp-1"}
    return Config.model_validate({**base, "may": EVERYTHING, **changes})


def desk(log: Log, **changes: Any) -> tuple[Desk, ManualClock]:
    made, clock = config(**changes), ManualClock(T0)
    return Desk({made.name: made}, log, clock), clock


def message(*entries: LedgerEntry, alert: Alert | None = None, may: Any = EVERYTHING, **notice: Any) -> dict[str, Any]:
    buttons = Buttons("chat", May.model_validate(may), 4.0)
    return {"channel": "C0123456789", "blocks": blocks(Notice("k", alert or an_alert(), entries, **notice), buttons)}


def verbs(shown: dict[str, Any]) -> list[str]:
    return [e["action_id"].split(".")[1] for b in shown["blocks"] if b["type"] == "actions" for e in b["elements"]]


def records(answer: SlackAnswer) -> list[Any]:
    return [msgspec.json.decode(m.value, type=Command) for m in answer.messages]


async def ask(at: Desk, payload: dict[str, Any]) -> SlackAnswer:
    (asked,) = read(payload)
    return await at.answer(asked)


# --- which buttons there are ------------------------------------------------------------------------------------------


def test_nobody_may_do_anything_until_it_is_configured() -> None:
    assert verbs(message(entry(), may={})) == []
    shown = config(may={})
    assert all(shown.may.users(verb) == () for verb in VERBS)
    assert verbs(message(entry(), may={"undo": [ANA]})) == ["undo"]


def test_people_that_cannot_be_heard_are_an_error() -> None:
    with pytest.raises(ValidationError, match="app_token"):
        config(app_token=None)
    with pytest.raises(ValidationError, match="may"):
        config(may={"undo": ["ana"]})


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("proposed", ["approve", "deny"]),
        ("applied", ["undo"]),
        ("ineffective", ["undo"]),
        ("restored", []),
        ("shadow", []),
        ("denied", []),
    ],
)
def test_buttons_are_there_where_they_make_sense(state: str, expected: list[str]) -> None:
    assert verbs(message(entry(state))) == [*expected, "snooze", "planned", "not_an_anomaly", "halt"]


def test_what_is_over_can_only_be_judged_or_undone() -> None:
    over = an_alert(status="resolved", resolved_at=T0)
    assert verbs(message(entry(), alert=over)) == ["undo", "not_an_anomaly"]
    assert verbs(message(entry("proposed"), alert=over)) == ["not_an_anomaly"]


def test_a_feed_is_no_anomaly_of_spend_and_quiet_is_offered_once() -> None:
    assert verbs(message(alert=an_alert(kind="feed"))) == ["snooze"]
    assert "snooze" not in verbs(message(snoozed_until=T0 + 60))


def test_what_is_dangerous_asks_again() -> None:
    shown = message(entry("proposed", action_id="act2"), entry(), entry())
    asks = {e["action_id"]: "confirm" in e for b in shown["blocks"] if b["type"] == "actions" for e in b["elements"]}
    assert asks == {
        "curb.approve.act2": True,
        "curb.deny.act2": False,
        "curb.undo.act1": True,
        "curb.snooze": False,
        "curb.planned": False,
        "curb.not_an_anomaly": False,
        "curb.halt": True,
    }
    irreversible = msgspec.structs.replace(entry().plan, reversible=False, warning="The training is lost")
    shown = message(entry("proposed", plan=irreversible))
    confirm = next(b for b in shown["blocks"] if b["type"] == "actions")["elements"][0]["confirm"]
    assert confirm["text"]["text"].startswith("This cannot be undone. limit k1 to 20. The training is lost.")


# --- what a press becomes ---------------------------------------------------------------------------------------------


async def test_a_press_becomes_a_command_with_who_pressed() -> None:
    at, _ = desk(Log(entry("proposed")))
    (command,) = records(await ask(at, press(message(entry("proposed")), "approve")))
    assert (command.kind, command.by, command.args) == ("approve", f"slack:{ANA} (ana)", {"action_id": "act1"})


@pytest.mark.parametrize(("state", "verb"), [("proposed", "approve"), ("proposed", "deny"), ("applied", "undo")])
async def test_pressed_twice_is_one_command(state: str, verb: str) -> None:
    at, clock = desk(Log(entry(state)))
    first = await ask(at, press(message(entry(state)), verb, ts="1.1"))
    await clock.advance(30)
    second = await ask(at, press(message(entry(state)), verb, ts="2.2"))
    assert records(first)[0].id == records(second)[0].id


async def test_an_undo_that_failed_can_be_asked_for_again() -> None:
    at, _ = desk(Log(entry(), entry("failed", at=T0 + 9)))
    first = await ask(at, press(message(entry()), "undo"))
    again = await ask(at, slash("undo act1"))
    assert records(first)[0].id != records(again)[0].id


async def test_a_halt_after_a_resume_is_meant_and_the_same_request_is_not() -> None:
    at, _ = desk(Log(entry()))
    once = await ask(at, press(message(entry()), "halt", ts="1.1"))
    replayed = await ask(at, press(message(entry()), "halt", ts="1.1"))
    later = await ask(at, press(message(entry()), "halt", ts="9.9"))
    assert records(once)[0].id == records(replayed)[0].id != records(later)[0].id


@pytest.mark.parametrize("verb", ["approve", "deny", "undo", "snooze", "planned", "not_an_anomaly", "halt"])
async def test_the_wrong_person_is_told_so_and_nothing_follows(verb: str) -> None:
    state = "applied" if verb == "undo" else "proposed"
    at, _ = desk(Log(entry(state)))
    answer = await ask(at, press(message(entry(state)), verb, by=BOB))
    assert answer.messages == ()
    assert answer.view is None
    assert answer.text.startswith("You may not")
    assert f"may.{verb}" in answer.text


async def test_a_button_of_a_notifier_that_is_gone_does_nothing() -> None:
    at, _ = desk(Log(entry()), name="other")
    answer = await ask(at, press(message(entry()), "undo"))
    assert answer.messages == ()
    assert "no longer configured" in answer.text


async def test_what_no_longer_waits_or_holds_is_said() -> None:
    at, _ = desk(Log(entry("proposed"), entry("denied", detail="nobody answered")))
    answer = await ask(at, press(message(entry("proposed")), "approve"))
    assert answer.messages == ()
    assert "waits for no answer any more" in answer.text
    at, _ = desk(Log(entry(), entry("restored")))
    assert "nothing to undo" in (await ask(at, press(message(entry()), "undo"))).text


async def test_snooze_and_verdict() -> None:
    at, _ = desk(Log(), snooze_hours=2)
    (command,) = records(await ask(at, press(message(), "snooze")))
    assert (command.kind, command.args) == ("snooze", {"alert_id": "a1", "until": f"{T0 + 7200:.0f}"})
    answers = [await ask(at, press(message(), "not_an_anomaly", ts=ts)) for ts in ("1.1", "2.2")]
    told = [msgspec.json.decode(each.messages[0].value, type=Feedback) for each in answers]
    assert told[0].verdict == "not_an_anomaly"
    assert told[0].id == told[1].id


# --- the dialog -------------------------------------------------------------------------------------------------------


async def test_planned_activity_is_announced_in_a_dialog() -> None:
    at, _ = desk(Log())
    opened = await ask(at, press(message(), "planned"))
    assert opened.view is not None
    assert opened.messages == ()
    assert all(len(block.get("label", {"text": ""})["text"]) <= 75 for block in opened.view["blocks"])
    filled = submission(opened.view, {"until": int(T0) + 3600, "max_usd": "1,500", "reason": "reindex"})
    answers = [await ask(at, filled), await ask(at, filled)]
    plans = [msgspec.json.decode(each.messages[0].value, type=PlannedActivity) for each in answers]
    assert plans[0] == plans[1]
    plan = plans[0]
    assert (plan.tags, plan.end, plan.max_usd, plan.reason) == (an_alert().tags, T0 + 3600, 1500.0, "reindex")
    assert plan.by == f"slack:{ANA} (ana)"


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"until": "", "max_usd": "5"}, {"until"}),
        ({"until": int(T0) - 5, "max_usd": "5"}, {"until"}),
        ({"until": int(T0) + 60, "max_usd": "much"}, {"max_usd"}),
        ({}, {"until", "max_usd"}),
    ],
)
async def test_the_dialog_says_which_field_is_wrong(values: dict[str, Any], wrong: set[str]) -> None:
    at, _ = desk(Log())
    opened = await ask(at, press(message(), "planned"))
    assert opened.view is not None
    answer = await ask(at, submission(opened.view, values))
    assert answer.messages == ()
    assert set(answer.errors or {}) == wrong


async def test_a_dialog_sent_off_by_the_wrong_person_or_made_up_is_refused() -> None:
    at, _ = desk(Log())
    opened = await ask(at, press(message(), "planned"))
    assert opened.view is not None
    good = {"until": int(T0) + 3600, "max_usd": "5"}
    assert (await ask(at, submission(opened.view, good, by=BOB))).errors
    forged = {**opened.view, "private_metadata": "{}"}
    assert (await ask(at, submission(forged, good))).errors
    foreign = {**opened.view, "callback_id": "somebody.else"}
    assert read(submission(foreign, good)) == []


# --- slash commands ---------------------------------------------------------------------------------------------------


async def test_slash_commands_become_the_same_records() -> None:
    at, _ = desk(Log(entry()))
    assert records(await ask(at, slash("halt all of it")))[0].args == {"reason": "all of it"}
    assert records(await ask(at, slash("resume")))[0].kind == "resume"
    assert records(await ask(at, slash("undo act1")))[0].args == {"action_id": "act1"}
    snooze = records(await ask(at, slash("snooze a1 30m")))[0]
    assert snooze.args == {"alert_id": "a1", "until": f"{T0 + 1800:.0f}"}
    planned = await ask(at, slash("planned team=search until=2h max=50 for the launch"))
    plan = msgspec.json.decode(planned.messages[0].value, type=PlannedActivity)
    assert (plan.tags, plan.max_usd, plan.reason) == ({"team": "search"}, 50.0, "for the launch")


async def test_the_same_command_sent_again_is_one_and_typed_again_is_another() -> None:
    at, _ = desk(Log())
    ids = [records(await ask(at, slash("halt", trigger=trigger)))[0].id for trigger in ("t1", "t1", "t2")]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("help", "/curb planned team=NAME"),
        ("status", "all is well"),
        ("frobnicate", "no command"),
        ("undo nothing", "No action nothing is known here"),
        ("snooze nothing 4h", "No alert nothing is known here"),
        ("planned galaxy=x until=1h max=5", "No spend has the tag galaxy; there are: api_key, project, team"),
    ],
)
async def test_what_only_gets_words(text: str, words: str) -> None:
    at, _ = desk(Log(entry()))
    answer = await ask(at, slash(text))
    assert answer.messages == ()
    assert words in answer.text


@pytest.mark.parametrize(
    "text", ["halt", "resume", "status", "undo act1", "snooze a1 1h", "planned team=a until=1h max=5"]
)
async def test_the_wrong_person_cannot_type_it_either(text: str) -> None:
    at, _ = desk(Log(entry()))
    answer = await ask(at, slash(text, by=BOB))
    assert answer.messages == ()
    assert answer.text.startswith("You may not")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_what_is_not_ours_is_passed_over() -> None:
    foreign = {**press(message(), "snooze")}
    foreign["actions"] = [{"action_id": "other.app", "value": "x"}]
    assert read(foreign) == []
    assert read({"type": "event_callback"}) == []


@pytest.mark.parametrize(
    "change",
    [
        {"user": None},
        {"actions": "x"},
        {"actions": [{"action_id": "curb.undo", "value": "not json"}]},
        {"actions": [{"action_id": "curb.undo", "value": '{"verb": "format_disk", "notifier": "c", "alert_id": "a"}'}]},
        {"actions": [{"action_id": "curb.undo", "value": '{"verb": "undo"}'}]},
    ],
)
def test_what_cannot_be_read_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnreadableError):
        read({**press(message(), "snooze"), **change})


@pytest.mark.parametrize("body", [b"\xff", b"payload=%7B", b"payload=%5B1%5D", b"payload=" + b"%5B" * 3000])
def test_a_body_that_is_no_payload_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableError):
        from_form(body)


def test_names_lose_what_could_mean_something() -> None:
    (asked,) = read({**press(message(), "snooze"), "user": {"id": ANA, "username": "<!here> *ana*"}})
    assert asked.person.by == f"slack:{ANA} (hereana)"


# --- signatures -------------------------------------------------------------------------------------------------------


def signatures(clock: ManualClock) -> Signatures:
    secret = Config.model_validate(config().model_dump() | {"signing_secret": SIGNING_SECRET}).signing_secret
    assert secret is not None
    return Signatures(secret, clock)


async def test_forged_stale_and_replayed_requests_do_not_count() -> None:
    clock = ManualClock(T0)
    gate = signatures(clock)
    body, headers = signed(slash("halt"), T0)
    assert gate.refusal(body, headers) is None
    assert gate.refusal(body + b"&x=1", headers) == "forged"
    assert gate.refusal(*signed(slash("halt"), T0, "another-secret")) == "forged"
    for wrong in ("", "v0=ü", "v0=00"):
        assert gate.refusal(body, headers | {"X-Slack-Signature": wrong}) == "forged"
    assert gate.refusal(body, headers | {"X-Slack-Request-Timestamp": "yesterday"}) == "forged"
    assert gate.refusal(b"\xff", headers) == "forged"
    assert gate.refusal(body, {}) == "forged"
    gate.taken(headers)
    assert gate.refusal(body, headers) == "replayed"
    await clock.advance(301)
    assert gate.refusal(body, headers) == "stale"
    assert gate.refusal(*signed(slash("halt"), T0 + 10_000)) == "stale"


async def test_signatures_are_forgotten_when_they_are_stale_anyway() -> None:
    clock = ManualClock(T0)
    gate = signatures(clock)
    for n in range(50):
        gate.taken(signed(slash("halt"), T0 + n)[1])
    await clock.advance(5000)
    gate.taken(signed(slash("halt"), T0 + 5000)[1])
    assert len(gate._taken) == 1
