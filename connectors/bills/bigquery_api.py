"""One query to BigQuery through Google's client: no retries of its own, errors told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, error_for_status

_PAGE_ROWS = 10_000
#: Quotas that BigQuery answers with HTTP 403 and that pass.
_LATER = ("rateLimitExceeded", "backendError", "jobRateLimitExceeded", "internalError")


class BigQueryApi:
    """Queries of one project. `credentials` is the JSON of a service account; empty: what the environment has.

    `endpoint_url` is another address than Google's; there, without credentials, nobody is asked for any.
    """

    def __init__(
        self, project: str, credentials: str, endpoint_url: str, timeout_s: float, max_bytes: int, clock: Clock
    ) -> None:
        self._project, self._credentials, self._endpoint_url = project, credentials, endpoint_url
        self._timeout_s, self._max_bytes, self._clock = timeout_s, max_bytes, clock
        self._client: Any = None

    def rows(self, sql: str, parameters: Mapping[str, str]) -> list[Mapping[str, Any]]:
        """All rows of a query with text parameters. Blocks; raises TransientError or PermanentError."""
        try:
            from google.api_core.exceptions import GoogleAPICallError
            from google.auth.exceptions import GoogleAuthError
            from google.cloud import bigquery
            from requests import RequestException
        except ImportError as error:
            raise PermanentError("google-cloud-bigquery is not installed: install curbd[gcp]") from error
        given = [bigquery.ScalarQueryParameter(name, "STRING", value) for name, value in parameters.items()]
        config = bigquery.QueryJobConfig(query_parameters=given, maximum_bytes_billed=self._max_bytes or None)
        try:
            answer = self._opened().query_and_wait(
                sql,
                job_config=config,
                api_timeout=self._timeout_s,
                wait_timeout=self._timeout_s,
                retry=None,
                job_retry=None,
                page_size=_PAGE_ROWS,
            )
            return [dict(row.items()) for row in answer]
        except GoogleAPICallError as error:
            raise self._said(error) from error
        except GoogleAuthError as error:
            if getattr(error, "retryable", False):
                raise TransientError(f"BigQuery: {type(error).__name__}") from error
            raise PermanentError(f"BigQuery: no valid credentials ({type(error).__name__})") from error
        except (RequestException, TimeoutError) as error:
            raise TransientError(f"BigQuery: {type(error).__name__}") from error

    def close(self) -> None:
        """Close its connections."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _opened(self) -> Any:
        if self._client is None:
            from google.auth.credentials import AnonymousCredentials
            from google.cloud import bigquery
            from google.oauth2 import service_account

            credentials: Any = None
            if self._credentials:
                try:
                    known = json.loads(self._credentials)
                    make: Any = service_account.Credentials.from_service_account_info
                    credentials = make(known)
                except ValueError as error:
                    raise PermanentError("credentials: not the JSON of a service account's key") from error
            elif self._endpoint_url:
                anonymous: Any = AnonymousCredentials
                credentials = anonymous()
            options = {"api_endpoint": self._endpoint_url} if self._endpoint_url else None
            self._client = bigquery.Client(self._project or None, credentials=credentials, client_options=options)
        return self._client

    def _said(self, error: Any) -> TransientError | PermanentError:
        detail = f"BigQuery: {' '.join(str(error.message).split())[:300]}"
        reasons = [str(each.get("reason", "")) for each in error.errors or () if isinstance(each, dict)]
        headers = getattr(error.response, "headers", {}) or {}
        said = error_for_status(int(error.code or 500), headers, detail, now=self._clock.now())
        if isinstance(said, PermanentError) and any(reason in _LATER for reason in reasons):
            return TransientError(detail)
        return said or TransientError(detail)
