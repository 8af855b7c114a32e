"""CPU that a newcomer's past costs: `curb backfill` of a file of LiteLLM spend logs, thirty days of 10,000 keys.

Run `python -m benchmarks.backfill`. The rows are made from a seed, so two versions of Curb can be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HOUR_S, DAY_S = 3600.0, 86400.0
#: Model, and dollars of its mean call.
MODELS = (("gpt-4o", 0.02), ("gpt-4o-mini", 0.001), ("claude-sonnet-4-5", 0.05))
_CONFIG = "log: {{kind: embedded, directory: {path}/log}}\nstate_dir: {path}/state\nhttp: {{port: 1}}\n"


def rows(keys: int, days: int, a_day: float, until: float, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Calls of keys that work by day and rest at weekends, one in five of them new within the span."""
    chance = random.Random(seed)
    for key in range(keys):
        model, usd = MODELS[key % len(MODELS)]
        level = a_day * chance.lognormvariate(-0.5, 1.0)
        begin = until - days * DAY_S * (chance.random() if chance.random() < 0.2 else 1.0)
        at = begin
        while True:
            hour, weekend = at % DAY_S / HOUR_S, (at // DAY_S + 4) % 7 >= 5
            pace = level / DAY_S * (1 + 0.9 * math.sin((hour - 9) / 12 * math.pi)) * (0.3 if weekend else 1.28)
            at += chance.expovariate(pace) if pace > 0 else HOUR_S
            if at >= until:
                break
            yield _row(key, at, model, usd * chance.lognormvariate(-0.5, 1.0), chance)


def _row(key: int, at: float, model: str, usd: float, chance: random.Random) -> dict[str, Any]:
    tokens = int(1 + 1e5 * usd)
    return {
        "request_id": f"chatcmpl-{chance.getrandbits(116):029x}",
        "call_type": "acompletion",
        "api_key": f"{key:064x}",
        "team_id": f"team-{key % 100}",
        "spend": usd,
        "prompt_tokens": tokens,
        "completion_tokens": tokens // 5,
        "startTime": datetime.fromtimestamp(at, UTC).isoformat(),
        "model": model,
        "custom_llm_provider": "openai",
        "status": "success",
        "metadata": json.dumps({"user_api_key_alias": f"key-{key}"}),
        "request_tags": "[]",
    }


def main(arguments: list[str] | None = None) -> None:
    """Write the rows, read them with the command, print CPU and sums."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backfill", description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--a-day", type=float, default=3.25, help="Calls of a key on a full day.")
    parser.add_argument("--until", type=float, default=0.0, help="End of the past, epoch seconds; default: now.")
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args(arguments)
    directory = options.dir or Path(tempfile.mkdtemp(prefix="curb-backfill-"))
    directory.mkdir(parents=True, exist_ok=True)
    path, until = directory / "spend.jsonl", options.until or datetime.now(UTC).timestamp() - 60
    count, usd = 0, 0.0
    with path.open("w") as file:
        for row in sorted(rows(options.keys, options.days, options.a_day, until), key=lambda row: row["startTime"]):
            file.write(json.dumps(row) + "\n")
            count, usd = count + 1, usd + row["spend"]
    config = directory / "curb.yaml"
    config.write_text(_CONFIG.format(path=directory))
    print(f"{count:,} rows, ${usd:,.2f}", flush=True)
    command = [sys.executable, "-m", "curb", "backfill", str(path), "-c", str(config), "--days", str(options.days)]
    subprocess.run(command, check=True, env=os.environ | {"COLUMNS": "200"})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} s of CPU, {used.ru_maxrss / 1024:,.0f} MiB; in {directory}")


if __name__ == "__main__":
    main()
