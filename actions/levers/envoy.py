"""Limits one subject at an Envoy gateway through the route file it reads, and takes the limit out again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import aiohttp
import msgspec
from pydantic import Field, HttpUrl
from yarl import URL

from curb.actions.action import ActionContext, DriftError, Effect, Enforced, HoldsNothing, Outcome
from curb.actions.calls.http import exchange
from curb.actions.levers.envoy_routes import DescriptorPlace, Held, Routes, bucket_for, held, written
from curb.actions.levers.locked_file import edit_text, read_text
from curb.actions.levers.subjects import SubjectConfig
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Alert, Plan

#: HTTP status for a blocked subject. By definition.
_FORBIDDEN = 403


class Config(SubjectConfig):
    """Gives a subject a token bucket of its own in Envoy's local rate limits, or a route that refuses it."""

    kind: Literal["envoy"]
    routes_file: Path = Field(description="The file Envoy reads its routes from (RDS); Curb replaces it by a rename.")
    admin_url: HttpUrl = Field(description="Envoy's admin interface, such as http://127.0.0.1:9901.")
    virtual_host: str = Field(description="Name of the virtual host whose limits are meant.")
    route: str = Field(default="", description="Name of a route with limits of its own; empty: the virtual host's.")
    filter: str = Field(
        default="envoy.filters.http.local_ratelimit",
        description="Name of the local rate limit filter in typed_per_filter_config.",
    )
    descriptor_key: str = Field(default="api_key", description="Key of the descriptor entry that holds the subject.")
    header: str = Field(default="x-api-key", description="Header the descriptor is taken from; for blocking.")
    burst_s: float = Field(
        default=10.0, gt=0, le=60, description="Requests of so many seconds may pass at once, at the new rate."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer of Envoy.")

    def build(self, context: ActionContext) -> Envoy:
        return Envoy(self, context.http, context.clock)


class Envoy(HoldsNothing):
    """An action on `envoy/<name>/<subject>`. The file keeps every other byte; Envoy must say that it took it."""

    #: Calls of the admin interface, and what Curb does to the file.
    permissions: ClassVar[tuple[str, ...]] = ("GET /config_dump", "GET /stats", "replace the routes file")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._admin = URL(str(config.admin_url))
        self._place = DescriptorPlace(
            config.virtual_host, config.route, config.filter, config.descriptor_key, config.header.lower()
        )
        #: Target → refused requests when this process applied it.
        self._refused_before: dict[str, int] = {}

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing without a subject in the tags, or for a subject that is blocked or whose limit is low enough.

        PermanentError for a subject that is not known, TransientError while Envoy does not hold what the file says.
        """
        tag = self._config.tag_of(alert)
        if not tag:
            return ()
        subject = self._config.subject(tag)
        routes = await self._read()
        await self._must_hold(routes, subject)
        if routes.block(subject) is not None:
            return ()
        if rate.verb == "block":
            return (self._plan(tag, "direct_response", None, _FORBIDDEN, f"block {tag[:40]}: {_FORBIDDEN}"),)
        bound = routes.limit(subject) or routes.limit(None)
        found = bound.requests_per_minute if bound is not None else None
        wanted = self._config.rpm_for(rate)
        if found is not None and found <= wanted:
            return ()
        shown = f"{found:g}" if found is not None else "none"
        summary = f"limit {tag[:40]}: requests per minute {shown} → {wanted}"
        bucket = written(bucket_for(wanted, self._config.burst_s))
        return (self._plan(tag, "token_bucket", routes.bucket(subject), bucket, summary),)

    def _plan(self, tag: str, field: str, before: Any, after: Any, summary: str) -> Plan:
        name = self._config.name
        target, what = f"envoy/{name}/{tag}", f"{summary} at {self._config.virtual_host}"
        return Plan(action=name, target=target, summary=what, before={field: before}, after={field: after})

    async def apply(self, plan: Plan) -> Outcome:
        """PermanentError when the file holds neither what was found nor what is wanted."""
        refused = await self._refused(await self._read(), plan)
        await self._edit(plan, plan.before, plan.after, lambda _: PermanentError("it was changed since it was planned"))
        if refused is not None:
            self._refused_before.setdefault(plan.target, refused)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        subject, routes = self._subject(plan), await self._read()
        values = {field: _value(routes, field, subject) for field in plan.after}
        is_taken = _agrees(routes, subject, await self._held(subject))
        if values != plan.after or not is_taken:
            detail = "" if is_taken else "Envoy has not taken what the file says"
            return Effect(in_force=False, values=values, detail=detail)
        refused, before = await self._refused(routes, plan), self._refused_before.get(plan.target)
        rejected = refused - before if refused is not None and before is not None else None
        return Effect(in_force=True, values=values, rejected=rejected)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        """TransientError until Envoy has taken the file."""
        changed = "somebody changed it since"
        await self._edit(plan, plan.after, plan.before, lambda found: DriftError(changed, found=found))
        await self._must_hold(await self._read(), self._subject(plan))
        self._refused_before.pop(plan.target, None)

    @property
    def subject_tags(self) -> tuple[str, ...]:
        return (self._config.tag,)

    async def enforced(self, subjects: Sequence[Mapping[str, str]]) -> list[Enforced]:
        """What the file says, which Envoy is asked about once: its answer holds the whole file."""
        routes, found, asked = await self._read(), list[Enforced](), False
        for tags in subjects:
            try:
                subject = self._config.subject(tags[self._config.tag])
            except PermanentError as error:
                found.append(Enforced(unknown=str(error)))
                continue
            if not asked:
                await self._must_hold(routes, subject)
                asked = True
            bound = routes.limit(subject) or routes.limit(None)
            if routes.block(subject) is not None:
                found.append(Enforced(0.0))
            elif bound is None:
                found.append(Enforced())
            else:
                found.append(Enforced(60.0 * bound.requests_per_minute))
        return found

    def _subject(self, plan: Plan) -> str:
        return self._config.subject(plan.target.removeprefix(f"envoy/{self._config.name}/"))

    async def _read(self) -> Routes:
        path, place = self._config.routes_file, self._place
        return await asyncio.to_thread(lambda: Routes(read_text(path), place))

    async def _edit(
        self,
        plan: Plan,
        old: dict[str, Any],
        new: dict[str, Any],
        otherwise: Callable[[dict[str, Any]], Exception],
    ) -> None:
        """Replaces the old value by the new one, in the file as it is now; raises `otherwise` for any other."""
        subject, (field,) = self._subject(plan), plan.after

        def change(text: str) -> str:
            routes = Routes(text, self._place)
            found = _value(routes, field, subject)
            if found == new[field]:
                return text
            if found != old[field]:
                raise otherwise({field: found})
            put = routes.with_bucket if field == "token_bucket" else routes.with_block
            return put(subject, new[field])

        await asyncio.to_thread(edit_text, self._config.routes_file, change)

    async def _must_hold(self, routes: Routes, subject: str) -> None:
        if not _agrees(routes, subject, await self._held(subject)):
            raise TransientError(f"Envoy does not hold what {self._config.routes_file} says")

    async def _held(self, subject: str) -> Held | None:
        return held(await self._get("config_dump", resource="dynamic_route_configs"), self._place, subject)

    async def _refused(self, routes: Routes, plan: Plan) -> int | None:
        """Requests that were refused by limits per subject since Envoy began.

        It counts them together for all descriptors, so None unless there is but one; blocked ones it does not count.
        """
        if "token_bucket" not in plan.after:
            return None
        name = f"{routes.stat_prefix}.http_local_rate_limit.rate_limited"
        answer = await self._get("stats", filter=f"^{re.escape(name)}$", format="json")
        counts = [stat["value"] for stat in answer.get("stats") or () if stat.get("name") == name]
        return int(counts[0]) if counts and routes.descriptors <= 1 else None

    async def _get(self, path: str, **query: str) -> dict[str, Any]:
        url = (self._admin / path).with_query(query)
        body = await exchange(self._http, self._clock, "GET", url, timeout_s=self._config.timeout_s, headers={})
        try:
            answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise TransientError(f"GET {url.path}: the answer is not a JSON object") from error
        return answer


def _value(routes: Routes, field: str, subject: str) -> Any:
    return routes.bucket(subject) if field == "token_bucket" else routes.block(subject)


def _agrees(routes: Routes, subject: str, envoys: Held | None) -> bool:
    """Whether Envoy holds for the subject what the file says."""
    return envoys == Held(routes.limit(subject), routes.block(subject))
