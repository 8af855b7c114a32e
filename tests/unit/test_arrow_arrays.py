"""What goes between Arrow and numpy is what Arrow itself would make of it, and pandas stays out of it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.connectors.bills.cells.arrow import from_ints, from_texts, to_numbers
from tests.fakes import aws_cur as cur
from tests.fakes.bills import JUNE, NOW

_INTS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.none() | _INTS))
def test_integers_with_and_without_nulls(values: list[int | None]) -> None:
    numbers = np.array([value or 0 for value in values], np.int64)
    missing = np.array([value is None for value in values], np.bool_)
    assert from_ints(numbers, missing).equals(pa.array(values, pa.int64()))
    assert from_ints(numbers).to_pylist() == numbers.tolist()


@given(st.lists(st.none() | st.text()))
def test_texts(values: list[str | None]) -> None:
    array = from_texts(values)
    array.validate(full=True)
    assert array.equals(pa.array(values, pa.string()))


@given(st.lists(st.none() | st.floats(allow_nan=False), max_size=20), st.integers(0, 9))
def test_numbers_of_an_array_and_of_a_part_of_it(values: list[float | None], first: int) -> None:
    found = to_numbers(pa.array(values, pa.float64()).slice(first), -1.0)
    assert found.tolist() == [-1.0 if value is None else value for value in values[first:]]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint16(), pa.int64(), pa.float32()])
def test_every_width(kind: pa.DataType) -> None:
    assert to_numbers(pa.array([1, None, 3], kind), 7).tolist() == [1, 7, 3]
    assert to_numbers(pa.array([None, None], kind), 7).tolist() == [7, 7]
    assert to_numbers(pa.array([], kind), 7).tolist() == []


_READ = """
import asyncio, sys
from pathlib import Path
from curb.connectors.bills.aws_cur import Config
from curb.connectors.connector import Context
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock

config = Config.model_validate({"kind": "aws_cur", "name": "aws", "url": sys.argv[1]})
bill = config.build(Context(ManualClock(float(sys.argv[2])), None, PriceBook.load(), Path(sys.argv[3]))).connector
print(len(asyncio.run(bill.read(None)).records), "pandas" in sys.modules)
"""


@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
def test_a_bill_is_read_without_pandas(tmp_path: Path, form: str) -> None:
    assert find_spec("pandas") is not None, "it proves nothing where pandas is not installed"
    cur.Export(tmp_path / "cur", form=form).deliver([cur.line(JUNE, 1.0), cur.line(JUNE, 2.0, resource_tags={})])
    arguments = [sys.executable, "-c", _READ, str(tmp_path / "cur"), str(NOW), str(tmp_path / "state")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["2", "False"], done.stderr
