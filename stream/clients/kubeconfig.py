"""Who Curb is to a Kubernetes API server by a kubeconfig: a token, a certificate, or a credential plugin.

Plugins are run as client-go runs them: a command that prints an ExecCredential, kept until it expires or is refused.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError

#: Seconds for a credential plugin. By hand: it may ask a cloud for a token, and a lease may wait for it.
_PLUGIN_S = 30.0
#: Seconds before its end at which a new credential is asked for. By hand: longer than one request takes.
_EARLY_S = 30.0
_PLUGIN_APIS = frozenset({"client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"})
#: Of a user, ways to show who one is that Curb does not have.
_UNKNOWN = ("username", "auth-provider", "as")


class Identity(NamedTuple):
    """Where the API server is, and how Curb shows who it is. `tls` is None for what a public authority signs."""

    server: str
    token: str
    tls: ssl.SSLContext | None


class _Credential(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _Credential = msgspec.field(default_factory=_Credential)


class _Parts(NamedTuple):
    """What the file says of one context."""

    cluster: Mapping[str, Any]
    user: Mapping[str, Any]


class Kubeconfig:
    """One context of a file, which is read again when it changes. `run_plugin`: whether its command may be run."""

    def __init__(self, path: Path, context: str, clock: Clock, *, run_plugin: bool) -> None:
        self._path, self._context, self._clock, self._run_plugin = path.expanduser(), context, clock, run_plugin
        self._parts: tuple[int, _Parts] | None = None
        #: What the plugin gave; None when it has to be asked.
        self._given: _Credential | None = None
        self._tls: tuple[object, ssl.SSLContext | None] | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def server(self) -> str:
        """Address of the API server; PermanentError when the file does not say."""
        found = self._read().cluster.get("server")
        if not isinstance(found, str) or not found.startswith(("https://", "http://")):
            raise PermanentError(f"{self._path}: the cluster has no server")
        return found.rstrip("/")

    async def identity(self) -> Identity:
        parts = self._read()
        user = parts.user
        given = await self._credential(user, parts.cluster) if "exec" in user else _Credential()
        token = given.token or self._token(user)
        return Identity(self.server, token, self._context_for(parts, given))

    def refused(self) -> None:
        """The server says 401: what the plugin gave is not used again."""
        self._given = None

    # --- the file ---

    def _read(self) -> _Parts:
        try:
            changed = self._path.stat().st_mtime_ns
            if self._parts is None or self._parts[0] != changed:
                found = yaml.safe_load(self._path.read_text(encoding="utf-8"))
                self._parts, self._given, self._tls = (changed, self._chosen(found)), None, None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PermanentError(f"{self._path}: not a readable kubeconfig ({type(error).__name__})") from error
        return self._parts[1]

    def _chosen(self, found: Any) -> _Parts:
        if not isinstance(found, dict):
            raise PermanentError(f"{self._path}: not a kubeconfig")
        name = self._context or found.get("current-context") or ""
        context = self._named(found, "contexts", name).get("context") or {}
        cluster = self._named(found, "clusters", context.get("cluster")).get("cluster") or {}
        user = self._named(found, "users", context.get("user")).get("user") or {}
        if cluster.get("insecure-skip-tls-verify"):
            raise PermanentError(f"{self._path}: insecure-skip-tls-verify is refused: name the authority")
        if cluster.get("proxy-url"):
            raise PermanentError(f"{self._path}: Curb does not know proxy-url")
        if unknown := [each for each in _UNKNOWN if each in user]:
            raise PermanentError(f"{self._path}: Curb does not know {unknown[0]} of a user")
        return _Parts(cluster, user)

    def _named(self, found: Mapping[str, Any], what: str, name: Any) -> Mapping[str, Any]:
        each = found.get(what)
        for one in each if isinstance(each, list) else ():
            if isinstance(one, dict) and one.get("name") == name:
                return one
        raise PermanentError(f"{self._path}: {what} has no {name!r}")

    def _bytes(self, where: Mapping[str, Any], name: str) -> bytes:
        """What stands in the file in base64, or in the file it names, from the kubeconfig's directory on."""
        if data := where.get(f"{name}-data"):
            return self._plain(data, name)
        return self._file(where[name]) if where.get(name) else b""

    def _plain(self, data: Any, name: str) -> bytes:
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise PermanentError(f"{self._path}: {name}-data is not base64") from error

    def _file(self, name: Any) -> bytes:
        path = self._path.parent / str(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise PermanentError(f"{path}: cannot be read ({type(error).__name__})") from error

    def _token(self, user: Mapping[str, Any]) -> str:
        if user.get("tokenFile"):
            return self._file(user["tokenFile"]).decode("utf-8", "replace").strip()
        return str(user.get("token") or "")

    # --- the certificates ---

    def _context_for(self, parts: _Parts, given: _Credential) -> ssl.SSLContext | None:
        """One context for as long as nothing changes: connections are kept by it."""
        authority = self._bytes(parts.cluster, "certificate-authority")
        certificate = given.client_certificate_data.encode() or self._bytes(parts.user, "client-certificate")
        key = given.client_key_data.encode() or self._bytes(parts.user, "client-key")
        made_of = (authority, certificate, key)
        if self._tls is None or self._tls[0] != made_of:
            self._tls = (made_of, self._made(authority, certificate, key) if authority or certificate else None)
        return self._tls[1]

    def _made(self, authority: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
        try:
            made = ssl.create_default_context(cadata=authority.decode() if authority else None)
            if certificate:
                with tempfile.NamedTemporaryFile() as file:  # 0600; Python loads certificates from files only
                    file.write(certificate + b"\n" + key)
                    file.flush()
                    made.load_cert_chain(file.name)
        except (ssl.SSLError, ValueError, OSError) as error:
            raise PermanentError(f"{self._path}: not a readable certificate ({type(error).__name__})") from error
        return made

    # --- the plugin ---

    async def _credential(self, user: Mapping[str, Any], cluster: Mapping[str, Any]) -> _Credential:
        async with self._one_at_a_time:
            if self._given is None or self._is_over(self._given):
                self._given = None
                self._given = await self._ask(user["exec"], cluster)
            return self._given

    def _is_over(self, given: _Credential) -> bool:
        end = given.expiration_timestamp
        return end is not None and self._clock.now() >= end.timestamp() - _EARLY_S

    async def _ask(self, plugin: Any, cluster: Mapping[str, Any]) -> _Credential:
        if not self._run_plugin:
            raise PermanentError(f"{self._path}: it runs a command for credentials; allow it with run_plugin: true")
        if not isinstance(plugin, dict) or plugin.get("apiVersion") not in _PLUGIN_APIS or not plugin.get("command"):
            raise PermanentError(f"{self._path}: exec needs a command, and one of {', '.join(sorted(_PLUGIN_APIS))}")
        if plugin.get("interactiveMode") == "Always":
            raise PermanentError(f"{self._path}: exec asks a person (interactiveMode: Always), and nobody is there")
        output = await self._run(plugin, cluster)
        try:
            found = msgspec.json.decode(output, type=_ExecCredential)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PermanentError(f"{plugin['command']}: it prints no ExecCredential") from error
        given = found.status
        if found.kind != "ExecCredential" or found.api_version != plugin["apiVersion"]:
            raise PermanentError(f"{plugin['command']}: it prints {found.kind or 'nothing'} of {found.api_version}")
        if not given.token and not (given.client_certificate_data and given.client_key_data):
            raise PermanentError(f"{plugin['command']}: it gives neither a token nor a certificate with its key")
        if self._is_over(given):
            raise TransientError(f"{plugin['command']}: it gives a credential that is over")
        return given

    async def _run(self, plugin: Mapping[str, Any], cluster: Mapping[str, Any]) -> bytes:
        """What it prints. What it says when it fails is for its owner's log and may hold a secret."""
        command = str(plugin["command"])
        if "/" in command:
            command = str(self._path.parent / command)
        spec: dict[str, Any] = {"interactive": False}
        if plugin.get("provideClusterInfo"):
            authority = base64.b64encode(self._bytes(cluster, "certificate-authority")).decode()
            spec["cluster"] = {"server": self.server, "certificate-authority-data": authority}
        info = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": spec}
        more = {str(each["name"]): str(each["value"]) for each in plugin.get("env") or ()}
        try:
            process = await asyncio.create_subprocess_exec(
                command,
                *(str(each) for each in plugin.get("args") or ()),
                env={**os.environ, **more, "KUBERNETES_EXEC_INFO": json.dumps(info)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise PermanentError(f"{command}: cannot be run ({type(error).__name__})") from error
        try:
            async with asyncio.timeout(_PLUGIN_S):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise TransientError(f"{command}: no credential within {_PLUGIN_S:g} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            raise TransientError(f"{command}: it ended with {process.returncode}")
        return output
