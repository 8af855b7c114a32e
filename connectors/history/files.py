"""Reads one file of the past, whatever of the known forms it has, record by record from a cursor."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from curb.connectors.connector import Batch
from curb.connectors.decode import Letters, Rejected
from curb.connectors.history.recognise import Form
from curb.connectors.tokens.jsonl_lines import LineFormat, parse_lines
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import UsageRecord

#: Records of one batch. Chosen by hand: a few MB.
_BATCH = 5000
#: Columns of LiteLLM's spend logs that are numbers; a CSV has text.
_WHOLE = ("total_tokens", "prompt_tokens", "completion_tokens")
#: One record of LiteLLM's logs → records, at a time.
RowRecords = Callable[[bytes, float], list[UsageRecord] | Rejected]


class PastFile:
    """A connector over one file. The cursor is the number of records that were read."""

    def __init__(
        self, path: Path, name: str, form: Form, clock: Clock, *, lines: LineFormat | None, rows: RowRecords
    ) -> None:
        """`lines` reads lines of JSON; without it, `rows` reads records of LiteLLM's logs."""
        self._path, self._name, self._form, self._clock = path, name, form, clock
        self._lines, self._row_records = lines, rows
        self._at, self._rows = 0, iter(())  # type: tuple[int, Iterator[bytes]]

    async def read(self, cursor: str | None) -> Batch:
        """The next records. Raises PermanentError where the file cannot be read."""
        return await asyncio.to_thread(self._read, int(cursor or 0))

    async def close(self) -> None:
        self._rows = iter(())

    def _read(self, start: int) -> Batch:
        try:
            if start != self._at or start == 0:
                self._rows, self._at = islice(raw_records(self._path), start, None), start
            raws = list(islice(self._rows, _BATCH))
        except (OSError, EOFError, ValueError, csv.Error) as error:
            raise PermanentError(f"{self._path}: {error}") from None
        batch = self._of_lines(raws, start) if self._lines is not None else self._of_rows(raws, start)
        self._at = start + len(raws)
        return batch._replace(cursor=str(self._at), more=bool(raws))

    def _of_lines(self, raws: list[bytes], start: int) -> Batch:
        assert self._lines is not None
        return parse_lines(
            raws,
            self._lines,
            source=self._name,
            location=str(self._path),
            at=self._clock.now(),
            first_line=start + 1,
        )

    def _of_rows(self, raws: list[bytes], start: int) -> Batch:
        now = self._clock.now()
        records: list[UsageRecord] = []
        locations: list[str] = []
        letters = Letters(self._name, now)
        for number, raw in enumerate(raws, start + 1):
            found = self._row_records(raw, now)
            if isinstance(found, Rejected):
                letters.add(found, location=f"{self._path}:{number}", content=raw)
                continue
            records += found
            locations += [f"{self._path}:{number}"] * len(found)
        return Batch(records, "", dead=letters.messages(), locations=locations)


def raw_records(path: Path) -> Iterator[bytes]:
    """Each record of a file as JSON: of lines, of an array (also below `data`), or of a CSV with a header."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open(path, "rb") if packed else path.open("rb")  # noqa: SIM115 - closed below
    with opened as file:
        buffered = io.BufferedReader(file) if packed else file
        first = buffered.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if first == b"{":
            yield from (line for line in buffered if not line.isspace())
        elif first == b"[":
            yield from map(bytes, msgspec.json.decode(buffered.read(), type=list[msgspec.Raw]))
        else:
            text = io.TextIOWrapper(buffered, encoding="utf-8-sig", newline="")
            csv.field_size_limit(16 * 1024 * 1024)
            yield from (_of_row(row) for row in csv.DictReader(text))


def _of_row(row: dict[str, Any]) -> bytes:
    """A row of a CSV as JSON: empty fields are left out, numbers are numbers."""
    kept: dict[str, Any] = {}
    for name, value in row.items():
        if not isinstance(value, str) or value == "" or not isinstance(name, str):
            continue
        kept[name] = value
        try:
            if name == "spend":
                kept[name] = float(value)
            elif name in _WHOLE:
                kept[name] = int(float(value))
        except ValueError:
            pass  # text where a number belongs: the reader says so
    return json.dumps(kept).encode()
