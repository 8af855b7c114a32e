"""A bench for every kind of connector, on its fake: what the promises of `curb.testing.connectors` are tried on."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from curb.stream.records.spend import SpendRecord, UsageRecord
from curb.testing.connectors import PullBench, PushBench
from curb.testing.faults import served
from tests.fakes import anthropic, aws_cost_explorer, aws_cur, azure_cost, cloudwatch, focus_file, gcp_billing, openai
from tests.fakes import litellm_usage as litellm
from tests.fakes import otel_genai as otel
from tests.fakes import usage_jsonl as jsonl
from tests.fakes.aws_json import aws
from tests.fakes.dcgm import DcgmExporter, FakeGpu
from tests.fakes.litellm_spend_logs import KEY as LITELLM_KEY
from tests.fakes.litellm_spend_logs import SpendLogs, row_of
from tests.fakes.prometheus import PrometheusServer

#: 2025-06-01, and a month of hours later.
JUNE, DAY_S = 1_748_736_000.0, 86_400.0
H100_USD_PER_HOUR = 88.490000119 / 8


# --- usage reports of model providers -------------------------------------------------------------------------------


class OpenAiBench(PullBench):
    """Calls of three projects; a bad row has text where a count should be."""

    kind, key, model = "openai", openai.KEY, "gpt-4o"

    def __init__(self) -> None:
        self.fake: openai.Organization | anthropic.Organization = openai.Organization()
        self.fake.page_buckets = 50

    def serve(self, directory: Path) -> Any:
        return served(self.fake.app())

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        entry = {"kind": self.kind, "name": "api", "url": address, "key": self.key, "costs": True}
        return {**entry, "first_hours": 2, "reread_minutes": 30, "timeout_s": timeout_s}

    def fill(self, number: int, at: float) -> float:
        counts = [100 * (each + 1) + number for each in range(6)]
        self.fake.calls += [
            openai.Call(at - 90 - 200 * n, f"p{n % 3}", "k1", self.model, count, count // 10, dollars=count / 1e4)
            for n, count in enumerate(counts)
        ]
        return float(sum(counts)) + sum(counts) / 1e4

    def measure(self, record: SpendRecord) -> float:
        return float(record.input_tokens) if isinstance(record, UsageRecord) else record.effective_cost

    def spoil(self, at: float) -> None:
        self.fake.extra = [{"model": 7}]

    def repeat_pages(self) -> bool:
        self.fake.repeats = True
        return True


class AnthropicBench(OpenAiBench):
    kind, key, model = "anthropic", anthropic.KEY, "claude-sonnet-4-20250514"

    def __init__(self) -> None:
        self.fake = anthropic.Organization()
        self.fake.page_buckets = 50


class CloudWatchBench(PullBench):
    """Tokens of Bedrock's models; a bad row is a sum below zero."""

    def __init__(self) -> None:
        self.fake = cloudwatch.CloudWatch()
        self.fake.page_points = 4

    def serve(self, directory: Path) -> Any:
        return served(self.fake.app())

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        queries = [{"name": "bedrock", "preset": "bedrock"}]
        entry = {"kind": "cloudwatch", "name": "cw", "aws": aws(address), "queries": queries}
        return {**entry, "discover_s": 10, "timeout_s": timeout_s}

    def fill(self, number: int, at: float) -> float:
        counts = [1000 + 10 * each + number for each in range(8)]
        for n, count in enumerate(counts):
            self.fake.put(
                at - 400 - 120 * n, "InputTokenCount", count, ModelId=f"amazon.nova-{'lite' if n % 2 else 'pro'}-v1:0"
            )
        return float(sum(counts))

    def measure(self, record: SpendRecord) -> float:
        return float(record.input_tokens)

    def spoil(self, at: float) -> None:
        self.fake.put(at - 400, "OutputTokenCount", -5, ModelId="amazon.nova-micro-v1:0")

    def repeat_pages(self) -> bool:
        self.fake.repeats = True
        return True


# --- GPUs -----------------------------------------------------------------------------------------------------------


