"""Which of the files of a bill are the newest whole delivery of their billing period."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from curb.connectors.bills.bill import Delivery, FoundDeliveries
from curb.connectors.bills.charges import Snapshot
from curb.connectors.bills.files import BillFile, BillFiles
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError

#: A file on disk is left alone until it was not written for so long.
_QUIET_S = 10.0
#: Clocks of a store are not that exact.
_SAME_MOMENT_S = 2.0
SOON_S = 300.0


def by_folder(files: BillFiles, suffixes: tuple[str, ...], period_pattern: str | None, clock: Clock) -> FoundDeliveries:
    """What lies there, by billing period: the first group of `period_pattern` in a path, else each file for itself.

    Of each period the folder that was written last counts. On disk, what was written a moment ago waits.
    """
    periods: dict[str, list[BillFile]] = defaultdict(list)
    for file in files.list():
        match = re.search(period_pattern, file.path) if period_pattern else None
        if file.path.endswith(suffixes) and (match or not period_pattern):
            periods[match[1] if match else file.path].append(file)
    found: list[Delivery] = []
    waiting: list[TransientError] = []
    for period, candidates in sorted(periods.items()):
        newest = max(candidates, key=lambda file: file.modified)
        folder = folder_of(newest.path)
        try:
            found.append(quiet(files, period, [file for file in candidates if folder_of(file.path) == folder], clock))
        except TransientError as error:
            waiting.append(error)
    return FoundDeliveries(found, waiting)


def chosen_export(files: BillFiles, exports: Iterable[str], reading: str) -> tuple[str, dict[str, str]]:
    """Which of the exports at a URL is read, and the others with the reason. `reading` goes on while it is there.

    Raises PermanentError when there are several and none of them was read before: they mostly hold the same money.
    """
    there = sorted(set(exports))
    if not there:
        return "", {}
    if len(there) > 1 and reading not in there:
        names = ", ".join(name.rpartition("/")[2] for name in there[:5])
        raise PermanentError(f"{files.url}: holds more than one export, give the folder of one: {names}")
    chosen = reading if reading in there else there[0]
    why = f"a second export beside {chosen.rpartition('/')[2]}, which would count the same money twice"
    return chosen, {name: why for name in there if name != chosen}


def quiet(files: BillFiles, period: str, chosen: Sequence[BillFile], clock: Clock) -> Delivery:
    """These files as one delivery. Raises TransientError while they may still be being written on disk."""
    newest = max(chosen, key=lambda file: file.modified)
    if files.local and newest.modified > clock.now() - _QUIET_S:
        raise TransientError(f"{newest.path}: may still be being written", _QUIET_S)
    return Delivery(Snapshot(period, _version("", chosen), newest.modified), tuple(chosen))


def by_manifest(
    files: BillFiles,
    period: str,
    manifest: BillFile,
    paths: Iterable[str],
    there: Mapping[str, BillFile],
    name: str = "",
) -> Delivery:
    """The files a manifest names, which is written after them. Raises TransientError when they are not its own yet."""
    chosen = []
    for path in paths:
        file = there.get(path)
        if file is None:
            raise TransientError(f"{manifest.path}: {path} is not there yet", SOON_S)
        if not files.local and file.modified > manifest.modified + _SAME_MOMENT_S:
            raise TransientError(f"{manifest.path}: a newer delivery is on its way", SOON_S)
        chosen.append(file)
    return Delivery(Snapshot(period, _version(name, chosen), manifest.modified), tuple(chosen))


def folder_of(path: str) -> str:
    """The path of the folder a file lies in."""
    return path.rpartition("/")[0]


def _version(name: str, files: Iterable[BillFile]) -> str:
    """Another one when any of the files was written again. Short and stable."""
    parts = (f"{file.path}@{file.size}@{file.modified}" for file in files)
    return hashlib.sha256(";".join([name, *parts]).encode()).hexdigest()[:32]
