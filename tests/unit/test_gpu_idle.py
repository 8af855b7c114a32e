"""From what exporters say to the alert on machines that do nothing, with the default scopes and rules."""

from __future__ import annotations

from typing import cast

import aiohttp
import msgspec

from curb.connectors.decode import Letters
from curb.connectors.gpus.charges import GpuCharges
from curb.connectors.gpus.dcgm import Config
from curb.connectors.gpus.dcgm_text import parse
from curb.connectors.intake.append import record_messages
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.stream.clock import ManualClock
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, GPU, SPEND
from curb.stream.records.spend import Alert
from tests.fakes.dcgm import DcgmExporter, FakeGpu
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_050.0
STEP_S = 60.0


def alerts_after(gpus: list[FakeGpu], hours: float) -> list[Alert]:
    """Every alert raised while a node says the same for so long."""
    settings = Config.model_validate(
        {
            "kind": "dcgm",
            "name": "gpus",
            "targets": [{"url": "http://n1:9400/metrics"}],
            "nodes": [{"match": "n1", "group": "notebooks"}],
        }
    )
    charges = GpuCharges(settings, "gpus", cast(aiohttp.ClientSession, None), ManualClock(NOW))
    text = DcgmExporter("n1", gpus).text().encode()
    rollup = Rollup(DetectorSettings(), GPU, 1)
    shard, log, alerts = Shard(DetectorSettings()), MemoryLog(partitions=1), list[Alert]()
    for number in range(round(hours * 3600 / STEP_S)):
        end = NOW + STEP_S * (number + 1)
        samples = parse(text, letters=Letters("gpus", end), location="here", at=end)
        records = charges.records(samples, end - STEP_S, end, received_at=end, skip=set())
        out: list[Message] = []
        for message in record_messages(records, source="gpus", log=log):
            out += rollup.process(message)
        out += rollup.flush(end)
        for message in out:
            if message.topic == SPEND:
                alerts += [
                    msgspec.json.decode(each.value, type=Alert)
                    for each in shard.process(message)
                    if each.topic == ALERTS
                ]
    return alerts


def test_a_notebook_that_holds_a_gpu_and_does_nothing_is_told_to_its_team() -> None:
    busy = FakeGpu(0, "a", pods=[("ml", "train-0")])
    alerts = alerts_after([busy, FakeGpu(1, "b", util=0, memory_mib=70000, pods=[("research", "notebook-0")])], 14)
    idle = {(each.kind, each.tags["team"], each.tags["node"]) for each in alerts if each.kind == "idle"}
    assert idle == {("idle", "research", "n1")}


def test_a_gpu_nobody_holds_is_told_to_whoever_owns_the_pool() -> None:
    alerts = alerts_after([FakeGpu(0, "a", util=0, memory_mib=0)], 14)
    assert {(each.tags["team"], each.tags["group"]) for each in alerts if each.kind == "idle"} == {
        ("__idle__", "notebooks")
    }
