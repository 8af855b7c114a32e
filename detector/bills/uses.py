"""What of a bill is storage, reads of it, volumes, snapshots, machines and spot capacity, by its meters' names.

Sources of the names: "Understanding your AWS billing and usage reports for Amazon S3" and "EBS pricing" (AWS usage
types), "Azure Blob Storage pricing" (meters), "Cloud Storage pricing" (Google's SKUs), all as of November 2026.
"""

from __future__ import annotations

import re
from functools import lru_cache

from curb.stream.records.spend import BillUse

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


@lru_cache(maxsize=20_000)
def use_of(meter: str) -> BillUse | None:
    """What a meter is for, None for all else."""
    found = next((use for pattern, use in _METERS if pattern.search(meter)), None)
    return found or ("reads" if _LEAVES.search(meter) else None)
