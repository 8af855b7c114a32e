"""What is shipped for deployment fits together: image, compose file, configuration."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import yaml

from curb.config.file import load_text
from tests.house.tree import ROOT
from tests.house.yaml_blocks import environment

DEPLOY = ROOT / "deploy"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile in order."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    words = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
    return [(word[0], word[1].strip()) for word in words]


# --- compose ------------------------------------------------------------------------------------------------------


def test_compose_runs_kafka_curb_its_reaper_and_the_gateway() -> None:
    services = compose()["services"]
    assert set(services) == {"kafka", "curb", "reaper", "gateway"}
    assert services["curb"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert services["gateway"]["depends_on"]["curb"]["condition"] == "service_healthy"


def test_the_reaper_lives_without_the_daemon_and_with_its_configuration() -> None:
    services = compose()["services"]
    reaper, curb = services["reaper"], services["curb"]
    assert set(reaper["depends_on"]) == {"kafka"}, "it must start when curb cannot"
    assert reaper["environment"] == curb["environment"]
    assert reaper["command"] == ["reaper", "-c", "/etc/curb/curb.yaml"]
    assert reaper["volumes"][0] == curb["volumes"][0]


def test_every_service_of_compose_that_listens_has_a_health_check() -> None:
    dockerfile = dict(instructions())
    services = compose()["services"]
    without = [name for name, service in services.items() if "test" not in service.get("healthcheck", {})]
    assert without == ["curb", "reaper"], f"no health check: {without}"
    assert services["reaper"]["healthcheck"] == {"disable": True}, "nothing listens that could be asked"
    assert "/healthz" in dockerfile["HEALTHCHECK"], "curb's is the image's"


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_volumes_and_mounts_exist() -> None:
    data = compose()
    for service in data["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in data["volumes"], mount


def test_compose_and_its_configuration_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    services = compose()["services"]
    text = (DEPLOY / "curb.compose.yaml").read_text(encoding="utf-8")
    given = services["curb"]["environment"]
    assert set(environment(text)) == set(given), "curb gets exactly the variables its configuration reads"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    config = load_text(text)
    port = config.http.port
    assert f"127.0.0.1:{port}:{port}" in services["curb"]["ports"]
    gateway = services["gateway"]["environment"]
    assert gateway["CURB_INGEST_URL"] == f"http://curb:{port}/v1/ingest/{config.connectors[0].name}"  # type: ignore[attr-defined]
    assert gateway["CURB_INGEST_TOKEN"] == given["CURB_INGEST_TOKEN"]
    assert gateway["CURB_GATEWAY_KEY"] == given["CURB_GATEWAY_KEY"]
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert listeners == f"PLAINTEXT://{config.log.bootstrap_servers}"  # type: ignore[union-attr]


# --- image --------------------------------------------------------------------------------------------------------


def test_image_takes_any_base_and_runs_as_nobody_special() -> None:
    found = instructions()
    assert found[0] == ("ARG", "BASE=python:3.11-slim")
    assert all("${BASE}" in arguments for word, arguments in found if word == "FROM")
    users = [arguments for word, arguments in found if word == "USER"]
    assert users, "runs as root"
    assert int(users[-1]) >= 1000


def test_image_starts_curb_with_its_configuration() -> None:
    found = dict(instructions())
    assert json.loads(found["ENTRYPOINT"]) == ["curb"]
    assert json.loads(found["CMD"]) == ["run", "-c", "/etc/curb/curb.yaml"]
    assert compose()["services"]["curb"]["volumes"][0].split(":")[1] == "/etc/curb/curb.yaml"


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = set()
    for word, arguments in instructions():
        if word == "COPY" and "--from" not in arguments:
            copied.update(shlex.split(arguments)[:-1])
    assert copied == kept, "what .dockerignore lets through is what the Dockerfile copies"
    assert all((ROOT / path).exists() for path in copied), sorted(copied)
