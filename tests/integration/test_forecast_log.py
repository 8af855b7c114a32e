"""`curb forecast` without files: the daemon when it answers, else its log."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest
from aiohttp import web
from rich.console import Console

from curb import wiring
from curb.cli.forecast import daemon_forecasts, run_forecast
from curb.cli.offline import NotReachableError
from curb.config.file import CurbConfig
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial
from tests.ports import free_port

#: 1 March 2025, midnight UTC.
START = 1740787200


@pytest.fixture
def config(tmp_path: Path) -> CurbConfig:
    http = {"host": "127.0.0.1", "port": free_port()}
    return CurbConfig.model_validate({"log": {"kind": "embedded", "directory": str(tmp_path / "log")}, "http": http})


async def fill(config: CurbConfig) -> None:
    log = wiring.make_log(config, WallClock())
    await log.open()
    try:
        for hour in range(10 * 24):
            part = SpendPartial(
                scope="team", tags={"team": "search"}, bucket_start=START + 3600 * hour, effective_cost=2.0, events=1
            )
            await log.append([Message(SPEND, encode(part), key=b"search")])
    finally:
        await log.close()


def test_without_a_daemon_the_log_answers(config: CurbConfig, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(fill(config))
    out = io.StringIO()
    code = run_forecast(
        config, None, scope="team", top=5, quick=False, chart=None, json_lines=True, console=Console(file=out)
    )
    (found,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert "no daemon answers" in out.getvalue().replace("\n", " ")
    assert found["tags"] == {"team": "search"}
    assert found["spent_usd"] == pytest.approx(480.0)
    assert found["forecast_usd"] == pytest.approx(31 * 48, rel=0.01)


async def test_a_daemon_is_asked_for_scope_and_number(config: CurbConfig) -> None:
    asked: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response({"scope": "team", "at": "now", "rows": []})

    app = web.Application()
    app.router.add_get("/v1/forecast", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        with pytest.raises(NotReachableError):
            await daemon_forecasts(config, "team", 3)
        await web.TCPSite(runner, config.http.host, config.http.port).start()
        assert (await daemon_forecasts(config, "team", 3))["at"] == "now"
        assert asked == [{"scope": "team", "limit": "3"}]
    finally:
        await runner.cleanup()
