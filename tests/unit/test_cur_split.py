"""Split cost allocation of a CUR, and what else tells pods, people and models apart on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.connectors.bills import aws_cur
from curb.stream.records.spend import CostRecord
from tests.fakes import aws_cur as cur
from tests.fakes.bills import JUNE, Told

HOUR = 3600


def line(usd: float, at: float = JUNE, **columns: Any) -> dict[str, Any]:
    blank: dict[str, Any] = {
        "line_item_resource_id": "",
        "split_line_item_parent_resource_id": "",
        "split_line_item_split_cost": None,
        "split_line_item_unused_cost": None,
        "line_item_iam_principal": "",
        "product": {},
        "resource_tags": {},
    }
    return cur.line(at, usd, **(blank | columns))


def pod(team: str, split: float, unused: float | None, node: str = "i-1", at: float = JUNE) -> dict[str, Any]:
    return line(
        0.0,
        at,
        line_item_product_code="AmazonEKS",
        line_item_resource_id=f"pod/{team}",
        split_line_item_parent_resource_id=node,
        split_line_item_split_cost=split,
        split_line_item_unused_cost=unused,
        resource_tags={"user_team": team},
    )


async def read(directory: Path, lines: list[dict[str, Any]], form: str = "csv.gz", **settings: Any) -> list[CostRecord]:
    cur.Export(directory / "cur", form=form).deliver(lines)
    config = {"kind": "aws_cur", "name": "aws", "url": str(directory / "cur"), **settings}
    records = await Told(directory / "state", aws_cur.Config.model_validate(config)).read()
    assert all(isinstance(each, CostRecord) for each in records)
    return records


def by_team(records: list[CostRecord]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in records:
        team = each.tags.get("team", "")
        found[team] = found.get(team, 0.0) + each.effective_cost
    return {team: round(usd, 9) for team, usd in found.items()}


@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
@pytest.mark.parametrize("turned", [False, True], ids=["as written", "pods first"])
async def test_pods_cost_their_share_and_the_instance_what_is_left(tmp_path: Path, form: str, turned: bool) -> None:
    lines = [
        line(4.0, line_item_resource_id="i-1"),
        line(0.25, line_item_resource_id="i-1"),  # its traffic, which no pod shares
        line(3.0, line_item_resource_id="i-1", at=JUNE + HOUR),  # an hour without pods
        line(7.0, line_item_resource_id="i-2"),
        pod("a", 1.5, 0.5),
        pod("b", 1.0, 1.0),
    ]
    records = await read(tmp_path, lines[::-1] if turned else lines, form)
    assert by_team(records) == {"": 10.25, "a": 2.0, "b": 2.0}
    assert sum(each.billed_cost for each in records) == pytest.approx(14.25)


async def test_an_instance_never_costs_less_than_nothing_and_a_share_without_unused_counts(tmp_path: Path) -> None:
    lines = [line(1.0, line_item_resource_id="i-1"), pod("a", 1.5, None), pod("b", 2.0, 0.0, node="i-gone")]
    assert by_team(await read(tmp_path, lines)) == {"": 0.0, "a": 1.5, "b": 2.0}


async def test_a_report_without_shares_is_as_before(tmp_path: Path) -> None:
    lines = [cur.line(JUNE, 4.0, line_item_resource_id="i-1"), cur.line(JUNE, 1.0, line_item_resource_id="i-2")]
    assert by_team(await read(tmp_path, lines)) == {"search": 5.0}


@given(
    nodes=st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    cuts=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(0, 2)), max_size=8),
    seed=st.randoms(use_true_random=False),
)
async def test_shares_change_who_pays_and_never_the_total(
    nodes: list[float], cuts: list[tuple[int, float, int]], seed: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    left = dict(enumerate(nodes))
    lines = [line(usd, line_item_resource_id=f"i-{number}") for number, usd in enumerate(nodes)]
    for number, part, team in cuts:
        if number in left:
            share = left[number] * part
            left[number] -= share
            lines.append(pod(f"t{team}", share * 0.75, share * 0.25, node=f"i-{number}"))
    seed.shuffle(lines)
    records = await read(tmp_path_factory.mktemp("split"), lines)
    assert sum(each.effective_cost for each in records) == pytest.approx(sum(nodes))
    assert by_team(records).get("", 0.0) == pytest.approx(sum(left.values()), abs=1e-6)


@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
async def test_who_called_and_the_name_of_a_product_are_dimensions(tmp_path: Path, form: str) -> None:
    alice = "arn:aws:iam::111122223333:user/alice"
    lines = [
        line(0.5, line_item_product_code="AmazonBedrock", line_item_iam_principal=alice),
        line(55.0, line_item_product_code="4h6w1x9q", product={"product_name": "Claude (Amazon Bedrock Edition)"}),
    ]
    found = await read(tmp_path, lines, form, dimensions=["service", "principal", "product"])
    assert {each.service_name: (each.tags.get("principal"), each.tags.get("product")) for each in found} == {
        "AmazonBedrock": (alice, None),
        "4h6w1x9q": (None, "Claude (Amazon Bedrock Edition)"),
    }
    plain = await read(tmp_path / "plain", lines, form)
    assert all(not each.tags.keys() & {"principal", "product"} for each in plain), "only where they are asked for"
