"""A hard cap, `/healthz` and memory while the port is attacked: half-open connections, gzip bombs, a flood of events.

Run `python -m benchmarks.port_under_attack`. The daemon is a process of its own, limited to 1,024 descriptors, on a new
embedded log; a small gateway of this script takes its limits. The attackers are two more processes. All is on loopback
and ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import multiprocessing
import os
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.daemon import free_port, resident_mib, until_ready

TOKEN, OLD_LIMIT, NEW_LIMIT = "benchmark-token", 500, 5
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
#: One is sent without the token, the other with it.
TOKENS = ("wrong", TOKEN)
BOMB_MIB = 1024
#: Longest wait (seconds) for one limit, and for one answer of /healthz.
GIVE_UP_S, HEALTH_GIVE_UP_S = 60.0, 10.0


class Gateway:
    """Keys whose limit can be read and set; notes when."""

    def __init__(self) -> None:
        self.limits: dict[str, dict[str, Any]] = {}
        self.limited_at: dict[str, float] = {}
        self.limited: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/key/info", self._info)
        app.router.add_post("/key/update", self._update)
        return app

    async def _info(self, request: web.Request) -> web.Response:
        key = request.query["key"]
        return web.json_response({"key": key, "info": self.limits.setdefault(key, {"rpm_limit": OLD_LIMIT})})

    async def _update(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.limits.setdefault(body["key"], {}).update(body)
        self.limited_at.setdefault(body["key"], time.monotonic())
        self.limited[body["key"]].set()
        return web.json_response(self.limits[body["key"]])


def config_of(directory: Path, port: int, gateway: str) -> dict[str, Any]:
    """A daemon that limits a key as soon as it is over its hard cap."""
    budget = {"name": "per-key", "scope": "key", "amount_usd": 1.0, "period": "day", "thresholds": [100], "hard": True}
    lever = {"kind": "litellm_limits", "name": "limits", "base_url": gateway, "api_key": "k"}
    match = {"kind": ["budget"], "tags": {"team": "capped"}}
    return {
        "log": {"kind": "embedded", "directory": str(directory / "data")},
        "http": {"port": port},
        "state_dir": str(directory / "data" / "connectors"),
        "connectors": [{"kind": "usage_jsonl", "name": name, "token": TOKEN} for name in ("meter", "flood")],
        "detector": {"bucket_s": 10, "grace_s": 1, "budgets": [budget]},
        "actions": {
            "mode": "auto",
            "actions": [{**lever, "new_principal_rpm": NEW_LIMIT}],
            "routes": [{"match": match, "act": ["limits"], "lease_minutes": 30}],
            "limits": {
                "max_percent_of_traffic": 100,
                "max_open_actions": 1000,
                "max_actions_per_hour": 1000,
                "max_open_per_team": 1000,
                "freeze_after": None,
                "freeze_after_failures": None,
                "criticality": [{"match": {}, "is": "non_critical"}],
            },
        },
    }


@contextmanager
def daemon(directory: Path, port: int, gateway: str, descriptors: int) -> Iterator[Popen[bytes]]:
    """`curb run` with so many descriptors until the block ends."""
    path = directory / "curb.yaml"
    path.write_text(yaml.safe_dump(config_of(directory, port, gateway)), encoding="utf-8")
    with (directory / "curb.out").open("wb") as out:
        process = Popen([sys.executable, "-m", "curb", "run", "-c", str(path)], stdout=out, stderr=out)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except TimeoutExpired:
            process.kill()


# --- the attackers -------------------------------------------------------------------------------------------------


@dataclass
class Attack:
    """What the attackers met."""

    counts: Counter[str] = field(default_factory=Counter)
    #: Seconds that half-open connections were open, the longest.
    longest_open_s: float = 0.0
    open_now: int = 0


async def half_open(port: int, attack: Attack, number: int, until: float) -> None:
    """A connection that never ends its request: nothing, half a head, or a head without its body."""
    starts = (b"", b"POST /v1/ingest/meter HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ", None)
    body = (
        f"POST /v1/ingest/meter HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 99\r\n"
    )
    start = starts[number % 3]
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            attack.counts[f"half-open {type(error).__name__}"] += 1
            await asyncio.sleep(1.0)
            continue
        began = time.monotonic()
        attack.open_now += 1
        attack.counts["half-open"] += 1
        writer.write(start if start is not None else f"{body}\r\n".encode())
        try:
            async with asyncio.timeout(max(0.0, until - began)):
                while await reader.read(4096):
                    continue
            attack.longest_open_s = max(attack.longest_open_s, time.monotonic() - began)
        except TimeoutError:
            attack.counts["still open at the end"] += 1
            attack.longest_open_s = max(attack.longest_open_s, time.monotonic() - began)
        except OSError:
            attack.longest_open_s = max(attack.longest_open_s, time.monotonic() - began)
        attack.open_now -= 1
        writer.close()
        await asyncio.sleep(1.0)


def make_bomb() -> bytes:
    """A gigabyte of nothing as a megabyte of gzip."""
    return gzip.compress(bytes(BOMB_MIB << 20), 6)


async def bombs(port: int, attack: Attack, http: aiohttp.ClientSession, bomb: bytes, token: str, until: float) -> None:
    """The bomb again and again."""
    headers = {"Authorization": f"Bearer {token}", "Content-Encoding": "gzip"}
    while time.monotonic() < until:
        await post(port, attack, http, f"bomb with token {token == TOKEN}", bomb, headers)


async def flood(
    port: int, attack: Attack, http: aiohttp.ClientSession, per_second: int, batch: int, until: float
) -> None:
    """Events of 2,000 keys on a timetable; a post that is refused is not repeated."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    began, number, tasks = time.monotonic(), 0, set[asyncio.Task[None]]()
    while time.monotonic() < until:
        await asyncio.sleep(max(0.0, began + number * batch / per_second - time.monotonic()))
        at = time.time()
        lines = [
            f'{{"id":"f{number}-{n}","charge_period_start":{at},"effective_cost":0.00001,"requests":1,'
            f'"tags":{{"team":"t{n % 20}","project":"p","api_key":"f{n % 2000}"}}}}'
            for n in range(batch)
        ]
        number += 1
        if len(tasks) < 64:
            tasks.add(
                task := asyncio.create_task(post(port, attack, http, "flood", "\n".join(lines).encode(), headers))
            )
            task.add_done_callback(tasks.discard)
        else:
            attack.counts["flood: not sent, 64 posts wait"] += 1
    for task in tasks:
        task.cancel()


