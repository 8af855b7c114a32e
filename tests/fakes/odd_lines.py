"""JSON lines in which something is odd, and every decoder that must refuse them alone: their neighbours survive.

`python -m tests.fakes.odd_lines --inputs 1000000` tries that many on all of them; the tests try a few hundred.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import aiohttp
import msgspec

from curb.connectors.connector import Batch, Context, PushSource
from curb.connectors.decode import Letters, Rejected
from curb.connectors.gpus import dcgm_text
from curb.connectors.http import decode_answer
from curb.connectors.intake.append import record_messages
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import anthropic, litellm, openai, otel_genai
from curb.connectors.tokens.jsonl_files import JsonlFiles
from curb.connectors.tokens.usage_jsonl import Config, JsonlPush, line_format
from curb.connectors.tokens.usage_reports import _PAGE, Report
from curb.connectors.validate import validate
from curb.detector.rollup.relay import CommandRelay
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS, COSTS, DEAD_LETTER, GPU, SPEND, USAGE
from curb.stream.records import spend as records
from curb.stream.records.knowledge import read_commands
from tests.fakes import litellm_usage
from tests.fakes.memory_log import MemoryLog
from tests.fakes.otel_genai import JSON, attributes, metrics, span, traces
from tests.fakes.spend import T0

NOW = T0 + 60.0
#: Values as they stand in JSON, or in what some encoders take for it.
VALUES = (
    *('""', "null", "true", "[]", "{}", "-1", "0.5", "-0.0", "1e10", "1e18", "1e308", "1e400", "-1e400", "1e-400"),
    *("NaN", "Infinity", "-Infinity", '"nan"', '"x"', '"9"', '"\\ud800"', '"\\udc00x"', '"\\u0000"', '"é\\u202e"'),
    *("9223372036854775808", "-9223372036854775809", "18446744073709551616", "4102444800", "1" * 400, "1" * 5000),
    *('"2026-03-24T10:15:02Z"', '"2026-03-24T10:15:02"', '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59-14:00"'),
    *('"' + "x" * 3000 + '"', "[" * 300 + "]" * 300, "[" * 50_000 + "]" * 50_000, '{"a":' * 2000 + "1" + "}" * 2000),
    *('{"\\ud800":"a"}', '{"team":"\\ud800"}', '{"team":1}', '{"":""}', '{"a":"b","a":"c"}', '{"usage":{"a":"1"}}'),
)


class _Odd(str):
    """JSON text that stands for a value."""

    __slots__ = ()


def _text(value: Any) -> str:
    if isinstance(value, _Odd):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_text(item)}" for name, item in value.items()) + "}"
    return "[" + ",".join(map(_text, value)) + "]" if isinstance(value, list) else json.dumps(value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in the value with one of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def odd_line(rng: random.Random, good: dict[str, Any], *, cut: bool = True) -> bytes:
    """The line of `good` with one or two values replaced; with `cut`, some of its bytes changed or gone as well."""
    value = json.loads(json.dumps(good))
    for _ in range(rng.randrange(1, 3)):
        container, key = rng.choice(list(_places(value)))
        container[key] = _Odd(rng.choice(VALUES))
        if isinstance(container, dict) and rng.random() < 0.1:
            container[rng.choice(["\ud800", "", "x" * 5000])] = _Odd(rng.choice(VALUES))
    line = bytearray(_text(value).encode())
    if cut and rng.random() < 0.3:
        at = rng.randrange(len(line))
        line[at : rng.choice([at, at + 1, len(line)])] = rng.randbytes(rng.randrange(4))
    return bytes(line).replace(b"\n", b" ")


def _json(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(record))
    return found


_TAGS = {"team": "a", "project": "p", "api_key": "k"}
_COMMON: dict[str, Any] = {"charge_period_start": T0 + 10, "received_at": T0 + 11, "effective_cost": 1.0}
_USAGE = {"id": "g", **_COMMON, "tags": _TAGS, "request_model": "gpt-4o", "input_tokens": 9, "output_tokens": 3}
_STREAM = {"src": "llm", "id": "g", "ts": "2025-06-16T00:00:10Z", "tags": _TAGS, "cost_usd": 1.0, "requests": 1}
_MAPPED = {"id": "g", "at": T0 + 10, "model": "gpt-4o", "usage": {"prompt": 5, "cost": 3}, "user": "u", "meta": [1, 2]}
_MAP = {
    "fields": {"id": "id", "charge_period_start": "at", "input_tokens": "usage.prompt", "effective_cost": "usage.cost"},
    "scale": {"effective_cost": 0.01, "input_tokens": 2},
    "tags": {"team": "user", "keys": "join('-', keys(usage))"},
    "only": "usage.prompt > `1`",
}
_SPEND = [
    records.SpendPartial(scope="key", tags=_TAGS, bucket_start=T0, effective_cost=1.0, events=1, requests=3),
    records.SpendTick(at=T0 + 600.0, source="curb.usage/0", live=True, effective_cost=3.0),
    records.PricingHole(model="m", source="s", reason="unknown_model", at=T0 + 0.0, requests=1, fallback_usd=2.0),
    records.PlannedActivity(id="i", at=T0 + 0.0, tags={"team": "a"}, start=T0 + 0.0, end=T0 + 100.0, max_usd=3.0),
    records.Silence(id="i", at=T0 + 0.0, matchers={"team": "a"}, until=T0 + 500.0),
    records.BudgetIncrease(id="i", at=T0 + 0.0, budget="b", match={}, amount_usd=1.0, expires_at=T0 + 900.0),
]
_OPENAI = {"input_tokens": 100, "output_tokens": 5, "num_model_requests": 2, "project_id": "p", "model": "gpt-4o"}
_ANTHROPIC = {"uncached_input_tokens": 5, "output_tokens": 3, "model": "claude-sonnet-4-20250514", "workspace_id": "w"}
_PRICES = PriceBook.load()
_DETECTOR = DetectorSettings()
_ONE_SCOPE = DetectorSettings(scopes=_DETECTOR.scopes[:1], bucket_s=300)

#: Tries the odd lines made of good ones, and gives the dead letters; raises when a neighbour is lost or anything else
#: is raised.
Trial = Callable[[random.Random], Iterable[Message | Rejected]]


def _both_survive(batch: Batch) -> Sequence[Message]:
    """The first and the last event are records at the end of the door. Returns the dead letters."""
    batch = validate(batch, source="s", at=NOW)
    record_messages(batch.records, source="s", log=MemoryLog())
    assert {"before", "after"} <= {record.id.rpartition("/")[2] for record in batch.records}, "a neighbour was lost"
    return batch.dead


def _push(source: PushSource, good: dict[str, Any], form: str = "%s\n%s\n%s") -> Trial:
    before, after = (_text({**good, "id": name}).encode() for name in ("before", "after"))

    def trial(rng: random.Random) -> Sequence[Message]:
        body = form.encode() % (before, odd_line(rng, good, cut="\n" in form), after)
        return _both_survive(source.parse(body, location="POST", at=NOW))

    return trial


def _file(directory: Path) -> Trial:
    form = line_format(Config.model_validate({"kind": "usage_jsonl", "name": "s", "path": directory}), _PRICES)

    def trial(rng: random.Random) -> Sequence[Message]:
        path = directory / "u.jsonl"
        lines = [encode({**_USAGE, "id": "before"}), odd_line(rng, _USAGE), encode({**_USAGE, "id": "after"}), b""]
        path.write_bytes(b"\n".join(lines))
        batch = JsonlFiles(path, "s", form, ManualClock(NOW))._read(None)
        assert all(f"{path}:2".encode() in letter.value for letter in batch.dead)
        return _both_survive(batch)

    return trial


def _page(report: Report, good: dict[str, Any], bucket: dict[str, Any]) -> Trial:
    def trial(rng: random.Random) -> Sequence[Rejected]:
        row, page = _text(good), json.dumps({"data": [{**bucket, "results": [1]}]})
        odd = odd_line(rng, good, cut=False).decode()
        body = page.replace("[1]", f"[{row},{odd},{row}]").encode()
        try:
            found = decode_answer(_PAGE, body, "GET")
        except TransientError:
            return [Rejected("not_json", "nested so deeply that no reader takes the page")]
        labelled = [report.row(bytes(raw)) for raw in found.data[0].results]
        assert not isinstance(labelled[0], Rejected)
        assert not isinstance(labelled[-1], Rejected)
        return [each for each in labelled if isinstance(each, Rejected)]

    return trial


_POINT = {
    "attributes": attributes({"model": "WHICH", "user.id": "u"}),
    "startTimeUnixNano": str(int(T0 * 1e9)),
    "timeUnixNano": str(int((T0 + 10) * 1e9)),
    "asDouble": 1.5,
}


def _claude_code(points: list[Any]) -> dict[str, Any]:
    data = {"dataPoints": points, "aggregationTemporality": 1, "isMonotonic": True}
    return metrics([{"name": "claude_code.cost.usage", "sum": data}])


def _gateway() -> litellm.LiteLLM:
    return litellm.LiteLLM(litellm.Config.model_validate({"kind": "litellm", "name": "s", "token": "x" * 8}), _PRICES)


def _rows(rng: random.Random) -> Sequence[Message | Rejected]:
    source = _gateway()
    row = {"request_id": "r", "startTime": "2025-06-16T00:00:10Z", "spend": 1.0, "metadata": {}, "request_tags": "[]"}
    found = source.row_records(odd_line(rng, row), NOW)
    return [found] if isinstance(found, Rejected) else validate(Batch(found, ""), source="s", at=NOW).dead


def _otlp(path: str, body: Callable[[list[Any]], dict[str, Any]], good: dict[str, Any], ids: tuple[str, str]) -> Trial:
    """Three elements of an export in JSON; `ids` are the names of what tells the first from the last."""
    entry = {"kind": "otel_genai", "name": "s", "token": "x" * 8}
    before, after = (json.loads(json.dumps(good).replace("WHICH", which)) for which in ids)

    def trial(rng: random.Random) -> Sequence[Message]:
        context = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), _PRICES)
        door = otel_genai.Config.model_validate(entry).build(context).source.door(path, JSON)
        assert door is not None
        middle = json.loads(json.dumps(good).replace("WHICH", ids[0][:-1] + "9"))
        export = json.dumps(body([before, "MARK", after])).replace('"MARK"', odd_line(rng, middle, cut=False).decode())
        batch = validate(
            door.parse(export.encode("utf-8", "surrogatepass"), location="POST", at=NOW), source="s", at=NOW
        )
        told = " ".join(record.id + record.tags.get("model", "") for record in batch.records)
        assert all(which in told for which in ids), "a neighbour was lost"
        return batch.dead

    return trial


def _scrape(rng: random.Random) -> Sequence[Message]:
    """Lines of a GPU exporter, of which one is cut, changed or has another value."""
    good = 'DCGM_FI_DEV_GPU_UTIL{gpu="%d",UUID="GPU-%d",Hostname="h"} %s'
    odd = bytearray((good % (1, 1, rng.choice(VALUES))).encode())
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(odd) + 1)
        odd[at : rng.choice([at, at + 1, len(odd)])] = rng.randbytes(rng.randrange(4)).replace(b"\n", b"")
    lines, letters = [(good % (0, 0, 7)).encode(), bytes(odd), (good % (2, 2, 7)).encode(), b""], Letters("s", NOW)
    samples = dcgm_text.parse(b"\n".join(lines), letters=letters, location="GET", at=NOW)
    assert {"0", "2"} <= {sample.labels.get("gpu") for sample in samples}, "a neighbour was lost"
    return letters.messages()


def _raw(topic: str, record: records.SpendRecord) -> Trial:
    good = _json(record)

    def trial(rng: random.Random) -> Sequence[Message]:
        rollup = Rollup(_DETECTOR, topic, 1, "i")
        lines = [encode({**good, "id": "before"}), odd_line(rng, good), encode({**good, "id": "after"})]
        outputs = [*rollup.process(Message(topic, b"\n".join(lines), partition=0, offset=1)), *rollup.flush(T0 + 300.0)]
        Rollup(_DETECTOR, topic, 1, "i").restore(rollup.snapshot())
        sums = [line for each in outputs if each.topic == SPEND for line in each.value.splitlines()]
        # An odd receipt that is ahead divides the neighbours between two sums.
        events = Counter[str]()
        for found in map(msgspec.json.decode, sums):
            events[found.get("scope", "")] += found.get("events", 0)
        assert topic == COSTS or max(events.values(), default=0) >= 2, "a neighbour was lost"
        return [each for each in outputs if each.topic == DEAD_LETTER]

    return trial


def _spend(rng: random.Random) -> Sequence[Message]:
    # Of another series than the odd line, which may be a credit.
    own = {**_TAGS, "api_key": "neighbour"}
    shard, good, outputs = Shard(_ONE_SCOPE), {**_json(_SPEND[0]), "tags": own}, list[Message]()
    for number in range(5):
        part, tick = {**good, "bucket_start": T0 + 300 * number}, {**_json(_SPEND[1]), "at": T0 + 300.0 * number + 400}
        lines = [encode(part), odd_line(rng, _json(rng.choice(_SPEND))), encode(part), encode(tick)]
        outputs += shard.process(Message(SPEND, b"\n".join(lines), key=b"curb.usage/0", partition=0, offset=number))
    Shard(_ONE_SCOPE).restore(shard.snapshot())
    total = sum(usd for tags, usd in shard.totals("key") if tags == own)
    assert total == 10, "a neighbour was lost"
    return [each for each in outputs if each.topic == DEAD_LETTER]


def _commands(rng: random.Random) -> Sequence[Message]:
    command = records.Command(id="c", kind="halt", at=T0 + 0.0, by="x", args={"reason": "r"})
    value = b"\n".join([odd_line(rng, _json(rng.choice([command, *_SPEND[3:]]))), encode(command)])
    relay = CommandRelay(_DETECTOR, 1, "c")
    outputs = [*relay.process(Message(COMMANDS, value, partition=0, offset=1)), *relay.flush(T0 + 100.0)]
    assert command in read_commands(value, lambda *_: None), "a neighbour was lost"
    return [each for each in outputs if each.topic == DEAD_LETTER]


def decoders(directory: Path) -> dict[str, Trial]:
    """Every decoder by name; `directory` is for the followed file."""

    def push(**settings: Any) -> JsonlPush:
        entry = {"kind": "usage_jsonl", "name": "s", "token": "x" * 8, **settings}
        return JsonlPush("s", line_format(Config.model_validate(entry), _PRICES))

    call = {**litellm_usage.payload(1, T0 + 10.0), "litellm_call_id": None, "custom_llm_provider": "x"}
    admin = openai.Config.model_validate({"kind": "openai", "name": "o", "key": "sk-admin-xxxxxx"})
    other = anthropic.Config.model_validate({"kind": "anthropic", "name": "a", "key": "sk-ant-admin-xx"})
    common: dict[str, Any] = {**_COMMON, "tags": _TAGS, "id": "g"}
    return {
        "curb lines": _push(push(), _USAGE),
        "event stream": _push(push(format="event_stream"), _STREAM),
        "mapped lines": _push(push(map=_MAP), _MAPPED),
        "followed file": _file(directory),
        "litellm push": _push(_gateway(), call, "[%s,%s,%s]"),
        "litellm rows": _rows,
        "openai page": _page(openai._usage(admin, "completions", _PRICES), _OPENAI, {"start_time": T0}),
        "anthropic page": _page(anthropic._usage(other, _PRICES), _ANTHROPIC, {"starting_at": "2025-06-16T00:00:00Z"}),
        "otlp spans": _otlp(
            "v1/traces", traces, span(0, T0 + 10.0, spanId="WHICH"), ("00000000000000a1", "00000000000000a2")
        ),
        "otlp metrics": _otlp("v1/metrics", _claude_code, _POINT, ("model-1", "model-2")),
        "gpu exporter": _scrape,
        "usage topic": _raw(USAGE, records.UsageRecord(**common, cost_source="fallback", request_model="m")),
        "gpu topic": _raw(GPU, records.GpuRecord(**common, gpu_utilization=4.0, memory_used=4.0)),
        "costs topic": _raw(COSTS, records.CostRecord(**common, delta="late")),
        "spend topic": _spend,
        "commands topic": _commands,
    }


def main() -> None:
    """Try many inputs on all decoders, and say how many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="One decoder by its name; default: all.")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")
    with TemporaryDirectory() as directory:
        trials = decoders(Path(directory))
        for name, trial in trials.items():
            if args.only not in ("", name):
                continue
            tried, failed, reasons = math.ceil(args.inputs / len(trials)), 0, Counter[str]()
            for number in range(tried):
                seed = args.seed * 10_000_000 + number
                try:
                    reasons.update(map(_reason, trial(random.Random(seed))))
                except Exception as error:  # noqa: BLE001 - all are counted and named
                    failed += 1
                    if failed <= 3:
                        print(f"{name}: seed {seed}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            letters = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
            print(f"{name}: {tried:,} inputs, {failed} faults; dead letters: {letters or 'none'}", flush=True)


def _reason(letter: Message | Rejected) -> str:
    return letter.reason if isinstance(letter, Rejected) else str(json.loads(letter.value)["reason"])


if __name__ == "__main__":
    main()
