"""The JSON-lines formats, and files that grow, rotate, are cut, compressed or damaged."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from curb.connectors.connector import Batch, Connector, Context, PushSource
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.usage_jsonl import Config, JsonlFiles, parse_event_stream
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import DeadLetter, GpuRecord, PlannedActivity, UsageRecord
from tests.fakes.usage_jsonl import curb_line, gpu_line, lines, stream_line

NOW = 1_750_000_000.0
BEFORE = NOW - 600
CONTEXT = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PriceBook.load())


def config(**settings: Any) -> Config:
    return Config.model_validate({"kind": "usage_jsonl", "name": "j", **settings})


def push(body: bytes, **settings: Any) -> Batch:
    built = config(token="a-long-token", **settings).build(CONTEXT).source
    assert isinstance(built, PushSource)
    return built.parse(body, location="here", at=NOW)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"effective_cots": 5}, "the unknown field effective_cots and no cost, tokens or model:"),
        ({"cost": 5, "x\u202ey": "a" * 99}, "the unknown fields cost, xy and no cost, tokens or model:"),
        ({"input_tokns": 5, "request_model": "gpt-4o"}, "the unknown field input_tokns and no cost or tokens:"),
        ({"modle": "gpt-4o", "input_tokens": 5}, "the unknown field modle and no cost or model:"),
        ({"effective_cost": 0.0, "note": "free"}, ""),
        ({"request_model": "gpt-4o", "input_tokens": 5, "note": "priced by the book"}, ""),
        ({"request_model": "gpt-4o", "errors": 1, "note": "a failed call"}, ""),
        ({}, ""),
    ],
)
def test_a_misspelt_cost_is_a_warning(fields: dict[str, object], said: str) -> None:
    line = json.dumps({"id": "a", "charge_period_start": BEFORE, "tags": {"team": "a"}, **fields})
    batch = push(line.encode())
    assert len(batch.records) == 1
    assert [each.startswith(f"line 1 has {said}") for each in batch.warnings] == ([True] if said else [])


def test_warnings_are_few_and_a_strange_line_has_one_as_well() -> None:
    line = b'{"id": "a%d", "charge_period_start": 1749999000, "cots": 1e999}'
    batch = push(b"\n".join(line % number for number in range(8)))
    assert (len(batch.records), len(batch.warnings), batch.warnings[-1]) == (8, 6, "3 more lines are like these")


class Follower:
    """Reads as the runner does, always from the last cursor, each time with a fresh connector if told so."""

    def __init__(self, path: Path, *, restart: bool = False, **settings: Any) -> None:
        self._settings, self._restart = config(path=path, **settings), restart
        self.cursor: str | None = None
        self._built = self._build()

    def _build(self) -> JsonlFiles:
        built = self._settings.build(CONTEXT).connector
        assert isinstance(built, Connector)
        assert isinstance(built, JsonlFiles)
        return built

    async def take(self) -> list[str]:
        """Ids of all that is new."""
        return [record.id for record in (await self.batches())[0]]

    async def batches(self) -> tuple[list[UsageRecord], list[DeadLetter]]:
        records: list[UsageRecord] = []
        dead: list[DeadLetter] = []
        while True:
            if self._restart:
                await self._built.close()
                self._built = self._build()
            batch = await self._built.read(self.cursor)
            self.cursor = batch.cursor
            records += cast(list[UsageRecord], batch.records)
            dead += [msgspec.json.decode(letter.value, type=DeadLetter) for letter in batch.dead]
            if not batch.more:
                await self._built.close()
                return records, dead


def text(*numbers: int) -> bytes:
    return lines([curb_line(n, BEFORE) for n in numbers])


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


# --- formats --------------------------------------------------------------------------------------------------------


def test_curb_format_in_full() -> None:
    event = curb_line(1, BEFORE, cache_read_input_tokens=4, cache_creation_input_tokens=5, errors=1, users=2, other=[1])
    assert push(lines([event]), tags={"env": "prod", "team": "none"}).records == [
        UsageRecord(
            id="e1",
            charge_period_start=BEFORE,
            received_at=NOW,
            effective_cost=0.01,
            tags={"env": "prod", "team": "search", "model": "gpt-4o", "project": "answers", "api_key": "k1"},
            source="j",
            request_model="gpt-4o",
            requests=1,
            errors=1,
            users=2,
            input_tokens=1000,
            output_tokens=200,
            cache_read_input_tokens=4,
            cache_creation_input_tokens=5,
        )
    ]


def test_a_cost_left_out_is_priced() -> None:
    (record,) = push(lines([curb_line(1, BEFORE, effective_cost=None)])).records
    assert isinstance(record, UsageRecord)
    assert record.effective_cost == pytest.approx(1000 * 2.5e-6 + 200 * 1e-5)
    assert (record.cost_source, record.price_book) == ("priced", CONTEXT.prices.hash)


def test_a_cost_of_zero_is_what_the_gateway_said() -> None:
    (record,) = push(lines([curb_line(1, BEFORE, effective_cost=0)])).records
    assert (record.effective_cost, record.cost_source) == (0.0, "reported")


@pytest.mark.parametrize(
    ("given", "epoch"),
    [(1.75e9, 1.75e9), (1750000000, 1.75e9), ("2025-06-15T15:06:40Z", 1.75e9), ("2025-06-15T17:06:40+02:00", 1.75e9)],
)
def test_times(given: Any, epoch: float) -> None:
    (record,) = push(lines([curb_line(1, given)])).records
    assert record.charge_period_start == epoch


def test_a_time_without_a_zone_is_refused() -> None:
    batch = push(lines([curb_line(1, cast(float, "2025-06-15T15:06:40"))]))
    assert (len(batch.records), len(batch.dead)) == (0, 1)


def test_received_at_is_never_later_than_now() -> None:
    events = [curb_line(1, BEFORE, received_at=BEFORE + 5), curb_line(2, BEFORE, received_at=NOW + 5)]
    assert [record.received_at for record in push(lines(events)).records] == [BEFORE + 5, NOW]


def test_event_stream() -> None:
    plan = plan_line()
    blank = gpu_line(4, BEFORE, gpu_util_pct=9223372036854775794, gpu_mem_gib=None)
    batch = push(lines([stream_line(1, BEFORE), gpu_line(2, BEFORE), plan, blank]), format="event_stream")
    usage, gpu, nothing = batch.records
    assert usage == UsageRecord(
        id="s1",
        charge_period_start=BEFORE,
        received_at=BEFORE + 60,
        effective_cost=0.01,
        tags={"team": "search", "project": "answers", "env": "prod", "model": "gpt-4o", "api_key": "k1"},
        source="j",
        request_model="gpt-4o",
        requests=10,
        errors=1,
        users=3,
        input_tokens=1000,
        output_tokens=200,
    )
    assert isinstance(gpu, GpuRecord)
    assert (gpu.effective_cost, gpu.gpu_utilization, gpu.memory_used) == (0.38, 12.5, 20.0)
    assert isinstance(nothing, GpuRecord)
    assert (nothing.gpu_utilization, nothing.memory_used) == (None, None)
    assert batch.dead == []
    assert batch.locations == ["here:1", "here:2", "here:4"]
    assert [each.id for each in batch.plans] == ["p1"]


def plan_line(**more: Any) -> dict[str, Any]:
    return {
        "src": "plan",
        "ts": "2025-03-27T02:25:00Z",
        "tags": {"team": "search", "job": "backfill"},
        "start": "2025-03-27T04:25:00Z",
        "end": "2025-03-27T07:25:00+02:00",
        "max_usd": 3,
        "id": "p1",
    } | more


def test_plans_are_announced_work() -> None:
    later = plan_line(ts="2027-03-27T02:25:00Z", end="2025-03-27T07:00:00Z", reason=" once\u200b ")
    del later["id"]
    same = dict(reversed(later.items()))
    batch = push(lines([plan_line(), later, same]), format="event_stream")
    at = 1_743_042_300.0
    plan, unnamed, again = batch.plans
    assert plan == PlannedActivity(
        id="p1",
        at=at,
        tags={"team": "search", "job": "backfill"},
        start=at + 7200,
        end=at + 3 * 3600,
        max_usd=3.0,
        by="j",
    )
    assert (unnamed.at, unnamed.reason) == (NOW, "once")
    assert unnamed.id == again.id != plan.id
    assert not batch.dead


@pytest.mark.parametrize(
    "wrong",
    [
        {"end": "2025-03-27T04:25:00Z"},
        {"tags": {}},
        {"tags": {"team": "\u200b"}},
        {"max_usd": -1},
        {"max_usd": float("nan")},
        {"start": "2025-03-27T04:25:00"},
        {"max_usd": None},
    ],
)
def test_plans_that_nobody_can_mean_are_dead_letters(wrong: dict[str, Any]) -> None:
    batch = push(lines([plan_line(**wrong)]), format="event_stream")
    assert (len(batch.plans), len(batch.dead)) == (0, 1)


def test_parse_event_stream_validates() -> None:
    events = [stream_line(1, BEFORE), stream_line(2, BEFORE, cost_usd=-1), stream_line(3, 4_102_444_800.0)]
    batch = parse_event_stream(lines(events).splitlines(keepends=True), source="b", location="f", at=NOW, first_line=11)
    assert [record.id for record in batch.records] == ["s1"]
    found = [msgspec.json.decode(letter.value, type=DeadLetter) for letter in batch.dead]
    assert [(letter.location, letter.reason) for letter in found] == [
        ("f:12", "negative_cost"),
        ("f:13", "in_the_future"),
    ]


def test_an_unknown_src_is_not_quoted() -> None:
    batch = push(lines([stream_line(1, BEFORE, src="secret")]), format="event_stream")
    assert b"secret" not in batch.dead[0].value


def test_blank_lines_and_windows_line_ends() -> None:
    body = b"\n\r\n" + text(1).replace(b"\n", b"\r\n") + b"   \n" + text(2).strip()
    assert [record.id for record in push(body).records] == ["e1", "e2"]


# --- files ----------------------------------------------------------------------------------------------------------

every_way = pytest.mark.parametrize("restart", [False, True], ids=["one process", "restarted each time"])


@every_way
async def test_follows_a_growing_file_and_waits_for_the_end_of_a_line(tmp_path: Path, restart: bool) -> None:
    path = tmp_path / "u.jsonl"
    follower = Follower(path, restart=restart)
    assert await follower.take() == []
    path.write_bytes(text(1, 2))
    assert await follower.take() == ["e1", "e2"]
    assert await follower.take() == []
    append(path, text(3)[:20])
    assert await follower.take() == []
    append(path, text(3)[20:] + text(4))
    assert await follower.take() == ["e3", "e4"]


@every_way
async def test_rotation_reads_the_old_file_to_its_end(tmp_path: Path, restart: bool) -> None:
    path = tmp_path / "u.jsonl"
    follower = Follower(path, restart=restart)
    path.write_bytes(text(1))
    assert await follower.take() == ["e1"]
    append(path, text(2))
    path.rename(tmp_path / "u.jsonl.1")
    path.write_bytes(text(3))
    assert await follower.take() == ["e2", "e3"]
    append(tmp_path / "u.jsonl.1", text(4))
    append(path, text(5))
    assert await follower.take() == ["e4", "e5"]
    (tmp_path / "u.jsonl.1").unlink()
    append(path, text(6))
    assert await follower.take() == ["e6"]
    assert len(json.loads(follower.cursor or "")) == 1


@every_way
async def test_a_cut_file_is_read_from_its_start(tmp_path: Path, restart: bool) -> None:
    path = tmp_path / "u.jsonl"
    follower = Follower(path, restart=restart)
    path.write_bytes(text(1, 2, 3))
    assert await follower.take() == ["e1", "e2", "e3"]
    path.write_bytes(text(4))
    assert await follower.take() == ["e4"]


async def test_a_file_that_was_cut_and_has_outgrown_itself_is_known_by_its_start(tmp_path: Path) -> None:
    path = tmp_path / "u.jsonl"
    follower = Follower(path)
    path.write_bytes(text(1))
    assert await follower.take() == ["e1"]
    path.write_bytes(text(2, 3, 4))
    assert await follower.take() == ["e2", "e3", "e4"]


@pytest.mark.parametrize("pattern", ["", "*.jsonl*", "**/*.jsonl*"])
async def test_directories_and_patterns_in_the_order_of_names(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "b.jsonl").write_bytes(text(2))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text(1)))
    (tmp_path / "c.txt").write_bytes(text(9))
    follower = Follower(tmp_path / pattern)
    assert await follower.take() == ["e1", "e2"]
    (tmp_path / "d.jsonl").write_bytes(text(3))
    append(tmp_path / "b.jsonl", text(4))
    assert await follower.take() == ["e4", "e3"]


@every_way
async def test_compressed_in_many_chunks(tmp_path: Path, restart: bool) -> None:
    path = tmp_path / "u.jsonl.gz"
    path.write_bytes(gzip.compress(text(*range(200))[:-1]))  # a complete file needs no newline at its end
    built = config(path=path).build(CONTEXT).connector
    assert isinstance(built, JsonlFiles)
    ids: list[str] = []
    cursor, more = None, True
    while more:
        if restart:
            await built.close()
        small = JsonlFiles(path, "j", built._format, CONTEXT.clock, max_line_bytes=500, chunk_bytes=1)
        built = small if restart else built
        batch = await built.read(cursor)
        ids += [record.id for record in batch.records]
        cursor, more = batch.cursor, batch.more
    await built.close()
    assert ids == [f"e{n}" for n in range(200)]


async def test_a_compressed_file_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / "u.jsonl.gz"
    whole = gzip.compress(os.urandom(8).hex().encode() + b"\n" + text(*range(500)))
    path.write_bytes(whole[: len(whole) // 2])
    follower = Follower(path)
    first, dead = await follower.batches()
    assert len(dead) == 1
    assert len(first) < 500
    path.write_bytes(whole)
    rest = await follower.take()
    assert [record.id for record in first] + rest == [f"e{n}" for n in range(500)]


async def test_a_damaged_compressed_file_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "u.jsonl.gz"
    path.write_bytes(b"not gzip at all")
    follower = Follower(path)
    _, dead = await follower.batches()
    assert [letter.reason for letter in dead] == ["invalid"]
    assert await follower.batches() == ([], [])


@every_way
async def test_a_line_far_too_long_is_refused_without_its_end(tmp_path: Path, restart: bool) -> None:
    path = tmp_path / "u.jsonl"
    path.write_bytes(text(1) + b"x" * 3_000_000)
    follower = Follower(path, restart=restart, max_line_bytes=1024)
    records, dead = await follower.batches()
    assert [record.id for record in records] == ["e1"]
    assert [(letter.reason, letter.location) for letter in dead] == [("too_large", f"{path}:2")]
    append(path, b"x" * 2_000_000 + b"\n" + text(2) + b"junk\n")
    records, dead = await follower.batches()
    assert [record.id for record in records] == ["e2"]
    assert [(letter.reason, letter.location) for letter in dead] == [("not_json", f"{path}:4")]


async def test_a_file_that_may_not_be_read_is_permanent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "u.jsonl"
    path.write_bytes(text(1))

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermanentError, match="permission denied"):
        await Follower(path)._built.read(None)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"path": "x", "token": "a-long-token"},
        {"token": "short"},
        {"path": "x", "format": "csv"},
        {"path": "x", "poll_interval_s": 0},
        {"path": "x", "name": "Not OK"},
        {"path": "x", "max_line_bytes": 10},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        config(**wrong)
