"""Operating from the pages: signing in, buttons, and who may press them. Every press is a record with its author."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast, get_args

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from curb.config.file import CurbConfig
from curb.serve.api import make_app
from curb.serve.pages.sessions import COOKIE, Sessions
from curb.serve.pages.what_to_do import WHAT_TO_DO
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.clock import ManualClock
from curb.stream.log.protocol import TopicPartition
from curb.stream.log.topics import COMMANDS
from curb.stream.records.knowledge import knowledge_message, read_commands, read_knowledge
from curb.stream.records.spend import (
    AlertKind,
    BudgetIncrease,
    Command,
    Feedback,
    LedgerEntry,
    Plan,
    PlannedActivity,
    Silence,
)
from curb.views.explanation import Point
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.integration.test_dashboard import BUDGET, HOSTILE, a_daemon

Browser = TestClient[Any, Any]
TOKENS = [
    {"name": "on-call", "token": "operator-token", "roles": ["admin"]},
    {"name": "night", "token": "night-token", "roles": ["operate"]},
    {"name": "viewer", "token": "reader-token", "roles": ["read"]},
    {"name": "gateway", "token": "ingest-token", "roles": ["ingest"]},
]
ON_ACTION = {"verb": "undo", "action_id": "x1"}
HOURS = {"hours": "4"}


@pytest.fixture
def daemon() -> Any:
    """With an alert, an action in force on it and a proposal, and an alert on a budget."""
    found = a_daemon(config=CurbConfig.model_validate({"http": {"tokens": TOKENS}}))
    found.view.apply(alert_message(an_alert(updated_at=T0 - 60)))
    found.view.apply(alert_message(an_alert(revision=2, tags={"team": HOSTILE})))
    found.view.apply(alert_message(an_alert(alert_id="b1", kind="budget", budget=BUDGET, tags={"team": "search"})))
    plan = Plan(action="gate", target="key/k1", summary="limit key k1", before={"rpm": 600}, after={"rpm": 20})
    for action_id, state in (("x1", "applied"), ("x2", "proposed")):
        entry = LedgerEntry(
            action_id=action_id,
            state=state,  # type: ignore[arg-type]
            at=T0,
            alert_id="a1",
            fingerprint="f1",
            plan=plan,
            usd_per_hour_before=240.0,
            lease_expires_at=T0 + 3600,
        )
        found.view.actions[action_id] = [entry]
    return found


@pytest.fixture
async def browser(daemon: Any) -> AsyncIterator[Browser]:
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        yield client


async def sign_in(browser: Browser, token: str = "operator-token", **fields: str) -> Any:
    data = {"token": token, "name": "Ana", "next": "/alerts/a1", **fields}
    async with browser.post("/sign-in", data=data, allow_redirects=False) as answer:
        await answer.read()
        return answer


async def page(browser: Browser, path: str) -> str:
    async with browser.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def form_of(browser: Browser, path: str = "/alerts/a1") -> dict[str, str]:
    """The hidden fields that every form of a page has."""
    text = await page(browser, path)
    found = dict(re.findall(r'type="hidden" name="(form_token|once|next)" value="([^"]*)"', text))
    return {name: html.unescape(value) for name, value in found.items()}


async def press(browser: Browser, fields: dict[str, str], **headers: str) -> tuple[int, str]:
    async with browser.post("/press", data=fields, headers=headers, allow_redirects=False) as answer:
        return answer.status, html.unescape(await answer.text())


def commands(daemon: Any) -> list[Command]:
    messages = daemon.log.messages.get(TopicPartition(COMMANDS, 0), [])
    return [each for message in messages for each in read_commands(message.value, lambda *_: None)]


def knowledge(daemon: Any) -> list[Any]:
    messages = daemon.log.messages.get(TopicPartition(COMMANDS, 0), [])
    return [each for message in messages for each in read_knowledge(message.value, lambda *_: None)]


# --- signing in -----------------------------------------------------------------------------------------------------


async def test_a_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_cannot_use(browser: Browser) -> None:
    answer = await sign_in(browser)
    assert (answer.status, answer.headers["Location"]) == (303, "/alerts/a1")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" not in cookie
    assert "operator-token" not in cookie
    assert "Ana (on-call)" in await page(browser, "/")


async def test_tokens_are_not_tried_one_after_the_other(browser: Browser) -> None:
    assert [(await sign_in(browser, f"guess-{n}")).status for n in range(21)] == [403] * 20 + [429]
    refused = await sign_in(browser)
    assert refused.status == 429
    assert "Try again in 10 s." in await refused.text()


async def test_behind_tls_the_cookie_is_secure(browser: Browser) -> None:
    data, headers = {"token": "operator-token"}, {"X-Forwarded-Proto": "https"}
    async with browser.post("/sign-in", data=data, headers=headers, allow_redirects=False) as answer:
        assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(("token", "why"), [("wrong", "not a token"), ("ingest-token", "may not read"), ("", "not a")])
async def test_other_tokens_open_nothing(browser: Browser, token: str, why: str) -> None:
    answer = await sign_in(browser, token)
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers
    assert why in await answer.text()


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "/v1/status", "x", ""]
)
async def test_nobody_is_sent_elsewhere(browser: Browser, target: str) -> None:
    assert (await sign_in(browser, next=target)).headers["Location"] == "/"


async def test_a_link_on_another_site_leads_to_the_page_once_more(browser: Browser) -> None:
    """A browser does not send the cookie with it, and does when the page itself asks again."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    async with browser.get("/alerts/a1?x=1", headers=link) as answer:
        assert answer.status == 401
        assert 'content="0; url=/alerts/a1?x=1&amp;from_link=1"' in await answer.text()
    async with browser.get("/alerts/a1?from_link=1", headers=link) as answer:
        assert "http-equiv" not in await answer.text()


