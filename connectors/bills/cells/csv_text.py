"""What a file of CSV is: its encoding, delimiter and column names, and the odd rows in it."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv

from curb.connectors.decode import Rejected

#: Bytes that are looked at to learn what a file is; headers of reports with 1,000 columns are shorter.
HEAD_BYTES = 256 * 1024
_BLOCK_BYTES = 4 * 1024 * 1024
#: Candidates, the commonest first.
_DELIMITERS = ",;\t|"
#: Byte order marks of the encodings that Arrow must translate.
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
#: Odd rows of one file that are kept; further ones are counted only.
_KEPT_ROWS = 10_000


class CsvShape(NamedTuple):
    """How to read a file: `skip_lines` lie before the first row of data."""

    encoding: str
    delimiter: str
    names: tuple[str, ...]
    skip_lines: int


def shape_of(head: bytes) -> CsvShape:
    """The shape of a file that begins with `head`. A name that comes twice gets a number the second time."""
    encoding = _encoding(head)
    text = _decoded(head, encoding)
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=lambda each: (first.count(each), -_DELIMITERS.index(each)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in reader:
        if any(name.strip() for name in row):
            return CsvShape(encoding, delimiter, _unique(row), reader.line_num)
    return CsvShape(encoding, delimiter, (), 0)


def _encoding(head: bytes) -> str:
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    sample = head[:1000]
    if sample and sample[1::2].count(0) > len(sample) // 4:
        return "utf-16-le"
    return "utf-16-be" if sample and sample[::2].count(0) > len(sample) // 4 else "utf-8"


def _decoded(head: bytes, encoding: str) -> str:
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
        return decoder.decode(head, final=False).lstrip("\ufeff")
    except UnicodeDecodeError:
        return head.decode("cp1252", "replace")


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    found = []
    for given in names:
        name = given.strip()
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(found)


class OddRows:
    """Rows of one file with another number of fields than there are columns."""

    def __init__(self) -> None:
        self.rejected: list[tuple[int, Rejected]] = []
        self.long: list[tuple[int, str]] = []

    def handle(self, row: Any) -> str:
        """Called by Arrow for each such row. A row with fields too many may still be read; one with too few is cut."""
        if row.actual_columns > row.expected_columns and len(self.long) < _KEPT_ROWS:
            self.long.append((row.number or 0, row.text))
        else:
            why = f"a row of {row.actual_columns} fields where there are {row.expected_columns} columns"
            self.rejected.append((row.number or 0, Rejected("invalid", why)))
        return "skip"


def batches(source: Any, shape: CsvShape, wanted: Sequence[str], odd: OddRows) -> Iterator[pa.RecordBatch]:
    """The wanted columns as text."""
    read = pa.csv.ReadOptions(
        use_threads=False,
        block_size=_BLOCK_BYTES,
        column_names=list(shape.names),
        skip_rows=shape.skip_lines,
        encoding="utf8" if shape.encoding == "utf-8" else shape.encoding,
    )
    parse = pa.csv.ParseOptions(delimiter=shape.delimiter, newlines_in_values=True, invalid_row_handler=odd.handle)
    convert = pa.csv.ConvertOptions(
        include_columns=list(wanted),
        column_types=dict.fromkeys(wanted, pa.string()),
        strings_can_be_null=True,
        null_values=["", "NULL", "null"],
    )
    yield from pa.csv.open_csv(source, read, parse, convert)
    if odd.long:
        yield _long_rows(shape, wanted, odd)


def encoding_of(blocks: Iterable[bytes]) -> str:
    """UTF-8 when all of these bytes are, else Windows-1252."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in blocks:
            decoder.decode(block)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _long_rows(shape: CsvShape, wanted: Sequence[str], odd: OddRows) -> pa.RecordBatch:
    """Rows with surplus fields, without these: where a field was not quoted, times or amounts cannot be read."""
    rows = list(csv.reader([text for _, text in odd.long], delimiter=shape.delimiter))
    places = [shape.names.index(name) for name in wanted]
    columns = [pa.array([(row[at] or None) if at < len(row) else None for row in rows], pa.string()) for at in places]
    return pa.RecordBatch.from_arrays(columns, names=list(wanted))
