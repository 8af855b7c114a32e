"""Tightens the limits of a LiteLLM key, team, user or customer to its own normal level, and gives them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import aiohttp
import msgspec
from pydantic import Field, HttpUrl, SecretStr, model_validator
from yarl import URL

from curb.actions.action import ActionContext, DriftError, Effect, Outcome, RateConfig
from curb.actions.calls.compare_and_swap import arrows, swap, tightened
from curb.actions.calls.http import NotFoundError, exchange
from curb.actions.levers.litellm_subjects import SUBJECTS, is_blocked
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

_PAGE_SIZE = 100


class Config(RateConfig):
    """Sets `rpm_limit`, and what else is asked for, of the subject an alert is about."""

    kind: Literal["litellm_limits"]
    base_url: HttpUrl = Field(description="Address of the LiteLLM proxy, such as http://litellm:4000.")
    api_key: SecretStr = Field(description="Key that may read and update the subjects (proxy admin or master key).")
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
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer of the proxy.")

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


class LitellmLimits:
    """An action on `litellm/key/<hash>`. Only the fields it sets are ever sent; `metadata` never is."""

    #: What the admin key must be allowed to call; nothing else is called.
    permissions: ClassVar[tuple[str, ...]] = ("GET /key/info", "POST /key/update")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._base = URL(str(config.base_url))
        self._subject = SUBJECTS[config.subject]
        self._prefix = f"litellm/{config.subject}/"

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing without a subject in the tags, for a blocked or used-up subject, or when its limits are low enough.

        PermanentError for a subject the proxy does not know, and for a target rate it cannot set and take back.
        """
        if rate.verb not in self.verbs:
            raise PermanentError(f"LiteLLM has no {rate.verb} for a {self._config.subject} that could be taken back")
        tag = alert.tags.get(self._config.tag or self._subject.tag, "")
        if tag in ("", UNTAGGED, OTHER):
            return ()
        found_id = await self._id_of(tag)
        row = await self._row(found_id)
        if is_blocked(row, self._subject):
            return ()
        after = dict(self._subject.block) if rate.verb == "block" else self._tighter(row, rate)
        if not after:
            return ()
        before = {name: row.get(name) for name in after}
        label = row.get("key_alias") or row.get("team_alias") or tag[:12]
        what = f"{'block' if rate.verb == 'block' else 'limit'} {self._config.subject} {label}"
        target, summary = self._prefix + found_id, f"{what}: {arrows(before, after)}"
        return (Plan(action=self._config.name, target=target, summary=summary, before=before, after=after),)

    def _tighter(self, row: dict[str, Any], rate: TargetRate) -> dict[str, Any]:
        """The limits to set that are below what is found."""
        config = self._config
        wanted: dict[str, float] = {"rpm_limit": config.rpm_for(rate)}
        wanted |= {"tpm_limit": config.tpm} if config.tpm is not None else {}
        wanted |= {"max_parallel_requests": config.parallel} if config.parallel is not None else {}
        if config.allow_usd is not None:
            # What was spent before counts against a budget that is set later: a bare amount would refuse at once.
            budget = round(float(row.get("spend") or 0.0) + config.allow_usd, 6)
            if budget > (row.get("soft_budget") or 0.0):  # else the proxy refuses all of the update
                wanted["max_budget"] = budget
        return tightened(row, wanted)

    async def apply(self, plan: Plan) -> Outcome:
        if self._subject.update_creates:
            await self._row(self._id(plan))
        await self._update(self._id(plan), plan.after)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        row = await self._row(self._id(plan))
        values = {name: row.get(name) for name in plan.after}
        return Effect(in_force=values == plan.after, values=values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        try:
            row = await self._row(self._id(plan))
        except NotFoundError as error:
            raise DriftError(f"the {self._config.subject} no longer exists", found={}) from error
        change = swap(plan, row)
        if change.back:
            await self._update(self._id(plan), change.back)
        change.raise_drift()

    async def close(self) -> None:
        """Nothing is held: the HTTP session belongs to the caller."""

    def _id(self, plan: Plan) -> str:
        return plan.target.removeprefix(self._prefix)

    async def _id_of(self, tag: str) -> str:
        """What the proxy calls the subject of this tag."""
        return tag

    async def _row(self, found_id: str) -> dict[str, Any]:
        url = (self._base / self._subject.read).with_query({self._subject.query: found_id})
        answer = await self._exchange("GET", url)
        row = answer.get(self._subject.row) if self._subject.row else answer
        if not isinstance(row, dict):
            raise TransientError(f"GET /{self._subject.read}: the answer has no `{self._subject.row}`")
        return row

    async def _update(self, found_id: str, values: dict[str, Any]) -> None:
        """LiteLLM merges: what is not sent stays as it is, null clears a limit."""
        body = {self._subject.id_field: found_id, **values}
        await self._exchange("POST", self._base / self._subject.update, json=body)

    async def _exchange(self, method: str, url: URL, json: Any = None) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {self._config.api_key.get_secret_value()}",
            "litellm-changed-by": f"curb/{self._config.name}",
        }
        body = await exchange(
            self._http, self._clock, method, url, timeout_s=self._config.timeout_s, headers=headers, json=json
        )
        try:
            answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise TransientError(f"{method} {url.path}: the answer is not a JSON object") from error
        return answer


class TeamLimits(LitellmLimits):
    """An action on `litellm/team/<team_id>`. Usage carries the alias of a team where it has one."""

    permissions: ClassVar[tuple[str, ...]] = ("GET /team/info", "GET /v2/team/list", "POST /team/update")

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


class CustomerBlock(LitellmLimits):
    """An action on `litellm/customer/<end user>`: refuses it every model, because nothing else can be taken back."""

    permissions: ClassVar[tuple[str, ...]] = ("GET /customer/info", "POST /customer/update")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"block"})


_CLASSES: dict[str, type[LitellmLimits]] = {
    "key": LitellmLimits,
    "team": TeamLimits,
    "user": UserLimits,
    "customer": CustomerBlock,
}
