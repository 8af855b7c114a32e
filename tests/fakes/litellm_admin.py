"""The part of the LiteLLM proxy's admin API that reads and updates its subjects; merges, and ignores, like 1.108.7."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.target import TargetRate
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.faults import Faults

KINDS = ("litellm_limits", "litellm_models")
ADMIN_KEY = "sk-admin"
BLOCK = TargetRate("block")
Rows = dict[str, dict[str, Any]]


class LitellmAdmin:
    """Keys by hash, teams, users and customers by id."""

    def __init__(
        self,
        keys: Rows | None = None,
        teams: Rows | None = None,
        users: Rows | None = None,
        customers: Rows | None = None,
        organizations: Rows | None = None,
    ) -> None:
        self.keys, self.teams, self.users, self.customers = keys or {}, teams or {}, users or {}, customers or {}
        self.organizations = organizations or {}
        #: Names of models that it lists.
        self.models: list[str] = []
        #: Keys that were deleted: still shown, and no longer changed.
        self.deleted: Rows = {}
        #: Team → memberships, each with its own budget table.
        self.memberships: dict[str, list[dict[str, Any]]] = {}
        #: What `/key/info` shows of a key and the list does not, such as its budget tier.
        self.hidden: Rows = {}
        self.faults = Faults()
        #: Bodies of updates, and who sent them.
        self.updates: list[tuple[str, dict[str, Any]]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware(), self._authorised])
        app.router.add_get("/health/liveliness", self._alive)
        app.router.add_get("/v1/models", self._model_list)
        app.router.add_get("/key/list", self._key_list)
        app.router.add_get("/key/info", self._key_info)
        app.router.add_post("/key/update", self._key_update)
        app.router.add_get("/team/info", self._team_info)
        app.router.add_get("/v2/team/list", self._team_list)
        app.router.add_post("/team/update", self._team_update)
        app.router.add_get("/v2/user/info", self._user_info)
        app.router.add_post("/user/update", self._user_update)
        app.router.add_get("/organization/info", self._organization_info)
        app.router.add_get("/customer/info", self._customer_info)
        app.router.add_post("/customer/update", self._customer_update)
        return app

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path != "/health/liveliness" and request.headers.get("Authorization") != f"Bearer {ADMIN_KEY}":
            return web.json_response({"error": {"message": "not allowed"}}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _alive(self, request: web.Request) -> web.Response:
        """Without a key."""
        return web.json_response("I'm alive!")

    async def _model_list(self, request: web.Request) -> web.Response:
        """An admin's key sees all of them."""
        listed = [{"id": name, "object": "model", "owned_by": "openai"} for name in self.models]
        return web.json_response({"data": listed, "object": "list"})

    async def _key_list(self, request: web.Request) -> web.Response:
        """In pages; without `return_full_object` the hashes alone."""
        page, size = int(request.query["page"]), min(100, int(request.query["size"]))
        rows = [{"token": name, **row} for name, row in self.keys.items()]
        full = request.query.get("return_full_object") == "true"
        shown = [row if full else row["token"] for row in rows[(page - 1) * size : page * size]]
        pages = -(-len(rows) // size)
        answer = {"keys": shown, "total_count": len(rows), "current_page": page, "total_pages": pages}
        return web.json_response(answer)

    async def _key_info(self, request: web.Request) -> web.Response:
        key = request.query["key"]
        return _answer(self.keys | self.deleted, key, lambda row: {"key": key, "info": row | self.hidden.get(key, {})})

    async def _key_update(self, request: web.Request) -> web.Response:
        name, values = await self._update(request, "key")
        return _merged(self.keys, name, values)

    async def _team_info(self, request: web.Request) -> web.Response:
        team_id = request.query["team_id"]
        members = self.memberships.get(team_id, [])
        shape = {"team_id": team_id, "keys": [], "team_memberships": members}
        return _answer(self.teams, team_id, lambda row: shape | {"team_info": row})

    async def _team_list(self, request: web.Request) -> web.Response:
        """One to a page; an alias is found by any part of it, whatever the page size asked for."""
        part, page = request.query["team_alias"].lower(), int(request.query["page"])
        found = [{"team_id": name, **row} for name, row in self.teams.items() if part in row["team_alias"].lower()]
        shown = found[page - 1 : page]
        return web.json_response({"teams": shown, "total": len(found), "page": page, "total_pages": len(found)})

    async def _team_update(self, request: web.Request) -> web.Response:
        name, values = await self._update(request, "team_id")
        if name in self.teams and (values.get("max_budget") or 1e9) <= (self.teams[name].get("soft_budget") or 0.0):
            return web.json_response({"error": {"message": "max_budget must be greater"}}, status=400)
        values.pop("max_parallel_requests", None)  # taken, and kept nowhere
        return _merged(self.teams, name, values)

    async def _user_info(self, request: web.Request) -> web.Response:
        return _answer(self.users, request.query["user_id"], lambda row: row)

    async def _user_update(self, request: web.Request) -> web.Response:
        """Makes a user that is not there."""
        name, values = await self._update(request, "user_id")
        if "blocked" in values:
            return web.json_response({"error": {"message": "no such column"}}, status=400)
        cleared = {"max_budget", "budget_duration", "tpm_limit", "rpm_limit"}
        self.users.setdefault(name, {}).update({k: v for k, v in values.items() if v is not None or k in cleared})
        return web.json_response({"user_id": name, "data": self.users[name]})

    async def _organization_info(self, request: web.Request) -> web.Response:
        """The free edition answers 403 here, which `faults` can do."""
        return _answer(self.organizations, request.query["organization_id"], lambda row: row)

    async def _customer_info(self, request: web.Request) -> web.Response:
        return _answer(self.customers, request.query["end_user_id"], lambda row: row)

    async def _customer_update(self, request: web.Request) -> web.Response:
        """Nulls and zeros change nothing; a boolean and a list of models always count."""
        name, values = await self._update(request, "user_id")
        kept = {k: v for k, v in values.items() if isinstance(v, bool) or k == "models" or (v is not None and v != 0)}
        return _merged(self.customers, name, kept)

    async def _update(self, request: web.Request, id_field: str) -> tuple[str, dict[str, Any]]:
        body = await request.json()
        name = body.pop(id_field)
        self.updates.append((request.headers.get("litellm-changed-by", ""), body))
        return name, body


def _answer(rows: Rows, name: str, shape: Any) -> web.Response:
    if name not in rows:
        return web.json_response({"error": {"message": "not found"}}, status=404)
    return web.json_response(shape(rows[name]))


def _merged(rows: Rows, name: str, values: dict[str, Any]) -> web.Response:
    if name in rows:
        rows[name].update(values)
    return _answer(rows, name, lambda row: {"id": name, **row})


class _Bench(ActionBench):
    """One kind of subject: `rows` in the fake, and what is asked of the action."""

    secret = ADMIN_KEY
    subject: str
    tag: str
    by_hand: ClassVar[dict[str, Any]]

    def __init__(self, cases: list[tuple[str, TargetRate]], **rows: Rows) -> None:
        self.fake = LitellmAdmin(**rows)
        self._rows = next(iter(rows.values()))
        self.faults: Faults = self.fake.faults
        for row in self._rows.values():
            row["created_at"] = "2025-06-01T09:00:00Z"
        #: Each asks for at least one plan.
        self.cases = [(an_alert(tags={self.tag: value}), rate) for value, rate in cases]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        limits = {"kind": "litellm_limits", "name": "limits", "timeout_s": 0.2, "subject": self.subject}
        return limits | {"base_url": address, "api_key": ADMIN_KEY}

    def world(self) -> Any:
        return {name: dict(values) for name, values in self._rows.items()}

    def change_by_hand(self) -> None:
        for values in self._rows.values():
            values.update(self.by_hand)

    def recreate(self) -> bool:
        for values in self._rows.values():
            values["created_at"] = "2025-06-15T18:00:00Z"
        return True

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={self.tag: "nobody"})

    def called(self) -> set[str]:
        return set(self.faults.seen)


