"""The explanation of an alert over HTTP, and `curb explain` on a daemon, or on the log when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from typer.testing import CliRunner

from curb import wiring
from curb.cli.explain import from_daemon
from curb.cli.main import app
from curb.cli.offline import NotReachableError
from curb.config.file import CurbConfig, load_file
from curb.serve.http_explain import add_routes
from curb.serve.running import Running
from curb.stream.clock import WallClock
from curb.stream.records.spend import Alert, BudgetStatus
from curb.views.alerts_and_actions import LogView
from curb.views.explanation import Explanation, NoSuchAlertError
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.memory_log import MemoryLog

BUDGET = BudgetStatus(
    name="q", period="month", period_start=T0, period_end=T0, amount_usd=50.0, spent_usd=40.0, threshold=80.0
)


class Shard:
    def fullest_budgets(self, most: int) -> tuple[list[tuple[dict[str, str], BudgetStatus]], list[Any]]:
        return self.budgets()[:most], []

    def budgets(self) -> list[tuple[dict[str, str], BudgetStatus]]:
        return [({"team": "search"}, BUDGET), ({"team": "ads"}, BUDGET)]


class House:
    """A daemon as far as this route sees it."""

    def __init__(self) -> None:
        self.log, self.view, self.config = MemoryLog(), LogView(), CurbConfig()
        app = web.Application()
        add_routes(app, cast(Running, self))
        self.server = TestServer(app)

    def shards(self) -> list[Shard]:
        return [Shard()]

    async def tell(self, *alerts: Alert) -> None:
        for alert in alerts:
            await self.log.append([alert_message(alert)])
            self.view.alerts[alert.alert_id] = alert

    def reached(self) -> CurbConfig:
        return CurbConfig.model_validate({"http": {"port": self.server.port}})


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    async with house.server:
        yield house


async def test_an_alert_is_explained_with_the_budgets_as_they_stand(house: House) -> None:
    await house.tell(an_alert(), an_alert(revision=2, updated_at=T0 + 300))
    async with TestClient(house.server) as client, client.get("/v1/alerts/a1/explain") as answer:
        assert answer.status == 200
        found = msgspec.json.decode(await answer.read(), type=Explanation)
    assert [point.at for point in found.points] == [T0, T0 + 300]
    assert [line.budget.name for line in found.budgets] == ["q"]


@pytest.mark.parametrize("kept", [True, False])
async def test_what_is_not_there_is_404(house: House, kept: bool) -> None:
    if kept:  # by the daemon, and no more by the log
        house.view.alerts["a2"] = an_alert(alert_id="a2")
    async with TestClient(house.server) as client, client.get("/v1/alerts/a2/explain") as answer:
        assert answer.status == 404


async def test_the_command_asks_the_daemon(house: House) -> None:
    await house.tell(an_alert())
    assert (await from_daemon(house.reached(), "a1")).alert == an_alert()
    with pytest.raises(NoSuchAlertError, match="knows no alert"):
        await from_daemon(house.reached(), "a2")
    with pytest.raises(NoSuchAlertError, match="not the id"):
        await from_daemon(house.reached(), "../status")


async def test_a_daemon_that_is_not_there(house: House) -> None:
    config = house.reached()
    await house.server.close()
    with pytest.raises(NotReachableError):
        await from_daemon(config, "a1")


def test_without_a_daemon_the_log_is_read(tmp_path: Path, unused_tcp_port: int) -> None:
    path = tmp_path / "curb.yaml"
    path.write_text(f"log: {{directory: {tmp_path / 'data'}}}\nhttp: {{port: {unused_tcp_port}}}\n", encoding="utf-8")
    asyncio.run(_append(load_file(path), an_alert(reason="far more than its users explain")))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["explain", *arguments, "-c", str(path)])

    result = run("a1")
    assert result.exit_code == 0, result.output
    assert "reading the log" in result.output
    assert "api_key=k1" in result.output
    assert msgspec.json.decode(run("a1", "--json").stdout.strip().splitlines()[-1])["alert"]["alert_id"] == "a1"
    missing = run("a2")
    assert (missing.exit_code, "no alert a2" in missing.output) == (1, True)
    picture = run("a1", "--chart", str(tmp_path / "x.png"))
    assert (picture.exit_code, "fewer than two moments" in picture.output) == (1, True)


async def _append(config: CurbConfig, *alerts: Alert) -> None:
    log = wiring.make_log(config, WallClock())
    await log.open()
    try:
        await log.append([alert_message(alert) for alert in alerts])
    finally:
        await log.close()
