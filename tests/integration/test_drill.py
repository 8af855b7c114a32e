"""`curb drill` on a gateway: a probe is throttled and given back, on the ledger, and nothing else is touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import TestServer

from curb.actions.lifecycle.reaper import Reaper
from curb.actions.target import TargetRate
from curb.cli.actions import opened
from curb.cli.drill import run_drill
from curb.config.file import CurbConfig, load_text
from curb.stream.log.topics import STATE
from curb.stream.records.spend import LedgerEntry
from tests.fakes.actions_house import ledger_messages
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin

_CONFIG = """
log: {{directory: {directory}}}
actions:
  actions:
    - {{kind: litellm_limits, name: limits, base_url: "{url}", api_key: {key}, timeout_s: 2}}
  limits: {{never_touch_targets: ["litellm/key/boss*"], never_touch: [{{team: pay}}]}}
"""
RATE = TargetRate("shave", 1.0)


class World(NamedTuple):
    gateway: LitellmAdmin
    config: CurbConfig

    async def drill(self, name: str = "limits", rate: TargetRate = RATE, **tags: str) -> int:
        return await run_drill(self.config, name, tags or {"api_key": "probe"}, rate, yes=True)

    async def entries(self) -> list[LedgerEntry]:
        async with opened(self.config) as of:
            found = [message async for message in of.log.scan("curb.actions")]
        log: Any = type("Read", (), {"of": lambda self, topic: found})()
        return [entry for entry in ledger_messages(log) if isinstance(entry, LedgerEntry)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    gateway = LitellmAdmin({"probe": {"rpm_limit": 60, "created_at": "monday"}, "boss-1": {"rpm_limit": 60}})
    async with TestServer(gateway.app()) as server:
        text = _CONFIG.format(directory=tmp_path / "data", url=server.make_url("/"), key=ADMIN_KEY)
        yield World(gateway, load_text(text))


async def test_a_probe_is_throttled_and_given_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert await world.drill() == 0
    assert [values for _, values in world.gateway.updates] == [{"rpm_limit": 1}, {"rpm_limit": 60}]
    said = capsys.readouterr().out
    assert "plan litellm/key/probe: rpm_limit 60 → rpm_limit 1" in " ".join(said.split())
    assert [line.split("done")[0].strip() for line in said.splitlines() if "done" in line] == [
        "throttle",
        "read back",
        "give back",
    ]
    assert "passed: the probe is as it was" in said
    assert [entry.state for entry in await world.entries()] == ["planned", "applied", "restored"]
    async with opened(world.config) as of:
        kept = [key for key, value in (await of.log.table(STATE)).items() if value]
    assert kept == []


async def test_what_must_not_be_touched_is_left_alone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert await world.drill(api_key="boss-1") == 1
    assert await world.drill(api_key="probe", team="pay") == 1
    assert await world.drill(api_key="nobody") == 1
    assert await world.drill("nothing") == 1
    assert await world.drill(rate=TargetRate("pause")) == 1
    assert world.gateway.updates == []
    said = capsys.readouterr().err
    assert all(
        part in said
        for part in ("never_touch_targets", "never_touch fits", "cannot be planned", "limits (block, shave)")
    )


async def test_what_the_drill_cannot_give_back_the_reaper_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.cli.drill._TRIES", 1)
    world.gateway.faults.next.extend(["ok"] * 4 + ["403"])  # the first call of the undo
    assert await world.drill() == 1
    last = (await world.entries())[-1]
    assert (last.state, last.ending, last.tries) == ("applied", True, 1)
    assert "HTTP 403: refused with 403" in last.refusal
    assert world.gateway.keys["probe"]["rpm_limit"] == 1
    world.gateway.faults.next.clear()
    async with opened(world.config) as of:
        assert await Reaper(of.log, of.clock, of.actions, grace_s=-120.0).once() == []
    assert world.gateway.keys["probe"]["rpm_limit"] == 60
