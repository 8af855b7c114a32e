"""Tightens the limits of a LiteLLM key, team, user or customer to its own normal level, and gives them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import aiohttp
import msgspec
from pydantic import Field, HttpUrl, SecretStr, model_validator
from yarl import URL

from curb.actions.action import ActionContext, DriftError, Effect, HoldsNothing, Outcome, RateConfig
from curb.actions.calls.compare_and_swap import another, arrows, is_another, swap, tightened
from curb.actions.calls.http import NotFoundError, exchange
from curb.actions.levers.litellm_enforced import (
    Row,
    enforced_limits,
    is_refused,
    rows_above,
    soft_budget,
    spent_budget,
    temporary_increase,
)
from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

#: The name of a model that no proxy has: a customer that may use only it may use none.
NO_MODEL = "curb-blocked"


class Subject(NamedTuple):
    """One kind of subject in the proxy's admin API.

    Only columns of its own are named: fields that the proxy keeps in `metadata` cannot be cleared again.
    """

    #: Path of the call that reads it, the name of the query parameter, and where in the answer the row is.
    read: str
    query: str
    row: str
    #: Path of the call that changes it, and the field that names it there.
    update: str
    id_field: str
    #: Tag of an alert that holds it, unless the configuration says otherwise.
    tag: str
    #: Limits it has, apart from `rpm_limit`, that can be set and cleared again.
    limits: frozenset[str]
    #: What makes the proxy refuse its very next call.
    block: dict[str, Any]
    #: True when the call that changes a missing subject creates it.
    update_creates: bool = False


SUBJECTS: dict[str, Subject] = {
    "key": Subject(
        read="key/info",
        query="key",
        row="info",
        update="key/update",
        id_field="key",
        tag="api_key",
        limits=frozenset({"tpm_limit", "max_parallel_requests", "max_budget"}),
        block={"blocked": True},
    ),
    # /team/block takes a minute to bite; this bites at once. The proxy keeps no max_parallel_requests for teams.
    "team": Subject(
        read="team/info",
        query="team_id",
        row="team_info",
        update="team/update",
        id_field="team_id",
        tag="team",
        limits=frozenset({"tpm_limit", "max_budget"}),
        block={"blocked": True},
    ),
    # Users have no `blocked`, and a null leaves their max_parallel_requests as it is.
    "user": Subject(
        read="v2/user/info",
        query="user_id",
        row="",
        update="user/update",
        id_field="user_id",
        tag="user",
        limits=frozenset({"tpm_limit", "max_budget"}),
        block={"rpm_limit": 0},
        update_creates=True,
    ),
    # Zeros and nulls are ignored for customers, so no limit could be taken back. Their `blocked` binds only in the
    # Enterprise edition; the list of models they may use binds everywhere, and an empty list clears it.
    "customer": Subject(
        read="customer/info",
        query="end_user_id",
        row="",
        update="customer/update",
        id_field="user_id",
        tag="end_user",
        limits=frozenset(),
        block={"models": [NO_MODEL]},
    ),
}


def _made_at(row: dict[str, Any]) -> str:
    """When a subject was made; "" for what carries no such time. A key that is made again with the same secret has the
    same hash.
    """
    return str(row.get("created_at") or "")


def is_blocked(row: dict[str, Any], subject: Subject) -> bool:
    """True when none of its calls passes, by whatever means."""
    return is_refused(row) or all(row.get(name) == value for name, value in subject.block.items())


#: Rows of one page. By definition of LiteLLM, its most.
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


class LitellmLimits(HoldsNothing):
    """An action on `litellm/key/<hash>`. Only the fields it sets are ever sent; `metadata` never is."""

    #: What the admin key must be allowed to call; nothing else is called.
    permissions: ClassVar[tuple[str, ...]] = (
        "GET /key/info",
        "POST /key/update",
        *("GET /team/info", "GET /v2/user/info", "GET /organization/info"),
    )

    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._base = URL(str(config.base_url))
        self._subject = SUBJECTS[config.subject]
        self._prefix = f"litellm/{config.subject}/"

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
        now = self._clock.now()
        if is_blocked(row, self._subject) or spent_budget(row, now):
            return ()
        above = await self._above(row)
        if any(is_refused(each) or each.get("blocked") is True or spent_budget(each, now) for each in above):
            return ()
        found = {**row, **enforced_limits(row, above, now)}
        after = dict(self._subject.block) if rate.verb == "block" else self._tighter(found, rate)
        if not after:
            return ()
        before = {name: row.get(name) for name in after}
        label = row.get("key_alias") or row.get("team_alias") or tag[:12]
        what = f"{'block' if rate.verb == 'block' else 'limit'} {self._config.subject} {label}"
        target, summary = self._prefix + found_id, f"{what}: {arrows(found, after)}"
        plan = Plan(action=self._config.name, target=target, summary=summary, before=before, after=after)
        return (msgspec.structs.replace(plan, identity=_made_at(row)),)

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

    async def apply(self, plan: Plan) -> Outcome:
        if self._subject.update_creates or plan.identity:
            row = await self._row(self._id(plan))
            if is_another(plan, _made_at(row)):
                raise PermanentError(str(another(plan)))
        await self._update(self._id(plan), plan.after)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        row = await self._row(self._id(plan))
        if row.get("status") == "deleted":  # the proxy still shows it, with our values
            return Effect(in_force=False, values={}, detail="it was deleted")
        if is_another(plan, _made_at(row)):
            return Effect(in_force=False, values={}, detail=str(another(plan)))
        values = {name: row.get(name) for name in plan.after}
        return Effect(in_force=values == plan.after, values=values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        try:
            row = await self._row(self._id(plan))
            if row.get("status") == "deleted":
                raise self._gone()
            if is_another(plan, _made_at(row)):
                raise another(plan)
            change = swap(plan, row)
            if change.back:
                await self._update(self._id(plan), change.back)
        except NotFoundError as error:
            raise self._gone() from error
        change.raise_drift()

    def _gone(self) -> DriftError:
        """There is nothing left to give back: the lease is over."""
        return DriftError(f"the {self._config.subject} no longer exists", found={})

    def _id(self, plan: Plan) -> str:
        return plan.target.removeprefix(self._prefix)

    async def _id_of(self, tag: str) -> str:
        """What the proxy calls the subject of this tag."""
        return tag

    async def _row(self, found_id: str) -> dict[str, Any]:
        answer = await self._read(self._subject.read, self._subject.query, found_id)
        row = answer.get(self._subject.row) if self._subject.row else answer
        if not isinstance(row, dict):
            raise TransientError(f"GET /{self._subject.read}: the answer has no `{self._subject.row}`")
        return row

    async def _read(self, path: str, query: str, value: str) -> dict[str, Any]:
        return await self._exchange("GET", (self._base / path).with_query({query: value}))

    async def _above(self, row: dict[str, Any]) -> list[Row]:
        """What is enforced on the subject's calls together with its own limits: its team and so on."""
        return await rows_above(row, self._readable)

    async def _readable(self, path: str, query: str, value: str) -> dict[str, Any]:
        try:
            return await self._read(path, query, value)
        except PermanentError:
            return {}

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

    permissions: ClassVar[tuple[str, ...]] = (
        *("GET /team/info", "GET /v2/team/list", "POST /team/update"),
        "GET /organization/info",
    )

    async def _above(self, row: dict[str, Any]) -> list[Row]:
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

    async def _above(self, row: dict[str, Any]) -> list[Row]:
        """Nothing: its keys may belong to any team."""
        return []


class CustomerBlock(LitellmLimits):
    """An action on `litellm/customer/<end user>`: refuses it every model, because nothing else can be taken back."""

    permissions: ClassVar[tuple[str, ...]] = ("GET /customer/info", "POST /customer/update")

    verbs: ClassVar[frozenset[Verb]] = frozenset({"block"})

    async def _above(self, row: dict[str, Any]) -> list[Row]:
        """Nothing: it calls with the keys of others."""
        return []


_CLASSES: dict[str, type[LitellmLimits]] = {
    "key": LitellmLimits,
    "team": TeamLimits,
    "user": UserLimits,
    "customer": CustomerBlock,
}
