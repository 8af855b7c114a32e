"""Models and kinds of tokens as the meters of bills name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from curb.connectors.bills import aws_cur
from curb.connectors.bills.cells.ai_meters import ai_meter
from tests.fakes import aws_cur as cur
from tests.fakes.bills import JUNE, Told


@pytest.mark.parametrize(
    ("meter", "product", "model", "kind"),
    [
        ("USE1-Claude4.6Sonnet-input-tokens", "", "claude-sonnet-4-6", "input"),
        ("USE1-Claude4.6Opus-output-tokens", "", "claude-opus-4-6", "output"),
        ("EUW1-Claude3.5Sonnet-cache-read-input-token-count", "", "claude-3-5-sonnet", "cache_read"),
        ("USW2-Claude4.5Haiku-cache-write-input-token-count", "", "claude-haiku-4-5", "cache_write"),
        ("USE1-NovaPro-input-tokens-batch", "", "nova-pro", "input"),
        ("USE1-Nova2.0Lite-output-tokens", "", "nova-2.0-lite", "output"),
        ("USE1-Llama3.3-70B-input-tokens", "", "llama-3.3-70b", "input"),
        ("MP:USE1_OutputTokenCount-Units", "Claude (Amazon Bedrock Edition)", "claude", "output"),
        ("MP:USE1_InputTokenCount-Units", "Claude Sonnet 4.5 (Amazon Bedrock Edition)", "claude-sonnet-4-5", "input"),
        (
            "MP:USE1_CacheReadInputTokenCount-Units",
            "Claude 3.5 Haiku (Amazon Bedrock Edition)",
            "claude-3-5-haiku",
            "cache_read",
        ),
        ("gpt-4o-0806-Inp-glbl Tokens", "", "gpt-4o", "input"),
        ("gpt-4o-mini-0718-Outp-regnl Tokens", "", "gpt-4o-mini", "output"),
        ("gpt 4.1 mini cached Inp glbl Tokens", "", "gpt-4.1-mini", "cache_read"),
        ("gpt 5 cchd inp Glbl Tokens", "", "gpt-5", "cache_read"),
        ("gpt 4.1 nano opt DZ Tokens", "", "gpt-4.1-nano", "output"),
        ("o3 0416 Inp glbl Tokens", "", "o3", "input"),
        ("text-embedding-3-large-glbl Tokens", "", "text-embedding-3-large", "input"),
        ("Gemini 2.5 Flash GA Text Input - Predictions", "", "gemini-2.5-flash", "input"),
        ("Gemini 2.5 Pro Thinking Text Output - Predictions", "", "gemini-2.5-pro", "output"),
        ("Gemini 2.0 Flash Lite Input Text Caching", "", "gemini-2.0-flash-lite", "cache_read"),
        ("Claude Sonnet 4.5 Output Tokens", "", "claude-sonnet-4-5", "output"),
        ("USE1-Train:ml.p4d.24xlarge", "", "ml.p4d.24xlarge", "training"),
        ("USW2-Host:ml.g5.xlarge", "", "ml.g5.xlarge", "hosting"),
        ("USE1-Notebk:ml.t3.medium", "", "ml.t3.medium", "notebook"),
        ("USW2-BoxUsage:m5.large", "", "", ""),
        ("Requests-Tier1", "", "", ""),
        ("TimedStorage-ByteHrs", "", "", ""),
        ("DataTransfer-Out-Bytes", "", "", ""),
        ("EBS:VolumeUsage.gp3", "", "", ""),
        ("LoadBalancerUsage", "", "", ""),
        ("USE1-CloudFront-Out-Bytes", "", "", ""),
        ("AWS-Out-Bytes", "", "", ""),
        ("ElastiCache:NodeUsage:cache.m5", "", "", ""),
    ],
)
def test_a_meter_says_which_model_and_which_tokens(meter: str, product: str, model: str, kind: str) -> None:
    assert ai_meter(meter, product) == (model, kind)


@pytest.mark.parametrize("dimensions", [["service", "model", "token_kind"], ["service", "model", "usage_type"]])
async def test_models_of_a_report_are_tags_where_they_are_asked_for(tmp_path: Path, dimensions: list[str]) -> None:
    product = {"product_name": "Claude Sonnet 4.5 (Amazon Bedrock Edition)"}
    lines = [
        cur.line(JUNE, 1.0, line_item_product_code="AmazonBedrock", line_item_usage_type="USE1-NovaPro-input-tokens"),
        cur.line(JUNE, 2.0, line_item_product_code="AmazonBedrock", line_item_usage_type="USE1-NovaPro-output-tokens"),
        cur.line(JUNE, 4.0, line_item_product_code="4h6w", line_item_usage_type="MP:USE1_OutputTokenCount-Units"),
        cur.line(JUNE, 8.0, line_item_product_code="AmazonEC2", line_item_usage_type="BoxUsage:m5.large"),
    ]
    for each in lines:
        each["product"] = product if each["line_item_product_code"] == "4h6w" else {}
    cur.Export(tmp_path / "cur").deliver(lines)
    given = {"kind": "aws_cur", "name": "aws", "url": str(tmp_path / "cur"), "dimensions": dimensions}
    records = await Told(tmp_path / "state", aws_cur.Config.model_validate(given)).read()
    by_model: dict[str, float] = {}
    for record in records:
        model = record.tags.get("model", "")
        by_model[model] = by_model.get(model, 0.0) + record.effective_cost
        assert ("token_kind" in record.tags) == ("token_kind" in dimensions and bool(model))
        assert ("usage_type" in record.tags) == ("usage_type" in dimensions)
        assert "product" not in record.tags
    assert by_model == pytest.approx({"nova-pro": 3.0, "claude-sonnet-4-5": 4.0, "": 8.0})
