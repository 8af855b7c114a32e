"""The forms of the dashboard: read within a bound, and every field as clean text."""

from __future__ import annotations

from urllib.parse import parse_qsl

from aiohttp import web

from curb.connectors.intake.body import Bodies, BodyRefusedError

#: Bytes and fields of a form. By hand: a reason of a thousand characters in any language, encoded.
_MOST_BYTES, _MOST_FIELDS = 16 * 1024, 50


class Form(dict[str, str]):
    """Fields by name; a field that is not there is ""."""

    def __missing__(self, name: str) -> str:
        return ""


async def read_form(request: web.Request, bodies: Bodies) -> Form:
    """What a browser sent. HTTPException with the reason for what is no form of ours."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="not a form")
    try:
        async with bodies.read(request, _MOST_BYTES) as body:
            pairs = parse_qsl(
                body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
            )
    except BodyRefusedError as refused:
        raise _Refused(refused.status, refused.detail) from None
    except UnicodeDecodeError:
        raise web.HTTPBadRequest(text="the form is not in UTF-8") from None
    except ValueError:
        raise web.HTTPBadRequest(text=f"the form has more than {_MOST_FIELDS} fields") from None
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise web.HTTPBadRequest(text="a field is given twice")
    return Form(pairs)


class _Refused(web.HTTPException):
    """Any status."""

    def __init__(self, status: int, text: str) -> None:
        self.status_code = status
        super().__init__(text=text)
