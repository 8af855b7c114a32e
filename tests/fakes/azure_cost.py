"""Azure Cost Management: cost details as each type of account gets them, and exports of them as runs leave them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from tests.fakes.focus_file import csv_text, parquet

KIND = "azure_cost"
#: Type of account → how the columns of `line` are spelled there; what is not named is left out.
SPELLINGS: dict[str, dict[str, str]] = {
    "enterprise": {
        "date": "Date",
        "cost": "CostInBillingCurrency",
        "currency": "BillingCurrencyCode",
        "service": "MeterCategory",
        "subscription": "SubscriptionId",
        "region": "ResourceLocation",
        "resource": "ResourceId",
        "type": "ChargeType",
        "frequency": "Frequency",
        "tags": "Tags",
    },
    "customer": {
        "date": "date",
        "cost": "costInBillingCurrency",
        "usd": "costInUsd",
        "currency": "billingCurrency",
        "pricing_currency": "pricingCurrency",
        "service": "meterCategory",
        "subscription": "SubscriptionId",
        "region": "resourceLocation",
        "resource": "ResourceId",
        "type": "chargeType",
        "frequency": "frequency",
        "tags": "tags",
    },
    "pay-as-you-go": {
        "date": "UsageDateTime",
        "cost": "PreTaxCost",
        "currency": "Currency",
        "service": "MeterCategory",
        "subscription": "SubscriptionGuid",
        "region": "ResourceLocation",
        "resource": "InstanceId",
        "tags": "Tags",
    },
    "spaced": {
        "date": "Date",
        "cost": "Cost",
        "currency": "Billing Currency",
        "service": "Meter Category",
        "subscription": "Subscription Id",
        "region": "Resource Location",
        "resource": "Resource ID",
        "type": "Charge Type",
        "frequency": "Frequency",
        "tags": "Tags",
    },
}


def line(start: float, usd: float, account: str = "enterprise", **changes: Any) -> dict[str, Any]:
    """One line; `start` is epoch seconds of a day. Changes are by the keys of `SPELLINGS`."""
    day = datetime.fromtimestamp(start, UTC)
    american = account in ("enterprise", "customer")
    values = {
        "date": f"{day.month}/{day.day}/{day.year}" if american else day.strftime("%Y-%m-%d"),
        "cost": usd,
        "usd": usd,
        "currency": "USD",
        "pricing_currency": "EUR",
        "service": "Virtual Machines",
        "subscription": "s1",
        "region": "westeurope",
        "resource": "/subscriptions/s1/r1",
        "type": "Usage",
        "frequency": "UsageBased",
        "tags": '"team": "search"' if account == "enterprise" else '{"team": "search"}',
        **changes,
    }
    return {spelled: values[key] for key, spelled in SPELLINGS[account].items()}


class Export:
    """One export in `root`. `layout`: "runs" (a folder and a manifest each), "overwrite" (one such) or "files"."""

    def __init__(self, root: Path, layout: str = "runs", form: str = "csv") -> None:
        self.root, self.layout, self.form, self.runs = root, layout, form, 0

    def deliver(self, lines: list[dict[str, Any]], days: str = "20250601-20250630", at: float | None = None) -> Path:
        """Write a run in two parts, then its manifest; the file that was written last. `at` is when (epoch seconds)."""
        self.runs += 1
        period = self.root / days
        if self.layout == "files":
            written = [self._data(period / f"{self.root.name}_{self.runs:04d}.{self.form}", lines)]
        else:
            run = period / ("only" if self.layout == "overwrite" else f"run-{self.runs:04d}")
            half = (len(lines) + 1) // 2
            parts = [part for part in (lines[:half], lines[half:]) if part]
            written = [self._data(run / f"part_{n}_0001.{self.form}", part) for n, part in enumerate(parts)]
            blobs = [{"blobName": self.blob(file), "byteCount": file.stat().st_size} for file in written]
            content = {"manifestVersion": "2024-04-01", "blobCount": len(blobs), "blobs": blobs}
            manifest = run / "manifest.json"
            manifest.write_text(json.dumps(content))
            written.append(manifest)
        for path in written:
            if at is not None:
                os.utime(path, (at, at))
        return written[-1]

    def blob(self, file: Path) -> str:
        """The name within the container."""
        return f"exports/{self.root.name}/{file.relative_to(self.root)}"

    def _data(self, path: Path, lines: list[dict[str, Any]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = parquet(lines) if self.form == "parquet" else csv_text(lines)
        path.write_bytes(gzip.compress(content) if self.form == "csv.gz" else content)
        return path


class Blobs(MemoryFileSystem):  # type: ignore[misc]
    """Blob storage as adlfs shows it: it names times `last_modified`, and remembers listings until told to forget."""

    protocol = "az"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def __init__(self, account_name: str) -> None:
        super().__init__()
        self.account_name = account_name
        self._listed: dict[str, Any] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("az://").strip("/")

    def invalidate_cache(self, path: str | None = None) -> None:
        self._listed.clear()

    def ls(self, path: str, detail: bool = True, **_options: Any) -> Any:
        key = self._strip_protocol(path)
        if key not in self._listed:
            self._listed[key] = [_as_azure(each) for each in super().ls(path, detail=True)]
        return self._listed[key] if detail else [each["name"] for each in self._listed[key]]

    def find(self, path: str, **options: Any) -> Any:
        return AbstractFileSystem.find(self, path, **options)

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        return _as_azure(super().info(path))


def _as_azure(info: dict[str, Any]) -> dict[str, Any]:
    """With another ETag whenever it is written; a folder has neither time nor ETag."""
    found = {key: value for key, value in info.items() if key != "created"}
    if at := info.get("created"):
        found |= {"last_modified": at, "etag": f'"{at}"'}
    return found


@contextmanager
def blobs() -> Iterator[type[Blobs]]:
    """az:// is served by `Blobs`, empty at first."""
    Blobs.store, Blobs.pseudo_dirs = {}, [""]
    fsspec.register_implementation("az", Blobs, clobber=True)
    try:
        yield Blobs
    finally:
        _registry.pop("az")


def upload(export: Export) -> None:
    """Everything of the export, manifests last and the newest run's at the end, into the container `exports`."""
    found = (path for path in export.root.rglob("*") if path.is_file())
    files = sorted(found, key=lambda path: (path.suffix == ".json", path))
    store = fsspec.filesystem("az", account_name="acme")
    for file in files:
        store.pipe_file(f"az://{export.blob(file)}", file.read_bytes())
