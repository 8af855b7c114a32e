"""Memory of an idle daemon, and how long its LiteLLM or OTLP inbox takes to answer 200 under a steady load on loopback.

Run `python -m benchmarks.daemon`, or with `--inbox otlp` for spans in protobuf. The daemon is a process of its own on a
new embedded log. Posts leave on a timetable, and latency counts from there: a post that had to wait for the one before
it is as late as its sender would see it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import aiohttp
import msgspec
import yaml

TOKEN = "benchmark-token"
KEYS, TEAMS = 200, 20
TARGET_RSS_MIB = 250
READY_S, SETTLE_S = 90.0, 3.0
PROMPT = "What does the invoice say about the second quarter? " * 20
#: Inbox → where it is posted to, and as what.
PATHS = {
    "litellm": ("/v1/ingest/litellm", "application/json"),
    "otlp": ("/v1/ingest/otlp/v1/traces", "application/x-protobuf"),
}


def make_bodies(inbox: str, per_second: int, batch: int, seconds: float, at: float) -> list[bytes]:
    """Bodies as LiteLLM or an exporter of spans posts them, every event with an id of its own."""
    events = int(per_second * seconds)
    firsts = range(0, events, batch)
    if inbox == "otlp":
        return [span_body(range(first, first + batch), per_second, at) for first in firsts]

    def event(number: int) -> dict[str, Any]:
        key = number * 7 % KEYS
        return {
            "id": f"chatcmpl-{number}",
            "litellm_call_id": f"call-{number}",
            "status": "success",
            "response_cost": 0.0001 * (1 + number % 90),
            "custom_llm_provider": "openai",
            "prompt_tokens": 900 + number % 300,
            "completion_tokens": 100 + number % 70,
            "startTime": at + number / per_second,
            "model": f"model-{number % 5}",
            "messages": [{"role": "user", "content": PROMPT}],
            "response": {"choices": [{"message": {"content": PROMPT}}]},
            "metadata": {
                "user_api_key_hash": f"{key:064x}",
                "user_api_key_alias": f"key-{key}",
                "user_api_key_team_alias": f"team-{key % TEAMS}",
            },
        }

    return [msgspec.json.encode([event(n) for n in range(first, first + batch)]) for first in firsts]


def span_body(numbers: Iterable[int], per_second: int, at: float) -> bytes:
    """Spans of calls with their prompts, in protobuf."""
    service = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    request = service.ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    put(resource.resource.attributes, {"service.name": "answers", "deployment.environment.name": "prod"})
    spans = resource.scope_spans.add().spans
    for number in numbers:
        key = number * 7 % KEYS
        span = spans.add(
            name="chat", trace_id=(number + 1).to_bytes(16, "big"), span_id=(number + 1).to_bytes(8, "big")
        )
        span.start_time_unix_nano = int((at + number / per_second) * 1e9)
        values = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.input_tokens": 900 + number % 300,
            "gen_ai.usage.output_tokens": 100 + number % 70,
            "gen_ai.input.messages": PROMPT,
            "gen_ai.output.messages": PROMPT,
            "api_key.id": f"key-{key}",
            "team": f"team-{key % TEAMS}",
        }
        put(span.attributes, values)
    body: bytes = request.SerializeToString()
    return body


def put(attributes: Any, values: dict[str, str | int]) -> None:
    """Add values as OTLP attributes."""
    for key, value in values.items():
        entry = attributes.add(key=key)
        if isinstance(value, int):
            entry.value.int_value = value
        else:
            entry.value.string_value = value


def inboxes(directory: Path, port: int) -> dict[str, Any]:
    """A daemon with nothing but its inboxes."""
    return {
        "log": {"kind": "embedded", "directory": str(directory / "data")},
        "http": {"port": port},
        "connectors": [
            {"kind": "litellm", "name": "litellm", "token": TOKEN},
            {"kind": "otel_genai", "name": "otlp", "token": TOKEN},
        ],
    }


@contextmanager
def running(directory: Path, settings: dict[str, Any]) -> Iterator[Popen[bytes]]:
    """`curb run` with these settings until the block ends."""
    config = directory / "curb.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with (directory / "curb.out").open("wb") as out:
        process = Popen([sys.executable, "-m", "curb", "run", "-c", str(config)], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_ready(http: aiohttp.ClientSession, process: Popen[bytes]) -> float:
    """Seconds until /readyz answers 200; raises SystemExit when it never does."""
    start = time.monotonic()
    while time.monotonic() - start < READY_S and process.poll() is None:
        try:
            async with http.get("/readyz") as answer:
                if answer.status == 200:
                    return time.monotonic() - start
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit(f"the daemon was not ready within {READY_S:.0f} s (exit code {process.poll()})")


def resident_mib(pid: int) -> float:
    """VmRSS of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/{pid}/status has no VmRSS")


