"""Lowers or adds the rate-limiting plugin of a Kong consumer, service or route through the Admin API."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import aiohttp
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from curb.actions.action import (
    ActionContext,
    DriftError,
    Effect,
    Enforced,
    GoneError,
    HoldsNothing,
    Outcome,
    RateConfig,
)
from curb.actions.calls.compare_and_swap import Swap, arrows, swap
from curb.actions.calls.http import NoSuchRouteError, NotFoundError, exchange, exchange_object
from curb.actions.levers.http_templates import fill_url
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan
from curb.stream.time import DAY_S, HOUR_S

#: Shortest first. Kong refuses a longer period with a lower limit than a shorter one.
PERIODS = ("second", "minute", "hour", "day", "month", "year")
#: Seconds of each, by definition.
_PERIOD_S = {"second": 1.0, "minute": 60.0, "hour": HOUR_S, "day": DAY_S, "month": 30 * DAY_S, "year": 365 * DAY_S}
PLUGIN = "rate-limiting"
_SCOPES = ("consumer", "consumer_group", "service", "route")


def limits_of(plugin: Mapping[str, Any]) -> dict[str, Any]:
    """Every period, None where there is no limit."""
    config = plugin.get("config") or {}
    return {period: config.get(period) for period in PERIODS}


def lowered(found: Mapping[str, Any], per_minute: int) -> dict[str, int]:
    """The periods of an existing plugin to change so that no more than `per_minute` pass; none when less do already.

    A longer period that allows less than `per_minute` does so already. A shorter one may not allow more.
    """
    longer = [found[period] for period in PERIODS[1:] if found.get(period) is not None]
    if longer and min(longer) <= per_minute:
        return {}
    second = {"second": per_minute} if found.get("second") is not None and found["second"] > per_minute else {}
    return {"minute": per_minute, **second}


def replacing(general: Sequence[Mapping[str, Any]], per_minute: int) -> dict[str, int]:
    """The periods of a new plugin that takes the place of others with these limits: never above any of them."""
    limits: dict[str, int] = {}
    at_most: int | None = None
    for period in reversed(PERIODS):
        known = [each[period] for each in general if each[period] is not None]
        known += [per_minute] if period == "minute" else []
        if known:
            at_most = limits[period] = min(known if at_most is None else [*known, at_most])
    return limits


def is_ordered(limits: Mapping[str, Any]) -> bool:
    """Whether Kong takes them: at least one, and none lower than that of a shorter period."""
    known = [limits[period] for period in PERIODS if limits.get(period) is not None]
    return bool(known) and known == sorted(known)


def scope_of(plugin: Mapping[str, Any]) -> dict[str, str]:
    """What a plugin is for, such as {"consumer": id}; empty for everything."""
    return {name: plugin[name]["id"] for name in _SCOPES if plugin.get(name)}


def gives_way(plugin: Mapping[str, Any], to: Mapping[str, str], within: Mapping[str, str]) -> bool:
    """Whether a plugin would no longer count for a subject that gets a plugin of its own.

    The most specific plugin wins: that of a consumer over those of routes and services, that of a route over that of
    its service (`within`), all over the one for everything.
    """
    scope = scope_of(plugin)
    if "consumer" in to:
        return "consumer" not in scope and "consumer_group" not in scope
    return not scope or (bool(within) and scope == within)


#: Pages of 1000 plugins. By hand: nobody has more, and an endless listing ends.
_MAX_PAGES = 20
_IDS = uuid.UUID("5b1b7e1e-7c5c-4f0e-9a39-6f0d1c6a2f11")


class Config(RateConfig):
    """Sets requests per minute of the subject an alert is about."""

    kind: Literal["kong"]
    base_url: HttpUrl = Field(description="Address of the Admin API, with the workspace if there is one.")
    admin_token: SecretStr | None = Field(default=None, description="Value of the header Kong-Admin-Token, with RBAC.")
    entity: Literal["consumer", "service", "route"] = Field(
        default="consumer", description="What the tag names, and what the plugin is for."
    )
    tag: str = Field(default="team", description="Tag of the alert that holds the entity's name (or id) in Kong.")
    policy: Literal["local", "cluster"] = Field(
        default="local", description="Where a plugin that is added counts: in each node, or in Kong's database."
    )
    nodes: int = Field(
        default=1, ge=1, le=1000, description="Kong nodes. A limit that each node counts for itself is divided by it."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer.")

    def build(self, context: ActionContext) -> Kong:
        return Kong(self, context.http, context.clock)


class Kong(HoldsNothing):
    """An action on `kong/<entities>/<id>/<plugin id>`; a plugin that Curb adds has an id only Curb would give it."""

    permissions: ClassVar[tuple[str, ...]] = (
        "GET /{consumers,services,routes}/{name}",
        "GET /plugins",
        "GET /plugins/{id}",
        "PUT /plugins/{id}",
        "PATCH /plugins/{id}",
        "DELETE /plugins/{id}",
    )

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._base = str(config.base_url).rstrip("/")

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """A plan for each enabled plugin of the subject, or one for a plugin to add.

        PermanentError for a subject Kong does not know, or whose plugin is switched off.
        """
        config, value = self._config, alert.tags.get(self._config.tag, "")
        if value in ("", UNTAGGED, OTHER):
            return ()
        entity = await self._ask("GET", f"/{config.entity}s/{{value}}", value=value)
        if "id" not in entity:
            raise PermanentError(f"what Kong says of {config.entity} {value} has no id; is base_url the Admin API?")
        scope: dict[str, str] = {config.entity: str(entity["id"])}
        rpm = config.rpm_for(rate)
        plugins = [plugin for plugin in await self._plugins() if plugin["name"] == PLUGIN]
        own = [plugin for plugin in plugins if scope.items() <= scope_of(plugin).items()]
        plans = [self._lower(plugin, value, scope, rpm) for plugin in own if plugin.get("enabled", True)]
        exact = [plugin for plugin in own if scope_of(plugin) == scope]
        if any(not plugin.get("enabled", True) for plugin in exact):
            raise PermanentError(f"the {PLUGIN} plugin of {config.entity} {value} is switched off; Curb leaves it so")
        if not exact:
            within = {"service": entity["service"]["id"]} if entity.get("service") else {}
            general = [each for each in plugins if each.get("enabled", True) and gives_way(each, scope, within)]
            plans.append(self._add(general, value, scope, rpm))
        return [plan for plan in plans if plan is not None]

    @property
    def subject_tags(self) -> tuple[str, ...]:
        return (self._config.tag,)

    async def enforced(self, subjects: Sequence[Mapping[str, str]]) -> list[Enforced]:
        """Of the plugins that may count for a subject, that with the highest limit: not every route has each."""
        plugins = [each for each in await self._plugins() if each["name"] == PLUGIN and each.get("enabled", True)]
        return [await self._enforced(plugins, tags[self._config.tag]) for tags in subjects]

    async def _enforced(self, plugins: list[dict[str, Any]], value: str) -> Enforced:
        try:
            entity = await self._ask("GET", f"/{self._config.entity}s/{{value}}", value=value)
        except PermanentError as error:
            return Enforced(unknown=str(error))
        scope: dict[str, str] = {self._config.entity: str(entity.get("id", ""))}
        within = {"service": entity["service"]["id"]} if entity.get("service") else {}
        exact = [plugin for plugin in plugins if scope_of(plugin) == scope]
        narrower = [each for each in plugins if scope.items() < scope_of(each).items()]
        general = [each for each in plugins if gives_way(each, scope, within)]
        # One for everything counts where none for the subject does; those for some routes leave the others open.
        always = exact or [each for each in general if not scope_of(each)]
        if not always:
            return Enforced()
        counting = [*always, *narrower, *([] if exact else general)]
        most = max((self._per_hour(each) for each in counting), key=lambda each: each.requests_per_hour or math.inf)
        return most

    def _per_hour(self, plugin: dict[str, Any]) -> Enforced:
        """What a plugin lets pass within an hour, on all nodes."""
        shared = (plugin.get("config") or {}).get("policy", "local") != "local"
        nodes = 1 if shared else self._config.nodes
        limits = {period: limit for period, limit in limits_of(plugin).items() if limit is not None}
        hours = (nodes * limit * max(1.0, HOUR_S / _PERIOD_S[period]) for period, limit in limits.items())
        return Enforced(min(hours, default=None))

    async def apply(self, plan: Plan) -> Outcome:
        scope, plugin_id = _target(plan)
        if await self._plugin(plugin_id) is not None:
            await self._ask("PATCH", "/plugins/{value}", value=plugin_id, json={"config": dict(plan.after)})
        elif plugin_id == self._own_id(scope):
            (entity, entity_id), limits = next(iter(scope.items())), dict(plan.after)
            limit_by = "consumer" if entity == "consumer" else "service"
            body = {"name": PLUGIN, entity: {"id": entity_id}, "tags": ["curb"]}
            body["config"] = {**limits, "limit_by": limit_by, "policy": self._config.policy}
            await self._ask("PUT", "/plugins/{value}", value=plugin_id, json=body)
        else:
            raise GoneError(f"the plugin {plugin_id} no longer exists")
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        plugin = await self._plugin(_target(plan)[1])
        if plugin is None:
            return Effect(in_force=False, values=dict.fromkeys(plan.after))
        found = limits_of(plugin)
        values = {period: found[period] for period in plan.after}
        off = not plugin.get("enabled", True)
        return Effect(values == plan.after and not off, values, detail="the plugin is switched off" if off else "")

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        scope, plugin_id = _target(plan)
        added = plugin_id == self._own_id(scope)
        plugin = await self._plugin(plugin_id)
        if plugin is None:
            if added:
                return
            raise DriftError("the plugin no longer exists", found={})
        found = limits_of(plugin)
        swapped = _kept_in_order(swap(plan, found), found)
        if added and swapped.back and not any(value is not None for value in (found | swapped.back).values()):
            await self._ask("DELETE", "/plugins/{value}", value=plugin_id)
        elif swapped.back:
            await self._ask("PATCH", "/plugins/{value}", value=plugin_id, json={"config": swapped.back})
        swapped.raise_drift()

    def _lower(self, plugin: dict[str, Any], value: str, scope: dict[str, str], rpm: int) -> Plan | None:
        found, config = limits_of(plugin), plugin.get("config") or {}
        after = lowered(found, self._per_node(rpm, config.get("policy")))
        before = {period: found[period] for period in after}
        counted = config.get("limit_by", "consumer")
        each = "" if "consumer" in scope or counted == "service" else f"The plugin counts by {counted}, each by itself."
        return self._planned(plugin["id"], value, scope, before, after, each) if after else None

    def _add(self, general: list[dict[str, Any]], value: str, scope: dict[str, str], rpm: int) -> Plan | None:
        """Nothing where a plugin for everything and all that it leaves room for allow no more already."""
        per_minute = self._per_node(rpm, self._config.policy)
        limits = [self._as_counted(plugin) for plugin in general]
        if any(not scope_of(plugin) for plugin in general) and not any(lowered(each, per_minute) for each in limits):
            return None
        after = replacing(limits, per_minute)
        return self._planned(self._own_id(scope), value, scope, dict.fromkeys(after), after, "")

    def _planned(
        self,
        plugin_id: str,
        value: str,
        scope: dict[str, str],
        before: dict[str, Any],
        after: dict[str, int],
        warning: str,
    ) -> Plan:
        ((entity, entity_id),) = scope.items()
        return Plan(
            action=self._config.name,
            target=f"kong/{entity}s/{entity_id}/{plugin_id}",
            summary=f"limit {entity} {value}: {arrows(before, after)}",
            before=before,
            after=dict(after),
            warning=warning,
        )

    def _per_node(self, rpm: int, policy: str | None) -> int:
        return math.ceil(rpm / self._config.nodes) if policy in (None, "local") else rpm

    def _as_counted(self, plugin: dict[str, Any]) -> dict[str, Any]:
        """Limits of a plugin, as a plugin that counts like those Curb adds would have them."""
        shared = (plugin.get("config") or {}).get("policy", "local") != "local"
        nodes = self._config.nodes if shared and self._config.policy == "local" else 1
        limits = limits_of(plugin)
        return {period: None if limit is None else max(1, limit // nodes) for period, limit in limits.items()}

    def _own_id(self, scope: dict[str, str]) -> str:
        """The same each time, so that adding twice adds once, and undo knows what Curb has added."""
        ((entity, entity_id),) = scope.items()
        return str(uuid.uuid5(_IDS, f"{self._config.name}/{entity}/{entity_id}"))

    async def _plugin(self, plugin_id: str) -> dict[str, Any] | None:
        """None when Kong says that it has no such plugin. It says the same of an address that it does not know, so the
        list is asked for then: whoever knows that is Kong.
        """
        try:
            return await self._ask("GET", "/plugins/{value}", value=plugin_id)
        except NotFoundError:
            return None
        except NoSuchRouteError:
            listed = await self._ask("GET", "/plugins", query={"size": 1})
            if not isinstance(listed.get("data"), list):
                raise
            return None

    async def _plugins(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"size": 1000}
        for _ in range(_MAX_PAGES):
            answer = await self._ask("GET", "/plugins", query=query)
            found += answer.get("data") or []
            if not answer.get("offset"):
                return found
            query["offset"] = answer["offset"]
        raise PermanentError(f"GET /plugins: more than {_MAX_PAGES} pages")

    async def _ask(
        self, method: str, path: str, *, value: str = "", query: dict[str, Any] | None = None, json: Any = None
    ) -> dict[str, Any]:
        url = fill_url(self._base + path, {"value": value}) if value else URL(self._base + path)
        token = self._config.admin_token
        how = exchange_object if method != "DELETE" else exchange
        answer = await how(
            self._http,
            self._clock,
            method,
            url.with_query(query) if query else url,
            timeout_s=self._config.timeout_s,
            headers={"Kong-Admin-Token": token.get_secret_value()} if token else {},
            json=json,
        )
        return answer if isinstance(answer, dict) else {}


def _target(plan: Plan) -> tuple[dict[str, str], str]:
    """The scope of a plan's plugin, and its id."""
    _, entities, entity_id, plugin_id = plan.target.split("/")
    return {entities.removesuffix("s"): entity_id}, plugin_id


def _kept_in_order(swapped: Swap, found: dict[str, Any]) -> Swap:
    """Periods that Kong would not take back beside what somebody else set are left alone as well."""
    restored = found | swapped.back
    if not swapped.drifted or not swapped.back or is_ordered({period: restored[period] for period in PERIODS}):
        return swapped
    return Swap(swapped.after, {}, swapped.drifted | {period: swapped.after[period] for period in swapped.back})
