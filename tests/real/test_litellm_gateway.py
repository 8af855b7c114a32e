"""The real LiteLLM proxy: a runaway key is limited and has its limit back later; so have teams, users and customers.

Switch it on with CURB_TEST_LITELLM=http://127.0.0.1:4000,<master key>; `tests/real/litellm_proxy.py` says what the
proxy needs. It takes about three minutes of real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import aiohttp
import pytest

from curb.actions.action import ActionContext, DriftError
from curb.actions.levers import litellm_limits, litellm_models
from curb.actions.target import TargetRate
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from tests.fakes.alerts import an_alert
from tests.real.litellm_proxy import PORT, Proxy, find_proxy

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

OLD_LIMIT, NEW_LIMIT = 500, 5
_CONFIG = """
log: {{kind: embedded, directory: {directory}}}
http: {{port: {port}}}
connectors:
  - {{kind: litellm, name: gateway, token: ingest-token}}
detector:
  bucket_s: 10
  grace_s: 8
  budgets:
    - name: per-key
      scope: key
      match: {{api_key: "{key}"}}
      amount_usd: 0.0001
      period: day
      thresholds: [100]
      hard: true
actions:
  mode: auto
  notifiers: [{{kind: console, name: on-call}}]
  actions:
    - {{kind: litellm_limits, name: throttle, base_url: "{url}", api_key: {master}, new_principal_rpm: {limit}}}
  routes:
    - {{match: {{kind: [budget]}}, notify: [on-call], act: [throttle], lease_minutes: 1}}
  limits: {{shave_unmarked: true}}
