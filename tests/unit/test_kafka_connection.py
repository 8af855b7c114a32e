"""Settings of a connection to Kafka: what does not fit together is refused, with what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from curb.cli.main import app
from curb.stream.errors import PermanentError
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.oauth import ClientCredentials

OAUTH = {"token_url": "https://idp.example/token", "client_id": "curb", "client_secret": "planted"}
USER = {"sasl_username": "curb", "sasl_password": "planted"}


def settings(**given: Any) -> KafkaSettings:
    return KafkaSettings.model_validate({"kind": "kafka", "bootstrap_servers": "h:1", **given})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"security_protocol": "SASL_SSL"}, "needs sasl_username and sasl_password"),
        ({**USER}, "PLAINTEXT does not log in; write SASL_SSL"),
        ({"oauth": OAUTH, "security_protocol": "SSL"}, "SSL does not log in; write SASL_SSL"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "needs oauth with token_url"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "oauth": OAUTH, **USER}, "no sasl_user"),
        ({"security_protocol": "SASL_SSL", "oauth": OAUTH, **USER}, "oauth is for sasl_mechanism OAUTHBEARER"),
        ({"ssl_cafile": "ca.pem"}, "ssl_cafile is given and security_protocol PLAINTEXT does not encrypt; write SSL"),
        ({"ssl_cafile": "ca.pem", "security_protocol": "SASL_PLAINTEXT", **USER}, "write SASL_SSL"),
        ({"security_protocol": "SSL", "ssl_keyfile": "k.pem"}, "ssl_keyfile needs ssl_certfile"),
        ({"security_protocol": "SSL", "ssl_key_password": "planted"}, "ssl_key_password needs ssl_certfile"),
    ],
)
def test_what_does_not_fit_together_is_refused(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationError, match=error) as refused:
        settings(**given)
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"token_url": "http://idp.example/token"}, "in the clear; write https://"),
        ({"extensions": {"auth": "x"}}, "no name of an extension"),
        ({"extensions": {"a b": "x"}}, "no name of an extension"),
        ({"extensions": {"a": "x\x01auth=Bearer y"}}, "other characters than printable ASCII"),
        ({"client_id": ""}, "at least 1 character"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        settings(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", oauth={**OAUTH, **given})


def test_tokens_are_asked_for_on_this_machine_without_encryption() -> None:
    for url in ("http://localhost:1/t", "http://127.0.0.1:1/t", "http://[::1]:1/t"):
        settings(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER", oauth={**OAUTH, "token_url": url})


def test_all_clients_get_one_provider(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("planted\n", encoding="utf-8")
    oauth = {key: OAUTH[key] for key in ("token_url", "client_id")} | {"client_secret_file": str(tmp_path / "secret")}
    made = settings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", oauth=oauth)
    options = made.connection()
    assert options["sasl_mechanism"] == "OAUTHBEARER"
    assert isinstance(options["sasl_oauth_token_provider"], ClientCredentials)
    assert made.connection()["sasl_oauth_token_provider"] is options["sasl_oauth_token_provider"]
    assert "sasl_plain_username" not in options
    assert "planted" not in repr(made)


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate", encoding="utf-8")
    made = settings(security_protocol="SSL", ssl_cafile=str(tmp_path / "ca.pem"), ssl_certfile=str(tmp_path / "none"))
    assert [key for key, _ in made.unusable_files()] == ["ssl_cafile", "ssl_certfile"]
    with pytest.raises(PermanentError, match=r"log.ssl_cafile: no certificates in .*; log.ssl_certfile: cannot read"):
        made.connection()
    assert settings(security_protocol="SSL").unusable_files() == []


def test_check_config_names_certificates_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "curb.yaml"
    missing = tmp_path / "ca.pem"
    path.write_text(f"log: {{bootstrap_servers: 'h:1', security_protocol: SSL, ssl_cafile: {missing}}}", "utf-8")
    done = CliRunner().invoke(app, ["check-config", "-c", str(path)])
    assert done.exit_code == 2
    assert f"log.ssl_cafile: cannot read {missing} (FileNotFoundError)" in done.output
    assert "hint: the user of `curb run` must be able to read it" in done.output
