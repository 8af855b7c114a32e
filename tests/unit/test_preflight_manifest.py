"""Jobs in Kubernetes manifests: GPUs, time and tags; what is no manifest is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from curb.cli.preflight.manifest import JobRequest, ManifestError, read_jobs
from curb.config.file import CurbConfig, load_text

PLAIN = CurbConfig()


def job(
    gpus: Any = 4, *, spec: dict[str, Any] | None = None, pod: dict[str, Any] | None = None, **meta: Any
) -> dict[str, Any]:
    container = {"name": "train", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    template = {"metadata": {"labels": {"team": "search"}}, "spec": {"containers": [container], **(pod or {})}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train", "namespace": "ml", **meta},
        "spec": {"activeDeadlineSeconds": 7200, "template": template, **(spec or {})},
    }


def read(path: Path, *objects: Any, config: CurbConfig = PLAIN) -> list[JobRequest]:
    path = path / "job.yaml"
    path.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    return read_jobs(path, config)


def test_a_job_is_gpus_for_a_time_with_the_tags_of_its_records(tmp_path: Path) -> None:
    (found,) = read(tmp_path, {"kind": "ConfigMap"}, job(spec={"parallelism": 3}))
    assert (found.name, found.gpus, found.hours) == ("train", 12.0, 2.0)
    assert found.tags == {
        "team": "search", "job": "train", "workload": "train", "owner": "ml/train", "namespace": "ml",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "gpus"),
    [
        ({}, 4.0),
        ({"parallelism": 3, "completions": 2}, 8.0),
        ({"parallelism": 2, "completions": 9}, 8.0),
        ({"parallelism": 0}, 0.0),
    ],
)
def test_pods_at_a_time_count(tmp_path: Path, spec: dict[str, Any], gpus: float) -> None:
    assert [each.gpus for each in read(tmp_path, job(spec=spec))] == [gpus]


def test_containers_add_up_and_init_containers_come_before(tmp_path: Path) -> None:
    def container(gpus: Any, where: str = "limits") -> dict[str, Any]:
        return {"resources": {where: {"nvidia.com/gpu": gpus}}}

    pod = {"containers": [container(2), container("1", "requests"), {}], "initContainers": [container(1)]}
    assert read(tmp_path, job(pod=pod))[0].gpus == 3.0
    pod["initContainers"] = [container(8), container(1)]
    assert read(tmp_path, job(pod=pod))[0].gpus == 8.0


def test_a_cron_job_is_one_run(tmp_path: Path) -> None:
    inner = job()
    cron = {"kind": "CronJob", "metadata": {"generateName": "night-"}, "spec": {"jobTemplate": {"spec": inner["spec"]}}}
    (found,) = read(tmp_path, {"kind": "List", "items": [cron]})
    assert (found.name, found.gpus, found.hours, found.tags["team"]) == ("night", 4.0, 2.0, "search")


def test_the_node_selector_names_the_gpu_and_its_price(tmp_path: Path) -> None:
    selector = {
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "node.kubernetes.io/instance-type": "p5.48xlarge",
        "topology.kubernetes.io/region": "us-east-1",
    }
    (found,) = read(tmp_path, job(pod={"nodeSelector": selector}))
    assert (found.gpu, found.instance, found.region) == ("NVIDIA-H100-80GB-HBM3", "p5.48xlarge", "us-east-1")


def test_labels_that_are_tags_and_the_owners_of_the_configuration_count(tmp_path: Path) -> None:
    owners = {"team_labels": ["squad"], "team_by_namespace": {"ml": "platform"}}
    connector = {"kind": "dcgm", "name": "g", "targets": [{"url": "http://gpu:9400/metrics"}], "owners": owners}
    config = load_text(json.dumps({"connectors": [connector]}))
    plain = job(pod={}, labels={"project": "answers", "app": "x"})
    plain["spec"]["template"]["metadata"] = {}
    (found,) = read(tmp_path, plain, config=config)
    assert (found.tags["team"], found.tags["project"], "app" in found.tags) == ("platform", "answers", False)
    plain["metadata"]["labels"]["squad"] = "ranking"
    assert read(tmp_path, plain, config=config)[0].tags["team"] == "ranking"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "is not valid YAML in line 1"),
        ("kind: Deployment", "holds no Job and no CronJob"),
        ("- 1\n- 2", "holds no Job and no CronJob"),
        ("\x00", "is not valid YAML"),
        ("[" * 1200, "is not valid YAML"),
        ("kind: Job\nspec: {parallelism: many}", "job: parallelism is not a number of 0 or more"),
        ("kind: Job\nspec: {activeDeadlineSeconds: -1}", "activeDeadlineSeconds is not a number"),
        ("kind: Job\nmetadata: {name: {a: b}}\nspec: [1]\n---\nkind: Job\nspec: {completions: .nan}", "completions"),
    ],
)
def test_what_is_no_manifest_is_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=why):
        read_jobs(path, PLAIN)
