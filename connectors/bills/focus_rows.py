"""Files in a vendor's own form, read row by row and given as FOCUS columns, so that a bill is a bill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from curb.connectors.bills.files import BillFiles, Choose, OnBad, Storage, ignored, reading
from curb.connectors.decode import UNFORESEEN, Rejected, decode
from curb.stream.errors import PermanentError

Row = Mapping[str, Any]
#: One row → the FOCUS lines it stands for: column → text, None where there is nothing.
Convert = Callable[[Row], Iterable[Mapping[str, str | None]]]

COLUMNS = (
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "BilledCost",
    "EffectiveCost",
    "BillingCurrency",
    "ChargeCategory",
    "ChargeFrequency",
    "ServiceName",
    "SubAccountId",
    "RegionId",
    "ResourceId",
    "ServiceProviderName",
    "SkuMeter",
    "x_CurrencyConversionRate",
    "Tags",
)
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".zip", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
_ROWS = 5000
_ROW = msgspec.json.Decoder(dict[str, Any])


class FocusRows(BillFiles):
    """BillFiles whose `batches` are FOCUS. `form_of(names)` gives what converts rows of a file with these columns, None
    where the file is FOCUS already; it raises PermanentError that names a missing column."""

    def __init__(self, url: str, storage: Storage, form_of: Callable[[Sequence[str]], Convert | None]) -> None:
        super().__init__(url, storage)
        self._form_of = form_of

    def batches(self, path: str, choose: Choose, on_bad: OnBad = ignored) -> Iterator[pa.RecordBatch]:
        """As BillFiles does it; JSON may have one object a line, too."""
        with reading(path):
            rows = self._rows(path, on_bad)
            first = next(rows, None)
            if first is None:
                return
            convert = self._form_of(list(first))
            if convert is None:
                yield from super().batches(path, choose, on_bad)
                return
            wanted = list(choose(COLUMNS))
            pending = [first]
            while pending:
                lines = [line for row in pending for line in converted(convert, row)]
                yield pa.RecordBatch.from_pylist(lines, schema=_SCHEMA).select(wanted)
                pending = list(islice(rows, _ROWS))

    def _rows(self, path: str, on_bad: OnBad) -> Iterator[dict[str, Any]]:
        if path.endswith(".parquet"):
            with self._open()[0].open_input_file(path) as source:
                for batch in pq.ParquetFile(source).iter_batches(_ROWS, use_threads=False):
                    yield from batch.to_pylist(maps_as_pydicts="lossy")
        elif path.endswith((".csv", ".csv.gz", ".zip")):
            for batch in self._csv(path, lambda names: names, on_bad):
                yield from batch.to_pylist()
        elif path.endswith(SUFFIXES):
            yield from self._json_lines(path, on_bad)
        else:
            raise PermanentError(f"{path}: only {', '.join(SUFFIXES)} can be read")

    def _json_lines(self, path: str, on_bad: OnBad) -> Iterator[dict[str, Any]]:
        found = self.bytes_of(path).splitlines()  # .gz is decompressed on opening
        for number, line in enumerate(found, 1):
            if not line.strip():
                continue
            row = decode(_ROW, line)
            if isinstance(row, Rejected):
                on_bad(number, Rejected("not_json", "a line that is no JSON object"))
            else:
                yield row


def converted(convert: Convert, row: Row) -> list[Mapping[str, str | None]]:
    """The lines of a row, without characters that are no text; of a row that cannot be converted one without times,
    which becomes a dead letter."""
    try:
        return [{name: _sound(value) for name, value in line.items()} for line in convert(row)]
    except UNFORESEEN:
        return [{}]


def _sound(value: str | None) -> str | None:
    return value if value is None or value.isascii() else value.encode("utf-8", "replace").decode()


def text(value: Any) -> str | None:
    """A value as text; None for nothing."""
    return None if value is None or value == "" else str(value)
