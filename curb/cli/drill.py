"""`curb drill`: throttle a probe of your own through a real gateway, look, and give it back, before it is needed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import Annotated, Any, cast, get_args

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from curb.actions.action import Action, DriftError
from curb.actions.calls.bounded import undo
from curb.actions.ledger.inbox_state import state_message
from curb.actions.ledger.memory import Memory, kept_key
from curb.actions.lifecycle.action_calls import ActionCalls
from curb.actions.lifecycle.give_back import in_vain
from curb.actions.policy.limits import tags_match
from curb.actions.target import TargetRate, Verb
from curb.cli.actions import OpenedActions, opened
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load, person
from curb.config.file import CurbConfig
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.revisions import first_without_spend
from curb.stream.records.spend import Alert, LedgerEntry, Plan

console = Console()
#: Seconds after which the reaper gives a probe back when the drill is killed in between. By hand: a minute.
_LEASE_S = 60.0
#: Seconds for one call of the gateway. By hand, as the daemon waits.
_CALL_S = 15.0
#: Tries to give the probe back, and seconds between them. By hand: half a minute, then the reaper goes on.
_TRIES, _BETWEEN_S = 15, 2.0


def drill(
    action: Annotated[str, typer.Argument(help="Name of the action in `actions.actions`.")],
    tag: Annotated[list[str], typer.Option("--tag", help="A tag of the probe, such as api_key=HASH; repeat for more.")],
    do: Annotated[str, typer.Option("--do", help="What to try: shave, reroute, pause or block.")] = "shave",
    rpm: Annotated[float, typer.Option("--rpm", min=0.0, help="To shave: requests per minute to leave.")] = 1.0,
    config: ConfigOption = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
) -> None:
    """Throttle a probe key or job of your own at the real gateway and give it back. Exit code 1 when a step fails.

    It is on the ledger like any action, by you, with a lease of a minute: if the drill is killed, the reaper or the
    next start of the daemon gives the probe back. `actions.mode` does not matter; `limits.never_touch` does.
    """
    loaded = load(config)
    tags = dict(each.split("=", 1) for each in tag if "=" in each)
    if len(tags) < len(tag) or do not in get_args(Verb):
        typer.echo("give tags as --tag name=value, and --do shave, reroute, pause or block", err=True)
        raise typer.Exit(2)
    raise typer.Exit(ask(run_drill(loaded, action, tags, TargetRate(cast(Verb, do), rpm, why="a drill"), yes=yes)))


def _alert(tags: dict[str, str], now: float) -> Alert:
    """What stands for the probe's incident."""
    name = f"drill-{uuid.uuid4().hex[:12]}"
    return first_without_spend(name, now, kind="runaway", tier="page", scope="drill", tags=tags, channel="drill")


async def run_drill(config: CurbConfig, name: str, tags: dict[str, str], rate: TargetRate, *, yes: bool) -> int:
    async with opened(config) as of:
        action = of.actions.get(name)
        if action is None or rate.verb not in action.verbs:
            known = ", ".join(f"{each} ({', '.join(sorted(one.verbs))})" for each, one in sorted(of.actions.items()))
            typer.echo(f"no action {name} that can {rate.verb}; there is: {known or 'none'}", err=True)
            return 1
        memory = Memory(of.log)
        await memory.read(of.clock.now())
        alert = _alert(tags, of.clock.now())
        try:
            plans = list(await action.plan(alert, rate))
        except (PermanentError, TransientError) as error:
            typer.echo(f"cannot be planned: {error}", err=True)
            return 1
        plans = [plan for plan in plans if plan.reversible][:1]
        why = _refusal(config, memory, plans, tags)
        if why:
            typer.echo(why, err=True)
            return 1
        (plan,) = plans
        console.print(
            Text(f"plan        {plan.target}: {_values(plan.before)} → {_values(plan.after)}"), soft_wrap=True
        )
        if not yes and not typer.confirm("Throttle it and give it back?"):
            return 1
        calls = ActionCalls(name, action, memory, of.clock, config.actions, call_timeout_s=_CALL_S)
        return await _Run(of, action, calls).all(alert, plan)


