"""AWS services over HTTP in their own protocols, which boto's models describe, behind the policy of a docs page.

Operations are functions from parameters to answers in boto's shapes. A call is refused unless a statement of the policy
allows its action, for what it acts on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

import botocore.session
from aiohttp import web

from tests.fakes.aws_json import KEY_ID, Refused
from tests.fakes.faults import Faults
from tests.house.tree import ROOT

ACCOUNT, REGION = "123456789012", "us-east-1"
MARK = {"curb:criticality": "non-critical"}
Operation = Callable[[dict[str, Any]], dict[str, Any]]
#: Service and parameters → tags of each thing a call acts on; None when it acts on nothing.
Affected = Callable[[str, dict[str, Any]], Iterable[dict[str, str]] | None]
#: The names that differ between credential scope, boto and IAM.
_BOTO = {"tagging": "resourcegroupstaggingapi"}
_XML = ("ec2", "autoscaling")


class AwsCloud:
    """`operations` by service as the credentials spell it, then by name. `kind` says whose page holds the policy."""

    def __init__(self, kind: str, operations: dict[str, dict[str, Operation]], affected: Affected) -> None:
        self._operations, self._affected = operations, affected
        for service in operations:
            model(service)  # takes long the first time, and a request must not wait for it
        self.faults = Faults()
        self.policy = policy_of_the_page(kind)
        #: "service:Operation" as IAM names it, with the parameters.
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_in_the_service_s_words, self.faults.middleware()])
        app.router.add_route("*", "/{tail:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.Response:
        service = service_of(request)
        name, parameters = parsed(service, request, await request.read())
        action = f"{'tag' if service == 'tagging' else service}:{name}"
        self.calls.append((action, parameters))
        try:
            if f"Credential={KEY_ID}/" not in request.headers.get("Authorization", ""):
                raise Refused(403, "UnrecognizedClientException", "The security token is invalid.")
            if not self._allows(action, parameters):
                raise Refused(403, "AccessDenied", f"User: curb is not authorized to perform: {action}")
            answer = self._operations[service][name](parameters)
        except Refused as refused:
            return failed(service, refused)
        return answered(service, name, answer)

    def _allows(self, action: str, parameters: dict[str, Any]) -> bool:
        """IAM's way: a condition on a tag of what is acted on must hold for each thing that is acted on."""
        for statement in self.policy["Statement"]:
            assert statement["Effect"] == "Allow"
            wanted = statement.get("Condition", {}).get("StringEquals", {})
            needs = {key.removeprefix("aws:ResourceTag/"): value for key, value in wanted.items()}
            affected = self._affected(action, parameters)
            if action not in statement["Action"] or (needs and affected is None):
                continue
            if all(needs.items() <= tags.items() for tags in affected or ()):
                return True
        return False


def marked(tags: dict[str, str], value: str | None) -> dict[str, str]:
    """Tags with another mark; None: without."""
    return {key: each for key, each in tags.items() if key not in MARK} | (
        {} if value is None else dict.fromkeys(MARK, value)
    )


def policy_of_the_page(kind: str) -> dict[str, Any]:
    """The first ```json block of the page of an action."""
    page = (ROOT / "docs" / "reference" / "actions" / f"{kind}.md").read_text(encoding="utf-8")
    policy: dict[str, Any] = json.loads(page.split("```json\n")[1].split("```")[0])
    return policy


def service_of(request: web.Request) -> str:
    """From the scope of the credentials, which every signed request names."""
    found = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request", request.headers["Authorization"])
    assert found
    return found[1]


@cache
def model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(_BOTO.get(service, service))


@web.middleware
async def _in_the_service_s_words(request: web.Request, handler: Any) -> web.StreamResponse:
    """Says "too many requests" as the service itself would."""
    answer: web.StreamResponse = await handler(request)
    if answer.status != 429:
        return answer
    said = failed(service_of(request), Refused(429, "ThrottlingException"))
    said.headers["Retry-After"] = answer.headers["Retry-After"]
    return said


