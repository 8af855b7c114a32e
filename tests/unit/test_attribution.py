"""Attribution: normal spelling, defaults, rules, owners, shares, untagged spend, and tags that mean harm."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import ValidationError

from curb.connectors.connector import Batch
from curb.connectors.intake import attribution as module
from curb.connectors.intake.append import append_batch
from curb.connectors.intake.attribution import Attribution, AttributionSettings, TagRule
from curb.connectors.intake.shares import MAX_PARTS, part_id, parts
from curb.connectors.validate import clean_tags
from curb.stream.errors import TransientError
from curb.stream.log.topics import CURSORS, USAGE
from curb.stream.records.spend import OTHER, UNTAGGED, CostRecord, GpuRecord, SpendRecord, UsageRecord
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_000.0
WINDOW = int(NOW // 3600)


def usage(record_id: str = "r", usd: float = 1.0, at: float = NOW, **tags: str) -> UsageRecord:
    return UsageRecord(id=record_id, charge_period_start=at, received_at=at, effective_cost=usd, tags=tags)


def make(*known: str, **settings: Any) -> Attribution:
    return Attribution(AttributionSettings.model_validate(settings), known)


def tags_of(attribution: Attribution, source: str = "s", /, **tags: str) -> dict[str, str]:
    return attribution.apply([usage(**tags)], source=source, at=NOW).records[0].tags


# --- spelling --------------------------------------------------------------------------------------------------------


def test_names_that_curb_uses_come_in_any_case_and_others_stay() -> None:
    assert tags_of(make("project"), Team="a", PROJECT="b", Colour="Red") == {
        "team": "a",
        "project": "b",
        "Colour": "Red",
    }


@pytest.mark.parametrize(
    "tags",
    [
        {"owner": "x", "team": "right"},
        {"team": "right", "owner": "x"},
        {"TEAM": "right", "owner": "x"},
        {"squad": "x", "Owner": "right"},
    ],
)
def test_the_right_name_wins_then_the_alias_named_first(tags: dict[str, str]) -> None:
    assert tags_of(make(keys={"team": ("Owner", "squad")}), **tags) == {"team": "right"}


def test_values_get_their_right_spelling() -> None:
    attribution = make(lower_case=["team"], values={"env": {"prod": ["production", "PRD"]}})
    assert tags_of(attribution, team="SeArch", env="Prd") == {"team": "search", "env": "prod"}
    assert tags_of(attribution, env="stage") == {"env": "stage"}


def test_values_that_are_not_allowed_are_taken_away_or_replaced() -> None:
    allowed = {"team": {"values": ["Search", "ads"]}, "env": {"values": ["prod"], "otherwise": "other"}}
    assert tags_of(make(allowed=allowed), team="SEARCH", env="x") == {"team": "Search", "env": "other"}
    assert tags_of(make(allowed=allowed), team="nobody") == {}


@pytest.mark.parametrize("value", [UNTAGGED, OTHER])
def test_nobody_can_call_himself_untagged_or_other(value: str) -> None:
    assert tags_of(make(), team=value) == {}


# --- defaults, rules, owners -----------------------------------------------------------------------------------------


def test_defaults_belong_to_their_connector_and_its_backfill_and_never_overwrite() -> None:
    attribution = make(defaults={"gateway": {"env": "prod"}})
    assert tags_of(attribution, "gateway", team="a") == {"team": "a", "env": "prod"}
    assert tags_of(attribution, "gateway/backfill", team="a") == {"team": "a", "env": "prod"}
    assert tags_of(attribution, "gateway", env="dev") == {"env": "dev"}
    assert tags_of(attribution, "other", team="a") == {"team": "a"}


def test_rules_go_in_order_and_see_what_earlier_ones_gave() -> None:
    rules = [
        {"match": {"project": "check*"}, "tags": {"team": "payments"}},
        {"match": {"team": "payments"}, "tags": {"unit": "money", "team": "never"}},
        {"match": {"unit": "money"}, "tags": {"project": "CHECKOUT"}, "override": True},
    ]
    assert tags_of(make(rules=rules), project="checkout") == {
        "team": "payments",
        "unit": "money",
        "project": "CHECKOUT",
    }
    assert tags_of(make(rules=rules), project="other") == {"project": "other"}


def test_rules_match_fields_of_the_record_where_it_has_no_such_tag() -> None:
    rules = [
        {"match": {"service_name": "Amazon *", "sub_account_id": "42"}, "tags": {"team": "cloud"}},
        {"match": {"source": "s", "request_model": "gpt-*"}, "tags": {"team": "chat"}},
    ]
    attribution = make(rules=rules)
    bill = CostRecord(id="c", charge_period_start=NOW, received_at=NOW, effective_cost=1.0, tags={})
    bill.service_name, bill.sub_account_id = "Amazon EC2", "42"
    other = msgspec.structs.replace(bill, sub_account_id="43", tags={})
    call = msgspec.structs.replace(usage(), request_model="gpt-5", tags={})
    found = attribution.apply([bill, other, call], source="s", at=NOW).records
    assert [record.tags for record in found] == [{"team": "cloud"}, {}, {"team": "chat"}]
    assert attribution.apply([call], source="t", at=NOW).records[0].tags == {"team": "chat"}
    fresh = msgspec.structs.replace(call, tags={})
    assert attribution.apply([fresh], source="t", at=NOW).records[0].tags == {}


def test_the_first_owner_that_matches_gives_team_and_criticality() -> None:
    owners = [
        {"match": {"project": "checkout"}, "team": "payments", "criticality": "critical"},
        {"match": {"project": "*"}, "team": "platform"},
    ]
    assert tags_of(make(owners=owners), project="checkout")["criticality"] == "critical"
    assert tags_of(make(owners=owners), project="x", team="mine") == {"project": "x", "team": "mine"}
    assert tags_of(make(owners=owners), project="x") == {"project": "x", "team": "platform"}
    assert tags_of(make(owners=owners)) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": {"team": ["owner"], "user": ["Owner"]}}, "stands for both team and user"),
        ({"values": {"env": {"a": ["x"], "b": ["X"]}}}, "values.env"),
        ({"shares": [{"name": "a", "match": {"x": "y"}}]}, "give `fixed` weights, or `by`"),
        ({"shares": [{"name": "a", "match": {"x": "y"}, "fixed": {"t": 0}}]}, "above 0"),
        ({"shares": [{"name": "a", "match": {"x": "y"}, "fixed": {"t": math.inf}}]}, "above 0"),
        ({"shares": [{"name": "a", "match": {"x": "y"}, "by": "requests"}] * 2}, "the same name"),
        ({"rules": [{"tags": {"team": UNTAGGED}}]}, "cannot be given"),
        ({"owners": [{"match": {"a": "b"}, "slack_channel": "#ops"}]}, "slack_channel"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AttributionSettings.model_validate(settings)


# --- shares ----------------------------------------------------------------------------------------------------------


def gpu(record_id: str, seconds: float, at: float = NOW, **tags: str) -> GpuRecord:
    return GpuRecord(
        id=record_id, charge_period_start=at, received_at=at, effective_cost=1.0, tags=tags, gpu_seconds=seconds
    )


SHARED = {"name": "cluster", "match": {"resource": "shared"}, "by": "gpu_seconds", "window_s": 3600}


def test_fixed_shares() -> None:
    attribution = make(shares=[{"name": "db", "match": {"resource": "db"}, "fixed": {"a": 3, "b": 1}}])
    found = attribution.apply([usage("r", 10.0, resource="db"), usage("q", team="c")], source="s", at=NOW).records
    assert [(each.tags.get("team"), each.effective_cost) for each in found] == [("a", 7.5), ("b", 2.5), ("c", 1.0)]
    assert len({each.id for each in found}) == 3


@pytest.mark.parametrize(
    ("by", "shares"),
    [("gpu_seconds", {"a": 4.0}), ("tokens", {"a": 1.0, "b": 3.0}), ("requests", {"a": 2.0, "b": 2.0})],
)
def test_shares_by_use(by: str, shares: dict[str, float]) -> None:
    attribution = make(shares=[{**SHARED, "by": by}])
    seen: list[SpendRecord] = [gpu("g", 30.0, NOW - 3600, team="a")]
    for team, tokens in (("a", 100), ("b", 300)):
        call = usage(team, at=NOW - 3600, team=team)
        call.requests, call.input_tokens, call.output_tokens = 1, tokens // 2, tokens // 2
        seen.append(call)
    attribution.apply(seen, source="s", at=NOW - 3600)
    found = attribution.apply([usage("shared", 4.0, resource="shared")], source="s", at=NOW).records
    assert {each.tags["team"]: each.effective_cost for each in found} == pytest.approx(shares)


def test_only_the_named_consumers_count_and_what_is_shared_uses_nothing() -> None:
    attribution = make(shares=[{**SHARED, "consumers": {"cluster": "one"}}])
    seen = [
        gpu("1", 1.0, NOW - 3600, team="a", cluster="one"),
        gpu("2", 9.0, NOW - 3600, team="b", cluster="two"),
        gpu("3", 9.0, NOW - 3600, team="c", cluster="one", resource="shared"),
    ]
    attribution.apply(seen, source="s", at=NOW - 3600)
    found = attribution.apply([gpu("4", 1.0, resource="shared")], source="s", at=NOW).records
    assert [each.tags["team"] for each in found] == ["a"]


def test_while_nobody_is_known_the_fixed_weights_hold_or_the_record_stays_whole() -> None:
    whole = make(shares=[SHARED]).apply([usage("r", resource="shared")], source="s", at=NOW).records
    assert [(each.id, each.tags) for each in whole] == [("r", {"resource": "shared"})]
    fixed = make(shares=[{**SHARED, "fixed": {"platform": 1}}])
    assert fixed.apply([usage("r", resource="shared")], source="s", at=NOW).records[0].tags["team"] == "platform"


def test_a_bill_for_a_past_window_is_split_by_the_use_of_that_window() -> None:
    attribution = make(shares=[SHARED])
    for hour, team in ((3, "early"), (2, "then"), (0, "now")):
        attribution.apply([gpu(team, 5.0, NOW - hour * 3600, team=team)], source="s", at=NOW)
    bill = usage("bill", at=NOW - 2 * 3600, resource="shared")
    assert [each.tags["team"] for each in attribution.apply([bill], source="s", at=NOW).records] == ["then"]


async def test_a_record_that_comes_again_has_the_same_parts_also_after_a_restart() -> None:
    log = MemoryLog()
    first = make(shares=[SHARED])
    await first.open(log)

    async def send(attribution: Attribution, *records: SpendRecord) -> None:
        await append_batch(log, Batch(records, ""), source="s", at=NOW, attribution=attribution)

    def shared() -> UsageRecord:
        return usage("r", 9.0, resource="shared")

    await send(first, gpu("g", 1.0, NOW - 3600, team="a"), gpu("h", 2.0, NOW - 3600, team="b"))
    await send(first, shared())
    await send(first, gpu("late", 50.0, NOW - 3600, team="c"), shared())
    second = make(shares=[SHARED])
    await second.open(log)
    await send(second, gpu("i", 70.0, NOW, team="d"), shared())
    split = [each for each in log.records(USAGE) if each.tags.get("resource") == "shared"]
    assert len(split) == 6
    assert {each.id: each.effective_cost for each in split} == pytest.approx(
        {part_id("r", "a"): 3.0, part_id("r", "b"): 6.0}
    )


async def test_weights_are_on_the_log_before_the_parts() -> None:
    log = MemoryLog()
    attribution = make(shares=[{**SHARED, "fixed": {"a": 1}}])
    batch = Batch([usage("r", resource="shared")], "")
    for failure in ("fail_next", "fail_after"):  # the first append, that of the weights, fails
        setattr(log, failure, 1)
        with pytest.raises(TransientError):
            await append_batch(log, batch, source="s", at=NOW, attribution=attribution)
        assert log.records(USAGE) == []
    await append_batch(log, batch, source="s", at=NOW, attribution=attribution)
    assert len(log.records(USAGE)) == 1
    assert (await log.table(CURSORS))[f"attribution/cluster/3600/{WINDOW}".encode()] == b'{"a":1.0}'


def test_use_goes_on_after_a_restart() -> None:
    table: dict[bytes, bytes] = {}
    first = make(shares=[SHARED])
    for message in first.apply([gpu("g", 1.0, NOW - 3600, team="a")], source="s", at=NOW).before:
        table[message.key] = message.value
    second = make(shares=[SHARED])
    second._shared.load(table)
    found = second.apply([usage("r", resource="shared")], source="s", at=NOW).records
    assert [each.tags["team"] for each in found] == ["a"]


def test_a_record_is_never_cut_into_thousands() -> None:
    attribution = make(shares=[SHARED])
    attribution.apply([gpu(f"g{n}", 1.0 + n, NOW - 3600, team=f"t{n}") for n in range(12_000)], source="s", at=NOW)
    found = attribution.apply([usage("r", 100.0, resource="shared")], source="s", at=NOW).records
    assert len(found) == MAX_PARTS
    assert found[-1].tags["team"] == OTHER
    assert math.fsum(each.effective_cost for each in found) == pytest.approx(100.0, abs=1e-9)


weights = st.dictionaries(
    st.text(min_size=1, max_size=8), st.floats(1e-12, 1e300, allow_subnormal=False), min_size=1, max_size=40
)


@given(weights, st.floats(-1e9, 1e9), st.integers(0, 2**53), st.integers(0, 1000))
def test_parts_add_up(weights: dict[str, float], usd: float, tokens: int, requests: int) -> None:
    bill = CostRecord(
        id="c",
        charge_period_start=NOW,
        received_at=NOW,
        effective_cost=usd,
        billed_cost=usd / 3,
        tags={"x": "y"},
        input_tokens=tokens,
        requests=requests,
    )
    made = parts(bill, bill.tags, "team", weights)
    assert math.fsum(each.effective_cost for each in made) == pytest.approx(usd, rel=1e-14, abs=1e-9)
    assert math.fsum(each.billed_cost for each in made) == pytest.approx(usd / 3, rel=1e-14, abs=1e-9)  # type: ignore[attr-defined]
    assert sum(each.input_tokens for each in made) == tokens
    assert sum(each.requests for each in made) == requests
    assert all(each.requests >= 0 and each.input_tokens >= 0 and each.effective_cost * usd >= 0 for each in made)
    assert len({each.id for each in made}) == len(weights)
    assert all(each.tags == {"x": "y", "team": value} for each, value in zip(made, weights, strict=True))
    assert bill.tags == {"x": "y"}


def test_ids_stay_short_enough_for_the_door() -> None:
    assert len(part_id("r" * 256, "value")) <= 256
    assert part_id("r" * 256, "a") != part_id("r" * 255 + "q", "a")


# --- untagged spend, and harm ----------------------------------------------------------------------------------------


def untagged(connector: str, tag: str = "team") -> float | None:
    return REGISTRY.get_sample_value("curb_untagged_percent", {"connector": connector, "tag": tag})


def test_untagged_spend_is_a_percentage_of_the_last_day() -> None:
    attribution = make(required=["team", "env"])
    attribution.apply([usage("1", 3.0, team="a"), usage("2", 1.0, env="prod")], source="u1", at=NOW)
    assert (untagged("u1"), untagged("u1", "env")) == (25.0, 75.0)
    attribution.apply([usage("3", 1.0, team="a", env="x")], source="u1", at=NOW + 25 * 3600)
    assert (untagged("u1"), untagged("u1", "env")) == (0.0, 0.0)


def test_taxes_and_credits_do_not_count_as_untagged_and_parts_are_tagged() -> None:
    attribution = make(shares=[{"name": "db", "match": {"resource": "db"}, "fixed": {"a": 1}}])
    tax = CostRecord(
        id="t", charge_period_start=NOW, received_at=NOW, effective_cost=5.0, tags={}, charge_category="Tax"
    )
    credit = CostRecord(id="k", charge_period_start=NOW, received_at=NOW, effective_cost=-5.0, tags={})
    attribution.apply([tax, credit, usage("1", 1.0, resource="db")], source="u2", at=NOW)
    assert untagged("u2") == 0.0


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 100)
    attribution = make(lower_case=["team"], rules=[{"match": {"team": "x*"}, "tags": {"unit": "x"}}])
    for n in range(10_000):
        assert tags_of(attribution, team=f"T{n}") == {"team": f"t{n}"}
        assert len(attribution._decided) <= len(attribution._remembered) <= 100
    monkeypatch.setattr(module, "MAX_REMEMBERED_CHARS", 1000)
    for n in range(100):
        tags_of(attribution, team=f"{n}" * 50)
        assert len(attribution._remembered) <= 19


_FEW = st.dictionaries(st.sampled_from(["team", "unit", "env", "source", "request_model"]), st.sampled_from("ab"))


@given(
    st.lists(st.tuples(_FEW, _FEW, st.booleans()), max_size=4),
    st.lists(_FEW, max_size=2),
    st.lists(st.tuples(_FEW, st.sampled_from(["a", "b", ""]), st.integers(0, 99)), min_size=2, max_size=12),
)
def test_what_was_decided_before_decides_nothing_else(
    rules: list[tuple[dict[str, str], dict[str, str], bool]],
    owners: list[dict[str, str]],
    records: list[tuple[dict[str, str], str, int]],
) -> None:
    settings = AttributionSettings.model_validate(
        {
            "rules": [{"match": m, "tags": t, "override": o} for m, t, o in rules if m and t],
            "owners": [{"match": m, "team": "b"} for m in owners if m],
        }
    )
    mark = [TagRule(match={"unit": "a"}, tags={"env": "m"})]
    one = Attribution(settings, marks=mark)
    for tags, model, key in records:
        record = usage(**tags, api_key=f"k{key}")
        record.request_model = model
        assert one.verdict(record, "a") == Attribution(settings, marks=mark).verdict(record, "a")


@pytest.mark.parametrize(
    "value", ["<script>", "[red]x[/red]", "${HOME}", "a" * 256, "{{7*7}}", "'; drop table", "*", "[a-z", "ß", "İ"]
)
def test_values_are_data(value: str) -> None:
    attribution = make(rules=[{"match": {"team": "a*"}, "tags": {"x": "y"}}], values={"env": {"p": ["q"]}})
    found = tags_of(attribution, team=value, env=value)
    assert found["team"] == value
    assert found["env"] == value


def test_what_is_no_text_is_made_text_or_left_out() -> None:
    given: Any = {"n": 7, "yes": True, "none": None, "list": ["a"], 5: "five", "map": {"a": 1}, "t": "x"}
    assert clean_tags(given) == {"n": "7", "yes": "True", "5": "five", "t": "x"}
