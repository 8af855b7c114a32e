"""Cheaper models: which aliases a LiteLLM key gets, which prices `check-config` accepts, and what was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.action import DriftError
from curb.actions.calls.http import NotFoundError
from curb.actions.ledger.ledger import Ledger
from curb.actions.levers.litellm_models import CheaperModels, Config
from curb.actions.lifecycle.action_calls import saved_usd
from curb.actions.policy.guards import allowed
from curb.actions.policy.limits import ActionLimits
from curb.actions.policy.route import Rung
from curb.actions.policy.routing import Act, decide
from curb.actions.settings import ActionsSettings
from curb.actions.target import TargetRate
from curb.config.errors import ConfigErrors
from curb.config.file import load_text
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import LedgerEntry, Plan
from tests.fakes.alerts import T0, an_alert

REROUTE = TargetRate("reroute")


class Models(CheaperModels):
    """The action with its calls on a dictionary; `sent` are the bodies of updates."""

    def __init__(
        self,
        row: dict[str, Any],
        cheaper: Mapping[str, str] = {"large": "small"},
        parts: Mapping[str, float] = {},
        listed: tuple[str, ...] = ("large", "small", "tiny"),
        above: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:
        config = {"kind": "litellm_models", "name": "models", "base_url": "http://gateway:4000", "api_key": "sk"}
        prices = None if not parts else lambda model, of: parts.get(model)
        super().__init__(
            Config.model_validate(config | {"cheaper": dict(cheaper)}),
            None,  # type: ignore[arg-type]
            ManualClock(),
            prices,
        )
        self.keys, self.listed, self.rows = {"k1": row}, listed, above
        self.sent: list[dict[str, Any]] = []

    async def _exchange(self, method: str, url: Any, json: Any = None) -> dict[str, Any]:
        if url.path == "/v1/models":
            return {"data": [{"id": name} for name in self.listed]}
        if url.path in self.rows:
            return dict(self.rows[url.path])
        key = json["key"] if json else url.query.get("key", "")
        if key not in self.keys:
            raise NotFoundError("HTTP 404")
        if json:
            self.sent.append(json)
            self.keys[key].update({name: value for name, value in json.items() if name != "key"})
        return {"info": self.keys[key]}


async def test_the_key_gets_an_alias_and_loses_it_again() -> None:
    action = Models({"aliases": {}, "key_alias": "research", "metadata": {"owner": "ana"}}, parts={"small": 0.06})
    (plan,) = await action.plan(an_alert(), REROUTE)
    assert plan.target == "litellm/key/k1/aliases"
    assert plan.summary == "route key research to cheaper models: large → small"
    assert (plan.before, plan.after, plan.price_part) == ({"large": None}, {"large": "small"}, 0.06)
    await action.apply(plan)
    assert (await action.verify(plan)).in_force
    assert not await action.plan(an_alert(), REROUTE), "it is routed so already"
    await action.undo(plan, None)
    assert action.sent == [{"key": "k1", "aliases": {"large": "small"}}, {"key": "k1", "aliases": {}}]


async def test_aliases_of_others_stay_and_those_that_lead_to_the_model_follow_it() -> None:
    action = Models({"aliases": {"fast": "tiny", "best": "large"}})
    (plan,) = await action.plan(an_alert(), REROUTE)
    assert plan.before == {"large": None, "best": "large"}
    assert plan.after == {"large": "small", "best": "small"}
    await action.apply(plan)
    assert action.keys["k1"]["aliases"] == {"fast": "tiny", "best": "small", "large": "small"}
    action.keys["k1"]["aliases"]["new"] = "tiny"
    await action.undo(plan, None)
    assert action.keys["k1"]["aliases"] == {"fast": "tiny", "best": "large", "new": "tiny"}


async def test_an_alias_that_somebody_changed_is_drift_and_the_others_are_given_back() -> None:
    action = Models({"aliases": {"best": "large"}})
    (plan,) = await action.plan(an_alert(), REROUTE)
    await action.apply(plan)
    action.keys["k1"]["aliases"]["large"] = "tiny"
    with pytest.raises(DriftError) as caught:
        await action.undo(plan, None)
    assert caught.value.found == {"large": "tiny"}
    assert action.keys["k1"]["aliases"] == {"best": "large", "large": "tiny"}


async def test_a_key_that_is_made_again_with_the_same_secret_is_left_alone() -> None:
    action = Models({"aliases": {}, "created_at": "monday"})
    (plan,) = await action.plan(an_alert(), REROUTE)
    await action.apply(plan)
    action.keys["k1"]["created_at"] = "tuesday"
    assert not (await action.verify(plan)).in_force
    with pytest.raises(DriftError, match="made again"):
        await action.undo(plan, None)
    with pytest.raises(PermanentError, match="made again"):
        await action.apply(plan)


async def test_a_deleted_key_ends_the_lease() -> None:
    for gone in ({"status": "deleted"}, None):
        action = Models({"aliases": {}})
        (plan,) = await action.plan(an_alert(), REROUTE)
        await action.apply(plan)
        if gone is None:
            action.keys.clear()
        else:
            action.keys["k1"].update(gone)
            assert not (await action.verify(plan)).in_force
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(plan, None)


@pytest.mark.parametrize("row", [{"blocked": True}, {"rpm_limit": 0}, {"max_budget": 1.0, "spend": 2.0}])
async def test_a_key_of_which_nothing_passes_is_left_alone(row: dict[str, Any]) -> None:
    assert not await Models({"aliases": {}, **row}).plan(an_alert(), REROUTE)


@pytest.mark.parametrize("tags", [{}, {"api_key": ""}, {"team": "search"}])
async def test_an_alert_without_a_key_is_left_alone(tags: dict[str, str]) -> None:
    assert not await Models({"aliases": {}}).plan(an_alert(tags=tags), REROUTE)


TEAM = {"/team/info": {"team_info": {"models": ["large"]}, "team_memberships": []}}
MEMBER = {
    "/team/info": {
        "team_info": {"models": []},
        "team_memberships": [{"user_id": "ana", "litellm_budget_table": {"allowed_models": ["large"]}}],
    }
}


@pytest.mark.parametrize(
    ("row", "above", "passes"),
    [
        ({"models": []}, {}, True),
        ({"models": ["large", "small"]}, {}, True),
        ({"models": ["all-proxy-models"]}, {}, True),
        ({"models": ["sm*"]}, {}, True),
        ({"models": ["large"]}, {}, False),
        ({"models": ["group-of-models"]}, {}, False),
        ({"models": ["all-team-models"], "team_id": "t1"}, TEAM, False),
        ({"models": [], "team_id": "t1"}, TEAM, False),
        ({"models": [], "team_id": "t1", "user_id": "ana"}, MEMBER, False),
        ({"models": [], "team_id": "t1", "user_id": "ben"}, MEMBER, True),
        ({"models": [], "user_id": "ana"}, {"/v2/user/info": {"models": ["large"]}}, False),
        ({"models": [], "user_id": "ana", "team_id": "t1"}, {"/v2/user/info": {"models": ["large"]}}, True),
    ],
)
async def test_no_key_is_routed_to_a_model_that_would_be_refused(
    row: dict[str, Any], above: dict[str, Any], passes: bool
) -> None:
    action = Models({"aliases": {}, **row}, above=above)
    if passes:
        assert await action.plan(an_alert(), REROUTE)
    else:
        with pytest.raises(PermanentError, match="the key may not call small"):
            await action.plan(an_alert(), REROUTE)


async def test_a_model_that_the_proxy_lacks_is_left_out_and_named_when_none_is_left() -> None:
    both = {"large": "small", "huge": "missing"}
    (plan,) = await Models({"aliases": {}}, both).plan(an_alert(), REROUTE)
    assert plan.after == {"large": "small"}
    with pytest.raises(PermanentError, match="the proxy lists no model missing"):
        await Models({"aliases": {}}, {"huge": "missing"}).plan(an_alert(), REROUTE)
    assert await Models({"aliases": {}}, {"huge": "openai/x"}, listed=("openai/*",)).plan(an_alert(), REROUTE)


async def test_of_several_models_the_least_saving_counts_and_none_that_became_more_expensive() -> None:
    both = {"large": "small", "huge": "tiny"}
    (plan,) = await Models({"aliases": {}}, both, {"small": 0.5, "tiny": 0.1}).plan(an_alert(), REROUTE)
    assert (plan.after, plan.price_part) == (both, 0.5)
    (plan,) = await Models({"aliases": {}}, both, {"small": 1.5, "tiny": 0.1}).plan(an_alert(), REROUTE)
    assert (plan.after, plan.price_part) == ({"huge": "tiny"}, 0.1)
    with pytest.raises(PermanentError, match="small is not cheaper than large any more"):
        await Models({"aliases": {}}, parts={"small": 1.0}).plan(an_alert(), REROUTE)


# --- prices ---


def test_the_part_of_a_price_is_the_highest_of_its_kinds_of_tokens() -> None:
    entry = {"mode": "chat", "litellm_provider": "x"}
    large = entry | {"input_cost_per_token": 4e-6, "output_cost_per_token": 10e-6}
    small = entry | {"input_cost_per_token": 1e-6, "output_cost_per_token": 5e-6}
    book = PriceBook({"large": large, "small": small}, as_of="2026-01-01")
    assert book.part("small", "large") == pytest.approx(0.5)
    assert book.part("large", "small") == pytest.approx(4.0)
    assert book.part("large", "large") == 1.0
    assert book.part("small", "unheard-of") is None


_FILE = """
prices: {{aliases: {{house-model: gpt-4o}}}}
actions:
  actions:
    - {{kind: litellm_models, name: models, base_url: "http://litellm:4000", api_key: k, cheaper: {cheaper}}}
  routes:
    - match: {{tier: [page]}}
      ladder: [{{do: cheaper_model, act: [models]}}]
