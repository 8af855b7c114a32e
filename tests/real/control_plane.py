"""A Kubernetes control plane on loopback: API server and controller manager built from their Go modules, and etcd.

Built once, in a quarter of an hour on two cores, and kept in the cache; up in some ten seconds then. There is no node,
so no pod ever runs: what Curb does is to objects.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.ports import free_port
from tests.real.cache import cache, locked, say
from tests.real.certificates import Authority

VERSION = "1.34.4"
_PROGRAMS = ("kube-apiserver", "kube-controller-manager")
_READY_S = 120.0


def binaries(*, build: bool) -> Path | None:
    """The directory of the programs, from the cache; built first where that is asked for and there is Go."""
    found = cache() / f"kubernetes-{VERSION}"
    with locked("kubernetes"):
        if all((found / name).exists() for name in _PROGRAMS):
            return found
        if not build or shutil.which("go") is None:
            return None
        say("kubernetes", f"building {VERSION} from its Go modules (a quarter of an hour on two cores, once)")
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            _build(Path(work), found)
    return found


def _build(work: Path, out: Path) -> None:
    module = _run(["go", "mod", "download", "-json", f"k8s.io/kubernetes@v{VERSION}"], work)
    own = re.search(r'"GoMod": "([^"]+)"', module)
    assert own is not None, module
    text = Path(own[1]).read_text(encoding="utf-8")
    # The repository's own parts are modules of their own on the proxy.
    text = re.sub(r"=> \./staging/src/(k8s\.io/\S+)", rf"=> \1 v0.{VERSION.partition('.')[2]}", text)
    text = text.replace("module k8s.io/kubernetes\n", "module curb.tests/kubernetes\n")
    (work / "go.mod").write_text(f"{text}\nrequire k8s.io/kubernetes v{VERSION}\n", encoding="utf-8")
    major, minor, _ = VERSION.split(".")
    stamp = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={said}" for name, said in stamp.items())])
    for name in _PROGRAMS:
        began = time.monotonic()
        command = ["go", "build", "-p", "2", f"-ldflags={flags}", "-o", f"bin/{name}", f"k8s.io/kubernetes/cmd/{name}"]
        _run(["nice", "-n", "5", *command], work)
        say("kubernetes", f"{name} is built, in {time.monotonic() - began:.0f} s")
    (work / "bin").rename(out)


def _run(command: list[str], work: Path) -> str:
    environment = os.environ | {"GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def control_plane(programs: Path, etcd: str) -> Iterator[str]:
    """Running until the block ends: what CURB_TEST_KUBERNETES is to be."""
    with tempfile.TemporaryDirectory(prefix="curb-kubernetes-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        authority, port, store, peers = Authority(directory, "ca"), free_port(), free_port(), free_port()
        certificate, key = authority.issue("kube-apiserver")
        account, token = directory / "account", secrets.token_hex(16)
        account.mkdir()
        (account / "token").write_text(token, encoding="utf-8")
        shutil.copy(authority.file, account / "ca.crt")
        (directory / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n', encoding="utf-8")
        signing = _signing_key(directory)
        url = f"https://127.0.0.1:{port}"
        kubeconfig = directory / "admin.conf"
        kubeconfig.write_text(_KUBECONFIG.format(url=url, authority=authority.file, token=token), encoding="utf-8")
        at, with_peers = f"http://127.0.0.1:{store}", f"http://127.0.0.1:{peers}"
        commands = [
            _command(
                Path(etcd),
                data_dir=directory / "etcd",
                listen_client_urls=at,
                advertise_client_urls=at,
                listen_peer_urls=with_peers,
                initial_advertise_peer_urls=with_peers,
                initial_cluster=f"default={with_peers}",
            ),
            _command(
                programs / "kube-apiserver",
                etcd_servers=at,
                secure_port=port,
                bind_address="127.0.0.1",
                cert_dir=directory / "certificates",
                tls_cert_file=certificate,
                tls_private_key_file=key,
                authorization_mode="RBAC",
                token_auth_file=directory / "tokens.csv",
                service_account_issuer="https://kubernetes.default.svc",
                service_account_key_file=signing,
                service_account_signing_key_file=signing,
                service_cluster_ip_range="10.96.0.0/16",
            ),
            _command(
                programs / "kube-controller-manager",
                kubeconfig=kubeconfig,
                secure_port=free_port(),
                bind_address="127.0.0.1",
                cert_dir=directory / "more",
                service_account_private_key_file=signing,
                root_ca_file=authority.file,
                leader_elect="false",
                controllers="*,-cloud-node-lifecycle-controller",
            ),
        ]
        for command in commands[:2]:
            stack.enter_context(_running(command, directory))
        _wait_until_ready(url, token, authority, directory)
        stack.enter_context(_running(commands[2], directory))
        yield f"{url},{account}"


_KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{url}", certificate-authority: "{authority}"}}}}]
users: [{{name: u, user: {{token: "{token}"}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


def _command(program: Path, **flags: object) -> list[str]:
    return [str(program), *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())]


def _signing_key(directory: Path) -> Path:
    """The key of service accounts' tokens."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = directory / "accounts.key"
    form = serialization.PrivateFormat.TraditionalOpenSSL
    path.write_bytes(made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return path


@contextlib.contextmanager
def _running(command: list[str], directory: Path) -> Iterator[None]:
    with (directory / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, token: str, authority: Authority, directory: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(authority.file))
    request = urllib.request.Request(f"{url}/readyz", headers={"Authorization": f"Bearer {token}"})
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2, context=trusted) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    lines = (directory / "kube-apiserver.log").read_text(encoding="utf-8", errors="replace")
    raise OSError(f"the API server did not start: {lines[-2000:]}")
