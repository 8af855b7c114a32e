"""Says what a server that is here answers otherwise than the one whose answers are kept."""

from __future__ import annotations

from pathlib import Path

from tests.answers import changes, stories_of
from tests.real.capture.servers import SERVERS


async def assert_same(name: str, directory: Path) -> None:
    """Captures again; keys that appeared or vanished and other statuses fail the test, by request."""
    server, stories = await SERVERS[name](directory)
    kept, before = stories_of(name)
    said = changes(before, stories)
    head = f"{server} answers otherwise than {kept}: see that Curb reads it, then `python -m tests.real.capture {name}`"
    assert not said, "\n".join([head, *said])
