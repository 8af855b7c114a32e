"""The daemon as an operator meets it: start, feed, break, kill, start again, ask, stop."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.acceptance.daemons import Daemon, curb, curb_json
from tests.ports import free_port

TOKEN = "ingest-token"
_CONFIG = """
log: {log}
http: {{port: {port}, token: admin-token}}
commit_interval_s: 0.1
connectors:
  - {{kind: litellm, name: gateway, token: {token}}}
  - {{kind: usage_jsonl, name: meter, token: {token}}}
detector: {{bucket_s: 10, grace_s: 1, guard: {{first_series: 0, max_new_series_per_minute: 200}}}}
"""


@pytest.fixture
async def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Daemon]:
    """On the embedded log, or on what the test is parametrised with."""
    log: dict[str, Any] = {"directory": str(tmp_path / "data")}
    if getattr(request, "param", "embedded") == "kafka":
        broker = request.getfixturevalue("kafka_broker")
        prefix = f"daemon-{uuid.uuid4().hex[:8]}-"
        log = {"bootstrap_servers": broker.bootstrap, "topic_prefix": prefix, "partitions": 2}
    config, port = tmp_path / "curb.yaml", free_port()
    config.write_text(_CONFIG.format(log=json.dumps(log), port=port, token=TOKEN), encoding="utf-8")
    running = Daemon(config, port)
    await running.start()
    yield running
    await running.end()


def line(name: str, usd: float = 0.25, **more: Any) -> bytes:
    record = {"id": name, "charge_period_start": time.time() - 1, "effective_cost": usd, "requests": 1}
    return json.dumps(record | {"tags": {"team": "a", "project": "p", "api_key": "k"}} | more).encode() + b"\n"


async def push(daemon: Daemon, body: bytes, connector: str = "meter") -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{daemon.url}/v1/ingest/{connector}", data=io.BytesIO(body), headers=headers) as answer:
            return answer.status, await answer.json()


async def totals(daemon: Daemon, wanted: float) -> dict[str, float]:
    """Totals per api_key, once the rollup has come to `wanted` dollars in all."""
    async with asyncio.timeout(20):
        while True:
            rows = await curb_json("spend", "-c", str(daemon.config))
            found = {row["tags"]["api_key"]: row["total_usd"] for row in rows}
            if sum(found.values()) >= wanted - 1e-9:
                return found


async def get(daemon: Daemon, path: str, token: str = "admin-token") -> tuple[int, Any]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http:
        async with http.get(daemon.url + path) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if path.startswith("/v1") else text


@pytest.mark.parametrize(
    "daemon", [pytest.param("embedded"), pytest.param("kafka", marks=pytest.mark.real)], indirect=True
)
async def test_what_was_accepted_survives_kill_9_and_counts_once(daemon: Daemon) -> None:
    assert await push(daemon, b"".join(line(f"a{n}") for n in range(40))) == (200, {"accepted": 40, "dead": 0})
    await daemon.kill()
    await daemon.start()
    # The sender did not see the answer and sends all of it again, and more.
    await push(daemon, b"".join(line(f"a{n}") for n in range(44)))
    assert await totals(daemon, 11.0) == {"k": 11.0}
    assert await daemon.stop() == 0
    assert await totals(daemon, 11.0) == {"k": 11.0}


async def test_bad_input_is_counted_and_the_rest_goes_on(daemon: Daemon) -> None:
    huge = line("huge", tags={"team": "x" * 5_000_000})
    bodies = {
        "truncated": line("t")[:-20] + b"\n",
        "not_a_number": line("n").replace(b"0.25", b"NaN"),
        "negative": line("m", usd=-1.0),
        "1970": line("o", charge_period_start=60.0),
        "2100": line("f", charge_period_start=4102444800.0),
        "wrong type": line("w", requests="many"),
        "not utf-8": line("u").replace(b'"a"', b'"\xff\xfe"'),
        "huge": huge,
    }
    for what, body in bodies.items():
        good = line(f"good-{what}")
        status, answer = await push(daemon, body + good)
        assert (status, answer["accepted"], answer["dead"]) == (207, 1, 1), what
    assert await totals(daemon, 0.25 * len(bodies)) == {"k": 0.25 * len(bodies)}
    _, metrics = await get(daemon, "/metrics")
    dead = [row for row in metrics.splitlines() if row.startswith("curb_dead_letters_total{")]
    assert sum(float(row.split()[-1]) for row in dead) == len(bodies)


async def test_an_unknown_model_is_priced_and_told(daemon: Daemon) -> None:
    record = json.loads(line("x")) | {"request_model": "no-such-model", "input_tokens": 1000, "output_tokens": 100}
    del record["effective_cost"]
    await push(daemon, json.dumps(record).encode())
    found = await totals(daemon, 0.001)
    assert found["k"] > 0
    async with asyncio.timeout(40):
        while not (alerts := await curb_json("alerts", "-c", str(daemon.config))):
            await asyncio.sleep(0.5)
    assert (alerts[0]["kind"], alerts[0]["tags"]) == ("pricing", {"model": "no-such-model"})


async def test_ten_thousand_new_tag_values_are_folded(daemon: Daemon) -> None:
    tags = {"team": "a", "project": "p"}
    lines = (line(f"c{n}", usd=0.001, tags=tags | {"api_key": f"k{n}"}) for n in range(10_000))
    await push(daemon, b"".join(lines))
    found = await totals(daemon, 10.0)
    assert len(found) <= 201
    assert found["__other__"] == pytest.approx(9.8, abs=0.01)
    assert sum(found.values()) == pytest.approx(10.0, rel=1e-9)


async def test_doors_are_guarded(daemon: Daemon) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{daemon.url}/v1/ingest/meter", data=line("a")) as answer:
            assert answer.status == 401
        async with http.post(f"{daemon.url}/v1/commands", json={"kind": "halt"}) as answer:
            assert answer.status == 401
        async with http.get(f"{daemon.url}/healthz") as answer:
            assert answer.status == 200
    assert (await get(daemon, "/v1/status", token="wrong"))[0] == 401
    assert (await push(daemon, line("a"), connector="nobody"))[0] == 404


async def test_people_ask_and_halt(daemon: Daemon) -> None:
    config = ("-c", str(daemon.config))
    status, found = await get(daemon, "/v1/status")
    assert (status, found["ready"], found["mode"], found["halted"]) == (200, True, "shadow", False)
    assert (await curb("halt", *config, "--reason", "test"))[0] == 0
    await _until_halted(daemon, True)
    await daemon.kill()
    await daemon.start()
    await _until_halted(daemon, True)
    await curb("resume", *config)
    await _until_halted(daemon, False)
    code, out = await curb("status", *config)
    assert code == 0
    assert "mode shadow" in out
    assert (await curb("actions", "list", *config)) == (0, "no actions\n")


async def _until_halted(daemon: Daemon, wanted: bool) -> None:
    async with asyncio.timeout(15):
        while (await get(daemon, "/v1/status"))[1]["halted"] is not wanted:
            await asyncio.sleep(0.1)


async def test_a_second_daemon_on_the_same_log_says_so(daemon: Daemon, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    text = daemon.config.read_text(encoding="utf-8").replace(daemon.url.rpartition(":")[2], str(free_port()))
    other.write_text(text, encoding="utf-8")
    code, out = await curb("run", "-c", str(other))
    assert code == 1
    assert "another process is already running" in out
    assert "Traceback" not in out


async def test_a_wrong_configuration_does_not_start(tmp_path: Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("http: {prot: 1}\nlog: {kind: paper}\n", encoding="utf-8")
    code, out = await curb("run", "-c", str(config))
    assert code == 2
    assert "2 errors in the configuration" in out
    assert "did you mean `port`?" in out
