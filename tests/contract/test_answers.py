"""What real servers answered, through Curb's own code: each answer has its outcome, and the refusal its reason.

The answers in tests/data/answers were captured from the versions that they name. `python -m tests.real.capture`
captures them again.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import fsspec
import pytest
from aiohttp.test_utils import TestServer
from fsspec import AbstractFileSystem
from fsspec.registry import _registry
from msgspec.structs import replace

from curb.actions.action import ActionContext
from curb.actions.notify.alertmanager_alerts import Config as AlertmanagerConfig
from curb.actions.notify.protocol import Notice
from curb.actions.workloads.kubernetes import Config, Kubernetes
from curb.connectors.gpus.kubernetes_api import KubernetesApi, KubernetesSettings
from curb.stream.clients.kubernetes import NoSuchResourceError
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan
from tests.answers import DATA, Exchange, Replay, changes, stories_of
from tests.fakes.alerts import NORMAL, T0, an_alert
from tests.fakes.bill_reader import BillReader
from tests.fakes.kubernetes_objects import PAUSE, account

SEARCH = an_alert(tags={"team": "search"})
_, CLUSTER = stories_of("kubernetes")
_, ALERTMANAGER = stories_of("alertmanager")
STORES = {name: stories_of(name)[1] for name in ("minio", "ministack")}
_, AZURITE = stories_of("azurite")
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
READ = "GET /apis/batch/v1/namespaces/answers/jobs/train"


@contextlib.asynccontextmanager
async def replayed(exchanges: Iterable[Exchange], *, like: bool = False) -> AsyncIterator[str]:
    """The address of a server that answers so; whatever else is asked fails the test.

    With `like`, so does a body that has other keys than when the answers were captured.
    """
    replay = Replay(exchanges)
    async with TestServer(replay.app()) as server:
        yield str(server.make_url("/")).rstrip("/")
    assert replay.unknown == []
    assert not like or replay.unlike == []


def test_every_answer_names_its_server_and_its_version() -> None:
    named = {directory.name: stories_of(directory.name)[0] for directory in DATA.iterdir()}
    assert all(any(each.isdigit() for each in server) for server in named.values()), named
    assert set(named) == {"alertmanager", "azurite", "kubernetes", "minio", "ministack"}


def test_no_machine_and_no_moment_is_named() -> None:
    for file in DATA.glob("*/*.json"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"127\.0\.0\.1|localhost|curb-test-", text), file
        assert {each[:24] for each in UUID.findall(text)} <= {"00000000-0000-0000-0000-"}, file
        hours = {"2026-01-01T00:", *(f"2025-06-01T0{hour}:" for hour in range(3))}
        assert set(re.findall(r"20\d\d-\d\d-\d\dT\d\d:", text)) <= hours, file


def test_what_a_new_version_changes_is_said() -> None:
    (gone,) = CLUSTER["gone"]
    less = {key: value for key, value in gone.body.items() if key != "details"}
    newer = gone._replace(status=410, body=less | {"hint": "x"})
    other = gone._replace(request="GET /apis/batch/v2")
    assert changes({"gone": [gone]}, {"gone": [gone]}) == []
    said = [f"gone: {gone.request}: {each}" for each in ("details vanished", "status 404 vanished", "hint appeared")]
    assert set(said) < set(changes({"gone": [gone]}, {"gone": [newer]}))
    assert changes({"gone": [gone]}, {"gone": [gone, other]}) == ["gone: GET /apis/batch/v2 is asked as well"]
    assert changes({"gone": [gone]}, {}) == [f"gone: {gone.request} is no longer asked"]


# --- Kubernetes ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def cluster(
    directory: Path, exchanges: Iterable[Exchange], *, like: bool = False, **config: Any
) -> AsyncIterator[Kubernetes]:
    """An action on the API server that answers so."""
    async with replayed(exchanges, like=like) as url, aiohttp.ClientSession() as http:
        where = {"url": url, "account": str(account(directory))}
        known = {"kind": "kubernetes", "name": "work", "cluster": where, "namespaces": ["answers"]}
        made = Config.model_validate(known | {"labels": {"team": "team"}} | config)
        yield made.build(ActionContext(ManualClock(T0), http))


async def plan_for(directory: Path, resource: str, rate: Any = PAUSE) -> Plan:
    async with cluster(directory, CLUSTER["list"]) as action:
        return next(plan for plan in await action.plan(SEARCH, rate) if f"/{resource}/" in plan.target)


async def test_lists_of_every_kind_are_read(tmp_path: Path) -> None:
    async with cluster(tmp_path, CLUSTER["list"]) as action:
        plans = [*await action.plan(SEARCH, PAUSE), *await action.plan(SEARCH, NORMAL)]
    assert {(plan.target.split("/")[3], *plan.before.items(), *plan.after.items()) for plan in plans} == {
        ("jobs", ("suspend", False), ("suspend", True)),
        ("cronjobs", ("suspend", False), ("suspend", True)),
        ("deployments", ("replicas", 3), ("replicas", 0)),
        ("deployments", ("replicas", 3), ("replicas", 1)),
        ("statefulsets", ("replicas", 2), ("replicas", 0)),
        ("statefulsets", ("replicas", 2), ("replicas", 1)),
        ("horizontalpodautoscalers", ("maxReplicas", 9), ("maxReplicas", 2)),
    }
    assert all(plan.identity.startswith("00000000-") for plan in plans)
    assert "hunter2" not in str(plans)


@pytest.mark.parametrize(
    ("resource", "hold", "give_back"), [("jobs", "hold_job", "resume_job"), ("deployments", "scale_down", "scale_up")]
)
async def test_changes_are_taken(tmp_path: Path, resource: str, hold: str, give_back: str) -> None:
    plan = await plan_for(tmp_path, resource)
    for name in (hold, give_back):
        assert [each.status for each in CLUSTER[name]] == [200, 200, 201]
    async with cluster(tmp_path, CLUSTER[hold], like=True) as action:
        await action.apply(plan)
    async with cluster(tmp_path, CLUSTER[give_back][:1]) as action:
        assert (await action.verify(plan)).in_force
    async with cluster(tmp_path, CLUSTER[give_back], like=True) as action:
        await action.undo(plan, None)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("unauthorized", PermanentError, "HTTP 401: Unauthorized"),
        ("forbidden", PermanentError, 'HTTP 403: jobs.batch is forbidden: User "system:serviceaccount:answers:nobody"'),
        ("no_such_version", PermanentError, "argoproj.io/v1alpha1/namespaces/answers/workflows: HTTP 404"),
    ],
)
async def test_lists_that_are_refused(tmp_path: Path, name: str, error: type[Exception], said: str) -> None:
    objects = ["workflows"] if name == "no_such_version" else ["jobs"]
    async with cluster(tmp_path, CLUSTER[name], objects=objects) as action:
        with pytest.raises(error, match=said):
            await action.plan(SEARCH, PAUSE)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("conflict", TransientError, "HTTP 409: Operation cannot be fulfilled on jobs.batch .*has been modified"),
        ("another_object", PermanentError, "HTTP 422: .*metadata.uid: Invalid value: .*field is immutable"),
        ("denied", PermanentError, "HTTP 422: .*denied request: nothing changes before the quarter is closed"),
    ],
)
async def test_changes_that_are_refused(tmp_path: Path, name: str, error: type[Exception], said: str) -> None:
    """The server's own sentence reaches the refusal, and only a conflict is tried again."""
    plan = await plan_for(tmp_path, "jobs")
    async with cluster(tmp_path, [*CLUSTER["hold_job"][:1], *CLUSTER[name][-1:]]) as action:
        seen = await action.read(plan)
        assert seen is not None
        with pytest.raises(error, match=said):
            await action.write(plan, plan.after, seen)


