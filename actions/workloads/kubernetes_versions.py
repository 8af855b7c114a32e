"""In which version an API server serves each kind of object, and requests that find out when it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from curb.actions.workloads.kubernetes_levers import LEVERS, Lever
from curb.stream.clients.kubernetes import KubernetesAnswer, KubernetesClient, NoSuchResourceError
from curb.stream.clock import Clock
from curb.stream.errors import TransientError

T = TypeVar("T")

#: Seconds for which the served versions of an API are remembered. By hand: an upgrade of an operator takes minutes.
_VERSIONS_S = 600.0


class _Version(msgspec.Struct):
    version: str = ""


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class _Kind(msgspec.Struct):
    name: str = ""


class _Kinds(msgspec.Struct):
    resources: list[_Kind] = []


class ServedVersions:
    """Which version of an API is asked: the newest that Curb knows and the server serves, found out now and then.

    Each kind of object has its own: an operator that is upgraded replaces the definitions of its kinds one by one.
    """

    def __init__(self, client: KubernetesClient, clock: Clock) -> None:
        self._client, self._clock = client, clock
        #: Resource → the version, and until when it is remembered on the steady clock.
        self._known: dict[str, tuple[str, float]] = {}

    async def path(self, resource: str) -> str:
        """Such as /apis/batch/v1. PermanentError when the server serves none of the versions."""
        lever = LEVERS[resource]
        if len(lever.versions) == 1:
            return f"/apis/{lever.group}/{lever.versions[0]}"
        version, until = self._known.get(resource, ("", 0.0))
        if not version or self._clock.steady() >= until:
            version = await self._served(resource, lever)
            self._known[resource] = (version, self._clock.steady() + _VERSIONS_S)
        return f"/apis/{lever.group}/{version}"

    def forget(self, resource: str) -> None:
        self._known.pop(resource, None)

    async def ask(
        self, resource: str, method: str, place: str, *, patch: Mapping[str, Any] | None = None, also: tuple[int, ...]
    ) -> KubernetesAnswer:
        """A request below the API of a lever; once more when the version that was known is served no longer."""
        path = await self.path(resource)
        try:
            return await self._client.request(method, f"{path}/{place}", patch=patch, also=also)
        except NoSuchResourceError:
            self.forget(resource)
            if (other := await self.path(resource)) == path:
                raise
            return await self._client.request(method, f"{other}/{place}", patch=patch, also=also)

    async def _served(self, resource: str, lever: Lever) -> str:
        served = {each.version for each in (await self._read(f"/apis/{lever.group}", _Group)).versions}
        known = [version for version in lever.versions if version in served]
        for version in known:
            kinds = await self._read(f"/apis/{lever.group}/{version}", _Kinds) if len(known) > 1 else None
            if kinds is None or resource in {each.name for each in kinds.resources}:
                return version
        ours, there = ", ".join(lever.versions), ", ".join(sorted(served)) or "none"
        raise NoSuchResourceError(f"the cluster serves {lever.group} as {there}, and Curb knows {resource} in {ours}")

    async def _read(self, path: str, as_type: type[T]) -> T:
        answer = await self._client.request("GET", path)
        try:
            return msgspec.json.decode(answer.body, type=as_type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TransientError(f"GET {path}: the answer is not readable") from error
