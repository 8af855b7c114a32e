"""The chart as helm renders it: lint, the three sets of values, and what each object says."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from curb.config.file import load_text
from tests.house.test_helm import CHART, SETS
from tests.house.yaml_blocks import environment
from tests.require import require

pytestmark = pytest.mark.real
#: A helm built from its module takes the cluster for one of version 1.20.
CLUSTER = ("--namespace", "finops", "--kube-version", "1.31.0")
HOW_TO = (
    "set CURB_TEST_HELM=/path/to/helm, or put helm 3 on the PATH "
    "(`go install helm.sh/helm/v3/cmd/helm@v3.17.3` builds it from its Go module)"
)


def helm(*arguments: str, fails: bool = False) -> str:
    """Run helm; its output. Skips, or fails where CURB_TEST_REQUIRE asks for helm, where there is none."""
    found = shutil.which(os.environ.get("CURB_TEST_HELM", "") or "helm")
    if found is None:
        require("helm", f"no helm: {HOW_TO}")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def rendered(name: str, *arguments: str) -> list[dict[str, Any]]:
    file = str(CHART / "ci" / f"{name}-values.yaml")
    text = helm("template", "prod", str(CHART), *CLUSTER, "-f", file, *arguments)
    return [each for each in yaml.safe_load_all(text) if each]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] == kind]


def containers(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for kind in ("StatefulSet", "Deployment"):
        for each in of_kind(objects, kind):
            yield from each["spec"]["template"]["spec"]["containers"]


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_lint_finds_nothing(path: Any) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "-f", str(path))


@pytest.mark.parametrize("name", ["embedded", "kafka", "shadow"])
def test_the_rendered_configuration_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered(name)
    (config,) = (each["data"]["curb.yaml"] for each in of_kind(objects, "ConfigMap"))
    for one in containers(objects):
        assert set(environment(config)) == {each["name"] for each in one["env"]}
    for variable, value in environment(config).items():
        monkeypatch.setenv(variable, value)
    load_text(config)


@pytest.mark.parametrize("name", ["embedded", "kafka", "shadow"])
def test_daemon_and_reaper_are_apart_and_hardened(name: str) -> None:
    objects = rendered(name)
    daemon, reaper = containers(objects)
    assert (daemon["args"][0], reaper["args"][0]) == ("run", "reaper")
    assert of_kind(objects, "Deployment")[0]["metadata"]["name"] == "prod-curb-reaper"
    for one in (daemon, reaper):
        assert one["securityContext"]["readOnlyRootFilesystem"]
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for each in [*of_kind(objects, "StatefulSet"), *of_kind(objects, "Deployment")]:
        spec = each["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] == (name == "embedded"), "only who holds objects gets a token"
    assert len(of_kind(objects, "PodDisruptionBudget")) == 2
    assert len(of_kind(objects, "NetworkPolicy")) == 2


def test_no_secret_is_in_what_is_rendered() -> None:
    objects = rendered("embedded")
    assert not of_kind(objects, "Secret")
    for one in containers(objects):
        given = {each["name"]: each for each in one["env"]}
        assert given["CURB_LITELLM_KEY"]["valueFrom"] == {"secretKeyRef": {"name": "curb", "key": "litellm-key"}}


def test_each_kind_of_object_has_its_role_in_its_namespaces() -> None:
    objects = rendered("embedded")
    roles = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in of_kind(objects, "Role")}
    assert roles == {("ml-batch", "prod-curb-jobs"), ("ml-eval", "prod-curb-jobs")}
    assert [each["metadata"]["name"] for each in of_kind(objects, "ClusterRole")] == ["prod-curb-clusterqueues"]
    for each in [*of_kind(objects, "RoleBinding"), *of_kind(objects, "ClusterRoleBinding")]:
        assert each["subjects"] == [{"kind": "ServiceAccount", "name": "prod-curb", "namespace": "finops"}]
    policies = of_kind(objects, "ValidatingAdmissionPolicy")
    assert policies
    assert all("system:serviceaccount:finops:prod-curb" in str(each) for each in policies)
    assert not [each for each in rendered("shadow") if "Role" in each["kind"]]


def test_the_embedded_log_is_one_volume_of_both() -> None:
    objects = rendered("embedded")
    (claim,) = of_kind(objects, "PersistentVolumeClaim")
    for kind in ("StatefulSet", "Deployment"):
        volumes = of_kind(objects, kind)[0]["spec"]["template"]["spec"]["volumes"]
        found = [each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each]
        assert found == [claim["metadata"]["name"]]
    of_kafka = rendered("kafka")
    assert not of_kind(of_kafka, "PersistentVolumeClaim")
    (daemon,) = of_kind(of_kafka, "StatefulSet")
    assert (daemon["spec"]["replicas"], len(daemon["spec"]["volumeClaimTemplates"])) == (3, 1)


def test_prometheus_gets_its_monitor_and_the_rules_as_they_are() -> None:
    objects = rendered("embedded")
    (monitor,), (rule,) = of_kind(objects, "ServiceMonitor"), of_kind(objects, "PrometheusRule")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    rules = CHART / "files" / "curb.rules.yaml"
    assert rule["spec"] == yaml.safe_load(rules.read_text(encoding="utf-8"))
    assert not of_kind(rendered("kafka"), "ServiceMonitor")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("replicas=2", "more than one needs config.log.kind kafka"),
        ("rbac.levers.pods={ml}", "no such kind of object"),
        ('rbac={"levers":{"jobs":[]}}', "name the namespaces"),
        ("config.http.port=9", "http"),
        ("config.instance=a", "config"),
        ("wrong=1", "wrong"),
        ("secrets.A.name=x", "key"),
    ],
)
def test_a_wrong_value_is_refused(setting: str, words: str) -> None:
    arguments = [
        "template",
        "prod",
        str(CHART),
        *CLUSTER,
        "-f",
        str(CHART / "ci" / "shadow-values.yaml"),
        "--set-json" if '{"' in setting else "--set",
        setting,
    ]
    assert words in helm(*arguments, fails=True)
