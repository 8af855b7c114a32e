"""Stories on a real Kubernetes API server: kills, refusals, objects made again and people, while Curb holds work.

Switched on like the other tests of Kubernetes; `CURB_TEST_STORIES` says how many are run. Whatever happens, each ends
restored, or as somebody else left it and told, and the ledger says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.chaos import Trouble
from tests.real.faulty_proxy import AFTER, BEFORE
from tests.real.kubernetes_cluster import LABELS, Cluster, RefusedError, a_cluster
from tests.real.kubernetes_world import CRITICAL, FIELDS, LEASE_S, World, a_world, freezable, until
from tests.real.operator_crds import OURS, PATH

pytestmark = pytest.mark.real

_REQUESTS = ("list 1", "read 1", "hold 1", "event 1", "read 2", "read 3", "give back 1", "event 2", "read 4")
_ENTRIES = ("planned", "applied", "ineffective", "restored", "sending", "sent")
#: Where something goes wrong, when, and what: every request and every entry that a plain story has.
ARROWS = [
    *itertools.product(_REQUESTS, ("before",), BEFORE),
    *itertools.product(_REQUESTS, ("after",), AFTER),
    *(("log", when, f"{when} append {entry}") for entry in _ENTRIES for when in ("before", "after")),
    *(("log", when, f"{when} commit") for when in ("before", "after")),
]
_VERSIONS = ("v1beta1", "v1beta2")
_WORKLOADS = f"{PATH}/workloads.kueue.x-k8s.io"
#: Seconds for which a server refuses everything: a token that is renewed late, an evening, a night.
_LASTING = (57.0, 600.0, 3600.0)
_STORIES = int(os.environ.get("CURB_TEST_STORIES", "24"))


@pytest.mark.parametrize("how", ["garbage", "empty", "no file"])
@pytest.mark.parametrize("who", ["daemon", "restarted", "reaper"])
async def test_a_token_that_is_bad_while_the_lease_ends(tmp_path: Path, how: str, who: str) -> None:
    """Two Deployments were left at 1 replica for good by this. Whoever comes after it gives them back."""
    async with a_world(tmp_path, "deployments") as world:
        await world.cluster.make("deployments", name="ranker", replicas=4)
        before = (await world.hold(2), 4)
        held = (await world.value(), await world.value("ranker"))
        assert (before, held) == ((3, 4), (0, 0))
        world.spoil_token(how)
        await world.wait(LEASE_S)
        lasts = [state.last for state in world.ledger().actions()]
        assert [(last.state, last.tries) for last in lasts] == [("applied", 1)] * 2
        said = {"garbage": "HTTP 401: Unauthorized", "empty": "HTTP 403: ", "no file": "no service account token"}
        assert all(said[how] in last.refusal for last in lasts)
        if who == "reaper":
            await world.reap()
        await world.rotate()
        if who == "restarted":
            world.kill()
        await world.clock.advance(57 + 60)
        if who == "reaper":  # the daemon is gone for good
            await world.reap()
        else:
            await world.live()
        assert (await world.value(), await world.value("ranker")) == before
        assert [state.last.state for state in world.ledger().actions()] == ["restored"] * 2


@pytest.mark.parametrize("who", ["daemon", "reaper", "restore-all"])
@pytest.mark.parametrize("resource", ["jobs", "deployments"])
async def test_another_of_the_same_name_that_is_marked_critical(tmp_path: Path, resource: str, who: str) -> None:
    """An undo un-suspended it and started three pods."""
    async with a_world(tmp_path, resource) as world:
        await world.hold()
        held = await world.value()
        await world.cluster.delete(resource)
        await world.cluster.make(resource, CRITICAL, **{world.field: held})
        made = await world.cluster.get(resource)
        if who == "daemon":
            await world.wait(LEASE_S)
        else:
            await world.clock.advance(LEASE_S)
            await world.reap(all_of_it=who == "restore-all")
        last = world.entries()[-1]
        assert last.state == "drift"
        assert "made again under the same name, it is another one" in last.detail
        await world.live()
        now = await world.cluster.get(resource)
        assert (now["spec"][world.field], now["metadata"]["uid"]) == (held, made["metadata"]["uid"])
        assert all(each["manager"] != "curb" for each in now["metadata"]["managedFields"])
        told = world.chat.history[-1][1]
        assert any("another one" in entry.detail for entry in told.ledger)
        pods = (await world.cluster.ask("GET", f"/api/v1/namespaces/{world.cluster.namespace}/pods"))["items"]
        assert not [each for each in pods if each["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]]


class Story:
    """`run` tells it, from a seed, with one thing that goes wrong at one arrow."""

    def __init__(self, world: World, arrow: tuple[str, str, str]) -> None:
        self.world, self.rng = world, world.trouble.rng
        self._cluster, self._resource = world.cluster, world.resource
        self._here = (world.cluster.namespace, world.cluster.name(world.resource))
        self._is_critical = False
        self._ids = itertools.count()
        if arrow[0] != "log":
            world.proxy.first = arrow
        self._chance = self.rng.choice([0.0, 0.05, 0.15])

    async def run(self) -> list[str]:
        await self.world.hold()
        self.world.proxy.chance = self._chance
        for _ in range(self.rng.randint(2, 6)):
            await self._something()
            await self.world.wait(self.rng.choice([1.0, 57.0, 300.0, LEASE_S]))
        await self.world.until_calm()
        return await self.world.verdict()

    async def _something(self) -> None:
        everybody = [self._fault, self._fault, self._person, self._person, self._operator, self._cluster_itself]
        await self.rng.choice(everybody)()

    async def _fault(self) -> None:
        """Of the daemon and of what lies between it and the server."""
        world = self.world
        match self.rng.choice(["kill", "spoil", "rotate", "rights", "freeze", "refuse", "clock"]):
            case "kill":
                world.kill()
            case "spoil":
                world.spoil_token(self.rng.choice(["garbage", "empty", "no file"]))
            case "rotate":
                await world.rotate()
            case "rights":
                await world.rights(given=self.rng.random() < 0.5)
            case "freeze":
                await world.freeze(on=self.rng.random() < 0.7)
            case "refuse":
                until_then = world.clock.steady() + self.rng.choice(_LASTING)
                world.proxy.lasting = (self.rng.choice(BEFORE), until_then)
            case "clock":
                world.clock.jump(self.rng.choice([-600.0, -90.0, 90.0, 600.0]))

    async def _operator(self) -> None:
        """Whoever runs Curb."""
        world = self.world
        match self.rng.choice(["undo", "restore all", "reap", "halt", "resume", "resolve", "fire"]):
            case "undo":
                if ids := [state.last.action_id for state in world.ledger().actions() if state.is_held]:
                    await world.command("undo", action_id=self.rng.choice(ids))
            case "restore all":
                await world.reap(all_of_it=True)
            case "reap":
                await world.reap()
            case "halt" | "resume" as kind:
                await world.command(kind)
            case "resolve":
                await world.tell(status="resolved", usd_per_hour=12.0, resolved_at=world.clock.now())
            case "fire":
                await world.tell()

    async def _person(self) -> None:
        """Whoever owns the work."""
        world, found = self.world, await self._cluster.get(self._resource)
        if found is None:
            return
        value = await world.value()
        match self.rng.choice(["edit", "edit", "back", "again", "delete", "move", "critical", "unmark", "touch"]):
            case "edit":
                await self._set(world.by_hand)
            case "back":
                await self._set(world.people[self._here])
            case "again":
                await self._make_again(value)
            case "delete":
                if self.rng.random() < 0.3:
                    await self._cluster.delete(self._resource)
                    world.people[self._here] = None
            case "move":
                await self._move(value)
            case "critical":
                await self._label({"curb.dev/criticality": "critical"})
                world.people[self._here], self._is_critical = value, True
            case "unmark":
                if not self._is_critical:
                    await self._label({"curb.dev/criticality": None})
            case "touch":  # somebody else writes, so that the version that Curb has read is old
                annotations = {"example.com/touched": str(next(self._ids))}
                await self._cluster.change(self._resource, {"metadata": {"annotations": annotations}})

    async def _set(self, value: Any) -> None:
        if value is not None:
            await self._cluster.change(self._resource, {"spec": {self.world.field: value}})
            self.world.people[self._here] = value

    async def _label(self, labels: dict[str, str | None]) -> None:
        await self._cluster.change(self._resource, {"metadata": {"labels": labels}})

    async def _make_again(self, value: Any) -> None:
        """As it is, marked or critical."""
        await self._cluster.delete(self._resource)
        labels = self.rng.choice([LABELS, CRITICAL])
        await self._cluster.make(self._resource, labels, **{self.world.field: value})
        self.world.people[self._here], self._is_critical = value, labels == CRITICAL

    async def _move(self, value: Any) -> None:
        """To another name, or to another namespace; with the values and marks that it has."""
        name, space = self.rng.choice([(f"{self._here[1]}-{next(self._ids)}", self._here[0]), self._other_space()])
        await self._cluster.delete(self._resource)
        self.world.people[self._here] = None
        with contextlib.suppress(RefusedError):  # it was moved there before
            labels = CRITICAL if self._is_critical else LABELS
            await self._cluster.make(self._resource, labels, name=name, namespace=space, **{self.world.field: value})
            self.world.people[space, name] = value

    def _other_space(self) -> tuple[str, str]:
        return self._here[1], self.world.elsewhere

    async def _cluster_itself(self) -> None:
        """Its autoscaler, and an operator that is upgraded."""
        if self._resource == "deployments" and await self._cluster.get("deployments") is not None:
            await self._autoscale()
        elif self._resource == "workloads":
            await serve(self._cluster, *self.rng.choice([_VERSIONS[:1], _VERSIONS[1:], _VERSIONS]))

    async def _autoscale(self) -> None:
        """Somebody starts one replica, and an autoscaler that wants two makes it two."""
        target = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": self._here[1]}}
        with contextlib.suppress(RefusedError):  # there is one already
            await self._cluster.make("horizontalpodautoscalers", {}, **target)
        await self._set(1)

        async def has_scaled() -> bool:
            return await self.world.value() == 2

        await until(has_scaled)
        self.world.people[self._here] = 2


async def serve(cluster: Cluster, *versions: str) -> None:
    """In which versions Kueue's Workload is served, where the cluster is ours; until the server does so."""
    cluster.versions["workloads"] = versions[0]

    async def is_so() -> bool:
        with contextlib.suppress(RefusedError):  # a controller was faster, or the server is slow
            found = await cluster.ask("GET", _WORKLOADS)
            for each in found["spec"]["versions"]:
                each["served"] = each["name"] in versions
            await cluster.ask("PUT", _WORKLOADS, found)
        return [version for version in _VERSIONS if await _is_served(cluster, version)] == sorted(versions)

    await until(is_so)


