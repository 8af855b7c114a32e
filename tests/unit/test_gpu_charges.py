"""GPUs to dollars by owner: the shares of a node always add up to its price."""

from __future__ import annotations

from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.connectors.decode import Letters
from curb.connectors.gpus.charges import GpuCharges
from curb.connectors.gpus.dcgm import Config
from curb.connectors.gpus.dcgm_text import parse
from curb.connectors.gpus.kubernetes_api import NO_CLUSTER, Cluster, Pod
from curb.connectors.gpus.owners import IDLE, OwnerSettings, owner_tags
from curb.connectors.gpus.samples import Holder, Sample, gather, mig_share, shares_of, value_of
from curb.detector.state.scopes import DEFAULT_SCOPES
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.records.spend import UNTAGGED, GpuRecord
from tests.fakes.dcgm import BLANK, DcgmExporter, FakeGpu, line

NOW = 1_750_000_000.0
HOUR = 3600.0
P5_USD = 55.04
H100_USD = 88.490000119 / 8


def charges(**settings: Any) -> GpuCharges:
    config = Config.model_validate(
        {"kind": "dcgm", "name": "gpus", "targets": [{"url": "http://n1:9400/metrics"}], **settings}
    )
    return GpuCharges(config, "gpus", cast(aiohttp.ClientSession, None), ManualClock(NOW))


def samples(text: str) -> list[Sample]:
    return list(parse(text.encode(), letters=Letters("gpus", NOW), location="here", at=NOW))


def charged(gpus: list[FakeGpu], *, node: str = "n1", seconds: float = 60.0, **settings: Any) -> list[GpuRecord]:
    text = DcgmExporter(node, gpus).text()
    return charges(**settings).records(samples(text), NOW - seconds, NOW, received_at=NOW, skip=set())


