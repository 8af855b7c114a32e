"""How a promise is held: what must be true, and what must be raised, each with a sentence for when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

E = TypeVar("E", bound=Exception)


def hold(condition: bool, sentence: str) -> None:
    """AssertionError with the sentence unless the condition is true."""
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def raises(error: type[E], what: str) -> Iterator[list[E]]:
    """AssertionError unless the block raises `error`, which is then in the list; `what` names the block."""
    caught: list[E] = []
    try:
        yield caught
    except error as found:
        caught.append(found)
    except Exception as other:
        raise AssertionError(f"{what} must raise {error.__name__}, not {type(other).__name__}: {other}") from other
    else:
        raise AssertionError(f"{what} must raise {error.__name__}, and raised nothing")