def _refusal(config: CurbConfig, memory: Memory, plans: list[Plan], tags: dict[str, str]) -> str:
    """Why the probe is left alone, or ""."""
    limits = config.actions.limits
    if not plans:
        return "nothing to do: no such probe, or it is limited already, or it could not be given back"
    target = plans[0].target
    if any(fnmatchcase(target, glob) for glob in limits.never_touch_targets):
        return f"{target} is one of limits.never_touch_targets"
    if any(tags_match(matcher, tags) for matcher in limits.never_touch):
        return "a matcher of limits.never_touch fits these tags"
    holder = memory.ledger.holder(target)
    return f"{target} is held by {holder.last.action_id}; see: curb actions list" if holder else ""


class _Run:
    """One drill, step by step, each on the ledger."""

    def __init__(self, of: OpenedActions, action: Action, calls: ActionCalls) -> None:
        self._of, self._action, self._calls = of, action, calls

    async def all(self, alert: Alert, plan: Plan) -> int:
        entry = await self._calls.start(
            alert, plan, "planned", lease_s=_LEASE_S, lease_expires_at=self._of.clock.now() + _LEASE_S, by=person()
        )
        held = await self._step("throttle", lambda: self._action.apply(entry.plan))
        if held:
            await self._record(entry, "applied", "a drill")
            held = await self._in_force(entry.plan)
        given_back = await self._give_back(entry)
        word = "the probe is as it was" if given_back else "the probe may still be throttled; the reaper goes on"
        console.print(Text(f"result      {'passed' if held and given_back else 'FAILED'}: {word}"))
        return 0 if held and given_back else 1

    async def _in_force(self, plan: Plan) -> bool:
        async def look() -> None:
            effect = await self._action.verify(plan)
            if not effect.in_force:
                raise TransientError(f"it reads {effect.values} {effect.detail}")

        return await self._step("read back", look, tries=_TRIES)

    async def _give_back(self, entry: LedgerEntry) -> bool:
        """On the ledger as given back, or as what is to be given back by whoever comes next."""

        async def back() -> None:
            await undo(self._action, entry.plan, None)

        errors: list[Exception] = []
        if await self._step("give back", back, tries=_TRIES, errors=errors):
            await self._record(entry, "restored", "a drill")
            await self._of.log.append([state_message(kept_key(entry), None)])
            return True
        last = self._last(entry)
        now = self._of.clock.now()
        fields = in_vain(last, errors[-1], by=person(), why="a drill", now=now, wait_s=_LEASE_S)
        await self._calls.memory.record(msgspec.structs.replace(last, at=now, **fields))
        return False

    async def _step(
        self, what: str, call: Callable[[], Awaitable[Any]], *, tries: int = 1, errors: list[Exception] | None = None
    ) -> bool:
        since = time.monotonic()
        said = ""
        for number in range(tries):
            await asyncio.sleep(_BETWEEN_S if number else 0.0)
            try:
                await self._calls.call(what, call())
            except (TransientError, PermanentError, DriftError) as error:
                failure: Exception = error
            else:
                console.print(Text(f"{what:<12}done in {time.monotonic() - since:.2f} s"))
                return True
            said = f"{type(failure).__name__}: {failure}"
            if errors is not None:
                errors.append(failure)
            if not isinstance(failure, TransientError):
                break
        console.print(Text(f"{what:<12}failed: {said}", "red"), soft_wrap=True)
        return False

    def _last(self, entry: LedgerEntry) -> LedgerEntry:
        state = self._calls.memory.ledger.action(entry.action_id)
        return entry if state is None else state.last

    async def _record(self, entry: LedgerEntry, to: Any, detail: str) -> None:
        state = self._calls.memory.ledger.action(entry.action_id)
        if state is not None:
            await self._calls.record(state, to, detail=detail)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'none' if value is None else value}" for name, value in values.items())
