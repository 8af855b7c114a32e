"""What the levers on LiteLLM share: subjects of the admin API, its calls, and how a change is read back and undone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from curb.actions.action import ActionConfig, DriftError, Effect, HoldsNothing, Outcome
from curb.actions.calls.compare_and_swap import another, is_another, swap
from curb.actions.calls.http import NotFoundError, exchange_object
from curb.actions.levers.litellm_enforced import Row, is_refused, rows_above, spent_budget
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan

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


def made_at(row: Row) -> str:
    """When a subject was made; "" for what carries no such time. A key that is made again with the same secret has the
    same hash.
    """
    return str(row.get("created_at") or "")


def is_blocked(row: Row, subject: Subject) -> bool:
    """True when none of its calls passes, by whatever means."""
    return is_refused(row) or all(row.get(name) == value for name, value in subject.block.items())


class ProxyConfig(ActionConfig):
    """Where a LiteLLM proxy is, and the key to its admin API."""

    base_url: HttpUrl = Field(description="Address of the LiteLLM proxy, such as http://litellm:4000.")
    api_key: SecretStr = Field(description="Key that may read and update the subjects (proxy admin or master key).")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer of the proxy.")


class LitellmLever(HoldsNothing):
    """Base of the actions on `litellm/<kind of subject>/<id>`. Only the fields it sets are ever sent.

    A field of a plan is a column of the subject, unless `fields` and `change` of a class say otherwise.
    """

    def __init__(
        self, config: ProxyConfig, subject: str, http: aiohttp.ClientSession, clock: Clock, *, suffix: str = ""
    ) -> None:
        self._base, self._http, self._clock = URL(str(config.base_url)), http, clock
        self._name, self._timeout_s, self._api_key = config.name, config.timeout_s, config.api_key
        self._subject, self._kind = SUBJECTS[subject], subject
        self._prefix, self._suffix = f"litellm/{subject}/", suffix

    def fields(self, row: Row) -> Row:
        """The fields of plans, as a subject holds them."""
        return row

    def change(self, row: Row, values: Mapping[str, Any]) -> dict[str, Any]:
        """The columns to send so that the fields in `values` are set; `row` is what was read."""
        return dict(values)

    async def apply(self, plan: Plan) -> Outcome:
        row = await self._row(self._id(plan))
        if is_another(plan, made_at(row)):
            raise PermanentError(str(another(plan)))
        await self._update(self._id(plan), self.change(row, plan.after))
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        row = await self._row(self._id(plan))
        if row.get("status") == "deleted":  # the proxy still shows it, with our values
            return Effect(in_force=False, values={}, detail="it was deleted")
        if is_another(plan, made_at(row)):
            return Effect(in_force=False, values={}, detail=str(another(plan)))
        found = self.fields(row)
        values = {name: found.get(name) for name in plan.after}
        return Effect(in_force=values == plan.after, values=values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        try:
            row = await self._row(self._id(plan))
            if row.get("status") == "deleted":
                raise self._gone()
            if is_another(plan, made_at(row)):
                raise another(plan)
            swapped = swap(plan, self.fields(row))
            if swapped.back:
                await self._update(self._id(plan), self.change(row, swapped.back))
        except NotFoundError as error:
            raise self._gone() from error
        swapped.raise_drift()

    def _gone(self) -> DriftError:
        """There is nothing left to give back: the lease is over."""
        return DriftError(f"the {self._kind} no longer exists", found={})

    def _target(self, found_id: str) -> str:
        """What plans call the subject."""
        return f"{self._prefix}{found_id}{self._suffix}"

    def _id(self, plan: Plan) -> str:
        return plan.target.removeprefix(self._prefix).removesuffix(self._suffix)

    # --- calls ---

    async def _row(self, found_id: str) -> dict[str, Any]:
        """What the proxy holds of one subject. Raises TransientError or PermanentError, as every call does."""
        answer = await self._read(self._subject.read, self._subject.query, found_id)
        row = answer.get(self._subject.row) if self._subject.row else answer
        if not isinstance(row, dict):
            raise TransientError(f"GET /{self._subject.read}: the answer has no `{self._subject.row}`")
        return row

    async def _above(self, row: Row) -> list[Row]:
        """What is enforced on the subject's calls together with its own limits: its team and so on."""
        return await rows_above(row, self._readable)

    async def _above_if_it_passes(self, row: Row) -> list[Row] | None:
        """What is above a subject; None when no call of it passes: blocked, or over a budget."""
        now = self._clock.now()
        if is_blocked(row, self._subject) or spent_budget(row, now):
            return None
        above = await self._above(row)
        if any(is_refused(each) or each.get("blocked") is True or spent_budget(each, now) for each in above):
            return None
        return above

    async def _read(self, path: str, query: str, value: str) -> dict[str, Any]:
        """One object of the admin API."""
        return await self._exchange("GET", (self._base / path).with_query({query: value}))

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
        """One call with the admin's key; the answer is a JSON object."""
        headers = {
            "Authorization": f"Bearer {self._api_key.get_secret_value()}",
            "litellm-changed-by": f"curb/{self._name}",
        }
        return await exchange_object(
            self._http, self._clock, method, url, timeout_s=self._timeout_s, headers=headers, json=json
        )
