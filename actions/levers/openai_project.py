"""Lowers the rate limits of an OpenAI project per model, or its monthly spend limit, and gives them back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import aiohttp
from pydantic import Field, HttpUrl, SecretStr

from curb.actions.action import ActionContext, DriftError, Effect, HoldsNothing, Outcome, RateConfig
from curb.actions.calls.compare_and_swap import arrows, swap, tightened
from curb.actions.calls.http import NotFoundError, exchange_object
from curb.actions.levers.http_templates import fill_url
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

_RPM, _TPM, _SPEND = "max_requests_per_1_minute", "max_tokens_per_1_minute", "threshold_amount"
#: Cents a month; every project has spent more, so that nothing passes. By definition of OpenAI, the least it takes.
_BLOCK_CENTS = 1
#: Pages of rate limits. By hand: more than OpenAI has models.
_MAX_PAGES = 50
_BLOCKED = "OpenAI refuses every call of the project until this is undone."
_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{4})$")


class Config(RateConfig):
    """Sets rate limits of the project an alert is about; to block, its spend limit."""

    kind: Literal["openai_project"]
    base_url: HttpUrl = Field(default=HttpUrl("https://api.openai.com/v1"), description="Address of OpenAI's API.")
    api_key: SecretStr = Field(description="Admin key of the organization.")
    tag: str = Field(default="project", description="Tag of the alert that holds the project's id, such as proj_abc.")
    projects: dict[str, str] = Field(
        default={}, description="Value of the tag → project id, where the tag holds something else."
    )
    models: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="Globs of the models to limit, for alerts without the tag `model`."
    )
    tpm: int | None = Field(default=None, ge=1, description="Tokens per minute to set as well, where they are higher.")
    spend_limit_usd: float | None = Field(
        default=None, gt=0, description="Spend limit of the month to set as well, where there is none or a higher one."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer.")

    def build(self, context: ActionContext) -> OpenaiProject:
        return OpenaiProject(self, context.http, context.clock)


class OpenaiProject(HoldsNothing):
    """An action on `openai/<project>/rate_limits` and `openai/<project>/spend_limit` (cents)."""

    permissions: ClassVar[tuple[str, ...]] = (
        "GET /organization/projects/{id}",
        "GET /organization/projects/{id}/rate_limits",
        "POST /organization/projects/{id}/rate_limits/{id}",
        "GET /organization/projects/{id}/spend_limit",
        "POST /organization/projects/{id}/spend_limit",
        "DELETE /organization/projects/{id}/spend_limit",
    )

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._base = str(config.base_url).rstrip("/")

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing without a project in the tags, or for an archived project.

        PermanentError for a project OpenAI does not know, or a model that has no rate limit there.
        """
        config, value = self._config, alert.tags.get(self._config.tag, "")
        if value in ("", UNTAGGED, OTHER) or (config.projects and value not in config.projects):
            return ()
        project = config.projects.get(value, value)
        known = await self._ask("GET", "/organization/projects/{project}", project)
        if known.get("status") == "archived":
            return ()
        name = str(known.get("name") or project)
        if rate.verb == "block":
            plans = [await self._spend_plan(project, name, _BLOCK_CENTS, _BLOCKED)]
        else:
            plans = [await self._rate_plan(project, name, alert.tags.get("model", ""), config.rpm_for(rate))]
            if config.spend_limit_usd is not None:
                plans.append(await self._spend_plan(project, name, round(config.spend_limit_usd * 100)))
        return [plan for plan in plans if plan is not None]

    async def apply(self, plan: Plan) -> Outcome:
        await self._set(plan, plan.after)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        found, detail = await self._found(plan)
        values = {field: found.get(field) for field in plan.after}
        return Effect(in_force=values == plan.after, values=values, detail=detail)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        try:
            found, _ = await self._found(plan)
        except NotFoundError as error:
            raise DriftError("the project no longer exists", found={}) from error
        swapped = swap(plan, found)
        await self._set(plan, swapped.back)
        swapped.raise_drift()

    async def _rate_plan(self, project: str, name: str, model: str, rpm: int) -> Plan | None:
        limits = await self._rate_limits(project)
        if model in ("", UNTAGGED, OTHER):
            chosen = [each for each in limits if any(fnmatchcase(each["model"], glob) for glob in self._config.models)]
        else:
            chosen = _of_model(limits, model)
        if not chosen:
            raise PermanentError(f"project {project} has no rate limit for {model or ', '.join(self._config.models)}")
        wanted = {_RPM: rpm} if self._config.tpm is None else {_RPM: rpm, _TPM: self._config.tpm}
        before: dict[str, Any] = {}
        after: dict[str, Any] = {}
        for limit in chosen:
            # A model that is not limited by requests has none to give back: OpenAI knows no "no limit".
            known = {field: value for field, value in wanted.items() if limit.get(field) is not None}
            lower = tightened(limit, known)
            before |= {f"{limit['id']}.{field}": limit[field] for field in lower}
            after |= {f"{limit['id']}.{field}": value for field, value in lower.items()}
        target = f"openai/{project}/rate_limits"
        return self._planned(target, f"limit OpenAI project {name}", before, after) if after else None

    async def _spend_plan(self, project: str, name: str, cents: int, warning: str = "") -> Plan | None:
        limit = await self._spend_limit(project)
        before = {_SPEND: limit.get(_SPEND) if limit else None}
        after = tightened(before, {_SPEND: cents})
        target = f"openai/{project}/spend_limit"
        what = f"{'block' if warning else 'cap'} OpenAI project {name}, cents a month"
        return self._planned(target, what, before, dict(after), warning) if after else None

    def _planned(
        self, target: str, what: str, before: dict[str, Any], after: dict[str, Any], warning: str = ""
    ) -> Plan:
        summary = f"{what}: {arrows(before, after)}"
        name = self._config.name
        return Plan(action=name, target=target, summary=summary, before=before, after=after, warning=warning)

    async def _found(self, plan: Plan) -> tuple[dict[str, Any], str]:
        """The fields of a plan's target as they are, and what OpenAI says of its enforcement."""
        project, what = _target(plan)
        if what == "spend_limit":
            limit = await self._spend_limit(project) or {}
            status = (limit.get("enforcement") or {}).get("status", "")
            return {_SPEND: limit.get(_SPEND)}, f"enforcement: {status}" if status else ""
        limits = await self._rate_limits(project)
        return {f"{each['id']}.{field}": each.get(field) for each in limits for field in (_RPM, _TPM)}, ""

    async def _set(self, plan: Plan, values: dict[str, Any]) -> None:
        project, what = _target(plan)
        if what == "spend_limit":
            for cents in values.values():
                await self._set_spend_limit(project, cents)
            return
        by_limit: dict[str, dict[str, Any]] = {}
        for field, value in values.items():
            limit, _, name = field.rpartition(".")
            by_limit.setdefault(limit, {})[name] = value
        for limit, changes in by_limit.items():
            await self._ask("POST", "/organization/projects/{project}/rate_limits/{limit}", project, limit, changes)

    async def _set_spend_limit(self, project: str, cents: int | None) -> None:
        path = "/organization/projects/{project}/spend_limit"
        if cents is None:
            await self._ask("DELETE", path, project)
        else:
            body = {_SPEND: cents, "currency": "USD", "interval": "month"}
            await self._ask("POST", path, project, json=body)

    async def _spend_limit(self, project: str) -> dict[str, Any] | None:
        try:
            return await self._ask("GET", "/organization/projects/{project}/spend_limit", project)
        except NotFoundError:  # it has none
            return None

    async def _rate_limits(self, project: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query = {"limit": "100"}
        for _ in range(_MAX_PAGES):
            answer = await self._ask("GET", "/organization/projects/{project}/rate_limits", project, query=query)
            found += answer.get("data") or []
            if not answer.get("has_more") or not found:
                return found
            query["after"] = str(answer.get("last_id") or found[-1]["id"])
        raise PermanentError(f"rate limits of {project}: more than {_MAX_PAGES} pages")

    async def _ask(
        self,
        method: str,
        path: str,
        project: str,
        limit: str = "",
        json: Any = None,
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        url = fill_url(self._base + path, {"project": project, "limit": limit})
        headers = {"Authorization": f"Bearer {self._config.api_key.get_secret_value()}"}
        return await exchange_object(
            self._http,
            self._clock,
            method,
            url.with_query(query) if query else url,
            timeout_s=self._config.timeout_s,
            headers=headers,
            json=json,
        )


def _of_model(limits: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """The rate limit of a model; a snapshot such as gpt-4o-2024-08-06 without its own goes by that of gpt-4o."""
    names = (model, _SNAPSHOT.sub("", model))
    return next((found for name in names if (found := [each for each in limits if each["model"] == name])), [])


def _target(plan: Plan) -> tuple[str, str]:
    project, _, what = plan.target.removeprefix("openai/").rpartition("/")
    return project, what
