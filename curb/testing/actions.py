"""The promises of actions, as tests that run on any kind: write a bench for the kind, then run every promise on it.

    @pytest.mark.parametrize("promise", ACTION_PROMISES)
    async def test_my_kind(promise: str) -> None:
        await ACTION_PROMISES[promise](MyBench)

A broken promise is an AssertionError that names the kind and what went wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler
from pydantic import ValidationError

from curb.actions.action import (
    Action,
    ActionConfig,
    ActionContext,
    DriftError,
    Effect,
    GoneError,
    Outcome,
    RateConfig,
    open_action,
)
from curb.actions.kinds import ACTIONS
from curb.actions.policy.guards import raises_a_limit
from curb.actions.target import TargetRate
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Alert, Plan
from curb.testing.alerts import T0
from curb.testing.promises import hold, raises
from curb.testing.server import FAULTS, REFUSALS, RETRY_AFTER_S, Faults

#: A busy machine is no fault: only a call that shall time out does so soon.
_PATIENT_S = 30
CALLS = ("plan", "apply", "verify", "undo")


class ActionBench(ABC):
    """A kind of action, and its other side on this machine. A promise makes a new bench for each of its runs."""

    #: A secret that `config` holds; it must be in no error and no printed configuration.
    secret: str = ""
    #: What a 429 of the other side asks for, in seconds; None where it cannot say so.
    retry_after_s: float | None = RETRY_AFTER_S
    faults: Faults
    #: What to plan for; each gives at least one plan, on targets of its own. The first is repeated for faults.
    cases: Sequence[tuple[Alert, TargetRate]]

    @abstractmethod
    def serve(self) -> AbstractAsyncContextManager[str]:
        """Start the other side; its address."""

    @abstractmethod
    def config(self, address: str) -> dict[str, Any]:
        """The entry of `actions.actions` for the other side at `address`; a `timeout_s` in it is a fraction of one."""

    @abstractmethod
    def world(self) -> Any:
        """All that the action could change, as plain data that later changes leave as it is."""

    @abstractmethod
    def change_by_hand(self) -> None:
        """A person sets every value that an action may have set to another one."""

    def recreate(self) -> bool:
        """Somebody deletes everything that an action changed, and makes another of the same name with the same values.

        False where the other side has nothing that distinguishes the two.
        """
        return False

    def delete(self) -> bool:
        """Somebody deletes everything that an action changed; False where nothing can be deleted."""
        return False

    @abstractmethod
    def about_nothing_known(self) -> Alert:
        """An alert about a subject that the other side does not know."""

    @abstractmethod
    def called(self) -> set[str]:
        """What was called so far, in the words of the action's `permissions`."""


class HttpActionBench(ActionBench):
    """A bench whose other side is an HTTP server; `permissions` are the methods and paths of its routes."""

    def __init__(self) -> None:
        self.faults = Faults()
        self._called: set[str] = set()

    @abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """The routes of the other side, such as web.get("/keys/{key}", self.read)."""

    def called(self) -> set[str]:
        return set(self._called)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            if (resource := request.match_info.route.resource) is not None:
                self._called.add(f"{request.method} {resource.canonical}")
            return await handler(request)

        app = web.Application(middlewares=[self.faults.middleware(), note])
        app.add_routes(self.routes())
        async with TestServer(app) as server:
            yield str(server.make_url("/"))


class Opened(NamedTuple):
    """A bench that is served, and its action; `hasty` waits as briefly as the bench's configuration says."""

    bench: ActionBench
    action: Action
    hasty: Action
    name: str

    async def planned(self) -> list[Plan]:
        """The plans of all cases."""
        return await planned(self.bench, self.action)

    def unchanged(self, world: Any, what: str) -> None:
        """AssertionError unless the other side is as `world`."""
        now = self.bench.world()
        hold(now == world, f"{self.name}: {what}; the other side held {world} and holds {now}")


async def planned(bench: ActionBench, action: Action) -> list[Plan]:
    """The plans of all cases, one case after the other. AssertionError when they are not what a bench needs."""
    plans: list[Plan] = []
    for alert, rate in bench.cases:
        hold(not isinstance(action.verbs, str), "`verbs` is a str, no set: frozenset({...})")
        has = f"the case is a TargetRate({rate.verb!r}), and `verbs` of the action has {sorted(action.verbs)}"
        hold(rate.verb in action.verbs, has)
        found = await action.plan(alert, rate)
        hold(isinstance(found, Sequence), f"plan() gives {type(found).__name__}, no list of Plan")
        hold(bool(found), f"plan() found nothing to do for the case {alert.tags} {rate.verb}")
        plans.extend(found)
    targets = [plan.target for plan in plans]
    hold(len(set(targets)) == len(targets), f"two plans have one target: {sorted(targets)}")
    return plans


