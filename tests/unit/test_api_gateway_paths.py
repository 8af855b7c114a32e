"""Limits of API Gateway as fields, and the patch operations that set and remove them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.calls.compare_and_swap import swap
from curb.actions.levers.aws_api_gateway import (
    UNLIMITED,
    Config,
    patch,
    plan_fields,
    quota_rate,
    rates,
    stage_fields,
    tighter,
    together,
)
from curb.actions.policy.guards import raises_a_limit
from curb.stream.records.spend import Plan

RATE, BURST = "/throttle/rateLimit", "/throttle/burstLimit"
STAGE_RATE, STAGE_BURST = "/*/*/throttling/rateLimit", "/*/*/throttling/burstLimit"


def replace(path: str, value: str) -> dict[str, str]:
    return {"op": "replace", "path": path, "value": value}


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        ({}, {RATE: None, BURST: None}),
        ({"throttle": {"rateLimit": 5.0}}, {RATE: 5.0}),
        ({"throttle": {"rateLimit": 5.0, "burstLimit": 9}}, {RATE: 5.0, BURST: 9}),
        ({"quota": {"limit": 7, "period": "DAY"}}, {RATE: None, BURST: None, "/quota/limit": 7}),
        (
            {"apiStages": [{"apiId": "a", "stage": "s", "throttle": {"/x/GET": {"rateLimit": 1.0, "burstLimit": 2}}}]},
            {
                RATE: None,
                BURST: None,
                "/apiStages/a:s/throttle//x/GET/rateLimit": 1.0,
                "/apiStages/a:s/throttle//x/GET/burstLimit": 2,
            },
        ),
        ({"apiStages": [{"apiId": "a", "stage": "s"}]}, {RATE: None, BURST: None}),
    ],
)
def test_fields_of_a_usage_plan(answer: dict[str, Any], fields: dict[str, Any]) -> None:
    assert plan_fields(answer) == fields


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        ({}, {STAGE_RATE: None, STAGE_BURST: None}),
        ({"methodSettings": {"*/*": {"loggingLevel": "INFO"}}}, {STAGE_RATE: None, STAGE_BURST: None}),
        (
            {"methodSettings": {"*/*": {"throttlingRateLimit": -1.0, "throttlingBurstLimit": -1}}},
            {STAGE_RATE: UNLIMITED, STAGE_BURST: UNLIMITED},
        ),
        (
            {"methodSettings": {"chat/POST": {"throttlingRateLimit": 5.0, "throttlingBurstLimit": 9}}},
            {
                STAGE_RATE: None,
                STAGE_BURST: None,
                "/chat/POST/throttling/rateLimit": 5.0,
                "/chat/POST/throttling/burstLimit": 9,
            },
        ),
    ],
)
def test_fields_of_a_stage(answer: dict[str, Any], fields: dict[str, Any]) -> None:
    assert stage_fields(answer) == fields


@pytest.mark.parametrize(
    ("rpm", "burst_s", "rate", "burst"),
    [(20, 60.0, 0.3334, 20), (60, 60.0, 1.0, 60), (60, 5.0, 1.0, 5), (1, 60.0, 0.0167, 1), (0, 60.0, 0.0, 0)],
)
def test_a_rate_per_minute_becomes_one_per_second_and_is_never_rounded_down(
    rpm: int, burst_s: float, rate: float, burst: int
) -> None:
    assert rates({RATE: None, BURST: 5, "/quota/limit": 8}, rpm, burst_s) == {RATE: rate, BURST: burst}


@pytest.mark.parametrize(
    ("quota", "limit"),
    [({"period": "DAY"}, 28_800), ({"period": "WEEK"}, 201_600), ({"period": "MONTH"}, 864_000), (None, None)],
)
def test_a_quota_lasts_its_period_at_the_rate(quota: Any, limit: int | None) -> None:
    assert quota_rate({"quota": quota}, 20) == ({} if limit is None else {"/quota/limit": limit})


def test_only_what_is_lower_is_set() -> None:
    found = {RATE: 0.2, BURST: None, STAGE_RATE: UNLIMITED, STAGE_BURST: 20}
    wanted = {RATE: 0.3334, BURST: 20, STAGE_RATE: 0.3334, STAGE_BURST: 20}
    assert tighter(found, wanted) == {BURST: 20, STAGE_RATE: 0.3334}


def test_a_stage_that_is_not_throttled_may_be() -> None:
    plan = Plan(action="a", target="t", summary="", before={STAGE_RATE: UNLIMITED}, after={STAGE_RATE: 0.5})
    assert not raises_a_limit(plan)


def test_values_are_written_as_api_gateway_reads_them() -> None:
    values = {RATE: 0.3334, BURST: 20, STAGE_RATE: UNLIMITED, "/enabled": False, "/quota/limit": 12_345_678.0}
    assert [operation["value"] for operation in patch(values)] == ["0.3334", "20", "-1", "false", "12345678"]


def test_a_throttle_that_did_not_exist_is_removed_as_a_whole() -> None:
    assert patch({RATE: None, BURST: None}) == [{"op": "remove", "path": "/throttle"}]
    assert patch({STAGE_RATE: None, STAGE_BURST: None}, {}) == [{"op": "remove", "path": "/*/*"}]


@pytest.mark.parametrize(
    "settings",
    [{"loggingLevel": "INFO"}, {"metricsEnabled": True}, {"cachingEnabled": True}, {"dataTraceEnabled": True}],
)
def test_settings_of_a_stage_that_came_in_between_survive(settings: dict[str, Any]) -> None:
    answer = {"methodSettings": {"*/*": settings}}
    assert patch({STAGE_RATE: None, STAGE_BURST: None}, answer) == [
        replace(STAGE_RATE, "-1"),
        replace(STAGE_BURST, "-1"),
    ]


def test_a_throttle_is_not_removed_when_a_part_of_it_is_somebody_elses() -> None:
    plan = Plan(
        action="a",
        target="t",
        summary="",
        before={RATE: None, BURST: None, "/quota/limit": 9},
        after={RATE: 0.5, BURST: 20, "/quota/limit": 5},
    )
    swapped = together(swap(plan, {RATE: 3.0, BURST: 20, "/quota/limit": 5}))
    assert (swapped.back, swapped.drifted) == ({"/quota/limit": 9}, {RATE: 3.0, BURST: 20})


def test_a_stage_and_usage_plans_are_two_configurations() -> None:
    base = {"kind": "aws_api_gateway", "name": "a", "stage": {"rest_api_id": "a1", "name": "prod"}}
    with pytest.raises(ValidationError, match="either stage or usage_plans"):
        Config.model_validate(base | {"usage_plans": {"search": "p1"}})
