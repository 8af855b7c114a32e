"""Files in a vendor's own form, read row by row and given as FOCUS columns, so that a bill is a bill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from curb.connectors.bills.files import BillFiles, Storage, reading
from curb.stream.errors import PermanentError, TransientError

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
    "Tags",
)
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
_SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
_ROWS = 5000


class FocusRows(BillFiles):
    """BillFiles whose `batches` are FOCUS. `form_of(names)` gives what converts rows of a file with these columns, None
    where the file is FOCUS already; it raises PermanentError that names a missing column."""

    def __init__(self, url: str, storage: Storage, form_of: Callable[[Sequence[str]], Convert | None]) -> None:
        super().__init__(url, storage)
        self._form_of = form_of

    def batches(self, path: str, choose: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[pa.RecordBatch]:
        """As BillFiles does it; JSON may have one object a line, too."""
        with reading(path):
            rows = self._rows(path)
            first = next(rows, None)
            if first is None:
                return
            convert = self._form_of(list(first))
            if convert is None:
                yield from super().batches(path, choose)
                return
            wanted = list(choose(COLUMNS))
            pending = [first]
            while pending:
                lines = [line for row in pending for line in convert(row)]
                yield pa.RecordBatch.from_pylist(lines, schema=_SCHEMA).select(wanted)
                pending = list(islice(rows, _ROWS))

    def _rows(self, path: str) -> Iterator[dict[str, Any]]:
        if path.endswith(".parquet"):
            with self._open()[0].open_input_file(path) as source:
                for batch in pq.ParquetFile(source).iter_batches(_ROWS, use_threads=False):
                    yield from batch.to_pylist(maps_as_pydicts="lossy")
        elif path.endswith((".csv", ".csv.gz")):
            for batch in self._csv(path, lambda names: names):
                yield from batch.to_pylist()
        elif path.endswith(SUFFIXES):
            yield from self._json_lines(path)
        else:
            raise PermanentError(f"{path}: only {', '.join(SUFFIXES)} can be read")

    def _json_lines(self, path: str) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self.bytes_of(path).splitlines(), 1):  # .gz is decompressed on opening
            if not line.strip():
                continue
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise TransientError(f"{path}: line {number} is no JSON object; it may still be on its way") from error


def text(value: Any) -> str | None:
    """A value as text; None for nothing."""
    return None if value is None or value == "" else str(value)
