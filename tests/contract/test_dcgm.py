"""What `"dcgm"` promises: every second of every GPU charged once, whatever fails in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.connectors.connector import Checkable
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.topics import CURSORS
from tests.fakes.dcgm import DcgmExporter, FakeGpu
from tests.fakes.gpu_bench import BATCH, H100_USD, NOW, WEB, Bench, steps
from tests.fakes.kubernetes_api import KubernetesServer, named, pod


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with aiohttp.ClientSession() as http:
        yield Bench(http)


@pytest.mark.parametrize("seed", range(4))
async def test_dcgm_charges_every_second_once_whatever_fails(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    exporter = DcgmExporter("n1", [FakeGpu(0, "a"), FakeGpu(1, "b")])
    async with TestServer(exporter.app()) as server:
        await bench.catch_up(bench.dcgm(server, max_gap_s=3600))
        for _ in range(40):
            await bench.clock.advance(rng.uniform(1, 90))
            # Owners change all the time, so that two scrapes of the same moment never say the same.
            for gpu in exporter.gpus:
                gpu.pods = rng.sample([WEB, BATCH, ("x", "y")], rng.randint(0, 3))
            exporter.faults.next.extend(rng.choices(["429", "500", "reset"], k=rng.choice([0, 0, 1])))
            await steps(bench, bench.dcgm(server, max_gap_s=3600), rng)
        bench.log.fail_next = bench.log.fail_after = 0
        exporter.faults.next.clear()
        for _ in range(2):  # what was scraped but not written, then what passed since
            await bench.catch_up(bench.dcgm(server, max_gap_s=3600))
    hours = (bench.clock.now() - NOW) / 3600
    assert sum(bench.usd().values()) == pytest.approx(2 * hours * H100_USD)
    assert sum(record.gpu_seconds for record in bench.unique()) == pytest.approx(2 * hours * 3600)
    assert len(bench.log.of(CURSORS)) > 5


async def test_a_scrape_that_is_repeated_bills_nothing_twice(bench: Bench) -> None:
    exporter = DcgmExporter("n1", [FakeGpu(pods=[WEB])])
    async with TestServer(exporter.app()) as server:
        connector = bench.dcgm(server)
        first = await connector.read(None)
        assert (first.records, first.more) == ((), False)
        await bench.clock.advance(30)
        held = await connector.read(first.cursor)
        assert (held.records, held.more) == ((), True)
        exporter.gpus[0].pods = [BATCH]
        await bench.clock.advance(30)
        # What was scraped is on the cursor: reading it needs no exporter and always gives the same.
        given, again = await bench.dcgm(server).read(held.cursor), await connector.read(held.cursor)
        assert given == again
        assert [record.tags["team"] for record in given.records] == ["shop"]
        assert sum(record.effective_cost for record in given.records) == pytest.approx(H100_USD * 30 / 3600)


async def test_a_gap_is_charged_up_to_its_limit(bench: Bench) -> None:
    async with TestServer(DcgmExporter("n1", [FakeGpu(pods=[WEB])]).app()) as server:
        connector = bench.dcgm(server, max_gap_s=120)
        await bench.catch_up(connector)
        await bench.clock.advance(7200)
        await bench.catch_up(connector)
    assert sum(bench.usd().values()) == pytest.approx(H100_USD * 120 / 3600)
    assert min(record.charge_period_start for record in bench.unique()) == NOW + 7200 - 60


async def test_one_exporter_down_does_not_stop_the_others_and_is_charged_when_back(bench: Bench) -> None:
    exporters = [DcgmExporter(f"n{n}", [FakeGpu(0, f"g{n}", pods=[WEB])]) for n in range(2)]
    async with TestServer(exporters[0].app()) as up, TestServer(exporters[1].app()) as down:
        connector = bench.dcgm(up, down)
        await bench.catch_up(connector)
        exporters[1].faults.next.append("500")
        await bench.clock.advance(30)
        await bench.catch_up(connector)
        assert bench.usd("node") == {"n0": pytest.approx(H100_USD * 30 / 3600)}
        await bench.clock.advance(30)
        await bench.catch_up(connector)
    assert bench.usd("node") == {node: pytest.approx(H100_USD * 60 / 3600) for node in ("n0", "n1")}


async def test_all_exporters_down_is_told_with_the_longest_wait(bench: Bench) -> None:
    exporters = [DcgmExporter(f"n{n}", [FakeGpu()]) for n in range(2)]
    async with TestServer(exporters[0].app()) as one, TestServer(exporters[1].app()) as two:
        exporters[0].faults.next.append("500")
        exporters[1].faults.next.append("429")
        with pytest.raises(TransientError, match="429") as failed:
            await bench.dcgm(one, two).read(None)
    assert failed.value.retry_after == 7


@pytest.mark.parametrize("fault", ["slow", "reset", "500"])
async def test_a_faulty_exporter_is_tried_again(bench: Bench, fault: str) -> None:
    exporter = DcgmExporter("n1", [FakeGpu()])
    # The HTTP client itself tries a lost connection once more.
    exporter.faults.next.extend([fault] * (2 if fault == "reset" else 1))
    async with TestServer(exporter.app()) as server:
        with pytest.raises(TransientError):
            await bench.dcgm(server).read(None)
        assert (await bench.dcgm(server).read(None)).cursor


async def test_a_cut_text_is_no_scrape_and_a_page_is_no_metrics(bench: Bench) -> None:
    exporter = DcgmExporter("n1", [FakeGpu(0, "a", pods=[WEB]), FakeGpu(1, "b", pods=[WEB])])
    async with TestServer(exporter.app()) as server:
        connector = bench.dcgm(server)
        await bench.catch_up(connector)
        await bench.clock.advance(30)
        exporter.cut = 25
        with pytest.raises(TransientError, match="cut off"):
            await bench.catch_up(connector)
        exporter.cut, exporter.content_type = 0, "text/html"
        with pytest.raises(PermanentError, match="text/html"):
            await bench.catch_up(connector)
        exporter.content_type = "text/plain"
        await bench.clock.advance(30)
        await bench.catch_up(connector)
    assert sum(bench.usd().values()) == pytest.approx(2 * H100_USD * 60 / 3600)


async def test_a_clock_that_goes_back_charges_nothing_twice(bench: Bench) -> None:
    async with TestServer(DcgmExporter("n1", [FakeGpu(pods=[WEB])]).app()) as server:
        await bench.catch_up(bench.dcgm(server))
        await bench.clock.advance(60)
        await bench.catch_up(bench.dcgm(server))
        behind, bench.clock = bench.clock, ManualClock(NOW + 20)
        bench.context = bench.context._replace(clock=bench.clock)
        await bench.catch_up(bench.dcgm(server))
        bench.clock = behind
        bench.context = bench.context._replace(clock=behind)
        await bench.clock.advance(60)
        await bench.catch_up(bench.dcgm(server))
    assert sum(bench.usd().values()) == pytest.approx(H100_USD * 120 / 3600)


async def test_exporters_may_ask_for_a_token(bench: Bench) -> None:
    exporter = DcgmExporter("n1", [FakeGpu()])
    async with TestServer(exporter.app()) as server:
        await bench.dcgm(server, token="scrape-me").read(None)
    assert exporter.tokens == ["Bearer scrape-me"]


# --- the Kubernetes API ---------------------------------------------------------------------------------------------


def cluster(server: KubernetesServer) -> None:
    server.lists["pods"] = [
        pod(
            "shop",
            WEB[1],
            node="gke-a-1",
            owner=("ReplicaSet", "web-6d4cf56db6"),
            **{"pod-template-hash": "6d4cf56db6"},
        ),
        pod("ml", BATCH[1], node="gke-a-1", owner=("Job", "train"), team="research"),
        pod("gpu-operator", "dcgm-exporter-cmhft", node="gke-a-1", owner=("DaemonSet", "dcgm-exporter")),
    ]
    server.lists["namespaces"] = [named("shop", team="storefront"), named("ml"), named("gpu-operator")]
    server.lists["nodes"] = [
        named(
            "gke-a-1",
            **{"node.kubernetes.io/instance-type": "p5.48xlarge", "cloud.google.com/gke-nodepool": "train-pool"},
        )
    ]


async def test_the_api_names_teams_workloads_and_the_node(bench: Bench, tmp_path: Path) -> None:
    exporter = DcgmExporter("dcgm-exporter-cmhft", [FakeGpu(0, "a", pods=[WEB]), FakeGpu(1, "b", pods=[BATCH])])
    api = KubernetesServer()
    cluster(api)
    async with TestServer(exporter.app()) as metrics, TestServer(api.app()) as kubernetes:
        where = {"url": str(kubernetes.make_url("/")).rstrip("/"), "account": str(api.account(tmp_path))}
        connector = bench.dcgm(metrics, kubernetes=where)
        await bench.catch_up(connector)
        await bench.clock.advance(60)
        await bench.catch_up(connector)
        assert isinstance(connector, Checkable)
        assert all(check.ok for check in await connector.check())
        api.forbidden = {"nodes"}
        refused = [check for check in await connector.check() if not check.ok]
        assert [check.permission for check in refused] == ["list nodes (cluster role)"]
        # Without the API what was known holds, and nothing stops.
        await bench.clock.advance(90)
        await bench.catch_up(connector)
    tags = {record.tags["team"]: record.tags for record in bench.unique()}
    assert set(tags) == {"storefront", "research", "__idle__"}
    assert {each["node"] for each in tags.values()} == {"gke-a-1"}
    assert {each["group"] for each in tags.values()} == {"train-pool"}
    assert tags["storefront"]["owner"] == "shop/web"
    assert tags["research"]["job"] == "train"
    assert sum(bench.usd().values()) == pytest.approx(55.04 * 150 / 3600)
