"""A kubeconfig on a real API server: credential plugins that give a token or a certificate."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from curb.actions.target import TargetRate
from curb.actions.workloads.kubernetes import Kubernetes
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from tests.fakes.alerts import an_alert
from tests.real.control_plane import kubeconfig
from tests.real.kubernetes_cluster import Cluster, a_cluster
from tests.real.kubernetes_world import until
from tests.real.test_kubernetes import until_it_works

pytestmark = pytest.mark.real

V1 = "client.authentication.k8s.io/v1"
SEARCH = an_alert(tags={"team": "search"})
_SIGNING = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


class Plugin:
    """A kubeconfig with a plugin, and what it gives."""

    def __init__(self, directory: Path, cluster: Cluster) -> None:
        self._gives = directory / "gives"
        command = directory / "plugin"
        command.write_text(f"#!/bin/sh\ncat '{self._gives}'\n")
        command.chmod(0o700)
        user = {"exec": {"apiVersion": V1, "command": str(command), "interactiveMode": "Never"}}
        self.path = directory / "config"
        self.path.write_text(json.dumps(kubeconfig(cluster.url, cluster.account / "ca.crt", user)))

    def gives(self, **status: str) -> None:
        self._gives.write_text(json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": status}))


@pytest.fixture
async def around(tmp_path: Path) -> AsyncIterator[tuple[Cluster, Plugin, Kubernetes]]:
    async with a_cluster() as cluster, aiohttp.ClientSession() as http:
        if not (cluster.account / "ca.crt").exists():
            pytest.skip("kubernetes: the API server is signed by a public authority")
        await cluster.make("deployments")
        plugin = Plugin(tmp_path, cluster)
        where = {"kubeconfig": str(plugin.path), "run_plugin": True}
        yield cluster, plugin, cluster.action(http, WallClock(), cluster=where, objects=["deployments"])


async def held_and_given_back(cluster: Cluster, action: Kubernetes) -> None:
    (plan,) = await action.plan(SEARCH, TargetRate("pause"))
    assert plan.target.startswith("kubernetes/127.0.0.1/")
    await until_it_works(lambda: action.apply(plan))
    assert (await cluster.get("deployments"))["spec"]["replicas"] == 0
    await until_it_works(lambda: action.undo(plan, None))
    assert (await cluster.get("deployments"))["spec"]["replicas"] == 3


async def test_a_token_of_a_plugin_and_the_next_one_when_it_is_refused(around: Any) -> None:
    cluster, plugin, action = around
    plugin.gives(token="x.y.z")
    with pytest.raises(PermanentError, match="HTTP 401: Unauthorized"):
        await action.plan(SEARCH, TargetRate("pause"))
    plugin.gives(token=(cluster.account / "token").read_text().strip())
    await held_and_given_back(cluster, action)


async def test_a_certificate_of_a_plugin(around: Any) -> None:
    """As the cluster's own authority signs it for a user, who may do what a RoleBinding says."""
    cluster, plugin, action = around
    name, key = cluster.namespace, ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()
    spec = {"request": pem, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}
    made = await cluster.ask("POST", _SIGNING, {"metadata": {"name": name}, "spec": spec})
    made["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": ""}]}
    await cluster.ask("PUT", f"{_SIGNING}/{name}/approval", made)
    signed: dict[str, Any] = {}

    async def is_signed() -> bool:
        signed.update((await cluster.ask("GET", f"{_SIGNING}/{name}"))["status"])
        return "certificate" in signed

    await until(is_signed)
    await cluster.ask("DELETE", f"{_SIGNING}/{name}")
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}
    users = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/rolebindings"
    await cluster.ask("POST", path, {"metadata": {"name": "user"}, "roleRef": role, "subjects": users})
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = base64.b64decode(signed["certificate"]).decode()
    plugin.gives(clientCertificateData=certificate + os.linesep, clientKeyData=secret.decode())

    async def is_allowed() -> bool:
        try:
            return len(await action.plan(SEARCH, TargetRate("pause"))) == 1
        except PermanentError:
            return False

    await until(is_allowed)
    await held_and_given_back(cluster, action)