async def test_a_session_ends_with_its_time_and_by_signing_out(browser: Browser, daemon: Any) -> None:
    await sign_in(browser)
    form = await form_of(browser)
    async with browser.post("/sign-out", data={"form_token": "x"}, allow_redirects=False) as answer:
        assert answer.status == 303
    await sign_in(browser)
    await daemon.clock.advance(12 * 3600 + 1)
    async with browser.get("/") as answer:
        assert answer.status == 401
    await sign_in(browser)
    form = await form_of(browser)
    async with browser.post("/sign-out", data=form, allow_redirects=False) as answer:
        assert answer.status == 303
    async with browser.get("/") as answer:
        assert answer.status == 401


def test_a_crowd_of_readers_signs_no_operator_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.serve.pages.sessions._MOST", 3)
    sessions, read, operate = Sessions(ManualClock(T0)), frozenset({"read"}), frozenset({"read", "operate"})
    on_call = sessions.open("on-call", operate)

    def is_in(key: str) -> bool:
        return sessions.of(make_mocked_request("GET", "/", headers={"Cookie": f"{COOKIE}={key}"})) is not None

    readers = [sessions.open("viewer", read) for _ in range(5)]
    assert is_in(on_call)
    assert [is_in(reader) for reader in readers] == [False, False, False, True, True]
    assert [is_in(sessions.open("on-call", operate)) for _ in range(3)] == [True, True, True]
    assert not is_in(on_call)


async def test_who_presses_after_the_session_ended_signs_in_at_that_page(browser: Browser, daemon: Any) -> None:
    await sign_in(browser)
    form = await form_of(browser) | ON_ACTION
    await daemon.clock.advance(12 * 3600 + 1)
    for referer, then in (
        ("http://curb/alerts/a1?x=1", "/alerts/a1?x=1"),
        ("http://curb/press", "/"),
        ("http://[", "/"),
    ):
        status, text = await press(browser, form, Referer=referer)
        assert status == 401
        assert "nothing was done" in text
        assert f'name="next" value="{then}"' in text
    assert (await sign_in(browser, next="/press")).headers["Location"] == "/"
    assert commands(daemon) == []


