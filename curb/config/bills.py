"""What a configuration will and will not do with bills, in sentences for the person who wrote it."""

from __future__ import annotations

from collections.abc import Sequence

from curb.config.file import CurbConfig
from curb.connectors.connector import ConnectorConfig


def promise(settings: ConnectorConfig) -> str:
    """How the bill of a connector is judged."""
    daily = getattr(settings, "granularity", "hour") == "day"
    by = "day" if daily else "hour, or the day where it is billed by the day,"
    late = "mostly a day or more late; alerts only, never an action"
    return f"judged by the {by} as far as its source is complete: {late}"


def bills_alone(config: CurbConfig) -> bool:
    """Whether bills are all that is read."""
    return bool(config.connectors) and all(each.reads_bills for each in config.connectors)


def promises(config: CurbConfig) -> list[str]:
    """What each bill and the budgets on bills can expect."""
    found = [f"{each.name}: {promise(each)}" for each in config.connectors if each.reads_bills]
    budgets = _budgets(config, _billed(config))
    if found and budgets:
        of = "budget" if len(budgets) == 1 else "budgets"
        found.append(f"{of} {', '.join(budgets)}: in the bill's own days and months (UTC), open until it is complete")
    return found


def hollow(config: CurbConfig) -> list[str]:
    """Scopes and budgets that nothing configured can fill."""
    billed = _billed(config)
    if not any(each.reads_bills for each in config.connectors):
        scopes = [scope.name for scope in config.detector.scopes if scope.name in billed]
        return [_empty("no connector reads a bill", scopes, _budgets(config, billed))] if scopes else []
    others = {scope.name for scope in config.detector.scopes if "costs" not in scope.sources}
    budgets = _budgets(config, others)
    if not bills_alone(config) or not budgets:
        return []
    why = f"only bills are read, which count in {', '.join(sorted(billed))}"
    return [_empty(why, [], budgets)]


def _empty(why: str, scopes: Sequence[str], budgets: Sequence[str]) -> str:
    named = [("scope", scopes), ("budget", budgets)]
    what = ", ".join(f"{name}{'s' * (len(each) > 1)} {', '.join(each)}" for name, each in named if each)
    return f"{why}: nothing will count in {what}"


def _billed(config: CurbConfig) -> set[str]:
    return {scope.name for scope in config.detector.scopes if scope.is_billed}


def _budgets(config: CurbConfig, scopes: set[str]) -> list[str]:
    return [budget.name for budget in config.detector.budgets if budget.scope in scopes]