async def test_a_value_that_the_server_finds_wrong(tmp_path: Path) -> None:
    plan = await plan_for(tmp_path, "horizontalpodautoscalers", NORMAL)
    discovery = [each for each in CLUSTER["list"] if each.request.startswith("GET /apis/autoscaling")]
    item = next(each for each in discovery if "horizontalpodautoscalers?" in each.request)
    one = item._replace(request=item.request.replace("?limit=500", "/web"), body=item.body["items"][0])
    async with cluster(tmp_path, [*discovery, one, *CLUSTER["invalid"]]) as action:
        seen = await action.read(plan)
        assert seen is not None
        with pytest.raises(PermanentError, match=r"HTTP 422: .*must be greater than 0"):
            await action.write(plan, {"maxReplicas": 0}, seen)


async def test_only_the_object_s_own_404_is_gone(tmp_path: Path) -> None:
    plan = await plan_for(tmp_path, "jobs")
    gone = replace(plan, target=plan.target.replace("/train", "/gone"))
    async with cluster(tmp_path, CLUSTER["gone"]) as action:
        assert await action.read(gone) is None
    (of_version,) = CLUSTER["no_such_version"]
    (of_another,) = CLUSTER["gone"]
    for answer in (of_version, of_another):
        async with cluster(tmp_path, [answer._replace(request=READ)]) as action:
            with pytest.raises(NoSuchResourceError):
                await action.read(plan)


