"""Answers of real servers, as tests/data/answers keeps them: read, replayed over HTTP, and their shapes compared."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree

from aiohttp import web

from tests.house.tree import ROOT

DATA = ROOT / "tests" / "data" / "answers"
#: Characters of a line in the files. By hand.
_WIDTH = 112
#: Objects whose keys are content, not form.
_MAPS = frozenset({"labels", "annotations", "matchLabels"})


class Exchange(NamedTuple):
    """A request as Curb made it, and the answer. A body is JSON, or else the lines of a text."""

    request: str
    sent: Any
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def method(self) -> str:
        return self.request.partition(" ")[0]

    @property
    def content(self) -> bytes:
        """The body as it goes over the wire."""
        if self.body is None:
            return b""
        return json.dumps(self.body).encode() if self.is_json else "\n".join(self.body).encode()

    @property
    def is_json(self) -> bool:
        return self.headers.get("Content-Type", "").startswith("application/json")

    @property
    def is_file(self) -> bool:
        return self.headers.get("Content-Type", "").endswith("octet-stream")


#: Name of a story → its exchanges in order.
Stories = dict[str, list[Exchange]]


def stories_of(name: str) -> tuple[str, Stories]:
    """The server with its version, and all that was captured from it."""
    server, found = "", Stories()
    for file in sorted((DATA / name).glob("*.json")):
        kept = json.loads(file.read_text(encoding="utf-8"))
        server = kept["server"]
        found[file.stem] = [Exchange(**each) for each in kept["exchanges"]]
    return server, found


def write_stories(name: str, server: str, stories: Stories) -> None:
    """In place of what is there."""
    directory = DATA / name
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.json"):
        file.unlink()
    for story, exchanges in stories.items():
        kept = {"server": server, "exchanges": [each._asdict() for each in exchanges]}
        (directory / f"{story}.json").write_text(_pretty(kept) + "\n", encoding="utf-8")


def _pretty(value: Any, indent: str = "") -> str:
    """JSON in which whatever fits on a line is on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= _WIDTH or not isinstance(value, dict | list):
        return line
    inner = f"{indent} "
    if isinstance(value, list):
        parts, ends = [_pretty(each, inner) for each in value], "[]"
    else:
        parts, ends = [f"{json.dumps(key)}: {_pretty(each, inner)}" for key, each in value.items()], "{}"
    return f"{ends[0]}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{ends[1]}"


class Replay:
    """A server that gives the captured answers: those to the same request in their order, the last one for ever."""

    def __init__(self, exchanges: Iterable[Exchange]) -> None:
        self._left: defaultdict[str, list[Exchange]] = defaultdict(list)
        for each in exchanges:
            self._left[each.request].append(each)
        #: Requests that were never captured.
        self.unknown: list[str] = []
        #: Requests whose body has other keys than the captured body.
        self.unlike: list[str] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        asked = request_line(request)
        left = self._left.get(asked)
        if not left:
            self.unknown.append(asked)
            return web.Response(status=500, text="never captured")
        found = left.pop(0) if len(left) > 1 else left[0]
        if found.sent is not None and set(keys(await request.json())) != set(keys(found.sent)):
            self.unlike.append(asked)
        body = b"" if found.method == "HEAD" else found.content
        return web.Response(status=found.status, headers=found.headers, body=body)


def request_line(request: web.BaseRequest) -> str:
    """Method, path, query in one order, and which part of a file is asked for."""
    query = "&".join(f"{key}={value}" for key, value in sorted(request.query.items()))
    part = request.headers.get("x-ms-range") or request.headers.get("Range", "")
    return f"{request.method} {request.path}" + (f"?{query}" if query else "") + (f" {part}" if part else "")


def shape(exchange: Exchange) -> set[str]:
    """Status, type of content, names of headers, and the paths of all keys of a body."""
    found = {f"status {exchange.status}"} | {f"header {name}" for name in exchange.headers}
    if content_type := exchange.headers.get("Content-Type"):
        found.add(f"type {content_type.partition(';')[0]}")
    if exchange.is_json:
        return found | set(keys(exchange.body))
    text = exchange.content
    if text.lstrip().startswith(b"<?xml"):
        return found | set(_tags(ElementTree.fromstring(text.lstrip(b"\xef\xbb\xbf")), ""))
    return found