class DcgmBench(PullBench):
    """Four GPUs, charged from one scrape to the next; a bad row is a line that is no sample."""

    passes = 3

    def __init__(self) -> None:
        gpus = [FakeGpu(n, f"g{n}", pods=[("shop", f"web-6d4cf56db6-7kx2{n}")]) for n in range(4)]
        self.fake = DcgmExporter("n1", gpus)

    def serve(self, directory: Path) -> Any:
        return served(self.fake.app())

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        targets = [{"url": f"{address}/metrics"}]
        return {"kind": "dcgm", "name": "gpus", "targets": targets, "timeout_s": timeout_s, "max_gap_s": 3600}

    def fill(self, number: int, at: float) -> float:
        return 4 * H100_USD_PER_HOUR * self.pass_s / 3600 if number else 0.0

    def spoil(self, at: float) -> None:
        whole = self.fake.text
        self.fake.text = lambda: 'DCGM_FI_DEV_GPU_UTIL{gpu="9"} many\n' + whole()  # type: ignore[method-assign]


class PrometheusBench(PullBench):
    """Dollars of one team, half a dollar a minute; a bad row is a cost below zero."""

    def __init__(self) -> None:
        self.series = [({"team_alias": "search", "hashed_api_key": "k1", "model": "gpt-4o"}, 0.5)]
        self.fake = PrometheusServer({"litellm_spend": lambda at: self.series})

    def serve(self, directory: Path) -> Any:
        return served(self.fake.app())

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        queries = [{"name": "llm", "preset": "litellm"}]
        entry = {"kind": "prometheus", "name": "prom", "url": address, "queries": queries}
        return {**entry, "max_steps": 3, "backfill_s": 600, "timeout_s": timeout_s}

    def fill(self, number: int, at: float) -> float:
        return 0.5 if number else 5.0

    def spoil(self, at: float) -> None:
        self.series = [*self.series, ({"team_alias": "ads", "hashed_api_key": "k2", "model": "gpt-4o"}, -1.0)]


# --- bills ----------------------------------------------------------------------------------------------------------


class BillBench(PullBench):
    """A bill in files below `directory`, delivered again in every pass."""

    now = JUNE + 14 * DAY_S
    http = False
    kind = ""
    slot_s = 3600.0

    def __init__(self) -> None:
        self.month: dict[float, float] = {}
        self.root = Path()
        self.bad: list[Any] = []

    @asynccontextmanager
    async def serve(self, directory: Path) -> AsyncIterator[str]:
        self.root = directory / "bill"
        yield str(self.root)

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        return {"kind": self.kind, "name": "bill", "url": address}

    def fill(self, number: int, at: float) -> float:
        before = sum(self.month.values())
        for n in range(12):
            slot = JUNE + self.slot_s * (n + 6 * number)
            self.month[slot] = round(1.5 + 0.25 * n + number, 6)
        self.deliver(at - 30)
        return sum(self.month.values()) - before

    def spoil(self, at: float) -> None:
        self.bad = [JUNE + self.slot_s * 20]
        self.deliver(at - 20)

    def deliver(self, at: float) -> None:
        raise NotImplementedError


