"""Dollars for one unit of another currency: fixed, or from a day on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.connectors.bills.sums import Floats, Ints

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Dated = Annotated[dict[date, Rate], Field(min_length=1)]
#: Currency → its rate, or the rates by the day (UTC) from which each holds; the first also holds before its day.
UsdPer = dict[str, Rate | Dated]


class CurrencyRates:
    """The configured rates."""

    def __init__(self, usd_per: Mapping[str, float | Mapping[date, float]]) -> None:
        self._rates: dict[str, tuple[list[float], list[float]]] = {"USD": ([0.0], [1.0])}
        for currency, given in usd_per.items():
            by_day = given if isinstance(given, Mapping) else {date(1970, 1, 1): given}
            days = sorted(by_day)
            starts = [datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() for day in days]
            self._rates[currency.upper()] = starts, [by_day[day] for day in days]

    def at(self, currency: str, start: float) -> float | None:
        """Dollars per unit for a charge that starts at `start` (epoch seconds); None without a rate."""
        known = self._rates.get(currency)
        return None if known is None else known[1][max(bisect_right(known[0], start) - 1, 0)]

    def of(self, currencies: Sequence[str], numbers: NDArray[Any], start: Ints) -> Floats:
        """Dollars per unit of each row, NaN without a rate; `numbers` are places in `currencies`."""
        found = np.full(len(numbers), np.nan)
        for number in np.unique(numbers).tolist():
            known = self._rates.get(currencies[number].upper() or "USD")
            if known is None:
                continue
            rows = numbers == number
            starts, rates = np.array(known[0]), np.array(known[1])
            found[rows] = rates[np.maximum(np.searchsorted(starts, start[rows], side="right") - 1, 0)]
        return found
