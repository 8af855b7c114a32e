"""Acme's GPU cloud: charges as they come, page by page, oldest first."""

from typing import Literal

import msgspec
from pydantic import SecretStr

from curb.connectors.connector import Batch, ConnectorConfig, Context, Pull
from curb.connectors.decode import Letters, Rejected, decode
from curb.connectors.http import JsonClient
from curb.stream.records.spend import UsageRecord


class Config(ConnectorConfig):
    kind: Literal["acme"]
    url: str
    key: SecretStr
    timeout_s: float = 20.0

    def build(self, context: Context) -> Pull:
        return Pull(Acme(self, context), poll_interval_s=60)


class Charge(msgspec.Struct):
    id: str
    at: float
    usd: float
    team: str


class Acme:
    def __init__(self, config: Config, context: Context) -> None:
        self.url, self.name, self.clock = f"{config.url}/charges", config.name, context.clock
        headers = {"Authorization": f"Bearer {config.key.get_secret_value()}"}
        self.client = JsonClient(context.http, context.clock, headers, config.timeout_s)

    async def read(self, cursor: str | None) -> Batch:
        start, now, name = int(cursor or 0), self.clock.now(), self.name
        rows = await self.client.get(self.url, [("offset", str(start))], msgspec.json.Decoder(list[msgspec.Raw]))
        records, letters = list[UsageRecord](), Letters(name, now)
        for number, raw in enumerate(map(bytes, rows), start):
            if isinstance(row := decode(msgspec.json.Decoder(Charge), raw), Rejected):
                letters.add(row, location=f"{self.url} #{number}", content=raw)
                continue
            tags = {"team": row.team}
            record = UsageRecord(
                id=row.id, charge_period_start=row.at, received_at=now, effective_cost=row.usd, tags=tags, source=name
            )
            records.append(record)
        return Batch(records, str(start + len(rows)), more=bool(rows), dead=letters.messages())

    async def close(self) -> None:
        pass
