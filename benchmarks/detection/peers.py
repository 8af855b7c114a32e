"""What people use today, on the same streams: naive rules, the rules of gateways and cost tools, Prophet, River."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.util
import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.streams import EVENTS_FILE
from curb.connectors.tokens.usage_jsonl import parse_event_stream
from curb.evaluate.score import WARMUP_DAYS, Fired
from curb.stream.records.spend import GpuRecord, SpendRecord
from curb.stream.time import DAY_S, HOUR_S

_RIVER = "benchmarks.detection.peer_river"

Array = NDArray[np.float64]
#: Alerts as (epoch seconds, tags).
Alerts = list[tuple[float, dict[str, str]]]


class Grid(NamedTuple):
    """Dollars of each subject in cells of time. All that is billed to a cell counts in it, however late it came,
    which is more than a rule would know at the time."""

    start: float
    cell_s: int
    subjects: list[dict[str, str]]
    #: (subjects, cells)
    usd: Array

    @property
    def ends(self) -> Array:
        """When each cell is over, epoch seconds."""
        return self.start + np.arange(1, self.usd.shape[1] + 1, dtype=np.float64) * self.cell_s


def grid(events: Sequence[SpendRecord], cell_s: int) -> Grid:
    """Keys, nodes, and as a whole those groups whose nodes come and go. The first cell begins at midnight."""
    start = min(event.charge_period_start for event in events) // DAY_S * DAY_S
    first_seen: dict[tuple[str, str], float] = {}
    for event in events:
        if isinstance(event, GpuRecord):
            node = event.tags["group"], event.tags["node"]
            first_seen[node] = min(first_seen.get(node, math.inf), event.charge_period_start)
    whole = {group for (group, _), at in first_seen.items() if at > start + WARMUP_DAYS * DAY_S}
    index: dict[tuple[str, str], int] = {}
    cells: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for event in events:
        tag = "api_key" if "api_key" in event.tags else "group" if event.tags.get("group") in whole else "node"
        subject = index.setdefault((tag, event.tags[tag]), len(index))
        cells[subject][int((event.charge_period_start - start) // cell_s)] += event.effective_cost
    last = max(max(row) for row in cells.values())
    days = (last + 1) * cell_s / DAY_S
    usd = np.zeros((len(index), math.ceil(days) * DAY_S // cell_s))
    for subject, row in cells.items():
        usd[subject, list(row)] = list(row.values())
    return Grid(start, cell_s, [{tag: value} for tag, value in index], usd)


def alerts(found: Grid, over: NDArray[np.bool_], reopen_h: float, delay_s: float = 0.0) -> Alerts:
    """One alert when a subject comes to be over; while it stays, or within `reopen_h` hours of the last, none."""
    told: Alerts = []
    ends, warm = found.ends, found.start + WARMUP_DAYS * DAY_S
    for subject, row in zip(found.subjects, over, strict=True):
        last = -math.inf
        for cell in np.flatnonzero(row & ~np.concatenate(([False], row[:-1]))):
            at = float(ends[cell])
            if at > warm and at - last >= reopen_h * HOUR_S:
                told.append((at + delay_s, subject))
                last = at
    return sorted(told, key=lambda alert: alert[0])


def trailing(values: Array, cells: int, at_least: int, of: Callable[..., Any]) -> Array:
    """A statistic of the `cells` before each cell; NaN where there are fewer than `at_least`."""
    out = np.full(values.shape, np.nan)
    for i in range(at_least, values.shape[1]):
        out[:, i] = of(values[:, max(0, i - cells) : i], axis=1)
    return out


# --- naive rules, every quarter of an hour -------------------------------------------------------------------------


def _hours(events: Sequence[SpendRecord]) -> tuple[Grid, Array]:
    """Quarters of an hour, and the dollars of the hour up to the end of each."""
    found = grid(events, 900)
    sums = np.cumsum(np.pad(found.usd, ((0, 0), (4, 0))), axis=1)
    return found, sums[:, 4:] - sums[:, :-4]


def over_yesterday(events: Sequence[SpendRecord], step_s: int) -> Alerts:
    """An hour over 3 times the mean of the day before it, and over $2."""
    found, hour = _hours(events)
    normal = 4 * _lagged(trailing(found.usd, 96, 24, np.mean))
    return alerts(found, (hour > 3 * normal) & (hour > 2), reopen_h=6)


def over_percentile(events: Sequence[SpendRecord], step_s: int, seasonal: bool = False) -> Alerts:
    """An hour over twice the 98th percentile of three days, and over $2; also over twice the same time before."""
    found, hour = _hours(events)
    normal = 4 * _lagged(trailing(found.usd, 288, 96, partial(np.quantile, q=0.98)))
    over = (hour > 2 * normal) & (hour > 2)
    if seasonal:
        over &= hour > 2 * _same_time(hour)
    return alerts(found, over, reopen_h=6)


def _lagged(values: Array) -> Array:
    """Known an hour earlier, so that the hour in question is not in it."""
    return np.pad(values, ((0, 0), (3, 0)), constant_values=np.nan)[:, : values.shape[1]]


def _same_time(hour: Array) -> Array:
    """The most in an hour around the same time yesterday and a week ago."""
    out = np.full(hour.shape, np.nan)
    for back in (96, 672):
        for i in range(back, hour.shape[1]):
            around = hour[:, max(0, i - back - 4) : i - back + 5].max(1)
            out[:, i] = np.fmax(out[:, i], around)
    return out


def fixed(events: Sequence[SpendRecord], step_s: int) -> Alerts:
    """An hour over $20."""
    found, hour = _hours(events)
    return alerts(found, hour > 20, reopen_h=6)


# --- rules by the day ---------------------------------------------------------------------------------------------


def _days(events: Sequence[SpendRecord], check_h: int) -> tuple[Grid, Array, Array]:
    """Cells of `check_h` hours, the day's dollars up to each, and the mean of up to seven full days before."""
    found = grid(events, check_h * HOUR_S)
    per_day = 24 // check_h
    days = found.usd.reshape(len(found.subjects), -1, per_day)
    so_far: Array = np.cumsum(days, axis=2).reshape(found.usd.shape)
    normal = np.repeat(trailing(days.sum(2), 7, 1, np.mean), per_day, axis=1)
    return found, so_far, normal


