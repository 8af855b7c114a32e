"""What the templated calls of the `http` action send; the other side is a list of requests here."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from curb.actions.levers import http_action
from curb.actions.levers.http_action import Config, HttpAction
from curb.actions.levers.http_templates import fill_body, fill_url, origin, placeholders
from curb.actions.target import TargetRate
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED
from tests.fakes.alerts import NORMAL, an_alert

HOST = "https://gw.example:8443"
READ = {"method": "GET", "url": HOST + "/limits?team={tag.team}"}
WRITE = {"method": "POST", "url": HOST + "/limits", "body": {"team": "{tag.team}", "rpm": "{rpm}"}}
RPM = {"path": "rpm", "shave": "requests_per_minute", "pause": 5, "block": 0}
BASE: dict[str, Any] = {"kind": "http", "name": "gw", "read": READ, "write": WRITE, "fields": {"rpm": RPM}}


class Other:
    """The other side: answers `state` to everything and remembers (method, address, headers, body)."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.sent: list[tuple[str, str, dict[str, str], Any]] = []

    async def exchange(self, http: Any, clock: Any, method: str, url: Any, **how: Any) -> bytes:
        self.sent.append((method, str(url), how["headers"], how["json"]))
        return self.state if isinstance(self.state, bytes) else json.dumps(self.state).encode()


def action(monkeypatch: pytest.MonkeyPatch, state: Any, **changes: Any) -> tuple[HttpAction, Other]:
    other = Other(state)
    monkeypatch.setattr(http_action, "exchange", other.exchange)
    return HttpAction(Config.model_validate(BASE | changes), None, ManualClock()), other  # type: ignore[arg-type]


# --- templates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("search", "http://x/a/search/b"),
        ("a/../b", "http://x/a/a%2F..%2Fb/b"),
        ("a?b=c&d#e", "http://x/a/a%3Fb%3Dc%26d%23e/b"),
        ("{rpm}", "http://x/a/%7Brpm%7D/b"),
        ("ü %2F", "http://x/a/%C3%BC%20%252F/b"),
        ("a\r\nHost: evil", "http://x/a/a%0D%0AHost%3A%20evil/b"),
        (20, "http://x/a/20/b"),
        (True, "http://x/a/true/b"),
    ],
)
def test_what_is_filled_into_an_address_stays_one_piece(value: Any, address: str) -> None:
    assert str(fill_url("http://x/a/{tag.team}/b", {"tag.team": value})) == address


@pytest.mark.parametrize("value", ["", ".", "..", None])
def test_what_would_change_the_path_is_refused(value: Any) -> None:
    with pytest.raises(PermanentError, match=r"tag\.team"):
        fill_url("http://x/a/{tag.team}/b", {"tag.team": value})


def test_a_body_keeps_types_and_encodes_what_is_filled_in() -> None:
    template = {"rpm": "{rpm}", "list": ["{on}", 1, None], "note": "to {rpm} for {tag.team}", "{rpm}": "kept {else"}
    body = fill_body(template, {"rpm": 20, "on": False, "tag.team": '"}, "admin": {"x": "'})
    assert body == {
        "rpm": 20,
        "list": [False, 1, None],
        "note": 'to 20 for "}, "admin": {"x": "',
        "{rpm}": "kept {else",
    }
    assert json.loads(json.dumps(body)) == body


def test_placeholders_are_found_in_values_only() -> None:
    assert placeholders({"{a}": ["{b} {tag.x-y.z}", {"c": "{d}"}], "e": 5}) == {"b", "tag.x-y.z", "d"}
    assert placeholders("{0} {x!r} {A} {}") == set()


@pytest.mark.parametrize(
    "url", ["http://{tag.team}.gw/x", "http://gw{tag.team}/x", "ftp://gw/x", "/x", "http://u:p@gw/x", "http:///x"]
)
def test_the_host_is_fixed(url: str) -> None:
    with pytest.raises(ValueError, match="host"):
        origin(url)


