"""Every kind of connector keeps every promise of the seam, on a bench with its own fake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curb.connectors.kinds import KINDS
from curb.testing.connectors import PULL_PROMISES, PUSH_PROMISES, PullBench, PushBench
from tests.fakes.connector_benches import BENCHES

PULLED = [(kind, bench) for kind, benches in BENCHES.items() for bench in benches if issubclass(bench, PullBench)]
PUSHED = [(kind, bench) for kind, benches in BENCHES.items() for bench in benches if issubclass(bench, PushBench)]


def named(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_bench(kind: str) -> None:
    assert BENCHES.get(kind), f"{kind}: write a PullBench or PushBench of it in tests/fakes/connector_benches.py"


@pytest.mark.parametrize("promise", PULL_PROMISES, ids=named)
@pytest.mark.parametrize(("kind", "bench"), PULLED, ids=named)
async def test_what_is_read(kind: str, bench: type[PullBench], promise: Any, tmp_path: Path) -> None:
    assert bench().config("http://127.0.0.1:1", 1.0)["kind"] == kind
    await promise(bench, tmp_path)


@pytest.mark.parametrize("promise", PUSH_PROMISES, ids=named)
@pytest.mark.parametrize(("kind", "bench"), PUSHED, ids=named)
async def test_what_is_pushed(kind: str, bench: type[PushBench], promise: Any, tmp_path: Path) -> None:
    assert bench().config()["kind"] == kind
    await promise(bench, tmp_path)
