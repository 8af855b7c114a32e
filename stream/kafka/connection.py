"""How to reach Kafka: addresses, encryption, credentials, and how topics are made when they are missing."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal

from aiokafka.helpers import create_ssl_context
from pydantic import Field, SecretStr, model_validator

from curb.stream.errors import PermanentError
from curb.stream.kafka.oauth import OAuthSettings
from curb.stream.settings import Settings

_CERTIFICATES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password")


class KafkaSettings(Settings):
    """The log on Apache Kafka 2.5 or later."""

    kind: Literal["kafka"]
    bootstrap_servers: str = Field(description="Brokers to start from: host:port, several separated by commas.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="Encryption and authentication of every connection."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="PLAIN", description="How to log in when security_protocol starts with SASL."
    )
    sasl_username: str | None = Field(default=None, description="User name for SASL, but for OAUTHBEARER.")
    sasl_password: SecretStr | None = Field(default=None, description="Password for SASL, but for OAUTHBEARER.")
    oauth: OAuthSettings | None = Field(default=None, description="Where the tokens of OAUTHBEARER come from.")
    ssl_cafile: str | None = Field(default=None, description="Authorities the broker's certificate must come from.")
    ssl_certfile: str | None = Field(default=None, description="Own certificate, where brokers ask for one.")
    ssl_keyfile: str | None = Field(default=None, description="Key of the own certificate.")
    ssl_key_password: SecretStr | None = Field(default=None, description="Password of the key, where it has one.")
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
        logs_in, has_user = self.security_protocol.startswith("SASL"), self.sasl_username or self.sasl_password
        if not logs_in and (has_user or self.oauth):
            raise ValueError(
                f"security_protocol {self.security_protocol} does not log in; write SASL_SSL, or leave out "
                "sasl_username, sasl_password and oauth"
            )
        if logs_in and self.sasl_mechanism == "OAUTHBEARER":
            if self.oauth is None:
                raise ValueError("OAUTHBEARER needs oauth with token_url, client_id and client_secret")
            if has_user:
                raise ValueError("OAUTHBEARER takes oauth.client_id and no sasl_username or sasl_password")
        elif logs_in:
            if not (self.sasl_username and self.sasl_password):
                raise ValueError("security_protocol with SASL needs sasl_username and sasl_password")
            if self.oauth is not None:
                raise ValueError(f"oauth is for sasl_mechanism OAUTHBEARER, not {self.sasl_mechanism}")
        return self

    @model_validator(mode="after")
    def _certificates_are_complete(self) -> KafkaSettings:
        given = [name for name in _CERTIFICATES if getattr(self, name)]
        if given and not self.security_protocol.endswith("SSL"):
            protocol = "SASL_SSL" if self.security_protocol.startswith("SASL") else "SSL"
            raise ValueError(
                f"{given[0]} is given and security_protocol {self.security_protocol} does not encrypt; write {protocol}"
            )
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("ssl_keyfile needs ssl_certfile")
        if self.ssl_key_password and not self.ssl_certfile:
            raise ValueError("ssl_key_password needs ssl_certfile, and ssl_keyfile where the key is not in it")
        return self

    def unusable_files(self) -> list[tuple[str, str]]:
        """Key and problem of each file of certificates that cannot be used on this machine."""
        found: list[tuple[str, str]] = []
        files = {key: getattr(self, key) for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
        files["oauth.cafile"] = self.oauth.cafile if self.oauth is not None else None
        for key, path in files.items():
            try:
                if path is not None:
                    Path(path).read_bytes()
                    if key.endswith("cafile"):
                        create_ssl_context(cafile=path)
            except (ssl.SSLError, ValueError):
                found.append((key, f"no certificates in {path}; PEM is read"))
            except OSError as error:
                found.append((key, f"cannot read {path} ({type(error).__name__})"))
        if found or not self.security_protocol.endswith("SSL"):
            return found
        try:
            self._tls()
        except (OSError, ValueError):
            password = "; the password may be wrong" if self.ssl_key_password else ""
            what = f"certificate and key do not fit, or are no PEM{password}"
            return [("ssl_keyfile" if self.ssl_keyfile else "ssl_certfile", what)]
        return []

    def _tls(self) -> ssl.SSLContext:
        # Without one, OpenSSL would ask for it at the terminal.
        password = self.ssl_key_password.get_secret_value() if self.ssl_key_password else ""
        made: ssl.SSLContext = create_ssl_context(
            cafile=self.ssl_cafile, certfile=self.ssl_certfile, keyfile=self.ssl_keyfile, password=password
        )
        return made

    def connection(self) -> dict[str, Any]:
        """The keyword arguments that every client of aiokafka shares.

        Raises PermanentError where a file of certificates cannot be used.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.bootstrap_servers.split(",")],
            "security_protocol": self.security_protocol,
            "request_timeout_ms": int(self.request_timeout_s * 1000),
        }
        if self.security_protocol.endswith("SSL"):
            try:
                options["ssl_context"] = self._tls()
            except (OSError, ValueError) as error:
                problems = [f"log.{key}: {problem}" for key, problem in self.unusable_files()]
                raise PermanentError("; ".join(problems) or f"certificates of log: {type(error).__name__}") from error
        if not self.security_protocol.startswith("SASL"):
            return options
        options["sasl_mechanism"] = self.sasl_mechanism
        if self.oauth is not None:
            options["sasl_oauth_token_provider"] = self.oauth.provider()
        elif self.sasl_password is not None:
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return options
