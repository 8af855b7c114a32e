"""What calls say of loops: keyed hashes and small numbers, made by `connectors.fingerprint`; never text."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: A keyed hash of 63 bits, so that it is a JSON number of every reader; 0: there was nothing to hash.
_Hash = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: Seconds or dollars; what is beyond is an error of units.
_Amount = Annotated[float, msgspec.Meta(ge=0, le=4e9)]


class LoopPrint(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One call, on its usage record. Hashes of two calls compare only within one key of the hash."""

    #: The session that the source named.
    session: _Hash = 0
    #: The first two messages: instructions and first question.
    prefix: _Hash = 0
    #: The last message.
    last: _Hash = 0
    #: The last three calls of tools with their arguments, where the last message is what a tool answered.
    tools: _Hash = 0
    #: A similarity hash of the words of the last message: near ones differ in few bits. 0 for short ones.
    sketch: _Hash = 0
    #: Messages of the call.
    messages: _Count = 0
    #: Steps at the end of the conversation in which the same tool failed.
    failed: _Count = 0
    #: How long the call took; 0 where the source does not say.
    seconds: _Amount = 0.0


class LoopCall(msgspec.Struct, array_like=True, frozen=True, order=True, gc=False):
    """One call of a principal, in a partial sum; ordered by time. Kept for minutes."""

    #: Its start, epoch seconds.
    at: _Amount
    usd: _Amount
    input_tokens: _Count
    #: The conversation: its session, else its prefix.
    talk: _Hash
    last: _Hash
    tools: _Hash
    sketch: _Hash
    messages: _Count
    failed: _Count
    seconds: _Amount