async def test_the_cookie_is_for_pages_only(browser: Browser) -> None:
    await sign_in(browser)
    async with browser.get("/v1/status") as answer:
        assert answer.status == 401
    async with browser.post("/v1/commands", json={"kind": "halt"}) as answer:
        assert answer.status == 401


# --- who may press --------------------------------------------------------------------------------------------------


async def test_who_may_only_read_sees_no_button_and_presses_none(browser: Browser, daemon: Any) -> None:
    await sign_in(browser, "reader-token")
    text = await page(browser, "/alerts/a1") + await page(browser, "/") + await page(browser, "/actions")
    assert 'action="/press"' not in text
    form_token = re.search(r'name="form_token" value="([^"]*)"', text)
    assert form_token is not None
    status, _ = await press(browser, {"form_token": form_token[1], "once": "1", "next": "/", **ON_ACTION})
    assert status == 403
    assert not commands(daemon)


async def test_a_password_shows_pages_without_buttons(browser: Browser) -> None:
    text = await page_with_password(browser)
    assert 'action="/press"' not in text
    assert "Sign in to act" in text


async def page_with_password(browser: Browser) -> str:
    headers = {"Authorization": "Basic bWU6b3BlcmF0b3ItdG9rZW4="}
    async with browser.get("/alerts/a1", headers=headers) as answer:
        assert answer.status == 200
        return await answer.text()


@pytest.mark.parametrize(
    ("changes", "headers", "status"),
    [
        ({"form_token": "guessed"}, {}, 403),
        ({"form_token": ""}, {}, 403),
        ({}, {"Origin": "http://evil.example"}, 401),
        ({}, {"Origin": "null"}, 401),
        ({}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, 401),
    ],
)
async def test_a_form_of_another_site_presses_nothing(
    browser: Browser, daemon: Any, changes: dict[str, str], headers: dict[str, str], status: int
) -> None:
    await sign_in(browser)
    form = await form_of(browser) | ON_ACTION | changes
    assert (await press(browser, form, **headers))[0] == status
    assert not commands(daemon)


async def test_without_signing_in_nothing_is_pressed(browser: Browser, daemon: Any) -> None:
    assert (await press(browser, dict(ON_ACTION)))[0] == 401
    headers = {"Authorization": "Bearer operator-token"}
    async with browser.post("/press", data=ON_ACTION, headers=headers) as answer:
        assert answer.status == 401
    assert not commands(daemon)


# --- what presses write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "action_id"), [("undo", "x1"), ("extend", "x1"), ("approve", "x2"), ("deny", "x2")])
async def test_an_answer_is_a_command_of_whoever_gave_it_and_counts_once(
    browser: Browser, daemon: Any, verb: str, action_id: str
) -> None:
    await sign_in(browser)
    form = await form_of(browser) | {"verb": verb, "action_id": action_id}
    assert (await press(browser, form))[0] == 303
    assert (await press(browser, form))[0] == 303
    first, second = commands(daemon)
    assert (first.kind, first.by, first.args, first.at) == (verb, "on-call (Ana)", {"action_id": action_id}, T0)
    assert second.id == first.id, "pressed twice, done once"


async def test_the_page_says_once_what_was_pressed(browser: Browser) -> None:
    await sign_in(browser)
    await press(browser, await form_of(browser) | ON_ACTION)
    assert "Noted: it is to be undone" in await page(browser, "/alerts/a1")
    assert "Noted" not in await page(browser, "/alerts/a1")


async def test_a_halt_after_a_resume_is_another_halt(browser: Browser, daemon: Any) -> None:
    await sign_in(browser)
    for verb in ("halt", "resume", "halt"):
        await press(browser, await form_of(browser, "/") | {"verb": verb, "reason": "drill"})
    assert [each.kind for each in commands(daemon)] == ["halt", "resume", "halt"]
    assert len({each.id for each in commands(daemon)}) == 3
    assert commands(daemon)[0].args == {"reason": "drill"}


