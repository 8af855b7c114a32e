"""Bills in files: finds new deliveries, sums them in columns, and reports the differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from curb.connectors.bills.charges import Charge, Dimensions, Snapshot
from curb.connectors.bills.files import BillFile, BillFiles, Storage, canonical
from curb.connectors.bills.focus import FOCUS, is_focus
from curb.connectors.bills.lines import BillForm, BillLines
from curb.connectors.bills.restate import Restater, SnapshotConnector
from curb.connectors.bills.sums import BillSums, Meaning
from curb.connectors.connector import Batch, Check, ConnectorConfig, Context
from curb.connectors.decode import Letters, Rejected
from curb.stream.errors import PermanentError, TransientError
from curb.stream.time import DAY_S, HOUR_S


class BillSettings(ConnectorConfig):
    """What every kind of bill in files has in common."""

    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    tag_keys: dict[str, str] = Field(
        default={"team": "team", "project": "project", "env": "env"},
        description="Curb's tag → the key it has in the bill; without case, separators and AWS's `user:`.",
    )
    dimensions: tuple[Literal["service", "account", "region", "resource"], ...] = Field(
        ("service", "account"), description="Further dimensions. `resource` makes many more keys."
    )
    granularity: Literal["hour", "day"] = Field("hour", description="Shorter charge periods are summed to this.")
    usd_per: dict[str, float] = Field(
        default={}, description="Dollars for one unit of each other currency the bill is in, such as EUR: 1.09."
    )
    since: date | None = Field(None, description="What is charged before this day (UTC) is left out.")
    lag_h: float = Field(
        48, gt=0, le=240, description="Hours until a charge period is complete; used until the source's lag is learned."
    )
    poll_interval_s: float = Field(900, gt=0, le=86_400, description="How often is looked for a new delivery.")
    storage: Storage = Field(Storage(), description="How the files are reached.")

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


#: The deliveries there are, oldest period first, and what is wrong with those that cannot be read yet.
Found = tuple[list[Delivery], list[TransientError]]


class Bill(SnapshotConnector):
    """A connector over files. `find` lists the deliveries there are; `forms` are the ways they may be written in."""

    def __init__(
        self,
        name: str,
        settings: BillSettings,
        context: Context,
        files: BillFiles,
        find: Callable[[], Found],
        forms: Sequence[BillForm],
    ) -> None:
        super().__init__(name, settings.lag_h, context)
        self._settings, self._files, self._find, self._forms = settings, files, find, forms
        since = settings.since
        self._since = 0.0 if since is None else datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()

    def _next(self, restater: Restater, cursor: str | None) -> Batch:
        deliveries, waiting = self._find()
        for delivery in deliveries:
            if restater.version(delivery.snapshot.period) == delivery.snapshot.version:
                continue
            letters = Letters(self._name, self._clock.now())
            try:
                restater.take(self.charges(delivery, letters), delivery.snapshot)
            except TransientError as error:
                waiting.append(error)
                continue
            batch = restater.resume(cursor)
            assert batch is not None  # it was just taken
            return batch._replace(dead=letters.messages())
        if waiting:
            raise waiting[0]
        return restater.idle(cursor)

    def charges(self, delivery: Delivery, letters: Letters) -> Iterator[Charge]:
        """What a delivery amounts to by key; lines that cannot be read go to `letters`."""
        sums: BillSums | None = None
        lines: BillLines | None = None
        for file in delivery.files:

            def choose(names: Sequence[str]) -> Sequence[str]:
                nonlocal lines, sums
                if lines is None:
                    form = self._form_of(names)
                    lines = BillLines(form, self._keys(form), self._settings.tag_keys)
                    slot_s = HOUR_S if self._settings.granularity == "hour" else DAY_S
                    sums = BillSums(lines.interners, slot_s, self._meaning_in(form, list(lines.interners)))
                return lines.choose(names)

            row = 0
            for batch in self._files.batches(file.path, choose):
                assert lines is not None  # `choose` was called before
                assert sums is not None
                found, good = lines.read(batch)
                if not good.all():
                    for at in (~good).nonzero()[0].tolist():
                        why = Rejected("invalid", "a line without times or with an amount that is no number")
                        letters.add(why, location=f"{file.path}:{row + at + 1}", content=b"")
                row += len(batch)
                sums.add(found)
        self._still_there(delivery)
        for text in lines.bad_tags if lines else []:
            why = Rejected("not_json", "tags that are not JSON; the lines are counted without tags")
            letters.add(why, location=delivery.snapshot.period, content=text.encode())
        if sums is not None:
            charges = sums.charges()
            yield from charges if not self._since else (each for each in charges if each.start >= self._since)

    def _still_there(self, delivery: Delivery) -> None:
        """A file that was written over while it was read makes the whole delivery void."""
        for file in delivery.files:
            if self._files.find(file.path) != file:
                raise TransientError(f"{file.path}: changed while it was read")

    def _meaning_in(self, form: BillForm, names: list[str]) -> Meaning:
        return lambda texts: self._meaning(dict(zip(names, texts, strict=True)), form)

    def _meaning(self, texts: Mapping[str, str], form: BillForm) -> tuple[Dimensions, float]:
        """What is told apart, and dollars per unit of its currency."""
        category, correction = form.category(texts)
        shown = {key: texts.get(key, "") for key in ("service", "account", "region")}
        shown["provider"] = texts.get("provider", form.provider)
        given = {name.removeprefix("tag:"): text for name, text in texts.items() if name.startswith("tag:")}
        tags = {**self._settings.tags, **{tag: text for tag, text in {**shown, **given}.items() if text}}
        currency = (texts.get("currency") or "USD").upper()
        of = Dimensions(
            service_name=shown["service"],
            sub_account_id=shown["account"],
            resource_id=texts.get("resource", ""),
            charge_category=category,
            billing_currency=currency,
            correction=correction,
            tags=tuple(sorted(tags.items())),
        )
        return of, self._usd_per(currency)

    def _usd_per(self, currency: str) -> float:
        if currency == "USD":
            return 1.0
        rate = self._settings.usd_per.get(currency)
        if rate is None:
            raise PermanentError(f"the bill is in {currency}: set usd_per for {currency} of connector {self._name}")
        return rate

    def _keys(self, form: BillForm) -> list[str]:
        optional = {"service", "account", "region", "resource"} - set(self._settings.dimensions)
        return [key for key in form.texts if key not in optional]

    def _form_of(self, names: Sequence[str]) -> BillForm:
        """FOCUS where it is allowed and the columns are FOCUS, else the last."""
        focus = FOCUS in self._forms and is_focus({canonical(name) for name in names})
        return FOCUS if focus else self._forms[-1]

    def _check(self) -> list[Check]:
        checks: list[Check] = []
        to_list, to_read = self._files.permissions
        what, permission = f"list {self._files.url}", to_list
        try:
            deliveries, waiting = self._find()
            checks.append(Check(what, True, f"{len(deliveries)} billing periods", permission))
            files = [file for delivery in deliveries for file in delivery.files]
            if files:
                what, permission = f"read {files[-1].path}", to_read
                chosen: list[str] = []
                next(self._files.batches(files[-1].path, lambda names: self._try_columns(names, chosen)), None)
                checks.append(Check(what, True, f"columns: {', '.join(chosen)}", permission))
            checks += [Check("delivery", False, str(error)) for error in waiting]
        except (PermanentError, TransientError) as error:
            checks.append(Check(what, False, str(error), permission))
        return checks

    def _try_columns(self, names: Sequence[str], chosen: list[str]) -> Sequence[str]:
        form = self._form_of(names)
        chosen += BillLines(form, self._keys(form), self._settings.tag_keys).choose(names)
        return chosen