def by(records: list[GpuRecord], tag: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for record in records:
        value = record.tags.get(tag, UNTAGGED)
        sums[value] = sums.get(value, 0.0) + record.effective_cost
    return sums


P5 = [{"match": "n*", "instance": "p5.48xlarge", "group": "train"}]
WEB, BATCH = ("shop", "web-6d4cf56db6-7kx2p"), ("ml", "train-0")


def test_a_held_gpu_and_an_idle_one_share_the_price_of_the_node() -> None:
    records = charged([FakeGpu(0, "a", pods=[WEB]), FakeGpu(1, "b", util=0, memory_mib=0)], nodes=P5, seconds=HOUR)
    teams = by(records, "team")
    assert teams["shop"] == pytest.approx(P5_USD / 8)
    # Six of the eight GPUs of the instance are not shown by the exporter, and one is held by nobody.
    assert teams[IDLE] == pytest.approx(P5_USD * 7 / 8)
    assert sum(record.gpu_seconds for record in records) == pytest.approx(8 * HOUR)
    assert {record.price_book for record in records} == {charges(nodes=P5)._prices.hash}


def test_records_fit_the_default_scopes() -> None:
    record = charged([FakeGpu(pods=[WEB])], nodes=[{"match": "n1", "group": "train"}])[0]
    series = {scope.name: dict(scope.series(record.tags)) for scope in DEFAULT_SCOPES if "gpu" in scope.sources}
    assert series["node"] == {"team": "shop", "group": "train", "node": "n1"}
    assert series["group"] == {"team": "shop", "group": "train"}
    assert series["team"] == {"team": "shop"}
    assert (record.gpu_utilization, record.memory_used, record.power_usage) == (80, 40, 500)


def test_pods_that_share_a_gpu_are_counted_once() -> None:
    records = charged([FakeGpu(memory_mib=20480, power_w=300, pods=[WEB, BATCH])], seconds=60)
    assert by(records, "team") == {"ml": pytest.approx(H100_USD / 120), "shop": pytest.approx(H100_USD / 120)}
    assert sum(record.memory_used or 0 for record in records) == 20
    assert sum(record.power_usage or 0 for record in records) == 300
    # A percentage is no amount: both see how busy the GPU is.
    assert [record.gpu_utilization for record in records] == [80, 80]


def test_mig_instances_cost_their_slices_and_the_rest_is_idle() -> None:
    gpu = FakeGpu(
        model="NVIDIA A100-SXM4-80GB",
        power_w=350,
        mig=[("1", "3g.40gb", 0.5, WEB), ("2", "1g.10gb", 0.0, None), ("3", "2g.20gb", 1.0, BATCH)],
    )
    records = charged([gpu], prices=[{"gpu": "A100-80GB", "usd_per_hour": 700}], seconds=36)
    # 3g.40gb has 3 of 7 compute slices and half of the memory, 1g.10gb a seventh of the compute.
    assert by(records, "team") == {"shop": pytest.approx(3.5), "ml": pytest.approx(2), IDLE: pytest.approx(1.5)}
    busy = {record.tags["team"]: record.gpu_utilization for record in records if record.tags["team"] != IDLE}
    assert busy == {"shop": 50, "ml": 100}
    assert sum(record.power_usage or 0 for record in records) == pytest.approx(350 * 13 / 14)


@pytest.mark.parametrize(
    ("model", "profile", "share"),
    [
        ("NVIDIA A30", "1g.6gb", 1 / 4),
        ("NVIDIA A30", "1g.6gb+me", 1 / 4),
        ("NVIDIA A30", "2g.12gb+me", 1 / 2),
        ("NVIDIA A30", "4g.24gb", 1.0),
        ("NVIDIA A100-SXM4-40GB", "1g.5gb", 1 / 7),
        ("NVIDIA A100-SXM4-40GB", "1g.10gb", 1 / 4),
        ("NVIDIA A100-SXM4-40GB", "3g.20gb", 1 / 2),
        ("NVIDIA A100-SXM4-40GB", "4g.20gb", 4 / 7),
        ("NVIDIA A100 80GB PCIe", "1g.10gb", 1 / 7),
        ("NVIDIA A100-SXM4-80GB MIG 1g.20gb", "1g.20gb", 1 / 4),
        ("NVIDIA A100-SXM4-80GB", "MIG 2g.20gb", 2 / 7),
        ("NVIDIA H100 80GB HBM3", "1g.10gb+me", 1 / 7),
        ("NVIDIA H100 80GB HBM3", "nvidia.com/mig-1g.20gb", 1 / 4),
        ("NVIDIA H100 80GB HBM3", "mig-1g.10gb.me", 1 / 7),
        ("NVIDIA H100 80GB HBM3", "1c.3g.40gb", 1 / 2),
        ("NVIDIA H100 NVL", "1g.24gb", 1 / 4),
        ("NVIDIA H100 NVL", "1g.12gb+me", 1 / 7),
        ("NVIDIA GH200 480GB", "1g.24gb", 1 / 4),
        ("NVIDIA H200", "1g.18gb", 1 / 7),
        ("NVIDIA H200", "1g.35gb", 1 / 4),
        ("NVIDIA H200", "3g.71gb", 1 / 2),
        ("NVIDIA H200 NVL", "7g.141gb", 1.0),
        ("NVIDIA B200", "1g.23gb", 1 / 7),
        ("NVIDIA B200", "1g.45gb", 1 / 4),
        ("NVIDIA B200", "4g.90gb", 4 / 7),
        ("NVIDIA GB200", "1g.47gb", 1 / 4),
        ("NVIDIA B300 SXM6 AC", "1g.67gb", 1 / 4),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "1g.24gb+gfx", 1 / 4),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "2g.48gb-me", 1 / 2),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "4g.96gb+gfx", 1.0),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "1g.24gb+me.all", 1 / 4),
        ("NVIDIA RTX PRO 5000 Blackwell", "2g.24gb", 1 / 2),
        ("NVIDIA GH200 144G HBM3e", "1g.18gb", 1 / 7),
        ("NVIDIA GH200 144G HBM3e", "3g.72gb", 1 / 2),
        ("NVIDIA H20", "1g.24gb", 1 / 4),
        ("NVIDIA A800-SXM4-80GB", "1g.20gb", 1 / 4),
        ("NVIDIA A100-SXM-64GB", "3g.32gb", 1 / 2),
        ("NVIDIA Z900 192GB", "1g.48gb", 1 / 4),
        ("NVIDIA Z900", "3g.96gb", 1 / 2),
        ("NVIDIA Z900", "1g.96gb", 1 / 7),
        ("", "odd", 1 / 7),
    ],
)
def test_an_instance_costs_the_larger_of_its_compute_and_its_memory(model: str, profile: str, share: float) -> None:
    assert mig_share(profile, model) == pytest.approx(share)


