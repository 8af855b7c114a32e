"""What `connectors.restate` remembers of a bill, in SQLite: amounts by key, and a journal of deltas to report.

Amounts are whole nano-dollars, so that deltas add up exactly. Dimensions are kept once and found by a 16-byte digest;
a key is three small integers. A generation is one taken snapshot.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import msgspec

from curb.connectors.bills.charges import Charge, Dimensions, Snapshot
from curb.connectors.bills.lag_curve import MAX_AGE_S, LagCurve
from curb.stream.money import usd as money
from curb.stream.time import DAY_S

T = TypeVar("T")
Usd = tuple[float, float]
Label = Literal["new_usage", "late", "restatement"]
_NANO = 1_000_000_000
_CACHE_KIB = 32 * 1024
#: A cursor holds the totals of this many billing periods.
_PERIODS_IN_CURSOR = 100
#: Dollars, and share of an amount, within which two exports say the same: each rounds its lines.
_CENT, _SAME_SHARE = 0.005, 1e-6
#: Different amounts that days of an account must have in common in two exports that name services differently: equal
#: days of a flat fee are no copy. Chosen by hand.
_DISTINCT = 3
#: A day is lost when less than this share of its dollars is left.
_LOST_SHARE = 0.1
#: Dollars of a delivery at most, so that sums of nano-dollars stay integers of 64 bits.
_LARGEST_USD = 4e9
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS period (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version TEXT NOT NULL, complete_until REAL NOT NULL,
    effective INTEGER NOT NULL, billed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dimension (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, seconds INTEGER NOT NULL, usage INTEGER NOT NULL,
    correction INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS known (
    period INTEGER NOT NULL, start INTEGER NOT NULL, dimension INTEGER NOT NULL, effective INTEGER NOT NULL,
    billed INTEGER NOT NULL, PRIMARY KEY (period, start, dimension)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (
    number INTEGER PRIMARY KEY, start INTEGER NOT NULL, dimension INTEGER NOT NULL, effective INTEGER NOT NULL,
    billed INTEGER NOT NULL, label TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refused (
    period TEXT PRIMARY KEY, version TEXT NOT NULL, why TEXT NOT NULL) WITHOUT ROWID;
CREATE TEMP TABLE arrived (
    start INTEGER NOT NULL, dimension INTEGER NOT NULL, effective REAL NOT NULL, billed REAL NOT NULL);
CREATE TEMP TABLE staged (
    start INTEGER NOT NULL, dimension INTEGER NOT NULL, effective REAL NOT NULL, billed REAL NOT NULL,
    PRIMARY KEY (start, dimension)) WITHOUT ROWID;
"""
# Rows come in any order; sorted once, everything after goes through the trees from left to right.
_STAGE = """
INSERT INTO staged SELECT start, dimension, SUM(effective), SUM(billed) FROM arrived
GROUP BY start, dimension ORDER BY start, dimension
"""
# Sums of floats depend on their order in the last bits; that is no change.
_CHANGES = """
INSERT INTO journal (start, dimension, effective, billed, label)
SELECT start, dimension, effective, billed, CASE
    WHEN d.correction THEN 'restatement'
    WHEN :until IS NULL OR start + d.seconds > :until THEN 'new_usage'
    WHEN seen THEN 'restatement' ELSE 'late' END
FROM (
    SELECT s.start AS start, s.dimension AS dimension, k.start IS NOT NULL AS seen,
        CAST(ROUND(s.effective * 1e9) AS INTEGER) - COALESCE(k.effective, 0) AS effective,
        CAST(ROUND(s.billed * 1e9) AS INTEGER) - COALESCE(k.billed, 0) AS billed,
        MAX(0.5, 1e-12 * MAX(ABS(COALESCE(k.effective, 0)), ABS(COALESCE(k.billed, 0)))) AS noise
    FROM staged s LEFT JOIN known k ON k.period = :period AND k.start = s.start AND k.dimension = s.dimension
    UNION ALL
    SELECT k.start, k.dimension, 1, -k.effective, -k.billed, 0.5
    FROM known k WHERE k.period = :period AND k.start >= :from AND k.start < :to
    AND NOT EXISTS (SELECT 1 FROM staged s WHERE s.start = k.start AND s.dimension = k.dimension)
) JOIN dimension d ON d.id = dimension
WHERE ABS(effective) > noise OR ABS(billed) > noise
ORDER BY start, dimension
"""
_REMEMBER = """
INSERT INTO known SELECT :period, start, dimension, effective, billed FROM journal WHERE true
ON CONFLICT DO UPDATE SET effective = effective + excluded.effective, billed = billed + excluded.billed
"""
_FORGET_VANISHED = """
DELETE FROM known WHERE period = :period AND effective = 0 AND billed = 0
AND EXISTS (SELECT 1 FROM journal j WHERE j.start = known.start AND j.dimension = known.dimension)
"""
_SLOTS = """
SELECT start + d.seconds AS ended, SUM(effective) FROM staged JOIN dimension d ON d.id = dimension
WHERE d.usage AND d.seconds <= ? AND start + d.seconds BETWEEN ? AND ? GROUP BY ended
"""
# The end of the last usage that began later than a moment by its length, and was over at another. What is paid ahead is
# longer than a day.
_AFTER = """
SELECT MAX(start + d.seconds) FROM staged JOIN dimension d ON d.id = dimension
WHERE d.usage AND d.seconds <= :day AND effective <> 0
    AND start >= :as_of + MAX(d.seconds, 3600) AND start + d.seconds <= :now
"""
_DAYS = "SELECT start / 86400 AS day, SUM({gross}) FROM {table} {where} GROUP BY day"
_STAGED_GROSS, _KNOWN_GROSS = "MAX(effective, billed, 0)", "MAX(effective, billed, 0) / 1e9"
# Keys of another period with the same amounts, to the cent.
_TWINS = """
SELECT COUNT(*), COALESCE(SUM(MAX(s.effective, s.billed)), 0) FROM staged s
JOIN known k ON k.period = ? AND k.start = s.start AND k.dimension = s.dimension
WHERE MAX(s.effective, s.billed) > 0
AND ABS(k.effective / 1e9 - s.effective) < 0.005 AND ABS(k.billed / 1e9 - s.billed) < 0.005
AND ABS(MAX(k.effective, k.billed) / 1e9 - MAX(s.effective, s.billed)) <= 1e-3 * MAX(s.effective, s.billed)
"""
# What is charged for each day, whatever else its keys say.
_BY_DAY = """
SELECT start / 86400 AS day, dimension, SUM(CASE WHEN billed != 0 THEN billed ELSE effective END) FROM {table} {where}
GROUP BY day, dimension
"""
_VANISHED = f"""
SELECT COUNT(*), COALESCE(SUM({_KNOWN_GROSS}), 0), COALESCE(SUM(d.usage * {_KNOWN_GROSS}), 0)
FROM known k JOIN dimension d ON d.id = k.dimension WHERE period = ?
AND NOT EXISTS (SELECT 1 FROM staged s WHERE s.start = k.start AND s.dimension = k.dimension)
"""
_TOTALS = """
UPDATE period SET effective = effective + (SELECT COALESCE(SUM(j.effective), 0) FROM journal j),
    billed = billed + (SELECT COALESCE(SUM(j.billed), 0) FROM journal j) WHERE id = ?
"""


