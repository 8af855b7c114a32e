"""What each action on running work leaves alone, and in which order it does things, on its fake."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from msgspec import structs

from curb.actions.action import DriftError
from curb.actions.kinds import ACTIONS
from curb.actions.workloads.protocol import WorkloadAction
from curb.stream.errors import PermanentError, TransientError
from curb.testing.actions import planned
from tests.fakes.alerts import an_alert
from tests.fakes.aws_batch import BatchBench
from tests.fakes.aws_lambda import LambdaBench
from tests.fakes.ec2 import PAUSE, Ec2Bench, group, instance
from tests.fakes.kubernetes_objects import KubernetesBench, obj
from tests.fakes.sagemaker import SagemakerBench, arn, endpoint, thing

SEARCH = an_alert(tags={"team": "search"})


# --- kubernetes ---------------------------------------------------------------------------------------------------


async def test_somebody_who_is_faster_wins(open_action: Any) -> None:
    """The version that was read goes with the patch: the API server refuses it when it is not the newest."""
    bench = KubernetesBench()
    action: WorkloadAction = await open_action(bench)
    (plan, _) = await action.plan(*bench.cases[0])
    seen = await action.read(plan)
    assert seen is not None
    bench.fake.set(("deployments", "ml", "embedder"), replicas=9)
    with pytest.raises(TransientError, match="409"):
        await action.write(plan, plan.after, seen)
    assert bench.fake.objects["deployments", "ml", "embedder"]["spec"]["replicas"] == 9


async def test_what_curb_sends_is_one_field_and_nothing_else(open_action: Any) -> None:
    bench = KubernetesBench()
    action = await open_action(bench)
    for plan in await planned(bench, action):
        await action.apply(plan)
    sent = dict(bench.fake.patches)
    scale = "/apis/apps/v1/namespaces/ml/deployments/embedder/scale"
    same = {"resourceVersion": "1", "uid": "uid-of-Deployment-embedder"}
    assert sent[scale] == {"metadata": same, "spec": {"replicas": 1}}
    keda = "/apis/keda.sh/v1alpha1/namespaces/ml/"
    annotations = {path.removeprefix(keda): p["metadata"]["annotations"] for path, p in sent.items() if keda in path}
    for each in annotations.values():
        assert each.pop("curb.dev/held-by") == "curb/work"
    assert annotations == {
        "scaledobjects/consumer": {"autoscaling.keda.sh/paused-replicas": "0"},
        "scaledjobs/batches": {"autoscaling.keda.sh/paused": "true"},
    }
    assert all(len(patch["spec"]) == 1 for path, patch in sent.items() if keda not in path)
    assert "hunter2" not in str(sent)


async def test_what_somebody_paused_in_keda_is_left_paused(open_action: Any) -> None:
    bench = KubernetesBench()
    action = await open_action(bench, objects=["scaledobjects", "scaledjobs"])
    scaled, jobs = (
        bench.fake.objects[key, "ml", name] for key, name in (("scaledobjects", "consumer"), ("scaledjobs", "batches"))
    )
    scaled["metadata"]["annotations"] = {"autoscaling.keda.sh/paused": "true"}
    jobs["metadata"]["annotations"] = {"autoscaling.keda.sh/paused": "true"}
    assert await action.plan(bench.cases[1][0], PAUSE) == []
    scaled["metadata"]["annotations"] = {}
    (plan,) = await action.plan(bench.cases[1][0], PAUSE)
    assert plan.summary == "ScaledObject ml/consumer: paused-replicas None → 0"
    await action.apply(plan)
    scaled["metadata"]["annotations"]["autoscaling.keda.sh/paused-replicas"] = "3"
    with pytest.raises(DriftError) as caught:
        await action.undo(plan, None)
    assert caught.value.found == {"paused-replicas": "3"}
    assert scaled["metadata"]["annotations"] == {"autoscaling.keda.sh/paused-replicas": "3"}


async def test_namespaces_of_curb_and_of_the_system_are_never_touched(open_action: Any) -> None:
    bench = KubernetesBench()
    bench.fake.objects["jobs", "curb", "own"] = obj("Job", "own", {"suspend": False}, metadata={"namespace": "curb"})
    action = await open_action(bench, namespaces=["curb"], objects=["jobs"])
    with pytest.raises(PermanentError, match="nothing carries"):
        await action.plan(SEARCH, PAUSE)
    with pytest.raises(ValueError, match="kube-system"):
        ACTIONS.config("kubernetes").model_validate(bench.config("http://x") | {"namespaces": ["ml", "kube-system"]})
    with pytest.raises(ValueError, match="labels or namespace_tag"):
        ACTIONS.config("kubernetes").model_validate(bench.config("http://x") | {"labels": {}})


async def test_a_tag_may_name_the_namespace(open_action: Any) -> None:
    bench = KubernetesBench()
    action = await open_action(bench, namespace_tag="ns", labels={}, objects=["jobs"])
    assert [plan.target.split("/")[-1] for plan in await action.plan(an_alert(tags={"ns": "ml"}), PAUSE)] == ["train-7"]
    assert await action.plan(an_alert(tags={"team": "search"}), PAUSE) == ()
    with pytest.raises(PermanentError, match="nothing carries"):
        await action.plan(an_alert(tags={"ns": "payments"}), PAUSE)


async def test_what_belongs_to_another_object_is_left_to_it(open_action: Any) -> None:
    bench = KubernetesBench()
    owned = {"ownerReferences": [{"kind": "Prometheus", "name": "main", "controller": True}]}
    of_cron = {"ownerReferences": [{"kind": "CronJob", "name": "nightly", "controller": True}]}
    kueue = {"team": "search", "curb.dev/criticality": "non-critical", "kueue.x-k8s.io/queue-name": "research"}
    web = {"scaleTargetRef": {"kind": "Deployment", "name": "embedder"}, "maxReplicas": 3, "minReplicas": 3}
    erases = {"replicas": 3, "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}}
    keda = {"ownerReferences": [{"kind": "ScaledObject", "name": "q", "controller": True}]}
    for_keda = {"scaleTargetRef": {"kind": "Deployment", "name": "consumer"}, "maxReplicas": 9}
    for resource, item in (
        ("statefulsets", obj("StatefulSet", "cache", erases)),
        ("deployments", obj("Deployment", "consumer", {"replicas": 3})),
        ("horizontalpodautoscalers", obj("HorizontalPodAutoscaler", "keda-hpa", for_keda, metadata=keda)),
        ("jobs", obj("Job", "queued", {}, kueue)),
        ("jobs", obj("Job", "nightly-1", {}, metadata=of_cron)),
        ("jobs", obj("Job", "ended", {}, status={"conditions": [{"type": "Complete", "status": "True"}]})),
        ("statefulsets", obj("StatefulSet", "metrics", {"replicas": 3}, metadata=owned)),
        ("horizontalpodautoscalers", obj("HorizontalPodAutoscaler", "of-embedder", web)),
    ):
        bench.fake.objects[resource, "ml", item["metadata"]["name"]] = item
    action = await open_action(bench)
    pauses = await action.plan(SEARCH, PAUSE)
    assert [plan.target.split("/", 2)[2] for plan in pauses] == ["ml/deployments/embedder", "ml/jobs/nightly-1"]
    assert "Job ml/queued (Kueue starts and stops it: use its Workload)" in pauses[0].warning
    assert "StatefulSet ml/metrics (Prometheus main decides on it)" in pauses[0].warning
    assert "StatefulSet ml/cache (scaling it down deletes its volumes)" in pauses[0].warning
    assert "Deployment ml/consumer (HorizontalPodAutoscaler keda-hpa decides on its replicas)" in pauses[0].warning
    (shave,) = await action.plan(*bench.cases[0])
    assert shave.target.endswith("horizontalpodautoscalers/web")
    assert "HorizontalPodAutoscaler of-embedder decides on its replicas" in shave.warning


async def test_shaving_leaves_what_the_object_asks_for(open_action: Any) -> None:
    bench = KubernetesBench()
    bench.fake.objects["deployments", "ml", "embedder"]["metadata"]["annotations"] = {"curb.dev/min-replicas": "4"}
    action = await open_action(bench, min_replicas=2)
    deployment, autoscaler = await action.plan(*bench.cases[0])
    assert (deployment.before, deployment.after) == ({"replicas": 8}, {"replicas": 4})
    assert (autoscaler.before, autoscaler.after) == ({"maxReplicas": 40}, {"maxReplicas": 3})  # its minReplicas


async def test_without_a_token_or_a_right_nothing_is_retried_for_ever(open_action: Any) -> None:
    bench = KubernetesBench()
    bench.fake.allowed = set()
    with pytest.raises(PermanentError, match="403"):
        await (await open_action(bench)).plan(*bench.cases[0])
    where = bench.config("http://127.0.0.1:1")["cluster"] | {"account": "/nowhere"}
    with pytest.raises(PermanentError, match="no service account token"):
        await (await open_action(bench, cluster=where)).plan(*bench.cases[0])


async def test_an_object_that_is_held_says_by_whom_why_and_until_when(open_action: Any) -> None:
    bench = KubernetesBench()
    action = await open_action(bench, objects=["jobs"])
    (plan,) = await action.plan(bench.cases[1][0], PAUSE)
    plan = structs.replace(plan, note="alert a1, until 2025-06-15 17:00 UTC")
    await action.apply(plan)
    meta = bench.fake.objects["jobs", "ml", "train-7"]["metadata"]
    assert meta["annotations"] == {"curb.dev/held-by": "curb/work alert a1, until 2025-06-15 17:00 UTC"}
    await action.undo(plan, None)
    assert meta["annotations"] == {}
    held, back = bench.fake.events
    assert (held["reason"], held["type"], held["involvedObject"]["uid"]) == ("HeldByCurb", "Warning", meta["uid"])
    assert held["message"] == "suspend False → True; alert a1, until 2025-06-15 17:00 UTC"
    assert (back["reason"], back["message"]) == ("GivenBackByCurb", "suspend back to False")


@pytest.mark.parametrize(("alert", "resource", "name", "by_hand"), [(1, "jobs", "train-7", {"suspend": False}),
    (0, "horizontalpodautoscalers", "web", {"maxReplicas": 33})])  # fmt: skip
async def test_what_somebody_else_has_changed_no_longer_says_that_curb_holds_it(
    open_action: Any, alert: int, resource: str, name: str, by_hand: dict[str, Any]
) -> None:
    """Before, it said so for good."""
    bench = KubernetesBench()
    action = await open_action(bench, objects=[resource])
    (plan,) = await action.plan(*bench.cases[alert])
    await action.apply(plan)
    bench.fake.set((resource, "ml", name), **by_hand)
    with contextlib.suppress(DriftError):
        await action.undo(plan, None)
    found = bench.fake.objects[resource, "ml", name]
    assert found["metadata"]["annotations"] == {}
    assert found["spec"].items() >= by_hand.items()
    # What another action says there stays, and what is critical by now is not touched at all.
    for says, mark in (("curb/another-one", "non-critical"), ("curb/work", "critical")):
        found["metadata"]["annotations"] = {"curb.dev/held-by": says}
        found["metadata"]["labels"]["curb.dev/criticality"] = mark
        with contextlib.suppress(DriftError):
            await action.undo(plan, None)
        assert found["metadata"]["annotations"] == {"curb.dev/held-by": says}


async def test_a_right_to_make_events_is_not_needed(open_action: Any) -> None:
    bench = KubernetesBench()
    bench.fake.allowed -= {"create events."}
    action = await open_action(bench, objects=["jobs"])
    (plan,) = await action.plan(bench.cases[1][0], PAUSE)
    await action.apply(plan)
    assert (await action.verify(plan)).in_force
    await action.undo(plan, None)
    assert bench.fake.events == []


async def test_a_version_that_goes_away_while_curb_holds_something_is_found_out(open_action: Any) -> None:
    bench = KubernetesBench()
    world = bench.world()
    action = await open_action(bench, objects=["workloads"])
    (plan,) = await action.plan(bench.cases[1][0], PAUSE)
    await action.apply(plan)
    bench.fake.served["kueue.x-k8s.io"] = ["v1beta2"]
    assert (await action.verify(plan)).in_force
    await action.undo(plan, None)
    assert bench.world() == world
    bench.fake.served["kueue.x-k8s.io"] = ["v9"]
    with pytest.raises(
        PermanentError, match=r"serves kueue\.x-k8s\.io as v9, and Curb knows workloads in v1, v1beta2, v1beta1"
    ):
        await action.undo(plan, None)
    del bench.fake.served["kueue.x-k8s.io"]
    with pytest.raises(PermanentError, match="HTTP 404"):
        await action.undo(plan, None)


async def test_an_operator_that_is_upgraded_kind_by_kind_is_asked_for_each_in_its_version(open_action: Any) -> None:
    """Before, the newest version of the group was asked for every kind of it, and a workload was held for good."""
    bench = KubernetesBench()
    world = bench.world()
    bench.fake.served["kueue.x-k8s.io"] = ["v1beta2", "v1beta1"]
    action = await open_action(bench, objects=["workloads", "localqueues"])
    plans = await action.plan(bench.cases[1][0], PAUSE)
    for plan in plans:
        await action.apply(plan)
    bench.fake.unserved = {("workloads", "v1beta2"), ("localqueues", "v1beta1")}
    for plan in plans:
        assert (await action.verify(plan)).in_force
        await action.undo(plan, None)
    assert bench.world() == world
    assert {path.split("/")[3] for path, _ in bench.fake.patches[-2:]} == {"v1beta1", "v1beta2"}
    assert len(await action.plan(bench.cases[1][0], PAUSE)) == 2


async def test_a_kind_that_cannot_be_listed_is_named_and_the_others_are_held(open_action: Any) -> None:
    bench = KubernetesBench()
    del bench.fake.served["kueue.x-k8s.io"]
    bench.fake.allowed -= {"list statefulsets.apps"}
    action = await open_action(bench)
    plans = await action.plan(bench.cases[1][0], PAUSE)
    assert {plan.target.split("/")[3] for plan in plans} >= {"jobs", "cronjobs", "rayjobs", "pytorchjobs"}
    assert not any("statefulsets" in plan.target or "workloads" in plan.target for plan in plans)
    assert "statefulsets were not looked at: GET 127.0.0.1/apis/apps/v1" in plans[0].warning
    assert "HTTP 403: statefulsets is forbidden" in plans[0].warning
    with pytest.raises(PermanentError, match=r"nothing carries the tags of the alert; .*were not looked at"):
        await action.plan(an_alert(tags={"team": "nobody"}), PAUSE)


async def test_nothing_is_scaled_while_it_is_not_known_what_an_autoscaler_scales(open_action: Any) -> None:
    bench = KubernetesBench()
    bench.fake.allowed -= {"list horizontalpodautoscalers.autoscaling"}
    action = await open_action(bench)
    with pytest.raises(PermanentError, match="whether an autoscaler decides on it cannot be read"):
        await action.plan(*bench.cases[0])


# --- ec2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"root": "instance-store"}, "its root is a local disk"),
        ({"spot": True}, "its lifecycle is spot"),
        ({"protected": True}, "it is protected against stopping"),
        ({"on_shutdown": "terminate"}, "it terminates when it shuts down"),
        ({"type": "g6.xlarge"}, "stopping erases its local disks"),
        (
            {"tags": {"team": "search", "curb:criticality": "non-critical", "karpenter.sh/nodepool": "x"}},
            "a Kubernetes cl",
        ),
    ],
)
async def test_instances_that_would_lose_something_are_left_alone(
    changes: dict[str, Any], why: str, open_action: Any
) -> None:
    bench = Ec2Bench()
    bench.fake.instances["i-5"] = instance(**changes)
    bench.fake.groups["mixed"] = group("i-6", tags={"team": "search", "curb:criticality": "non-critical"})
    bench.fake.instances["i-6"] = instance(**changes)
    (plan,) = await (await open_action(bench)).plan(*bench.cases[0])
    assert plan.target == "ec2/instance/i-1"
    assert f"instance i-5 ({why}" in plan.warning
    assert "Auto Scaling group mixed" in plan.warning


async def test_local_disks_are_erased_only_when_asked_and_never_without_saying_so(open_action: Any) -> None:
    bench = Ec2Bench()
    bench.fake.instances = {"i-5": instance(type="g6.xlarge")}
    bench.fake.groups = {}
    action = await open_action(bench, erase_local_disks=True)
    (plan,) = await action.plan(*bench.cases[0])
    assert not plan.reversible
    assert "What is on its local disks is lost" in plan.warning
    await action.apply(plan)
    await action.undo(plan, None)
    assert bench.fake.instances["i-5"]["state"] == "running"


async def test_a_group_with_one_instance_that_is_not_marked_is_left_alone(open_action: Any) -> None:
    bench = Ec2Bench()
    bench.fake.instances["i-4"]["tags"] = {"team": "index", "curb:criticality": "critical"}
    action = await open_action(bench)
    with pytest.raises(PermanentError, match=r"Auto Scaling group workers \(i-4: not marked non-critical\)"):
        await action.plan(*bench.cases[1])


async def test_an_instance_of_a_group_is_not_stopped_alone(open_action: Any) -> None:
    bench = Ec2Bench()
    action = await open_action(bench, objects=["instances"])
    with pytest.raises(PermanentError, match=r"i-3, instance i-4 \(its Auto Scaling group would end it: use groups\)"):
        await action.plan(*bench.cases[1])


async def test_hibernates_what_is_set_up_for_it(open_action: Any) -> None:
    bench = Ec2Bench()
    action = await open_action(bench)
    (plan,) = await action.plan(*bench.cases[0])
    assert "It hibernates" in plan.warning
    await action.apply(plan)
    assert bench.fake.instances["i-1"]["hibernated"]
    plain = await open_action(bench, hibernate=False)
    await plain.undo(plan, None)
    await plain.apply(plan)
    assert bench.fake.instances["i-1"]["state"] == "stopped"
    assert not bench.fake.instances["i-1"]["hibernated"]


async def test_an_instance_that_is_still_stopping_is_started_later(open_action: Any) -> None:
    bench = Ec2Bench()
    action = await open_action(bench)
    (plan,) = await action.plan(*bench.cases[0])
    bench.fake.slow = True
    await action.apply(plan)
    assert (await action.verify(plan)).in_force
    with pytest.raises(TransientError, match="i-1 is stopping") as caught:
        await action.undo(plan, None)
    assert caught.value.retry_after == 15.0
    bench.fake.instances["i-1"]["state"] = "stopped"
    await action.undo(plan, None)
    assert bench.fake.instances["i-1"]["state"] == "pending"


async def test_a_group_goes_on_only_when_its_instances_run(open_action: Any) -> None:
    bench = Ec2Bench()
    action = await open_action(bench)
    (plan,) = await action.plan(*bench.cases[1])
    world = bench.world()
    await action.apply(plan)
    names = [action for action, _ in bench.fake.cloud.calls]
    assert names.index("autoscaling:SuspendProcesses") < names.index("ec2:StopInstances")
    bench.fake.slow = True
    for _ in range(2):
        with pytest.raises(TransientError, match="i-3, i-4 must run before the group goes on"):
            await action.undo(plan, None)
        assert "Launch" in bench.fake.groups["workers"]["suspended"]
    for id_ in ("i-3", "i-4"):
        bench.fake.instances[id_]["state"] = "running"
    await action.undo(plan, None)
    assert bench.world() == world
    assert bench.fake.groups["workers"]["suspended"] == ["AZRebalance"]  # not Curb's to resume


async def test_a_group_whose_instances_cannot_be_stopped_goes_on(open_action: Any) -> None:
    """What was done before the refusal is taken back: a group must not be left without its processes."""
    bench = Ec2Bench()
    action = await open_action(bench)
    (plan,) = await action.plan(*bench.cases[1])
    world = bench.world()
    bench.fake.cloud.policy["Statement"][1]["Action"].remove("ec2:StopInstances")
    with pytest.raises(PermanentError, match="AccessDenied"):
        await action.apply(plan)
    assert bench.world() == world


async def test_nothing_is_ever_ended_and_no_group_made_smaller(open_action: Any) -> None:
    bench = Ec2Bench()
    action = await open_action(bench)
    for plan in await planned(bench, action):
        await action.apply(plan)
        await action.undo(plan, None)
    asked = [action for action, _ in bench.fake.cloud.calls]
    assert not [each for each in asked if "Terminate" in each or "Detach" in each or "Delete" in each]
    updates = [given for name, given in bench.fake.cloud.calls if name == "autoscaling:UpdateAutoScalingGroup"]
    assert [given.keys() for given in updates] == [{"AutoScalingGroupName", "MaxSize"}] * 2


async def test_a_page_of_something_in_between_is_asked_again(open_action: Any) -> None:
    bench = Ec2Bench()
    action = await open_action(bench)
    bench.faults.next.append("401")  # in JSON, which EC2 does not speak
    with pytest.raises(TransientError, match="ec2 describe_instances: the answer is not readable"):
        await action.plan(*bench.cases[0])


# --- sagemaker, batch, lambda -------------------------------------------------------------------------------------


async def test_a_job_says_whether_it_keeps_checkpoints(open_action: Any) -> None:
    bench = SagemakerBench()
    action = await open_action(bench)
    by_name = {plan.target.rpartition("/")[2]: plan for plan in await action.plan(*bench.cases[1])}
    assert set(by_name) == {"llama-7", "sweep"}
    assert "keeps checkpoints in s3://models/llama-7" in by_name["llama-7"].warning
    assert "it keeps no checkpoints (no CheckpointConfig): all it did so far is lost" in by_name["sweep"].warning
    outcome = await action.apply(by_name["llama-7"])
    assert "cannot be resumed" in outcome.detail


async def test_endpoints_and_jobs_that_somebody_else_rules_are_left_alone(open_action: Any) -> None:
    bench = SagemakerBench()
    scaled = {"VariantName": "a", "DesiredInstanceCount": 4, "ManagedInstanceScaling": {"Status": "ENABLED"}}
    bench.fake.things[arn("endpoint", "scaled")] = thing("InService", ProductionVariants=[scaled])
    bench.fake.things[arn("endpoint", "busy")] = endpoint(a=5) | {"status": "Updating"}
    bench.fake.things[arn("training-job", "child")] = thing(TuningJobArn="x")
    (plan,) = await (await open_action(bench)).plan(SEARCH, PAUSE)
    assert plan.before == {"big": 6}
    for said in (
        "scaled (SageMaker scales it by itself)",
        "busy (it is Updating)",
        "child (its tuning job would start",
    ):
        assert said in plan.warning


async def test_an_endpoint_that_is_updating_is_restored_later(open_action: Any) -> None:
    bench = SagemakerBench()
    action = await open_action(bench)
    (plan,) = await action.plan(*bench.cases[0])
    await action.apply(plan)
    bench.fake.things[arn("endpoint", "ranker")]["status"] = "Updating"
    with pytest.raises(TransientError, match="ranker is Updating"):
        await action.undo(plan, None)


async def test_what_is_gone_is_drift_and_not_a_failure(open_action: Any) -> None:
    for bench in (SagemakerBench(), LambdaBench()):
        action = await open_action(bench)
        plan = (await action.plan(*bench.cases[0]))[0]
        (bench.fake.things if isinstance(bench, SagemakerBench) else bench.fake.functions).clear()
        assert not (await action.verify(plan)).in_force
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(plan, None)


async def test_jobs_are_ended_only_to_block_and_only_when_that_is_configured(open_action: Any) -> None:
    bench = BatchBench()
    index = bench.cases[1][0]
    action = await open_action(bench)
    assert [plan.reversible for plan in await action.plan(index, PAUSE)] == [True]
    queue, job = sorted(await action.plan(*bench.cases[1]), key=lambda plan: not plan.reversible)
    assert (queue.after, job.after) == ({"state": "DISABLED"}, {"running": False})
    assert "job job-3 3 (not marked non-critical)" in job.warning
    careful = await open_action(bench, terminate_jobs=False)
    assert [plan.reversible for plan in await careful.plan(*bench.cases[1])] == [True]


async def test_a_queue_that_is_updating_is_restored_later(open_action: Any) -> None:
    bench = BatchBench()
    action = await open_action(bench)
    (plan,) = await action.plan(*bench.cases[0])
    await action.apply(plan)
    bench.fake.queues["nightly"]["status"] = "UPDATING"
    with pytest.raises(TransientError, match="nightly is UPDATING"):
        await action.undo(plan, None)


async def test_how_much_a_function_is_left(open_action: Any) -> None:
    bench = LambdaBench()  # 20 requests a minute of 6 seconds each are 2 at once
    plans = await (await open_action(bench)).plan(*bench.cases[0])
    assert [(plan.before, plan.after) for plan in plans] == [
        ({"reserved_concurrency": None}, {"reserved_concurrency": 2}),
        ({"reserved_concurrency": 100}, {"reserved_concurrency": 2}),
    ]
    fixed = await open_action(bench, concurrency=120)
    assert [plan.after for plan in await fixed.plan(*bench.cases[0])] == [{"reserved_concurrency": 120}]
    for rate in (PAUSE, bench.cases[1][1]):
        assert {plan.after["reserved_concurrency"] for plan in await fixed.plan(SEARCH, rate)} == {0}
    with pytest.raises(PermanentError, match="nothing says how much to leave"):
        await (await open_action(bench, seconds_per_call=None)).plan(*bench.cases[0])
