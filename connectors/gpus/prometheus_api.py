"""Range queries on a server that speaks Prometheus' HTTP API, and what its answers mean."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import aiohttp
import msgspec
from yarl import URL

from curb.connectors.http import fetch
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.codec import UNREADABLE

logger = logging.getLogger(__name__)
_MAX_BYTES = 64 * 1024 * 1024
#: Statuses that carry the server's own words: a bad query, a query that cannot be computed, a query that took too long.
_EXPLAINED = (400, 422, 503)
_PASSING = frozenset({"timeout", "canceled", "unavailable", "internal"})


class PromSeries(NamedTuple):
    """One series: its labels and (epoch seconds, value), finite values only."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Result(NamedTuple):
    """The series of a query. `partial` says why some may be missing, or is empty."""

    series: list[PromSeries]
    partial: str = ""


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _Data(msgspec.Struct):
    resultType: str
    result: list[_Series]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    errorType: str = ""
    error: str = ""
    warnings: list[str] = []
    isPartial: bool = False


_decoder = msgspec.json.Decoder(_Answer)


class PrometheusApi:
    """One server. `headers` carry credentials and tenant."""

    def __init__(
        self, url: str, http: aiohttp.ClientSession, clock: Clock, *, headers: dict[str, str], timeout_s: float
    ) -> None:
        self._url, self._http, self._clock = URL(url), http, clock
        self._headers, self._timeout_s = {"Accept": "application/json", **headers}, timeout_s

    async def query_range(self, query: str, start: float, end: float, step_s: float, *, lookback_s: float) -> Result:
        """The values at start, start + step, ..., end. Raises TransientError or PermanentError."""
        form = {
            "query": query,
            "start": f"{start:.3f}",
            "end": f"{end:.3f}",
            "step": f"{step_s:g}",
            "timeout": f"{self._timeout_s:g}s",
            # Servers that do not know these leave them alone: how old a sample may be, and all or nothing (Thanos).
            "lookback_delta": f"{lookback_s:g}s",
            "partial_response": "false",
        }
        url = self._url / "api/v1/query_range"
        answer = await fetch(
            self._http,
            self._clock,
            url,
            headers=self._headers,
            data=form,
            # The server gives up first, and says so.
            timeout_s=self._timeout_s + 5,
            types=("application/json",),
            max_bytes=_MAX_BYTES,
            also=_EXPLAINED,
        )
        return _result(answer.status, answer.body, f"POST {url.host}{url.path}")


def _result(status: int, body: bytes, what: str) -> Result:
    try:
        answer = _decoder.decode(body)
    except UNREADABLE as error:
        if status in (400, 422) or (status == 200 and isinstance(error, msgspec.ValidationError)):
            raise PermanentError(f"{what}: HTTP {status}, not an answer of Prometheus' API") from error
        raise TransientError(f"{what}: HTTP {status}, an answer that is cut off or no JSON") from error
    if answer.status != "success" or answer.data is None:
        text = f"{what}: {answer.errorType or status}: {answer.error[:300]}"
        passing = answer.errorType in _PASSING or status == 503
        raise TransientError(text) if passing else PermanentError(text)
    if answer.data.resultType != "matrix":
        raise PermanentError(f"{what}: a {answer.data.resultType} instead of a matrix")
    for warning in answer.warnings:
        logger.warning("Prometheus warns", extra={"warning": warning[:300]})
    hints = [each for each in answer.warnings if _says_partial(each)]
    partial = "partial response" if answer.isPartial else (hints[0][:200] if hints else "")
    return Result([_finite(series) for series in answer.data.result], partial)


def _says_partial(warning: str) -> bool:
    """Remarks on the query (PromQL info, PromQL warning) do not count; the rest are stores that did not answer."""
    return not warning.startswith("PromQL")


def _finite(series: _Series) -> PromSeries:
    points = []
    for at, text in series.values:
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value):  # NaN is how PromQL says "no value": 0/0, a quantile of nothing
            points.append((at, value))
    return PromSeries(series.metric, points)
