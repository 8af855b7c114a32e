"""Says when a series has moved to a new level for good, with River's ADWIN or Page-Hinkley, fed once an hour."""

from __future__ import annotations

import math
import platform
from collections import deque
from importlib.metadata import version
from importlib.util import find_spec
from inspect import ismethod
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from curb.detector.state.columns import Bools, Floats
from curb.detector.state.pickles import NotAModelError, dump, load
from curb.stream.settings import Settings


class Params(NamedTuple):
    #: Log ratio (a factor of 20) beyond which an hour is wild, not a level. By hand.
    furthest: float = 3.0


P = Params()


class DriftSettings(Settings):
    """A second opinion, by River, on whether the hourly spend of a series has moved for good."""

    detector: Literal["none", "adwin", "page_hinkley"] = Field(
        default="none", description="ADWIN or Page-Hinkley of River; `none` leaves it to the head's own slow level."
    )
    adwin_delta: float = Field(
        default=0.002, gt=0, lt=1, description="How sure ADWIN must be; less is surer, later and rarer."
    )
    page_hinkley_threshold: float = Field(
        default=6.0, gt=0, description="Sum of hourly log ratios off the mean at which Page-Hinkley speaks."
    )
    page_hinkley_slack: float = Field(default=0.1, ge=0, description="Log ratio per hour that Page-Hinkley forgives.")
    min_hours: int = Field(default=12, ge=2, le=168, description="Hours of use before anything is said.")
    level_hours: int = Field(default=6, ge=1, le=168, description="The new level is the mean of as many hours.")

    @field_validator("detector")
    @classmethod
    def _has_river(cls, detector: str) -> str:
        if detector != "none" and find_spec("river") is None:
            raise ValueError(f"{detector} needs the library River: install curbd[river]")
        return detector


class _Watched(NamedTuple):
    detector: Any
    newest: deque[float]


class Drift:
    """One detector per series that ever had a value: about 2 kB each. Pure: same hours, same answers.

    State: an ADWIN or Page-Hinkley detector for each series.
    Update: once an hour.
    Score: the new level, where one is found.
    Source: River: Bifet and Gavalda 2007 (ADWIN), Page 1954.
    """

    def __init__(self, settings: DriftSettings) -> None:
        """`settings.detector` must not be none. Raises ImportError when River is not installed."""
        if settings.detector == "none":
            raise ValueError("drift detection is off")
        self._settings = settings
        self._watched: dict[int, _Watched] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def hour(self, value: Floats, known: Bools) -> Floats:
        """Take in one hour: log of actual over expected, or of a unit cost over the usual one, of each of N series.

        Returns the new level of each series that drifted in this hour, in the unit of `value`, nan for all others.
        A series that drifted starts from nothing: the next level needs `min_hours` again.
        """
        level = np.full(len(value), np.nan)
        for i in np.flatnonzero(known & np.isfinite(value)).tolist():
            watched = self._watched.get(i)
            if watched is None:
                watched = self._watched[i] = self._fresh()
            x = max(-P.furthest, min(P.furthest, float(value[i])))
            watched.newest.append(x)
            watched.detector.update(x)
            if watched.detector.drift_detected and len(watched.newest) == self._settings.min_hours:
                newest = list(watched.newest)[-self._settings.level_hours :]
                level[i] = math.fsum(newest) / len(newest)
                del self._watched[i]
        return level

    def dump(self) -> bytes:
        """The state with the versions it was made with; pickled models, for `load` alone."""
        return dump(self._stamp(), {i: (_kept(each.detector), each.newest) for i, each in self._watched.items()})

    def load(self, data: bytes) -> str:
        """Continue from `dump`. Returns why that is impossible, and then starts from nothing; else ""."""
        try:
            saved = load(self._stamp(), data)
            self._watched = {i: _Watched(self._again(kept), newest) for i, (kept, newest) in saved.items()}
        except NotAModelError as error:
            self._watched = {}
            return f"drift detection starts from nothing: {error}"
        return ""

    def _fresh(self) -> _Watched:
        from river import drift

        settings = self._settings
        hours = settings.min_hours
        if settings.detector == "adwin":
            # ADWIN looks only every `clock` values, which at one an hour would be days.
            adwin: Any = drift.ADWIN
            detector: Any = adwin(delta=settings.adwin_delta, clock=1, grace_period=hours)
        else:
            detector = drift.PageHinkley(
                min_instances=hours, delta=settings.page_hinkley_slack, threshold=settings.page_hinkley_threshold
            )
        return _Watched(detector, deque(maxlen=hours))

    def _again(self, kept: Any) -> Any:
        """The detector of which `_kept` was made."""
        if not isinstance(kept, dict):
            return kept
        detector = self._fresh().detector
        vars(detector).update(kept)
        return detector

    def _stamp(self) -> str:
        python = ".".join(platform.python_version_tuple()[:2])
        return f"river {version('river')}, python {python}, drift {self._settings.model_dump_json()}"


def _kept(detector: Any) -> Any:
    """What is saved of a detector: itself, or its fields where one is a method, which `load` takes for code."""
    fields = getattr(detector, "__dict__", {})
    if not any(ismethod(value) for value in fields.values()):
        return detector
    return {name: value for name, value in fields.items() if not ismethod(value)}
