"""The body of a delivery becomes a JSON value, whatever form it is sent in. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

from webhook.problems import INVALID_FIELD, MALFORMED_REQUEST, UNSUPPORTED_MEDIA_TYPE, Problem
from webhook.signatures import Headers
from webhook.validation import parse_json

STRUCTURED, BATCHED = "application/cloudevents+json", "application/cloudevents-batch+json"
MAX_LINES = 100_000
_CE = "ce-"
_NEEDED = ("id", "source", "type")


def payload_of(form: str, headers: Headers, body: bytes, *, headers_decide: bool) -> Any:
    """`form`: of `SourceConfig.format`. `headers_decide`: what is in them is as good as what is in
    the body. An empty body is null. Raises Problem."""
    if form == "cloudevents" and not headers_decide and is_binary_event(headers):
        detail = (
            "the attributes of a binary event are headers, and this source's signature is of the "
            "body alone: send structured events (application/cloudevents+json), or see "
            "trust_unsigned_headers in docs/sources.md"
        )
        raise Problem(INVALID_FIELD, detail, field="ce-specversion")
    return _READ[form](headers, body)


def media_type(headers: Headers) -> str:
    """Without parameters, in lower case; empty if there is none."""
    return next(iter(headers.get("content-type", ())), "").partition(";")[0].strip().lower()


def is_json(name: str) -> bool:
    return name in ("application/json", "text/json") or name.endswith("+json")


def _json(_: Headers, body: bytes) -> Any:
    """Of any content type: many a sender names a wrong one."""
    return parse_json(body) if body.strip() else None


def _lines(headers: Headers, body: bytes) -> Any:
    """A list, unless the sender says that it is one JSON value."""
    if is_json(media_type(headers)):
        return _json(headers, body)
    lines = body.split(b"\n", MAX_LINES)
    if len(lines) > MAX_LINES:
        raise Problem(MALFORMED_REQUEST, f"more than {MAX_LINES} lines", limit=MAX_LINES)
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                found.append(parse_json(line))
        except Problem as problem:
            raise problem.within(f"line {number}") from None
    return found


def _form(headers: Headers, body: bytes) -> Any:
    """The JSON in the field `payload`, or the body itself where that is JSON."""
    if is_json(media_type(headers)) or body.lstrip()[:1] in (b"{", b"["):
        return _json(headers, body)
    try:
        fields = dict(parse_qsl(body.decode(), strict_parsing=True, max_num_fields=16))
        payload = fields["payload"].encode(errors="surrogatepass")
    except (ValueError, KeyError):
        raise Problem(MALFORMED_REQUEST, "the body is no form with a field `payload`") from None
    return _json(headers, payload)


# --- CloudEvents ---------------------------------------------------------------------------------


def _cloud_events(headers: Headers, body: bytes) -> list[Any]:
    """Always a list of events in their JSON form. In the binary mode the attributes are headers
    and the body is the data."""
    name = media_type(headers)
    if name == BATCHED:
        events = parse_json(body)
        if not isinstance(events, list):
            raise Problem(INVALID_FIELD, "a batch of events is a list")
    elif name == STRUCTURED:
        events = [parse_json(body)]
    elif is_binary_event(headers):
        events = [_binary_event(headers, body)]
    else:
        known = [STRUCTURED, BATCHED]
        detail = f"this is no CloudEvent: it needs ce- headers, or to be one of {', '.join(known)}"
        raise Problem(UNSUPPORTED_MEDIA_TYPE, detail, limit=known)
    for index, event in enumerate(events):
        _check_event(event, index)
    return events


def is_binary_event(headers: Headers) -> bool:
    return "ce-specversion" in headers and media_type(headers) not in (STRUCTURED, BATCHED)


def _binary_event(headers: Headers, body: bytes) -> dict[str, Any]:
    event: dict[str, Any] = {}
    for name, values in headers.items():
        if name.startswith(_CE):
            if len(values) != 1:
                raise Problem(MALFORMED_REQUEST, f"the header {name} must be sent once", field=name)
            event[name.removeprefix(_CE)] = unquote(values[0].strip('"'), errors="replace")
    kind = media_type(headers)
    if kind:
        event["datacontenttype"] = kind
    return {**event, **_data_of(kind, body)}


def _data_of(kind: str, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if is_json(kind) or not kind:
        return {"data": parse_json(body)}
    if kind.startswith("text/"):
        try:
            return {"data": body.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(body).decode()}


def _check_event(event: Any, index: int) -> None:
    where = f"events[{index}]"
    if not isinstance(event, dict):
        raise Problem(INVALID_FIELD, "an event is an object", field=where)
    version = event.get("specversion")
    if version != "1.0":
        detail = f"specversion must be 1.0, not {str(version)[:16]!r}"
        raise Problem(INVALID_FIELD, detail, field=f"{where}.specversion")
    for name in _NEEDED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise Problem(INVALID_FIELD, f"an event needs {name}", field=f"{where}.{name}")


_READ: dict[str, Callable[[Headers, bytes], Any]] = {
    "json": _json,
    "ndjson": _lines,
    "form": _form,
    "cloudevents": _cloud_events,
}
