"""No scopes, and no configuration that the documentation shows, stop the detector when series come, go and are renamed.

Like a report of a detector that died at every start: scopes of the documentation, and one model that was switched off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curb.config.file import CurbConfig, load_text
from curb.config.owners import known_tags
from curb.connectors.intake.attribution import Attribution
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.records.spend import Alert, SpendRecord
from tests.fakes.fortnight import HOURS, Part, run
from tests.house.yaml_blocks import Block, configurations, environment, with_local_files

pytestmark = pytest.mark.long

TAGS = ("team", "project", "api_key", "env", "model", "region", "group", "node")


def feeds(alerts: list[Alert]) -> set[tuple[str, str, tuple[str, ...]]]:
    """Tier, scope and values of the alerts on silent feeds."""
    return {(alert.tier, alert.scope, tuple(alert.tags.values())) for alert in alerts if alert.kind == "feed"}


def test_a_model_that_is_switched_off_is_one_digest_line_where_scopes_begin_with_different_tags() -> None:
    scopes = (
        Scope(name="key", group_by=("team", "project", "api_key", "env"), also_by=("job",)),
        Scope(name="team", group_by=("team",), sources=("usage", "gpu"), detect=False),
        Scope(name="model", group_by=("model",), detect=False),
    )
    key = {"team": "search", "project": "p", "env": "prod"}
    parts = [
        Part("usage", {**key, "api_key": "k1", "model": "new"}),
        Part("usage", {**key, "api_key": "k2", "model": "old"}, stop=HOURS - 100),
    ]
    assert feeds(run(DetectorSettings(scopes=scopes), parts)) == {("digest", "model", ("old",))}


@st.composite
def many_scopes(draw: st.DrawFn) -> tuple[Scope, ...]:
    scopes = []
    for number in range(draw(st.integers(1, 5))):
        tags = draw(st.lists(st.sampled_from(TAGS), min_size=1, max_size=4, unique=True))
        also = [] if "job" in tags else draw(st.lists(st.just("job"), max_size=1))
        sources = draw(st.lists(st.sampled_from(["usage", "costs", "gpu"]), min_size=1, max_size=3, unique=True))
        role = draw(st.sampled_from(["principal", "origin", "node", "group", "total"]))
        scopes.append(
            Scope(
                name=f"s{number}",
                group_by=tuple(tags),
                also_by=tuple(also),
                sources=tuple(sources),
                role=role,
                detect=draw(st.booleans()),
            )
        )
    return tuple(scopes)


@st.composite
def many_parts(draw: st.DrawFn) -> list[Part]:
    """Series of all kinds; each may stop after the eighth day, from which on a team can be missed."""
    hours, values = st.integers(1, HOURS - 1), st.sampled_from(["x", "y", "z"])
    tags = st.dictionaries(st.sampled_from((*TAGS, "job")), values, max_size=5)
    part = st.builds(
        Part,
        kind=st.sampled_from(["usage", "usage", "gpu", "costs"]),
        tags=tags,
        begin=st.one_of(st.just(0), hours),
        stop=st.one_of(st.integers(200, HOURS), hours),
        renamed=hours,
        later=tags,
        usd=st.sampled_from([0.0, 0.01, 1.0, 500.0]),
    )
    return draw(st.lists(part, min_size=1, max_size=6))


@settings(max_examples=3)
@given(many_scopes(), many_parts())
def test_no_scopes_stop_the_detector(scopes: tuple[Scope, ...], parts: list[Part]) -> None:
    run(DetectorSettings(scopes=scopes), parts)


def _load(block: Block) -> CurbConfig:
    with TemporaryDirectory() as directory, patch.dict(os.environ, environment(block.text)):
        return load_text(with_local_files(block.text, Path(directory)))


def _by_detector() -> dict[str, list[CurbConfig]]:
    """The configurations of the documentation, those with the same detector under the place of the first."""
    found: dict[str, tuple[str, list[CurbConfig]]] = {}
    for block in configurations():
        config = _load(block)
        found.setdefault(config.detector.model_dump_json(), (block.where, []))[1].append(config)
    return dict(found.values())


@pytest.mark.parametrize("configs", [pytest.param(configs, id=where) for where, configs in _by_detector().items()])
def test_every_configuration_of_the_documentation_lasts_a_fortnight(configs: list[CurbConfig]) -> None:
    doors = [Attribution(config.attribution, known_tags(config.detector)) for config in configs]

    def tag(records: Sequence[SpendRecord]) -> Sequence[SpendRecord]:
        for door in doors[1:]:
            door.apply([copy(record) for record in records], source="s", at=records[0].received_at)
        return doors[0].apply(records, source="s", at=records[0].received_at).records

    run(configs[0].detector, tag=tag)
