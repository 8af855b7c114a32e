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


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


#: Compose file → the configuration that it gives to Curb.
FILES = {"compose": "curb.compose.yaml", "compose.embedded": "curb.embedded.yaml"}
SERVICES: dict[str, dict[str, Any]] = {name: compose(name)["services"] for name in FILES}
EVERY = [*FILES, "compose.monitoring"]


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile in order."""
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    words = [line.split(None, 1) for line in lines if line.strip() and not line.startswith("#")]
    return [(word[0], word[1].strip()) for word in words]


# --- compose ------------------------------------------------------------------------------------------------------


def test_compose_runs_curb_its_reaper_and_the_gateway_with_kafka_or_without() -> None:
    with_kafka, without = SERVICES.values()
    assert set(with_kafka) == {"kafka", "curb", "reaper", "gateway"}
    assert set(without) == set(with_kafka) - {"kafka"}
    assert with_kafka["curb"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert with_kafka["gateway"] == without["gateway"]
    assert without["gateway"]["depends_on"]["curb"]["condition"] == "service_healthy"


def test_only_the_log_sets_the_two_configurations_apart() -> None:
    with_kafka, without = (yaml.safe_load((DEPLOY / file).read_text(encoding="utf-8")) for file in FILES.values())
    assert (with_kafka.pop("log")["kind"], without.pop("log")["kind"]) == ("kafka", "embedded")
    assert with_kafka == without


@pytest.mark.parametrize("name", FILES)
def test_the_reaper_lives_without_the_daemon_and_with_its_configuration(name: str) -> None:
    reaper, curb = SERVICES[name]["reaper"], SERVICES[name]["curb"]
    assert "curb" not in reaper.get("depends_on", {}), "it must start when curb cannot"
    assert reaper["environment"] == curb["environment"]
    assert reaper["command"] == ["reaper", "-c", "/etc/curb/curb.yaml"]
    assert reaper["volumes"][0] == curb["volumes"][0]


def test_the_reaper_reads_the_log_of_the_daemon() -> None:
    services = SERVICES["compose.embedded"]
    assert services["reaper"]["volumes"] == services["curb"]["volumes"]
    log = yaml.safe_load((DEPLOY / "curb.embedded.yaml").read_text(encoding="utf-8"))["log"]
    assert log["directory"].startswith(services["curb"]["volumes"][1].split(":")[1] + "/")


@pytest.mark.parametrize("name", FILES)
def test_containers_of_curb_can_write_their_volume_and_gain_nothing(name: str) -> None:
    for service in ("curb", "reaper", "gateway"):
        found = SERVICES[name][service]
        assert found["read_only"] is True
        assert (found["tmpfs"], found["cap_drop"], found["security_opt"]) == (["/tmp"], ["ALL"], ["no-new-privileges"])
        assert found["stop_grace_period"] == "30s", "a drain takes up to 20"


@pytest.mark.parametrize("name", EVERY)
def test_every_service_of_compose_that_listens_has_a_health_check(name: str) -> None:
    services = compose(name)["services"]
    without = [each for each, service in services.items() if "test" not in service.get("healthcheck", {})]
    assert without == [each for each in ("curb", "reaper") if each in services], f"no health check: {without}"
    if "reaper" in services:
        assert services["reaper"]["healthcheck"] == {"disable": True}, "nothing listens that could be asked"
    assert "/healthz" in dict(instructions())["HEALTHCHECK"], "curb's is the image's"


@pytest.mark.parametrize("name", EVERY)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    ports = [port for service in compose(name)["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", EVERY)
def test_volumes_and_mounts_exist(name: str) -> None:
    data = compose(name)
    for service in data["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in data["volumes"], mount


def test_prometheus_and_grafana_are_given_what_is_shipped() -> None:
    services = compose("compose.monitoring")["services"]
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    rules = [mount.split(":")[1] for mount in services["prometheus"]["volumes"] if "rules" in mount]
    assert rules == [f"/etc/prometheus/{name}" for name in scrape["rule_files"]]
    (job,) = scrape["scrape_configs"]
    assert (job["job_name"], job["static_configs"]) == ("curb", [{"targets": ["curb:8088"]}])
    provider = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yaml").read_text(encoding="utf-8"))["providers"][0]
    assert any(
        mount.split(":")[1] == f"{provider['options']['path']}/curb.json" for mount in services["grafana"]["volumes"]
    )
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasources.yaml").read_text(encoding="utf-8"))["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")


@pytest.mark.parametrize("name", FILES)
def test_compose_and_its_configuration_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    services = SERVICES[name]
    assert services["curb"]["volumes"][0] == f"./{FILES[name]}:/etc/curb/curb.yaml:ro"
    text = (DEPLOY / FILES[name]).read_text(encoding="utf-8")
    given = services["curb"]["environment"]
    assert set(environment(text)) == set(given), "curb gets exactly the variables its configuration reads"
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    config = load_text(text)
    port = config.http.port
    assert f"127.0.0.1:{port}:{port}" in services["curb"]["ports"]
    gateway = services["gateway"]["environment"]
    assert gateway["CURB_INGEST_URL"] == f"http://curb:{port}/v1/ingest/{config.connectors[0].name}"  # type: ignore[attr-defined]
    assert gateway["CURB_INGEST_TOKEN"] == given["CURB_INGEST_TOKEN"]
    assert gateway["CURB_GATEWAY_KEY"] == given["CURB_GATEWAY_KEY"]
    if "kafka" in services:
        listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert listeners == f"PLAINTEXT://{config.log.bootstrap_servers}"  # type: ignore[union-attr]


# --- image --------------------------------------------------------------------------------------------------------


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name; the image's own is the last and has none."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, arguments in instructions():
        if word == "FROM":
            stage = found[arguments.partition(" AS ")[2]] = []
        elif found:
            stage.append((word, arguments))
    return found


def sources(stage: str) -> list[str]:
    """What a stage copies from the checkout."""
    copies = (shlex.split(text) for word, text in stages()[stage] if word == "COPY" and "--from" not in text)
    return [path for words in copies for path in words[:-1]]


def test_image_takes_any_base_and_runs_as_nobody_special() -> None:
    found = instructions()
    assert found[0] == ("ARG", "BASE=python:3.11-slim")
    assert all(arguments.split()[0] == "${BASE}" for word, arguments in found if word == "FROM")
    users = [arguments for word, arguments in stages()[""] if word == "USER"]
    assert users, "runs as root"
    assert int(users[-1]) >= 1000


def test_image_starts_curb_with_its_configuration() -> None:
    found = dict(stages()[""])
    assert json.loads(found["ENTRYPOINT"]) == ["curb"]
    assert json.loads(found["CMD"]) == ["run", "-c", "/etc/curb/curb.yaml"]
    assert all(each["curb"]["volumes"][0].split(":")[1] == "/etc/curb/curb.yaml" for each in SERVICES.values())


def test_image_installs_what_its_locks_say_and_nothing_at_the_end() -> None:
    installs = {
        stage: [text for word, text in lines if word == "RUN" and "pip install" in text]
        for stage, lines in stages().items()
    }
    locked = "/opt/{}/bin/pip install --no-deps --require-hashes -r constraints/{}.txt"
    assert installs == {
        "build": [locked.format("curb", "run"), "/opt/curb/bin/pip install --no-deps --no-build-isolation ."],
        "sbom": [locked.format("sbom", "sbom")],
        "": [],
    }
    assert {"constraints/run.txt"} < set(sources("build"))
    assert "constraints/sbom.txt" in sources("sbom")


def test_image_has_a_bill_of_its_own_materials() -> None:
    (bill,) = (text for word, text in stages()["sbom"] if word == "RUN" and "cyclonedx" in text)
    assert bill.split()[-1] == "/opt/curb/bin/python", "of the environment that is shipped"
    assert ("COPY", "--from=build /opt/curb /opt/curb") in stages()["sbom"]
    written = shlex.split(bill)[shlex.split(bill).index("-o") + 1]
    assert ("COPY", f"--from=sbom {written} /usr/share/curb/sbom.cdx.json") in stages()[""]


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    copied = {path for stage in stages() for path in sources(stage)}
    assert copied == kept, "what .dockerignore lets through is what the Dockerfile copies"
    assert all((ROOT / path).exists() for path in copied), sorted(copied)
