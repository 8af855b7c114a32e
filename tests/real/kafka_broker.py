"""A real Kafka broker for tests: one that is named, one in a container, or the broker's own jars as a process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from tests.ports import free_port
from tests.real.cache import cache, locked, say
from tests.require import require

KAFKA_VERSION = "4.1.1"
LOG4J_VERSION = "2.25.1"
IMAGE = f"apache/kafka:{KAFKA_VERSION}"
START_TIMEOUT_S = 90.0
HOW_TO = (
    "no broker: set CURB_TEST_KAFKA=host:port, or start a Docker daemon that has or can pull"
    f" {IMAGE}, or install Java 17 and Maven with access to Maven Central"
)
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
#: One broker that is its own controller; everything that is replicated has one copy.
_COMMON = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    # The controller refuses a killed broker that is back until the session of the old process is over; 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Below the 6 s of a broker as it comes, so that tests need not wait long for a member that was killed.
    "group.min.session.timeout.ms": "1000",
}


class Broker(Protocol):
    """`kill9` ends the broker at once, as a power cut would; `start` brings it back on the same data and port."""

    bootstrap: str
    #: False for a broker that belongs to somebody else.
    restartable: bool

    def start(self) -> None: ...

    def kill9(self) -> None: ...

    def stop(self) -> None: ...

    def last_lines(self) -> str:
        """The end of its log, for the message of a test that failed."""
        ...


class NamedBroker:
    """The broker of CURB_TEST_KAFKA. It is used, never stopped."""

    restartable = False

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def start(self) -> None:
        pass

    def kill9(self) -> None:
        raise AssertionError("this broker belongs to somebody else")

    stop = kill9

    def last_lines(self) -> str:
        return ""


class ProcessBroker:
    """The broker's jars run by Java; `directory` holds its data and its log file, broker.log.

    `listeners` are the names and ports of more listeners, `properties` what they need, `format_options` what is written
    before the first start, and `java_options` what the process gets.
    """

    restartable = True

    def __init__(
        self,
        jars: Path,
        directory: Path,
        listeners: Mapping[str, int] = MappingProxyType({}),
        properties: Mapping[str, str] = MappingProxyType({}),
        format_options: Sequence[str] = (),
        java_options: Sequence[str] = (),
    ) -> None:
        self._java = ["java", "-Xmx512m", "-XX:+UseSerialGC", *java_options, "-cp", f"{jars}/*"]
        self._directory, self._log = directory, directory / "broker.log"
        port, controller_port = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        self._more_ports = tuple(listeners.values())
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = directory / "server.properties"
        advertised = [f"{name}://127.0.0.1:{number}" for name, number in {"PLAINTEXT": port, **listeners}.items()]
        own = {
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": ",".join([*advertised, f"CONTROLLER://127.0.0.1:{controller_port}"]),
            "advertised.listeners": ",".join(advertised),
            "log.dirs": str(directory / "data"),
            **properties,
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in {**_COMMON, **own}.items()))
        logging = directory / "log4j2.properties"
        logging.write_text(
            "appender.out.type=Console\nappender.out.name=out\nappender.out.layout.type=PatternLayout\n"
            "appender.out.layout.pattern=%d %p %c{1}: %m%n\nrootLogger.level=INFO\nrootLogger.appenderRef.out.ref=out\n"
        )
        self._java.insert(1, f"-Dlog4j2.configurationFile={logging}")
        self._run_tool(
            "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._properties), *format_options
        )

    def _run_tool(self, *arguments: str) -> None:
        done = subprocess.run([*self._java, *arguments], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{arguments[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", str(self._properties)], stdout=log, stderr=log, cwd=self._directory
            )
        _wait_until_open(self, self._alive, self._more_ports)

    def last_lines(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill9(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ContainerBroker:
    """The project's own image in a container, on a fixed port so that it comes back where it was."""

    restartable = True

    def __init__(self) -> None:
        from testcontainers.core.container import DockerContainer

        port = free_port()
        container = DockerContainer(IMAGE).with_bind_ports(9092, port)
        host = container.get_container_host_ip()
        self.bootstrap = f"{host}:{port}"
        own = {
            "controller.quorum.voters": "1@localhost:9093",
            "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }
        for key, value in {**_COMMON, **own}.items():
            container = container.with_env("KAFKA_" + key.upper().replace(".", "_"), value)
        self._container: Any = container.with_env("CLUSTER_ID", _CLUSTER_ID)
        self._created = False

    def start(self) -> None:
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True
        _wait_until_open(self, lambda: True)

    def last_lines(self) -> str:
        out, err = self._container.get_logs()
        return (out + err).decode(errors="replace")[-3000:]

    def kill9(self) -> None:
        self._container.get_wrapped_container().kill()

    def stop(self) -> None:
        self._container.stop()


def shared_broker() -> Broker:
    """The broker of this test session, running. Skips, or fails where CURB_TEST_REQUIRE asks for Kafka."""
    broker = _find_broker()
    if broker is None:
        require("kafka", HOW_TO)
    return broker


@functools.cache
def _find_broker() -> Broker | None:
    named = os.environ.get("CURB_TEST_KAFKA")
    if named:
        return NamedBroker(named)
    broker: Broker | None = None
    if _image_at_hand():
        broker = ContainerBroker()
    elif shutil.which("java"):
        jars = broker_jars()
        if jars is not None:
            directory = Path(tempfile.mkdtemp(prefix="curb-kafka-"))
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            broker = ProcessBroker(jars, directory)
    if broker is not None:
        atexit.register(broker.stop)
        broker.start()
    return broker


def _image_at_hand() -> bool:
    if "DOCKER_HOST" not in os.environ and not _daemon_answers():
        return False
    import docker
    from docker.errors import DockerException

    with contextlib.suppress(DockerException), contextlib.closing(docker.from_env(timeout=300)) as client:
        if not client.images.list(name=IMAGE):
            say("kafka", f"pulling {IMAGE}")
            client.images.pull(IMAGE)
        return True
    return False


def _daemon_answers() -> bool:
    # Asked by hand: the docker package leaks a socket, and so a warning, where no daemon listens.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect("/var/run/docker.sock")
        return True
    return False


def broker_jars() -> Path | None:
    """The directory of the broker's jars, fetched once from Maven Central; None without Maven or network."""
    jars = cache() / f"kafka-{KAFKA_VERSION}-log4j-{LOG4J_VERSION}"
    with locked("kafka"):
        if jars.is_dir():
            return jars
        if not shutil.which("mvn"):
            return None
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            if not _download(Path(work)):
                return None
            (Path(work) / "jars").rename(jars)
    return jars


def _download(work: Path) -> bool:
    wanted = [
        ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
        ("org.apache.logging.log4j", "log4j-core", LOG4J_VERSION),
    ]
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in wanted
    )
    (work / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion>"
        "<groupId>curb.tests</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    command = ["mvn", "-B", "-f", str(work / "pom.xml"), "dependency:copy-dependencies"]
    command.append(f"-DoutputDirectory={work / 'jars'}")
    say("kafka", f"downloading the jars of Kafka {KAFKA_VERSION} (about 45 MB, once)")
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as maven:
        for line in maven.stdout or ():
            lines.append(line)
            if line.startswith("Downloaded from") and line.count(".jar "):
                say("kafka", line.split(": ", 1)[-1].strip())
    if maven.returncode != 0:
        say("kafka", "Maven failed:\n" + "".join(lines[-20:]))
    return maven.returncode == 0


def _wait_until_open(broker: Broker, alive: Callable[[], bool], more: Iterable[int] = ()) -> None:
    """Until it listens at its own port and at `more`."""
    host, _, port = broker.bootstrap.rpartition(":")
    deadline, waited_for = time.monotonic() + START_TIMEOUT_S, [int(port), *more]
    while time.monotonic() < deadline and alive():
        with contextlib.suppress(OSError), socket.create_connection((host, waited_for[0]), timeout=1):
            del waited_for[0]
            if not waited_for:
                return
            continue
        time.sleep(0.1)
    raise AssertionError(f"the broker did not start:\n{broker.last_lines()}")
