"""A gateway that posts, GPUs behind a Prometheus and a bill in S3, into one daemon at once: no dollar is lost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from moto.server import ThreadedMotoServer

from tests.acceptance.daemons import Daemon, curb_json
from tests.fakes import focus_file as focus
from tests.fakes import litellm_usage as litellm
from tests.fakes.dcgm import DcgmExporter, FakeGpu
from tests.fakes.prometheus import PrometheusServer
from tests.ports import free_port
from tests.real.litellm_proxy import PORT, TOKEN, Proxy, find_proxy
from tests.real.prometheus_server import find_binary, running

DAY_S, STEP_S = 86_400, 10
#: How the names of teams at a real proxy begin.
LIVE = "live-"
#: The bill is so much of what the gateway says; found again as the capture ratio.
CAPTURED = 0.93
P5_USD_PER_STEP = 55.04 * STEP_S / 3600
#: Eighths of the node: of three GPUs that are seen one is idle, one is shared, and five are not seen.
EIGHTHS = {"search": 1.5, "ml": 0.5, "__idle__": 6.0}
_CONFIG = """
log: {{directory: {directory}/data}}
state_dir: {directory}/state
http: {{port: {port}, token: admin-token}}
commit_interval_s: 0.1
connectors:
  - {{kind: litellm, name: gateway, token: {token}{backfill}}}
  - kind: prometheus
    name: gpus
    url: {prometheus}
    step_s: {step_s}
    lag_s: 2
    backfill_s: 600
    poll_interval_s: 1
    nodes:
      - {{match: "gpu-*", instance: p5.48xlarge, group: train}}
    queries:
      - {{name: gpus, preset: dcgm, record: gpu}}
  - kind: focus_file
    name: bill
    url: s3://bills/focus
    poll_interval_s: 0.5
    storage: {{endpoint_url: "{s3}", region: us-east-1, access_key_id: key, secret_access_key: secret}}
detector:
  bucket_s: 10
  grace_s: 1
  scopes:
    - {{name: team, group_by: [team], sources: [usage, gpu], detect: false, role: total}}
    - {{name: billed, group_by: [team], sources: [costs], detect: false, role: total}}
reconcile:
  pairs:
    - {{name: openai, estimated: {{source: gateway}}, billed: {{source: bill, service_name: OpenAI}}}}
"""
_BACKFILL = ", backfill: {{url: '{url}', key: '{key}', poll_interval_s: 2, first_hours: 1}}"
_SCRAPE = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: dcgm
    static_configs:
      - targets: ["127.0.0.1:{port}"]
        labels: {{node: gpu-1, pod: dcgm-exporter-abcde, namespace: gpu-operator}}
"""
Usd = dict[str, float]


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Any]]:
    """Address of an S3 with a bucket for bills, and a client."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    secrets = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **secrets)
    client.create_bucket(Bucket="bills")
    yield url, client
    server.stop()


@contextlib.asynccontextmanager
async def gpus(tmp_path: Path, *, real: bool) -> AsyncIterator[str]:
    """The address of a Prometheus that knows one node: a real one scrapes it, the fake one saw it for 30 steps."""
    pods = [[("search", "web-6d4cf56db6-7kx2p")], [], [("search", "web-6d4cf56db6-7kx2p"), ("ml", "train-0")]]
    seen_gpus = [FakeGpu(n, f"GPU-{n}", util=80 if held else 0, pods=held) for n, held in enumerate(pods)]
    exporter = DcgmExporter("dcgm-exporter-abcde", seen_gpus)
    if real:
        binary = find_binary()
        async with TestServer(exporter.app()) as server:
            async with running(binary, _SCRAPE.format(port=server.port), tmp_path) as url:
                yield url
        return
    first = (time.time() - 400) // STEP_S * STEP_S

    def samples(at: float) -> list[tuple[dict[str, str], float]]:
        seen = first < at <= first + 30 * STEP_S
        return [
            ({"__name__": "DCGM_FI_DEV_GPU_UTIL", **_labels(gpu, pod)}, float(gpu.util))
            for gpu in exporter.gpus
            for pod in gpu.pods or [("", "")]
            if seen
        ]

    async with TestServer(PrometheusServer({"DCGM": samples}).app()) as server:
        yield str(server.make_url("/"))


def _labels(gpu: FakeGpu, pod: tuple[str, str]) -> dict[str, str]:
    """As Prometheus stores them: the scraped pod is the exporter's."""
    own = {"node": "gpu-1", "gpu": str(gpu.index), "UUID": gpu.uuid, "modelName": gpu.model}
    held = {"exported_namespace": pod[0], "exported_pod": pod[1]} if pod[1] else {}
    return {**own, "pod": "dcgm-exporter-abcde", "namespace": "gpu-operator", **held}