async def test_owners_are_read_from_pods(tmp_path: Path) -> None:
    async with replayed(CLUSTER["pods"]) as url, aiohttp.ClientSession() as http:
        settings = KubernetesSettings(url=url, account=account(tmp_path))
        api = KubernetesApi(settings, http, ManualClock(T0))
        await api.refresh()
    (pod,) = api.cluster.pods.values()
    assert (pod.owner, pod.node, pod.labels["team"]) == (("CronJob", "nightly"), "answers", "search")
    assert api.cluster.nodes == {"answers": {"pool": "gpu"}}
    assert api.cluster.namespaces == {"answers": {"kubernetes.io/metadata.name": "answers"}}


# --- Alertmanager -------------------------------------------------------------------------------------------------


async def send(name: str, *, like: bool = False, **changes: Any) -> None:
    async with replayed(ALERTMANAGER[name], like=like) as url, aiohttp.ClientSession() as http:
        path = "/am" if name == "no_such_path" else ""
        known = {"kind": "alertmanager", "name": "am", "urls": [f"{url}{path}"]}
        notifier = AlertmanagerConfig.model_validate(known).build(ActionContext(ManualClock(T0), http))
        await notifier.send(Notice("k", an_alert(**changes)), "")


@pytest.mark.parametrize("name", ["taken", "over"])
async def test_alerts_are_taken(name: str) -> None:
    await send(name, like=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ends_before_it_starts", "HTTP 400: start time must be before end time"),
        ("no_such_path", "/am/api/v2/alerts: HTTP 404"),
        ("no_labels", "HTTP 422: 0.labels in body is required"),
        ("one_of_two", 'HTTP 400: invalid label set: invalid name "a-b"'),
        ("no_such_label", 'HTTP 400: invalid label set: invalid name "a-b"'),
        ("no_value", "HTTP 400: at least one label pair required"),
        ("no_time", 'HTTP 400: .*cannot parse "yesterday"'),
    ],
)
async def test_alerts_that_are_refused(name: str, said: str) -> None:
    with pytest.raises(PermanentError, match=said):
        await send(name)


# --- stores of bills ----------------------------------------------------------------------------------------------


