"""Answers go out compressed to who reads that. Not streams, whose lines are sent as they come, and
not the content of documents, which may be compressed in itself.

BREACH guesses a secret from the length of an answer that holds it beside what the guesser chose.
No answer of this service holds a credential, and what a document says is not for who may not read
it.
"""

from __future__ import annotations

import gzip

from aiohttp import web

from webhook.bodies import beside
from webhook.entity_tags import GZIPPED
from webhook.problems import Handler

MIN_BYTES = 1024
LEVEL = 5


@web.middleware
async def compressed(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    if not isinstance(response, web.Response) or not _is_worth_it(response):
        return response
    response.headers.add("Vary", "Accept-Encoding")
    body = response.body
    if isinstance(body, bytes) and reads_gzip(request):
        response.body = await beside(
            len(body), lambda: gzip.compress(body, compresslevel=LEVEL, mtime=0)
        )
        response.headers["Content-Encoding"] = "gzip"
        if (tag := response.headers.get("ETag")) is not None:
            response.headers["ETag"] = f'{tag[:-1]}{GZIPPED}"'
    return response


def _is_worth_it(response: web.Response) -> bool:
    return (
        isinstance(response.body, bytes)
        and len(response.body) >= MIN_BYTES
        and "Content-Encoding" not in response.headers
        and "Content-Disposition" not in response.headers
    )


def reads_gzip(request: web.Request) -> bool:
    """`gzip`, or `*`, that is not refused by a weight of 0 (RFC 9110, 12.5.3)."""
    weights: dict[str, bool] = {}
    for part in ",".join(request.headers.getall("Accept-Encoding", [])).split(","):
        coding, _, weight = part.partition(";")
        name, _, value = weight.strip().lower().partition("=")
        refused = name.strip() == "q" and value.strip().rstrip("0") in ("", "0.", ".")
        weights[coding.strip().lower()] = not refused
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", False)))