"""


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with find_proxy() as found:
        yield found


class Caller(NamedTuple):
    """A subject of the proxy that really exists, a key that calls for it, and how to read what the proxy holds."""

    alert_tag: dict[str, str]
    key: str
    path: str
    query: dict[str, str]
    customer: str = ""

    async def statuses(self, proxy: Proxy, calls: int) -> Counter[int]:
        return Counter([(await proxy.call(self.key, self.customer)).status for _ in range(calls)])

    async def row(self, proxy: Proxy) -> dict[str, Any]:
        """What the proxy holds about it, without what every call changes."""
        answer = await proxy.admin("GET", self.path, params=self.query)
        row = answer.get("info") or answer.get("team_info") or answer
        changing = ("spend", "total_spend", "updated_at", "settings_updated_at", "last_active", "updated_by")
        return {name: value for name, value in row.items() if name not in changing}


async def a_caller(proxy: Proxy, subject: str) -> Caller:
    """Makes a new one, with an owner in its metadata and a limit of its own where it can have one."""
    name = f"curb-{subject}-{uuid.uuid4().hex[:8]}"
    own = {"metadata": {"owner": "ana"}, "rpm_limit": OLD_LIMIT}
    key_of: dict[str, Any] = {}
    if subject == "team":
        team = await proxy.admin("POST", "/team/new", json={"team_alias": name, **own})
        key_of = {"team_id": team["team_id"]}
    elif subject == "user":
        await proxy.admin("POST", "/user/new", json={"user_id": name, "auto_create_key": False, **own})
        key_of = {"user_id": name}
    elif subject == "key":
        key_of = own
    elif subject == "customer":
        await proxy.admin("POST", "/customer/new", json={"user_id": name})
    made = await proxy.admin("POST", "/key/generate", json=key_of)
    return {
        "key": Caller({"api_key": made["token"]}, made["key"], "/key/info", {"key": made["token"]}),
        "team": Caller({"team": name}, made["key"], "/team/info", key_of),
        "user": Caller({"user": name}, made["key"], "/v2/user/info", key_of),
        "customer": Caller({"end_user": name}, made["key"], "/customer/info", {"end_user_id": name}, name),
    }[subject]


@contextlib.asynccontextmanager
async def curb(config: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "curb", "run", "-c", str(config))
    try:
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0


async def until(what: str, done: Callable[[], Awaitable[bool]], seconds: float) -> None:
    for _ in range(int(seconds / 0.5)):
        if await done():
            return
        await asyncio.sleep(0.5)
    pytest.fail(f"not within {seconds} s: {what}")


async def test_a_runaway_key_is_limited_and_gets_its_limit_back(proxy: Proxy, tmp_path: Path) -> None:
    made = await proxy.admin("POST", "/key/generate", json={"rpm_limit": OLD_LIMIT, "models": ["fake-gpt"]})
    key, key_hash = made["key"], made["token"]
    config = tmp_path / "curb.yaml"
    values = {"url": proxy.url, "master": proxy.master, "key": key_hash, "limit": NEW_LIMIT, "port": PORT}
    text = _CONFIG.format(directory=tmp_path / "data", **values)
    config.write_text(text, encoding="utf-8")
    statuses: Counter[int] = Counter()

    async def loop_until_refused() -> bool:
        statuses[(await proxy.call(key)).status] += 1
        return statuses[429] >= 3

    async def restored() -> bool:
        return await proxy.limit(key_hash) == OLD_LIMIT

    async with curb(config):
        await until("the looping key gets 429", loop_until_refused, 150)
        assert await proxy.limit(key_hash) == NEW_LIMIT
        await until("the old limit is back after the lease", restored, 150)
    assert statuses[200] > NEW_LIMIT
    assert await _ledger_states(config) == ["planned", "applied", "restored"]


@pytest.mark.parametrize("subject", ["key", "team", "user", "customer"])
@pytest.mark.parametrize("verb", ["shave", "block"])
async def test_each_subject_is_refused_at_once_and_is_as_before_after_undo(
    proxy: Proxy, subject: str, verb: Literal["shave", "block"]
) -> None:
    settings: dict[str, Any] = {"kind": "litellm_limits", "name": "limits", "base_url": proxy.url, "subject": subject}
    settings |= {"tpm": 100_000, "allow_usd": 1.0} if subject != "customer" else {}
    settings |= {"parallel": 50} if subject == "key" else {}
    caller = await a_caller(proxy, subject)
    before = await caller.row(proxy)
    alert, rate = an_alert(tags=caller.alert_tag), TargetRate(verb, requests_per_minute=NEW_LIMIT)
    assert await caller.statuses(proxy, 2) == {200: 2}
    async with aiohttp.ClientSession() as http:
        context = ActionContext(WallClock(), http)
        action = litellm_limits.Config.model_validate(settings | {"api_key": proxy.master}).build(context)
        if verb not in action.verbs:
            with pytest.raises(PermanentError):
                await action.plan(alert, rate)
            return
        (plan,) = await action.plan(alert, rate)
        await action.apply(plan)
        assert (await action.verify(plan)).in_force
        answers = await caller.statuses(proxy, NEW_LIMIT + 5)
        if verb == "block":
            assert not answers[200]
        else:
            # Calls already made in the minute count where the proxy counted them before there was a limit.
            assert NEW_LIMIT - 2 <= answers[200] <= NEW_LIMIT
            assert answers[429]
        await action.undo(plan, None)
        await action.undo(plan, None)
    assert await caller.row(proxy) == before
    assert await caller.statuses(proxy, 3) == {200: 3}


async def test_a_key_is_answered_by_a_cheaper_model_until_its_alias_is_taken_back(proxy: Proxy) -> None:
    models, own = ["fake-large", "fake-gpt"], {"fast": "fake-gpt"}
    made = await proxy.admin("POST", "/key/generate", json={"models": models, "aliases": own})
    key, row = made["key"], Caller({}, made["key"], "/key/info", {"key": made["token"]})
    before, alert = await row.row(proxy), an_alert(tags={"api_key": made["token"]})
    large, small = await proxy.call(key, model="fake-large"), await proxy.call(key)
    assert large.usd > 10 * small.usd > 0
    settings = {"kind": "litellm_models", "name": "cheaper", "cheaper": {"fake-large": "fake-gpt"}}
    async with aiohttp.ClientSession() as http:
        config = settings | {"base_url": proxy.url, "api_key": proxy.master}
        action = litellm_models.Config.model_validate(config).build(ActionContext(WallClock(), http))
        (plan,) = await action.plan(alert, TargetRate("reroute"))
        await action.apply(plan)
        assert (await action.verify(plan)).in_force
        assert await proxy.call(key, model="fake-large") == small
        assert await proxy.call(key, model="fast") == small
        assert await action.plan(alert, TargetRate("reroute")) == ()
        await action.undo(plan, None)
        await action.undo(plan, None)
        assert await row.row(proxy) == before
        assert await proxy.call(key, model="fake-large") == large

        narrow = await proxy.admin("POST", "/key/generate", json={"models": ["fake-large"]})
        with pytest.raises(PermanentError, match="may not call fake-gpt"):
            await action.plan(an_alert(tags={"api_key": narrow["token"]}), TargetRate("reroute"))
        # What the plan is for: by an alias alone the proxy refuses every call of such a key.
        await proxy.admin("POST", "/key/update", json={"key": narrow["token"], "aliases": plan.after})
        assert (await proxy.call(narrow["key"], model="fake-large")).status in (401, 403)


async def test_a_budget_tier_is_never_raised_and_a_spent_one_stays_spent(proxy: Proxy) -> None:
    tier = f"curb-tier-{uuid.uuid4().hex[:8]}"
    await proxy.admin("POST", "/budget/new", json={"budget_id": tier, "rpm_limit": 2, "max_budget": 50})
    made = await proxy.admin("POST", "/key/generate", json={"budget_id": tier})
    settings: dict[str, Any] = {"kind": "litellm_limits", "name": "limits", "base_url": proxy.url, "allow_usd": 1.0}
    async with aiohttp.ClientSession() as http:
        action = litellm_limits.Config.model_validate(settings | {"api_key": proxy.master}).build(
            ActionContext(WallClock(), http)
        )
        alert = an_alert(tags={"api_key": made["token"]})
        (plan,) = await action.plan(alert, TargetRate("shave", requests_per_minute=6))
        assert set(plan.after) == {"max_budget"}  # 2 calls a minute are fewer than 6; $1 is less than $50
        (plan,) = await action.plan(alert, TargetRate("shave", requests_per_minute=1))
        assert (plan.before["rpm_limit"], plan.after["rpm_limit"]) == (None, 1)
        await action.apply(plan)
        await action.undo(plan, None)
        assert await proxy.limit(made["token"]) is None

        spent = f"{tier}-spent"
        await proxy.admin("POST", "/budget/new", json={"budget_id": spent, "max_budget": 0.0000001})
        poor = await proxy.admin("POST", "/key/generate", json={"budget_id": spent})
        assert (await proxy.call(poor["key"])).status == 200

        async def refused() -> bool:
            return (await proxy.call(poor["key"])).status == 422

        async def known() -> bool:
            return not await action.plan(
                an_alert(tags={"api_key": poor["token"]}), TargetRate("shave", requests_per_minute=6)
            )

        await until("its budget is spent", refused, 60)
        await until("the spend is on its row, so nothing is planned", known, 60)
        await proxy.admin("POST", "/key/delete", json={"keys": [made["token"]]})
        assert await action.plan(alert, TargetRate("shave", requests_per_minute=1)) == ()
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(plan, None)


async def test_what_a_person_sets_while_curb_limits_stays(proxy: Proxy) -> None:
    made = await proxy.admin("POST", "/key/generate", json={"rpm_limit": OLD_LIMIT})
    settings: dict[str, Any] = {"kind": "litellm_limits", "name": "limits", "base_url": proxy.url, "tpm": 100_000}
    async with aiohttp.ClientSession() as http:
        action = litellm_limits.Config.model_validate(settings | {"api_key": proxy.master}).build(
            ActionContext(WallClock(), http)
        )
        (plan,) = await action.plan(
            an_alert(tags={"api_key": made["token"]}), TargetRate("shave", requests_per_minute=6)
        )
        await action.apply(plan)
        assert (await action.verify(plan)).in_force
        await proxy.admin("POST", "/key/update", json={"key": made["token"], "rpm_limit": 77})
        assert not (await action.verify(plan)).in_force
        with pytest.raises(DriftError) as caught:
            await action.undo(plan, None)
        assert caught.value.found == {"rpm_limit": 77}
        row = (await proxy.admin("GET", "/key/info", params={"key": made["token"]}))["info"]
        assert (row["rpm_limit"], row["tpm_limit"]) == (77, None)


async def _ledger_states(config: Path) -> list[str]:
    """States of the one action, in order; whether the burn fell within a minute's lease is not asked here."""

    async def curb_json(*arguments: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "curb", "actions", *arguments, "--json", "-c", str(config)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return [json.loads(line) for line in out.splitlines()]

    (newest,) = await curb_json("list", "--all")
    life = await curb_json("show", newest["action_id"])
    return [entry["state"] for entry in life if entry["state"] not in ("effective", "ineffective")]
