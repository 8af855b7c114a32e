"""What commitments pay of a bill, and what of it may be waste, from its records, by hour or day."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from curb.detector.rollup.raw_records import HotCost
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Message
from curb.stream.records.spend import UNTAGGED, BillPart, BillUse
from curb.stream.time import DAY_S

#: How a message of parts begins: it holds nothing else.
PARTS = b'{"type":"bill_part"'
#: Combinations of tags that are remembered. By hand: more are read again.
_REMEMBERED = 100_000

#: What meters are for. Sources of the names: "Understanding your AWS billing and usage reports for Amazon S3" and "EBS
#: pricing" (usage types), "Azure Blob Storage pricing" (meters), "Cloud Storage pricing" (SKUs), November 2026.
_WORDS: tuple[tuple[str, BillUse], ...] = (
    (r"snapshot", "snapshots"),
    (r"EBS:Volume(Usage|P-|IOUsage)|\bVolumeUsage|managed disks?|\b[LZ]RS Disks?\b|PD capacity|hyperdisk", "volumes"),
    (r"SpotUsage|\bspot\b|preemptible", "spot"),
    (r"Requests-(\w+-)*Tier[2-6]|Retrieval|Read Operations|Class B (Request|Operation)|Data Retrieved", "reads"),
    (r"TimedStorage|Data Stored|(Standard|Nearline|Coldline|Archive) Storage|StorageUsage|ByteHrs", "storage"),
    (r"BoxUsage|HeavyUsage|DedicatedUsage|InstanceUsage|Instance (Core|Ram)|\bvCPU\b|\bVM\b", "machines"),
)
#: The first that fits, without case.
_METERS = tuple((re.compile(pattern, re.IGNORECASE), use) for pattern, use in _WORDS)
#: Reads are also the bytes that leave a store for the internet or another region.
_LEAVES = re.compile(r"DataTransfer-Out|Out-Bytes|Data Transfer Out|Egress", re.IGNORECASE)
#: Provider, account, service, region.
_Subject = tuple[str, str, str, str]
#: Days without a charge after which a spot machine has ended. By hand: bills by the day have gaps of none.
_ENDED_DAYS = 2


class _Tags(msgspec.Struct):
    """Who is charged for what."""

    provider: str = UNTAGGED
    account: str = UNTAGGED
    service: str = UNTAGGED
    region: str = ""


class BillParts:
    """Adds up the parts of one source's bill in one partition until they are taken."""

    def __init__(self) -> None:
        self._sums: dict[tuple[BillUse, _Subject, int, int], float] = {}
        #: Spot machines and the day of their newest charge.
        self._spot_machines: dict[str, int] = {}
        #: Subjects that a commitment paid for: of these alone what is on demand matters.
        self.covered: set[_Subject] = set()
        self._subjects: dict[bytes, _Subject] = {}

    def add(self, record: HotCost, known_until: float) -> None:
        """Count a record; the bill was known until then before its delivery, 0 where it was not."""
        use = use_of(record.usage_type) if record.usage_type else None
        if use is not None and record.charge_period_end - record.charge_period_start <= DAY_S:
            self._note(use, record)
        status = record.commitment_discount_status
        if not status and (not self.covered or record.charge_category not in ("", "Usage")):
            return
        subject = self._subject(bytes(record.tags))
        use = "on_demand"
        if status == "Used":
            use = "used"
            self.covered.add(subject)
        elif status == "Unused":
            use = "unused"
        elif subject not in self.covered:
            return
        start, end = record.charge_period_start, record.charge_period_end
        if end - start > DAY_S:  # a fee for a month grows with each delivery: what is new came since the last
            start, end = max(start, known_until), min(end, record.received_at)
        key = (use, subject, int(start), max(0, int(end - start)))
        self._sums[key] = self._sums.get(key, 0.0) + record.effective_cost

    def _note(self, use: BillUse, record: HotCost) -> None:
        """Count what may be waste in the day of its charge; a spot machine not seen for days is a start."""
        subject, day = self._subject(bytes(record.tags)), int(record.charge_period_start) // DAY_S
        key = (use, subject, day * DAY_S, DAY_S)
        self._sums[key] = self._sums.get(key, 0.0) + record.effective_cost
        if use != "spot" or not record.resource_id:
            return
        seen = self._spot_machines.get(record.resource_id)
        if seen is None or day - seen > _ENDED_DAYS:
            if len(self._spot_machines) >= _REMEMBERED:
                newest = max(self._spot_machines.values())
                kept = {machine: at for machine, at in self._spot_machines.items() if newest - at <= _ENDED_DAYS}
                self._spot_machines = kept
            start: tuple[BillUse, _Subject, int, int] = ("spot_starts", subject, day * DAY_S, DAY_S)
            self._sums[start] = self._sums.get(start, 0.0) + 1
        self._spot_machines[record.resource_id] = max(day, seen or 0)

    def take(self, source: str) -> Iterator[BillPart]:
        """What was added since the last call."""
        sums, self._sums = self._sums, {}
        for (use, (provider, account, service, region), start, seconds), usd in sums.items():
            yield BillPart(
                source=source,
                use=use,
                provider=provider,
                account=account,
                service=service,
                region=region,
                start=start,
                seconds=seconds,
                effective_cost=usd,
            )

    def _subject(self, raw: bytes) -> _Subject:
        known = self._subjects.get(raw)
        if known is None:
            if len(self._subjects) >= _REMEMBERED:
                self._subjects.clear()
            try:
                tags = msgspec.json.decode(raw, type=_Tags)
            except msgspec.DecodeError:  # the rollup that counts the record says so
                tags = _Tags()
            known = self._subjects[raw] = (tags.provider, tags.account, tags.service, tags.region)
        return known


def read_parts(message: Message) -> list[BillPart]:
    """The parts of a message that holds nothing else; of other messages none."""
    if not message.value.startswith(PARTS):
        return []
    return decode_lines(message.value, BillPart, lambda *_: None)


@lru_cache(maxsize=20_000)
def use_of(meter: str) -> BillUse | None:
    """What a meter is for, None for all else."""
    found = next((use for pattern, use in _METERS if pattern.search(meter)), None)
    return found or ("reads" if _LEAVES.search(meter) else None)