async def test_a_snooze_is_a_command_until_its_end(browser: Browser, daemon: Any) -> None:
    await sign_in(browser)
    await press(browser, await form_of(browser) | {"verb": "snooze", "alert_id": "a1", **HOURS})
    (command,) = commands(daemon)
    assert command.args == {"alert_id": "a1", "until": f"{T0 + 4 * 3600:.0f}"}


@pytest.mark.parametrize(
    ("fields", "kind", "holds"),
    [
        ({"verb": "real"}, Feedback, {"alert_id": "a1", "verdict": "real"}),
        ({"verb": "not_an_anomaly", "reason": "batch"}, Feedback, {"verdict": "not_an_anomaly", "note": "batch"}),
        (
            {"verb": "planned", "usd": "1,250", "reason": "launch", **HOURS},
            PlannedActivity,
            {"tags": {"team": HOSTILE}, "max_usd": 1250.0, "end": T0 + 4 * 3600, "reason": "launch"},
        ),
        ({"verb": "silence", **HOURS}, Silence, {"matchers": {"team": HOSTILE}, "until": T0 + 4 * 3600}),
        (
            {"verb": "raise_budget", "alert_id": "b1", "usd": "$50", **HOURS},
            BudgetIncrease,
            {"budget": "monthly", "amount_usd": 50.0, "match": {"team": "search"}, "expires_at": T0 + 4 * 3600},
        ),
    ],
)
async def test_what_people_know_is_the_record_that_other_channels_write(
    browser: Browser, daemon: Any, fields: dict[str, str], kind: type, holds: dict[str, Any]
) -> None:
    await sign_in(browser)
    form = {"alert_id": "a1", **await form_of(browser), **fields}
    assert (await press(browser, form))[0] == 303
    assert (await press(browser, form))[0] == 303
    first, second = knowledge(daemon)
    assert isinstance(first, kind)
    assert first.by == "on-call (Ana)"
    assert {name: getattr(first, name) for name in holds} == holds
    assert first.id == second.id


async def test_feedback_is_on_the_page_once(browser: Browser, daemon: Any) -> None:
    said = Feedback(id="f", at=T0, alert_id="a1", verdict="real", by="on-call (Ana)", note=HOSTILE)
    for _ in range(2):
        daemon.view.apply(knowledge_message(said))
    await sign_in(browser)
    text = await page(browser, "/alerts/a1")
    assert text.count("real by Ana (on-call)") == 1
    assert HOSTILE not in text


# --- what cannot be meant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "why"),
    [
        ({"verb": "explode"}, 400, "no such button"),
        ({"verb": ""}, 400, "no such button"),
        ({"verb": "undo", "action_id": "none"}, 404, "No such action"),
        ({"verb": "undo", "action_id": "x2"}, 409, "not in force any more"),
        ({"verb": "approve", "action_id": "x1"}, 409, "no answer any more"),
        ({"verb": "extend", "action_id": "x2"}, 409, "not in force"),
        ({"verb": "leave", "action_id": "x2"}, 409, "not in force any more"),
        ({"verb": "real", "alert_id": "none"}, 404, "No such alert"),
        ({"verb": "snooze", "hours": "0"}, 400, "time is not a number"),
        ({"verb": "snooze", "hours": "-1"}, 400, "time is not a number"),
        ({"verb": "snooze", "hours": "nan"}, 400, "time is not a number"),
        ({"verb": "snooze", "hours": "1e9"}, 400, "time is not a number"),
        ({"verb": "planned", "hours": "1", "usd": "lots"}, 400, "amount is not a number"),
        ({"verb": "planned", "hours": "1", "usd": "-5"}, 400, "amount is not a number"),
        ({"verb": "planned", "hours": "1", "usd": "1e99"}, 400, "amount is not a number"),
        ({"verb": "raise_budget", "hours": "1", "usd": "5"}, 400, "not about a budget"),
        ({"verb": "real", "once": ""}, 400, "incomplete"),
        ({"verb": "real", "once": "x" * 300}, 400, "incomplete"),
    ],
)
async def test_a_press_that_cannot_be_meant_is_refused_with_its_reason(
    browser: Browser, daemon: Any, fields: dict[str, str], status: int, why: str
) -> None:
    await sign_in(browser)
    found, text = await press(browser, {"alert_id": "a1", **await form_of(browser), **fields})
    assert found == status
    assert why in text
    assert not commands(daemon)
    assert not knowledge(daemon)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"verb=%ff", "application/x-www-form-urlencoded", 400),
        (b"a=1&a=2", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"f%d=1" % i for i in range(60)), "application/x-www-form-urlencoded", 400),
        (b"reason=" + b"x" * 20_000, "application/x-www-form-urlencoded", 413),
        (b"{}", "application/json", 415),
        (b"", "multipart/form-data; boundary=x", 415),
    ],
)
async def test_a_body_that_is_no_form_is_refused(
    browser: Browser, daemon: Any, body: bytes, kind: str, status: int
) -> None:
    await sign_in(browser)
    for path in ("/press", "/sign-in"):
        async with browser.post(path, data=body, headers={"Content-Type": kind}) as answer:
            assert answer.status == status
    assert not commands(daemon)