def history(today: float) -> dict[float, list[dict[str, Any]]]:
    """What two teams did on nine days before yesterday, day by day."""
    rng = random.Random(7)
    days: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for number in range(600):
        day = today - DAY_S * (3 + number % 9)
        at, usd = day + rng.uniform(0, DAY_S - 10), round(rng.lognormvariate(-2, 1), 6)
        team = rng.choice(["search", "support"])
        days[day].append(
            litellm.payload(number, at, response_cost=usd, metadata={"user_api_key_team_alias": team})
            | {"cost_breakdown": None, "hidden_params": None}
        )
    return dict(days)


def by_team(payloads: list[dict[str, Any]]) -> Usd:
    sums: Usd = defaultdict(float)
    for each in payloads:
        sums[each["metadata"]["user_api_key_team_alias"]] += each["response_cost"]
    return dict(sums)


def bill(days: dict[float, list[dict[str, Any]]], factor: float) -> list[dict[str, Any]]:
    """FOCUS lines: the tokens at `factor` of their estimate, tax on them, and a machine that no other source sees."""
    lines = []
    for day, payloads in days.items():
        for team, usd in by_team(payloads).items():
            tokens = {"ServiceName": "OpenAI", "Tags": json.dumps({"team": team})}
            lines += [focus.line(day, usd * factor, **tokens), focus.line(day, 1.0, ChargeCategory="Tax", **tokens)]
        lines.append(focus.line(day, 5.0, Tags=json.dumps({"team": "platform"})))
    return lines


def deliver(s3: Any, lines: list[dict[str, Any]]) -> None:
    s3.put_object(Bucket="bills", Key="focus/month.parquet", Body=focus.parquet(lines))


async def post(daemon: Daemon, payloads: list[dict[str, Any]]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{daemon.url}/v1/ingest/gateway", data=litellm.array(payloads)) as answer:
            assert await answer.json() == {"accepted": len(payloads), "dead": 0}


async def get(daemon: Daemon, path: str) -> Any:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer admin-token"}) as http:
        async with http.get(daemon.url + path) as answer:
            assert answer.status == web.HTTPOk.status_code
            return await answer.json()


async def dashboard(daemon: Daemon) -> str:
    """The page of spend per team, as a browser gets it."""
    login = base64.b64encode(b"me:admin-token").decode()
    async with aiohttp.ClientSession(headers={"Authorization": f"Basic {login}"}) as http:
        async with http.get(f"{daemon.url}/?scope=team") as answer:
            assert answer.status == web.HTTPOk.status_code
            return await answer.text()


async def spend(daemon: Daemon, scope: str) -> Usd:
    """Dollars per team as the daemon shows them."""
    found = await get(daemon, f"/v1/spend?scope={scope}")
    return {row["tags"]["team"]: row["total_usd"] for row in found["series"]}


def expected(sent: Usd, shown: Usd, *, real: bool) -> Usd | None:
    """What teams spent, given how many steps of the GPUs were read; None while there are too few."""
    steps = round(shown.get("__idle__", 0.0) / (P5_USD_PER_STEP * EIGHTHS["__idle__"] / 8))
    if steps < 3 or not (real or steps == 30):
        return None
    gpu = {team: steps * P5_USD_PER_STEP * share / 8 for team, share in EIGHTHS.items()}
    return {team: sent.get(team, 0.0) + gpu.get(team, 0.0) for team in sent.keys() | gpu.keys()}


async def until(daemon: Daemon, scope: str, wanted: Any) -> Usd:
    """The teams' dollars once they are what `wanted` says of them; fails with both when that takes too long."""
    shown, due = Usd(), time.monotonic() + 150
    while time.monotonic() < due:
        shown = await spend(daemon, scope)
        if (want := wanted(shown)) is not None and _known(shown, want) == pytest.approx(want, rel=1e-9):
            return _known(shown, want)
        await asyncio.sleep(0.25)
    raise AssertionError(f"{scope}: {shown}, wanted {wanted(shown)}\n{daemon.log.read_text()[-3000:]}")


def _known(shown: Usd, wanted: Usd) -> Usd:
    """Without the teams that a real proxy had before."""
    return {team: usd for team, usd in shown.items() if team in wanted or not team.startswith(LIVE)}


class LiveTeams:
    """Two teams at a real proxy, and what it said their calls cost; none without a proxy."""

    def __init__(self, proxy: Proxy | None) -> None:
        self._proxy, self._keys, self.usd = proxy, dict[str, str](), defaultdict[str, float](float)

    async def begin(self) -> None:
        if self._proxy is not None:
            for team in (f"{LIVE}{time.time_ns():x}-{name}" for name in "ab"):
                self._keys[team] = await self._proxy.team_key(team)

    async def call(self, times: int) -> None:
        for team, key in self._keys.items():
            assert self._proxy is not None
            for _ in range(times):
                answer = await self._proxy.call(key)
                assert answer.status == web.HTTPOk.status_code
                assert answer.usd > 0
                self.usd[team] += answer.usd


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "real",
    [
        pytest.param((), id="fake"),
        pytest.param(("prometheus",), id="real", marks=pytest.mark.real),
        pytest.param(("prometheus", "litellm"), id="real-litellm", marks=pytest.mark.real),
    ],
)
async def test_all_at_once_add_up_and_reconcile(tmp_path: Path, s3: tuple[str, Any], real: tuple[str, ...]) -> None:
    """With a real proxy, teams call it before, while and after Curb is dead: what its posts lost is read back."""
    proxies = find_proxy() if "litellm" in real else contextlib.nullcontext()
    async with proxies as proxy, gpus(tmp_path, real="prometheus" in real) as prometheus:
        await all_at_once(tmp_path, s3, prometheus, proxy, real=bool(real))


