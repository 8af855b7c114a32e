"""Bills in files: finds new deliveries, sums them in columns, and reports the differences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from curb.connectors.bills.cells.ai_meters import ai_meter
from curb.connectors.bills.cells.rates import CurrencyRates, UsdPer
from curb.connectors.bills.charges import Charge, Dimensions, Snapshot
from curb.connectors.bills.files import BillFile, BillFiles, NotWholeError, Storage, canonical, spellings
from curb.connectors.bills.focus import FOCUS, is_focus
from curb.connectors.bills.guard import LineCounts, Refusal, Unusable, judge
from curb.connectors.bills.lines import GROUP, BillForm, BillLines
from curb.connectors.bills.restate import Restater, SnapshotConnector, misdated_note
from curb.connectors.bills.restate_store import Comparison, DeliveryVerdict, Refused
from curb.connectors.bills.split import NotSplitError, SplitCosts
from curb.connectors.bills.sums import BillSums, Meaning
from curb.connectors.connector import Batch, Check, ConnectorConfig, Context
from curb.connectors.decode import Letters, Rejected
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Message
from curb.stream.time import DAY_S, HOUR_S

#: What can be told apart beside the mapped tags.
Dimension = Literal[
    "service", "account", "region", "usage_type", "resource", "principal", "product", "model", "token_kind"
]
DIMENSIONS: tuple[str, ...] = get_args(Dimension)


#: What models are read from.
_FOR_MODELS = ("usage_type", "product")
#: Some stores list milliseconds and answer about one file in whole seconds.
_SAME_TIME_S = 1.0
#: Seconds after which a file that is not whole is refused as broken. By hand: the largest is copied within hours.
_WHOLE_AFTER_S = 6 * HOUR_S
#: Version of a period whose charges were withdrawn because another folder holds them.
_WITHDRAWN = "withdrawn"


class BillSettings(ConnectorConfig):
    """What every kind of bill in files has in common."""

    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    tag_keys: dict[str, str] = Field(
        default={"team": "team", "project": "project", "env": "env"},
        description="Curb's tag → the key it has in the bill; without case, separators and AWS's `user:`.",
    )
    dimensions: tuple[Dimension, ...] = Field(
        ("service", "account", "region"),
        description="Further dimensions, each a tag. `usage_type` and `resource` make many more keys; `principal` (who "
        "called, such as an IAM user) and `product` (its name in the marketplace) are in a CUR alone. `model` and "
        "`token_kind` are read from the meters of Bedrock, SageMaker, Azure OpenAI and Vertex AI.",
    )
    granularity: Literal["hour", "day"] = Field("hour", description="Shorter charge periods are summed to this.")
    usd_per: UsdPer = Field(
        default={},
        description="Dollars for one unit of each other currency, such as EUR: 1.09, or by the day from which each "
        "rate holds. For lines that do not say their dollars themselves.",
    )
    columns: dict[str, str] = Field(
        default={}, description="Documented column → how this bill calls it, where it only has names of its own."
    )
    accept: tuple[str, ...] = Field(
        (), description="Billing periods or files, as the alert names them, that are taken although they were refused."
    )
    since: date | None = Field(None, description="What is charged before this day (UTC) is left out.")
    lag_h: float = Field(
        48, gt=0, le=240, description="Hours until a charge period is complete; used until the source's lag is learned."
    )
    poll_interval_s: float = Field(900, gt=0, le=86_400, description="How often is looked for a new delivery.")
    storage: Storage = Field(Storage(), description="How the files are reached.")

    @property
    def reads_bills(self) -> bool:
        return True

    @property
    def reads_models(self) -> bool:
        """Whether models are read from meters."""
        return not {"model", "token_kind"}.isdisjoint(self.dimensions)

    @property
    def bill_tags(self) -> tuple[str, ...]:
        return (*self.dimensions, *self.tags, *self.tag_keys)

    @field_validator("tag_keys")
    @classmethod
    def _own_names(cls, keys: dict[str, str]) -> dict[str, str]:
        if len(keys) > 32:
            raise ValueError("at most 32 tags")
        return keys


class Delivery(NamedTuple):
    """One complete state of a billing period: its files."""

    snapshot: Snapshot
    files: tuple[BillFile, ...]


class FoundDeliveries(NamedTuple):
    """The deliveries there are, oldest period first, and what is wrong with those that cannot be read yet."""

    deliveries: list[Delivery]
    waiting: list[TransientError]
    #: The export they are of, where a place may hold several.
    export: str = ""
    #: Other exports and folders there that must not count, with the reason.
    beside: Mapping[str, str] = {}


class Bill(SnapshotConnector):
    """A connector over files. `find` lists the deliveries there are, given the export that is read (empty before the
    first); `forms` are the ways they may be written in. `rolling` files may be written over with later days only."""

    def __init__(
        self,
        name: str,
        settings: BillSettings,
        context: Context,
        files: BillFiles,
        find: Callable[[str], FoundDeliveries],
        forms: Sequence[BillForm],
        *,
        rolling: bool = False,
    ) -> None:
        super().__init__(name, settings.lag_h, context)
        self._settings, self._files, self._find, self._forms = settings, files, find, forms
        self._rolling, self._rates = rolling, CurrencyRates(settings.usd_per)
        self._settings_hash = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
        since = settings.since
        self._since = 0.0 if since is None else datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()

    def _next(self, restater: Restater, cursor: str | None) -> Batch:
        found = self._find(restater.export)
        if found.export:
            restater.export = found.export
        withdrawn = self._look_beside(restater, found)
        if withdrawn is not None:
            restater.take([], withdrawn)
            return restater.resume(cursor) or restater.idle(cursor)
        waiting, unusable, dead = list(found.waiting), list[Unusable](), list[Message]()
        for delivery in found.deliveries:
            period = delivery.snapshot.period
            if restater.version(period) == delivery.snapshot.version:
                restater.forgive(period)
                continue
            letters = Letters(self._name, self._clock.now())
            try:
                self._take(restater, delivery, letters)
            except TransientError as error:
                waiting.append(error)
            except Unusable as error:
                if restater.complete_until is None:  # nothing was ever counted: somebody has to look
                    unusable.append(error)
                dead += letters.messages()
            else:
                batch = restater.resume(cursor)
                assert batch is not None  # it was just taken
                return batch._replace(dead=[*dead, *letters.messages()])
        batch = restater.idle(cursor)
        if batch.alerts or dead:
            return batch._replace(dead=dead, more=bool(unusable or waiting))
        problems: list[PermanentError | TransientError] = [*unusable, *waiting]
        if problems:
            raise problems[0]
        return batch

    def _look_beside(self, restater: Restater, found: FoundDeliveries) -> Snapshot | None:
        """Refuse what lies beside the bill. What was taken of it before is withdrawn: a period of it, or None."""
        there = {each.snapshot.period for each in found.deliveries}
        for refusal in restater.refusals:
            if refusal.period not in found.beside and refusal.period not in there:
                restater.forgive(refusal.period)
        known = {refusal.period for refusal in restater.refusals}
        for name, why in found.beside.items():
            if restater.version(name) not in (None, _WITHDRAWN):
                return Snapshot(name, _WITHDRAWN, self._clock.now())
            if name not in known:
                restater.refuse(Refusal(name, "", why))
        return None

    def _take(self, restater: Restater, delivery: Delivery, letters: Letters) -> None:
        """Take a delivery. Raises Unusable, and remembers it, when it must not replace the last good one."""
        period, version = delivery.snapshot.period, f"{delivery.snapshot.version}/{self._settings_hash}"
        refused = next((each for each in restater.refusals if each[:2] == (period, version)), None)
        if refused is not None:
            raise Unusable(refused.why)
        counts, accepted = LineCounts(), period in self._settings.accept

        def judged(comparison: Comparison) -> DeliveryVerdict:
            return DeliveryVerdict() if accepted else judge(comparison, counts, rolling=self._rolling)

        try:
            restater.take(self.charges(delivery, letters, counts), delivery.snapshot, judged)
        except (Refused, Unusable, NotWholeError) as error:
            new = self._clock.now() < delivery.snapshot.as_of + _WHOLE_AFTER_S
            if isinstance(error, NotWholeError) and new:
                raise
            restater.refuse(Refusal(period, version, str(error)))
            letters.add(Rejected("invalid", f"delivery refused: {error}"), location=period, content=b"")
            raise Unusable(f"{period}: {error}") from error
        restater.forgive(period)

    def charges(self, delivery: Delivery, letters: Letters, counts: LineCounts) -> Iterator[Charge]:
        """What a delivery amounts to by key; lines that cannot be read go to `letters`."""
        sums: BillSums | None = None
        lines: BillLines | None = None
        etags = [self._files.etag(file.path) for file in delivery.files]
        for file in delivery.files:

            def choose(names: Sequence[str]) -> Sequence[str]:
                nonlocal lines, sums
                if lines is None:
                    form = self._form_of(names)
                    lines = self._lines(form, self._split(delivery) if form.splits else None)
                    slot_s = HOUR_S if self._settings.granularity == "hour" else DAY_S
                    sums = BillSums(lines.interners, slot_s, self._meaning_in(form, list(lines.interners)))
                return lines.choose(names)

            def odd(number: int, rejected: Rejected, path: str = file.path) -> None:
                if number:
                    counts.rows += 1
                    counts.refuse(rejected)
                letters.add(rejected, location=f"{path}:{number}" if number else path, content=b"")

            row = 0
            for batch in self._files.batches(file.path, choose, odd):
                assert lines is not None  # `choose` was called before
                assert sums is not None
                found, bad = lines.read(batch)
                for at, why in bad:
                    counts.refuse(why)
                    letters.add(why, location=f"{file.path}:{row + at + 1}", content=b"")
                row += len(batch)
                counts.rows += len(batch)
                sums.add(found)
        self._still_there(delivery, etags)
        for text in lines.bad_tags if lines else []:
            why = Rejected("not_json", "tags that are not JSON; the lines are counted without tags")
            letters.add(why, location=delivery.snapshot.period, content=text.encode())
        if sums is not None:
            assert lines is not None  # they come together
            charges = sums.charges(lines.settle)
            yield from charges if not self._since else (each for each in charges if each.start >= self._since)

    def _still_there(self, delivery: Delivery, etags: Sequence[str]) -> None:
        """A file that was written over while it was read makes the whole delivery void.

        What is written within the second in which it was listed may have the same size and time, and another ETag.
        """
        for file, etag in zip(delivery.files, etags, strict=True):
            now = self._files.find(file.path)
            same = now is not None and now.size == file.size and abs(now.modified - file.modified) < _SAME_TIME_S
            if not same or self._files.etag(file.path) != etag:
                raise TransientError(f"{file.path}: changed while it was read")

    def _meaning_in(self, form: BillForm, names: list[str]) -> Meaning:
        return lambda texts: self._meaning(dict(zip(names, texts, strict=True)), form)

    def _meaning(self, texts: Mapping[str, str], form: BillForm) -> tuple[Dimensions, str]:
        """The dimensions of a line with these texts, and its group."""
        kind = form.category(texts)
        wanted = self._settings.dimensions
        shown = {key: texts.get(key, "") if key in wanted else "" for key in DIMENSIONS}
        shown["provider"] = texts.get("provider") or form.provider
        given = {name.removeprefix("tag:"): text for name, text in texts.items() if name.startswith("tag:")}
        if self._settings.reads_models:
            meter = ai_meter(texts.get("usage_type", ""), given.get("product", ""))
            shown |= {key: value for key, value in meter._asdict().items() if key in wanted}
            if "product" not in (*wanted, *self._settings.tag_keys):
                given.pop("product", None)
        tags = {**self._settings.tags, **{tag: text for tag, text in {**shown, **given}.items() if text}}
        currency = (texts.get("currency") or "USD").upper()
        of = Dimensions(
            service_name=shown["service"],
            sub_account_id=shown["account"],
            resource_id=shown["resource"],
            provider_name=shown["provider"],
            region_id=shown["region"],
            usage_type=shown["usage_type"],
            charge_kind=kind.kind,
            commitment_discount_status=kind.commitment,
            charge_category=kind.category,
            billing_currency=currency,
            correction=kind.correction,
            tags=tuple(sorted(tags.items())),
        )
        return of, texts.get(GROUP, "")

    def _lines(self, form: BillForm, split: SplitCosts | None = None) -> BillLines:
        settings = self._settings
        needed = {*settings.dimensions, *(_FOR_MODELS if settings.reads_models else ())}
        nested = {tag: key for tag, key in form.nested.items() if tag in needed}
        keys = self._keys(form)
        return BillLines(form, keys, nested | settings.tag_keys, self._rates, settings.columns, split)

    def _split(self, delivery: Delivery) -> SplitCosts | None:
        """The shares that lines of a delivery have in others; None where it has none."""
        split = SplitCosts()
        try:
            for file in delivery.files:
                for batch in self._files.batches(file.path, split.choose):
                    split.add(batch)
        except NotSplitError:
            return None
        return split

    def _keys(self, form: BillForm) -> list[str]:
        optional = (
            set(DIMENSIONS) - set(self._settings.dimensions) - set(_FOR_MODELS if self._settings.reads_models else ())
        )
        return [key for key in form.texts if key not in optional]

    def _form_of(self, names: Sequence[str]) -> BillForm:
        """FOCUS where it is allowed and the columns are FOCUS, else the last."""
        renamed = {canonical(theirs): canonical(ours) for ours, theirs in self._settings.columns.items()}
        known = {renamed.get(each, each) for name in names for each in spellings(name)}
        focus = FOCUS in self._forms and is_focus(known)
        return FOCUS if focus else self._forms[-1]

    def _check(self) -> list[Check]:
        checks: list[Check] = []
        to_list, to_read = self._files.permissions
        what, permission = f"list {self._files.url}", to_list
        try:
            deliveries, waiting, *_ = self._find("")
            checks.append(Check(what, True, f"{len(deliveries)} billing periods", permission))
            files = [file for delivery in deliveries for file in delivery.files]
            if files:
                what, permission = f"read {files[-1].path}", to_read
                checks.append(self._try(files[-1], what, permission))
            checks += [Check("delivery", False, str(error)) for error in waiting]
        except (PermanentError, TransientError) as error:
            checks.append(Check(what, False, str(error), permission))
        return checks

    def _try(self, file: BillFile, what: str, permission: str) -> Check:
        """Read the first lines of a file."""
        tried: list[tuple[BillForm, BillLines]] = []
        columns: list[str] = []

        def choose(names: Sequence[str]) -> Sequence[str]:
            form = self._form_of(names)
            tried.append((form, self._lines(form)))
            columns.extend(tried[0][1].choose(names))
            return columns

        batch = next(self._files.batches(file.path, choose), None)
        said = f"columns: {', '.join(columns)}"
        if batch is not None and self._holds_later(*tried[0], batch, file.modified):
            said = f"{misdated_note(file.path, file.modified)}; {said}"
        return Check(what, True, said, permission)

    def _holds_later(self, form: BillForm, lines: BillLines, batch: pa.RecordBatch, at: float) -> bool:
        """Whether usage of these lines began after a moment, by its length, and is over."""
        found, _ = lines.read(batch)
        length = found.end - found.start
        later = (length <= DAY_S) & (found.start >= at + np.maximum(length, HOUR_S)) & (found.effective != 0)
        for row in np.flatnonzero(later & (found.end <= self._clock.now())).tolist():
            texts = {name: lines.interners[name].values[numbers[row]] for name, numbers in found.keys.items()}
            if form.category(texts).category == "Usage":
                return True
        return False
