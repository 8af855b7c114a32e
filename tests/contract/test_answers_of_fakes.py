"""The fakes answer as the real servers did: status, type of content, and no key that the real answer has not."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.answers import Exchange, keys, shape, stories_of
from tests.fakes import azure_cost
from tests.fakes.alertmanager_api import AlertmanagerApi
from tests.fakes.kubernetes_api import KubernetesServer, named, pod
from tests.fakes.kubernetes_objects import TOKEN, KubernetesObjects, obj

_, CLUSTER = stories_of("kubernetes")
_, ALERTMANAGER = stories_of("alertmanager")
_, AZURITE = stories_of("azurite")
#: What both make up by themselves, and so cannot be compared by its names alone.
_MADE = ("resourceVersion", "uid")


def unlike(fake: Exchange, real: Exchange) -> list[str]:
    """What differs in form. An object of a fake may have less in it, but all that the outermost level has."""
    ours, theirs = shape(fake), shape(real)
    outer = {each for each in keys(real.body) if "." not in each and "[" not in each} if real.is_json else set()
    missing = {each for each in theirs if each.startswith(("status ", "type "))} | outer
    found = {each for each in ours if not each.startswith("header ")}
    return sorted([f"+ {each}" for each in found - theirs] + [f"- {each}" for each in missing - ours])


async def ask(app: web.Application, real: Exchange, token: str = "", sent: Any = None) -> Exchange:
    """The fake's answer to the same request."""
    content_type = "application/merge-patch+json" if real.method == "PATCH" else "application/json"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
    method, path = real.request.split(" ")
    body = real.sent if sent is None else sent
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        data = None if body is None else json.dumps(body)
        async with http.request(method, server.make_url(path), headers=headers, data=data) as answer:
            text = await answer.text()
            kept = {"Content-Type": answer.headers["Content-Type"]} if text else {}
            said = json.loads(text) if "json" in kept.get("Content-Type", "") else text.split("\n")
            return Exchange(real.request, body, answer.status, kept, said)


def cluster() -> KubernetesObjects:
    """With the same objects as the real one had."""
    here = {"metadata": {"namespace": "answers"}}
    found = {
        "jobs": obj("Job", "train", {"suspend": False}, **here),
        "cronjobs": obj("CronJob", "nightly", {"suspend": False}, **here),
        "deployments": obj("Deployment", "embedder", {"replicas": 3}, **here),
        "statefulsets": obj("StatefulSet", "crawler", {"replicas": 2}, **here),
        "horizontalpodautoscalers": obj("HorizontalPodAutoscaler", "web", {"minReplicas": 2, "maxReplicas": 9}, **here),
    }
    return KubernetesObjects(*found.items(), page=500)


@pytest.mark.parametrize("real", CLUSTER["list"], ids=lambda each: each.request)
async def test_lists_of_kubernetes(real: Exchange) -> None:
    assert unlike(await ask(cluster().app(), real, TOKEN), real) == []


@pytest.mark.parametrize("name", ["hold_job", "scale_down"])
async def test_changes_of_kubernetes(name: str) -> None:
    fake = cluster()
    read, patched, event = CLUSTER[name]
    first = await ask(fake.app(), read, TOKEN)
    assert unlike(first, read) == []
    meta = patched.sent["metadata"] | {key: first.body["metadata"][key] for key in _MADE}
    assert unlike(await ask(fake.app(), patched, TOKEN, patched.sent | {"metadata": meta}), patched) == []
    assert unlike(await ask(fake.app(), event, TOKEN), event) == []


@pytest.mark.parametrize("name", ["unauthorized", "forbidden", "no_such_version", "gone"])
async def test_refusals_of_kubernetes(name: str) -> None:
    fake, (real,) = cluster(), CLUSTER[name]
    if name == "no_such_version":
        del fake.served["argoproj.io"]
    if name == "forbidden":
        fake.allowed.clear()
    answer = await ask(fake.app(), real, "x.y.z" if name == "unauthorized" else TOKEN)
    assert unlike(answer, real) == []
    assert answer.body == real.body or answer.body["reason"] == real.body["reason"]


@pytest.mark.parametrize("name", ["conflict", "another_object", "invalid"])
async def test_changes_that_kubernetes_refuses(name: str) -> None:
    fake, (real,) = cluster(), CLUSTER[name]
    key = next(key for key in fake.objects if real.request.endswith(f"/{key[0]}/{key[2]}"))
    meta = real.sent["metadata"] | {key: value for key, value in fake.objects[key]["metadata"].items() if key in _MADE}
    meta |= {"conflict": {"resourceVersion": "0"}, "another_object": {"uid": "another"}}.get(name, {})
    answer = await ask(fake.app(), real, TOKEN, real.sent | {"metadata": meta})
    assert unlike(answer, real) == []
    assert answer.body["reason"] == real.body["reason"]


@pytest.mark.parametrize("real", CLUSTER["pods"], ids=lambda each: each.request)
async def test_pods_namespaces_and_nodes_of_kubernetes(real: Exchange) -> None:
    fake = KubernetesServer(TOKEN)
    fake.lists = {
        "pods": [pod("answers", "reader", node="answers", owner=("CronJob", "nightly"), team="search")],
        "namespaces": [named("answers")],
        "nodes": [named("answers", pool="gpu")],
    }
    assert unlike(await ask(fake.app(), real, TOKEN), real) == []
    (refused,) = CLUSTER["unauthorized"]
    assert unlike(await ask(fake.app(), real, "x.y.z"), refused) == []
    fake.forbidden = set(fake.lists)
    (refused,) = CLUSTER["forbidden"]
    assert unlike(await ask(fake.app(), real, TOKEN), refused) == []


@pytest.mark.parametrize("name", ALERTMANAGER)
async def test_alertmanager(name: str) -> None:
    (real,) = ALERTMANAGER[name]
    sent = real.sent
    if name == "ends_before_it_starts":  # in the file all times are one
        sent = [alert | {"endsAt": "2025-12-31T23:00:00.000Z"} for alert in sent]
    fake = AlertmanagerApi()
    answer = await ask(fake.app(), real, sent=sent)
    assert unlike(answer, real) == []
    if name not in ("no_time", "no_such_path"):  # what a parser says of a time is its own
        assert answer.body in (real.body, [""])
    assert len(fake.alerts) == (name in ("taken", "over", "one_of_two"))  # what is beside a refused one is taken


def test_blobs_of_azure_as_adlfs_shows_them() -> None:
    """The fake is a file system in memory, so only what Curb looks at is compared."""
    info, found = AZURITE["adlfs"]
    looked_at = {"name", "size", "type", "last_modified", "etag"}
    assert all(set(each) >= looked_at for each in [info.body, *found.body.values()])
    with azure_cost.blobs() as kind:
        store = kind("acme")
        store.pipe_file("az://bill/focus/june.csv", b"x")
        shown = [store.info("bill/focus/june.csv"), *store.find("bill/focus", detail=True).values()]
        before = shown[0]["etag"]
        store.pipe_file("az://bill/focus/june.csv", b"y")
        assert store.info("bill/focus/june.csv")["etag"] != before
    assert all(set(each) == looked_at for each in shown)
