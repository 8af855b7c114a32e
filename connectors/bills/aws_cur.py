"""AWS Data Exports in S3: CUR 2.0, FOCUS and legacy Cost and Usage Reports, found by their manifests."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime
from typing import Literal

import msgspec
from pydantic import Field

from curb.connectors.bills.bill import Bill, BillSettings, Delivery, FoundDeliveries
from curb.connectors.bills.cur import CUR
from curb.connectors.bills.deliveries import SOON_S, by_manifest, chosen_export
from curb.connectors.bills.files import BillFile, BillFiles
from curb.connectors.bills.focus import FOCUS
from curb.connectors.connector import Context, Pull
from curb.stream.clock import Clock
from curb.stream.errors import TransientError

_BY_NAME = re.compile(r"(?P<export>.*?)(/(meta)?data)?/BILLING_PERIOD=(?P<period>\d{4}-\d{2})", re.IGNORECASE)
_BY_DAYS = re.compile(r"(?P<export>.*)/(?P<year>\d{4})(?P<month>\d{2})\d{2}-\d{8}/")


class Config(BillSettings):
    """Reads what AWS delivers at least daily; each delivery is a complete replacement of its billing period so far."""

    kind: Literal["aws_cur"]
    url: str = Field(
        description="Where the export is delivered: s3://BUCKET/PREFIX/EXPORT-NAME, or a folder with a copy of it."
    )
    months: int = Field(2, ge=1, le=36, description="Billing periods that are read: this month and those before it.")

    def build(self, context: Context) -> Pull:
        files = BillFiles(self.url, self.storage)

        def find(reading: str) -> FoundDeliveries:
            return deliveries(files, self.months, context.clock, reading)

        return Pull(Bill(self.name, self, context, files, find, (FOCUS, CUR)), self.poll_interval_s)


class _Manifest(msgspec.Struct):
    """What is read of a manifest, of Data Exports and legacy reports."""

    dataFiles: list[str] | None = None
    reportKeys: list[str] | None = None
    executionId: str = ""
    assemblyId: str = ""


def deliveries(files: BillFiles, months: int, clock: Clock, reading: str = "") -> FoundDeliveries:
    """The newest delivery of each of the last `months` billing periods, and what is wrong with those not whole yet.

    Of several exports only `reading` is looked at; raises PermanentError when it is none of them.
    """
    listed = files.list()
    by_path = {file.path: file for file in listed}
    manifests: dict[tuple[str, str], list[BillFile]] = defaultdict(list)
    for file in listed:
        if file.path.endswith("Manifest.json") and (named := _named(file.path)) and named[1] > _before(clock, months):
            manifests[named].append(file)
    export, beside = chosen_export(files, [name for name, _ in manifests], reading)
    found, waiting = [], []
    for (name, period), candidates in sorted(manifests.items()):
        if name != export:
            continue
        try:
            # Stores keep whole seconds; names of deliveries begin with their time.
            newest = max(candidates, key=lambda file: (file.modified, file.path))
            found.append(_delivery(files, period, newest, by_path))
        except TransientError as error:
            waiting.append(error)
    return FoundDeliveries(found, waiting, export, beside)


def _delivery(files: BillFiles, period: str, manifest: BillFile, by_path: dict[str, BillFile]) -> Delivery:
    try:
        content = msgspec.json.decode(files.bytes_of(manifest.path), type=_Manifest)
    except msgspec.DecodeError as error:
        raise TransientError(f"{manifest.path}: not a whole manifest yet", SOON_S) from error
    urls = content.dataFiles if content.dataFiles is not None else content.reportKeys
    if urls is None:
        raise TransientError(f"{manifest.path}: names no files (dataFiles or reportKeys)", SOON_S)
    paths = [files.within(url) if not files.local else _local(files, url) for url in urls]
    return by_manifest(files, period, manifest, paths, by_path, content.executionId or content.assemblyId)


def _local(files: BillFiles, url: str) -> str:
    """Where a file of the bucket lies in a copy of the export: under the same name of the export, or beside it."""
    path = "/" + (url.partition("://")[2] or url)
    name = files.root.rpartition("/")[2]
    _, within, behind = path.rpartition(f"/{name}/")
    return f"{files.root}/{behind if within else path.rpartition('/')[2]}"


def _named(path: str) -> tuple[str, str] | None:
    """The folder of the export, and the billing period, of a manifest's path."""
    named = _BY_NAME.match(path)
    if named:
        return named["export"], named["period"]
    days = _BY_DAYS.match(path)
    return (days["export"], f"{days['year']}-{days['month']}") if days else None


def _before(clock: Clock, months: int) -> str:
    """The last billing period that is too old, as YYYY-MM."""
    now = datetime.fromtimestamp(clock.now(), UTC)
    year, month = divmod(now.year * 12 + now.month - 1 - months, 12)
    return f"{year:04d}-{month + 1:02d}"
