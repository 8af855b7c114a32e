"""What attribution costs a record, beside the rest of the door (validation and encoding), in one run.

Run `python -m benchmarks.attribution`. The ratio holds on a busy machine; the microseconds do not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from curb.connectors.connector import Batch
from curb.connectors.intake.append import record_messages
from curb.connectors.intake.attribution import Attribution, AttributionSettings
from curb.connectors.validate import validate
from curb.stream.log.topics import TOPICS
from curb.stream.records.spend import UsageRecord

NOW = 1_750_000_000.0
#: Every part in use: aliases, spellings, 20 rules, 20 owners and a share rule.
SETTINGS: dict[str, Any] = {
    "keys": {"team": ["owner", "squad"]},
    "values": {"env": {"prod": ["production"]}},
    "lower_case": ["team"],
    "rules": [{"match": {"project": f"p{n}*"}, "tags": {"unit": "x"}} for n in range(20)],
    "owners": [{"match": {"project": f"p{n}"}, "team": "t"} for n in range(20)],
    "shares": [{"name": "cluster", "match": {"resource": "shared"}, "by": "tokens"}],
}


class _Partitions:
    """As much of a log as the encoder asks for."""

    def partitions(self, topic: str) -> int:
        return 4 if TOPICS[topic].many else 1


def main(arguments: list[str] | None = None) -> None:
    """Print the cost per record for few, many and only new sets of tags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attribution", description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    print("| sets of tags | attribution, µs | door without it, µs | ratio |\n|---|---|---|---|")
    for distinct in (100, 5_000, options.records):
        rounds = [_round(options.records, distinct) for _ in range(options.rounds)]
        own, others = (1e6 * min(column) / options.records for column in zip(*rounds, strict=True))
        ratio = statistics.median(mine / rest for mine, rest in rounds)
        print(f"| {distinct:,} | {own:.2f} | {others:.2f} | {ratio:.2f} |")


def _round(count: int, distinct: int) -> tuple[float, float]:
    """CPU seconds of attribution, and of validation and encoding."""
    attribution = Attribution(AttributionSettings.model_validate(SETTINGS), ["team", "project"])
    if distinct < count:
        attribution.apply(_records(count, distinct), source="gw", at=NOW)  # what a running daemon has seen before
    batch = Batch(_records(count, distinct), "")
    begin = time.process_time()
    batch = validate(batch, source="gw", at=NOW)
    validated = time.process_time()
    records = attribution.apply(batch.records, source="gw", at=NOW).records
    attributed = time.process_time()
    record_messages(records, source="gw", log=_Partitions())  # type: ignore[arg-type]
    return attributed - validated, validated - begin + time.process_time() - attributed


def _records(count: int, distinct: int) -> list[UsageRecord]:
    return [
        UsageRecord(
            id=f"r{n}",
            charge_period_start=NOW,
            received_at=NOW,
            effective_cost=0.1,
            tags={
                "Owner": f"T{n % distinct}",
                "project": f"p{n % 7}",
                "env": "production",
                "api_key": f"k{n % distinct}",
                "model": "m",
                "region": "eu",
            },
            requests=1,
            input_tokens=100,
            output_tokens=10,
        )
        for n in range(count)
    ]


if __name__ == "__main__":
    main()
