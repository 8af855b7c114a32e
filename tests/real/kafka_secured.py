"""A broker whose listeners require TLS with a user, a token or a certificate, and the certificates for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.fakes.identity_provider import AUDIENCE, ISSUER, IdentityProvider
from tests.ports import free_port
from tests.real.certificates import Authority
from tests.real.kafka_broker import HOW_TO, ProcessBroker, broker_jars
from tests.require import require

USER, PASSWORD = "curb", "scram-password"
KEY_PASSWORD = "key-password"


class SecuredBroker:
    """Listeners SCRAM, TOKEN and CERTIFICATE of one broker, all over TLS; a token's connection ends with the token."""

    def __init__(self, directory: Path, idp: IdentityProvider) -> None:
        jars = broker_jars() if shutil.which("java") else None
        if jars is None:
            require("kafka", HOW_TO)
        self.authority = Authority(directory, "authority")
        certificate, key = self.authority.issue("broker")
        store = directory / "broker.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        (directory / "keys.json").write_text(json.dumps(idp.keys()), encoding="utf-8")
        keys = (directory / "keys.json").as_uri()
        self._ports = {name: free_port() for name in ("SCRAM", "TOKEN", "CERTIFICATE")}
        login = "org.apache.kafka.common.security"
        validator = f"{login}.oauthbearer.OAuthBearerValidatorCallbackHandler"
        properties = {
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_SSL,TOKEN:SASL_SSL,"
            "CERTIFICATE:SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.file),
            "listener.name.certificate.ssl.client.auth": "required",
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "listener.name.token.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.token.oauthbearer.sasl.jaas.config": f"{login}.oauthbearer.OAuthBearerLoginModule required;",
            "listener.name.token.oauthbearer.sasl.server.callback.handler.class": validator,
            "listener.name.token.oauthbearer.connections.max.reauth.ms": "3600000",
            # Without it a broker of 4.1 looks at neither signature nor audience of a token.
            "sasl.oauthbearer.jwt.validator.class": f"{login}.oauthbearer.BrokerJwtValidator",
            "sasl.oauthbearer.jwks.endpoint.url": keys,
            "sasl.oauthbearer.expected.audience": AUDIENCE,
            "sasl.oauthbearer.expected.issuer": ISSUER,
        }
        self._broker = ProcessBroker(
            jars,
            directory,
            self._ports,
            properties,
            format_options=["--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"],
            java_options=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}"],
        )
        self.start, self.stop, self.last_lines = self._broker.start, self._broker.stop, self._broker.last_lines

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self._ports[listener]}"