async def _is_served(cluster: Cluster, version: str) -> bool:
    try:
        listed = await cluster.ask("GET", f"/apis/kueue.x-k8s.io/{version}")
    except RefusedError:
        return False
    return "workloads" in [each["name"] for each in listed["resources"]]


async def is_ours(cluster: Cluster) -> bool:
    """Whether Kueue's definitions were brought by `make real`, so that tests may change them."""
    try:
        return OURS in (await cluster.ask("GET", _WORKLOADS))["metadata"].get("annotations", {})
    except RefusedError:
        return False


def arrows(seed: int) -> Iterator[tuple[str, str, str]]:
    """All of them in an order from a seed, again and again."""
    shuffled = random.Random(seed).sample(ARROWS, len(ARROWS))
    return itertools.cycle(shuffled)


@pytest.mark.timeout(14400)
async def test_stories_end_restored_or_as_somebody_else_left_it_and_told(tmp_path: Path) -> None:
    wrong, ends, met = [], Counter[str](), set[tuple[str, str, str]]()
    first = int(os.environ.get("CURB_TEST_STORIES_FROM", "0"))
    async with a_cluster() as around, freezable(around):
        kinds = [each for each in FIELDS if each != "workloads" or await is_ours(around)]
        for seed, arrow in zip(range(first + _STORIES), arrows(0), strict=False):
            if seed < first:
                continue
            trouble = Trouble(seed, arrow[2] if arrow[0] == "log" else "")
            async with asyncio.timeout(180), a_world(tmp_path / str(seed), kinds[seed % len(kinds)], trouble) as world:
                told = await Story(world, arrow).run()
                met |= world.proxy.seen.keys()
                met |= {("log", point.partition(" ")[0], point) for point, what in trouble.seen if what == "kill"}
                ends.update(state.last.state for state in world.ledger().actions())
            if world.resource == "workloads":
                await serve(around, *_VERSIONS)
            wrong += [f"story {seed} ({world.resource}, {arrow}): {why}" for why in told]
    left = sorted(set(ARROWS) - met)
    print(f"{_STORIES} stories, actions ended: {dict(ends)}, {len(left)} of {len(ARROWS)} arrows not met: {left}")
    assert not wrong, "\n".join(wrong)
