"""Calls to AWS that are made once: explicit settings, timeouts, no retries of boto's own, errors classified."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr, model_validator

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status
from curb.stream.settings import Settings

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_CONNECT_S = 10.0
#: An assumed role holds for an hour; it is assumed again before that.
_ROLE_S = 3000.0
#: AWS error codes with HTTP 400 that a later call can succeed after.
_LATER = (
    "throttl",
    "toomanyrequests",
    "limitexceeded",
    "slowdown",
    "unavailable",
    "internal",
    "requestchanged",
    "optimisticlock",
)
#: Client-side boto errors that a retry cannot fix.
_TO_BE_CHANGED = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "NoRegionError",
    "ParamValidationError",
    "InvalidRegionError",
    "InvalidConfigError",
    "UnknownServiceError",
)


class AwsSettings(Settings):
    """Which AWS account is asked, and as whom. What is not given comes from the environment, as AWS's tools find it."""

    region: str = Field(default="", description="Region that is asked; default: the environment's.")
    profile: str = Field(default="", description="Profile of the AWS configuration files.")
    access_key_id: str = Field(default="", description="Static credentials, where there is no role and no profile.")
    secret_access_key: SecretStr = Field(default=SecretStr(""), description="Their secret.")
    role_arn: str = Field(default="", description="Role to assume.")
    external_id: str = Field(default="", description="External id the role asks for.")
    endpoint_url: str = Field(default="", description="Another address of the service, such as a VPC endpoint.")
    sts_endpoint_url: str = Field(default="", description="Another address of STS, which assumes the role.")

    @model_validator(mode="after")
    def _pairs(self) -> AwsSettings:
        if bool(self.access_key_id) != bool(self.secret_access_key.get_secret_value()):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.external_id and not self.role_arn:
            raise ValueError("external_id needs role_arn")
        return self


class AwsRefusal(PermanentError):
    """AWS said no. `code` is its word for why, such as "ResourceNotFoundException"."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class AwsClient:
    """One service. Safe for several threads; `call` blocks, so it belongs into one."""

    def __init__(self, service: str, settings: AwsSettings, clock: Clock, timeout_s: float) -> None:
        self._service, self._settings, self._clock, self._timeout_s = service, settings, clock, timeout_s
        self._lock = threading.Lock()
        self._client: Any = None
        self._good_until: float | None = None

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One request, by its boto name such as "get_metric_data". Raises TransientError or PermanentError."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError
            from botocore.parsers import ResponseParserError
        except ImportError as error:
            raise PermanentError("boto3 is not installed: install curbd[aws]") from error
        what = f"{self._service} {operation}"
        try:
            answer: dict[str, Any] = getattr(self._opened(), operation)(**parameters)
            return answer
        except ClientError as error:
            raise self._said(what, error) from error
        except BotoCoreError as error:
            name = type(error).__name__
            if name in _TO_BE_CHANGED:
                raise PermanentError(f"{what}: {error}") from error
            raise TransientError(f"{what}: {name}") from error
        except ResponseParserError as error:  # a page of something in between
            raise TransientError(f"{what}: the answer is not readable") from error

    def close(self) -> None:
        """Close its connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _opened(self) -> Any:
        with self._lock:
            if self._good_until is not None and self._clock.now() >= self._good_until:
                self._client = None
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> Any:
        import boto3
        from botocore.config import Config

        of = self._settings
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=self._timeout_s,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        session = boto3.Session(
            profile_name=of.profile or None,
            region_name=of.region or None,
            aws_access_key_id=of.access_key_id or None,
            aws_secret_access_key=of.secret_access_key.get_secret_value() or None,
        )
        known: dict[str, Any] = {}
        if of.role_arn:
            sts = session.client("sts", config=config, endpoint_url=of.sts_endpoint_url or None)
            external = {"ExternalId": of.external_id} if of.external_id else {}
            role = sts.assume_role(RoleArn=of.role_arn, RoleSessionName="curb", **external)["Credentials"]
            self._good_until = self._clock.now() + _ROLE_S
            known = {
                "aws_access_key_id": role["AccessKeyId"],
                "aws_secret_access_key": role["SecretAccessKey"],
                "aws_session_token": role["SessionToken"],
            }
        client = session.client(self._service, config=config, endpoint_url=of.endpoint_url or None, **known)
        client.meta.events.register("before-parse", _whole)
        return client

    def _said(self, what: str, error: ClientError) -> TransientError | PermanentError:
        meta = error.response.get("ResponseMetadata", {})
        answer = error.response.get("Error", {})
        code = str(answer.get("Code", ""))
        detail = f"{what}: {code}: {' '.join(str(answer.get('Message', '')).split())[:300]}"
        headers = {str(key): str(value) for key, value in meta.get("HTTPHeaders", {}).items()}
        said = error_for_status(int(meta.get("HTTPStatusCode", 500)), headers, detail, now=self._clock.now())
        if any(word in code.lower() for word in _LATER) and not isinstance(said, TransientError):
            return TransientError(detail)
        return AwsRefusal(str(said), code) if isinstance(said, PermanentError) else said or TransientError(detail)


def _whole(response_dict: Mapping[str, Any], **_: Any) -> None:
    """Refuses an answer that was cut off and a web page of something in between: boto takes both for empty answers."""
    headers, body = response_dict["headers"], response_dict["body"]
    if not isinstance(body, bytes):  # a stream is read by its caller
        return
    length = headers.get("content-length", "")
    if length.isdecimal() and not headers.get("content-encoding") and int(length) != len(body):
        raise TransientError(f"an answer of AWS was cut off after {len(body)} of {length} bytes")
    if response_dict["status_code"] < 300 and body[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise TransientError("a web page instead of an answer of AWS")
