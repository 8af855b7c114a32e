"""`curb exposure` beyond LiteLLM: what Envoy, HAProxy, Kong and an HTTP API enforce, as it is and as it changes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curb.actions.action import ReadsLimits
from curb.actions.target import TargetRate
from curb.cli.main import app
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode, encode_lines
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, SPEND
from curb.stream.records.spend import SpendPartial
from curb.testing.actions import ActionBench, opened
from curb.views.exposure import KeyUse, of_subjects
from tests.fakes.alerts import a_plan, an_entry
from tests.fakes.envoy import EnvoyBench
from tests.fakes.haproxy import HaproxyBench
from tests.fakes.http_gateway import HttpBench
from tests.fakes.kong import KongBench, plugin
from tests.fakes.spend import T0

#: Bench → subject → requests of an hour; None is no limit, and a text a subject that is not known.
FOUND: list[tuple[type[ActionBench], dict[str, float | str | None]]] = [
    (EnvoyBench, {"k1": 36_000.0, "k2": None, "nightly": 18_000.0, "nobody": "does not know"}),
    (HaproxyBench, {"k1": 36_000.0, "k2": None, "nightly": 18_000.0, "nobody": "does not know"}),
    (KongBench, {"search": 5_000.0, "ads & co": None, "nobody": "Not found"}),
    (HttpBench, {"search": 36_000.0, "a/b ü": None, "ads": 5_400.0, "nobody": "no such team"}),
]


@pytest.mark.parametrize(("bench", "expected"), FOUND, ids=[bench.__name__ for bench, _ in FOUND])
async def test_what_is_enforced_is_read(bench: type[ActionBench], expected: dict[str, float | str | None]) -> None:
    async with opened(bench) as of:
        assert isinstance(of.action, ReadsLimits)
        (tag,) = of.action.subject_tags
        world = of.bench.world()
        found = await of.action.enforced([{tag: name} for name in expected])
        of.unchanged(world, "enforced() changed something")
        for (name, wanted), each in zip(expected.items(), found, strict=True):
            if isinstance(wanted, str):
                assert wanted in each.unknown, name
            else:
                assert (each.requests_per_hour, each.unknown) == (wanted, ""), name
        alert = of.bench.cases[0][0]
        for plan in await of.action.plan(alert, TargetRate("shave", 60.0, standing=True)):
            await of.action.apply(plan)
        (after,) = await of.action.enforced([alert.tags])
        assert after.requests_per_hour == pytest.approx(3600.0)


async def test_a_blocked_subject_and_a_kong_plugin_for_everything() -> None:
    async with opened(EnvoyBench) as of:
        (plan,) = await of.action.plan(*of.bench.cases[2])
        await of.action.apply(plan)
        assert isinstance(of.action, ReadsLimits)
        assert (await of.action.enforced([{"api_key": "nightly"}]))[0].requests_per_hour == 0.0
    async with opened(KongBench, nodes=2) as of:
        assert isinstance(of.bench, KongBench)
        of.bench.fake.plugins["p9"] = plugin("p9", minute=30)
        assert isinstance(of.action, ReadsLimits)
        # Two nodes count each for itself; on the service s1 its own plugin lets 1,900 an hour pass.
        found = await of.action.enforced([{"team": "ads & co"}])
        assert found[0].requests_per_hour == 3600.0


def use(usd: float, requests: int) -> KeyUse:
    found = KeyUse()
    found.add(SpendPartial(scope="s", tags={}, bucket_start=T0, effective_cost=usd, events=1, requests=requests))
    return found


async def test_dollars_follow_from_the_price_of_a_request() -> None:
    async with opened(HaproxyBench) as of:
        assert isinstance(of.action, ReadsLimits)
        uses = {
            ("k1",): use(4.0, 100),
            ("k2",): use(1.0, 10),
            ("nobody",): use(1.0, 1),
            ("nightly",): KeyUse(),
            (): use(6.0, 111),
        }
        found = {each.key.id: each for each in await of_subjects("edge", of.action, uses)}
        assert [(found[key].bound, found[key].usd) for key in ("k1", "k2")] == [
            ("limited", pytest.approx(36_000 * 0.04)),
            ("none", None),
        ]
        assert found["nightly"].why == "requests, at the mean price of all keys"
        assert (found["nobody"].bound, found["nobody"].gateway) == ("unknown", "edge")


async def test_the_command_ranks_the_keys_of_haproxy_and_names_ceilings(tmp_path: Path) -> None:
    async with opened(HaproxyBench) as of:
        assert isinstance(of.bench, HaproxyBench)
        entry = of.bench.config(str(of.bench.directory / "admin.sock")) | {"timeout_s": 30}
        config = {"log": {"directory": str(tmp_path / "data")}, "actions": {"actions": [entry]}}
        path = tmp_path / "curb.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        log = EmbeddedLog(tmp_path / "data", ManualClock(T0))
        await log.open()
        parts = [
            SpendPartial(
                scope="key",
                tags={"team": "ads", "project": "p", "api_key": key},
                bucket_start=T0,
                effective_cost=1.0,
                events=1,
                requests=10,
            )
            for key in ("k1", "k2")
        ]
        await log.append([Message(SPEND, encode_lines(parts), partition=0)])
        ceiling = an_entry(state="effective", plan=a_plan(action="edge"), tags={"api_key": "k1"}, standing="keys")
        await log.append([Message(ACTIONS, encode(ceiling))])
        await log.close()
        run = CliRunner(env={"COLUMNS": "200"}).invoke
        shown = await asyncio.to_thread(run, app, ["exposure", "-c", str(path)])
        assert shown.exit_code == 0, shown.output
        lines = [line for line in shown.output.splitlines() if "k1" in line or "k2" in line]
        assert "no limit" in lines[0]
        assert "$3,600.00" in lines[1]
        assert "requests_per_hour 36,000, ceiling by Curb" in lines[1]
        assert "1 of 2 keys have no limit on dollars" in shown.output
