"""API Gateway's events as HTTP requests, and answers as what it takes back: pure translations.

Events have the payload format 2.0, which HTTP APIs and function URLs send. Function URLs send the
path as the client did. HTTP APIs decode every percent-escape in it but %25, so that a slash, a
blank or a letter arrives as itself, and a percent sign as %25; a path that is cut off at a decoded
question mark cannot be mended here. Escaping again what cannot stand in a path reads both kinds.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

LARGEST_ANSWER_BYTES = 6 * 1024 * 1024
"""What Lambda lets a function return, as JSON."""

_NOT_IN_A_PATH = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=:@/%-]")
_NOT_IN_A_QUERY = re.compile(r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]")
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "date", "expect", "keep-alive", "server", "te", "trailer",
     "transfer-encoding", "upgrade"}
)  # fmt: skip
_TEXT = re.compile(r"text/|application/(?:.*\+)?(?:json|x-ndjson|jsonl)(?:;|$)")


class NotAnHttpEventError(ValueError):
    """The function is called by something else than API Gateway with payload format 2.0."""


class AnswerTooLargeError(Exception):
    """Lambda would refuse to return it."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`target` is path and query as they go over the wire. Header names are in lower case.

    `address` is the peer that API Gateway saw; empty where the event has none. What headers say of
    it (`X-Forwarded-For`) the client may have written.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None
    address: str = ""


def request_of(event: Mapping[str, Any]) -> HttpRequest:
    """Raises NotAnHttpEventError."""
    try:
        context = event["requestContext"]
        method = str(context["http"]["method"])
        address = str(context["http"].get("sourceIp") or "")
        path = _without_stage(str(event["rawPath"]), str(context.get("stage", "$default")))
        query = str(event.get("rawQueryString") or "")
        headers = _headers_of(event)
        body = _body_of(event)
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise NotAnHttpEventError(
            "the event is no API Gateway event of payload format 2.0: set the integration's "
            f"payload_format_version to 2.0 ({type(error).__name__}: {error})"
        ) from error
    target = _escaped(_NOT_IN_A_PATH, path)
    if query:
        target += "?" + _escaped(_NOT_IN_A_QUERY, query)
    headers.setdefault("x-request-id", str(context.get("requestId", "")).rstrip("="))
    return HttpRequest(method, target, headers, body, address)


def _without_stage(path: str, stage: str) -> str:
    """A named stage comes first in the path; `$default` does not show."""
    prefix = f"/{stage}"
    if path == prefix:
        return "/"
    return path.removeprefix(prefix) if path.startswith(prefix + "/") else path


def _escaped(illegal: re.Pattern[str], text: str) -> str:
    return illegal.sub(lambda one: quote(one[0].encode("utf-8", "surrogatepass"), safe=""), text)


def _headers_of(event: Mapping[str, Any]) -> dict[str, str]:
    """Values of one name were joined with commas by API Gateway; cookies come by themselves."""
    given = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    headers = {name: value for name, value in given.items() if name not in _OF_THE_CONNECTION}
    if cookies := event.get("cookies"):
        headers["cookie"] = "; ".join(map(str, cookies))
    return headers


def _body_of(event: Mapping[str, Any]) -> bytes | None:
    body = event.get("body")
    if body is None:
        return None
    return (
        base64.b64decode(body, validate=True)
        if event.get("isBase64Encoded")
        else str(body).encode()
    )


def answer_of(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> dict[str, Any]:
    """What the function returns. Raises AnswerTooLargeError."""
    single: dict[str, str] = {}
    cookies: list[str] = []
    for given, value in headers:
        name = given.lower()
        if name == "set-cookie":
            cookies.append(value)
        elif name not in _OF_THE_CONNECTION:
            single[name] = f"{single[name]}, {value}" if name in single else value
    answer: dict[str, Any] = {"statusCode": status, "headers": single, "cookies": cookies}
    text = _text_of(single, body)
    for content in ((text, False), (base64.b64encode(body).decode(), True)):
        if content[0] is None:
            continue
        answer["body"], answer["isBase64Encoded"] = content
        if len(json.dumps(answer)) <= LARGEST_ANSWER_BYTES:
            return answer
    raise AnswerTooLargeError


def _text_of(headers: Mapping[str, str], body: bytes) -> str | None:
    """The body as it is, where it is text; else, or compressed, it has to travel as base64."""
    if "content-encoding" in headers or not _TEXT.match(headers.get("content-type", "text/plain")):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