async def post(
    port: int, attack: Attack, http: aiohttp.ClientSession, what: str, body: bytes, headers: dict[str, str]
) -> None:
    """One post, counted by its answer."""
    try:
        async with http.post(f"http://127.0.0.1:{port}/v1/ingest/flood", data=body, headers=headers) as answer:
            await answer.read()
            attack.counts[f"{what}: {answer.status}"] += 1
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        attack.counts[f"{what}: {type(error).__name__}"] += 1
        await asyncio.sleep(0.2)


async def _attack(port: int, args: argparse.Namespace, bomb: bytes) -> Attack:
    attack, until = Attack(), time.monotonic() + args.seconds
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        tasks = [asyncio.create_task(half_open(port, attack, n, until)) for n in range(args.half_open)]
        if bomb:
            tasks += [asyncio.create_task(bombs(port, attack, http, bomb, token, until)) for token in TOKENS]
        if args.events:
            tasks.append(asyncio.create_task(flood(port, attack, http, args.events, 1000, until)))
        await asyncio.gather(*tasks)
    return attack


def attackers(port: int, args: argparse.Namespace, bomb: bytes, out: str) -> None:
    """A process that attacks, then leaves what it met in a file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    attack = asyncio.run(_attack(port, args, bomb))
    found = {"longest_open_s": round(attack.longest_open_s, 1), **dict(sorted(attack.counts.items()))}
    Path(out).write_text(json.dumps(found), encoding="utf-8")


# --- what is measured ----------------------------------------------------------------------------------------------


async def health(port: int, times: list[float], stop: asyncio.Event) -> None:
    """`/healthz` twice a second on connections of their own; a failure counts as the longest wait."""
    while not stop.is_set():
        began = time.monotonic()
        try:
            async with asyncio.timeout(HEALTH_GIVE_UP_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(HEALTH)
                answered = (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()
        except (OSError, TimeoutError):
            answered = False
        times.append(time.monotonic() - began if answered else HEALTH_GIVE_UP_S)
        await asyncio.sleep(0.5)


async def capped(port: int, gateway: Gateway, key: str, refused: Counter[str]) -> float:
    """Seconds from a key's overspending to its limit at the gateway. The event is sent until it is accepted."""
    began = time.monotonic()
    tags = {"team": "capped", "project": "p", "api_key": key}
    record = {"id": key, "charge_period_start": time.time(), "effective_cost": 5.0, "requests": 1, "tags": tags}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        while time.monotonic() - began < GIVE_UP_S:
            try:
                url = f"http://127.0.0.1:{port}/v1/ingest/meter"
                async with http.post(url, data=json.dumps(record), headers=headers) as answer:
                    if answer.status == 200:
                        break
                    refused[str(answer.status)] += 1
            except (aiohttp.ClientError, TimeoutError) as error:
                refused[type(error).__name__] += 1
            await asyncio.sleep(0.5)
    try:
        async with asyncio.timeout(GIVE_UP_S):
            await gateway.limited[key].wait()
    except TimeoutError:
        return GIVE_UP_S
    return gateway.limited_at[key] - began