_NO_LIMITS: dict[str, Any] = dict.fromkeys(("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget"))


class LitellmBench(_Bench):
    """A key that has a higher limit, one that has none, and one to block."""

    subject, tag = "key", "api_key"
    by_hand: ClassVar[dict[str, Any]] = dict.fromkeys((*_NO_LIMITS, "blocked"), 3)

    def __init__(self) -> None:
        keys: Rows = {
            "k1": _NO_LIMITS
            | {"rpm_limit": 600, "tpm_limit": 9000, "spend": 1.5, "metadata": {"owner": "ana"}}
            | {"team_id": "t1", "user_id": "ana"},
            "k2": _NO_LIMITS | {"blocked": None},
            "k3": _NO_LIMITS | {"rpm_limit": 60, "blocked": None},
        }
        above = {"teams": {"t1": {"organization_id": "o1"}}, "users": {"ana": {}}, "organizations": {"o1": {}}}
        super().__init__([("k1", NORMAL), ("k2", NORMAL), ("k3", BLOCK)], keys=keys, **above)

    def config(self, address: str) -> dict[str, Any]:
        return super().config(address) | {"tpm": 1000, "parallel": 2, "allow_usd": 0.25}


class LitellmTeamBench(_Bench):
    """Teams that are found by alias and by id; another alias has the first one's in it."""

    subject, tag = "team", "team"
    by_hand: ClassVar[dict[str, Any]] = {"rpm_limit": 33, "blocked": "by ana"}

    def __init__(self) -> None:
        teams: Rows = {
            "t0": {"team_alias": "research", "rpm_limit": 5, "blocked": False},
            "t1": {"team_alias": "Search", "rpm_limit": None, "blocked": False, "metadata": {"owner": "ana"}},
            "t2": {"team_alias": "search", "rpm_limit": 600, "blocked": False, "organization_id": "o1"},
            "t3": {"team_alias": "", "rpm_limit": None, "blocked": False},
        }
        super().__init__([("search", NORMAL), ("Search", NORMAL), ("t3", BLOCK)], teams=teams, organizations={"o1": {}})


