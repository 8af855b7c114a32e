"""The shipped trace as individual requests: real per-key counts and token sizes, spread over seconds by fixed seeds."""

from __future__ import annotations

import csv
import gzip
import heapq
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

#: Monday 10 August 2026, 00:00 UTC: where second 0 of the trace is put unless the caller says otherwise.
DEFAULT_START = 1786320000.0
WINDOW_S = 600
#: Token sizes are known per six hours; requests are made in blocks of the same length.
BLOCK_S = 21600
_MAX_INPUT_TOKENS = 100_000
_MAX_OUTPUT_TOKENS = 16_000


class Key(NamedTuple):
    """One virtual key of the gateway: who it belongs to and what its model costs."""

    api_key: str
    alias: str
    team: str
    project: str
    env: str
    model: str
    usd_per_m_input: float
    usd_per_m_output: float

    @property
    def tags(self) -> dict[str, str]:
        return {
            "team": self.team,
            "project": self.project,
            "env": self.env,
            "model": self.model,
            "api_key": self.api_key,
        }

    @property
    def secret(self) -> str:
        """The bearer token a client of the demo gateway sends; `api_key` is what the gateway calls it in public."""
        return f"sk-demo-{self.alias}"

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Dollars of one request at list price."""
        return (input_tokens * self.usd_per_m_input + output_tokens * self.usd_per_m_output) / 1e6


class Request(NamedTuple):
    """One call: epoch seconds, whose, tokens, dollars. `loop` is ground truth and leaves the demo only in reports."""

    id: str
    at: float
    key: Key
    input_tokens: int
    output_tokens: int
    cost_usd: float
    loop: bool = False


class TokenSizes(NamedTuple):
    """Token sizes of one key in one block: mean and standard deviation of input and output."""

    input_mean: float
    input_std: float
    output_mean: float
    output_std: float


class _Block(NamedTuple):
    """The requests of one key in one block, ascending in time; times are seconds since the start of the trace."""

    times: npt.NDArray[np.float64]
    inputs: npt.NDArray[np.int64]
    outputs: npt.NDArray[np.int64]
    costs: npt.NDArray[np.float64]


_NO_REQUESTS = _Block(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def default_directory() -> Path:
    """The trace that is shipped with Curb."""
    return Path(__file__).resolve().parent / "data"


def as_event(line: dict[str, Any]) -> bytes:
    """A line of `Trace.history` in the event-stream format, whose times are RFC 3339."""
    moments = {name: datetime.fromtimestamp(line[name], UTC) for name in ("ts", "recv")}
    return msgspec.json.encode(line | moments)


class Trace:
    """Requests of all keys from `start` to `end` (epoch seconds); same files and seed, same requests."""

    def __init__(
        self,
        keys: list[Key],
        counts: dict[str, npt.NDArray[np.int64]],
        tokens: dict[tuple[str, int], TokenSizes],
        *,
        start: float = DEFAULT_START,
        seed: int = 1,
    ) -> None:
        """`counts` holds per alias the requests of each ten-minute window; `tokens` is keyed by (alias, block)."""
        self.keys = keys
        self.start = start
        windows = max((len(c) for c in counts.values()), default=0)
        self.end = start + windows * WINDOW_S
        self._counts, self._tokens, self._seed = counts, tokens, seed
        self._blocks: dict[tuple[str, int], _Block] = {}

    @classmethod
    def load(cls, directory: Path | None = None, *, start: float = DEFAULT_START, seed: int = 1) -> Trace:
        """The trace in `directory`. Raises FileNotFoundError naming what is missing."""
        directory = directory or default_directory()
        if not (directory / "keys.csv").is_file():
            raise FileNotFoundError(
                f"{directory} holds no demo trace: keys.csv is missing (without --dir the shipped one is used)"
            )
        with (directory / "keys.csv").open(encoding="utf-8", newline="") as lines:
            keys = [_key(row) for row in csv.DictReader(lines)]
        rows = list(_rows(directory / "requests_10min.csv.gz"))
        windows = max(int(row["t_s"]) for row in rows) // WINDOW_S + 1
        whole_blocks = math.ceil(windows * WINDOW_S / BLOCK_S) * BLOCK_S // WINDOW_S
        counts = {key.alias: np.zeros(whole_blocks, np.int64) for key in keys}
        for row in rows:
            counts[row["alias"]][int(row["t_s"]) // WINDOW_S] = int(row["requests"])
        tokens = {
            (row["alias"], int(row["t_s"]) // BLOCK_S): TokenSizes(*(float(row[field]) for field in TokenSizes._fields))
            for row in _rows(directory / "tokens_6h.csv.gz")
        }
        return cls(keys, counts, tokens, start=start, seed=seed)

    def key(self, name: str) -> Key:
        """The key with this alias or api_key. Raises KeyError."""
        for key in self.keys:
            if name in (key.alias, key.api_key):
                return key
        raise KeyError(f"no key named {name} in the trace")

    def requests_between(self, t0: float, t1: float) -> Iterator[Request]:
        """All requests with t0 <= at < t1 in order of time."""
        for block in self._blocks_between(t0, t1):
            yield from heapq.merge(
                *(self._requests_of(number, block, t0, t1) for number in range(len(self.keys))),
                key=lambda request: request.at,
            )

    def history(self, t0: float, t1: float, step_s: int = 60) -> Iterator[dict[str, Any]]:
        """Usage lines per key and step, ascending in time: exactly the sums of `requests_between(t0, t1)`.

        `t0` and `t1` lie on the step grid. Each line has `src, id, ts, recv, tags, requests, errors, input_tokens,
        output_tokens, cost_usd`; `ts` is the start of the step, `recv` its end. Steps without a request have no line.
        """
        for block in self._blocks_between(t0, t1):
            lines: list[dict[str, Any]] = []
            for number in range(len(self.keys)):
                lines.extend(self._history_of(number, block, t0, t1, step_s))
            yield from sorted(lines, key=lambda line: (line["ts"], line["id"]))

    def usual_usd_per_hour(self, key: Key, t0: float, t1: float) -> float:
        """Mean dollars per hour of the key between t0 and t1."""
        return sum(r.cost_usd for r in self._requests_of_key(key, t0, t1)) / ((t1 - t0) / 3600)

    def highest_minute(self, key: Key, t0: float, t1: float) -> int:
        """Requests of the highest minute of the key between t0 and t1."""
        minutes = Counter(int(request.at // 60) for request in self._requests_of_key(key, t0, t1))
        return max(minutes.values(), default=0)

    def mean_tokens(self, key: Key, t0: float, t1: float) -> tuple[float, float]:
        """Mean input and output tokens of a request of the key; (0, 0) without requests."""
        sizes = [(r.input_tokens, r.output_tokens) for r in self._requests_of_key(key, t0, t1)]
        if not sizes:
            return 0.0, 0.0
        return sum(s[0] for s in sizes) / len(sizes), sum(s[1] for s in sizes) / len(sizes)

    def _requests_of_key(self, key: Key, t0: float, t1: float) -> Iterator[Request]:
        number = self.keys.index(key)
        for block in self._blocks_between(t0, t1):
            yield from self._requests_of(number, block, t0, t1)

    def _blocks_between(self, t0: float, t1: float) -> range:
        first = max(0, math.floor((t0 - self.start) / BLOCK_S))
        last = math.ceil((min(t1, self.end) - self.start) / BLOCK_S)
        return range(first, last)

    def _requests_of(self, number: int, block: int, t0: float, t1: float) -> Iterator[Request]:
        key, made = self.keys[number], self._block(number, block)
        low, high = np.searchsorted(made.times, (t0 - self.start, t1 - self.start))
        for i in range(int(low), int(high)):
            yield Request(
                f"{key.alias}-{block}-{i}",
                self.start + float(made.times[i]),
                key,
                int(made.inputs[i]),
                int(made.outputs[i]),
                float(made.costs[i]),
            )

    def _history_of(self, number: int, block: int, t0: float, t1: float, step_s: int) -> Iterator[dict[str, Any]]:
        key, made = self.keys[number], self._block(number, block)
        low, high = np.searchsorted(made.times, (t0 - self.start, t1 - self.start))
        if low == high:
            return
        steps = np.floor((made.times[low:high]) / step_s).astype(np.int64)
        starts = np.flatnonzero(np.diff(steps, prepend=-1))
        requests = np.diff(starts, append=int(high - low))
        inputs = np.add.reduceat(made.inputs[low:high], starts)
        outputs = np.add.reduceat(made.outputs[low:high], starts)
        costs = np.add.reduceat(made.costs[low:high], starts)
        for i, step in enumerate(steps[starts]):
            ts = self.start + float(step) * step_s
            yield {
                "src": "llm",
                "id": f"{key.alias}-{int(ts)}",
                "ts": ts,
                "recv": ts + step_s,
                "tags": key.tags,
                "requests": int(requests[i]),
                "errors": 0,
                "input_tokens": int(inputs[i]),
                "output_tokens": int(outputs[i]),
                "cost_usd": float(costs[i]),
            }

    def _block(self, number: int, block: int) -> _Block:
        """Made on first use and kept; its own seed, so that any part of the trace can be read first."""
        key = self.keys[number]
        if (key.alias, block) not in self._blocks:
            self._blocks[key.alias, block] = self._make_block(number, block)
        return self._blocks[key.alias, block]

    def _make_block(self, number: int, block: int) -> _Block:
        key = self.keys[number]
        per_block = BLOCK_S // WINDOW_S
        counts = self._counts[key.alias][block * per_block : (block + 1) * per_block]
        total = int(counts.sum())
        if total == 0:
            return _NO_REQUESTS
        random = np.random.default_rng((self._seed, number, block))
        windows = np.repeat(np.arange(len(counts)), counts)
        # Uniform within the window: what is left of any arrival process once few of its requests are kept. Whole
        # milliseconds, so that adding an epoch to them does not push one over the edge of a minute.
        offsets = np.floor(random.random(total) * WINDOW_S * 1000) / 1000
        times = np.sort(block * BLOCK_S + windows * WINDOW_S + offsets)
        sizes = self._tokens[key.alias, block]
        inputs = _token_sizes(random, sizes.input_mean, sizes.input_std, total, _MAX_INPUT_TOKENS)
        outputs = _token_sizes(random, sizes.output_mean, sizes.output_std, total, _MAX_OUTPUT_TOKENS)
        costs = (inputs * key.usd_per_m_input + outputs * key.usd_per_m_output) / 1e6
        return _Block(times, inputs, outputs, costs)


def _token_sizes(random: np.random.Generator, mean: float, std: float, count: int, most: int) -> npt.NDArray[np.int64]:
    """Log-normal with this mean and deviation, at least one token."""
    variance = math.log1p((std / max(mean, 1.0)) ** 2)
    drawn = random.lognormal(math.log(max(mean, 1.0)) - variance / 2, math.sqrt(variance), count)
    return np.clip(np.rint(drawn), 1, most).astype(np.int64)


def _key(row: dict[str, str]) -> Key:
    text = {field: row[field] for field in ("api_key", "alias", "team", "project", "env", "model")}
    return Key(
        **text,
        usd_per_m_input=float(row["usd_per_m_input"]),
        usd_per_m_output=float(row["usd_per_m_output"]),
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)