"""


def faults(cheaper: str) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigErrors) as caught:
        load_text(_FILE.format(cheaper=cheaper), {})
    return [(error.path, error.message, error.hint) for error in caught.value.errors]


def test_the_configuration_wants_a_cheaper_model_by_the_price_book() -> None:
    loaded = load_text(_FILE.format(cheaper="{gpt-4o: gpt-4o-mini, house-model: gpt-4o-mini}"), {})
    assert loaded.actions.actions[0].cheaper_models()["house-model"] == "gpt-4o-mini"
    ((path, what, hint),) = faults("{gpt-4o-mini: gpt-4o}")
    assert path == "actions.actions[0]"
    assert "gpt-4o ($2.5 in, $10 out per million tokens) is not cheaper than gpt-4o-mini ($0.15 in" in what
    assert "curb prices" in hint
    ((_, what, hint),) = faults("{gpt-4o: my-own-model}")
    assert "no price per token is known for my-own-model" in what
    assert "prices.aliases" in hint


def test_a_model_is_not_routed_to_itself() -> None:
    ((path, what, _),) = faults("{gpt-4o: gpt-4o}")
    assert path == "actions.actions[0].cheaper"
    assert "must be another model" in what


def test_a_rung_of_another_kind_of_action_is_an_error() -> None:
    text = _FILE.format(cheaper="{gpt-4o: gpt-4o-mini}").replace("cheaper_model, act", "block, act")
    with pytest.raises(ConfigErrors, match="models cannot block"):
        load_text(text, {})


# --- what was saved ---


def entry(**changes: Any) -> LedgerEntry:
    """A key that burns $240/h with 400 requests a minute, a cent each."""
    plan = Plan(action="models", target="t", summary="", before={}, after={}, price_part=0.1)
    base = LedgerEntry(
        action_id="x",
        state="applied",
        at=T0,
        alert_id="a1",
        fingerprint="f1",
        plan=plan,
        do="cheaper_model",
        usd_per_hour_before=240.0,
        requests_per_minute_before=400.0,
        spent_usd_before=20.0,
        spent_since=T0 - 300,
        measured_at=T0,
    )
    return msgspec.structs.replace(base, **changes)


def test_calls_that_were_routed_save_the_difference_of_the_prices() -> None:
    alert = an_alert(updated_at=T0 + 3600, actual_usd=44.0, usd_per_hour=24.0, requests_per_minute=400.0)
    assert saved_usd(entry(), alert, T0 + 9999) == pytest.approx(240.0 - 24.0)


def test_a_loop_that_ended_saves_nothing_more() -> None:
    """$4 were spent on calls of a tenth of the price: they would have cost $40."""
    alert = an_alert(updated_at=T0 + 3600, actual_usd=24.0, usd_per_hour=0.0, requests_per_minute=0.0)
    assert saved_usd(entry(), alert, T0 + 9999) == pytest.approx(36.0)


def test_calls_to_other_models_save_nothing() -> None:
    """As many calls a minute at the same dollars a call: none was routed."""
    alert = an_alert(updated_at=T0 + 3600, actual_usd=120.0, usd_per_hour=120.0, requests_per_minute=200.0)
    assert saved_usd(entry(), alert, T0 + 9999) == pytest.approx(0.0)


def test_without_a_price_the_dollars_of_a_call_decide_and_without_calls_the_burn() -> None:
    unknown = Plan(action="models", target="t", summary="", before={}, after={})
    alert = an_alert(updated_at=T0 + 3600, actual_usd=44.0, usd_per_hour=24.0, requests_per_minute=200.0)
    # 0.2 cents a call now, a cent before.
    assert saved_usd(entry(plan=unknown), alert, T0 + 9999) == pytest.approx(24.0 * 4)
    quiet = entry(plan=unknown, requests_per_minute_before=None)
    assert saved_usd(quiet, alert, T0 + 9999) == pytest.approx(240.0 - 24.0)


@given(
    spent=st.floats(0, 1e4),
    burn=st.floats(0, 1e4),
    requests=st.none() | st.floats(0, 1e5),
    part=st.none() | st.floats(1e-3, 1.0),
    hours=st.floats(0, 24),
)
def test_never_negative_and_never_more_than_the_burn_before(
    spent: float, burn: float, requests: float | None, part: float | None, hours: float
) -> None:
    plan = Plan(action="models", target="t", summary="", before={}, after={}, price_part=part)
    alert = an_alert(
        updated_at=T0 + 3600 * hours, actual_usd=20.0 + spent, usd_per_hour=burn, requests_per_minute=requests
    )
    saved = saved_usd(entry(plan=plan), alert, T0 + 1e6)
    assert saved is not None
    assert 0.0 <= saved <= 240.0 * hours + 1e-9
    if part is not None:
        assert saved <= max(spent, burn * hours) * (1.0 / part - 1.0) + 1e-6


# --- ladders and guards ---


def test_the_rung_asks_for_a_reroute_and_a_soft_cap_passes_it_over() -> None:
    ladder = [Rung(do="cheaper_model", act=("models",)), Rung(do="shave_to_normal", act=("limits",))]
    settings = ActionsSettings.model_construct(
        mode="auto", routes=(_route(ladder),), notifiers=(), limits=ActionLimits(), actions=()
    )
    (first,) = decide(an_alert(tier="page"), settings).ladders
    assert [(step.do, step.acts[0].verb) for step in first] == [
        ("cheaper_model", "reroute"),
        ("shave_to_normal", "shave"),
    ]
    (soft,) = decide(an_alert(tier="soft"), settings).ladders
    assert [(step.rung, step.acts[0].name) for step in soft] == [(0, "limits")]


def _route(ladder: list[Rung]) -> Any:
    from curb.actions.policy.route import Route

    return Route(ladder=tuple(ladder))


@pytest.mark.parametrize(
    ("limits", "tags", "passes"),
    [
        ({"shave_unmarked": True}, {}, True),
        ({}, {}, False),
        ({}, {"criticality": "important"}, True),
        ({"shave_unmarked": True}, {"criticality": "critical"}, False),
    ],
)
def test_it_may_be_done_where_the_rate_may_be_brought_to_normal(
    limits: dict[str, Any], tags: dict[str, str], passes: bool
) -> None:
    """It refuses no call, so a large share of the traffic is no reason either."""
    alert = an_alert(tags={"api_key": "k1", **tags}, share=0.9)
    plan = Plan(action="models", target="litellm/key/k1/aliases", summary="", before={"a": None}, after={"a": "b"})
    settings = ActionsSettings.model_construct(actions=(), limits=ActionLimits(**limits), warmup_days=3.0)
    act = Act("models", "auto", 3600.0, verb="reroute", leaves_normal=False, do="cheaper_model")
    found, why = allowed([plan], alert, act, Ledger(), settings, now=T0)
    assert bool(found) is passes, why
