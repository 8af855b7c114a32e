"""Posts that reached no connector: to a path that none has, or without the connector's token.

Their sender may log no answers, and the connector that was meant looks as if nothing was ever sent. So they are
counted, logged, and shown wherever sources are.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from curb.stream import metrics
from curb.stream.time import DAY_S, HOUR_S, iso

logger = logging.getLogger(__name__)
#: Different posts that are kept; further ones are counted together. By hand: a screen, however many paths are tried.
_MOST = 20
#: Characters of a path that are kept.
_LONGEST = 120
_OTHERS = "other paths"
Why = Literal["unknown_path", "no_token", "wrong_token"]
_WORDS: dict[Why, str] = {
    "unknown_path": "no connector has this path",
    "no_token": "it has no bearer token",
    "wrong_token": "its bearer token is not that of the connector",
}


@dataclass
class RefusedPost:
    """Posts to one path that were refused for one reason; times are epoch seconds."""

    path: str
    why: Why
    count: int
    last_at: float
    logged_at: float

    def says(self, paths: list[str]) -> str:
        """One sentence for people; `paths` are those that exist."""
        times = "once" if self.count == 1 else f"{self.count:,} times"
        said = f"POST {self.path} was refused {times}, last at {iso(self.last_at)}: {_WORDS[self.why]}"
        return f"{said}; {there_are(paths)}" if self.why == "unknown_path" else said


class RefusedPosts:
    """What was refused in the last day."""

    def __init__(self) -> None:
        self._posts: dict[tuple[str, Why], RefusedPost] = {}

    def add(self, path: str, why: Why, at: float, paths: list[str], connector: str = "") -> None:
        """Count a post to `path` at a time (epoch seconds); `paths` are those that exist. It is logged once an hour.

        `connector` is the one behind the path, if there is one.
        """
        metrics.INGEST_NOT_TAKEN.labels(connector=connector, reason=why).inc()
        self._forget(at)
        shown = "".join(each if each.isprintable() else "?" for each in path[:_LONGEST])
        if (shown, why) not in self._posts and len(self._posts) >= _MOST:
            shown = _OTHERS
        post = self._posts.setdefault((shown, why), RefusedPost(shown, why, 0, at, at - HOUR_S))
        post.count += 1
        post.last_at = at
        if at - post.logged_at >= HOUR_S:
            post.logged_at = at
            logger.warning("a post reached no connector", extra={"connector": connector, "detail": post.says(paths)})

    def rows(self, now: float) -> list[RefusedPost]:
        """Those of the last day before `now` (epoch seconds), newest first."""
        self._forget(now)
        return sorted(self._posts.values(), key=lambda post: -post.last_at)

    def _forget(self, now: float) -> None:
        self._posts = {key: post for key, post in self._posts.items() if now - post.last_at < DAY_S}


def there_are(paths: list[str]) -> str:
    """The paths that exist, in words."""
    if not paths:
        return "no connector is configured that is pushed to"
    more = f" and {len(paths) - _MOST} more" if len(paths) > _MOST else ""
    return f"there {'is' if len(paths) == 1 else 'are'} {', '.join(paths[:_MOST])}{more}"