def test_an_a30_has_four_slices() -> None:
    gpu = FakeGpu(model="NVIDIA A30", mig=[("3", "1g.6gb", 0.5, WEB)])
    records = charged([gpu], prices=[{"gpu": "A30", "usd_per_hour": 4}], seconds=HOUR)
    assert by(records, "team") == {"shop": pytest.approx(1), IDLE: pytest.approx(3)}


def test_a_busy_gpu_whose_pod_is_not_named_is_untagged_not_idle() -> None:
    records = charged([FakeGpu(0, "a", util=70), FakeGpu(1, "b", util=0, pods=[WEB])])
    assert set(by(records, "team")) == {UNTAGGED, "shop"}


def test_without_any_pod_label_gpus_belong_to_the_node() -> None:
    text = line("DCGM_FI_DEV_GPU_UTIL", 0, gpu="0", UUID="a", modelName="NVIDIA L4", Hostname="bare-1")
    made = charges(nodes=[{"match": "bare-*", "tags": {"team": "vision"}}])
    record = made.records(samples(text), NOW - 60, NOW, received_at=NOW, skip=set())[0]
    assert (record.tags["team"], record.tags["node"]) == ("vision", "bare-1")
    idle = charges(unowned="idle").records(samples(text), NOW - 60, NOW, received_at=NOW, skip=set())[0]
    assert idle.tags["team"] == IDLE


def test_a_batch_job_is_an_owner() -> None:
    text = line("DCGM_FI_DEV_GPU_UTIL", 50, gpu="0", UUID="a", modelName="NVIDIA L4", Hostname="n", hpc_job="4711")
    record = charges().records(samples(text), NOW - 60, NOW, received_at=NOW, skip=set())[0]
    assert (record.tags["owner"], record.tags["job"]) == ("4711", "4711")


def test_an_unknown_gpu_is_charged_by_the_fallback_and_told_by_name() -> None:
    records = charged([FakeGpu(model="NVIDIA X9000", pods=[WEB])], seconds=HOUR)
    assert {(record.cost_source, record.request_model) for record in records} == {("fallback", "NVIDIA X9000")}
    assert sum(record.effective_cost for record in records) == pytest.approx(6.99)


def test_more_gpus_than_the_instance_has_cost_no_more_than_it() -> None:
    records = charged([FakeGpu(n, f"g{n}", pods=[WEB]) for n in range(10)], nodes=P5, seconds=HOUR)
    assert sum(record.effective_cost for record in records) == pytest.approx(P5_USD)


def test_a_gpu_two_exporters_tell_of_is_charged_once() -> None:
    made, seen = charges(), set[str]()
    text = samples(DcgmExporter("n1", [FakeGpu(pods=[WEB])]).text())
    assert len(made.records(text, NOW - 60, NOW, received_at=NOW, skip=seen)) == 1
    assert made.records(text, NOW - 60, NOW, received_at=NOW, skip=seen) == []


def test_long_intervals_are_cut_into_minutes() -> None:
    records = charged([FakeGpu(pods=[WEB])], seconds=300)
    assert sorted(record.charge_period_start for record in records) == [NOW - 240 + 60 * n for n in range(5)]
    assert len({record.id for record in records}) == 5


