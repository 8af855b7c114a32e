"""Limits of Envoy as figures and as text: never above what was asked, found in the right place, put back as it was."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.levers.envoy_routes import Bucket, DescriptorPlace, Held, Routes, bucket_for, held, written
from curb.stream.errors import PermanentError
from tests.fakes.envoy import ROUTES

PLACE = DescriptorPlace("models", "", "envoy.filters.http.local_ratelimit", "api_key", "x-api-key")
LOCAL = "typed_per_filter_config: {envoy.filters.http.local_ratelimit: {stat_prefix: x, descriptors: []}}"


@given(st.integers(1, 1_000_000), st.floats(0.1, 60.0))
def test_a_bucket_lets_through_what_was_asked_and_no_more(requests_per_minute: int, burst_s: float) -> None:
    bucket = bucket_for(requests_per_minute, burst_s)
    assert 0.95 * requests_per_minute <= bucket.requests_per_minute <= requests_per_minute
    assert bucket.fill_s >= 0.05, "Envoy refuses to fill more often"
    assert bucket.max_tokens >= bucket.tokens_per_fill >= 1
    data = yaml.safe_load(written(bucket))
    assert data == {
        "max_tokens": bucket.max_tokens,
        "tokens_per_fill": bucket.tokens_per_fill,
        "fill_interval": f"{bucket.fill_s:g}s",
    }


@pytest.mark.parametrize(
    ("requests_per_minute", "expected"),
    [
        (1, '{"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "60s"}'),
        (20, '{"max_tokens": 4, "tokens_per_fill": 1, "fill_interval": "3s"}'),
        (90, '{"max_tokens": 15, "tokens_per_fill": 1, "fill_interval": "0.667s"}'),
        (6000, '{"max_tokens": 1000, "tokens_per_fill": 5, "fill_interval": "0.05s"}'),
    ],
)
def test_buckets_as_they_are_written(requests_per_minute: int, expected: str) -> None:
    assert written(bucket_for(requests_per_minute, burst_s=10.0)) == expected


def test_a_subject_is_found_by_its_one_entry() -> None:
    routes = Routes(ROUTES, PLACE)
    assert routes.limit("sk-one") == Bucket(600, 600, 60.0)
    assert routes.limit("nightly") == Bucket(5, 5, 1.0)
    assert routes.limit("sk-two") is routes.limit(None) is routes.block("sk-one") is None
    assert (routes.descriptors, routes.stat_prefix) == (2, "models")


def test_limits_and_blocks_of_many_subjects_come_and_go_in_any_order() -> None:
    text = ROUTES
    for number in range(3):
        text = Routes(text, PLACE).with_bucket(f"k{number}", written(bucket_for(20, 10)))
        text = Routes(text, PLACE).with_block(f"b{number}", 403)
    found = Routes(text, PLACE).bucket("sk-one")
    text = Routes(text, PLACE).with_bucket("sk-one", written(bucket_for(7, 10)))
    assert Routes(text, PLACE).limit("sk-one") == bucket_for(7, 10)
    host = yaml.safe_load(text)["resources"][0]["virtual_hosts"][1]
    assert host["routes"][-1]["name"] == "all", "blocks stand before the route they are taken out of"
    for number in (1, 2, 0):
        text = Routes(text, PLACE).with_block(f"b{number}", None)
        text = Routes(text, PLACE).with_bucket(f"k{number}", None)
    assert Routes(text, PLACE).with_bucket("sk-one", found) == ROUTES


def test_taking_out_what_is_not_there_changes_nothing() -> None:
    routes = Routes(ROUTES, PLACE)
    assert routes.with_bucket("sk-two", None) == routes.with_block("sk-two", None) == ROUTES


def test_a_named_route_may_have_limits_of_its_own() -> None:
    text = f"resources: [{{virtual_hosts: [{{name: models, routes: [{{name: chat, {LOCAL}}}, {{name: embed}}]}}]}}]"
    routes = Routes(text, PLACE._replace(route="chat"))
    text = routes.with_bucket("k1", written(bucket_for(20, 10)))
    assert Routes(text, PLACE._replace(route="chat")).limit("k1") == bucket_for(20, 10)
    with pytest.raises(PermanentError, match="in 'embed' has no list `descriptors`"):
        Routes(text, PLACE._replace(route="embed"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: []", "no virtual host 'models'"),
        ("resources: [{virtual_hosts: [{name: models}, {name: models}]}]", "2 virtual host 'models'"),
        ("resources: [{virtual_hosts: [{name: models}]}]", "no list of routes"),
        ("resources: [{virtual_hosts: [{name: models, routes: []}]}]", "no list `descriptors`"),
        ("{}", "no virtual host 'models'"),
    ],
)
def test_a_place_that_is_not_clear_is_refused(text: str, message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        Routes(text, PLACE)


@pytest.mark.parametrize(
    "bucket", ["1", "{max_tokens: 5}", "{max_tokens: five, fill_interval: 1s}", "{fill_interval: 1h}"]
)
def test_what_is_no_bucket_is_refused(bucket: str) -> None:
    descriptor = f"{{entries: [{{key: api_key, value: k1}}], token_bucket: {bucket}}}"
    text = f"resources: [{{virtual_hosts: [{{name: models, routes: [], {LOCAL.replace('[]', f'[{descriptor}]')}}}]}}]"
    with pytest.raises(PermanentError, match="no token bucket"):
        Routes(text, PLACE).limit("k1")


def test_two_descriptors_of_one_subject_are_refused() -> None:
    text = Routes(ROUTES, PLACE).with_bucket("k1", written(bucket_for(20, 10))).replace('"k1"', '"sk-one"')
    with pytest.raises(PermanentError, match="2 descriptors of the same api_key"):
        Routes(text, PLACE).limit("sk-one")


def test_what_envoy_says_is_read_from_its_dump() -> None:
    text = Routes(ROUTES, PLACE).with_bucket("k1", written(bucket_for(20, 10)))
    text = Routes(text, PLACE).with_block("k2", 403)
    dump: dict[str, Any] = {"configs": [{"route_config": each} for each in yaml.safe_load(text)["resources"]]}
    assert held(dump, PLACE, "k1") == Held(bucket_for(20, 10), None)
    assert held(dump, PLACE, "k2") == Held(None, 403)
    assert held(dump, PLACE, "k3") == Held(None, None)
    assert held(dump, PLACE._replace(virtual_host="other"), "k1") is None
    assert held(dump, PLACE._replace(route="all"), "k1") is None
    assert held({}, PLACE, "k1") is None
