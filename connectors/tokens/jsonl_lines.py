"""Lines of the two JSON-lines formats → records: Curb's own, and the event stream of recorded benchmarks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec

from curb.connectors.connector import Batch
from curb.connectors.decode import UNFORESEEN, Letters, Rejected, decode, unforeseen
from curb.connectors.fingerprint import Fingerprints
from curb.connectors.pricing.book import PriceBook
from curb.connectors.validate import check_plan, clean, shorten, validate
from curb.stream.clock import WallClock
from curb.stream.records.loops import LoopPrint
from curb.stream.records.spend import GpuRecord, PlannedActivity, SpendRecord, UsageRecord

DEFAULT_LINE_BYTES = 1024 * 1024
#: Suspicious lines that are named in one answer: a sender repeats the same mistake in every line.
MAX_DOUBTS = 5
#: Unknown fields that are named of one line, and characters of each name: they come from the sender.
_MAX_FIELDS, _MAX_FIELD_CHARS = 5, 64
#: DCGM's "no value" for 64-bit integers, and all that lies above any real reading.
_BLANK = 9.2e18
#: An RFC 3339 time with its zone.
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class LineFormat(NamedTuple):
    """How one line becomes a record of spend, or of work that is planned; None is a line that means nothing."""

    name: str
    decoder: msgspec.json.Decoder[Any]
    record: Callable[[Any, str, float], SpendRecord | PlannedActivity | Rejected | None]
    #: What is suspicious about a decoded line that is kept, given its text; "" for nothing.
    doubt: Callable[[Any, bytes], str] = lambda event, line: ""


def parse_lines(
    lines: Iterable[bytes],
    form: LineFormat,
    *,
    source: str,
    location: str,
    at: float,
    first_line: int = 1,
    max_line_bytes: int = DEFAULT_LINE_BYTES,
) -> Batch:
    """The records of the lines, not yet validated, and dead letters for the rest. Blank lines are nothing.

    `location` names the file or request; `first_line` is the number of the first of `lines` in it.
    """
    records: list[SpendRecord] = []
    locations: list[str] = []
    plans: list[PlannedActivity] = []
    letters, ignored, doubts = Letters(source, at), 0, list[str]()
    for number, line in enumerate(lines, first_line):
        if not line or line.isspace():
            continue
        if len(line) > max_line_bytes:
            letters.add(too_long(max_line_bytes), location=f"{location}:{number}", content=line)
            continue
        event = decode(form.decoder, line)
        if isinstance(event, Rejected):
            letters.add(event, location=f"{location}:{number}", content=line)
            continue
        try:
            record = form.record(event, source, at)
            if doubt := form.doubt(event, line):
                doubts.append(f"line {number} {doubt}")
        except UNFORESEEN as error:
            record = unforeseen(error)
        if record is None:
            ignored += 1
        elif isinstance(record, Rejected):
            letters.add(record, location=f"{location}:{number}", content=line)
        elif not isinstance(record, PlannedActivity):
            records.append(record)
            locations.append(f"{location}:{number}")
        elif rejected := _refused_plan(record):
            letters.add(rejected, location=f"{location}:{number}", content=line)
        else:
            plans.append(record)
    left_out = {"lines that are no usage": ignored} if ignored else {}
    dead, warnings = letters.messages(), _first(doubts)
    return Batch(records, "", dead=dead, locations=locations, plans=plans, ignored=left_out, warnings=warnings)


def _first(doubts: list[str]) -> list[str]:
    more = [f"{len(doubts) - MAX_DOUBTS} more lines are like these"] if len(doubts) > MAX_DOUBTS else []
    return [*doubts[:MAX_DOUBTS], *more]


def _refused_plan(plan: PlannedActivity) -> Rejected | None:
    try:
        return check_plan(plan)
    except UNFORESEEN as error:
        return unforeseen(error)


def too_long(max_line_bytes: int) -> Rejected:
    """Why a longer line is refused."""
    return Rejected("too_large", f"line longer than {max_line_bytes} bytes")


# --- event_stream ---------------------------------------------------------------------------------------------------


class _Llm(msgspec.Struct, tag_field="src", tag="llm"):
    id: str
    ts: _Moment
    tags: dict[str, str]
    cost_usd: float
    recv: _Moment | None = None
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    errors: int = 0
    users: int = 0


class _Gpu(msgspec.Struct, tag_field="src", tag="gpu"):
    id: str
    ts: _Moment
    tags: dict[str, str]
    cost_usd: float
    recv: _Moment | None = None
    gpu_util_pct: float | None = None
    gpu_mem_gib: float | None = None


class _Plan(msgspec.Struct, tag_field="src", tag="plan"):
    """Work announced at `ts`; no spend."""

    ts: _Moment
    tags: dict[str, str]
    start: _Moment
    end: _Moment
    max_usd: float
    id: str = ""
    reason: str = ""


def _stream_record(event: _Llm | _Gpu | _Plan, source: str, at: float) -> SpendRecord | PlannedActivity:
    if isinstance(event, _Plan):
        return _planned(event, source, at)
    received_at = at if event.recv is None else min(event.recv.timestamp(), at)
    if isinstance(event, _Gpu):
        return GpuRecord(
            id=event.id,
            charge_period_start=event.ts.timestamp(),
            received_at=received_at,
            effective_cost=event.cost_usd,
            tags=event.tags,
            source=source,
            gpu_utilization=_unless_blank(event.gpu_util_pct),
            memory_used=_unless_blank(event.gpu_mem_gib),
        )
    return UsageRecord(
        id=event.id,
        charge_period_start=event.ts.timestamp(),
        received_at=received_at,
        effective_cost=event.cost_usd,
        tags=event.tags,
        source=source,
        request_model=event.tags.get("model", ""),
        requests=event.requests,
        errors=event.errors,
        users=event.users,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
    )


def _planned(event: _Plan, source: str, at: float) -> PlannedActivity:
    """Without an id, the same announcement has the same one wherever it is read again."""
    said = msgspec.json.encode([event.ts, sorted(event.tags.items()), event.start, event.end, event.max_usd])
    return PlannedActivity(
        id=event.id or f"plan-{hashlib.sha256(said).hexdigest()[:16]}",
        at=min(event.ts.timestamp(), at),
        tags=event.tags,
        start=event.start.timestamp(),
        end=event.end.timestamp(),
        max_usd=event.max_usd,
        reason=event.reason,
        by=source,
    )


def _unless_blank(value: float | None) -> float | None:
    return None if value is not None and value > _BLANK else value


EVENT_STREAM = LineFormat("event_stream", msgspec.json.Decoder(_Llm | _Gpu | _Plan), _stream_record)


def parse_event_stream(
    lines: Iterable[bytes], *, source: str, location: str, at: float | None = None, first_line: int = 1
) -> Batch:
    """What recorded lines hold, validated, and the dead letters of the others; for replays without a log.

    `at` bounds the recorded receipt times and dates the dead letters (epoch seconds; None is now).
    """
    now = WallClock().now() if at is None else at
    batch = parse_lines(lines, EVENT_STREAM, source=source, location=location, at=now, first_line=first_line)
    return validate(batch, source=source, at=now)


# --- curb -----------------------------------------------------------------------------------------------------------


class CurbLine(msgspec.Struct):
    """A line of Curb's own format."""

    id: str
    charge_period_start: float | _Moment
    tags: dict[str, str] = {}
    effective_cost: float | None = None
    received_at: float | _Moment | None = None
    request_model: str = ""
    requests: int = 1
    errors: int = 0
    refused: int = 0
    users: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    #: What `_Content` reads, and only where `loops` is on.
    content: msgspec.Raw = msgspec.Raw()


