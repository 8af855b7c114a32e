"""Azure's bill: exports of cost details (or of FOCUS) in Blob storage, or files that were copied from it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec
from pydantic import Field

from curb.connectors.bills.azure_details import AZURE
from curb.connectors.bills.bill import Bill, BillSettings, Delivery, FoundDeliveries
from curb.connectors.bills.deliveries import SOON_S, by_manifest, chosen_export, folder_of, quiet
from curb.connectors.bills.files import BillFile, BillFiles
from curb.connectors.bills.focus import FOCUS
from curb.connectors.connector import Context, Pull
from curb.stream.clock import Clock
from curb.stream.errors import TransientError

_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.zip")
_MANIFESTS = ("manifest.json", "_manifest.json")
#: Folders of an export: of its name, of the days its billing period has, and within that maybe one for each run.
_PERIOD = re.compile(r"(?P<export>.*)/(?P<period>(?P<month>\d{6})\d{2}-\d{8})/")


class Config(BillSettings):
    """Reads what Azure exports daily, month to date; each run replaces all of its billing period so far."""

    kind: Literal["azure_cost"]
    url: str = Field(
        description="Folder of one export: abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/DIRECTORY/EXPORT-NAME,"
        " az://CONTAINER/DIRECTORY/EXPORT-NAME, or a path on disk with a copy of it; a single file as well."
    )
    months: int = Field(2, ge=1, le=36, description="Billing periods that are read: this month and those before it.")

    def build(self, context: Context) -> Pull:
        files = BillFiles(self.url, self.storage)

        def find(reading: str) -> FoundDeliveries:
            return deliveries(files, self.months, context.clock, reading)

        return Pull(Bill(self.name, self, context, files, find, (FOCUS, AZURE)), self.poll_interval_s)


class _Blob(msgspec.Struct):
    blobName: str


class _Manifest(msgspec.Struct):
    """What is read of a manifest."""

    blobs: list[_Blob]


class _Run(NamedTuple):
    """A run of the export: its files, or the manifest that names them."""

    files: tuple[BillFile, ...]
    manifest: BillFile | None = None

    @property
    def newest(self) -> tuple[float, str]:
        """When it was written; stores keep whole seconds, so by path as well."""
        last = self.manifest or max(self.files, key=lambda file: file.modified)
        return last.modified, last.path


def deliveries(files: BillFiles, months: int, clock: Clock, reading: str = "") -> FoundDeliveries:
    """The newest run of each of the last `months` billing periods, and what is wrong with those not whole yet.

    Files that lie in no folder of a billing period stand for themselves. Of several exports only `reading` is looked
    at; raises PermanentError when it is none of them.
    """
    listed = files.list()
    there = {file.path: file for file in listed}
    export, periods, beside = _periods(files, listed, _first_month(clock, months), reading)
    found: list[Delivery] = []
    waiting: list[TransientError] = []
    for period, (folder, inside) in sorted(periods.items()):
        try:
            run = max(_runs(folder, inside), key=lambda each: each.newest)
            if run.manifest is None:
                found.append(quiet(files, period, run.files, clock))
            else:
                paths = _named(files, run.manifest)
                found.append(by_manifest(files, period, run.manifest, paths, there))
        except TransientError as error:
            waiting.append(error)
    return FoundDeliveries(found, waiting, export, beside)


#: Billing period → its folder, and the data and manifests in it.
_Periods = dict[str, tuple[str, list[BillFile]]]


def _periods(
    files: BillFiles, listed: Iterable[BillFile], first: str, reading: str
) -> tuple[str, _Periods, dict[str, str]]:
    """The export that is read, its periods, and what must not count. A file outside of any is a period of its own."""
    alone: _Periods = {}
    by_export: dict[str, _Periods] = defaultdict(dict)
    for file in listed:
        named = _PERIOD.match(file.path)
        if named is None:
            if file.path.endswith(_SUFFIXES):
                alone[file.path] = folder_of(file.path), [file]
        elif named["month"] >= first and (file.path.endswith(_SUFFIXES) or _is_manifest(file)):
            of = by_export[named["export"]]
            of.setdefault(named["period"], (named[0].rstrip("/"), []))[1].append(file)
    export, beside = chosen_export(files, by_export, reading)
    chosen = by_export[export] if export else {}
    for period, month in _overlapping(chosen):
        beside[period] = f"its days lie in {month} as well, which would count them twice"
        del chosen[period]
    return export, {**alone, **chosen}, beside


def _overlapping(periods: Iterable[str]) -> list[tuple[str, str]]:
    """Folders of chosen days, each with the folder of a whole month that has some of its days."""
    days = {period: (period[:8], period[9:]) for period in periods}
    months = {period: span for period, span in days.items() if _is_month(*span)}
    found = []
    for period, (start, end) in days.items():
        if period not in months:
            month = next((each for each, (begin, last) in months.items() if begin <= end and start <= last), None)
            found += [(period, month)] if month else []
    return found


def _is_month(start: str, end: str) -> bool:
    try:
        first, last = (datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) for day in (start, end))
    except ValueError:
        return False
    return first.day == 1 and (last + timedelta(days=1)).day == 1 and last - first < timedelta(days=31)


def _runs(folder: str, inside: Iterable[BillFile]) -> list[_Run]:
    """The runs of one billing period. Raises TransientError when none is whole."""
    by_folder: dict[str, list[BillFile]] = defaultdict(list)
    for file in inside:
        by_folder[folder_of(file.path)].append(file)
    runs: list[_Run] = []
    for where, here in by_folder.items():
        manifests = [file for file in here if _is_manifest(file)]
        if manifests:
            runs.append(_Run((), max(manifests, key=lambda file: file.modified)))
        elif where == folder:  # without partitions every file is the whole month to date
            runs += [_Run((file,)) for file in here]
    if not runs:
        raise TransientError(f"{folder}: no manifest yet", SOON_S)
    return runs


def _named(files: BillFiles, manifest: BillFile) -> list[str]:
    """The paths of a manifest's files, which lie beside it."""
    try:
        content = msgspec.json.decode(files.bytes_of(manifest.path), type=_Manifest)
    except msgspec.DecodeError as error:
        raise TransientError(f"{manifest.path}: not a whole manifest yet", SOON_S) from error
    return [f"{folder_of(manifest.path)}/{blob.blobName.rpartition('/')[2]}" for blob in content.blobs]


def _is_manifest(file: BillFile) -> bool:
    return file.path.rpartition("/")[2] in _MANIFESTS


def _first_month(clock: Clock, months: int) -> str:
    """The oldest month that is read, as YYYYMM."""
    now = datetime.fromtimestamp(clock.now(), UTC)
    year, month = divmod(now.year * 12 + now.month - months, 12)
    return f"{year:04d}{month + 1:02d}"
