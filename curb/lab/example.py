"""A fortnight to try the notebooks on: the demo's keys on a log, with loops, a launch, idle GPUs, a bill and verdicts.

Real are the rhythms of the keys (see curb/demo/data/README.md); drawn are the weekends (a working day with two requests
in five), the second week (the first with other request times), the GPUs and the bill.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from curb import wiring
from curb.config.file import CurbConfig, load_file
from curb.demo.incident import AgentLoop, LoopRun
from curb.demo.trace import DEFAULT_START, Key, Trace, as_event, default_directory
from curb.feed import feed
from curb.lab.history import wait_for
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS, COSTS
from curb.stream.records.spend import Alert, CostRecord, Feedback
from curb.stream.time import DAY_S, HOUR_S
from curb.views.alerts_and_actions import LogView

#: Seconds of a line of the recording.
_STEP_S = 600
_DAYS = 14
#: Share of a working day's requests on a Saturday and a Sunday.
_WEEKEND = 0.4
#: Agents in a loop: alias of the key, hours after the start, hours it lasts, dollars an hour. The third one is small
#: enough to go unseen with the shipped floors.
_LOOPS = (
    ("support-agent", 7 * 24 + 10.5, 1.5, 30.0),
    ("finance-qa", 8 * 24 + 14.0, 3.0, 9.0),
    ("sales-mail", 11 * 24 + 9.5, 4.0, 2.5),
)
#: A launch: alias, hours after the start, hours it lasts, times its usual requests. Nobody announced it.
_LAUNCH = ("mobile-assist", 9 * 24 + 9.0, 30.0, 40.0)
#: A key that repeats failed work every night from the tenth day on: alias, first hour, hours a night, times.
_NIGHTLY = ("doc-extract", 9 * 24 + 2.0, 2.0, 60.0)
#: GPU nodes: dollars an hour, and percent busy by (day of the fortnight, hour of the day).
_NODES: dict[str, tuple[float, Callable[[int, int], float]]] = {
    "gpu-serve-1": (4.10, lambda day, hour: 78.0 if 7 <= hour < 22 else 35.0),
    "gpu-train-1": (12.30, lambda day, hour: 91.0 if day % 7 < 5 else 6.0),
    "gpu-train-2": (12.30, lambda day, hour: 88.0 if day < 8 else 0.0),
}
#: Billed over estimated dollars by how a model's name starts: a discount, nothing, and calls beside the gateway.
_BILLED = {"claude": 0.92, "gpt": 1.0, "gemini": 1.27}

_CONFIG = """\
# A fortnight of the demo's keys, for the notebooks.
log: {kind: embedded, directory: data, retention_days: 3650}
detector:
  bucket_s: 600
  budgets:
    - {name: all-models, scope: model, shared: true, period: week, amount_usd: 550}
    - {name: support, scope: team, match: {team: support}, period: week, amount_usd: 190}
actions: {mode: shadow}
"""


def example(directory: Path | str = "curb-example") -> Path:
    """The `curb.yaml` of a fortnight's log in `directory`; it is made where there is none, in about half a minute."""
    directory = Path(directory)
    config = directory / "curb.yaml"
    if not (directory / "done").exists():
        directory.mkdir(parents=True, exist_ok=True)
        config.write_text(_CONFIG.replace("directory: data", f"directory: {json.dumps(str(directory / 'data'))}"))
        recording = directory / "fortnight.jsonl.gz"
        with gzip.open(recording, "wb") as file:
            file.writelines(as_event(line) + b"\n" for line in events())
        wait_for(_fill(load_file(config), recording))
        recording.unlink()
        (directory / "done").touch()
    return config


async def _fill(config: CurbConfig, recording: Path) -> None:
    await feed(config, recording, "event_stream", Console(quiet=True))
    async with wiring.open_log(config, WallClock()) as log:
        bill = [Message(COSTS, encode_lines([each]), key=each.source.encode()) for each in charges(events())]
        view = await LogView().load(log)
        said = [verdict for each in view.alerts.values() if (verdict := _verdict(each)) is not None]
        await log.append([*bill, *(Message(COMMANDS, encode_lines([each])) for each in said)])


def events() -> list[dict[str, Any]]:
    """Lines of usage and GPUs in order of receipt."""
    lines = [*_usage(), *_gpus()]
    return sorted(lines, key=lambda line: (line["recv"], line["id"]))


def _usage() -> Iterator[dict[str, Any]]:
    drawn = np.random.default_rng(7)
    for week in range(2):
        monday = DEFAULT_START + 7 * week * DAY_S
        trace = Trace.load(default_directory(), start=monday, seed=1 + week)
        yield from _named(week, map(_changed, trace.history(monday, monday + 5 * DAY_S, _STEP_S)))
        weekend = Trace.load(default_directory(), start=monday + 4 * DAY_S, seed=11 + week)
        for line in _named(10 + week, weekend.history(monday + 5 * DAY_S, monday + 7 * DAY_S, _STEP_S)):
            if drawn.random() < _WEEKEND:
                yield _changed(line)
        if week:
            yield from _loops(trace)