def descriptors_of(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


#: Where a cap passes, in order: topics of the log, then the gateway.
STEPS = ("curb.usage", "curb.spend", "curb.alerts", "curb.actions")


def steps_of(log: Path, gateway: Gateway, began: dict[str, float]) -> str:
    """Seconds (median, longest) from overspending to the first message about the key on each topic, and its limit."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    to_monotonic = time.monotonic() - time.time()
    with closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as database:
        rows = list(database.execute(f"SELECT topic, value, at FROM messages WHERE topic IN {STEPS} ORDER BY at"))
    for key, at in began.items():
        for topic in STEPS:
            first = next((when for of, value, when in rows if of == topic and f'"{key}"'.encode() in value), None)
            if first is not None:
                found[topic].append(first + to_monotonic - at)
        if key in gateway.limited_at:
            found["limit"].append(gateway.limited_at[key] - at)
    shown = ((step, found[step]) for step in (*STEPS, "limit") if found[step])
    return ", ".join(f"{step} {statistics.median(times):.2f} ({max(times):.2f}) s" for step, times in shown)


async def phase(name: str, port: int, gateway: Gateway, pid: int, seconds: float) -> dict[str, float]:
    """Caps one after the other and /healthz for so long, and a line about them. When each key began to overspend."""
    stop, times, caps, starts = asyncio.Event(), list[float](), list[float](), dict[str, float]()
    refused: Counter[str] = Counter()
    probe = asyncio.create_task(health(port, times, stop))
    until = time.monotonic() + seconds
    most_mib, most_open = 0.0, 0
    while time.monotonic() < until:
        key = f"{name}-{len(caps)}"
        starts[key] = time.monotonic()
        task = asyncio.create_task(capped(port, gateway, key, refused))
        while not task.done():
            most_mib, most_open = max(most_mib, resident_mib(pid)), max(most_open, descriptors_of(pid))
            await asyncio.wait([task], timeout=0.5)
        caps.append(task.result())
    stop.set()
    await probe
    times.sort()
    print(
        f"{name:12} caps {' '.join(f'{each:.1f}' for each in caps)} s; /healthz median {times[len(times) // 2]:.3f} s, "
        f"longest {times[-1]:.3f} s; at most {most_mib:.0f} MiB, {most_open} descriptors; "
        f"events of caps refused: {dict(refused)}",
        flush=True,
    )
    return starts


async def measure(args: argparse.Namespace) -> None:
    """Undisturbed, under attack, and after it."""
    gateway = Gateway()
    with tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), free_port()
        async with TestServer(gateway.app()) as server:
            with daemon(directory, port, str(server.make_url("/")), args.descriptors) as process:
                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                    await until_ready(http, process)
                phases = {"undisturbed": await phase("undisturbed", port, gateway, process.pid, args.seconds / 2)}
                bomb = make_bomb() if args.bombs else b""
                quiet = argparse.Namespace(**vars(args) | {"half_open": 0})
                slow = argparse.Namespace(**vars(args) | {"events": 0})
                spawn = multiprocessing.get_context("spawn").Process
                found = {name: directory / f"{name}.json" for name in ("connections", "flood")}
                attacks = [
                    spawn(target=attackers, args=(port, slow, bomb, str(found["connections"]))),
                    spawn(target=attackers, args=(port, quiet, b"", str(found["flood"]))),
                ]
                for each in attacks:
                    each.start()
                await asyncio.sleep(3.0)
                phases["attacked"] = await phase("attacked", port, gateway, process.pid, args.seconds - 3.0)
                for each in attacks:
                    await asyncio.to_thread(each.join, 60)
                    each.kill()
                phases["afterwards"] = await phase("afterwards", port, gateway, process.pid, args.seconds / 2)
                for attacker, out in found.items():
                    print(f"{attacker}:", out.read_text(encoding="utf-8") if out.exists() else "killed")
                state = "runs" if process.poll() is None else f"ended with {process.returncode}"
            for each, starts in phases.items():
                print(f"{each}: {steps_of(directory / 'data' / 'log.sqlite3', gateway, starts)}")
            log = directory / "curb.out"
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            print(f"daemon {state}; {len(lines)} log lines, {log.stat().st_size} bytes")
            if args.show_log:
                print("\n".join(lines[-args.show_log :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--half-open", type=int, default=2000, help="connections that never end their request")
    parser.add_argument("--bombs", type=int, default=1, help="0 for none")
    parser.add_argument("--events", type=int, default=20_000, help="events a second of the flood; 0 for none")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the attack lasts")
    parser.add_argument("--descriptors", type=int, default=1024, help="`ulimit -n` of the daemon")
    parser.add_argument("--show-log", type=int, default=0, help="print so many of the daemon's last log lines")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
