"""A real HAProxy under load, set up by the files of the documentation: limits start, hold, stop and leave nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from curb.actions.levers import haproxy
from curb.actions.levers.haproxy import AdminSocket
from curb.actions.target import TargetRate
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import an_alert
from tests.ports import free_port
from tests.real.gateway_load import load, model_server, running, success, with_values
from tests.require import require

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

logger = logging.getLogger(__name__)

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "haproxy"
HOW_TO = "no binary: set CURB_TEST_HAPROXY=/path/to/haproxy, or install it (Debian and Ubuntu: the package haproxy)"
#: Requests a second.
NORMAL = {"search": 4.0, "rank": 2.0, "chat": 3.0, "runaway": 2.0}
BURNING = NORMAL | {"runaway": 25.0}
LEGITIMATE = {key: rate for key, rate in NORMAL.items() if key != "runaway"}
SHAVE, BLOCK = TargetRate("shave", requests_per_minute=60 * NORMAL["runaway"]), TargetRate("block")


class Gateway:
    """An HAProxy, its map file, and the action on both."""

    def __init__(self, binary: str, directory: Path, models: int) -> None:
        port, self._directory = free_port(), directory
        self.url, self.map = f"http://127.0.0.1:{port}", directory / "limits.map"
        self.socket = str(directory / "admin.sock")
        shutil.copy(EXAMPLES / "limits.map", self.map)
        values = {
            "/run/haproxy/admin.sock": self.socket,
            "/etc/haproxy/limits.map": str(self.map),
            "bind :8080": f"bind 127.0.0.1:{port}",
            "127.0.0.1:9000": f"127.0.0.1:{models}",
        }
        config = directory / "haproxy.cfg"
        config.write_text(with_values(EXAMPLES / "haproxy.cfg", values), encoding="utf-8")
        self._command = [binary, "-db", "-f", str(config)]
        settings: dict[str, Any] = {"kind": "haproxy", "name": "edge", "socket": self.socket, "map_file": self.map}
        self.action = haproxy.Config.model_validate(settings | {"table": "keys"}).build(None)  # type: ignore[arg-type]

    def run(self) -> contextlib.AbstractAsyncContextManager[Any]:
        return running("haproxy", self._command, self.url, self._directory)

    async def runtime(self, *keys: str) -> list[str | None]:
        return [await AdminSocket(self.socket, 10).show(str(self.map), key) for key in keys]

    async def planned(self, key: str, rate: TargetRate) -> Plan:
        (plan,) = await self.action.plan(an_alert(tags={"api_key": key}), rate)
        return plan

    async def applied(self, key: str, rate: TargetRate) -> Plan:
        plan = await self.planned(key, rate)
        await self.action.apply(plan)
        assert (await self.action.verify(plan)).in_force
        return plan


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    named = os.environ.get("CURB_TEST_HAPROXY", "")
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    binary = shutil.which(named or "haproxy", path=search)
    if binary is None:
        require("haproxy", f"{named} is no program" if named else HOW_TO)
    async with model_server() as models:
        yield Gateway(binary, tmp_path, models)


async def test_a_runaway_key_is_shaved_to_its_normal_rate_and_nobody_else_notices(
    gateway: Gateway,
) -> None:
    async with gateway.run():
        found = gateway.map.read_bytes()
        before = await load(gateway.url, BURNING, 3)
        assert success(before, BURNING) == 1.0

        plan = await gateway.applied("runaway", SHAVE)
        during = await load(gateway.url, BURNING, 25)
        logger.info("legitimate %.4f, runaway %s", success(during, LEGITIMATE), dict(during["runaway"]))
        assert success(during, LEGITIMATE) >= 0.99
        assert set(during["runaway"]) == {200, 429}
        # "rank" has the pace that is normal for the runaway key. What that one made in the ten seconds before the
        # limit counts against it, so it gets less at first.
        normal = during["rank"].total()
        assert 0.4 * normal <= during["runaway"][200] <= 1.3 * normal
        effect = await gateway.action.verify(plan)
        assert effect.rejected == during["runaway"][429]

        await gateway.action.undo(plan, None)
        assert gateway.map.read_bytes() == found
        assert await gateway.runtime("runaway", "batch-reports") == [None, "600"]
        after = await load(gateway.url, BURNING, 3)
        assert success(after, BURNING) == 1.0


async def test_several_keys_are_limited_and_blocked_at_once_and_come_back_in_any_order(gateway: Gateway) -> None:
    async with gateway.run():
        found = gateway.map.read_bytes()
        plans = [
            await gateway.applied("runaway", SHAVE),
            await gateway.applied("stolen", BLOCK),
            await gateway.applied("batch-reports", SHAVE),
        ]
        assert await gateway.runtime("runaway", "stolen", "batch-reports") == ["120", "0", "120"]
        answers = await load(gateway.url, LEGITIMATE | {"runaway": 20.0, "stolen": 5.0}, 3)
        assert success(answers, LEGITIMATE) == 1.0
        assert set(answers["stolen"]) == {429}
        assert set(answers["runaway"]) == {200, 429}
        for plan in (plans[1], plans[0], plans[2]):
            assert gateway.map.read_bytes() != found
            await gateway.action.undo(plan, None)
        assert gateway.map.read_bytes() == found
        assert await gateway.runtime("runaway", "stolen", "batch-reports") == [None, None, "600"]


async def test_a_limit_outlives_a_restart_of_haproxy_and_is_still_taken_back(gateway: Gateway) -> None:
    found = gateway.map.read_bytes()
    async with gateway.run():
        plan = await gateway.applied("stolen", BLOCK)
    async with gateway.run():
        assert (await gateway.action.verify(plan)).in_force
        answers = await load(gateway.url, {"stolen": 10.0}, 1)
        assert set(answers["stolen"]) == {429}
        await gateway.action.undo(plan, None)
        answers = await load(gateway.url, {"stolen": 10.0}, 1)
        assert set(answers["stolen"]) == {200}
    assert gateway.map.read_bytes() == found


async def test_a_map_that_haproxy_does_not_use_is_an_error_in_its_own_words(gateway: Gateway) -> None:
    async with gateway.run():
        settings = {"kind": "haproxy", "name": "edge", "socket": gateway.socket, "map_file": gateway.map}
        action = haproxy.Config.model_validate(settings | {"map": "/etc/other.map"}).build(None)  # type: ignore[arg-type]
        with pytest.raises(PermanentError, match="show map: Unknown map identifier"):
            await action.plan(an_alert(), SHAVE)
