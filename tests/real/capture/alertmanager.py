"""What Alertmanager answers to alerts that Curb posts: taken, and refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import aiohttp
from yarl import URL

from curb.actions.calls.http import exchange
from curb.actions.notify.protocol import Notice
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from tests.answers import Stories
from tests.fakes.alerts import T0, an_alert
from tests.real.alertmanager_server import find_binary, notifier, running
from tests.real.capture.recorder import Recorder

#: What Curb never sends, and Alertmanager's word on it.
_NOT_TAKEN = {
    "one_of_two": {"labels": {"a-b": "c"}},
    "no_labels": {"annotations": {"summary": "x"}},
    "no_such_label": {"labels": {"a-b": "c"}},
    "no_value": {"labels": {"a": ""}},
    "no_time": {"labels": {"a": "b"}, "startsAt": "yesterday"},
}


async def capture(directory: Path) -> tuple[str, Stories]:
    """From the program that CURB_TEST_ALERTMANAGER names, or that is installed."""
    async with running(find_binary(), directory) as server, aiohttp.ClientSession() as http:
        async with http.get(f"{server}/api/v2/status") as answer:
            version = (await answer.json())["versionInfo"]["version"]
        recorder = Recorder(server)
        async with recorder.serve() as url:
            tags = {"team": "search", "api_key": "k1", "a-b": "ü", "empty": ""}
            await recorder.story("taken", lambda: notifier(http, url).send(Notice("k", an_alert(tags=tags)), ""))
            over = an_alert(status="resolved", resolved_at=T0 + 60)
            await recorder.story("over", lambda: notifier(http, url).send(Notice("k", over), ""))
            # A clock that was set back: it ends before it started.
            early = an_alert(status="resolved", started_at=T0, resolved_at=T0 - 3600)
            await recorder.story(
                "ends_before_it_starts", lambda: notifier(http, url).send(Notice("k", early), ""), PermanentError
            )
            await recorder.story(
                "no_such_path", lambda: notifier(http, f"{url}/am").send(Notice("k", over), ""), PermanentError
            )
            place = URL(f"{url}/api/v2/alerts")
            for name, alert in _NOT_TAKEN.items():
                alerts = [{"labels": {"beside": "it"}}, alert] if name == "one_of_two" else [alert]
                post = partial(exchange, http, WallClock(), "POST", place, timeout_s=10, headers={}, json=alerts)
                await recorder.story(name, post, PermanentError)
        async with http.get(f"{server}/api/v2/alerts") as answer:
            assert {"beside": "it"} in [alert["labels"] for alert in await answer.json()], "it was not taken"
    return f"Alertmanager {version}", recorder.done()
