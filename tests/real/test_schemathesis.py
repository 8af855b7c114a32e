"""The API under Schemathesis: what fits its OpenAPI document, and what does not, gets an answer that it names."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.daemons import Daemon
from tests.ports import free_port
from tests.require import require

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
HOW_TO = "no program: set CURB_TEST_SCHEMATHESIS=/path/to/schemathesis, or `pipx install schemathesis` (4.32)"
TOKEN = "operator-token"
#: Rules that a schema cannot say, such as an end after the start, refuse what fits it.
LEFT_OUT = "positive_data_acceptance"
CONFIG = """
log: {{directory: {directory}}}
state_dir: {directory}/connectors
http: {{port: {port}, token: {token}, requests_per_s: 100000}}
connectors: [{{kind: usage_jsonl, name: meter, token: ingest-token}}]
detector:
  budgets: [{{name: keys, scope: key, amount_usd: 10, period: day}}]
"""


@pytest.fixture
def program() -> str:
    named = os.environ.get("CURB_TEST_SCHEMATHESIS", "schemathesis")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(named, path=path)
    if found is None:
        require("schemathesis", HOW_TO)
    return found


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    config, port = tmp_path / "curb.yaml", free_port()
    config.write_text(CONFIG.format(directory=tmp_path / "data", port=port, token=TOKEN), encoding="utf-8")
    running = Daemon(config, port)
    await running.start(ready_s=120)
    yield running
    await running.end()


async def test_every_answer_is_one_of_the_document(program: str, daemon: Daemon, tmp_path: Path) -> None:
    examples = os.environ.get("CURB_TEST_EXAMPLES", "5")
    process = await asyncio.create_subprocess_exec(
        *(program, "run", f"{daemon.url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}", "--seed", "1"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", examples, "--continue-on-failure"),
        *("--checks", "all", "--exclude-checks", LEFT_OUT, "--request-timeout", "60"),
        *("--suppress-health-check", "all"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    out, _ = await process.communicate()
    said = out.decode(errors="replace")
    assert process.returncode == 0, said[-8000:]
    assert daemon.runs
    assert "Tested: " in said
    lines = daemon.log.read_text(encoding="utf-8").splitlines()
    # It also sends heads that are no HTTP; aiohttp logs each.
    errors = [each for each in lines if '"level": "error"' in each and "BadHttpMessage" not in each]
    assert not errors, errors[:3]
