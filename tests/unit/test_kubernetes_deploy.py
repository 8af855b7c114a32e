"""deploy/kubernetes: each Role lets Curb hold one kind of object and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from curb.actions.workloads.kubernetes import Kubernetes
from curb.actions.workloads.kubernetes_levers import LEVERS
from tests.house.tree import ROOT

DEPLOY = ROOT / "deploy" / "kubernetes"
ROLES = sorted((DEPLOY / "roles").glob("*.yaml"))


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def rights(role: Any) -> set[str]:
    return {
        f"{verb} {resource}.{group}"
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_there_is_a_role_for_each_kind_of_object() -> None:
    assert {path.stem for path in ROLES} == set(LEVERS)


@pytest.mark.parametrize("path", ROLES, ids=lambda path: path.stem)
def test_a_role_allows_what_its_kind_needs_and_no_more(path: Path) -> None:
    role, binding = documents(path)
    lever = LEVERS[path.stem]
    mine = {right for right in Kubernetes.permissions if right.split()[1].split(".")[0].split("/")[0] == path.stem}
    assert rights(role) == mine | ({"create events."} if lever.namespaced else set())
    assert role["kind"] == ("Role" if lever.namespaced else "ClusterRole")
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": role["kind"],
        "name": f"curb-{path.stem}",
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "curb", "namespace": "curb"}]


def test_what_a_patch_could_change_beyond_its_field_is_kept_by_a_policy() -> None:
    policies = {each["metadata"]["name"]: each for each in documents(DEPLOY / "policy.yaml")}
    typed = {"jobs", "cronjobs", "horizontalpodautoscalers"}
    assert set(policies) == {f"curb-{resource}" for resource in typed}
    of_kubernetes = {resource for resource, lever in LEVERS.items() if lever.group in ("batch", "apps", "autoscaling")}
    assert {resource for resource in of_kubernetes if not LEVERS[resource].subresource} == typed