class FocusFileBench(BillBench):
    kind = "focus_file"

    def deliver(self, at: float) -> None:
        lines = [focus_file.line(slot, usd) for slot, usd in self.month.items()]
        lines[1:1] = [focus_file.line(slot, 1.0, EffectiveCost="much", BilledCost="much") for slot in self.bad]
        self.write(focus_file.csv_text(lines), at)

    def write(self, content: bytes, at: float) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "june.csv").write_bytes(content)
        os.utime(self.root / "june.csv", (at, at))

    def halve(self) -> Callable[[], None]:
        path = self.root / "june.csv"
        whole, at = path.read_bytes(), path.stat().st_mtime
        self.write(whole[: len(whole) // 2], at)
        return lambda: self.write(whole, at + 1)


class AwsCurBench(BillBench):
    kind = "aws_cur"

    def deliver(self, at: float) -> None:
        lines = [aws_cur.line(slot, usd) for slot, usd in self.month.items()]
        lines[1:1] = [aws_cur.line(slot, float("nan")) for slot in self.bad]
        aws_cur.Export(self.root, "overwrite").deliver(lines, at=at)
        manifest = next(self.root.rglob("*Manifest.json"))
        manifest.write_text(manifest.read_text().replace("delivery-1", f"delivery-{at}"))
        os.utime(manifest, (at, at))

    def halve(self) -> Callable[[], None]:
        path = next(self.root.rglob("*.parquet"))
        whole, at = path.read_bytes(), path.stat().st_mtime
        path.write_bytes(whole[: len(whole) // 2])
        os.utime(path, (at, at))

        def restore() -> None:
            path.write_bytes(whole)
            os.utime(path, (at, at))

        return restore


class AzureCostBench(BillBench):
    kind, slot_s, now = "azure_cost", DAY_S, JUNE + 25 * DAY_S

    def deliver(self, at: float) -> None:
        lines = [azure_cost.line(slot, usd, "customer", tags='{"team": "a"}') for slot, usd in self.month.items()]
        bad = [azure_cost.line(slot, 1.0, "customer", cost="much") for slot in self.bad]
        export = azure_cost.Export(self.root)
        export.runs = int(at)
        export.deliver([*lines[:1], *bad, *lines[1:]], at=at)


class CostExplorerBench(PullBench):
    """Charges by day; Cost Explorer renews what it says every six hours. A bad row has an amount that is no number."""

    now = JUNE + 14 * DAY_S
    pass_s = 21_600.0
    check_may_write = ("ce.calls.json",)

    def __init__(self) -> None:
        self.fake = aws_cost_explorer.CostExplorer()
        self.fake.page_groups = 4

    def serve(self, directory: Path) -> Any:
        return served(self.fake.app())

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        entry = {"kind": "aws_cost_explorer", "name": "ce", "aws": aws(address), "timeout_s": timeout_s}
        return {**entry, "max_calls_per_day": 5000}

    def fill(self, number: int, at: float) -> float:
        charged = [
            aws_cost_explorer.Charged(at - DAY_S * (n + 1), 10.0 + n + number, kind="Tax" if n % 3 == 2 else "Usage")
            for n in range(8)
        ]
        self.fake.charged += charged
        return sum(each.usd for each in charged)

    def spoil(self, at: float) -> None:
        self.fake.charged.append(aws_cost_explorer.Charged(at - DAY_S, float("nan"), service="Amazon Bedrock"))

    def repeat_pages(self) -> bool:
        self.fake.repeats = True
        return True


class GcpBillingBench(PullBench):
    """Rows of the export in BigQuery, gross and credits; a bad row has an amount that is no number."""

    now = JUNE + 14 * DAY_S
    pass_s = 3600.0

    def __init__(self) -> None:
        self.fake = gcp_billing.BigQuery()
        self.fake.page_rows = 5

    def serve(self, directory: Path) -> Any:
        return served(self.fake.app())

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        entry = {"kind": "gcp_billing", "name": "gcp", "table": gcp_billing.TABLE, "endpoint_url": address}
        return {**entry, "timeout_s": timeout_s}

    def fill(self, number: int, at: float) -> float:
        rows = [
            gcp_billing.Exported(at - 7200 - 3600 * n, at - 60, 20.0 + n + number, -1.25 if n % 2 else 0.0)
            for n in range(8)
        ]
        self.fake.rows += rows
        return sum(each.usd + each.credits for each in rows)

    def spoil(self, at: float) -> None:
        self.fake.rows.append(gcp_billing.Exported(at - 7200, at - 30, float("nan"), team="ads"))


# --- files of lines, and what is pushed -----------------------------------------------------------------------------


class JsonlFilesBench(PullBench):
    """A file that grows; a bad row is a line that is no JSON."""

    http = False

    def __init__(self) -> None:
        self.path = Path()
        self.count = 0

    @asynccontextmanager
    async def serve(self, directory: Path) -> AsyncIterator[str]:
        self.path = directory / "usage.jsonl"
        yield str(self.path)

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        return {"kind": "usage_jsonl", "name": "files", "path": address}

    def fill(self, number: int, at: float) -> float:
        costs = [0.01 * (n + 1) for n in range(400)]
        events = [jsonl.curb_line(self.count + n, at - 60, effective_cost=cost) for n, cost in enumerate(costs)]
        # Longer than one read takes.
        events = [{**event, "note": "x" * 3000} for event in events]
        self.count += len(events)
        with self.path.open("ab") as file:
            file.write(jsonl.lines(events))
        return sum(costs)

    def spoil(self, at: float) -> None:
        with self.path.open("ab") as file:
            file.write(b"{ no json\n")

    def halve(self) -> Callable[[], None]:
        whole = self.path.read_bytes()
        self.path.write_bytes(whole[: len(whole) // 2])

        def restore() -> None:
            with self.path.open("ab") as file:
                file.write(whole[len(whole) // 2 :])

        return restore


class LiteLlmBackfillBench(PullBench):
    """Rows of the spend logs; a bad row has text for tokens."""

    def __init__(self) -> None:
        self.fake = SpendLogs()
        self.count = 0

    def serve(self, directory: Path) -> Any:
        return served(self.fake.app())

    def config(self, address: str, timeout_s: float) -> dict[str, Any]:
        backfill = {"url": address, "key": LITELLM_KEY, "page_size": 5, "timeout_s": timeout_s}
        return {"kind": "litellm", "name": "gw", "token": "a-long-token", "backfill": backfill}

    def fill(self, number: int, at: float) -> float:
        costs = [0.01 * (n + 1) for n in range(12)]
        for cost in costs:
            self.count += 1
            self.fake.rows.append(row_of(litellm.payload(self.count, at - 40 - self.count / 8, response_cost=cost)))
        return sum(costs)

    def spoil(self, at: float) -> None:
        self.fake.rows.append(row_of(litellm.payload(99, at - 41)) | {"prompt_tokens": "many"})


class LiteLlmPushBench(PushBench):
    def config(self) -> dict[str, Any]:
        return {"kind": "litellm", "name": "gw", "token": "a-long-token"}

    def body(self, count: int) -> bytes:
        return litellm.array(self._events(count))

    def spoiled(self, count: int) -> bytes:
        events = self._events(count)
        return litellm.array([*events[:3], litellm.payload(99, self.now - 60, prompt_tokens="many"), *events[3:]])

    def _events(self, count: int) -> list[dict[str, Any]]:
        return [litellm.payload(n, self.now - 60) for n in range(count)]


class JsonlPushBench(PushBench):
    def config(self) -> dict[str, Any]:
        return {"kind": "usage_jsonl", "name": "jsonl", "token": "a-long-token"}

    def body(self, count: int) -> bytes:
        return jsonl.lines([jsonl.curb_line(n, self.now - 60) for n in range(count)])

    def spoiled(self, count: int) -> bytes:
        return b"{ no json\n" + self.body(count)


class OtelBench(PushBench):
    path, content_type = "v1/traces", otel.JSON

    def config(self) -> dict[str, Any]:
        return {"kind": "otel_genai", "name": "otel", "token": "a-long-token"}

    def body(self, count: int) -> bytes:
        return otel.as_json(otel.traces(self._spans(count)))

    def spoiled(self, count: int) -> bytes:
        spans = self._spans(count)
        bad = otel.span(99, self.now - 60, attributes={"gen_ai.usage.input_tokens": "many"})
        return json.dumps(otel.traces([*spans[:3], bad, *spans[3:]])).encode()

    def _spans(self, count: int) -> list[dict[str, Any]]:
        return [otel.span(n, self.now - 60) for n in range(count)]


#: Kind → the benches of the ways it takes records in.
BENCHES: dict[str, tuple[type[PullBench] | type[PushBench], ...]] = {
    "anthropic": (AnthropicBench,),
    "aws_cost_explorer": (CostExplorerBench,),
    "aws_cur": (AwsCurBench,),
    "azure_cost": (AzureCostBench,),
    "cloudwatch": (CloudWatchBench,),
    "dcgm": (DcgmBench,),
    "focus_file": (FocusFileBench,),
    "gcp_billing": (GcpBillingBench,),
    "litellm": (LiteLlmPushBench, LiteLlmBackfillBench),
    "openai": (OpenAiBench,),
    "otel_genai": (OtelBench,),
    "prometheus": (PrometheusBench,),
    "usage_jsonl": (JsonlFilesBench, JsonlPushBench),
}
