"""The id of the request under way: in its answer, in its log lines, in the audit trail."""

from __future__ import annotations

import re
from contextvars import ContextVar

from aiohttp.web_request import BaseRequest

from webhook.bodies import new_request_id

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_request_id: ContextVar[str] = ContextVar("request_id")


def name_request(request: BaseRequest) -> str:
    """The sender's own, where it is one, or a new one."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else new_request_id()
    _request_id.set(request_id)
    return request_id


def request_id_of() -> str:
    """Empty outside of a request."""
    return _request_id.get("")
