"""What contract tests share: actions opened on their fakes, and descriptions of AWS's services read only once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

import aiohttp
import botocore.session
import pytest

from curb.actions.action import Action, ActionContext
from curb.actions.kinds import ACTIONS
from curb.stream.clock import ManualClock
from tests.fakes.alerts import T0


@pytest.fixture
async def open_action() -> AsyncIterator[Any]:
    """`await open_action(bench, **config)`: an action of the bench's kind on its served fake."""
    opened: list[Any] = []

    async def open_(bench: Any, **config: Any) -> Action:
        serving, http = bench.serve(), aiohttp.ClientSession()
        address = await serving.__aenter__()
        settings = bench.config(address)
        # What is tested here is no timeout: a busy machine must not make one.
        settings |= {"timeout_s": 30} if "timeout_s" in settings else {}
        settings |= config
        action: Action = (
            ACTIONS.config(settings["kind"]).model_validate(settings).build(ActionContext(ManualClock(T0), http))
        )
        opened.append((serving, http, action))
        return action

    yield open_
    for serving, http, action in opened:
        await action.close()
        await http.close()
        await serving.__aexit__(None, None, None)


@pytest.fixture(scope="session", autouse=True)
def services_are_read_once() -> Iterator[None]:
    """Every session of boto reads the descriptions anew, which takes longer than all that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(botocore.session.create_loader))
        yield
