"""A daemon that holds one object of a real cluster, and all that may happen to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from curb.actions.ledger.ledger import Ledger
from curb.actions.lifecycle.reaper import Reaper
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.settings import ActionsSettings
from curb.actions.workloads.kubernetes import HELD, Kubernetes
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.records.spend import LedgerEntry
from tests.fakes.actions_house import NamedAction, NamedNotifier, ledger_messages
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.chaos import ChaoticLog, KilledError, Trouble
from tests.fakes.gateway import Channel
from tests.house.tree import ROOT
from tests.real.faulty_proxy import PATIENCE_S, Asked, FaultyProxy
from tests.real.kubernetes_cluster import LABELS, Cluster, RefusedError, a_cluster

LEASE_S = 600.0
CRITICAL = LABELS | {"curb.dev/criticality": "critical"}
#: Resource → field, what Curb sets, and what people set, which is never Curb's.
FIELDS: dict[str, tuple[str, Any, Any]] = {
    "jobs": ("suspend", True, False),
    "cronjobs": ("suspend", True, False),
    "deployments": ("replicas", 0, 2),
    "statefulsets": ("replicas", 0, 1),
    "horizontalpodautoscalers": ("maxReplicas", 2, 5),
    "workloads": ("active", False, True),
}
_RUNG = {"act": ["work"], "lease_minutes": LEASE_S / 60}
_NO_FREEZE = {"freeze_after": None, "freeze_after_failures": None}
_ROLE = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles"


def settings(verb: str) -> ActionsSettings:
    """One action at once, for ten minutes."""
    return ActionsSettings.model_validate(
        {
            "mode": "auto",
            "actions": [NamedAction(kind="x", name="work")],
            "notifiers": [NamedNotifier(kind="x", name="chat")],
            "routes": [{"notify": ["chat"], "ladder": [{"do": verb, **_RUNG}]}],
            "telling": {"group_wait_seconds": 0, "group_by": [], "inhibit": False, "repeat_hours": 0},
            "limits": {"max_percent_of_jobs": 100, "canary": False, **_NO_FREEZE},
        }
    )


class World:
    """The daemon reaches the cluster through `proxy`, as an account with the rights of deploy/kubernetes.

    `people` is what somebody left last, by namespace and name: what must be there in the end; None is gone.
    """

    def __init__(
        self,
        cluster: Cluster,
        http: aiohttp.ClientSession,
        account: Path,
        resource: str,
        trouble: Trouble | None = None,
    ) -> None:
        self.cluster, self._http, self.account, self.resource = cluster, http, account, resource
        self.trouble = trouble or quiet()
        self.log, self.clock = ChaoticLog(self.trouble), ManualClock(T0)
        self.chat = Channel(hook=self.trouble.at)
        self.proxy = FaultyProxy(cluster.url, cluster.tls, http, self.trouble.rng)
        self.trouble.steady = self.proxy.steady = self.clock.steady
        self.proxy.look, self.proxy.name_of_change = self._look, self._name_of_change
        self.field, self.held, self.by_hand = FIELDS[resource]
        self._settings = settings("shave_to_normal" if resource == "horizontalpodautoscalers" else "pause")
        #: Seconds for an answer: few where the proxy is silent now and then.
        self.patience_s = PATIENCE_S if trouble else 15.0
        self.url, self.revision, self._tokens = cluster.url, 0, 0
        self.elsewhere = f"{cluster.namespace}-2"
        self.people: dict[tuple[str, str], Any] = {}
        self.wrong: list[str] = []
        self.runner, self.is_open = self._new_runner(), False

    # --- the daemon and the reaper ---

    def _action(self) -> Kubernetes:
        where = {"url": self.url, "timeout_s": self.patience_s}
        spaces = [self.cluster.namespace, self.elsewhere]
        return self.cluster.action(
            self._http, self.clock, self.account, cluster=where, objects=[self.resource], namespaces=spaces
        )

    def _new_runner(self) -> ActionsRunner:
        return ActionsRunner(self.log, self.clock, self._settings, {"work": self._action()}, {"chat": self.chat})

    def kill(self) -> None:
        self.runner, self.is_open = self._new_runner(), False

    async def live(self, steps: int = 3) -> None:
        """A controller may write in between, so a step may meet a conflict."""
        for _ in range(steps):
            try:
                if not self.is_open:
                    await self.runner.open()
                    self.is_open = True
                await self._mortal(self.runner.step())
            except KilledError:
                self.kill()
            except TransientError:  # as `run` does when the log is out of reach
                with contextlib.suppress(TransientError):
                    await self.runner.close()
                self.is_open = False
            await self.clock.advance(1)

    async def wait(self, seconds: float, steps: int = 3) -> None:
        await self.clock.advance(seconds)
        await self.live(steps)

    async def _mortal(self, work: Any) -> None:
        """Until it is done, or the proxy ends it."""
        task = self.proxy.victim = asyncio.ensure_future(work)
        try:
            await task
        except asyncio.CancelledError:
            if not self.proxy.killed:
                raise
            self.proxy.killed = False
            raise KilledError from None
        finally:
            self.proxy.victim = None

    def reaper(self) -> Reaper:
        return Reaper(self.log, self.clock, {"work": self._action()}, grace_s=0)

    async def reap(self, *, all_of_it: bool = False) -> None:
        with contextlib.suppress(KilledError, TransientError):
            reaper = self.reaper()
            await self._mortal(reaper.restore_all("ana") if all_of_it else reaper.once())

    # --- what is said ---

    async def tell(self, **changes: Any) -> None:
        self.revision += 1
        tags = {"team": "search", "project": "p", "api_key": "k"}
        alert = an_alert(tags=tags, revision=self.revision, updated_at=self.clock.now(), **changes)
        await self.log.say(alert_message(alert))

    async def command(self, kind: str, **args: str) -> None:
        self.revision += 1
        await self.log.say(command_message(kind, self.clock.now(), id=f"{kind}-{self.revision}", **args))

    def entries(self) -> list[LedgerEntry]:
        return [entry for entry in ledger_messages(self.log) if isinstance(entry, LedgerEntry)]

    def ledger(self) -> Ledger:
        return Ledger(ledger_messages(self.log))

    @property
    def is_held(self) -> bool:
        return any(state.is_held for state in self.ledger().actions())

    async def value(self, name: str = "", namespace: str = "") -> Any:
        found = await self.cluster.get(self.resource, name=name, namespace=namespace)
        return None if found is None else self._value_of(found)

    def _value_of(self, found: Any) -> Any:
        unset = {"suspend": False, "active": True}.get(self.field)
        return found["spec"].get(self.field, unset)

    async def hold(self, count: int = 1) -> Any:
        """The object is there and held, and so are others that were made before; its value before."""
        await self.cluster.make(self.resource)
        before = await self.value()
        self.people[self.cluster.namespace, self.cluster.name(self.resource)] = before
        await self.tell()
        for _ in range(10):
            await self.wait(5)
            if sum(state.in_force for state in self.ledger().actions()) == count:
                break
        return before

    async def until_calm(self) -> None:
        """Nothing goes wrong any more, and nobody asks for anything."""
        self.proxy.calm()
        self.trouble.on = False
        self.clock.jump(self.clock.steady() - self.clock.now())
        await self.rights(given=True)
        await self.freeze(on=False)
        await self.rotate()
        await self.tell(status="resolved", usd_per_hour=12.0, resolved_at=self.clock.now())
        for _ in range(8):
            await self.wait(900)

    # --- what happens around it ---

    async def set_up(self) -> None:
        """An account with the least rights, in two namespaces; until the server knows it."""
        await self.cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": self.elsewhere}})
        accounts = f"/api/v1/namespaces/{self.cluster.namespace}/serviceaccounts"
        await self.cluster.ask("POST", accounts, {"metadata": {"name": "curb"}})
        role, _ = yaml.safe_load_all((ROOT / f"deploy/kubernetes/roles/{self.resource}.yaml").read_text())
        for space in (self.cluster.namespace, self.elsewhere):
            body = role | {"metadata": {"name": "curb"}}
            await self.cluster.ask("POST", _ROLE.format(space), body)
        await self.rights(given=True)
        await self.rotate()
        for space in (self.cluster.namespace, self.elsewhere):
            await until(partial(self._may_list, space))

    async def _may_list(self, space: str) -> bool:
        token = (self.account / "token").read_text()
        path = self.cluster.path(self.resource, space)
        headers = {"Authorization": f"Bearer {token}"}
        async with self._http.get(self.cluster.url + path, headers=headers, ssl=self.cluster.tls) as answer:
            return answer.status == 200

    async def rotate(self) -> None:
        """A new token in the file; the one before is worth nothing within seconds, for its Secret is gone."""
        self._tokens += 1
        base, name = f"/api/v1/namespaces/{self.cluster.namespace}", f"token-{self._tokens}"
        secret = await self.cluster.ask("POST", f"{base}/secrets", {"metadata": {"name": name}})
        bound = {"kind": "Secret", "apiVersion": "v1", "name": name, "uid": secret["metadata"]["uid"]}
        spec = {"spec": {"expirationSeconds": 3600, "boundObjectRef": bound}}
        made = await self.cluster.ask("POST", f"{base}/serviceaccounts/curb/token", spec)
        (self.account / "token.new").write_text(made["status"]["token"])
        (self.account / "token.new").rename(self.account / "token")
        if self._tokens > 1:
            await self.cluster.ask("DELETE", f"{base}/secrets/token-{self._tokens - 1}")

    def spoil_token(self, how: str) -> None:
        """Garbage, nothing, or no file."""
        file = self.account / "token"
        if how == "no file":
            file.unlink(missing_ok=True)
        else:
            file.write_text({"garbage": "x.y.z", "empty": ""}[how])

    async def rights(self, *, given: bool) -> None:
        for space in (self.cluster.namespace, self.elsewhere):
            bindings = _ROLE.format(space).removesuffix("s") + "bindings"
            subject = {"kind": "ServiceAccount", "name": "curb", "namespace": self.cluster.namespace}
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "curb"}
            body = {"metadata": {"name": "curb"}, "roleRef": role, "subjects": [subject]}
            with contextlib.suppress(RefusedError):  # it is so already
                await (
                    self.cluster.ask("POST", bindings, body)
                    if given
                    else self.cluster.ask("DELETE", f"{bindings}/curb")
                )

    async def freeze(self, *, on: bool) -> None:
        """An admission policy of the cluster denies every change by accounts, or does no longer."""
        labels = {"metadata": {"labels": {FREEZE: "yes" if on else None}}}
        for space in (self.cluster.namespace, self.elsewhere):
            await self.cluster.ask("PATCH", f"/api/v1/namespaces/{space}", labels)

    # --- what must hold ---

    def _name_of_change(self, patch: Any) -> str:
        if "spec" not in patch:
            return "say so"
        return "hold" if patch["spec"].get(self.field) == self.held else "give back"

    async def _look(self, asked: Asked) -> None:
        """Just before a change of Curb's is passed on."""
        name = asked.path.strip("/").removesuffix("/scale").rpartition("/")[2]
        space = asked.path.strip("/").split("/")[4]
        patch, found = json.loads(asked.body), await self.cluster.get(self.resource, name=name, namespace=space)
        if found is None or patch["metadata"].get("uid") != found["metadata"]["uid"]:
            if "uid" not in patch["metadata"]:
                self.wrong.append("a change that says nothing about which object it is")
            return
        target = f"{space}/{self.resource}/{name}"
        holders = [state.last for state in self.ledger().actions() if state.last.plan.target.endswith(target)]
        if not any(entry.plan.identity == found["metadata"]["uid"] for entry in holders):
            self.wrong.append(f"{target} is changed and not on the ledger")
        if found["metadata"]["labels"].get("curb.dev/criticality") == "critical":
            self.wrong.append(f"{target} is critical and changed")

    def _may_say_held(self, found: Any) -> bool:
        """Where Curb starts nothing, and where it was not let take the word back."""
        is_critical = found["metadata"]["labels"].get("curb.dev/criticality") == "critical"
        return is_critical or "say so" in self.proxy.failed

    async def verdict(self) -> list[str]:
        """What is wrong in the end."""
        wrong = [*self.wrong]
        if self.is_held:
            wrong.append(f"still {[state.last for state in self.ledger().actions() if state.is_held]}")
        for (space, name), left in self.people.items():
            found = await self.cluster.get(self.resource, name=name, namespace=space)
            value = None if found is None else self._value_of(found)
            if value != left:
                wrong.append(f"{self.resource} {name} is {value}, people left {left}")
            if found is not None and HELD in found["metadata"].get("annotations", {}) and not self._may_say_held(found):
                wrong.append(f"{self.resource} {name} says that Curb holds it")
        for state in self.ledger().actions():
            last = state.last
            said = [entry for _, notice in self.chat.history for entry in notice.ledger]
            if last.state == "drift" and not any((e.action_id, e.state) == (last.action_id, "drift") for e in said):
                wrong.append(f"nobody heard of the drift: {last.detail}")
        return wrong