async def test_a_log_that_is_away_is_said(browser: Browser, daemon: Any) -> None:
    await sign_in(browser)
    form = await form_of(browser) | ON_ACTION
    daemon.log.fail_next = 1
    status, text = await press(browser, form)
    assert (status, "nothing was done" in text) == (503, True)
    assert (await press(browser, form))[0] == 303


async def test_a_name_is_no_markup_and_nobody_elses_token(browser: Browser, daemon: Any) -> None:
    await sign_in(browser, name=f"({HOSTILE})\n" + "x" * 500)
    assert HOSTILE not in await page(browser, "/")
    await press(browser, await form_of(browser) | ON_ACTION)
    by = commands(daemon)[0].by
    assert by.startswith("on-call (")
    assert len(by) < 100
    assert by.count("(") == 1


# --- pages ----------------------------------------------------------------------------------------------------------


async def test_the_incident_has_a_chart_with_the_limit_and_what_would_have_been(browser: Browser) -> None:
    await sign_in(browser)
    text = await page(browser, "/alerts/a1")
    for shown in ('class="line actual"', 'class="line expected"', "What to do", "rpm 600 → 20", "Approve", "Undo"):
        assert shown in text


def test_every_kind_of_alert_says_what_to_do() -> None:
    assert set(WHAT_TO_DO) == set(get_args(AlertKind))


async def test_no_page_needs_a_script_or_a_style_of_its_own(browser: Browser) -> None:
    await sign_in(browser)
    for path in ("/", "/alerts", "/alerts/a1", "/actions", "/actions/x1", "/series", "/config", "/sign-in"):
        text = await page(browser, path)
        assert not re.search(r"<script(?! src=)|\son\w+=|\sstyle=|<style|javascript:", text), path
    for path in ("/page.css", "/page.js"):
        assert "http" not in await page(browser, path), "nothing from elsewhere"


async def test_the_usual_range_is_that_of_the_hours_before(daemon: Any) -> None:
    before = [Point(T0 - 7 * 3600 + 120 * i, 10.0 + i % 3, 11.0) for i in range(190)]
    daemon.recent = SimpleNamespace(points=lambda alert: before, totals=lambda scope: [])
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as browser:
        await sign_in(browser)
        text = await page(browser, "/alerts/a1")
    assert 'class="band"' in text
    assert "usual range" in text


async def test_no_value_can_turn_around_what_a_person_reads(browser: Browser, daemon: Any) -> None:
    alert = an_alert(revision=3, tags={"team": "a\u202eb\x1b[31m"}, explanation="x\u2066y\x00", channel="c\u200f")
    daemon.view.apply(alert_message(alert))
    await sign_in(browser)
    for path in ("/", "/alerts", "/alerts/a1"):
        assert not re.search("[\u202e\x1b\u2066\x00\u200f]", await page(browser, path)), path


