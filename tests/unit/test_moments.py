"""Moments as text: any number has one, in every time zone."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from curb.stream.time import iso, moment, utc


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (1_772_388_000.0, "2026-03-01T18:00:00Z"),
        (-1.0, "1969-12-31T23:59:59Z"),
        (1_772_388_000_000.0, "9999-12-31T00:00:00Z"),
        (float("inf"), "9999-12-31T00:00:00Z"),
        (-1e18, "0001-01-02T00:00:00Z"),
        (float("-inf"), "0001-01-02T00:00:00Z"),
        (float("nan"), "0001-01-02T00:00:00Z"),
    ],
)
def test_any_number_has_a_text(at: float, text: str) -> None:
    assert iso(at) == text
    assert utc(at)[-9:] == f"{text[11:16]} UTC"
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        assert moment(at, ZoneInfo(zone)).utcoffset() is not None
