"""`curb verify-limits` on a proxy that enforces limits, late or not: what it says, and that no probe stays behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from curb.actions.levers.litellm_probe import LitellmProbe, ProbeError, Tried
from curb.cli.main import app
from curb.cli.verify_limits import try_all
from curb.stream.clock import ManualClock
from tests.fakes.litellm_proxy import ADMIN_KEY, MODEL, LitellmProxy

CALLS = 10


@contextmanager
def serving(proxy: LitellmProxy) -> Iterator[str]:
    """The proxy on a thread of its own: commands run a loop themselves."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = TestServer(proxy.app())
    try:
        asyncio.run_coroutine_threadsafe(server.start_server(), loop).result(10)
        yield str(server.make_url("/"))
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Hasty(ManualClock):
    """Sleeps end at once."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


@asynccontextmanager
async def probing(proxy: LitellmProxy, model: str = MODEL) -> AsyncIterator[LitellmProbe]:
    async with TestServer(proxy.app()) as server, aiohttp.ClientSession() as http:
        yield LitellmProbe(str(server.make_url("/")), ADMIN_KEY, model, http, Hasty(0.0), 2.0)


async def verdicts(proxy: LitellmProxy) -> dict[str, Tried]:
    async with probing(proxy) as probe:
        found = await try_all(probe, CALLS, 30.0)
    assert proxy.keys == {}
    return {each.limit: each for each in found}


async def test_limits_that_are_enforced() -> None:
    proxy = LitellmProxy()
    found = await verdicts(proxy)
    assert {limit: (each.verdict, each.passed, each.calls) for limit, each in found.items()} == {
        "requests": ("enforced", 3, 4),
        "tokens": ("enforced", 1, 2),
        "budget": ("enforced", 1, 2),
    }
    for body in proxy.made:
        assert body["models"] == [MODEL]
        assert body["duration"] == "1h"
        assert 0 < body["max_budget"] <= 0.05


@pytest.mark.parametrize("limit", ["rpm_limit", "tpm_limit", "max_budget"])
async def test_a_limit_that_is_not_enforced(limit: str) -> None:
    found = await verdicts(LitellmProxy(ignores={limit}))
    name = {"rpm_limit": "requests", "tpm_limit": "tokens", "max_budget": "budget"}[limit]
    assert {each.limit for each in found.values() if each.verdict != "enforced"} == {name}
    assert (found[name].verdict, found[name].passed) == ("not_enforced", CALLS)


async def test_workers_that_count_apart_are_late_by_a_count() -> None:
    requests = (await verdicts(LitellmProxy(workers=3)))["requests"]
    assert (requests.verdict, requests.passed, requests.allowed) == ("late", 9, 3)
    assert requests.why == "9 calls passed before the first was refused; 3 should have"


async def test_a_budget_that_is_added_up_later_is_late() -> None:
    assert (await verdicts(LitellmProxy(behind=4)))["budget"][2:6] == ("late", 6, 5, 1)


async def test_a_model_without_a_price_says_nothing_of_budgets() -> None:
    found = await verdicts(LitellmProxy(price_usd=0.0))
    assert found["budget"].verdict == "unknown"
    assert "give a model with a price" in found["budget"].why


async def test_calls_that_fail_for_another_reason_are_unknown() -> None:
    proxy = LitellmProxy()
    proxy.broken = (404, {"error": {"message": "no such model"}})
    found = await verdicts(proxy)
    assert {each.verdict for each in found.values()} == {"unknown"}
    assert found["requests"].why == f"a call of {MODEL} failed: HTTP 404 no such model"


async def test_a_key_whose_making_was_not_answered_is_deleted() -> None:
    proxy = LitellmProxy()
    proxy.faults.after.append("reset")
    await verdicts(proxy)
    assert len(proxy.made) == 3


async def test_a_key_is_deleted_when_the_command_is_interrupted() -> None:
    proxy = LitellmProxy(ignores={"rpm_limit"})
    async with probing(proxy) as probe:
        task = asyncio.create_task(probe.requests(10_000))
        while not any(sum(row["passed"]) for row in proxy.keys.values()):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(proxy.made) == 1
    assert proxy.keys == {}


async def test_a_key_that_cannot_be_deleted_is_named() -> None:
    proxy = LitellmProxy()
    async with probing(proxy) as probe:
        # The key and four calls, then nothing but errors.
        proxy.faults.next.extend(["ok"] * 5 + ["500"] * 10)
        with pytest.raises(ProbeError, match=r"the probe curb-probe-[0-9a-f]{12} could not be deleted"):
            await try_all(probe, CALLS, 30.0)


def test_the_command(tmp_path: Path) -> None:
    with serving(LitellmProxy(ignores={"tpm_limit"})) as url:
        config = tmp_path / "curb.yaml"
        action = {"kind": "litellm_limits", "name": "throttle", "base_url": url, "api_key": ADMIN_KEY}
        config.write_text(json.dumps({"actions": {"actions": [action]}}))

        def curb(*arguments: str, answer: str | None = None) -> Any:
            return CliRunner().invoke(app, ["verify-limits", "-c", str(config), *arguments], input=answer)

        told = curb("--model", MODEL, "--yes", "--json", "--wait", "1", "--calls", "5")
        lines = [json.loads(line) for line in told.stdout.splitlines()]
        assert told.exit_code == 3
        assert [(each["limit"], each["verdict"]) for each in lines] == [
            ("requests", "enforced"),
            ("tokens", "not_enforced"),
            ("budget", "enforced"),
        ]
        assert curb("--model", MODEL, answer="n\n").exit_code == 1
        assert curb("--model", MODEL, "--action", "other", "--yes").exit_code == 2
        table = curb("--model", MODEL, "--yes", "--wait", "1", "--calls", "5")
        assert "The probe keys are deleted." in table.output


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_key_is_deleted_when_the_process_is_stopped(tmp_path: Path, sent: signal.Signals) -> None:
    proxy, called = LitellmProxy(ignores={"rpm_limit", "tpm_limit", "max_budget"}), threading.Event()
    # The third key is that for the budget, whose calls are spread over minutes.
    proxy.on_call = lambda: called.set() if len(proxy.made) == 3 else None
    with serving(proxy) as url:
        config = tmp_path / "curb.yaml"
        action = {"kind": "litellm_limits", "name": "throttle", "base_url": url, "api_key": ADMIN_KEY}
        config.write_text(json.dumps({"actions": {"actions": [action]}}))
        options = ["--model", MODEL, "--yes", "--wait", "600"]
        # Tests in the background of a shell ignore SIGINT, and so would the process that they start.
        start = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        start += "runpy.run_module('curb', run_name='__main__')"
        curb = subprocess.Popen([sys.executable, "-c", start, "verify-limits", "-c", str(config), *options])
        try:
            # A busy machine is slow; the calls themselves would take the ten minutes of --wait.
            assert called.wait(120)
            curb.send_signal(sent)
            assert curb.wait(120) != 0
        finally:
            curb.kill()
            curb.wait()
    assert len(proxy.made) == 3
    assert proxy.keys == {}