def litellm(events: Sequence[SpendRecord], step_s: int) -> Alerts:
    """LiteLLM's: today over 3 times the mean of seven days, and over $10; looked at every hour."""
    found, today, normal = _days(events, 1)
    return alerts(found, (today > 3 * normal) & (today > 10), reopen_h=24)


def optscale(events: Sequence[SpendRecord], step_s: int) -> Alerts:
    """OptScale's: today so far over 1.3 times the mean of seven days; looked at every 6 hours."""
    found, today, normal = _days(events, 6)
    return alerts(found, (today > 1.3 * normal) & (today > 1), reopen_h=24)


def next_day(events: Sequence[SpendRecord], step_s: int) -> Alerts:
    """As on a bill: a day over 3 standard deviations above the days before, and $1 over; known a day later."""
    found = grid(events, DAY_S)
    mean, sd = (trailing(found.usd, 14, 3, of) for of in (np.mean, np.std))
    return alerts(found, (found.usd > mean + 3 * sd) & (found.usd > mean + 1), reopen_h=30, delay_s=DAY_S)


# --- Prophet ------------------------------------------------------------------------------------------------------


def prophet(events: Sequence[SpendRecord], step_s: int) -> Alerts:
    """Prophet on hours, fitted again every midnight: an hour over its 99.5 % interval and $2 over its forecast."""
    logging.getLogger("cmdstanpy").disabled = True
    for name in ("prophet", "prophet.plot"):
        # The latter says at import that it misses a package for plots.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    found = grid(events, HOUR_S)
    over = np.zeros(found.usd.shape, np.bool_)
    for subject, usd in enumerate(found.usd):
        for first in range(int(WARMUP_DAYS) * 24, usd.size, 24):
            # Without an hour over $2, nothing can be $2 over.
            if usd[:first].any() and usd[first : first + 24].max() > 2:
                expected, upper = _forecast(usd[:first], usd[first : first + 24].size)
                day = usd[first : first + 24]
                over[subject, first : first + 24] = (day > upper) & (day > expected + 2)
    return alerts(found, over, reopen_h=6)


