"""A channel with threads and digests, on plain dictionaries."""

from __future__ import annotations

from curb.actions.notify.protocol import DayDigest, Reply
from tests.fakes.gateway import Channel, Hook, nothing


class ThreadedChannel(Channel):
    """`replies` holds the thread of each message by its reference, oldest first."""

    def __init__(self, *, hook: Hook = nothing) -> None:
        super().__init__(hook=hook)
        self.replies: dict[str, list[Reply]] = {}
        self.digests: list[DayDigest] = []

    def said(self, ref: str = "m1") -> list[str]:
        """The kinds of the lines of a thread, of a step its state; every thread has figures and charts beside."""
        lines = [line for line in self.replies.get(ref, []) if line.kind not in ("chart", "figures")]
        return [line.entry.state if line.entry is not None else line.kind for line in lines]

    async def reply(self, reply: Reply, ref: str) -> str:
        await self.hook("before reply")
        assert ref in self.messages
        self.replies.setdefault(ref, []).append(reply)
        await self.hook("after reply")
        return f"{ref}.{len(self.replies[ref])}"

    async def find_reply(self, key: str, ref: str) -> str | None:
        await self.hook("find reply")
        for number, reply in enumerate(self.replies.get(ref, []), start=1):
            if reply.key == key:
                return f"{ref}.{number}"
        return None

    async def find(self, key: str) -> str | None:
        for number, digest in enumerate(self.digests, start=1):
            if digest.key == key:
                return f"d{number}"
        return await super().find(key)

    async def send_digest(self, digest: DayDigest) -> str:
        await self.hook("before digest")
        self.digests.append(digest)
        await self.hook("after digest")
        return f"d{len(self.digests)}"
