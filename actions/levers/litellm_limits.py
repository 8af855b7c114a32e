"""Tightens the limits of a LiteLLM key, team, user or customer to its own normal level, and gives them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import aiohttp
import msgspec
from pydantic import Field, model_validator

from curb.actions.action import ActionContext, RateConfig
from curb.actions.calls.compare_and_swap import arrows, tightened
from curb.actions.levers.litellm_enforced import Row, enforced_limits, soft_budget, temporary_increase
from curb.actions.levers.litellm_lever import SUBJECTS, LitellmLever, ProxyConfig, made_at
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

#: Rows of one page. By definition of LiteLLM, its most.
_PAGE_SIZE = 100


class Config(ProxyConfig, RateConfig):
    """Sets `rpm_limit`, and what else is asked for, of the subject an alert is about."""

    kind: Literal["litellm_limits"]
    subject: Literal["key", "team", "user", "customer"] = Field(default="key", description="What is limited.")
    tag: str = Field(
        default="",
        description="Tag of the alert that holds the subject; empty: api_key, team, user or end_user, by subject.",
    )
    tpm: int | None = Field(
        default=None, ge=1, description="Tokens per minute to set as well, if there is no limit or a higher one."
    )
    parallel: int | None = Field(
        default=None, ge=1, description="max_parallel_requests to set as well, likewise; for keys only."
    )
    allow_usd: float | None = Field(
        default=None,
        gt=0,
        description="Dollars it may still spend: max_budget becomes what it has spent so far plus this.",
    )

    @property
    def subject_tag(self) -> str:
        """That of its kind of subject, unless `tag` says otherwise."""
        return self.tag or SUBJECTS[self.subject].tag

    @model_validator(mode="after")
    def _subject_has_the_limits(self) -> Config:
        asked = {"tpm_limit": self.tpm, "max_parallel_requests": self.parallel, "max_budget": self.allow_usd}
        missing = [name for name, value in asked.items() if value is not None and name not in self.limits]
        if missing:
            raise ValueError(f"a {self.subject} of LiteLLM has no {' or '.join(missing)} that could be given back")
        return self

    @property
    def limits(self) -> frozenset[str]:
        return SUBJECTS[self.subject].limits

    def build(self, context: ActionContext) -> LitellmLimits:
        return _CLASSES[self.subject](self, context.http, context.clock)


class LitellmLimits(LitellmLever):
    """An action on `litellm/key/<hash>`. Only the fields it sets are ever sent; `metadata` never is."""

    #: What the admin key must be allowed to call; nothing else is called.
    permissions: ClassVar[tuple[str, ...]] = (
        "GET /key/info",
        "POST /key/update",
        *("GET /team/info", "GET /v2/user/info", "GET /organization/info"),
    )

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        super().__init__(config, config.subject, http, clock)
        self._config = config

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing without a subject in the tags, for one whose calls are refused, or when what holds is low enough.

        What holds is the lowest of its own limits, or those of its budget tier, and those of its team and the
        membership in it, user, organisation and project.

        PermanentError for a subject the proxy does not know, and for a target rate it cannot set and take back.
        """
        if rate.verb not in self.verbs:
            raise PermanentError(f"LiteLLM has no {rate.verb} for a {self._config.subject} that could be taken back")
        tag = alert.tags.get(self._config.tag or self._subject.tag, "")
        if tag in ("", UNTAGGED, OTHER):
            return ()
        found_id = await self._id_of(tag)
        row = await self._row(found_id)
        above = await self._above_if_it_passes(row)
        if above is None:
            return ()
        found = {**row, **enforced_limits(row, above, self._clock.now())}
        after = dict(self._subject.block) if rate.verb == "block" else self._tighter(found, rate)
        if not after:
            return ()
        before = {name: row.get(name) for name in after}
        label = row.get("key_alias") or row.get("team_alias") or tag[:12]
        what = f"{'block' if rate.verb == 'block' else 'limit'} {self._config.subject} {label}"
        target, summary = self._target(found_id), f"{what}: {arrows(found, after)}"
        plan = Plan(action=self._config.name, target=target, summary=summary, before=before, after=after)
        return (msgspec.structs.replace(plan, identity=made_at(row)),)

    def _tighter(self, row: dict[str, Any], rate: TargetRate) -> dict[str, Any]:
        """The limits to set that are below what holds."""
        config = self._config
        wanted: dict[str, float] = {"rpm_limit": config.rpm_for(rate)}
        if rate.standing:  # the others are for minutes: a budget would be spent in days
            return tightened(row, wanted)
        wanted |= {"tpm_limit": config.tpm} if config.tpm is not None else {}
        wanted |= {"max_parallel_requests": config.parallel} if config.parallel is not None else {}
        if config.allow_usd is not None:
            # What was spent before counts against a budget that is set later: a bare amount would refuse at once.
            budget = round(float(row.get("spend") or 0.0) + config.allow_usd, 6)
            # At or below the soft one the proxy refuses all of the update; an increase for a time would come on top.
            if budget > soft_budget(row) and not temporary_increase(row, self._clock.now()):
                wanted["max_budget"] = budget
        return tightened(row, wanted)

    async def _id_of(self, tag: str) -> str:
        """What the proxy calls the subject of this tag."""
        return tag


class TeamLimits(LitellmLimits):
    """An action on `litellm/team/<team_id>`. Usage carries the alias of a team where it has one."""

    permissions: ClassVar[tuple[str, ...]] = (
        *("GET /team/info", "GET /v2/team/list", "POST /team/update"),
        "GET /organization/info",
    )

    async def _above(self, row: Row) -> list[Row]:
        """Its organisation."""
        return await super()._above({"organization_id": row.get("organization_id")})

    async def _id_of(self, tag: str) -> str:
        """The id of the team with this alias, else the tag itself; PermanentError when several have the alias."""
        found: set[str] = set()
        page = pages = 1
        while page <= pages:  # the list holds every alias that has the text in it
            query: dict[str, str | int] = {"team_alias": tag, "page": page, "page_size": _PAGE_SIZE}
            answer = await self._exchange("GET", (self._base / "v2/team/list").with_query(query))
            found |= {team["team_id"] for team in answer.get("teams") or () if team.get("team_alias") == tag}
            page, pages = page + 1, int(answer.get("total_pages") or 0)
        if len(found) > 1:
            raise PermanentError(f"{len(found)} teams have the alias {tag[:60]!r}; give each its own")
        return found.pop() if found else tag


class UserLimits(LitellmLimits):
    """An action on `litellm/user/<user_id>`: all keys of a user together."""

    permissions: ClassVar[tuple[str, ...]] = ("GET /v2/user/info", "POST /user/update")

    async def _above(self, row: Row) -> list[Row]:
        """Nothing: its keys may belong to any team."""
        return []


class CustomerBlock(LitellmLimits):
    """An action on `litellm/customer/<end user>`: refuses it every model, because nothing else can be taken back."""

    permissions: ClassVar[tuple[str, ...]] = ("GET /customer/info", "POST /customer/update")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"block"})

    async def _above(self, row: Row) -> list[Row]:
        """Nothing: it calls with the keys of others."""
        return []


_CLASSES: dict[str, type[LitellmLimits]] = {
    "key": LitellmLimits,
    "team": TeamLimits,
    "user": UserLimits,
    "customer": CustomerBlock,
}