def _named(part: int, lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Ids of two weeks would be the same."""
    return ({**line, "id": f"{part}-{line['id']}"} for line in lines)


def _changed(line: dict[str, Any]) -> dict[str, Any]:
    """The line, with more requests where its key has a launch or repeats failed work."""
    hours = (line["ts"] - DEFAULT_START) / HOUR_S
    alias, begin, length, factor = _LAUNCH
    if line["tags"]["api_key"] == _key(alias).api_key and begin <= hours < begin + length:
        return _times(line, factor)
    alias, begin, length, factor = _NIGHTLY
    if line["tags"]["api_key"] == _key(alias).api_key and hours >= begin and (hours - begin) % 24 < length:
        return _times(line, factor)
    return line


def _times(line: dict[str, Any], factor: float) -> dict[str, Any]:
    amounts = {name: math.ceil(line[name] * factor) for name in ("requests", "input_tokens", "output_tokens")}
    return line | amounts | {"cost_usd": line["cost_usd"] * factor}


def _key(alias: str) -> Key:
    return _keys()[alias]


@cache
def _keys() -> dict[str, Key]:
    return {key.alias: key for key in Trace.load(default_directory()).keys}


def _loops(trace: Trace) -> Iterator[dict[str, Any]]:
    for alias, hours, length, usd_per_hour in _LOOPS:
        start = DEFAULT_START + hours * HOUR_S
        usual = trace.usual_usd_per_hour(_key(alias), start - HOUR_S, start)
        run = LoopRun(trace, AgentLoop(alias, start, start + length * HOUR_S, 1 + usd_per_hour / usual))
        steps: dict[int, list[Any]] = defaultdict(list)
        while run.next_at < math.inf:
            call = run.call()
            steps[int(call.at // _STEP_S) * _STEP_S].append(call)
            run.answer(admitted=True)
        for step, calls in steps.items():
            yield {
                "src": "llm",
                "id": f"loop-{alias}-{step}",
                "ts": float(step),
                "recv": float(step + _STEP_S),
                "tags": _key(alias).tags,
                "requests": len(calls),
                "errors": 0,
                "input_tokens": sum(call.input_tokens for call in calls),
                "output_tokens": sum(call.output_tokens for call in calls),
                "cost_usd": sum(call.cost_usd for call in calls),
            }


def _gpus() -> Iterator[dict[str, Any]]:
    drawn = np.random.default_rng(8)
    for name, (usd_per_hour, busy) in _NODES.items():
        for step in range(_DAYS * int(DAY_S) // _STEP_S):
            at = DEFAULT_START + step * _STEP_S
            day, hour = divmod(step * _STEP_S // HOUR_S, 24)
            percent = min(100.0, max(0.0, busy(day, hour) * float(drawn.normal(1.0, 0.05))))
            yield {
                "src": "gpu",
                "id": f"{name}-{step}",
                "ts": at,
                "recv": at + _STEP_S,
                "tags": {"team": "research", "group": name.rsplit("-", 1)[0], "node": name},
                "gpu_util_pct": round(percent, 1),
                "gpu_mem_gib": 60.0 if percent > 10 else 2.0,
                "cost_usd": usd_per_hour * _STEP_S / HOUR_S,
            }


def charges(lines: Iterable[dict[str, Any]]) -> list[CostRecord]:
    """The provider's bill for the usage: a charge for each model and day, known the day after."""
    sums: dict[tuple[int, str], float] = defaultdict(float)
    for line in lines:
        if line["src"] == "llm":
            sums[int((line["ts"] - DEFAULT_START) // DAY_S), line["tags"]["model"]] += line["cost_usd"]
    drawn = np.random.default_rng(9)
    found = []
    for (day, model), usd in sorted(sums.items()):
        ratio = _BILLED[model.split("-")[0]] * float(drawn.normal(1.0, 0.01))
        start = DEFAULT_START + day * DAY_S
        found.append(
            CostRecord(
                id=f"bill-{day}-{model}",
                charge_period_start=start,
                charge_period_end=start + DAY_S,
                received_at=start + 1.5 * DAY_S,
                effective_cost=usd * ratio,
                billed_cost=usd * ratio,
                tags={"model": model},
                source="bill",
                service_name=model,
            )
        )
    return found


def _verdict(alert: Alert) -> Feedback | None:
    """What people said of an alert: they know what happened. Of some nobody said anything."""
    keys = {_key(alias).api_key for alias, *_ in _LOOPS} | {_key(_NIGHTLY[0]).api_key}
    node = alert.tags.get("node") == "gpu-train-2"
    launch = alert.tags.get("api_key") == _key(_LAUNCH[0]).api_key
    if alert.kind in ("budget", "feed", "pricing") or alert.tier not in ("page", "notice"):
        return None
    real = alert.tags.get("api_key") in keys or node
    return Feedback(
        id=f"said-{alert.alert_id}",
        at=alert.updated_at + HOUR_S,
        alert_id=alert.alert_id,
        verdict="real" if real else "planned" if launch else "not_an_anomaly",
        by="example",
        note="the launch of the assistant" if launch else "",
    )