def _forecast(past: Array, hours: int) -> tuple[Array, Array]:
    """The next hours and the upper ends of their intervals."""
    import pandas  # type: ignore[import-untyped, unused-ignore]
    from prophet import Prophet

    # Prophet draws its intervals from numpy's global generator.
    np.random.seed(1)
    stamps = pandas.date_range("2024-01-01", periods=past.size + hours, freq="h")
    model = Prophet(interval_width=0.995, uncertainty_samples=300, yearly_seasonality=False)
    model.fit(pandas.DataFrame({"ds": stamps[: past.size], "y": past}))
    ahead = model.predict(pandas.DataFrame({"ds": stamps[past.size :]}))
    return ahead["yhat"].to_numpy(), ahead["yhat_upper"].to_numpy()


# --- all of them --------------------------------------------------------------------------------------------------


class Peer(NamedTuple):
    """A method beside Curb's. `detect` takes records in order of arrival, each id once, and the step in seconds."""

    name: str
    family: str
    detect: Callable[[Sequence[SpendRecord], int], Alerts]
    #: The file whose change makes what is kept of it stale.
    source: str = __file__


def peers() -> list[Peer]:
    """Everything there is to compare with; Prophet and River's detectors where they are installed."""
    found = [
        Peer("hour > 3x day before, $2", "naive", over_yesterday),
        Peer("hour > 2x p98 of 3 days, $2", "naive", over_percentile),
        Peer("the same, and > 2x same time", "naive", partial(over_percentile, seasonal=True)),
        Peer("hour > $20", "naive", fixed),
        Peer("LiteLLM: today > 3x week, $10", "vendor", litellm),
        Peer("OptScale: today > 1.3x week", "vendor", optscale),
        Peer("daily z > 3, a day late", "vendor", next_day),
    ]
    if importlib.util.find_spec("prophet") is not None:
        found.append(Peer("Prophet 99.5 %, hourly, $2", "Prophet", prophet))
    if importlib.util.find_spec(_RIVER) is not None and importlib.util.find_spec("river") is not None:
        found += _river(importlib.import_module(_RIVER))
    return found


def _river(module: Any) -> list[Peer]:
    """Every method of River's module."""
    return [Peer(name, "River", detect, source=module.__file__) for name, detect in module.PEERS.items()]


def read_events(directory: Path) -> list[SpendRecord]:
    """The records of a stream that can be read, in order of arrival, each id once."""
    logging.getLogger("connectors").setLevel(logging.ERROR)
    with gzip.open(directory / EVENTS_FILE) as file:
        records = parse_event_stream(file, source="benchmark", location=EVENTS_FILE).records
    return list({record.id: record for record in reversed(records)}.values())[::-1]


def run_peers(directory: Path, step_s: int) -> dict[str, list[Fired]]:
    """The alerts of every peer on the stream in a directory, which also keeps them: they change with the code only."""
    events: list[SpendRecord] = []
    found = {}
    for peer in peers():
        kept = directory / f"peer-{_digest(peer)}.json"
        if not kept.exists():
            events = events or read_events(directory)
            told = [[at, tags] for at, tags in peer.detect(events, step_s)]
            unfinished = kept.with_suffix(".tmp")
            unfinished.write_text(json.dumps(told))
            unfinished.replace(kept)
        found[peer.name] = [Fired(at, tags) for at, tags in json.loads(kept.read_text())]
    return found


def _digest(peer: Peer) -> str:
    return hashlib.sha256(peer.name.encode() + Path(peer.source).read_bytes()).hexdigest()[:16]
