"""A Kubernetes control plane of this machine's own: etcd, API server and controllers on loopback, and no node."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.real import operator_crds
from tests.real.cache import say
from tests.real.certificates import Authority
from tests.real.programs import AwayError, debian, go

KUBERNETES = "1.34.4"
_VERSION = "k8s.io/component-base/version"
#: Seconds until each part must be up. By hand: the API server took 22 s on two busy cores, 200 s where 20 tasks wait.
_UP_S = 600.0
#: Seconds for a process to end by itself. By hand: the API server lets running requests finish.
_END_S = 15.0


class ControlPlane:
    """`directory` holds what a client needs: `token`, of somebody who may do anything, and `ca.crt`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        #: In memory where there is such a place: etcd waits for the disk at every write.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="curb-kubernetes-", dir=memory)))
        self.directory = self._work / "account"
        self.directory.mkdir()
        self._token = secrets.token_hex(16)
        self._authority = Authority(self._work, "curb-tests")
        shutil.copy(self._authority.file, self.directory / "ca.crt")
        (self.directory / "token").write_text(self._token)
        self.url = ""
        self.version = ""

    def start(self) -> None:
        """AwayError when it does not come up."""
        programs = kubernetes_programs()
        store = self._etcd()
        self._api_server(programs, store)
        self._wait("the API server", lambda: self.ask("/readyz") == "ok")
        operator_crds.install(self.ask)
        self._controllers(programs)
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait("the controllers", lambda: "metadata" in json.loads(self.ask(account)))
        self.version = json.loads(self.ask("/version"))["gitVersion"].removeprefix("v")

    def _etcd(self) -> str:
        etcd = shutil.which("etcd") or str(debian("etcd-server", "etcd"))
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        options = {
            "data-dir": str(self._work / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        self._run("etcd", etcd, options)
        return client

    def _api_server(self, programs: Path, store: str) -> None:
        tokens = self._work / "tokens.csv"
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')
        certificate, key = self._authority.issue("kube-apiserver")
        signer, signing_key = self._authority.issue("service-accounts")
        port = free_port()
        self.url = f"https://127.0.0.1:{port}"
        options = {
            "etcd-servers": store,
            "bind-address": "127.0.0.1",
            "secure-port": str(port),
            "tls-cert-file": str(certificate),
            "tls-private-key-file": str(key),
            "client-ca-file": str(self._authority.file),
            "authorization-mode": "RBAC",
            "token-auth-file": str(tokens),
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": str(signer),
            "service-account-signing-key-file": str(signing_key),
            "service-cluster-ip-range": "10.96.0.0/16",
            "cert-dir": str(self._work / "certificates"),
        }
        self._run("kube-apiserver", str(programs / "kube-apiserver"), options)

    def _controllers(self, programs: Path) -> None:
        """Without a port. Autoscalers look every second, so that a test need not wait for them."""
        config = self._work / "controllers.json"
        config.write_text(json.dumps(kubeconfig(self.url, self.directory / "ca.crt", {"token": self._token})))
        options = {
            "kubeconfig": str(config),
            "service-account-private-key-file": str(self._work / "service-accounts.key"),
            "root-ca-file": str(self.directory / "ca.crt"),
            "cluster-signing-cert-file": str(self._authority.file),
            "cluster-signing-key-file": str(self._authority.key_file),
            "leader-elect": "false",
            "secure-port": "0",
            "horizontal-pod-autoscaler-sync-period": "1s",
            "concurrent-namespace-syncs": "20",
        }
        self._run("kube-controller-manager", str(programs / "kube-controller-manager"), options)

    def _run(self, name: str, program: str, options: dict[str, str]) -> None:
        log = self._stack.enter_context((self._work / f"{name}.log").open("wb"))
        command = [program, *(f"--{option}={value}" for option, value in options.items())]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self._work)
        self._stack.callback(_end, process)

    def _wait(self, what: str, is_up: Any) -> None:
        until = time.monotonic() + _UP_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError, ValueError):
                if is_up():
                    return
            time.sleep(0.2)
        logs = [path.read_text(errors="replace")[-300:] for path in self._work.glob("*.log")]
        raise AwayError(f"{what} did not come up in {_UP_S:.0f} s: {logs}")

    def ask(self, path: str, body: Any = None) -> str:
        """GET, or POST of a body."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body, default=str).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        tls = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        with urllib.request.urlopen(request, timeout=15, context=tls) as answer:
            return str(answer.read().decode())


def kubernetes_programs() -> Path:
    """The directory with kube-apiserver and kube-controller-manager; about a quarter of an hour the first time."""
    major, minor, patch = KUBERNETES.split(".")
    return go(
        "k8s.io/kubernetes",
        f"v{KUBERNETES}",
        ["k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager"],
        staging=f"v0.{minor}.{patch}",
        variables={
            f"{_VERSION}.gitVersion": f"v{KUBERNETES}",
            f"{_VERSION}.gitMajor": major,
            f"{_VERSION}.gitMinor": minor,
        },
    )


def kubeconfig(url: str, authority: Path, user: dict[str, Any]) -> dict[str, Any]:
    """As clients of Kubernetes read it; JSON is YAML."""
    cluster = {"server": url, "certificate-authority": str(authority)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def up(stack: contextlib.ExitStack) -> tuple[str, str]:
    """What CURB_TEST_KUBERNETES holds, and the version."""
    plane = ControlPlane(stack)
    plane.start()
    say("kubernetes", f"{plane.version} is up at {plane.url}")
    return f"{plane.url},{plane.directory}", plane.version


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