def reader(url: str, state: Path, place: str = "s3://bill/focus") -> BillReader:
    """Of FOCUS files."""
    keys = {"access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}
    return BillReader("focus_file", place, {"endpoint_url": url} | keys, state, clock=ManualClock(T0))


@pytest.mark.parametrize("name", STORES)
async def test_a_store_that_lists_milliseconds_is_read_once(name: str, tmp_path: Path) -> None:
    exchanges = STORES[name]["read"]
    listed = next(each for each in exchanges if "max-keys=1000" in each.request)
    looked = next(each for each in exchanges if each.request == "HEAD /bill/focus/june.csv")
    assert "<LastModified>2026-01-01T00:00:00.123Z</LastModified>" in listed.body
    assert looked.headers["Last-Modified"] == "Thu, 01 Jan 2026 00:00:00 GMT"
    assert any(looked.headers["Etag"].strip('"') in line for line in listed.body)
    async with replayed(exchanges) as url:
        bill = reader(url, tmp_path)
        assert await bill.all() == [1.5, 2.25]
        assert await bill.all() == [1.5, 2.25]
        assert bill.log.dead_letters() == []
        await bill.close()


@pytest.mark.parametrize("name", STORES)
async def test_a_file_that_is_written_over_within_the_second_is_read_again(name: str, tmp_path: Path) -> None:
    """Size and second are the same; only the ETag is another."""
    exchanges = STORES[name]["read"]
    at = next(index for index, each in enumerate(exchanges) if each.request == "HEAD /bill/focus/june.csv")
    over = exchanges[at]._replace(headers=exchanges[at].headers | {"Etag": '"another"'})
    async with replayed([*exchanges[: at + 1], *[exchanges[at]] * 3, over, *exchanges[at + 1 :]]) as url:
        bill = reader(url, tmp_path)
        with pytest.raises(TransientError, match=r"june\.csv: changed while it was read"):
            await bill.connector.read(None)
        assert await bill.all() == [1.5, 2.25]
        await bill.close()


@pytest.mark.parametrize("name", STORES)
async def test_a_bucket_that_is_not_there(name: str, tmp_path: Path) -> None:
    async with replayed(STORES[name]["no_such_place"]) as url:
        bill = reader(url, tmp_path, "s3://nobody/focus")
        with pytest.raises(PermanentError, match="there is no nobody, or it may not be listed"):
            await bill.all()
        await bill.close()


async def test_credentials_that_are_refused(tmp_path: Path) -> None:
    async with replayed(STORES["minio"]["refused"]) as url:
        bill = reader(url, tmp_path)
        with pytest.raises(PermanentError, match="ACCESS_DENIED"):
            await bill.all()
        await bill.close()


class Shown(AbstractFileSystem):  # type: ignore[misc]
    """Blobs as adlfs showed them, over the file that Azurite gave."""

    protocol = "az"
    cachable = False
    #: Paths whose ETag is another one each time.
    restless: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        super().__init__()
        _, found = AZURITE["adlfs"]
        self._found = {path: info | {"last_modified": _moment(info)} for path, info in found.body.items()}
        self._asked = 0

    def info(self, path: str, **_options: Any) -> Any:
        if path in self._found:
            self._asked += 1
            return self._found[path] | ({"etag": f"{self._asked}"} if path in self.restless else {})
        if any(each.startswith(f"{path}/") for each in self._found):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def find(self, path: str, **_options: Any) -> Any:
        return {each: info for each, info in self._found.items() if each.startswith(f"{path}/")}

    def _open(self, path: str, mode: str = "rb", **_options: Any) -> Any:
        given = next(each for each in AZURITE["read"] if each.request.startswith(f"GET /devstoreaccount1/{path} "))
        return io.BytesIO(given.content)


def _moment(info: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(info["last_modified"])


@pytest.fixture
def shown() -> Iterator[type[Shown]]:
    fsspec.register_implementation("az", Shown, clobber=True)
    yield Shown
    Shown.restless.clear()
    _registry.pop("az")


async def test_blobs_are_read_once(shown: type[Shown], tmp_path: Path) -> None:
    bill = reader("", tmp_path, "az://bill/focus")
    assert await bill.all() == [1.5, 2.25]
    assert await bill.all() == [1.5, 2.25]
    await bill.close()


async def test_a_blob_that_is_written_over_is_read_again(shown: type[Shown], tmp_path: Path) -> None:
    bill = reader("", tmp_path, "az://bill/focus")
    shown.restless.add("bill/focus/june.csv")
    with pytest.raises(TransientError, match=r"june\.csv: changed while it was read"):
        await bill.connector.read(None)
    shown.restless.clear()
    assert await bill.all() == [1.5, 2.25]
    await bill.close()