_pods = st.lists(st.sampled_from([WEB, BATCH, ("ml", "eval-1"), ("x", "y")]), max_size=4, unique=True)
_profiles = st.lists(
    st.tuples(st.sampled_from(["1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb", "odd"]), st.booleans()),
    max_size=8,
)


@given(
    gpus=st.lists(st.tuples(_pods, _profiles, st.sampled_from([0, 3, 90, BLANK])), min_size=1, max_size=9),
    seconds=st.floats(0.5, 3600),
    instance=st.sampled_from(["", "p5.48xlarge", "p4d.24xlarge"]),
)
def test_shares_and_idle_add_up_to_the_price_of_the_node(
    gpus: list[tuple[list[tuple[str, str]], list[tuple[str, bool]], float | str]], seconds: float, instance: str
) -> None:
    node = [
        FakeGpu(
            number,
            f"g{number}",
            util=util,
            pods=pods,
            mig=[(str(at), profile, 0.5, WEB if held else None) for at, (profile, held) in enumerate(profiles)],
        )
        for number, (pods, profiles, util) in enumerate(gpus)
    ]
    records = charged(node, seconds=seconds, nodes=[{"match": "*", "instance": instance}])
    prices = {"": len(gpus) * H100_USD, "p5.48xlarge": 55.04, "p4d.24xlarge": 21.957642}
    assert sum(record.effective_cost for record in records) == pytest.approx(prices[instance] * seconds / 3600)
    assert len({record.id for record in records}) == len(records)
    assert all(record.effective_cost > 0 for record in records)
    for gpu in gather(samples(DcgmExporter("n1", node).text())).values():
        assert sum(share.fraction for share in shares_of(gpu)) == pytest.approx(1.0)


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["hostname", "Hostname", "node", "kubernetes_node"])
def test_exporter_versions_name_the_node_differently(spelling: str) -> None:
    text = line("DCGM_FI_DEV_GPU_UTIL", 1, gpu="0", uuid="u", **{spelling: "n7"})
    assert [gpu.node for gpu in gather(samples(text)).values()] == ["n7"]


def test_without_a_uuid_node_and_index_tell_gpus_apart() -> None:
    text = "".join(line("DCGM_FI_DEV_GPU_UTIL", 1, gpu="0", Hostname=node) for node in ("a", "b"))
    text += line("DCGM_FI_DEV_GPU_UTIL", 1, Hostname="c")
    assert sorted(gather(samples(text))) == ["a/0", "b/0"]


def test_pods_under_their_older_names() -> None:
    text = line("DCGM_FI_DEV_GPU_UTIL", 1, gpu="0", UUID="u", pod_name="web-1", pod_namespace="shop")
    (gpu,) = gather(samples(text)).values()
    assert list(gpu.parts[""].holders) == [Holder("shop", "web-1")]


def test_what_prometheus_renamed_is_the_exporter_not_the_owner() -> None:
    held = {"gpu": "0", "UUID": "u", "pod": "dcgm-x", "namespace": "gpu-operator"}
    text = line("DCGM_FI_DEV_GPU_UTIL", 1, **held, exported_pod="web-1", exported_namespace="shop")
    text += line("DCGM_FI_DEV_GPU_UTIL", 0, **(held | {"UUID": "v"}))
    found = gather(samples(text))
    assert list(found["u"].parts[""].holders) == [Holder("shop", "web-1")]
    assert not found["v"].parts[""].holders


