"""The incident of the demo: an agent that calls its model in a loop on one key, its context growing turn by turn."""

from __future__ import annotations

from typing import NamedTuple

from curb.demo.trace import Key, Request, Trace

#: After so many turns the agent starts again with an empty context, as agents do that compact theirs.
TURNS_PER_CONTEXT = 40


class AgentLoop(NamedTuple):
    """The incident: from `start` to `end` the key burns `factor` times its dollars of the hour before.

    Times are epoch seconds, `key` is an alias or api_key of the trace.
    """

    key: str
    start: float
    end: float
    factor: float = 18.0


class LoopRun:
    """One run of the loop: calls at a near-constant cadence; a rejected call is tried again on the next beat."""

    def __init__(self, trace: Trace, loop: AgentLoop) -> None:
        """Raises KeyError for an unknown key, ValueError when the key was silent in the hour before."""
        self._loop = loop
        self._key: Key = trace.key(loop.key)
        usual_usd_per_hour = trace.usual_usd_per_hour(self._key, loop.start - 3600, loop.start)
        if usual_usd_per_hour == 0:
            raise ValueError(f"{loop.key} spends nothing in the hour before the loop starts: there is no normal level")
        self._input_tokens, self._output_tokens = trace.mean_tokens(self._key, loop.start - 3600, loop.start)
        mean_usd = sum(self._size(turn)[2] for turn in range(TURNS_PER_CONTEXT)) / TURNS_PER_CONTEXT
        self._cadence_s = mean_usd / ((loop.factor - 1) * usual_usd_per_hour / 3600)
        self._beat = self._turn = 0

    @property
    def next_at(self) -> float:
        """Epoch seconds of the next call; infinite when the loop is over."""
        wobble = (self._beat * 0.618 % 1 - 0.5) * 0.1
        at = self._loop.start + (self._beat + wobble + 0.05) * self._cadence_s
        return at if at < self._loop.end else float("inf")

    def call(self) -> Request:
        """The call due at `next_at`; answer it before asking for the next one."""
        input_tokens, output_tokens, usd = self._size(self._turn)
        name = f"{self._key.alias}-beat-{self._beat}"
        return Request(name, self.next_at, self._key, input_tokens, output_tokens, usd, loop=True)

    def answer(self, admitted: bool) -> None:
        """The context grows only with a call that was let through."""
        self._beat += 1
        self._turn += admitted

    def _size(self, turn: int) -> tuple[int, int, float]:
        """Input tokens, output tokens and dollars of a turn: each answer becomes part of the next prompt."""
        input_tokens = round(self._input_tokens + turn % TURNS_PER_CONTEXT * self._output_tokens)
        output_tokens = max(1, round(self._output_tokens))
        return input_tokens, output_tokens, self._key.cost(input_tokens, output_tokens)