#: Label of namespaces in which accounts may change nothing, and the policy that sees to it.
FREEZE = "curb.dev/test-freeze"
_BY_ACCOUNTS = "request.userInfo.username.startsWith('system:serviceaccount:')"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic{}"


@contextlib.asynccontextmanager
async def freezable(cluster: Cluster) -> Any:
    """With a policy that denies changes by accounts in namespaces with the label."""
    name = cluster.namespace
    every = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["*/*"]}
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [every]},
        "matchConditions": [{"name": "accounts", "expression": _BY_ACCOUNTS}],
        "validations": [{"expression": "false", "message": "nothing changes before the quarter is closed"}],
    }  # fmt: skip
    where = {"namespaceSelector": {"matchLabels": {FREEZE: "yes"}}}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": where}
    for kind, spec in (("ies", policy), ("ybindings", binding)):
        await cluster.ask("POST", _ADMISSION.format(kind), {"metadata": {"name": name}, "spec": spec})
    try:
        yield
    finally:
        for kind in ("ybindings", "ies"):
            await cluster.ask("DELETE", f"{_ADMISSION.format(kind)}/{name}")


def quiet() -> Trouble:
    """Nothing goes wrong by itself."""
    trouble = Trouble(0)
    trouble.on = False
    return trouble


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """An API server takes a moment until a new definition is in force."""
    for _ in range(200):
        if await look():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to be")


@contextlib.asynccontextmanager
async def a_world(directory: Path, resource: str, trouble: Trouble | None = None) -> AsyncIterator[World]:
    """On a cluster, with nothing in it yet."""
    async with a_cluster() as cluster, aiohttp.ClientSession(headers={"User-Agent": "curb"}) as http:
        world = World(cluster, http, cluster.copy_of_account(directory), resource, trouble)
        async with world.proxy.serve() as url:
            world.url = url
            world.kill()
            await world.set_up()
            yield world
        await cluster.ask("DELETE", f"/api/v1/namespaces/{world.elsewhere}")
