"""A Kubernetes API server that keeps objects: lists, reads and merge patches under RBAC, versions, its own checks."""

from __future__ import annotations

import atexit
import copy
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.target import TargetRate
from curb.actions.workloads.kubernetes_levers import LEVERS
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import an_alert
from tests.fakes.faults import Faults
from tests.house.tree import ROOT

KIND = "kubernetes"
TOKEN = "sa-token-of-the-test"
MARK = {"curb.dev/criticality": "non-critical"}
Key = tuple[str, str, str]


def obj(kind: str, name: str, spec: dict[str, Any], labels: dict[str, str] | None = None, **more: Any) -> Any:
    """An object of the team `search` that is marked, unless its labels are given."""
    labels = {"team": "search", **MARK} if labels is None else labels
    meta = {"name": name, "namespace": "ml", "labels": labels, "resourceVersion": "1", "uid": f"uid-of-{kind}-{name}"}
    meta |= more.pop("metadata", {})
    secret: Any = {"template": {"spec": {"containers": [{"env": [{"name": "PASSWORD", "value": "hunter2"}]}]}}}
    if kind == "CronJob":
        secret = {"jobTemplate": {"spec": secret}}
    if kind == "HorizontalPodAutoscaler":
        secret = {}
    return {"kind": kind, "metadata": meta, "spec": secret | spec, "status": {}, **more}


def rules_of_the_page() -> set[str]:
    """ "verb resource.group" of everything that the roles shown in the documentation allow."""
    page = (ROOT / "docs" / "reference" / "actions" / "kubernetes.md").read_text(encoding="utf-8")
    allowed = set()
    for block in page.split("```yaml kubernetes\n")[1:]:
        for document in yaml.safe_load_all(block.split("```")[0]):
            for rule in document.get("rules", ()):
                for group in rule["apiGroups"]:
                    allowed |= {f"{verb} {each}.{group}" for verb in rule["verbs"] for each in rule["resources"]}
    return allowed


