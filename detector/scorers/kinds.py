"""Every kind of scorer, and the list in the configuration, whose entries become settings of their kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from curb.detector.scorers.protocol import ScorerSettings
from curb.detector.state.scopes import Scope
from curb.stream.kinds import KindError, Kinds
from curb.stream.settings import Settings

#: kind → "module:ConfigClass"; nothing is imported before a configuration asks for it.
SCORERS = Kinds[ScorerSettings](
    "curb.scorers",
    ScorerSettings,
    {
        "river": "curb.detector.scorers.river:Config",
    },
)


def _by_kind(items: Any) -> Any:
    """Each mapping as the Config of its kind. Raises ValueError with the place and the fault."""
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise ValueError(f"must be a list; start each entry with `- kind: {min(SCORERS)}`")
    found = tuple(
        item if isinstance(item, ScorerSettings) else _one(f"scorers[{at}]", item) for at, item in enumerate(items)
    )
    twice = [name for name, count in Counter(each.name for each in found).items() if count > 1]
    if twice:
        raise ValueError(f"scorer {', '.join(twice)} is defined twice")
    return found


def _one(place: str, item: Any) -> ScorerSettings:
    kind = item.get("kind") if isinstance(item, dict) else None
    try:
        return SCORERS.config(str(kind)).model_validate(item)
    except KindError as error:
        raise ValueError(f"{place}: {error}") from None
    except ValidationError as error:
        lines = [
            f"{'.'.join([place, *map(str, each['loc'])])}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors()
        ]
        raise ValueError("; ".join(lines)) from None


#: The type of the list in the configuration; its entries are ScorerSettings, each of its own kind.
Scorers = Annotated[tuple[SerializeAsAny[Settings], ...], BeforeValidator(_by_kind)]


def check_scorers(scorers: Sequence[Settings], scopes: Sequence[Scope]) -> None:
    """Raises ValueError for a scorer of a scope that is not configured."""
    known = {scope.name for scope in scopes}
    for each in scorers:
        unknown = sorted(set(each.scopes) - known) if isinstance(each, ScorerSettings) else []
        if unknown:
            name = getattr(each, "name", "")
            raise ValueError(f"scorer {name}: no scope {', '.join(unknown)}; there are {', '.join(sorted(known))}")