@pytest.mark.parametrize(
    "labels",
    [
        {"pod": "nvidia-dcgm-exporter-abcde"},
        {"pod": "gpu-operator-dcgm-x7k2p"},
        {"pod": "prod-gpu-metrics-exporter-x7k2p"},
        {"pod": "watcher-x7k2p", "container": "exporter"},
        {"pod": "watcher-x7k2p", "container": "nvidia-dcgm-exporter"},
        {"pod": "watcher-x7k2p", "Hostname": "watcher-x7k2p"},
    ],
)
def test_an_exporter_under_any_name_holds_no_gpu(labels: dict[str, str]) -> None:
    held = {"gpu": "0", "UUID": "u", "namespace": "monitoring", **labels}
    (gpu,) = gather(samples(line("DCGM_FI_DEV_GPU_UTIL", 0, **held))).values()
    assert not gpu.parts[""].holders


def test_a_job_that_exports_models_holds_its_gpu() -> None:
    held = {"gpu": "0", "UUID": "u", "namespace": "ml", "pod": "model-exporter-x7k2p", "container": "main"}
    (gpu,) = gather(samples(line("DCGM_FI_DEV_GPU_UTIL", 0, **held))).values()
    assert list(gpu.parts[""].holders) == [Holder("ml", "model-exporter-x7k2p")]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        BLANK,
        "9223372036854775792",
        "9.223372036854776e+18",
        "2147483632",
        "140737488355328",
        "NaN",
        "+Inf",
        "-1",
        "101e3",
    ],
)
def test_blank_and_impossible_values_are_no_values_but_the_gpu_is_paid_for(value: str) -> None:
    (record,) = charged([FakeGpu(util=value, pods=[WEB])], seconds=36)
    assert record.gpu_utilization is None
    assert record.effective_cost == pytest.approx(H100_USD / 100)
    assert value_of("DCGM_FI_DEV_GPU_UTIL", float(value)) is None


def test_a_bad_line_costs_one_line() -> None:
    good = line("DCGM_FI_DEV_GPU_UTIL", 5, gpu="0", UUID="u")
    bad = ['DCGM_FI_DEV_GPU_UTIL{gpu="0",UU', 'DCGM_FI_DEV_GPU_UTIL{gpu="0"} five']
    letters = Letters("gpus", NOW)
    text = (bad[0] + "\n" + good + bad[1] + "\nsomething_else{ 7\n").encode() + b'DCGM_FI_DEV_FB_USED{gpu="\xff"} 1\n'
    assert len(parse(text, letters=letters, location="here", at=NOW)) == 1
    assert len(letters.messages()) == 3


@pytest.mark.parametrize(("ahead_s", "kept"), [(0, 1), (-100, 1), (100, 1), (7200, 0), (-7200, 0)])
def test_samples_of_a_skewed_clock_do_not_count(ahead_s: float, kept: int) -> None:
    ours = line("DCGM_FI_DEV_FB_USED", 5, gpu="0", UUID="u")
    theirs = f'DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="u"}} 5 {round(1000 * (NOW + ahead_s))}\n'
    letters = Letters("gpus", NOW)
    found = parse((ours + theirs).encode(), letters=letters, location="here", at=NOW)
    assert len(found) == 1 + kept
    assert len(letters.messages()) == 1 - kept


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"up 1\n", b'DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="u"} 4'])
def test_a_text_without_metrics_or_end_is_asked_for_again(text: bytes) -> None:
    with pytest.raises(TransientError):
        parse(text, letters=Letters("gpus", NOW), location="here", at=NOW)


def test_configuration_names_each_exporter_once() -> None:
    target = {"url": "http://n1:9400/metrics"}
    with pytest.raises(ValueError, match="twice"):
        Config.model_validate({"kind": "dcgm", "name": "gpus", "targets": [target, target]})
    with pytest.raises(ValueError, match="pattern"):
        Config.model_validate({"kind": "dcgm", "name": "gpus", "targets": [{"url": "http://u:secret@n1/metrics"}]})


# --- owners ---------------------------------------------------------------------------------------------------------


def owner(pod: Holder, cluster: Cluster = NO_CLUSTER, labels: dict[str, str] | None = None, **settings: Any) -> Any:
    return owner_tags(pod, labels or {}, OwnerSettings.model_validate(settings), cluster)


