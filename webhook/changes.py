"""POST /v1/changes with one change or a list of them, validated whole before any is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from common.model import DocumentKey
from common.ports.errors import PermanentError
from webhook.accept import Change, NothingToUpdateError, ProfileMismatchError
from webhook.acceptance import accept_change, charge_for, require_reach_of_change, result_of
from webhook.bodies import (
    beside,
    given_traceparent,
    media_type_of,
    read_body,
    traceparent_of,
)
from webhook.callers import Caller, caller_of
from webhook.content_urls import ContentRefusedError
from webhook.feed import NDJSON_TYPES, answer_feed
from webhook.namespaces import TooManyNamespacesError
from webhook.preconditions import PreconditionFailedError
from webhook.problems import QUOTA_EXCEEDED, UNSUPPORTED_MEDIA_TYPE, Problem, deadline, problem_of
from webhook.services import SERVICES, Services
from webhook.validation import change_of, changes_of, parse_json

_OWN_ERRORS: tuple[type[Exception], ...] = (
    NothingToUpdateError,
    PreconditionFailedError,
    TooManyNamespacesError,
    Problem,
)


async def post_changes(request: web.Request) -> web.StreamResponse:
    """202 once every change is durable; 200 and a stream of results for NDJSON."""
    media_type = media_type_of(request)
    if media_type in NDJSON_TYPES:
        return await answer_feed(request)
    if media_type not in ("", "application/json"):
        known = ["application/json", *NDJSON_TYPES]
        detail = f"the body must be one of {', '.join(known)}"
        raise Problem(UNSUPPORTED_MEDIA_TYPE, detail, limit=known)
    services = request.app[SERVICES]
    settings = services.settings
    body = await read_body(
        request, settings.max_body_bytes, stall_seconds=settings.request_timeout_seconds
    )
    trace, caller = given_traceparent(request), caller_of(request)

    def parse() -> Change | list[Change]:
        value = parse_json(body)
        if isinstance(value, dict) and "changes" in value:
            return changes_of(value, settings, traceparent=trace or traceparent_of(request))
        return change_of(value, settings, traceparent=trace or traceparent_of(request))

    changes = await beside(len(body), parse)
    if isinstance(changes, Change):
        result = await accept_change(services, changes, caller)
        return web.json_response(result_of(result), status=202)
    results = await accept_all(services, changes, caller)
    return web.json_response({"results": results}, status=202)


async def accept_all(
    services: Services,
    changes: Sequence[Change],
    caller: Caller,
    into: list[dict[str, Any]] | None = None,
    *,
    of_delivery: bool = False,
) -> list[dict[str, Any]]:
    """One result a change. Documents side by side, the changes of one document in order.

    The first change that cannot be accepted for now ends it all: sending the list again is safe.
    `into`, empty, has the results as they come, also when it ends so; {} where there is none yet.
    `of_delivery`: the caller was charged, and what a person has to mend ends its change alone.
    """
    if not of_delivery:
        charge_for(services, changes, caller)
    own = (*_OWN_ERRORS, PermanentError) if of_delivery else _OWN_ERRORS
    await _require_namespaces(services, changes, caller)
    results: list[dict[str, Any]] = [] if into is None else into
    results += [{} for _ in changes]
    documents: dict[DocumentKey, list[int]] = {}
    for index, change in enumerate(changes):
        documents.setdefault(change.key, []).append(index)
    todo = iter(documents.values())

    async def work(groups: Iterator[list[int]]) -> None:
        for indices in groups:
            for index in indices:
                results[index] = await _accept_one(services, changes[index], caller, own)

    if len(documents) == 1:
        await work(todo)
        return results
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(services.settings.accept_concurrency, len(documents))):
                group.create_task(work(todo))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return results


async def _accept_one(
    services: Services, change: Change, caller: Caller, own: tuple[type[Exception], ...]
) -> dict[str, Any]:
    """An update of nothing, or of another version than was seen, content that cannot be had from
    where it should be, and a namespace that is full or one too many, is this change's own answer:
    its neighbours are accepted by now."""
    try:
        return result_of(await accept_change(services, change, caller, charged=True))
    except own as error:
        if isinstance(error, Problem) and not _is_its_own(error):
            raise
        key = change.key
        error_body = problem_of(error).body()
        return {"namespace": key.namespace, "document_id": key.document_id, "error": error_body}


def _is_its_own(problem: Problem) -> bool:
    return isinstance(problem, ContentRefusedError) or problem.kind is QUOTA_EXCEEDED


async def _require_namespaces(
    services: Services, changes: Sequence[Change], caller: Caller
) -> None:
    """Refuse a namespace out of the caller's reach, or of another profile, before anything of the
    list is accepted. Binds none: what is refused later, or writes nothing, takes no place."""
    seen: set[str] = set()
    for index, change in enumerate(changes):
        namespace = change.key.namespace
        if namespace in seen:
            continue
        seen.add(namespace)
        _require_reach(services, change, caller, index)
        try:
            async with deadline(services.settings.request_timeout_seconds):
                await services.acceptor.is_bound(namespace)
        except ProfileMismatchError as error:
            raise problem_of(error).within(f"changes[{index}]") from None


def _require_reach(services: Services, change: Change, caller: Caller, index: int) -> None:
    try:
        require_reach_of_change(services, change, caller)
    except Problem as problem:
        raise problem.within(f"changes[{index}]") from None