async def all_at_once(tmp_path: Path, s3: tuple[str, Any], prometheus: str, proxy: Proxy | None, *, real: bool) -> None:
    url, client = s3
    days = history(time.time() // DAY_S * DAY_S)
    sent = by_team([each for payloads in days.values() for each in payloads])
    deliver(client, bill(dict(list(days.items())[:6]), 0.8))
    config, port = tmp_path / "curb.yaml", PORT if proxy else free_port()
    places = {"directory": tmp_path, "prometheus": prometheus, "s3": url, "token": TOKEN, "step_s": STEP_S}
    backfill = _BACKFILL.format(url=proxy.url, key=proxy.master) if proxy else ""
    config.write_text(_CONFIG.format(port=port, backfill=backfill, **places), encoding="utf-8")
    daemon, live = Daemon(config, port), LiveTeams(proxy)
    try:
        await daemon.start()
        await live.begin()
        await live.call(5)
        await until(daemon, "billed", lambda shown: billed(dict(list(days.items())[:6]), 0.8))
        # The month goes on and what was billed is restated, while the gateway posts, some of it twice.
        deliver(client, bill(days, CAPTURED))
        for payloads in days.values():
            await post(daemon, payloads)
        await post(daemon, next(iter(days.values())))
        await live.call(5)
        await daemon.kill()
        await live.call(5)
        await daemon.start()
        await live.call(5)
        await until(daemon, "billed", lambda shown: billed(days, CAPTURED))
        sent |= live.usd
        shown = await until(daemon, "team", lambda shown: expected(sent, shown, real=real))
        (pair,) = (await get(daemon, "/v1/reconciliation"))["pairs"]
        page = await dashboard(daemon)
        assert await daemon.stop() == 0
    finally:
        await daemon.end()
    assert (pair["pair"], pair["days"]) == ("openai", 7)
    week = [each for day, payloads in days.items() if day >= max(days) - 6 * DAY_S for each in payloads]
    assert pair["estimated_usd"] == pytest.approx(sum(by_team(week).values()))
    assert pair["billed_usd"] == pytest.approx(CAPTURED * pair["estimated_usd"])
    assert pair["ratio"] == pytest.approx(CAPTURED)
    assert pair["ratio_low"] <= CAPTURED <= pair["ratio_high"] or pair["ratio_low"] == pytest.approx(CAPTURED)
    assert all(team in page for team in shown)
    assert f"{CAPTURED:.3f}" in page
    if not real:  # else one more step of the GPUs may have come
        assert all(f"${usd:,.2f}" in page for usd in shown.values())
    # The same without the daemon, added up from the log; it may have read one more step before it stopped.
    offline = await curb_json("spend", "-c", str(config), "--scope", "team")
    totals = _known({row["tags"]["team"]: row["total_usd"] for row in offline}, sent)
    assert totals == pytest.approx(expected(sent, totals, real=real), rel=1e-9)
    assert set(totals) == set(shown) == {"search", "support", "ml", "__idle__", *live.usd}
    # The gateway's calls are a history, which is said; nothing else is.
    alerts = await curb_json("alerts", "-c", str(config))
    assert [(each["channel"], each["tier"], each["tags"]) for each in alerts] == [
        ("feed/lost/too_late", "digest", {"source": "gateway"})
    ]


def billed(days: dict[float, list[dict[str, Any]]], factor: float) -> Usd:
    """Dollars per team of a bill."""
    sums: Usd = defaultdict(float)
    for line in bill(days, factor):
        sums[json.loads(line["Tags"])["team"]] += line["EffectiveCost"]
    return dict(sums)
