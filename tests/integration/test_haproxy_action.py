"""The HAProxy action over its fake: the running map and the file are two things, and its answers are read with care."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.action import DriftError
from curb.actions.levers.haproxy import AdminSocket, Config, Haproxy
from curb.actions.target import TargetRate
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.haproxy import MAP, HaproxyBench

BLOCK = TargetRate("block")


class Setup(HaproxyBench):
    """A bench whose action is built; `plan` asks for the one plan of a key."""

    def build(self, address: str, **changes: Any) -> None:
        self.address = address
        self.action: Haproxy = Config.model_validate(self.config(address) | changes).build(None)  # type: ignore[arg-type]

    async def plan(self, key: str = "k2", rate: TargetRate = NORMAL) -> Plan:
        (plan,) = await self.action.plan(an_alert(tags={"api_key": key}), rate)
        return plan


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    bench = Setup()
    async with bench.serve() as address:
        bench.build(address)
        yield bench


async def test_plans_say_what_changes_and_hold_no_key(setup: Setup) -> None:
    shave, lower, block = await setup.plan(), await setup.plan("k1"), await setup.plan("k2", BLOCK)
    assert shave.summary == "limit k2, requests per minute: runtime none → 20, file none → 20"
    assert (lower.before, lower.after) == ({"runtime": 600, "file": 600}, {"runtime": 20, "file": 20})
    assert (block.before, block.after) == ({"runtime": None, "file": None}, {"runtime": 0, "file": 0})
    assert {plan.target for plan in (shave, block)} == {"haproxy/edge/k2"}
    assert setup.secret not in repr((shave, lower, block))


async def test_the_default_of_the_gateway_counts_as_the_limit_found(setup: Setup) -> None:
    setup.build(setup.address, default_rpm=20)
    assert not await setup.action.plan(an_alert(tags={"api_key": "k2"}), NORMAL)
    setup.build(setup.address, default_rpm=21)
    assert (await setup.plan()).after == {"runtime": 20, "file": 20}


async def test_a_file_that_says_less_than_the_running_map_is_not_raised(setup: Setup) -> None:
    setup.path.write_text(MAP.replace("600", "7"))
    plan = await setup.plan("k1")
    assert (plan.before, plan.after) == ({"runtime": 600}, {"runtime": 20})
    await setup.action.apply(plan)
    await setup.action.undo(plan, None)
    assert setup.fake.entries[0] == ("sk-one", "600")
    assert setup.path.read_text() == MAP.replace("600", "7")


async def test_a_restart_that_lost_the_running_map_is_drift_of_nothing(setup: Setup) -> None:
    """It reads the file again, which holds the limit: the same as before the restart."""
    plan = await setup.plan()
    await setup.action.apply(plan)
    lines = setup.path.read_text().splitlines()
    assert lines[0] == f"{setup.secret} 20"
    setup.fake.entries = [(setup.secret, "20")]
    assert (await setup.action.verify(plan)).in_force


async def test_a_limit_that_was_changed_while_running_is_left_and_the_file_restored(setup: Setup) -> None:
    plan = await setup.plan()
    await setup.action.apply(plan)
    setup.fake.entries = [(key, "11" if value == "20" else value) for key, value in setup.fake.entries]
    with pytest.raises(DriftError) as caught:
        await setup.action.undo(plan, None)
    assert caught.value.found == {"runtime": 11}
    assert setup.path.read_text() == MAP


async def test_refused_requests_are_those_since_it_was_applied(setup: Setup) -> None:
    setup.fake.refused[setup.secret] = 40
    plan = await setup.plan()
    await setup.action.apply(plan)
    setup.fake.refused[setup.secret] = 45
    assert (await setup.action.verify(plan)).rejected == 5
    setup.build(setup.address, table="")
    assert (await setup.action.verify(plan)).rejected is None


@pytest.mark.parametrize("value", ["many", "-1", "007", "1.5", ""])
async def test_a_limit_that_is_no_plain_number_is_refused(setup: Setup, value: str) -> None:
    setup.fake.entries = [("sk-one", value)]
    with pytest.raises(PermanentError, match="must be a plain number"):
        await setup.plan("k1")


async def test_two_entries_of_one_key_are_refused(setup: Setup) -> None:
    setup.fake.entries.append(("sk-one", "5"))
    with pytest.raises(PermanentError, match="2 entries of one key"):
        await setup.plan("k1")


async def test_a_map_that_is_not_there_is_an_error_in_haproxys_words(setup: Setup) -> None:
    setup.build(setup.address, map="/etc/other.map")
    with pytest.raises(PermanentError, match="show map: Unknown map identifier"):
        await setup.plan()


async def test_no_haproxy_is_a_transient_error_before_anything_is_changed(tmp_path: Path) -> None:
    (tmp_path / "limits.map").write_text(MAP)
    bench = Setup()
    bench.directory = tmp_path
    bench.build(str(tmp_path / "admin.sock"))
    plan = Plan(action="edge", target="haproxy/edge/k2", summary="", before={"file": None}, after={"file": 20})
    with pytest.raises(TransientError, match="show table: FileNotFoundError"):
        await bench.action.apply(plan)
    assert (tmp_path / "limits.map").read_text() == MAP


async def test_the_socket_may_be_a_tcp_port() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"show map /etc/limits.map\n"
        writer.write(b"0x1 a 5\n\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await AdminSocket(f"127.0.0.1:{port}", 5.0).show("/etc/limits.map", "a") == "5"


@pytest.mark.parametrize(
    ("key", "value"),
    [("socket", "admin.sock"), ("map_file", "/etc/my limits.map"), ("map", "#0; quit"), ("table", "a b")],
)
def test_what_would_need_quoting_is_refused_by_the_configuration(key: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(Setup().config("/run/haproxy/admin.sock") | {key: value})