@pytest.mark.parametrize("url", ["http://gw/a b/{tag.team}", "http://gw/ü", "http://gw/a\n"])
def test_an_address_is_encoded_already(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded"):
        origin(url)
    assert origin("HTTP://GW:80/%20/{tag.cost center}".replace("HTTP", "http")) == "http://gw"


# --- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"read": READ | {"url": HOST + "/limits/{rpm}"}}, "unknown placeholders: rpm"),
        ({"write": WRITE | {"body": {"rpm": "{rpn}"}}}, "unknown placeholders: rpn"),
        ({"write": WRITE | {"body": {"rpm": 5}}}, "no placeholder for rpm"),
        ({"write": WRITE | {"url": "https://elsewhere/limits"}}, "same scheme, host and port"),
        ({"fields": {"rpm": {"path": "rpm"}}}, "shave, reroute, pause or block"),
        ({"fields": {"rpm": RPM | {"path": "a["}}}, "no JMESPath"),
        ({"fields": {}}, "at least 1"),
        ({"fields": {"tag.x": RPM}}, "pattern"),
        ({"read": READ | {"method": "get"}}, "GET"),
        ({"secret_headers": [{"name": "a: b", "value": "x"}]}, "pattern"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Config.model_validate(BASE | changes)


def test_a_secret_header_may_come_from_a_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    header = {"name": "X-Key", "prefix": "Key ", "value_file": str(tmp_path / "token")}
    gateway, _ = action(monkeypatch, {"rpm": 600}, secret_headers=[header])
    assert gateway._secrets == {"X-Key": "Key s3cret"}
    assert "s3cret" not in repr(gateway._config)


# --- plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "field", "found", "after"),
    [
        (NORMAL, RPM, 600, 20),
        (NORMAL, RPM, None, 20),
        (NORMAL, RPM, 20, None),
        (NORMAL, RPM, 7, None),
        (NORMAL, RPM | {"times": 60}, 5000, 1200),
        (NORMAL, RPM | {"times": 1 / 60, "whole": False}, 10, 20 / 60),
        (NORMAL, RPM | {"times": 1 / 60}, 10, 1),
        (TargetRate("shave"), RPM, 600, 10),
        (NORMAL, RPM | {"shave": "usd_per_hour"}, 99, 12),
        (TargetRate("shave"), RPM | {"shave": "usd_per_hour"}, 99, None),
        (NORMAL, RPM | {"shave": 3}, 99, 3),
        (NORMAL, RPM | {"shave": None}, 99, None),
        (TargetRate("pause"), RPM, 600, 5),
        (TargetRate("pause"), RPM | {"pause": None}, 600, None),
        (TargetRate("block"), RPM, 600, 0),
        (TargetRate("block"), RPM | {"block": True}, False, True),
        (TargetRate("block"), RPM | {"block": True}, True, None),
        (TargetRate("block"), RPM | {"block": "stopped"}, "running", "stopped"),
        (TargetRate("block"), RPM | {"block": 0}, True, 0),
    ],
)
async def test_what_each_verb_sets(
    monkeypatch: pytest.MonkeyPatch, rate: TargetRate, field: dict[str, Any], found: Any, after: Any
) -> None:
    gateway, _ = action(monkeypatch, {"rpm": found}, fields={"rpm": field})
    plans = await gateway.plan(an_alert(), rate)
    assert [(plan.before, plan.after) for plan in plans] == (
        [] if after is None else [({"rpm": found}, {"rpm": after})]
    )


@pytest.mark.parametrize("tags", [{}, {"team": ""}, {"team": UNTAGGED}, {"team": OTHER}, {"project": "x"}])
async def test_nothing_is_asked_without_the_tags(monkeypatch: pytest.MonkeyPatch, tags: dict[str, str]) -> None:
    gateway, other = action(monkeypatch, {"rpm": 600})
    assert not await gateway.plan(an_alert(tags=tags), NORMAL)
    assert not other.sent


async def test_a_plan_alone_is_enough_to_write_and_undo(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, other = action(monkeypatch, {"rpm": 600})
    (plan,) = await gateway.plan(an_alert(tags={"team": "a&b=#ü", "env": "x"}), NORMAL)
    assert plan.target == HOST + "/limits?team=a%26b%3D%23%C3%BC#team=a%26b%3D%23%C3%BC"
    plan = msgspec.json.decode(msgspec.json.encode(plan), type=type(plan))
    another, other = action(monkeypatch, {"rpm": 20})
    await another.undo(plan, None)
    assert other.sent[-1] == ("POST", HOST + "/limits", {}, {"team": "a&b=#ü", "rpm": 600})


async def test_a_subject_without_tags_has_a_target_too(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = {"method": "GET", "url": HOST + "/all"}, {"method": "PUT", "url": HOST + "/all", "body": "{rpm}"}
    gateway, other = action(monkeypatch, {"rpm": 600}, read=read, write=write)
    (plan,) = await gateway.plan(an_alert(tags={}), NORMAL)
    assert (plan.target, plan.summary) == (HOST + "/all#", "shave: rpm 600 → 20")
    await gateway.apply(plan)
    assert other.sent[-1] == ("PUT", HOST + "/all", {}, 20)


async def test_fields_that_do_not_change_are_sent_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"rpm": RPM, "burst": {"path": "burst", "shave": 50}}
    write = WRITE | {"body": {"rpm": "{rpm}", "burst": "{burst}"}}
    gateway, other = action(monkeypatch, {"rpm": 600, "burst": 8}, fields=fields, write=write)
    (plan,) = await gateway.plan(an_alert(), NORMAL)
    assert plan.after == {"rpm": 20}
    await gateway.apply(plan)
    assert other.sent[-1][3] == {"rpm": 20, "burst": 8}


async def test_what_cannot_be_undone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, _ = action(monkeypatch, {"rpm": 600}, irreversible="The queue is emptied.")
    (plan,) = await gateway.plan(an_alert(), NORMAL)
    assert (plan.reversible, plan.warning) == (False, "The queue is emptied.")


@pytest.mark.parametrize(("counted", "rejected"), [(7, 7), (7.0, 7), ("many", None), (None, None)])
async def test_rejected_requests_are_told_where_they_are_counted(
    monkeypatch: pytest.MonkeyPatch, counted: Any, rejected: int | None
) -> None:
    gateway, other = action(monkeypatch, {"rpm": 600, "denied": counted}, rejected="denied")
    (plan,) = await gateway.plan(an_alert(), NORMAL)
    other.state["rpm"] = 20
    effect = await gateway.verify(plan)
    assert (effect.in_force, effect.rejected) == (True, rejected)


async def test_an_answer_that_is_not_json_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, _ = action(monkeypatch, b"<html>")
    with pytest.raises(TransientError, match="not JSON"):
        await gateway.plan(an_alert(), NORMAL)


async def test_a_path_that_does_not_fit_the_answer_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, _ = action(monkeypatch, {"rpm": None}, fields={"rpm": RPM | {"path": "length(rpm)"}})
    with pytest.raises(PermanentError, match="does not fit"):
        await gateway.plan(an_alert(), NORMAL)


async def test_a_path_that_finds_no_single_value_is_a_mistake_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway, _ = action(monkeypatch, {"rpm": [1, 2]})
    with pytest.raises(PermanentError, match=r"fields\.rpm\.path"):
        await gateway.plan(an_alert(), NORMAL)