def _last(account: str) -> str:
    """An account, however its export writes it: /subscriptions/S-1 is s-1."""
    return account.rpartition("/")[2].lower()


def _alike(one: Mapping[tuple[Any, ...], float], other: Mapping[tuple[Any, ...], float]) -> tuple[int, float, int]:
    """How many amounts are the same to the cent in both, what they amount to, and how many of them differ."""
    same = [usd for key, usd in one.items() if usd > 0 and abs(other.get(key, 0.0) - usd) < _CENT + _SAME_SHARE * usd]
    return len(same), math.fsum(same), len({round(usd, 2) for usd in same})


class Delta(NamedTuple):
    """One line of the journal, in dollars."""

    number: int
    start: int
    seconds: int
    effective_cost: float
    billed_cost: float
    label: Label
    dimensions: Dimensions


class Comparison(NamedTuple):
    """A staged delivery beside what is known of its period; dollars are sums of positive amounts."""

    #: Whether a delivery of the period was taken before.
    known: bool
    known_usd: float
    usd: float
    keys: int
    #: Days (since 1970) on which dollars were known and hardly any are left, and these dollars; of `lost_later_usd`
    #: only those from the first day of the delivery on.
    lost_days: int = 0
    lost_usd: float = 0.0
    lost_later_usd: float = 0.0
    #: Known keys that the delivery does not have, their dollars, and those of usage among them.
    vanished: int = 0
    vanished_usd: float = 0.0
    vanished_usage_usd: float = 0.0
    first_day: int | None = None
    known_first_day: int | None = None
    #: Another period that holds the same charges: the dollars and keys that are equal, and all dollars it has there.
    twin: str = ""
    twin_usd: float = 0.0
    twin_keys: int = 0
    twin_of_usd: float = 0.0


