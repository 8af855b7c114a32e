"""The page of exposure: what every key could burn in an hour with the limits its gateway enforces now."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
from aiohttp import web

from curb.serve.on_demand_runner import OnDemand
from curb.serve.pages.frame import ROWS, Pages
from curb.serve.running import Running
from curb.views.exposure import BOUNDS, Exposure, ExposureReader, held_by_curb, rate_actions, total
from curb.views.spend_reader import SpendReader

#: Seconds between two readings of gateways and log, while somebody looks. By hand: limits change by the hour, and
#: LiteLLM answers a page of a hundred keys, and up to three calls for a key.
_EVERY_S = 900.0
#: Seconds until the page looks again: while it is read, and then. By hand.
_SOON_S, _REFRESH_S = 3, 60
_LONGEST_SEARCH = 200
#: What people call the bounds.
_BOUND_WORDS = {"none": "no limit", "unknown": "price not known", "limited": "limited", "refused": "refused"}


def add_routes(app: web.Application, pages: Pages) -> None:
    """Add `GET /exposure`."""
    figures = ExposureFigures(pages.daemon)
    app.on_shutdown.append(figures.close)
    app.router.add_get("/exposure", ExposurePage(pages, figures).page)


class ExposureFigures:
    """The exposure of every key as it was read last. Nothing is read before somebody looks."""

    def __init__(self, daemon: Running) -> None:
        self._daemon = daemon
        self.reading = OnDemand("exposure", self._read, _EVERY_S, daemon.clock)
        self._http: aiohttp.ClientSession | None = None
        self._gateways: ExposureReader | None = None
        self._spend: SpendReader | None = None
        #: Most exposed first.
        self.keys: list[Exposure] = []
        self.total: dict[str, Any] = total([])

    @property
    def has_gateways(self) -> bool:
        """Whether an action limits a rate, so that a gateway is known."""
        return bool(rate_actions(self._daemon.config.actions))

    async def _read(self) -> None:
        config = self._daemon.config
        if self._gateways is None or self._spend is None:
            self._http = self._http or aiohttp.ClientSession(headers={"User-Agent": "curb"})
            self._gateways = ExposureReader(config.actions, config.detector, self._http, self._daemon.clock)
            self._spend = SpendReader(self._daemon.log, self._gateways.scopes, [self._gateways.add])
        await self._spend.catch_up()
        keys = await self._gateways.read(held_by_curb(self._daemon.view.actions))
        self.keys, self.total = keys, total(keys)

    async def close(self, app: web.Application) -> None:
        """Stop reading."""
        await self.reading.close()
        if self._http is not None:
            await self._http.close()


class _Filter(NamedTuple):
    bound: str = ""
    words: str = ""

    def of(self, keys: list[Exposure]) -> Iterator[Exposure]:
        words = self.words.casefold().split()
        for each in keys:
            if self.bound and each.bound != self.bound:
                continue
            text = f"{each.key.name} {each.team} {each.key.id} {each.gateway}".casefold() if words else ""
            if all(word in text for word in words):
                yield each

    def href(self, **more: str) -> str:
        pairs = [("bound", self.bound), ("q", self.words), *more.items()]
        return "/exposure?" + urlencode([pair for pair in pairs if pair[1]])


class ExposurePage:
    """The page of one daemon."""

    def __init__(self, pages: Pages, figures: ExposureFigures) -> None:
        self._pages, self._figures = pages, figures

    async def page(self, request: web.Request) -> web.Response:
        try:
            wanted, place = _wanted(request)
        except ValueError as error:
            return self._pages.render(request, "refused.html", code=400, why=str(error))
        figures = self._figures
        if figures.has_gateways:
            figures.reading.want()
        found = list(islice(wanted.of(figures.keys), place, place + ROWS + 1))
        return self._pages.render(
            request,
            "exposure.html",
            refresh_s=_SOON_S if figures.reading.is_running else _REFRESH_S,
            reading=figures.reading,
            has_gateways=figures.has_gateways,
            every_min=round(_EVERY_S / 60),
            sums=figures.total,
            known=len(figures.keys),
            wanted=wanted,
            bounds=_BOUND_WORDS,
            keys=found[:ROWS],
            most_usd=max((each.usd or 0.0 for each in figures.keys), default=0.0) or 1.0,
            gateways=len({each.gateway for each in figures.keys}) > 1,
            first=wanted.href() if place else "",
            next_page=wanted.href(place=str(place + ROWS)) if len(found) > ROWS else "",
        )


def _wanted(request: web.Request) -> tuple[_Filter, int]:
    """ValueError with the reason for what cannot be meant."""
    wanted = _Filter(request.query.get("bound", ""), request.query.get("q", ""))
    if wanted.bound not in ("", *BOUNDS):
        raise ValueError(f"bound is one of {', '.join(BOUNDS)}.")
    if len(wanted.words) > _LONGEST_SEARCH:
        raise ValueError(f"A search has at most {_LONGEST_SEARCH} characters.")
    place = request.query.get("place", "0")
    if not (place.isascii() and place.isdecimal() and len(place) <= 9):
        raise ValueError("The page to go on from cannot be read; begin with the first page.")
    return wanted, int(place)
