"""Every kind of scorer: its name in the configuration and where its `Config` and class live."""

from __future__ import annotations

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
SCORERS: dict[str, str] = {
    "river": "curb.detector.scorers.river:Config",
}
