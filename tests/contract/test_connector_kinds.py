"""Every kind of connector is held to the contract somewhere, and has a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from curb.connectors.kinds import KINDS

ROOT = Path(__file__).parents[2]
#: Kind → the file beside this one that holds its battery.
BATTERIES = {
    "aws_cost_explorer": "test_cost_explorer.py",
    "aws_cur": "test_bills.py",
    "azure_cost": "test_bills.py",
    "focus_file": "test_bills.py",
    "anthropic": "test_usage_reports.py",
    "cloudwatch": "test_cloudwatch.py",
    "dcgm": "test_dcgm.py",
    "gcp_billing": "test_gcp_billing.py",
    "openai": "test_usage_reports.py",
    "litellm": "test_connectors.py",
    "otel_genai": "test_otel_genai.py",
    "prometheus": "test_prometheus.py",
    "usage_jsonl": "test_connectors.py",
}


def test_every_kind_is_covered() -> None:
    assert set(BATTERIES) == set(KINDS)
    for kind, file in BATTERIES.items():
        assert f'"{kind}"' in (Path(__file__).parent / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_page(kind: str) -> None:
    assert (ROOT / "docs" / "reference" / "connectors" / f"{kind}.md").read_text(encoding="utf-8").strip()