class _Content(msgspec.Struct):
    """What was said, for loop prints; it goes no further."""

    messages: Any = None
    session: str = ""
    seconds: float = 0.0


_CONTENT = msgspec.json.Decoder(_Content)


def _print_of(event: CurbLine, loops: Fingerprints) -> LoopPrint | None:
    """The print of a line; None where it has no content that can be read, or reports no single call that ended well."""
    if not bytes(event.content) or event.errors or event.requests != 1:
        return None
    content = decode(_CONTENT, bytes(event.content))
    if isinstance(content, Rejected):
        return None
    return loops.of(content.messages, session=content.session, seconds=content.seconds)


def curb_format(prices: PriceBook, default_tags: dict[str, str], loops: Fingerprints | None = None) -> LineFormat:
    """Curb's own format. A line without a cost is priced from the book; `default_tags` fill in what a line lacks."""

    def record(event: CurbLine, source: str, at: float) -> UsageRecord:
        model_tag = {"model": event.request_model} if event.request_model else {}
        usage = UsageRecord(
            id=event.id,
            charge_period_start=_epoch(event.charge_period_start),
            received_at=at if event.received_at is None else min(_epoch(event.received_at), at),
            effective_cost=event.effective_cost or 0.0,
            tags={**default_tags, **model_tag, **event.tags},
            source=source,
            request_model=event.request_model or event.tags.get("model", ""),
            requests=event.requests,
            errors=event.errors,
            refused=event.refused,
            users=event.users,
            input_tokens=event.input_tokens,
            output_tokens=event.output_tokens,
            cache_read_input_tokens=event.cache_read_input_tokens,
            cache_creation_input_tokens=event.cache_creation_input_tokens,
        )
        if event.effective_cost is None:
            prices.price_usage(usage)
        if loops is not None:
            usage.loop = _print_of(event, loops)
        return usage

    return LineFormat("curb", msgspec.json.Decoder(CurbLine), record, _doubt)


#: The names of a line's fields; their values stay unread, as those of unknown fields are.
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _doubt(event: CurbLine, line: bytes) -> str:
    """A line that counts as $0 and has a field Curb does not read: its cost, tokens or model may be misspelt."""
    has_tokens = event.input_tokens or event.output_tokens
    has_model = event.request_model or "model" in event.tags
    if event.effective_cost is not None or (has_tokens and has_model) or event.errors:
        return ""
    unknown = [name for name in _FIELDS.decode(line) if name not in CurbLine.__struct_fields__]
    if not unknown:
        return ""
    named = ", ".join(shorten(clean(name), _MAX_FIELD_CHARS) for name in unknown[:_MAX_FIELDS])
    absent = ["cost", *([] if has_tokens else ["tokens"]), *([] if has_model else ["model"])]
    lacks = f"{', '.join(absent[:-1])} or {absent[-1]}"
    return f"has the unknown field{'s' if len(unknown) > 1 else ''} {named} and no {lacks}: it counts as $0"


def _epoch(value: float | datetime) -> float:
    """Seconds."""
    return value.timestamp() if isinstance(value, datetime) else value