class DeliveryVerdict(NamedTuple):
    """Why a delivery is not taken, empty when it is; `since` is from when on it replaces what is known (epoch seconds),
    `keep` lets keys that it does not have stay."""

    refused: str = ""
    since: float | None = None
    keep: bool = False


class Refused(Exception):
    """A judge refused the delivery; nothing has changed."""


Judge = Callable[[Comparison], DeliveryVerdict]


class Pending(msgspec.Struct):
    """The journal as a whole; `period` is the billing period it is of."""

    generation: int
    period: str
    taken_at: float
    count: int
    #: Dollars of the period that were on the log before it.
    told: Usd


class _State(msgspec.Struct):
    name: str
    generation: int = 0
    pending: Pending | None = None
    complete_until: float | None = None
    #: Set in a store that replaces a lost one: the cursor it found, and what that says is on the log.
    instead_of: tuple[str, int, int | None] | None = None
    lost_usd: dict[str, Usd] = {}
    #: Billing period → the time its last delivery bears, which is before usage that it holds.
    misdated: dict[str, float] = {}


class RestateStore:
    """Owns the file. Not safe for two threads at once, but for one after the other."""

    def __init__(self, path: Path, default_lag_s: float) -> None:
        self._default_lag_s = default_lag_s
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._db.executescript(_SCHEMA)
            self._state = self._load("state", _State) or _State(os.urandom(6).hex())
            self.lag = self._load("lag", LagCurve) or LagCurve(default_lag_s)
            self.lag.default_lag_s = default_lag_s
            self._save()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @property
    def name(self) -> str:
        """Tells this store from any that was before it."""
        return self._state.name

    @property
    def pending(self) -> Pending | None:
        """The journal, until `settle` learns that all of it is on the log."""
        return self._state.pending

    @property
    def complete_until(self) -> float | None:
        """See `Restater.complete_until`."""
        return self._state.complete_until

    @property
    def misdated(self) -> dict[str, float]:
        """See `Restater.misdated`."""
        return self._state.misdated

    def version(self, period: str) -> str | None:
        """See `Restater.version`."""
        row = self._db.execute("SELECT version FROM period WHERE name = ?", (period,)).fetchone()
        return None if row is None else str(row[0])

    def total(self, period: str) -> Usd:
        """Dollars of a period as last taken."""
        row = self._db.execute("SELECT effective, billed FROM period WHERE name = ?", (period,)).fetchone()
        return (0.0, 0.0) if row is None else (row[0] / _NANO, row[1] / _NANO)

    # --- with the cursor --------------------------------------------------------------------------------------------

    def settle(self, store: str, generation: int, sent: int | None, usd: Mapping[str, Usd]) -> bool:
        """Forget the journal if the cursor says that it is on the log; False when the store had to start again."""
        state = self._state
        if (store, generation, sent) == state.instead_of or (
            store == "" and state.generation == (1 if state.pending else 0)
        ):
            return True
        if store == state.name and generation == state.generation:
            if sent is None and state.pending is not None:
                with self._transaction():
                    self._db.execute("DELETE FROM journal")
                    state.pending = None
            return True
        if store == state.name and sent is None and state.pending and generation == state.generation - 1:
            return True
        self._start_over(None if store == "" else (store, generation, sent), usd)
        return store == ""

    def _start_over(self, instead_of: tuple[str, int, int | None] | None, usd: Mapping[str, Usd]) -> None:
        """Nothing here fits the log: forget it. A cursor that stands for spend on the log is kept to compare with."""
        with self._transaction():
            for table in ("period", "known", "journal", "dimension", "refused"):
                self._db.execute(f"DELETE FROM {table}")
            self._state = _State(os.urandom(6).hex(), instead_of=instead_of, lost_usd=dict(usd))
            self.lag = LagCurve(self._default_lag_s)

    def deltas(self, sent: int, limit: int) -> list[Delta]:
        """Lines of the journal behind the first `sent`."""
        rows = self._db.execute(
            "SELECT number, start, d.seconds, effective, billed, label, d.content FROM journal"
            " JOIN dimension d ON d.id = dimension WHERE number > ? ORDER BY number LIMIT ?",
            (sent, limit),
        )
        decode, known = msgspec.msgpack.Decoder(Dimensions).decode, dict[bytes, Dimensions]()
        found = []
        for number, start, seconds, effective, billed, label, content in rows:
            of = known.get(content)
            if of is None:
                of = known[content] = decode(content)
            found.append(Delta(number, start, seconds, effective / _NANO, billed / _NANO, cast(Label, label), of))
        return found

    def usd_after(self, before: Usd, deltas: Sequence[Delta]) -> dict[str, Usd]:
        """Dollars on the log by billing period once `deltas` are, `before` of the journal's period without them.

        The last by name only, if there are many.
        """
        rows = self._db.execute(
            "SELECT name, effective, billed FROM period ORDER BY name DESC LIMIT ?", (_PERIODS_IN_CURSOR,)
        )
        amounts = {name: (effective / _NANO, billed / _NANO) for name, effective, billed in rows}
        if self._state.pending is not None:
            effective = round(before[0] * _NANO) + sum(round(each.effective_cost * _NANO) for each in deltas)
            billed = round(before[1] * _NANO) + sum(round(each.billed_cost * _NANO) for each in deltas)
            amounts[self._state.pending.period] = (effective / _NANO, billed / _NANO)
        return {name: amounts[name] for name in sorted(amounts)}

    def lost_total(self, period: str) -> Usd | None:
        """What is on the log of a period whose amounts were lost and that was not taken since, else None."""
        lost = self._state.lost_usd
        if not lost or self.version(period) is not None:
            return None
        if period in lost:
            return lost[period]
        # So old that the cursor left it out: it is taken as it is.
        return (math.nan, math.nan) if len(lost) == _PERIODS_IN_CURSOR and period < min(lost) else None

    # --- taking a snapshot ------------------------------------------------------------------------------------------

    def take(
        self,
        charges: Iterable[Charge],
        snapshot: Snapshot,
        *,
        taken_at: float,
        lost: Usd | None,
        judge: Judge | None = None,
    ) -> int:
        """Write the journal from known to snapshot, and remember the snapshot; returns the length of the journal.

        Raises Refused when `judge` refuses it.
        """
        if self._state.pending is not None:
            raise RuntimeError("a snapshot was taken before the last one was reported")
        before = msgspec.structs.replace(self._state), msgspec.msgpack.encode(self.lag)
        try:
            with self._transaction():
                return self._take(charges, snapshot, taken_at, lost, judge)
        except BaseException:
            self._state, self.lag = before[0], msgspec.msgpack.decode(before[1], type=LagCurve)
            raise

    def _take(
        self, charges: Iterable[Charge], snapshot: Snapshot, taken_at: float, lost: Usd | None, judge: Judge | None
    ) -> int:
        self._db.execute("DELETE FROM arrived")
        self._db.execute("DELETE FROM staged")
        self._db.executemany("INSERT INTO arrived VALUES (?, ?, ?, ?)", self._arriving(charges))
        self._db.execute(_STAGE)
        (size,) = self._db.execute("SELECT TOTAL(MAX(ABS(effective), ABS(billed))) FROM staged").fetchone()
        if not size <= _LARGEST_USD:
            raise Refused(f"its charges come to {money(size)}, which no bill has")
        verdict = DeliveryVerdict() if judge is None else judge(self._compared(snapshot.period))
        if verdict.refused:
            raise Refused(verdict.refused)
        until = self._db.execute("SELECT complete_until FROM period WHERE name = ?", (snapshot.period,)).fetchone()
        before = self.total(snapshot.period) if lost is None or math.isnan(lost[0]) else lost
        state = self._state
        period = self._enter(snapshot._replace(as_of=self._known_at(snapshot, taken_at)))
        first, last = snapshot.covers or (-math.inf if verdict.since is None else verdict.since, math.inf)
        if verdict.keep:
            last = first
        here = {"period": period, "until": until and until[0], "from": first, "to": last}
        self._db.execute(_CHANGES, here)
        self._db.execute(_REMEMBER, here)
        self._db.execute(_FORGET_VANISHED, here)
        self._db.execute(_TOTALS, (period,))
        if lost is not None:
            self._tell_difference(period, lost)
        count = int(self._db.execute("SELECT COUNT(*) FROM journal").fetchone()[0])
        state.generation += 1
        state.pending = Pending(state.generation, snapshot.period, taken_at, count, before)
        return count

    def _compared(self, name: str) -> Comparison:
        """The staged delivery beside what is known."""
        period = self._db.execute("SELECT id FROM period WHERE name = ?", (name,)).fetchone()
        staged = dict(self._db.execute(_DAYS.format(gross=_STAGED_GROSS, table="staged", where="")).fetchall())
        keys = int(self._db.execute("SELECT COUNT(*) FROM staged").fetchone()[0])
        total = math.fsum(staged.values())
        if period is None:
            return Comparison(False, 0.0, total, keys)._replace(**self._twin())
        sql = _DAYS.format(gross=_KNOWN_GROSS, table="known", where="WHERE period = ?")
        known = {day: usd for day, usd in self._db.execute(sql, period) if usd > 0}
        first = min(staged, default=None)
        lost = {day: usd for day, usd in known.items() if staged.get(day, 0.0) < _LOST_SHARE * usd}
        vanished, vanished_usd, vanished_usage_usd = self._db.execute(_VANISHED, period).fetchone()
        return Comparison(
            known=True,
            known_usd=math.fsum(known.values()),
            usd=total,
            keys=keys,
            lost_days=len(lost),
            lost_usd=math.fsum(lost.values()),
            lost_later_usd=math.fsum(usd for day, usd in lost.items() if first is None or day >= first),
            vanished=vanished,
            vanished_usd=vanished_usd,
            vanished_usage_usd=vanished_usage_usd,
            first_day=first,
            known_first_day=min(known, default=None),
        )

    def _twin(self) -> dict[str, Any]:
        """The period with the most charges that are in the staged delivery as well."""
        start, end = self._db.execute("SELECT MIN(start), MAX(start) FROM staged").fetchone()
        found: dict[str, Any] = {}
        for period, name in [] if start is None else self._db.execute("SELECT id, name FROM period").fetchall():
            within = "FROM known WHERE period = ? AND start BETWEEN ? AND ?"
            if self._db.execute(f"SELECT 1 {within} LIMIT 1", (period, start, end)).fetchone() is None:
                continue
            keys, usd = self._db.execute(_TWINS, (period,)).fetchone()
            of = self._db.execute(f"SELECT SUM({_KNOWN_GROSS}) {within}", (period, start, end)).fetchone()[0] or 0.0
            here = f"WHERE period = {period} AND start BETWEEN {start} AND {end}"
            for finest in (True, False):
                alike = _alike(self._by_day("staged", "", 1.0, finest), self._by_day("known", here, _NANO, finest))
                if alike[1] > usd and (finest or alike[2] >= _DISTINCT):
                    keys, usd = alike[:2]
            if keys and usd > found.get("twin_usd", 0.0):
                found = {"twin": name, "twin_usd": usd, "twin_keys": keys, "twin_of_usd": of}
        return found

    def _by_day(self, table: str, where: str, unit: float, with_service: bool) -> dict[tuple[Any, ...], float]:
        """Dollars by day and account, whatever an export calls the rest; `with_service` by service as well."""
        decode, of = msgspec.msgpack.Decoder(Dimensions).decode, dict[int, tuple[str, str]]()
        found: dict[tuple[Any, ...], float] = defaultdict(float)
        for day, dimension, usd in self._db.execute(_BY_DAY.format(table=table, where=where)):
            names = of.get(dimension)
            if names is None:
                content = self._db.execute("SELECT content FROM dimension WHERE id = ?", (dimension,)).fetchone()[0]
                known = decode(content)
                names = of[dimension] = _last(known.sub_account_id), known.service_name if with_service else ""
            found[day, *names] += usd / unit
        return found

    # --- what is not taken ------------------------------------------------------------------------------------------

    @property
    def export(self) -> str:
        """Which of several exports is read; empty before the first."""
        return self._load("export", str) or ""

    @export.setter
    def export(self, name: str) -> None:
        self._keep("export", name)

    def refused(self) -> dict[str, tuple[str, str]]:
        """Period → version and reason of what was refused and not taken since."""
        rows = self._db.execute("SELECT period, version, why FROM refused ORDER BY period")
        return {str(period): (str(version), str(why)) for period, version, why in rows}

    def refuse(self, period: str, version: str, why: str) -> None:
        """Remember what was refused."""
        self._db.execute("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", (period, version, why))

    def forgive(self, period: str) -> None:
        """It was taken, or is gone."""
        self._db.execute("DELETE FROM refused WHERE period = ?", (period,))

    def kept(self, key: str, kind: type[T]) -> T | None:
        """What `keep` kept."""
        return self._load(key, kind)

    def keep(self, key: str, value: object) -> None:
        """Keep a value of a caller."""
        self._keep(key, value)

    def _arriving(self, charges: Iterable[Charge]) -> Iterator[tuple[int, int, float, float]]:
        # Dimensions come as few objects many times; what they are is looked up once each.
        numbers: dict[tuple[int, int], tuple[int, Dimensions]] = {}
        for start, seconds, effective, billed, of in charges:
            if not (math.isfinite(effective) and math.isfinite(billed)):
                raise ValueError("an amount is not finite")
            known = numbers.get((id(of), seconds))
            if known is None:
                known = numbers[id(of), seconds] = self._dimension(seconds, of), of
            yield start, known[0], effective, billed

    def _dimension(self, seconds: int, of: Dimensions) -> int:
        content = msgspec.msgpack.encode(of)
        digest = hashlib.blake2b(content + seconds.to_bytes(8, "big"), digest_size=16).digest()
        row = self._db.execute("SELECT id FROM dimension WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            row = self._db.execute(
                "INSERT INTO dimension (digest, seconds, usage, correction, content) VALUES (?, ?, ?, ?, ?)"
                " RETURNING id",
                (digest, seconds, of.charge_category == "Usage", of.correction, content),
            ).fetchone()
        return int(row[0])

    def _known_at(self, snapshot: Snapshot, taken_at: float) -> float:
        """When the staged snapshot was made: not before usage that it holds, whatever time its files bear."""
        asked = {"day": DAY_S, "as_of": snapshot.as_of, "now": taken_at}
        (end,) = self._db.execute(_AFTER, asked).fetchone()
        others = {name: at for name, at in self._state.misdated.items() if name != snapshot.period}
        self._state.misdated = others if end is None else others | {snapshot.period: snapshot.as_of}
        return snapshot.as_of if end is None else float(end)

    def _enter(self, snapshot: Snapshot) -> int:
        """Learn the lag from the staged snapshot, and enter its version; the number of its period."""
        slots = self._db.execute(_SLOTS, (DAY_S, snapshot.as_of - MAX_AGE_S, snapshot.as_of))
        self.lag.observe(snapshot.period, snapshot.as_of, dict(slots.fetchall()))
        until = snapshot.as_of - self.lag.lag_s
        self._state.complete_until = max(until, self._state.complete_until or until)
        row = self._db.execute(
            "INSERT INTO period (name, version, complete_until, effective, billed) VALUES (?, ?, ?, 0, 0)"
            " ON CONFLICT (name) DO UPDATE SET version = excluded.version,"
            " complete_until = MAX(complete_until, excluded.complete_until) RETURNING id",
            (snapshot.period, snapshot.version, until),
        ).fetchone()
        return int(row[0])

    def _tell_difference(self, period: int, lost: Usd) -> None:
        """The journal of a period whose keys were lost: only what it amounts to more than what is on the log."""
        start = self._db.execute("SELECT COALESCE(MIN(start), 0) FROM journal").fetchone()[0]
        now = self._db.execute("SELECT effective, billed FROM period WHERE id = ?", (period,)).fetchone()
        self._db.execute("DELETE FROM journal")
        if math.isnan(lost[0]):
            return
        more = [have - round(usd * _NANO) for have, usd in zip(now, lost, strict=True)]
        if any(more):
            of = self._dimension(DAY_S, Dimensions(correction=True))
            self._db.execute("INSERT INTO journal VALUES (1, ?, ?, ?, ?, 'restatement')", (start, of, *more))

    # --- storage ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._save()
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _save(self) -> None:
        for key, value in (("state", self._state), ("lag", self.lag)):
            self._keep(key, value)

    def _keep(self, key: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, msgspec.msgpack.encode(value)))

    def _load(self, key: str, kind: type[T]) -> T | None:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else msgspec.msgpack.decode(row[0], type=kind)
