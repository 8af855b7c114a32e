"""An alert on a bill is said in days, by every notifier, command and page: a bill knows nothing of an hour."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator

import pytest
from aiohttp import web
from rich.console import Console

from curb.actions.notify.protocol import DayDigest, Digests, Notice, Reply, ReplyKind, Threads
from curb.cli import explain_table, render
from curb.serve.pages.frame import TEMPLATES
from curb.stream.records.spend import Alert
from curb.testing.notifiers import opened
from curb.views.explanation import Explanation
from tests.contract.test_notifiers import BENCHES
from tests.unit.test_bill_lane import SETTINGS, Bill

pytestmark = pytest.mark.long

#: Words of less than a day, as a sentence or a table would have them.
SUB_DAY = re.compile(r"/h\b|per hour|an hour|\bhours?\b|\bminutes?\b|-minute\b|\b[\d.]+ ?(h|min|s)\b|\d(h|min)\b")
#: What an address or a time of a message is no word of.
_OUR_OWN = re.compile(r"<!date[^>]*>|/hook\b")
_REPLIES: tuple[ReplyKind, ...] = ("tier", "also", "again", "repeat", "figures", "resolved")
BUDGETS = [
    {"name": "month", "scope": "bill-account", "amount_usd": 20_000},
    {"name": "day", "scope": "bill-account", "amount_usd": 500, "period": "day"},
]


@functools.cache
def alerts() -> tuple[Alert, ...]:
    """Of a bill by the day: a new fleet, an increase, and budgets that both pass."""
    settings = SETTINGS.model_validate({**SETTINGS.model_dump(), "budgets": BUDGETS})
    bill = Bill(5, daily=True, settings=settings)
    for day in range(1, 31):
        extra = {("a2", "Network"): 300.0} if day > 24 else {}
        bill.read(day - 1, day, extra | ({("a3", "Compute"): 9000.0} if day > 26 else {}))
    return tuple(bill.alerts.values())


def said(alert: Alert) -> Iterator[str]:
    """What the alert itself says."""
    yield from (alert.explanation, alert.reason, alert.channel)


def check(text: str) -> None:
    found = SUB_DAY.search(_OUR_OWN.sub("", text))
    assert found is None, text[max(0, found.start() - 80) : found.end() + 40]


def test_there_is_an_alert_of_each_kind() -> None:
    found = alerts()
    assert {each.kind for each in found} == {"runaway", "budget"}
    assert {each.channel.partition("/")[0] for each in found} >= {"new_charge", "dollars", "budget"}
    assert {each.status for each in found} == {"firing", "resolved"}
    for alert in found:
        assert alert.money == "billed"
        for words in said(alert):
            check(words)
        assert "data up to" in alert.explanation
    assert any("a day" in alert.explanation for alert in found)


@pytest.mark.parametrize("kind", sorted(BENCHES))
async def test_no_notifier_speaks_of_less_than_a_day(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    bodies: list[str] = []

    @web.middleware
    async def keep(request: web.Request, handler: web.Handler) -> web.StreamResponse:
        bodies.append(await request.text())
        return await handler(request)

    class Listening(BENCHES[kind]):  # type: ignore[misc]
        def app(self) -> web.Application:
            app: web.Application = super().app()
            app.middlewares.insert(0, keep)
            return app

    async with opened(Listening) as of:
        for number, alert in enumerate(alerts()):
            notice = Notice(f"k-{number}", alert, others=alerts()[-2:])
            ref = await of.notifier.send(notice, "")
            if isinstance(of.notifier, Threads):
                for reply in _REPLIES:
                    await of.notifier.reply(Reply(f"{reply}-{number}", reply, notice, alert), ref)
        if isinstance(of.notifier, Digests):
            await of.notifier.send_digest(DayDigest("d-1", "2026-07-01", alerts()[0].fired_at, alerts(), ()))
    text = "\n".join(bodies) + capsys.readouterr().out
    assert "a day" in text
    check(_without_data(text))


def _without_data(text: str) -> str:
    """Without fields that programs read, which say their unit in their name."""
    return re.sub(r'"[a-z_]*per_(hour|minute)[a-z0-9_]*": *[^,}]+', "", text)


def test_no_command_and_no_card_speaks_of_less_than_a_day() -> None:
    out = io.StringIO()
    console = Console(file=out, width=160)
    render.alerts(console, alerts(), json_lines=False)
    card = TEMPLATES.get_template("parts.html").make_module({"may_operate": False})
    for alert in alerts():
        explain_table.show(console, Explanation(alert, "", [], [], None, [], [], [], [], [], [], []))
        out.write(card.alert_card(alert))  # type: ignore[attr-defined]
    assert "a day" in out.getvalue()
    check(out.getvalue())
