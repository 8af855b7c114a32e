"""Faults on demand for the small HTTP servers of the tests."""

from __future__ import annotations

from aiohttp.typedefs import Handler

from curb.testing.server import Faults

__all__ = ["Faults", "Handler"]
