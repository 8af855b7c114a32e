"""FOCUS files from anyone: csv, csv.gz or Parquet, in an object store or on disk."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from curb.connectors.bills.bill import Bill, BillSettings, FoundDeliveries
from curb.connectors.bills.deliveries import by_folder
from curb.connectors.bills.files import BillFiles
from curb.connectors.bills.focus import FOCUS
from curb.connectors.connector import Context, Pull

_SUFFIXES = (".parquet", ".csv", ".csv.gz", ".zip")


class Config(BillSettings):
    """Every file stands for itself, unless `period_pattern` says which files are deliveries of the same period."""

    kind: Literal["focus_file"]
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

    def build(self, context: Context) -> Pull:
        files = BillFiles(self.url, self.storage)

        def find(_reading: str) -> FoundDeliveries:
            return by_folder(files, _SUFFIXES, self.period_pattern, context.clock)

        rolling = self.period_pattern is None
        return Pull(Bill(self.name, self, context, files, find, (FOCUS,), rolling=rolling), self.poll_interval_s)