class KubernetesObjects:
    """`objects` by (resource, namespace or empty, name). Each change counts its version up."""

    def __init__(self, *found: tuple[str, Any], page: int = 2) -> None:
        self.objects: dict[Key, Any] = {}
        self.faults = Faults()
        self.allowed = rules_of_the_page()
        #: What a patch changed, until somebody else does.
        self.held: set[Key] = set()
        #: "verb resource.group" of every request that came in, and the bodies of patches.
        self.asked: set[str] = set()
        #: API group → versions that are served. Everybody may ask for them, as in a real cluster.
        self.served: dict[str, list[str]] = {lever.group: ["v1"] for lever in LEVERS.values()} | {
            "autoscaling": ["v2", "v1"],
            "kueue.x-k8s.io": ["v1beta1"],
            "argoproj.io": ["v1alpha1"],
            "keda.sh": ["v1alpha1"],
        }
        #: (resource, version) in which a kind is not served although others of its group are.
        self.unserved: set[tuple[str, str]] = set()
        self.events: list[Any] = []
        self.patches: list[tuple[str, Any]] = []
        self._page = page
        for resource, item in found:
            self.objects[resource, item["metadata"].get("namespace", ""), item["metadata"]["name"]] = item

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware(), self._authorised])
        app.router.add_get("/apis/{group}", self._versions)
        app.router.add_get("/apis/{group}/{version}", self._resources)
        app.router.add_post("/{api:api}/v1/namespaces/{namespace}/{resource:events}", self._event)
        for place in ("", "/namespaces/{namespace}"):
            base = f"/apis/{{group}}/{{version}}{place}"
            app.router.add_get(f"{base}/{{resource:(?!namespaces)[a-z]+}}", self._list)
            app.router.add_get(f"{base}/{{resource:(?!namespaces)[a-z]+}}/{{name}}", self._get)
            app.router.add_patch(f"{base}/{{resource:(?!namespaces)[a-z]+}}/{{name}}", self._patch)
            app.router.add_patch(f"{base}/{{resource:(?!namespaces)[a-z]+}}/{{name}}/{{part:scale}}", self._patch)
        return app

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return status(401, "Unauthorized", "Unauthorized")
        given = request.match_info
        if "group" in given and given.get("version", "") not in ["", *self.served.get(given["group"], ())]:
            return web.Response(status=404, text="404 page not found\n")
        if (given.get("resource", ""), given.get("version", "")) in self.unserved:
            return web.Response(status=404, text="404 page not found\n")
        if "resource" not in given:
            return await handler(request)  # type: ignore[no-any-return]
        verb = {"PATCH": "patch", "POST": "create"}.get(request.method, "get" if "name" in given else "list")
        part = f"/{given['part']}" if "part" in given else ""
        right = f"{verb} {given['resource']}{part}.{given.get('group', '')}"
        self.asked.add(right)
        if right in self.allowed:
            return await handler(request)  # type: ignore[no-any-return]
        message = f'{given["resource"]} is forbidden: User "curb" cannot {verb} resource'
        return status(403, "Forbidden", message, group=given.get("group", ""), kind=given["resource"])

    async def _versions(self, request: web.Request) -> web.Response:
        group = request.match_info["group"]
        if group not in self.served:
            return web.Response(status=404, text="404 page not found\n")
        versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in self.served[group]]
        answer = {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions}
        return web.json_response(answer | {"preferredVersion": versions[0]})

    async def _resources(self, request: web.Request) -> web.Response:
        group, version = request.match_info["group"], request.match_info["version"]
        names = [
            name for name, lever in LEVERS.items() if lever.group == group and (name, version) not in self.unserved
        ]
        answer = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{group}/{version}"}
        return web.json_response(answer | {"resources": [{"name": name} for name in names]})

    async def _event(self, request: web.Request) -> web.Response:
        event = await request.json()
        self.events.append(event)
        meta = event["metadata"] | {"name": f"{event['metadata']['generateName']}00000"}
        return web.json_response(event | {"metadata": meta, "eventTime": None}, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        place = (request.match_info["resource"], request.match_info.get("namespace", ""))
        items = [
            {key: value for key, value in item.items() if key != "kind"}
            for (resource, namespace, _), item in sorted(self.objects.items())
            if (resource, namespace) == place
        ]
        start = int(request.query.get("continue", "0"))
        end = start + min(self._page, int(request.query["limit"]))
        more = {"resourceVersion": "1"} | ({"continue": str(end)} if end < len(items) else {})
        given = {"kind": f"{LEVERS[place[0]].kind}List", "apiVersion": api_version(request), "metadata": more}
        return web.json_response(given | {"items": items[start:end]})

    async def _get(self, request: web.Request) -> web.Response:
        item = self.objects.get(key_of(request))
        return missing(request) if item is None else web.json_response(item | {"apiVersion": api_version(request)})

    async def _patch(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        item, patch = self.objects.get(key_of(request)), await request.json()
        if item is None:
            return missing(request)
        found, given = item["metadata"], patch["metadata"]
        of = {"name": found["name"], "group": request.match_info["group"], "kind": request.match_info["resource"]}
        if given["resourceVersion"] != found["resourceVersion"]:
            return status(409, "Conflict", "the object has been modified", **of)
        if given.get("uid", found["uid"]) != found["uid"]:
            return status(422, "Invalid", "metadata.uid: Invalid value: field is immutable", causes=[], **of)
        if "part" in request.match_info and (set(patch["spec"]) != {"replicas"} or "annotations" in given):
            return status(422, "Invalid", "a scale has replicas and nothing else", causes=[], **of)
        given_spec = patch.get("spec", {})
        changed = item["spec"] | given_spec
        if changed.get("minReplicas", 0) > changed.get("maxReplicas", 1_000):
            return status(422, "Invalid", "spec.maxReplicas: Invalid value", causes=[], **of)
        self.patches.append((request.path, patch))
        merged = found.get("annotations", {}) | given.get("annotations", {})
        found["annotations"] = {key: value for key, value in merged.items() if value is not None}
        self.set(key_of(request), **given_spec)
        self.held.add(key_of(request))
        if "part" in request.match_info:
            kept = {key: value for key, value in found.items() if key not in ("labels", "annotations")}
            count = given_spec["replicas"]
            answer = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "status": {"replicas": count}}
            return web.json_response(answer | {"spec": {"replicas": count} if count else {}})  # none is no key
        return web.json_response(item | {"apiVersion": api_version(request)})

    def set(self, key: Key, **spec: Any) -> None:
        """A change by anybody."""
        item = self.objects[key]
        item["spec"].update(spec)
        item["metadata"]["resourceVersion"] = str(int(item["metadata"]["resourceVersion"]) + 1)


def key_of(request: web.Request) -> Key:
    given = request.match_info
    return given["resource"], given.get("namespace", ""), given["name"]


def api_version(request: web.Request) -> str:
    return f"{request.match_info['group']}/{request.match_info['version']}"


def status(code: int, reason: str, message: str, **details: Any) -> web.Response:
    """A refusal in the API server's form."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    more = {"details": details} if details else {}
    return web.json_response(body | {"reason": reason} | more | {"code": code}, status=code)


def missing(request: web.Request) -> web.Response:
    """As the API server says that it has no such object."""
    given = request.match_info
    message = f'{given["resource"]}.{given["group"]} "{given["name"]}" not found'
    return status(404, "NotFound", message, name=given["name"], group=given["group"], kind=given["resource"])


def account(directory: Path, namespace: str = "curb") -> Path:
    """A service account's directory."""
    (directory / "token").write_text(TOKEN + "\n")
    (directory / "namespace").write_text(namespace)
    return directory


@cache
def shared_account() -> Path:
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return account(directory)


PAUSE, SHAVE = TargetRate("pause"), TargetRate("shave", usd_per_hour=60.0, why="its normal level")


class KubernetesBench(ActionBench):
    """Work of each kind that a team runs beside what is not marked; the alert burns 240 $/h."""

    secret = TOKEN

    def __init__(self) -> None:
        no_space = {"metadata": {"namespace": "", "labels": {"team": "index", **MARK}}}
        of_index = {"team": "index", **MARK}
        found = [
            ("deployments", obj("Deployment", "embedder", {"replicas": 8})),
            ("deployments", obj("Deployment", "checkout", {"replicas": 8}, {"team": "search"})),
            ("horizontalpodautoscalers", obj("HorizontalPodAutoscaler", "web", {"minReplicas": 3, "maxReplicas": 40})),
            ("jobs", obj("Job", "train-7", {"suspend": False}, of_index)),
            ("cronjobs", obj("CronJob", "nightly", {"suspend": False}, of_index)),
            ("statefulsets", obj("StatefulSet", "crawler", {"replicas": 4}, of_index)),
            ("workloads", obj("Workload", "job-train-8", {"active": True}, of_index)),
            ("localqueues", obj("LocalQueue", "research", {"stopPolicy": "None"}, of_index)),
            ("clusterqueues", obj("ClusterQueue", "spare", {"stopPolicy": "None"}, **no_space)),
            ("workflows", obj("Workflow", "reindex", {"suspend": False}, of_index)),
            ("cronworkflows", obj("CronWorkflow", "weekly", {"suspend": False}, of_index)),
            ("rayjobs", obj("RayJob", "tune", {"suspend": False}, of_index)),
            ("pytorchjobs", obj("PyTorchJob", "llama", {"runPolicy": {"suspend": False}}, of_index)),
            ("scaledobjects", obj("ScaledObject", "consumer", {}, of_index)),
            ("scaledjobs", obj("ScaledJob", "batches", {}, of_index)),
        ]
        self.fake = KubernetesObjects(*found)
        self.faults: Faults = self.fake.faults
        self.cases = [(an_alert(tags={"team": "search"}), SHAVE), (an_alert(tags={"team": "index"}), PAUSE)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/")).rstrip("/")

    def config(self, address: str) -> dict[str, Any]:
        where = {"url": address.rstrip("/"), "account": str(shared_account()), "timeout_s": 2.0}
        every = list({resource for resource, _, _ in self.fake.objects})
        config: dict[str, Any] = {"kind": KIND, "name": "work", "cluster": where, "objects": sorted(every)}
        return config | {"namespaces": ["ml", "research"], "labels": {"team": "team"}}

    def world(self) -> Any:
        """Specs and annotations, for the version of an object only ever grows."""
        specs = {key: item["spec"] for key, item in self.fake.objects.items()}
        return copy.deepcopy(
            [specs, {k: item["metadata"].get("annotations") or {} for k, item in self.fake.objects.items()}]
        )

    def recreate(self) -> bool:
        """Its owner makes it as Curb left it, with the same labels."""
        for item in self.fake.objects.values():
            item["metadata"]["uid"] += "-2"
        return True

    def change_by_hand(self) -> None:
        """Numbers get another value, by a manifest in which nothing of Curb stands; what only has two is deleted."""
        for key in self.fake.held:
            spec = self.fake.objects[key]["spec"]
            other = {"replicas": 5, "maxReplicas": 33, "stopPolicy": "HoldAndDrain"}
            if fields := spec.keys() & other.keys():
                self.fake.set(key, **{field: other[field] for field in fields})
                self.fake.objects[key]["metadata"]["annotations"] = {}
            else:
                del self.fake.objects[key]
        self.fake.held.clear()

    def mark_all(self, value: str | None) -> None:
        """Everything is marked so; None: nothing is marked."""
        for item in self.fake.objects.values():
            labels = {key: each for key, each in item["metadata"]["labels"].items() if key not in MARK}
            item["metadata"]["labels"] = labels | ({} if value is None else dict.fromkeys(MARK, value))

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"team": "nobody"})

    def called(self) -> set[str]:
        return self.fake.asked
