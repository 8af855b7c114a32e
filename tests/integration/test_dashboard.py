"""The dashboard's pages: what they show, that a tag is never markup, and who may look."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr
from rich.console import Console

from curb.cli import render
from curb.config.file import CurbConfig, load_text
from curb.connectors.connector import PushSource
from curb.connectors.intake.health import Health
from curb.connectors.intake.inbox import InboxSource
from curb.connectors.intake.refused_posts import RefusedPosts
from curb.detector.day_one import Watched
from curb.detector.incidents.feeds import FeedAlerts
from curb.detector.state.registry import SeriesMoney, SeriesStatus
from curb.detector.state.view import Raised
from curb.serve.api import make_app
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.clock import ManualClock
from curb.stream.records.reconciliation import Reconciliation
from curb.stream.records.spend import BudgetStatus, LedgerEntry, Plan, SourceTally
from curb.stream.time import iso
from curb.views.alerts_and_actions import LogView
from curb.views.recent_burn import RecentBurn
from curb.views.unit_costs import WantedUnitCost
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.memory_log import MemoryLog

TOKEN = "page-token"
HOSTILE = '<script>alert("x")</script>'
BUDGET = BudgetStatus(
    name="monthly", period="month", period_start=T0, period_end=T0, amount_usd=50.0, spent_usd=40.0, threshold=80.0
)


class Shard:
    """Two teams, one of them with a hostile name."""

    event_time, series_count, raised = T0, 2, Raised(0.0, 0.0)
    feeds, known_s = FeedAlerts(()), 0.0

    history = SimpleNamespace(held=list)

    def top(self, count: int, scope: str | None = None) -> list[SeriesStatus]:
        rows = [("search", 30.0, 10.0), (HOSTILE, 1.0, 2.0)]
        found = [SeriesStatus("team", {"team": team}, rate, usual, 12.5, 99.0) for team, rate, usual in rows]
        return found[:count] if scope in (None, "team") else []

    def money(self) -> SeriesMoney:
        rows = self.top(10)
        rate, usual, today, total = (np.array(each) for each in list(zip(*rows, strict=True))[2:])
        return SeriesMoney([row.scope for row in rows], [row.tags for row in rows], total, total, rate, usual, today)

    def number_of(self, scope: str, tags: dict[str, str]) -> None:
        return None

    def watching(self, count: int) -> list[Watched]:
        return [Watched("team", {"team": HOSTILE}, 30.0, 1.0, "it is known for 2 h")][:count]

    def fullest_budgets(self, most: int) -> tuple[list[tuple[dict[str, str], BudgetStatus]], list[Any]]:
        return self.budgets()[:most], []

    def budgets(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        return [({"team": "search"}, BUDGET)]


def a_daemon(**changes: Any) -> Any:
    """A daemon as far as the pages see it."""
    config = CurbConfig.model_validate({"http": {"token": TOKEN} if changes.pop("guarded", True) else {}})
    empty = {"halted": None, "open": [], "proposed": [], "ceilings": [], "problems": {}}
    base = {
        "config": config,
        "log": MemoryLog(),
        "view": LogView(),
        "clock": ManualClock(T0),
        "lag_s": lambda: {"rollup": 0.2, "detector": 0.3},
        "caught_up": lambda: {"rollup": True, "detector": True},
        "log_problem": str,
        "connectors": SimpleNamespace(runners=[], sources={}, refused_posts=RefusedPosts()),
        "action_state": lambda: empty,
        "shards": lambda: [Shard()],
        "recent": RecentBurn(list, ManualClock(T0)),
        "units": SimpleNamespace(recent=SimpleNamespace(rows=list)),
        "reconciliations": lambda: [
            Reconciliation(
                pair="tokens", period_start=T0, period_end=T0, estimated_usd=10, billed_usd=9, days=9, ratio=0.9, at=T0
            )
        ],
    }
    return SimpleNamespace(**(base | changes))


@pytest.fixture
async def daemon() -> Any:
    return a_daemon()


@pytest.fixture
async def browser(daemon: Any) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        yield client


def login(password: str = TOKEN) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


async def page(browser: TestClient[Any, Any], path: str) -> str:
    async with browser.get(path, headers=login()) as answer:
        assert answer.status == 200, await answer.text()
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        return await answer.text()


async def test_an_empty_page_and_an_empty_status_show_the_same_next_steps() -> None:
    config = load_text("connectors: [{kind: usage_jsonl, name: gw, token: long-token}]\nhttp: {port: 8123}")
    daemon = a_daemon(config=config, shards=list)
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        async with client.get("/") as answer:
            text = html.unescape(await answer.text())
        async with client.get("/v1/status") as answer:
            found = await answer.json()
    console = Console(record=True, width=200, file=io.StringIO())
    render.status(console, found, json_lines=False)
    printed = console.export_text()
    assert [step["command"] for step in found["next_steps"]][-1] == "http://127.0.0.1:8123/"
    for step in found["next_steps"]:
        for shown in step.values():
            assert shown in text
            assert shown in printed
    assert "failing requests that cost: at once" in text


async def test_a_post_that_reached_no_connector_is_shown_wherever_sources_are(daemon: Any) -> None:
    source = InboxSource("gateway", cast(PushSource, None), SecretStr("ingest-token"))
    daemon.connectors.sources["gateway"] = source
    right = {"Authorization": "Bearer ingest-token"}
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        for path, headers in (("litelm", right), ("<b>", right), ("gateway", {"Authorization": "Bearer other"})):
            await client.post(f"/v1/ingest/{path}", data=b"{}", headers=headers)
        text = html.unescape(await page(client, "/"))
        found = {}
        for path in ("/v1/status", "/v1/connectors"):
            async with client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
                found[path] = await answer.json()
        assert "<b>" not in await page(client, "/")
    console = Console(record=True, width=200, file=io.StringIO())
    render.status(console, found["/v1/status"], json_lines=False)
    printed = console.export_text()
    unknown = f"POST /v1/ingest/litelm was refused once, last at {iso(T0)}: no connector has this path; "
    said = [unknown + "there is /v1/ingest/gateway", "its bearer token is not that of the connector"]
    for sentence in said:
        assert sentence in text
        assert sentence in printed
        assert sentence in str(found["/v1/connectors"]["refused_posts"])


@pytest.mark.parametrize("at", [-1.0, 4e9 * 1000, 1e18, -1e18, float("inf"), float("nan")])
async def test_a_strange_time_of_others_breaks_no_page(daemon: Any, at: float) -> None:
    health = Health(last_error="invalid", last_error_at=at, newest_charge_at=at)
    source = SimpleNamespace(name="gw", last_success=at, health=health, notes=tuple, paths=list)
    daemon.connectors = SimpleNamespace(runners=[], sources={"gw": source}, refused_posts=RefusedPosts())
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        for path in ("/", "/v1/connectors", "/v1/status"):
            headers = login() if path == "/" else {"Authorization": f"Bearer {TOKEN}"}
            async with client.get(path, headers=headers) as answer:
                assert answer.status == 200, await answer.text()


async def test_until_the_first_bucket_closes_spend_is_received() -> None:
    shard = Shard()
    shard.event_time, shard.series_count, shard.feeds = None, 0, FeedAlerts(())  # type: ignore[assignment]
    daemon = a_daemon(guarded=False, shards=lambda: [shard])
    text, printed = await shown(daemon)
    assert "No spend yet" in text
    assert "nothing yet, 0 series" in printed
    assert "No spend yet" in printed
    # The bucket of the first record ends 20 s after T0 and waits 30 s for late records.
    shard.feeds.arrived(SourceTally(source="gw", hour=int(T0), counted=1, last_at=T0 - 30))
    shard.feeds.arrived(SourceTally(source="gw", hour=int(T0), counted=1, last_at=T0 + 25))
    text, printed = await shown(daemon)
    assert "No spend yet" not in text + printed
    assert "pend received; the first bucket closes in 50 s" in text
    assert "spend received; the first bucket closes in 50 s, 0 series" in printed
    shard.event_time = T0 + 20
    assert "spend received" not in (await shown(daemon))[1]


async def shown(daemon: Any) -> tuple[str, str]:
    """The page, and what `curb status` prints."""
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        async with client.get("/") as answer:
            text = html.unescape(await answer.text())
        async with client.get("/v1/status") as answer:
            found = await answer.json()
    console = Console(record=True, width=200, file=io.StringIO())
    render.status(console, found, json_lines=False)
    return text, console.export_text()


async def test_a_page_with_spend_shows_no_next_steps(browser: TestClient[Any, Any]) -> None:
    assert "No spend yet" not in await page(browser, "/")


async def test_spend_per_team_budgets_and_bills(browser: TestClient[Any, Any]) -> None:
    text = await page(browser, "/")
    for shown in ("search", "$30.00", "$10.00", "$12.50", "monthly", "80.0%", "0.900", "Mode <strong>shadow"):
        assert shown in text
    assert "No spend of this scope yet" in await page(browser, "/?scope=key")


async def test_a_tag_is_never_markup(browser: TestClient[Any, Any]) -> None:
    text = await page(browser, "/")
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert HOSTILE not in await page(browser, f"/?scope={HOSTILE}")


async def test_an_alert_has_a_page_with_what_was_done_and_a_picture(browser: TestClient[Any, Any], daemon: Any) -> None:
    alert = an_alert(tags={"team": HOSTILE})
    later = an_alert(tags={"team": HOSTILE}, revision=2, updated_at=T0 + 600, usd_per_hour=300.0)
    for each in (alert, later):
        await daemon.log.append([alert_message(each)])
        daemon.view.apply(alert_message(each))
    plan = Plan(action="gate", target="key/k1", summary="limit key k1", before={"rpm": 600}, after={"rpm": 20})
    entry = LedgerEntry(action_id="x1", state="applied", at=T0, alert_id="a1", fingerprint="f1", plan=plan)
    daemon.view.actions["x1"] = [entry]
    assert "/alerts/a1" in await page(browser, "/")
    text = await page(browser, "/alerts/a1")
    assert "limit key k1" in text
    assert "Requests rose 20-fold" in text
    assert HOSTILE not in text
    async with browser.get("/alerts/a1/chart.png", headers=login()) as answer:
        assert (await answer.read()).startswith(b"\x89PNG")


@pytest.mark.parametrize("path", ["/alerts/nobody", "/alerts/nobody/chart.png"])
async def test_what_is_not_there_is_404(browser: TestClient[Any, Any], path: str) -> None:
    async with browser.get(path, headers=login()) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("headers", [{}, login("wrong"), {"Authorization": "Basic ???"}])
async def test_without_the_token_a_browser_asks_for_it(browser: TestClient[Any, Any], headers: dict[str, str]) -> None:
    async with browser.get("/", headers=headers) as answer:
        assert answer.status == 401
        assert '<form method="post" action="/sign-in">' in await answer.text()


async def test_a_password_opens_pages_only(browser: TestClient[Any, Any]) -> None:
    async with browser.get("/v1/status", headers=login()) as answer:
        assert answer.status == 401


async def test_without_a_token_this_machine_may_look() -> None:
    async with TestClient(TestServer(make_app(a_daemon(guarded=False), Doors()))) as client, client.get("/") as answer:
        assert answer.status == 200


async def test_readiness_and_the_metric_say_how_far_behind_it_is() -> None:
    lag_s = {"rollup": 2.0, "detector": 29.0}
    daemon = a_daemon(guarded=False, lag_s=lambda: lag_s, shards=list)
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        async with client.get("/readyz") as answer:
            assert (answer.status, (await answer.json())["lag_s"]) == (200, lag_s)
        lag_s["detector"] = 31.0
        async with client.get("/readyz") as answer:
            assert (answer.status, (await answer.json())["ready"]) == (503, False)
        async with client.get("/metrics") as answer:
            assert 'curb_lag_seconds{worker="detector"} 31.0' in await answer.text()


async def test_what_a_unit_costs_is_on_the_first_page() -> None:
    costs = [("search", 0.0064, 9.0), ("ads", 0.5, 90.0), ("idle", None, 0.0)]
    rows = [{"tags": {"team": t}, "units": 1500.0, "usd_per_unit": usd, "total_usd": all_} for t, usd, all_ in costs]
    rows.append({"tags": {"team": HOSTILE}, "units": 1.0, "usd_per_unit": 1.0, "total_usd": 1.0})
    figures = [
        (WantedUnitCost(by=("team",), unit="tokens"), rows),
        (WantedUnitCost(by=("model",), unit="requests"), []),
    ]
    daemon = a_daemon(units=SimpleNamespace(recent=SimpleNamespace(rows=lambda: figures)))
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        text = await page(client, "/")
    assert "Dollars per 1,000 tokens by team" in text
    assert "by model" not in text
    assert text.index("team=ads") < text.index("$0.0064")
    assert "team=idle" not in text
    assert HOSTILE not in text
