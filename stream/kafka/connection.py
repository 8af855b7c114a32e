"""How to reach Kafka: addresses, encryption, credentials, and how topics are made when they are missing."""

from __future__ import annotations

from typing import Any, Literal

from aiokafka.helpers import create_ssl_context
from pydantic import Field, SecretStr, model_validator

from curb.stream.settings import Settings


class KafkaSettings(Settings):
    """The log on Apache Kafka 2.5 or later."""

    kind: Literal["kafka"]
    bootstrap_servers: str = Field(description="Brokers to start from: host:port, several separated by commas.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="Encryption and authentication of every connection."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="How to log in when security_protocol starts with SASL."
    )
    sasl_username: str | None = Field(default=None, description="User name for SASL.")
    sasl_password: SecretStr | None = Field(default=None, description="Password for SASL.")
    ssl_cafile: str | None = Field(default=None, description="Authorities the broker's certificate must come from.")
    ssl_certfile: str | None = Field(default=None, description="Own certificate, where brokers ask for one.")
    ssl_keyfile: str | None = Field(default=None, description="Key of the own certificate.")
    topic_prefix: str = Field(
        default="",
        pattern=r"^[a-zA-Z0-9._-]*$",
        max_length=100,
        description="Put before the names of topics, groups and transactions, so that several can share a cluster.",
    )
    partitions: int = Field(
        default=8, ge=1, le=1000, description="Partitions of topics that are spread over processes, when first made."
    )
    replication_factor: int = Field(
        default=1, ge=1, le=9, description="Copies of every topic, when first made. Use 3 in production."
    )
    retention_days: int = Field(
        default=14, ge=1, description="How long messages are kept; topics that hold the latest value per key stay."
    )
    request_timeout_s: float = Field(
        default=15.0, gt=0, le=120, description="How long one append, commit or look-up may take before it is an error."
    )
    session_timeout_s: float = Field(
        default=15.0, ge=6, le=300, description="A process silent for so long loses its partitions to the others."
    )
    transaction_timeout_s: float = Field(
        default=20.0,
        ge=1,
        le=900,
        description="How long one commit may take; readers wait as long for what a crashed process left open.",
    )

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> KafkaSettings:
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and self.sasl_password):
            raise ValueError("security_protocol with SASL needs sasl_username and sasl_password")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("ssl_keyfile needs ssl_certfile")
        return self

    def connection(self) -> dict[str, Any]:
        """The keyword arguments that every client of aiokafka shares."""
        options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.bootstrap_servers.split(",")],
            "security_protocol": self.security_protocol,
            "request_timeout_ms": int(self.request_timeout_s * 1000),
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = create_ssl_context(
                cafile=self.ssl_cafile, certfile=self.ssl_certfile, keyfile=self.ssl_keyfile
            )
        if self.security_protocol.startswith("SASL") and self.sasl_password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return options
