"""Authorised requests to a Kubernetes API server: plain HTTP as a service account or by a kubeconfig, made once.

Not the official client: it brings a generated model of the whole API, which is built again for every object and refuses
objects it finds incomplete.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from pydantic import Field, model_validator
from yarl import URL

from curb.stream.clients.kubeconfig import Identity, Kubeconfig
from curb.stream.clients.reason import reason_in
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status
from curb.stream.settings import Settings

_MAX_BYTES = 64 * 1024 * 1024
#: Bytes of a refusal that are read. By hand: a Status with many causes.
_MAX_REFUSAL = 256 * 1024
_PAGE = 500
MERGE_PATCH = "application/merge-patch+json"


class KubernetesAccess(Settings):
    """Where the API server is and how Curb shows who it is."""

    url: str = Field(
        default="https://kubernetes.default.svc", pattern=r"^https?://", description="Address of the API server."
    )
    account: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Directory with the service account's `token` (read again for every request) and `ca.crt`.",
    )
    timeout_s: float = Field(default=15.0, gt=0, le=120, description="Longest wait for one answer.")
    kubeconfig: Path | None = Field(default=None, description="A kubeconfig, to use in place of `url` and `account`.")
    context: str = Field(default="", description="Its context. Default: its `current-context`.")
    run_plugin: bool = Field(
        default=False,
        description="Whether the credential plugin that the kubeconfig names (`exec`) may be run, with Curb's rights.",
    )

    @model_validator(mode="after")
    def _of_the_file(self) -> KubernetesAccess:
        if self.kubeconfig is None and (self.context or self.run_plugin):
            raise ValueError("context and run_plugin are about a kubeconfig: name the file")
        return self


class KubernetesAnswer(NamedTuple):
    """Status (200 to 299, or one of those asked for) and body. A 404 is of an object that the server does not have."""

    status: int
    body: bytes


class _ListMeta(msgspec.Struct, rename={"next": "continue"}):
    next: str = ""


class _List(msgspec.Struct):
    items: list[msgspec.Raw]
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)


_list_decoder = msgspec.json.Decoder(_List)


class NoSuchResourceError(PermanentError):
    """The server does not serve this kind in this version, or something in between does not know the address."""


class _Details(msgspec.Struct):
    name: str = ""


class _Refusal(msgspec.Struct):
    kind: str = ""
    reason: str = ""
    details: _Details = msgspec.field(default_factory=_Details)


def is_about(refusal: bytes, url: URL) -> bool:
    """Whether a 404 is the API server's own word that it does not have the object of this address."""
    try:
        said = msgspec.json.decode(refusal, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return said.kind == "Status" and said.reason == "NotFound" and said.details.name in url.parts[-2:]


class KubernetesClient:
    """Requests raise TransientError or PermanentError, whose messages name method, host and path only."""

    def __init__(self, access: KubernetesAccess, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._access, self._http, self._clock = access, http, clock
        self._kubeconfig: Kubeconfig | None = None
        if access.kubeconfig is not None:
            self._kubeconfig = Kubeconfig(access.kubeconfig, access.context, clock, run_plugin=access.run_plugin)
        self._context: tuple[int, ssl.SSLContext] | None = None

    @property
    def host(self) -> str | None:
        """Of the API server. PermanentError when the kubeconfig cannot be read."""
        return URL(self._access.url if self._kubeconfig is None else self._kubeconfig.server).host

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        patch: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        also: Sequence[int] = (),
    ) -> KubernetesAnswer:
        """One exchange; `patch` is sent as a JSON merge patch, `json` as it is. Statuses in `also` are no errors.

        NoSuchResourceError for a 404 that is not about the object: its kind or version is not served.
        """
        identity = await self._identity()
        url = URL(identity.server) / path.lstrip("/")
        what = f"{method} {url.host}{url.path}"
        headers = {"Accept": "application/json"} | _shown(identity)
        if patch is not None or json is not None:
            headers["Content-Type"] = "application/json" if patch is None else MERGE_PATCH
        body = patch if patch is not None else json
        try:
            async with self._http.request(
                method,
                url.with_query(query or {}),
                headers=headers,
                data=None if body is None else msgspec.json.encode(body),
                timeout=aiohttp.ClientTimeout(total=self._access.timeout_s),
                allow_redirects=False,
                ssl=True if identity.tls is None else identity.tls,
            ) as answer:
                if 300 <= answer.status < 400:
                    raise PermanentError(f"{what}: HTTP {answer.status} redirects elsewhere; configure the address")
                if answer.status == 401 and self._kubeconfig is not None:
                    self._kubeconfig.refused()
                if answer.status >= 400:
                    refusal = await answer.content.read(_MAX_REFUSAL)
                    if answer.status in also and (answer.status != 404 or is_about(refusal, url)):
                        return KubernetesAnswer(answer.status, refusal)
                    said = reason_in(refusal, (identity.token,))
                    error = error_for_status(answer.status, answer.headers, what, now=self._clock.now(), said=said)
                    if answer.status == 404 and not is_about(refusal, url):
                        error = NoSuchResourceError(str(error))
                    if error is not None:
                        raise error
                if answer.content_type != "application/json":
                    raise PermanentError(f"{what}: {answer.content_type} instead of application/json")
                read = await _read(answer.content)
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise TransientError(f"{what}: {type(failure).__name__}") from failure
        if read is None:
            raise PermanentError(f"{what}: the answer is longer than {_MAX_BYTES} bytes")
        return KubernetesAnswer(answer.status, read)

    async def items(self, path: str, **query: str) -> AsyncIterator[msgspec.Raw]:
        """Each object of a list, page by page, as JSON."""
        query = {"limit": str(_PAGE), **query}
        while True:
            answer = await self.request("GET", path, query=query)
            try:
                page = _list_decoder.decode(answer.body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise TransientError(f"GET {self.host}{path}: the list is not readable") from error
            for item in page.items:
                yield item
            if not page.metadata.next:
                return
            query["continue"] = page.metadata.next

    async def _identity(self) -> Identity:
        if self._kubeconfig is not None:
            return await self._kubeconfig.identity()
        return Identity(self._access.url, self._token(), self._tls())

    def _token(self) -> str:
        path = self._access.account / "token"
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(f"{path}: no service account token ({type(error).__name__})") from error

    def _tls(self) -> ssl.SSLContext | None:
        """The cluster's own authority. One context for as long as the file is the same: connections are kept by it."""
        authority = self._access.account / "ca.crt"
        if not self._access.url.startswith("https:") or not authority.exists():
            return None
        try:
            changed = authority.stat().st_mtime_ns
            if self._context is None or self._context[0] != changed:
                self._context = (changed, ssl.create_default_context(cafile=str(authority)))
        except OSError as error:  # ssl.SSLError is one
            raise PermanentError(f"{authority}: not a readable certificate ({type(error).__name__})") from error
        return self._context[1]


def _shown(identity: Identity) -> dict[str, str]:
    """Nothing where a certificate says who Curb is."""
    return {"Authorization": f"Bearer {identity.token}"} if identity.token else {}


async def _read(content: aiohttp.StreamReader) -> bytes | None:
    """The whole body, or None when it is too long."""
    body = await content.read(_MAX_BYTES + 1)
    while len(body) <= _MAX_BYTES and (more := await content.read(_MAX_BYTES + 1 - len(body))):
        body += more
    return body if len(body) <= _MAX_BYTES else None
