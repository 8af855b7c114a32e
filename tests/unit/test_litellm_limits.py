"""Which limit LiteLLM keys get, field by field; the admin API is a dictionary here."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.action import ActionContext, DriftError
from curb.actions.calls.http import NotFoundError
from curb.actions.levers.litellm_limits import Config, CustomerBlock, LitellmLimits, TeamLimits, UserLimits
from curb.actions.target import TargetRate, to_normal
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Baseline
from tests.fakes.alerts import NORMAL, an_alert


class Limits(LitellmLimits):
    """The action with its two calls on a dictionary; `sent` are the bodies of updates."""

    def __init__(self, keys: dict[str, dict[str, Any]], **changes: Any) -> None:
        base = {"kind": "litellm_limits", "name": "limits", "base_url": "http://gateway:4000", "api_key": "sk"}
        super().__init__(Config.model_validate(base | changes), None, ManualClock())  # type: ignore[arg-type]
        self.keys = keys
        self.sent: list[dict[str, Any]] = []

    async def _exchange(self, method: str, url: Any, json: Any = None) -> dict[str, Any]:
        key = json["key"] if json else url.query["key"]
        if key not in self.keys:
            raise NotFoundError("HTTP 404")
        if json:
            self.sent.append(json)
            self.keys[key].update({name: value for name, value in json.items() if name != "key"})
        return {"info": self.keys[key]}


@pytest.mark.parametrize(
    ("found", "changes", "p95", "expected"),
    [
        (None, {}, 20.0, 20),
        (600, {}, 20.2, 21),
        (600, {"headroom": 1.5}, 20.0, 30),
        (600, {"floor_rpm": 40}, 20.0, 40),
        (600, {}, 0.0, 1),
        (600, {}, None, 10),
        (600, {"new_principal_rpm": 3}, None, 3),
        (20, {}, 20.0, None),
        (5, {}, 20.0, None),
        (0, {}, 20.0, None),
    ],
)
async def test_the_limit_is_the_normal_level_and_never_above_the_one_found(
    found: int | None, changes: dict[str, Any], p95: float | None, expected: int | None
) -> None:
    action = Limits({"k1": {"rpm_limit": found}}, **changes)
    baseline = Baseline(expected_usd_per_hour=1.0, requests_per_minute_p95=p95, known_days=9.0)
    alert = an_alert(baseline=baseline)
    plans = await action.plan(alert, to_normal(alert))
    if expected is None:
        assert not plans
    else:
        (plan,) = plans
        assert (plan.before, plan.after) == ({"rpm_limit": found}, {"rpm_limit": expected})


@pytest.mark.parametrize(
    "info", [{"blocked": True}, {"status": "revoked"}, {"status": "deleted"}, {"status": "expired"}]
)
async def test_a_key_that_cannot_spend_is_left_alone(info: dict[str, Any]) -> None:
    assert not await Limits({"k1": {"rpm_limit": None, **info}}).plan(an_alert(), NORMAL)


@pytest.mark.parametrize("tags", [{}, {"api_key": ""}, {"api_key": UNTAGGED}, {"api_key": OTHER}, {"team": "k1"}])
async def test_an_alert_that_names_no_key_is_left_alone(tags: dict[str, str]) -> None:
    assert not await Limits({"k1": {"rpm_limit": None}}).plan(an_alert(tags=tags), NORMAL)


async def test_tokens_per_minute_are_set_only_where_they_tighten() -> None:
    action = Limits({"k1": {"rpm_limit": 5, "tpm_limit": None}}, tpm=1000)
    (plan,) = await action.plan(an_alert(), to_normal(an_alert()))
    assert (plan.before, plan.after) == ({"tpm_limit": None}, {"tpm_limit": 1000})
    assert plan.summary == "limit key k1: tpm_limit none → 1000"


async def test_only_the_fields_that_change_are_sent() -> None:
    action = Limits({"k1": {"rpm_limit": None, "metadata": {"owner": "ana"}, "max_budget": 5.0}})
    (plan,) = await action.plan(an_alert(), to_normal(an_alert()))
    await action.apply(plan)
    await action.undo(plan, None)
    assert action.sent == [{"key": "k1", "rpm_limit": 20}, {"key": "k1", "rpm_limit": None}]
    assert action.keys["k1"] == {"rpm_limit": None, "metadata": {"owner": "ana"}, "max_budget": 5.0}


async def test_undo_restores_its_own_fields_and_reports_the_changed_one() -> None:
    action = Limits({"k1": {"rpm_limit": 600, "tpm_limit": 9000}}, tpm=1000)
    (plan,) = await action.plan(an_alert(), to_normal(an_alert()))
    await action.apply(plan)
    action.keys["k1"]["tpm_limit"] = 2000
    with pytest.raises(DriftError) as caught:
        await action.undo(plan, None)
    assert caught.value.found == {"tpm_limit": 2000}
    assert action.keys["k1"] == {"rpm_limit": 600, "tpm_limit": 2000}


async def test_a_key_that_was_deleted_since_is_drift() -> None:
    action = Limits({"k1": {"rpm_limit": 600}})
    (plan,) = await action.plan(an_alert(), to_normal(an_alert()))
    action.keys.clear()
    with pytest.raises(DriftError, match="no longer exists"):
        await action.undo(plan, None)


BLOCK = TargetRate("block")


async def test_a_key_is_blocked_by_the_flag_that_is_put_back_as_it_was() -> None:
    action = Limits({"k1": {"rpm_limit": None, "blocked": None}})
    (plan,) = await action.plan(an_alert(), BLOCK)
    assert (plan.before, plan.after) == ({"blocked": None}, {"blocked": True})
    assert plan.summary == "block key k1: blocked none → True"
    await action.apply(plan)
    assert not await action.plan(an_alert(), BLOCK)
    await action.undo(plan, None)
    assert action.sent[-1] == {"key": "k1", "blocked": None}


async def test_parallel_calls_and_a_budget_are_set_only_where_they_tighten() -> None:
    row = {"rpm_limit": 5, "max_parallel_requests": 50, "max_budget": 100.0, "spend": 12.5}
    (plan,) = await Limits({"k1": row}, parallel=3, allow_usd=2.0).plan(an_alert(), NORMAL)
    # What was spent before counts, so it is added: a bare budget of 2 would refuse the next call.
    assert plan.after == {"max_parallel_requests": 3, "max_budget": 14.5}
    assert not await Limits(
        {"k1": row | {"max_parallel_requests": 2, "max_budget": 13.0}}, parallel=3, allow_usd=2.0
    ).plan(an_alert(), NORMAL)


async def test_a_budget_below_the_soft_one_is_left_out_because_the_proxy_would_refuse_all() -> None:
    row = {"rpm_limit": None, "soft_budget": 20.0, "spend": 1.0}
    (plan,) = await Limits({"k1": row}, allow_usd=2.0).plan(an_alert(), NORMAL)
    assert plan.after == {"rpm_limit": 20}


@pytest.mark.parametrize(
    ("subject", "asked", "missing"),
    [
        ("team", {"parallel": 1}, "max_parallel_requests"),
        ("user", {"parallel": 1}, "max_parallel_requests"),
        ("customer", {"tpm": 1}, "tpm_limit"),
        ("customer", {"allow_usd": 1}, "max_budget"),
    ],
)
def test_what_could_not_be_given_back_is_refused_by_the_configuration(
    subject: str, asked: dict[str, Any], missing: str
) -> None:
    with pytest.raises(ValidationError, match=f"{subject} of LiteLLM has no {missing}"):
        Limits({}, subject=subject, **asked)


def test_each_subject_has_a_class_and_a_tag_of_its_own() -> None:
    base = {"kind": "litellm_limits", "name": "limits", "base_url": "http://gateway:4000", "api_key": "sk"}
    kinds = {"key": LitellmLimits, "team": TeamLimits, "user": UserLimits, "customer": CustomerBlock}
    for subject, expected in kinds.items():
        context = ActionContext(ManualClock(), None)  # type: ignore[arg-type]
        action = Config.model_validate(base | {"subject": subject}).build(context)
        assert type(action) is expected
        assert action.verbs == ({"block"} if subject == "customer" else {"shave", "block"})


async def test_a_customer_is_never_given_a_limit_because_none_could_be_taken_back() -> None:
    base = {"kind": "litellm_limits", "name": "limits", "base_url": "http://gateway:4000", "api_key": "sk"}
    config = Config.model_validate(base | {"subject": "customer"})
    action = CustomerBlock(config, None, ManualClock())  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="no shave for a customer"):
        await action.plan(an_alert(tags={"end_user": "c1"}), NORMAL)
