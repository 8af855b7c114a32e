"""deploy/kubernetes on a real API server: with its rights Curb does what it must, and the policies keep it to that."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from curb.actions.target import TargetRate
from curb.actions.workloads.kubernetes import Kubernetes
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from tests.fakes.alerts import NORMAL, an_alert
from tests.house.tree import ROOT
from tests.real.kubernetes_cluster import LABELS, OBJECTS, Cluster, a_cluster
from tests.real.test_kubernetes import until_it_works

pytestmark = pytest.mark.real

DEPLOY = ROOT / "deploy" / "kubernetes"
PATHS = {
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}
SEARCH = an_alert(tags={"team": "search"})
USED = ("jobs", "cronjobs", "deployments", "statefulsets", "horizontalpodautoscalers")


async def put(cluster: Cluster, path: Path) -> None:
    """The documents of a file, in the namespace of the test and for its account."""
    text = path.read_text(encoding="utf-8").replace("namespace: ml-batch", f"namespace: {cluster.namespace}")
    text = text.replace("namespace: curb}", f"namespace: {cluster.namespace}}}")
    text = text.replace("serviceaccount:curb:curb", f"serviceaccount:{cluster.namespace}:curb")
    text = re.sub(r"([nN]ame: )curb-", rf"\1{cluster.namespace}-", text)
    for document in yaml.safe_load_all(text):
        await cluster.ask("POST", PATHS[document["kind"]].format(cluster.namespace), document)


@pytest.fixture
async def allowed(tmp_path: Path) -> AsyncIterator[tuple[Cluster, Kubernetes, Cluster]]:
    """The cluster, Curb as its account with the files of deploy/, and the cluster as that account sees it."""
    async with a_cluster() as cluster, aiohttp.ClientSession() as http:
        accounts = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts"
        await cluster.ask("POST", accounts, {"metadata": {"name": "curb"}})
        for resource in USED:
            await put(cluster, DEPLOY / "roles" / f"{resource}.yaml")
            await cluster.make(resource)
        await put(cluster, DEPLOY / "policy.yaml")
        token = (await cluster.ask("POST", f"{accounts}/curb/token", {"spec": {"expirationSeconds": 600}}))["status"]
        account = cluster.copy_of_account(tmp_path / "account")
        (account / "token").write_text(token["token"])
        as_curb = Cluster(cluster.url, account, http)
        as_curb.namespace = cluster.namespace
        yield cluster, cluster.action(http, WallClock(), account), as_curb
        for kind in ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"):
            for resource in ("jobs", "cronjobs", "horizontalpodautoscalers"):
                await cluster.ask("DELETE", f"{PATHS[kind]}/{cluster.namespace}-{resource}")


async def denied(as_curb: Cluster, resource: str, patch: Any) -> str:
    """What the server says."""
    with pytest.raises(AssertionError) as caught:
        await as_curb.change(resource, patch)
    return str(caught.value)


async def until_the_policies_count(as_curb: Cluster) -> None:
    """They take a moment."""
    for resource in ("jobs", "cronjobs", "horizontalpodautoscalers"):
        for number in range(100):
            try:
                await as_curb.change(resource, {"metadata": {"annotations": {"probe": str(number)}}})
            except AssertionError as error:
                if "ValidatingAdmissionPolicy" in str(error):
                    break
            await asyncio.sleep(0.2)
        else:
            raise AssertionError(f"nothing keeps Curb from changing {resource}")


async def test_curb_may_hold_and_give_back_and_change_nothing_else(allowed: Any) -> None:
    cluster, action, as_curb = allowed
    await until_the_policies_count(as_curb)
    before = {path: await cluster.spec(path, name) for path, (_, name, _) in OBJECTS.items()}
    for resource, patch in (
        ("cronjobs", {"spec": {"schedule": "* * * * *"}}),
        ("cronjobs", {"spec": {"jobTemplate": {"spec": {"parallelism": 50}}}}),
        ("cronjobs", {"metadata": {"labels": {"team": "other"}}}),
        ("cronjobs", {"metadata": {"annotations": {"owner": "curb"}}}),
        ("jobs", {"spec": {"parallelism": 50}}),
        ("horizontalpodautoscalers", {"spec": {"minReplicas": 1}}),
    ):
        assert "Curb may" in await denied(as_curb, resource, patch)
    for plan in [*await action.plan(SEARCH, TargetRate("pause")), *await action.plan(SEARCH, NORMAL)]:
        await until_it_works(partial(action.apply, plan))
        assert (await action.verify(plan)).in_force
        await until_it_works(partial(action.undo, plan, None))
    assert {path: await cluster.spec(path, name) for path, (_, name, _) in OBJECTS.items()} == before


async def test_what_is_not_marked_is_not_held_and_what_lost_its_mark_is_given_back(allowed: Any) -> None:
    cluster, action, as_curb = allowed
    await until_the_policies_count(as_curb)
    (plan,) = [plan for plan in await action.plan(SEARCH, TargetRate("pause")) if "/cronjobs/" in plan.target]
    await action.apply(plan)
    await cluster.change("cronjobs", {"metadata": {"labels": {"curb.dev/criticality": None}}})
    await until_it_works(partial(action.undo, plan, None))
    assert (await cluster.get("cronjobs"))["spec"]["suspend"] is False
    seen = await action.read(plan)
    assert seen is not None
    with pytest.raises(PermanentError, match=r"HTTP 4\d\d: .*Curb may hold back only what is marked"):
        await action.write(plan, plan.after, seen)
    await cluster.change("cronjobs", {"metadata": {"labels": LABELS}})
