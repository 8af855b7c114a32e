"""Records of the past, which came so late that no bucket waits for them: each is one sum over the time it covers.

A detector that is made again (`detector.rebuild`) spreads such a sum over its time; until then it counts at its start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from curb.detector.rollup.raw_records import HotRecord
from curb.detector.rollup.spread import MAX_PIECES, Pieces, Rows, pieces
from curb.detector.state.amounts import PAST_S
from curb.detector.state.columns import Bools, Floats
from curb.stream.time import DAY_S, HOUR_S, grid_of

#: Different starts from which the step of records without an end is known. Chosen by hand: three may be chance.
_FEWEST_STARTS = 4
#: Shortest and longest period of a record, seconds: less is a moment, a month is the longest of any report.
_SHORTEST_S, _LONGEST_S = 10, 31 * DAY_S


class Covered(NamedTuple):
    """Pieces of records, each counted at its start and covering `covers_s` seconds from there."""

    covers_s: int
    pieces: Pieces


def is_past(start: Floats, received: Floats, timing_s: Floats, open_s: float, records: Sequence[HotRecord]) -> Bools:
    """Which records are older than their source's usual delay and period (`timing_s`) explain.

    What was read from a source's own past is so as soon as its bucket, which is open for `open_s`, is closed.
    """
    age = received - start - timing_s
    past: Bools = age > PAST_S
    if past.any() and any(record.backfilled for record in records):
        past |= (age > open_s) & np.array([record.backfilled for record in records])
    return past


def periods(start: Floats, known_s: Floats, records: Sequence[HotRecord]) -> Floats:
    """Seconds that each record of the past covers: by its own end, else as is known of its source, else by their step.

    Rows about hours or days begin on a grid; calls do not.
    """
    ends = np.array([record.charge_period_end for record in records])
    found = np.where(ends > start, ends - start, known_s)
    unknown = found == 0
    sources = np.array([record.source for record in records])
    for source in np.unique(sources[unknown]).tolist():
        of = unknown & (sources == source)
        found[of] = _step(start[of])
    found[found < _SHORTEST_S] = 0.0
    return np.minimum(found, _LONGEST_S)


def _step(start: Floats) -> float:
    """The largest step on which all starts lie; 0 for few or for none in whole seconds."""
    starts = set(start.tolist())
    return float(min(DAY_S, grid_of(starts))) if len(starts) >= _FEWEST_STARTS else 0.0


def cover(rows: Rows, bucket_s: int, *, samples: bool) -> Iterator[Covered]:
    """The records as sums of the time they cover: whole up to an hour, longer ones by hours."""
    bucket = np.floor(rows.start / bucket_s) * bucket_s
    step = np.ceil(rows.duration / bucket_s) * bucket_s
    step = np.where(step > HOUR_S, HOUR_S * np.ceil(rows.duration / HOUR_S / MAX_PIECES), step)
    step[rows.start + rows.duration <= bucket + bucket_s] = 0.0
    for covers_s in np.unique(step).tolist():
        chosen = step == covers_s
        of = rows.where(chosen)
        if rows.duration[chosen].max() > HOUR_S:
            cut = pieces(of, np.full(len(of.start), -np.inf), np.inf, HOUR_S, samples=samples)
        else:
            cut = Pieces(of.series, bucket[chosen].astype(np.int64), of.values, np.ones(len(of.start), np.bool_))
        yield Covered(int(covers_s), cut)
