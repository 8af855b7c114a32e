"""FOCUS files from anyone: csv, csv.gz or Parquet, in an object store or on disk."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from typing import Literal

from pydantic import Field, field_validator

from connectors.bill import Bill, BillSettings, Delivery, Found
from connectors.bill_files import BillFile, BillFiles
from connectors.charges import Snapshot
from connectors.connector import Context
from connectors.focus import FOCUS
from stream.clock import Clock
from stream.errors import TransientError

_SUFFIXES = (".parquet", ".csv", ".csv.gz")
#: A file on disk is left alone until it was not written for so long.
_QUIET_S = 10.0


class Config(BillSettings):
    """Every file stands for itself, unless `period_pattern` says which files are deliveries of the same period."""

    kind: Literal["focus_file"]
    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name: lower-case letters and dashes.")
    url: str = Field(
        description="A file, a folder or a pattern with `*`: s3://, gs://, abfss://, a path, or any fsspec scheme."
    )
    period_pattern: str | None = Field(
        None,
        description="Regular expression whose first group finds the billing period in a path, such as"
        " `BILLING_PERIOD=([0-9-]+)`. Of each period, the folder that was written last is the bill.",
    )

    @field_validator("period_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and re.compile(pattern).groups < 1:
                raise ValueError("needs a group (…) around the billing period")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    def build(self, context: Context) -> Bill:
        """The connector."""
        files = BillFiles(self.url, self.storage)

        def find() -> Found:
            return deliveries(files, self.period_pattern, context.clock)

        return Bill(self.name, self, context, files, find, (FOCUS,))


def deliveries(files: BillFiles, period_pattern: str | None, clock: Clock) -> Found:
    """What lies there, by billing period. On disk, what was written a moment ago waits."""
    periods: dict[str, list[BillFile]] = defaultdict(list)
    for file in files.list():
        if not file.path.endswith(_SUFFIXES):
            continue
        match = re.search(period_pattern, file.path) if period_pattern else None
        if period_pattern is None or match is not None:
            periods[match[1] if match else file.path].append(file)
    found, waiting = [], []
    for period, candidates in sorted(periods.items()):
        newest = max(candidates, key=lambda file: file.modified)
        folder = newest.path.rpartition("/")[0]
        chosen = tuple(file for file in candidates if file.path.rpartition("/")[0] == folder)
        if files.local and newest.modified > clock.now() - _QUIET_S:
            waiting.append(TransientError(f"{newest.path}: may still be being written", _QUIET_S))
            continue
        version = ";".join(f"{file.path}@{file.size}@{file.modified}" for file in chosen)
        found.append(Delivery(Snapshot(period, digest(version), newest.modified), chosen))
    return found, waiting


def digest(text: str) -> str:
    """Short and stable."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
