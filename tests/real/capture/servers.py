"""Of which servers answers are captured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from tests.answers import Stories
from tests.real.capture import alertmanager, kubernetes, stores

#: Name → what captures them, given an empty directory: the server with its version, and the stories.
SERVERS: dict[str, Callable[[Path], Awaitable[tuple[str, Stories]]]] = {
    "alertmanager": alertmanager.capture,
    "azurite": stores.capture_azurite,
    "kubernetes": kubernetes.capture,
    "minio": partial(stores.capture_s3, "minio"),
    "ministack": partial(stores.capture_s3, "ministack"),
}