ActionPromise = Callable[[type[ActionBench]], Awaitable[None]]


@asynccontextmanager
async def opened(bench_class: type[ActionBench], **changes: Any) -> AsyncIterator[Opened]:
    """The bench, served, with its action; `changes` replace keys of the configuration."""
    bench = bench_class()
    async with bench.serve() as address, aiohttp.ClientSession() as http:
        entry = bench.config(address) | changes
        patient = {"timeout_s": _PATIENT_S} if "timeout_s" in entry else {}
        context = ActionContext(ManualClock(T0), http)
        action, hasty = (open_action(_config(each), context) for each in (entry | patient, entry))
        yield Opened(bench, action, hasty, f"kind {entry['kind']}")
        await action.close()
        await hasty.close()


def _config(entry: dict[str, Any]) -> ActionConfig:
    return ACTIONS.config(entry["kind"]).model_validate(entry)


async def plan_changes_nothing(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        world = of.bench.world()
        first, again = await of.planned(), await of.planned()
        hold(first == again, f"{of.name}: plan() gives other plans for the same world")
        of.unchanged(world, "plan() changed something; it may only read")


async def plans_hold_what_they_change_and_raise_nothing(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        for plan in await of.planned():
            fields = f"before {plan.before} and after {plan.after}"
            hold(plan.before.keys() == plan.after.keys(), f"{of.name}: {fields} must have the same fields")
            hold(plan.before != plan.after, f"{of.name}: {fields} are the same; nothing to do is no plan")
            hold(not raises_a_limit(plan), f"{of.name}: {fields} would raise a limit")


async def apply_twice_is_once_and_reads_back(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        for plan in await of.planned():
            effect = await of.action.verify(plan)
            hold(isinstance(effect, Effect), f"{of.name}: verify() gives {type(effect).__name__}, no Effect")
            hold(not effect.in_force, f"{of.name}: verify() says in force before apply()")
            outcome = await of.action.apply(plan)
            hold(isinstance(outcome, Outcome), f"{of.name}: apply() gives {type(outcome).__name__}, no Outcome")
            once = of.bench.world()
            await of.action.apply(plan)
            of.unchanged(once, "a second apply() changed something")
            effect = await of.action.verify(plan)
            hold(effect.in_force, f"{of.name}: verify() says not in force after apply(): {effect}")
            hold(effect.values == plan.after, f"{of.name}: verify() reads {effect.values}, not {plan.after}")


async def undo_restores_and_may_be_repeated(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        world = of.bench.world()
        for plan in await of.planned():
            outcome = await of.action.apply(plan)
            world = world if plan.reversible else of.bench.world()
            await of.action.undo(plan, outcome)
            of.unchanged(world, "undo() did not restore what apply() changed")
            await of.action.undo(plan, None)
            of.unchanged(world, "a second undo() changed something")


async def undo_without_apply_changes_nothing(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        world = of.bench.world()
        for plan in await of.planned():
            await of.action.undo(plan, None)
        of.unchanged(world, "undo() of what was never applied changed something")


async def what_is_lost_is_said(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        for plan in await of.planned():
            said = plan.reversible or bool(plan.warning)
            hold(said, f"{of.name}: a plan that is not reversible needs a `warning` that says what is lost")


async def a_change_by_hand_is_drift(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        for plan in await of.planned():
            if not plan.reversible:
                continue  # nobody brings back what it ended: there is nothing to compare
            await of.action.apply(plan)
            of.bench.change_by_hand()
            world = of.bench.world()
            with raises(DriftError, f"{of.name}: undo() after a change by hand") as caught:
                await of.action.undo(plan, None)
            hold(bool(caught[0].found), f"{of.name}: DriftError must say what was `found`")
            of.unchanged(world, "undo() overwrote a change by hand")


async def another_of_the_same_name_is_left_alone(bench_class: type[ActionBench]) -> None:
    """It holds the very values that were set, and none of them is Curb's."""
    async with opened(bench_class) as of:
        plans = await of.planned()
    for number in (number for number, plan in enumerate(plans) if plan.reversible):
        async with opened(bench_class) as of:
            plan = (await of.planned())[number]
            await of.action.apply(plan)
            if not of.bench.recreate():
                return
            world, what = of.bench.world(), f"of {plan.target}, made again under the same name,"
            effect = await of.action.verify(plan)
            hold(not effect.in_force, f"{of.name}: verify() {what} says in force: {effect}")
            with raises(DriftError, f"{of.name}: undo() {what}"):
                await of.action.undo(plan, None)
            of.unchanged(world, f"undo() {what} changed it")
            with raises(PermanentError, f"{of.name}: apply() {what}"):
                await of.action.apply(plan)
            of.unchanged(world, f"apply() {what} changed it")


async def a_deleted_target_ends_the_lease(bench_class: type[ActionBench]) -> None:
    """Nothing is left to give back: an undo that raised anything but DriftError would be tried for ever."""
    async with opened(bench_class) as of:
        plan = (await of.planned())[0]
        await of.action.apply(plan)
        if plan.reversible and of.bench.delete():
            with raises(DriftError, f"{of.name}: undo() of a target that somebody deleted"):
                await of.action.undo(plan, None)


async def a_plan_of_an_older_ledger_is_undone(bench_class: type[ActionBench]) -> None:
    """It says nothing of what makes its target this one and no other."""
    async with opened(bench_class) as of:
        world = of.bench.world()
        for plan in await of.planned():
            if not plan.reversible:
                continue
            old = msgspec.structs.replace(plan, identity="")
            await of.action.apply(plan)
            hold((await of.action.verify(old)).in_force, f"{of.name}: verify() of a plan without identity")
            await of.action.undo(old, None)
            of.unchanged(world, "undo() of a plan without identity did not restore")


async def an_applied_plan_leaves_nothing_to_plan(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        for plan in await of.planned():
            await of.action.apply(plan)
        for alert, rate in of.bench.cases:
            left = await of.action.plan(alert, rate)
            hold(not left, f"{of.name}: plan() wants more after its plan was applied: {left}")


async def an_unknown_subject_is_permanent(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        with raises(PermanentError, f"{of.name}: plan() for a subject that is not known"):
            await of.action.plan(of.bench.about_nothing_known(), of.bench.cases[0][1])


async def only_what_is_declared_is_called(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        for plan in await of.planned():
            await of.action.apply(plan)
            await of.action.verify(plan)
            await of.action.undo(plan, None)
        called, declared = of.bench.called(), set(of.action.permissions)
        hold(called == declared, f"{of.name}: calls {sorted(called)}, and `permissions` says {sorted(declared)}")


async def a_ceiling_is_the_limit_itself(bench_class: type[ActionBench]) -> None:
    """For kinds that limit a rate: no headroom counts, nothing but that limit is set, and undo restores."""
    entry = bench_class().config("http://127.0.0.1:1/")
    if not isinstance(_config(entry), RateConfig):
        return
    alert, rate = next((each for each in bench_class().cases if each[1].verb == "shave"), (None, TargetRate()))
    if alert is None:
        return
    ceiling = TargetRate("shave", rate.requests_per_minute or 7.0, standing=True)
    found = []
    for headroom in (1.0, 5.0):
        async with opened(bench_class, headroom=headroom) as of:
            world, plans = of.bench.world(), await of.action.plan(alert, ceiling)
            found.append([plan.after for plan in plans])
            for plan in plans:
                await of.action.apply(plan)
                hold((await of.action.verify(plan)).in_force, f"{of.name}: a ceiling does not read back: {plan.after}")
                await of.action.undo(plan, None)
            of.unchanged(world, "undo() of a ceiling did not restore")
            high = await of.action.plan(alert, ceiling._replace(requests_per_minute=10.0**7))
            hold(all(not raises_a_limit(plan) for plan in high), f"{of.name}: a ceiling raises a limit: {high}")
    hold(found[0] == found[1] != [], f"{of.name}: `headroom` changes a ceiling, or there is none: {found}")


async def a_fault_is_transient(bench_class: type[ActionBench], *, fault: str, call: str) -> None:
    """Also: the wait the other side asks for is passed on, no secret is shown, and the same call works later."""
    async with opened(bench_class) as of:
        bench, plan = of.bench, (await of.planned())[0]
        if call == "undo":
            await of.action.apply(plan)
        calls: dict[str, Callable[[Action], Awaitable[Any]]] = {
            "plan": lambda by: by.plan(*bench.cases[0]),
            "apply": lambda by: by.apply(plan),
            "verify": lambda by: by.verify(plan),
            "undo": lambda by: by.undo(plan, None),
        }
        bench.faults.next.extend([fault] * 2)  # aiohttp repeats a GET once when a kept connection is reset
        with raises(TransientError, f"{of.name}: {call}() while the other side answers {fault}") as caught:
            await calls[call](of.hasty if fault == "slow" else of.action)
        bench.faults.next.clear()
        expected = bench.retry_after_s if fault == "429" else None
        found = caught[0].retry_after
        hold(found == expected, f"{of.name}: retry_after of {call}() is {found}, not {expected}")
        shown = bool(bench.secret) and bench.secret in str(caught[0])
        hold(not shown, f"{of.name}: the error of {call}() shows the secret")
        await calls[call](of.action)


async def a_refusal_ends_nothing(bench_class: type[ActionBench], *, refusal: str) -> None:
    """While the other side refuses, nothing is said to be gone, changed or given back; then the undo restores."""
    async with opened(bench_class) as of:
        world = of.bench.world()
        plan = (await of.planned())[0]
        await of.action.apply(plan)
        of.bench.faults.always = refusal
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "verify": lambda: of.action.verify(plan),
            "undo": lambda: of.action.undo(plan, None),
        }
        for call, made in calls.items():
            what = f"{of.name}: {call}() while the other side answers {refusal}"
            try:
                answer = await made()
            except (TransientError, PermanentError) as error:
                hold(not isinstance(error, GoneError), f"{what} says that it is gone: {error}")
                hold(not of.bench.secret or of.bench.secret not in str(error), f"{what} shows the secret")
            except DriftError as error:
                raise AssertionError(f"{what} says that somebody changed it: {error}") from error
            else:
                raise AssertionError(f"{what} must fail, and gave {answer}")
        of.bench.faults.always = ""
        await of.action.undo(plan, None)
        of.unchanged(world, f"undo() did not restore after it was refused with {refusal}")


async def an_undo_whose_answer_got_lost_can_be_repeated(bench_class: type[ActionBench]) -> None:
    async with opened(bench_class) as of:
        world = of.bench.world()
        plan = (await of.planned())[0]
        await of.action.apply(plan)
        of.bench.faults.after.extend(["reset", "reset"])
        with raises(TransientError, f"{of.name}: undo() whose answer is lost"):
            await of.action.undo(plan, None)
        of.bench.faults.after.clear()
        await of.action.undo(plan, None)
        of.unchanged(world, "undo() after a lost answer did not restore")


async def a_configuration_refuses_unknown_keys_and_hides_secrets(bench_class: type[ActionBench]) -> None:
    bench = bench_class()
    entry = bench.config("http://127.0.0.1:1/")
    shown = bool(bench.secret) and bench.secret in repr(_config(entry))
    hold(not shown, f"kind {entry['kind']}: the printed Config shows the secret; make the field a SecretStr")
    with raises(ValidationError, f"kind {entry['kind']}: a Config with the unknown key `colour`"):
        _config(entry | {"colour": "red"})


ACTION_PROMISES: Mapping[str, ActionPromise] = (
    {
        promise.__name__: promise
        for promise in (
            plan_changes_nothing,
            plans_hold_what_they_change_and_raise_nothing,
            apply_twice_is_once_and_reads_back,
            undo_restores_and_may_be_repeated,
            undo_without_apply_changes_nothing,
            what_is_lost_is_said,
            a_change_by_hand_is_drift,
            another_of_the_same_name_is_left_alone,
            a_deleted_target_ends_the_lease,
            a_plan_of_an_older_ledger_is_undone,
            an_applied_plan_leaves_nothing_to_plan,
            an_unknown_subject_is_permanent,
            only_what_is_declared_is_called,
            an_undo_whose_answer_got_lost_can_be_repeated,
            a_ceiling_is_the_limit_itself,
            a_configuration_refuses_unknown_keys_and_hides_secrets,
        )
    }
    | {
        f"{fault}_of_{call}_is_transient": partial(a_fault_is_transient, fault=fault, call=call)
        for fault in FAULTS
        for call in CALLS
    }
    | {
        f"{refusal.replace(' ', '_')}_ends_nothing": partial(a_refusal_ends_nothing, refusal=refusal)
        for refusal in REFUSALS
    }
)