async def test_one_series_and_its_alerts(browser: Browser) -> None:
    await sign_in(browser)
    text = await page(browser, "/series/one?scope=team&tag=team%3Dsearch")
    assert "/alerts/b1" in text
    assert "/alerts/a1" not in text


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/series?scope=nobody", 400, "There is no such scope; there are: key"),
        ("/series?sort=name", 400, "sort is one of"),
        ("/series?tag=team", 400, "A tag is key=value"),
        ("/series?" + "&".join(f"tag=a{i}=b" for i in range(20)), 400, "at most 16"),
        ("/series?q=" + "x" * 300, 400, "at most 200"),
        ("/series?by=colour", 400, "by is a tag of the scope"),
        ("/series?after=elsewhere", 400, "cannot be read"),
        ("/series/one?scope=team&tag=team%3Dnobody", 404, "no such series"),
        ("/series/one?range=9y", 400, "range is one of"),
        ("/alerts?status=odd", 400, "no such status"),
        ("/alerts?after=gone", 400, "not known any more"),
        ("/actions?after=gone", 400, "not known any more"),
        ("/actions/none", 404, "no such action"),
        ("/alerts/none", 404, "no such alert"),
    ],
)
async def test_an_address_that_cannot_be_meant(browser: Browser, path: str, status: int, why: str) -> None:
    await sign_in(browser)
    async with browser.get(path) as answer:
        assert answer.status == status
        assert why in html.unescape(await answer.text())


async def test_alerts_are_searched_and_paged(browser: Browser, daemon: Any) -> None:
    for number in range(120):
        alert = an_alert(alert_id=f"n{number}", tags={"team": f"t{number % 2}"}, status="resolved", tier="notice")
        daemon.view.apply(alert_message(alert))
    await sign_in(browser)
    path, seen = "/alerts?q=runaway+t1&status=resolved", []
    while path:
        text = await page(browser, path)
        seen += re.findall(r'<h3><a href="/alerts/(\w+)"', text)
        more = re.search(r'href="([^"]*)">More', text)
        path = html.unescape(more[1]) if more else ""
    assert seen == [f"n{number}" for number in range(119, 0, -2)]


async def test_the_press_of_a_stranger_to_the_approvers_is_left_to_the_runner(browser: Browser, daemon: Any) -> None:
    """`by` begins with the name of the token, which `actions.approvers` may name: nobody signs in as somebody else."""
    await sign_in(browser, name="fred")
    await press(browser, await form_of(browser) | {"verb": "approve", "action_id": "x2"})
    assert msgspec.to_builtins(commands(daemon)[0])["by"].split(" ")[0] == "on-call"


# --- what only an admin may -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"verb": "raise_budget", "alert_id": "b1", "usd": "50", **HOURS}, {"verb": "not_an_anomaly"}]
)
async def test_who_operates_cannot_do_what_stays(browser: Browser, daemon: Any, fields: dict[str, str]) -> None:
    await sign_in(browser, "night-token")
    form = await form_of(browser)
    status, text = await press(browser, {**form, "alert_id": "a1", **fields})
    assert (status, "a role that may admin" in text) == (403, True)
    assert not knowledge(daemon)
    assert "Not an anomaly" not in await page(browser, "/alerts/a1")
    assert "Raise the budget" not in await page(browser, "/alerts/b1")
    status, _ = await press(browser, {**form, "alert_id": "a1", "verb": "real"})
    assert (status, len(knowledge(daemon))) == (303, 1)


async def test_who_operates_may_judge_what_is_over(browser: Browser, daemon: Any) -> None:
    over = an_alert(revision=9, status="resolved", resolved_at=T0 + 60)
    daemon.view.apply(alert_message(over))
    await sign_in(browser, "night-token")
    form = await form_of(browser)
    assert "Not an anomaly" in await page(browser, "/alerts/a1")
    assert (await press(browser, {**form, "alert_id": "a1", "verb": "not_an_anomaly"}))[0] == 303


@pytest.mark.parametrize(("token", "shown"), [("night-token", False), ("operator-token", True)])
async def test_paths_of_files_are_for_admins(browser: Browser, token: str, shown: bool) -> None:
    await sign_in(browser, token)
    text = await page(browser, "/config")
    assert ("directory: curb-data" in text) is shown