class LitellmUserBench(_Bench):
    """Users with and without a limit; a block is a limit of nothing."""

    subject, tag = "user", "user"
    by_hand: ClassVar[dict[str, Any]] = {"rpm_limit": 33, "max_budget": 4.0}

    def __init__(self) -> None:
        users: Rows = {
            "ana@example.com": {"rpm_limit": 600, "max_budget": None, "spend": 3.0},
            "ben": {"rpm_limit": None, "max_budget": 9.0, "spend": 3.0},
            "cem": {"rpm_limit": None, "max_budget": 1.0, "spend": 0.0},
        }
        super().__init__([("ana@example.com", NORMAL), ("ben", NORMAL), ("cem", BLOCK)], users=users)

    def config(self, address: str) -> dict[str, Any]:
        return super().config(address) | {"allow_usd": 1.5}


class LitellmCustomerBench(_Bench):
    """Customers that may use every model, and one that may use some."""

    subject, tag = "customer", "end_user"
    by_hand: ClassVar[dict[str, Any]] = {"models": ["another"]}

    def __init__(self) -> None:
        customers: Rows = {"c1": {"models": [], "blocked": False}, "c2": {"models": ["fast"], "blocked": True}}
        super().__init__([("c1", BLOCK), ("c2", BLOCK)], customers=customers)


class LitellmModelsBench(_Bench):
    """A key without aliases, and one with two of its own, of which one leads to the expensive model."""

    subject, tag = "key", "api_key"
    by_hand: ClassVar[dict[str, Any]] = {"aliases": {"large": "by hand", "best": "by hand"}}

    def __init__(self) -> None:
        keys: Rows = {
            "k1": {"aliases": {}, "models": [], "metadata": {"owner": "ana"}, "team_id": "t1", "user_id": "ana"},
            "k2": {"aliases": {"best": "large", "fast": "tiny"}, "models": ["large", "small", "tiny"]},
        }
        above = {"teams": {"t1": {"organization_id": "o1"}}, "users": {"ana": {}}, "organizations": {"o1": {}}}
        reroute = TargetRate("reroute")
        super().__init__([("k1", reroute), ("k2", reroute)], keys=keys, **above)
        self.fake.models = ["large", "small", "tiny"]

    def config(self, address: str) -> dict[str, Any]:
        own = {"kind": "litellm_models", "name": "models", "cheaper": {"large": "small"}}
        return own | {"base_url": address, "api_key": ADMIN_KEY, "timeout_s": 0.2}

    def world(self) -> Any:
        return {name: {**row, "aliases": dict(row["aliases"])} for name, row in self._rows.items()}