@pytest.mark.parametrize(
    ("pod", "workload"),
    [
        ("web-6d4cf56db6-7kx2p", "web"),
        ("train-0", "train"),
        ("nightly-28031110-x7k2p", "nightly-28031110"),
        ("plain", "plain"),
        ("two-words", "two-words"),
    ],
)
def test_the_workload_is_read_from_the_pod_name(pod: str, workload: str) -> None:
    assert owner(Holder("shop", pod))["owner"] == f"shop/{workload}"


def test_a_label_then_the_pod_then_the_namespace_names_the_team() -> None:
    holder = Holder("ns", "web-1")
    pods = {("ns", "web-1"): Pod({"team": "of-pod"}, "n1", ("", ""))}
    spaces = {"ns": {"app.kubernetes.io/team": "of-namespace"}}
    bare = {("ns", "web-1"): Pod({}, "n1", ("", ""))}
    assert owner(holder, Cluster(pods, spaces, {}), {"label_team": "of-metric"})["team"] == "of-metric"
    assert owner(holder, Cluster(pods, spaces, {}))["team"] == "of-pod"
    assert owner(holder, Cluster(bare, spaces, {}))["team"] == "of-namespace"
    assert owner(holder, team_by_namespace={"ns": "mapped"})["team"] == "mapped"
    assert owner(holder)["team"] == "ns"
    assert "team" not in owner(holder, namespace_is_team=False)


@pytest.mark.parametrize(
    ("made_by", "labels", "tags"),
    [
        (("ReplicaSet", "web-6d4cf56db6"), {"pod-template-hash": "6d4cf56db6"}, {"workload": "web"}),
        (("Job", "nightly-28999"), {}, {"workload": "nightly-28999", "job": "nightly-28999"}),
        (("RayCluster", "big"), {}, {"workload": "big"}),
    ],
)
def test_the_api_knows_what_made_a_pod(made_by: tuple[str, str], labels: dict[str, str], tags: dict[str, str]) -> None:
    found = owner(Holder("ns", "p"), Cluster({("ns", "p"): Pod(labels, "n", made_by)}, {}, {}))
    assert tags.items() <= found.items()


def test_a_node_whose_exporter_is_silent_costs_as_idle() -> None:
    made = charges()
    labels = {"node.kubernetes.io/instance-type": "p5.48xlarge", "eks.amazonaws.com/nodegroup": "train"}
    nodes = {"n1.internal": labels, "n2.internal": labels, "cpu": {"node.kubernetes.io/instance-type": "m5.large"}}
    made._api = cast(Any, Seen(Cluster({}, {}, nodes)))
    (record,) = made.silent({"n1"}, NOW - HOUR, NOW, received_at=NOW + 5)
    assert (record.tags["node"], record.tags["owner"], record.tags["group"]) == ("n2.internal", IDLE, "train")
    assert record.effective_cost == pytest.approx(P5_USD)
    assert record.gpu_seconds == 8 * HOUR
    assert len(made.silent(set(), NOW - 60, NOW, received_at=NOW)) == 2
    # Exporters that call nodes by other names say nothing of who is silent.
    assert not made.silent({"gpu-a"}, NOW - 60, NOW, received_at=NOW)


def test_a_node_that_is_always_on_costs_without_a_cluster() -> None:
    made = charges(nodes=[{"match": "bare-1", "instance": "p5.48xlarge", "always_on": True}])
    assert not made.silent({"bare-1"}, NOW - HOUR, NOW, received_at=NOW)
    (record,) = made.silent({"n1"}, NOW - HOUR, NOW, received_at=NOW)
    assert record.effective_cost == pytest.approx(P5_USD)
    with pytest.raises(ValueError, match="whole name"):
        charges(nodes=[{"match": "bare-*", "instance": "p5.48xlarge", "always_on": True}])


class Seen:
    """A cluster as it was seen."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
