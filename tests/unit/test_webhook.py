"""The webhook's headers and its configuration."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.notify.webhook import Config, Webhook
from curb.stream.clock import ManualClock

BASE: dict[str, Any] = {"kind": "webhook", "name": "hook", "url": "https://example.org/curb"}


def headers(**changes: Any) -> dict[str, str]:
    config = Config.model_validate(BASE | changes)
    hook = Webhook(config, None, ManualClock())  # type: ignore[arg-type]  # no request is made here
    return hook._headers("k-1", b'{"key":"k-1"}')


def test_without_secrets_there_is_only_the_key() -> None:
    assert headers() == {"Content-Type": "application/json", "Idempotency-Key": "k-1"}


def test_the_signature_is_an_hmac_of_the_body() -> None:
    expected = hmac.new(b"s3cret", b'{"key":"k-1"}', hashlib.sha256).hexdigest()
    assert headers(signing_key="s3cret")["X-Curb-Signature"] == f"sha256={expected}"


def test_the_token_is_a_bearer_token_and_may_live_in_a_file(tmp_path: Any) -> None:
    secret = tmp_path / "token"
    secret.write_text("from-file\n")
    assert headers(token_file=str(secret))["Authorization"] == "Bearer from-file"


def test_the_address_must_be_http_and_secrets_stay_hidden() -> None:
    assert "t0ken" not in repr(Config.model_validate(BASE | {"token": "t0ken", "signing_key": "t0ken"}))
    with pytest.raises(ValidationError, match="url"):
        Config.model_validate(BASE | {"url": "file:///etc/passwd"})
