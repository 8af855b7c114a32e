"""The image as an engine runs it: nobody special, a root that cannot be written, healthy, drained at SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.house.test_deploy import DEPLOY
from tests.packaging.test_lock import pins
from tests.require import require

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
HOW_TO = (
    "set CURB_TEST_IMAGE to the name of an image that docker or podman has (`deploy/image` builds `curb`);"
    " CURB_IMAGE_ENGINE names another engine"
)
#: As the how-to and the compose files run it.
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
#: Seconds for a start on a machine with a lot to do.
PATIENCE_S = 120.0


def engine() -> str:
    """The engine that has the image; skips where none is named."""
    if not os.environ.get("CURB_TEST_IMAGE"):
        require("image", f"no image: {HOW_TO}")
    named = os.environ.get("CURB_IMAGE_ENGINE", "")
    for each in filter(None, (named, "docker", "podman")):
        found = shutil.which(each)
        if found and subprocess.run([found, "version"], capture_output=True, check=False, timeout=60).returncode == 0:
            return found
    require("image", f"neither docker nor podman works here: {HOW_TO}")


def ask(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([engine(), *arguments], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def once(*command: str, options: tuple[str, ...] = (), code: int = 0) -> str:
    """The output of one command of the image, without a network."""
    return ask(
        "run",
        "--rm",
        "--network",
        "none",
        *HARDENED,
        *options,
        os.environ.get("CURB_TEST_IMAGE", ""),
        *command,
        code=code,
    )


def python(text: str) -> str:
    return once("-c", text, options=("--entrypoint", "python"))


@pytest.fixture(scope="module", autouse=True)
def image() -> str:
    engine()
    return os.environ["CURB_TEST_IMAGE"]


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options that give the configuration of compose.embedded.yaml to a container."""
    path = tmp_path_factory.mktemp("etc") / "curb.yaml"
    shutil.copy(DEPLOY / "curb.embedded.yaml", path)
    path.chmod(0o644)
    path.parent.chmod(0o755)
    names = ("CURB_API_TOKEN", "CURB_INGEST_TOKEN", "CURB_GATEWAY_KEY")
    given = [word for name in names for word in ("-e", f"{name}=local-token-of-a-test")]
    return (*given, "-v", f"{path}:/etc/curb/curb.yaml:ro")


def test_its_command_is_curb() -> None:
    assert once("--version").split()[-1] in (DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8")


def test_it_is_nobody_special_and_writes_its_volume_and_no_more() -> None:
    found = json.loads(
        python(
            "import json, os\n"
            "def may(path):\n"
            "    try: open(path, 'w').close()\n"
            "    except OSError: return False\n"
            "    return True\n"
            "places = ['/var/lib/curb/x', '/tmp/x', '/x', '/opt/curb/x', '/etc/curb/x', '/usr/share/curb/x']\n"
            "print(json.dumps([os.getuid(), [each for each in places if may(each)]]))"
        )
    )
    assert found == [10001, ["/var/lib/curb/x", "/tmp/x"]]


def test_every_package_it_has_is_in_its_bill_and_is_the_one_that_is_locked() -> None:
    bill = json.loads(python("print(open('/usr/share/curb/sbom.cdx.json').read())"))
    has = json.loads(
        python(
            "import json, importlib.metadata as m; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
        )
    )
    assert bill["bomFormat"] == "CycloneDX"
    listed = {(each["name"], each["version"]) for each in (bill["metadata"]["component"], *bill["components"])}
    assert {(plain(name), version) for name, version in has} == {(plain(name), version) for name, version in listed}
    locked = pins("constraints/run.txt")
    foreign = {name for name, version in listed if version not in locked.get(plain(name), ())}
    assert {plain(name) for name in foreign} <= {"curbd", "pip"}


def plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_it_checks_a_configuration(configuration: tuple[str, ...], tmp_path: Path) -> None:
    assert once("check-config", "-c", "/etc/curb/curb.yaml", options=configuration)
    wrong = tmp_path / "curb.yaml"
    wrong.write_text("htpp: {port: 1}\n", encoding="utf-8")
    wrong.chmod(0o644)
    tmp_path.chmod(0o755)
    once("check-config", "-c", "/wrong/curb.yaml", options=("-v", f"{tmp_path}:/wrong:ro"), code=2)


@pytest.fixture
def daemon(image: str, configuration: tuple[str, ...]) -> Iterator[str]:
    name = f"curb-test-{os.getpid()}"
    ask("run", "-d", "--name", name, "--network", "none", *HARDENED, *configuration, image)
    try:
        yield name
    finally:
        ask("rm", "-f", "-v", name)


def state(name: str) -> dict[str, Any]:
    (found,) = json.loads(ask("inspect", name))
    return dict(found["State"])


def is_healthy(name: str) -> bool:
    """What the image's own health check says now, without waiting for the engine's timer."""
    (found,) = json.loads(ask("inspect", name))
    test = found["Config"]["Healthcheck"]["Test"]
    assert test[0] == "CMD"
    done = subprocess.run([engine(), "exec", name, *test[1:]], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


async def test_the_daemon_becomes_healthy_and_is_drained_at_sigterm(daemon: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_healthy(daemon):
            assert state(daemon)["Running"], ask("logs", daemon)
            await asyncio.sleep(0.5)
    ask("stop", "-t", "60", daemon)
    assert state(daemon)["ExitCode"] == 0, "137 would be a kill"
