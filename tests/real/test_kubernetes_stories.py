"""Stories on a real Kubernetes API server: kills, refusals, objects made again and people, while Curb holds work.

Switched on like the other tests of Kubernetes; `CURB_TEST_STORIES` says how many are run. Whatever happens, each ends
restored, or as somebody else left it, and the ledger says so.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from curb.actions.ledger.ledger import Ledger
from curb.actions.lifecycle.reaper import Reaper
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.settings import ActionsSettings
from curb.stream.clock import ManualClock
from curb.stream.records.spend import LedgerEntry
from tests.fakes.actions_house import NamedAction, NamedNotifier, ledger_messages
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.gateway import Channel
from tests.fakes.memory_log import MemoryLog
from tests.real.kubernetes_cluster import LABELS, Cluster, a_cluster

pytestmark = pytest.mark.real

LEASE_S = 600.0
CRITICAL = LABELS | {"curb.dev/criticality": "critical"}
#: Resource → field, and the values that people set, which are never Curb's.
FIELDS: dict[str, tuple[str, Any]] = {
    "jobs": ("suspend", None),
    "cronjobs": ("suspend", None),
    "deployments": ("replicas", 2),
    "statefulsets": ("replicas", 1),
}
SETTINGS = ActionsSettings.model_validate(
    {
        "mode": "auto",
        "actions": [NamedAction(kind="x", name="work")],
        "notifiers": [NamedNotifier(kind="x", name="chat")],
        "routes": [{"notify": ["chat"], "ladder": [{"do": "pause", "act": ["work"], "lease_minutes": LEASE_S / 60}]}],
        "telling": {"group_wait_seconds": 0, "group_by": [], "inhibit": False, "repeat_hours": 0},
        "limits": {"max_percent_of_jobs": 100, "freeze_after": None, "freeze_after_failures": None},
    }
)


class World:
    """A daemon that may be killed, on a log, and one object of the cluster that it holds."""

    def __init__(self, cluster: Cluster, http: aiohttp.ClientSession, account: Path, resource: str) -> None:
        self.cluster, self._http, self.account, self.resource = cluster, http, account, resource
        self.log, self.clock, self.chat = MemoryLog(), ManualClock(T0), Channel()
        self._good = (account / "token").read_text()
        self.revision = 0
        self.runner = self._new_runner()

    def _new_runner(self) -> ActionsRunner:
        actions = {"work": self.cluster.action(self._http, self.clock, self.account, objects=[self.resource])}
        return ActionsRunner(self.log, self.clock, SETTINGS, actions, {"chat": self.chat})

    async def kill(self) -> None:
        self.runner = self._new_runner()
        await self.runner.open()

    async def reap(self) -> None:
        action = self.cluster.action(self._http, self.clock, self.account, objects=[self.resource])
        await Reaper(self.log, self.clock, {"work": action}, grace_s=0).once()

    def token(self, *, good: bool) -> None:
        (self.account / "token").write_text(self._good if good else "x.y.z")

    async def tell(self, **changes: Any) -> None:
        self.revision += 1
        tags = {"team": "search", "project": "p", "api_key": "k"}
        alert = an_alert(tags=tags, revision=self.revision, updated_at=self.clock.now(), **changes)
        await self.log.append([alert_message(alert)])

    async def wait(self, seconds: float, steps: int = 3) -> None:
        """A controller may write in between, so a step may meet a conflict."""
        await self.clock.advance(seconds)
        for _ in range(steps):
            await self.runner.step()
            await self.clock.advance(1)

    async def field(self) -> Any:
        found = await self.cluster.get(self.resource)
        return None if found is None else found["spec"].get(FIELDS[self.resource][0])

    def entries(self) -> list[LedgerEntry]:
        return [entry for entry in ledger_messages(self.log) if isinstance(entry, LedgerEntry)]

    async def hold(self) -> Any:
        """The object is there and held; the value before."""
        await self.cluster.make(self.resource)
        before = await self.field()
        await self.runner.open()
        await self.tell()
        for _ in range(10):
            await self.wait(5)
            if any(entry.state == "applied" for entry in self.entries()):
                break
        return before


async def until_calm(world: World) -> None:
    """Nothing goes wrong any more, and nobody asks for anything."""
    world.token(good=True)
    await world.tell(status="resolved", usd_per_hour=12.0, resolved_at=world.clock.now())
    for _ in range(8):
        await world.wait(900)


async def test_a_token_that_is_bad_for_a_minute_while_the_lease_ends(tmp_path: Path) -> None:
    async with a_cluster() as cluster, aiohttp.ClientSession() as http:
        world = World(cluster, http, cluster.copy_of_account(tmp_path / "account"), "deployments")
        before = await world.hold()
        assert (before, await world.field()) == (3, 0)
        world.token(good=False)
        await world.wait(LEASE_S)
        last = world.entries()[-1]
        assert (last.state, last.tries, await world.field()) == ("applied", 1, 0)
        assert "HTTP 401: Unauthorized" in last.refusal
        world.token(good=True)
        await world.wait(57)
        await world.wait(60)
        assert world.entries()[-1].state == "restored"
        assert await world.field() == before


async def test_another_job_of_the_same_name_that_is_marked_critical(tmp_path: Path) -> None:
    async with a_cluster() as cluster, aiohttp.ClientSession() as http:
        world = World(cluster, http, cluster.copy_of_account(tmp_path / "account"), "jobs")
        await world.hold()
        assert await world.field() is True
        await cluster.delete("jobs")
        await cluster.make("jobs", CRITICAL, suspend=True)
        made = await cluster.get("jobs")
        await world.wait(LEASE_S)
        last = world.entries()[-1]
        assert last.state == "drift"
        assert "made again under the same name, it is another one" in last.detail
        assert await world.field() is True
        assert (await cluster.get("jobs"))["metadata"]["uid"] == made["metadata"]["uid"]
        told = world.chat.history[-1][1]
        assert any("another one" in entry.detail for entry in told.ledger)


async def a_story(seed: int, world: World) -> str:
    """What is wrong in the end, or ""."""
    rng, cluster, resource = random.Random(seed), world.cluster, world.resource
    before, since = await world.hold(), "nobody was there"
    field, by_hand = FIELDS[resource]
    for _ in range(rng.randint(2, 6)):
        what = rng.choice(["kill", "bad token", "good token", "again", "edit", "delete", "undo", "reap", "critical"])
        if what == "kill":
            await world.kill()
        elif what.endswith("token"):
            world.token(good=what == "good token")
        elif what == "again" and await cluster.get(resource) is not None:
            held = await world.field()
            await cluster.delete(resource)
            await cluster.make(resource, rng.choice([LABELS, CRITICAL]), **{field: held})
            since, before = "made again", held
        elif what == "edit" and by_hand is not None and await cluster.get(resource) is not None:
            await cluster.change(resource, {"spec": {field: by_hand}})
            since, before = "edited", by_hand
        elif what == "delete" and rng.random() < 0.3 and await cluster.get(resource) is not None:
            await cluster.delete(resource)
            since, before = "deleted", None
        elif what == "undo":
            ids = [entry.action_id for entry in world.entries() if entry.plan.target]
            if ids:
                await world.log.append([command_message("undo", world.clock.now(), id=f"u{seed}", action_id=ids[0])])
        elif what == "reap":
            await world.reap()
        await world.wait(rng.choice([1.0, 57.0, 300.0, LEASE_S]))
    await until_calm(world)
    found = await world.field()
    held = [state.last.state for state in Ledger(ledger_messages(world.log)).actions() if state.is_held]
    if held:
        return f"still {held}"
    return "" if found == before else f"{resource} is {found}, people left {before} ({since})"


@pytest.mark.timeout(7200)
async def test_stories_end_restored_or_as_somebody_else_left_it(tmp_path: Path) -> None:
    wrong = []
    async with aiohttp.ClientSession() as http:
        for seed in range(int(os.environ.get("CURB_TEST_STORIES", "20"))):
            resource = list(FIELDS)[seed % len(FIELDS)]
            async with a_cluster() as cluster:
                world = World(cluster, http, cluster.copy_of_account(tmp_path / str(seed)), resource)
                async with asyncio.timeout(120):
                    why = await a_story(seed, world)
            if why:
                wrong.append(f"story {seed}: {why}")
    assert not wrong, "\n".join(wrong)