# --- what comes in --------------------------------------------------------------------------------------------------


def parsed(service: str, request: web.Request, body: bytes) -> tuple[str, dict[str, Any]]:
    """Operation and parameters of a request."""
    if target := request.headers.get("X-Amz-Target"):
        return target.rpartition(".")[2], json.loads(body)
    if service in _XML:
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        shape = model(service).operation_model(form["Action"]).input_shape
        return form["Action"], {} if shape is None else _from_form(service, shape, form, "")
    for name in model(service).operation_names:
        operation = model(service).operation_model(name)
        path = operation.http["requestUri"].partition("?")[0]
        pattern = re.sub(r"\{(\w+)\+?\}", r"(?P<\1>.+?)", path.rstrip("/")) + "/?"
        found = re.fullmatch(pattern, request.raw_path.partition("?")[0])
        if found and operation.http["method"] == request.method:
            named = {key: unquote(value) for key, value in found.groupdict().items()}
            return name, json.loads(body or b"{}") | dict(request.query) | named
    raise AssertionError(f"no operation of {service} is {request.method} {request.path}")


def _from_form(service: str, shape: Any, form: dict[str, str], prefix: str) -> Any:
    """A value out of keys such as `Filter.1.Value.1`."""
    if shape.type_name == "structure":
        found = {}
        for name, member in shape.members.items():
            own = member.serialization.get("queryName") if service == "ec2" else None
            spelled = own or member.serialization.get("name", name)
            key = f"{prefix}{spelled[0].upper() + spelled[1:] if service == 'ec2' else spelled}"
            if any(each == key or each.startswith(f"{key}.") for each in form):
                found[name] = _from_form(service, member, form, key if _is_flat(member) else f"{key}.")
        return found
    if shape.type_name == "list":
        base = prefix if service == "ec2" else f"{prefix}member."
        items, number = [], 1
        while any(each == f"{base}{number}" or each.startswith(f"{base}{number}.") for each in form):
            item = f"{base}{number}"
            items.append(_from_form(service, shape.member, form, item if _is_flat(shape.member) else f"{item}."))
            number += 1
        return items
    text = form[prefix]
    return {"integer": int, "boolean": lambda given: given == "true"}.get(shape.type_name, str)(text)


def _is_flat(shape: Any) -> bool:
    return shape.type_name not in ("structure", "list")


# --- what goes out --------------------------------------------------------------------------------------------------


def answered(service: str, name: str, answer: dict[str, Any]) -> web.Response:
    if service not in _XML:
        return web.json_response(answer)
    shape = model(service).operation_model(name).output_shape
    inside = "" if shape is None else _to_xml(service, shape, answer)
    if service != "ec2":
        inside = f"<{name}Result>{inside}</{name}Result>"
    return web.Response(text=f"<{name}Response>{inside}</{name}Response>", content_type="text/xml")


def failed(service: str, refused: Refused) -> web.Response:
    code, message = refused.code, escape(refused.message)
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    if service == "ec2":
        text = f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"
        return web.Response(text=text, status=refused.status, content_type="text/xml")
    if service in _XML:
        text = f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"
        return web.Response(text=text, status=refused.status, content_type="text/xml")
    body = {"__type": code, "message": refused.message}
    return web.json_response(body, status=refused.status, headers={"x-amzn-ErrorType": code})


def _to_xml(service: str, shape: Any, value: Any) -> str:
    if shape.type_name == "structure":
        return "".join(_element(service, shape.members[name], name, each) for name, each in value.items())
    if shape.type_name == "list":
        item = shape.member.serialization.get("name", "item" if service == "ec2" else "member")
        return "".join(f"<{item}>{_to_xml(service, shape.member, each)}</{item}>" for each in value)
    return escape(str(value).lower() if isinstance(value, bool) else str(value))


def _element(service: str, shape: Any, name: str, value: Any) -> str:
    spelled = shape.serialization.get("name", name)
    return f"<{spelled}>{_to_xml(service, shape, value)}</{spelled}>"