async def post_all(
    http: aiohttp.ClientSession, inbox: str, bodies: Sequence[bytes], every_s: float, batch: int
) -> list[float]:
    """Seconds from the planned departure of each post to its answer; every answer must accept the whole batch."""
    loop = asyncio.get_running_loop()
    start = loop.time() + 0.2
    path, content_type = PATHS[inbox]
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content_type}
    whole = b"" if inbox == "otlp" else msgspec.json.encode({"accepted": batch, "dead": 0})

    async def post(number: int, body: bytes) -> float:
        due = start + number * every_s
        await asyncio.sleep(due - loop.time())
        async with http.post(path, data=body, headers=headers) as answer:
            said = await answer.read()
        if answer.status != 200 or said.replace(b" ", b"") != whole:
            raise SystemExit(f"post {number} was answered {answer.status} {said!r}")
        return loop.time() - due

    return await asyncio.gather(*[post(number, body) for number, body in enumerate(bodies)])


async def counted(http: aiohttp.ClientSession, expected: int) -> None:
    """Wait until the detector has counted every event exactly once; raises SystemExit when it does not in time."""
    found = -1
    for _ in range(50):
        async with http.get("/metrics") as answer:
            text = await answer.text()
        values = [line.split()[1] for line in text.splitlines() if line.startswith("curb_rollup_events_total")]
        found = int(sum(map(float, values)))
        if found == expected:
            return
        await asyncio.sleep(0.2)
    raise SystemExit(f"{found} events counted, expected {expected}")


async def measure(options: argparse.Namespace) -> float:
    """Start, wait, load, print. MiB of the idle daemon."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="curb-bench-") as name,
        running(Path(name), inboxes(Path(name), port)) as process,
    ):
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            ready_s = await until_ready(http, process)
            await asyncio.sleep(SETTLE_S)
            idle_mib = resident_mib(process.pid)
            began = time.time() - options.seconds
            bodies = make_bodies(options.inbox, options.per_second, options.batch, options.seconds, began)
            every_s = options.batch / options.per_second
            latencies = await post_all(http, options.inbox, bodies, every_s, options.batch)
            await counted(http, len(bodies) * options.batch)
            loaded_mib = resident_mib(process.pid)
    cuts = [1000 * cut for cut in statistics.quantiles(latencies, n=100, method="inclusive")]
    size = sum(map(len, bodies)) / len(bodies) / 1024
    load = f"{options.per_second:,} events/s for {options.seconds:.0f} s"
    print(f"{load}, posts of {options.batch} events ({size:.0f} KiB);")
    print("every post accepted, every event counted once.\n")
    print(f"{'start to ready':38} {ready_s:7.1f} s")
    print(f"{f'resident when idle (<= {TARGET_RSS_MIB})':38} {idle_mib:7.0f} MiB")
    print(f"{'resident after the load':38} {loaded_mib:7.0f} MiB")
    print(f"{'planned departure to 200, median':38} {cuts[49]:7.1f} ms")
    print(f"{'planned departure to 200, p99':38} {cuts[98]:7.1f} ms")
    print(f"{'planned departure to 200, slowest':38} {1000 * max(latencies):7.1f} ms")
    return idle_mib


def main(arguments: Sequence[str] | None = None) -> float:
    """Measure and print. MiB of the idle daemon."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inbox", choices=sorted(PATHS), default="litellm")
    parser.add_argument("--per-second", type=int, default=2_000, help="events per second")
    parser.add_argument("--batch", type=int, default=100, help="events per post")
    parser.add_argument("--seconds", type=float, default=10.0)
    return asyncio.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