def keys(value: Any, path: str = "") -> Iterable[str]:
    """Such as `items[].metadata.name`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{path}.{key}" if path else key
            yield place
            if key not in _MAPS:
                yield from keys(inner, place)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, f"{path}[]")


def _tags(element: ElementTree.Element, path: str) -> Iterable[str]:
    place = f"{path}/{element.tag.rpartition('}')[2]}"
    yield place
    for inner in element:
        yield from _tags(inner, place)


def changes(before: Stories, after: Stories) -> list[str]:
    """What the answers to the same requests have that they had not, and no longer have."""
    said = []
    for name in sorted(before.keys() | after.keys()):
        old, new = _shapes(before.get(name, [])), _shapes(after.get(name, []))
        for request in sorted(old.keys() | new.keys()):
            if request not in new or request not in old:
                said.append(f"{name}: {request} is {'no longer asked' if request in old else 'asked as well'}")
                continue
            said += [f"{name}: {request}: {each} vanished" for each in sorted(old[request] - new[request])]
            said += [f"{name}: {request}: {each} appeared" for each in sorted(new[request] - old[request])]
    return said


def _shapes(exchanges: Iterable[Exchange]) -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for each in exchanges:
        found[each.request] |= shape(each)
    return found


#: What is of one machine or one moment, and what stands for it in the files.
_TIMES = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_HTTP_DATE = re.compile(r"\b\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")
_ADDRESS = re.compile(r"\b127\.0\.0\.1:\d+\b")
#: The end of names that Kubernetes makes up, and who answered as which request.
_GENERATED = re.compile(r"(?<=\.curb-|ccess-)[a-z0-9]{5}\b")
_REQUEST_ID = re.compile(r"(?<=<RequestId>)[^<]+|(?<=<HostId>)[^<]+")
#: Of these each is another thing: numbers in their order stand for them.
_COUNTED = {
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b": "00000000-0000-0000-0000-{:012d}",
    r'(?<="resourceVersion": ")\d+': "{}",
    r"\b0x[0-9A-F]{15}\b": "0x{:015d}",
}


def made_constant(stories: Stories, words: Mapping[str, str]) -> Stories:
    """With the same names and times whenever it is captured; `words` are further texts and what stands for them.

    Files of a bill stay as they are, and an answer that is given again counts once.
    """
    text = json.dumps({name: [each._asdict() for each in exchanges] for name, exchanges in stories.items()})
    for word, stands in words.items():
        text = text.replace(word, stands)
    text = _HTTP_DATE.sub("Thu, 01 Jan 2026 00:00:00 GMT", _TIMES.sub(_same_moment, text))
    text = _REQUEST_ID.sub("1", _GENERATED.sub("00000", _ADDRESS.sub("server", text)))
    for pattern, form in _COUNTED.items():
        text = _counted(re.compile(pattern), text, form)
    found = Stories()
    for name, exchanges in json.loads(text).items():
        pairs = zip((Exchange(**each) for each in exchanges), stories[name], strict=True)
        found[name] = _once(each._replace(body=was.body) if was.is_file else each for each, was in pairs)
    return found


def _once(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """Without those that get the same answer as the same request got before them."""
    last: dict[str, Exchange] = {}
    found = []
    for each in exchanges:
        if last.get(each.request) != each:
            found.append(each)
        last[each.request] = each
    return found


def _same_moment(found: re.Match[str]) -> str:
    """As exact as it was."""
    fraction = ".1234567890"[: len(found[1])] if found[1] else ""
    return f"2026-01-01T00:00:00{fraction}{found[2]}"


def _counted(pattern: re.Pattern[str], text: str, form: str) -> str:
    """The first thing that matches becomes number 1 wherever it stands, the second number 2."""
    seen: dict[str, str] = {}
    return pattern.sub(lambda found: seen.setdefault(found[0], form.format(len(seen) + 1)), text)
