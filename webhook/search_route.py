"""POST …/search: the question, what it may be answered from, and what it has to have seen."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

from common import telemetry
from common.api.base import MAX_INTEGER
from common.api.search import (
    DEFAULT_TOP_K,
    DEFAULT_WAIT_SECONDS,
    MAX_QUERY_BYTES,
    MAX_WAIT_SECONDS,
)
from common.filters import parse_filter
from common.model import DocumentKey
from common.ports.index import MetadataFilter
from common.settings import Settings
from webhook.authentication import principal_of
from webhook.bodies import read_json
from webhook.models.limited import bodies_of
from webhook.models.reading import Refusals
from webhook.problems import SEARCH_UNAVAILABLE, Problem, deadline
from webhook.refusals import refuse
from webhook.search import Hit, Searcher
from webhook.services import SERVICES, Services
from webhook.validation import document_key_of, namespace_of

MAX_AWAITED_DOCUMENTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """`wait_seconds` is None when nothing is to be waited for."""

    namespace: str
    query: str
    top_k: int
    where: MetadataFilter | None
    min_versions: dict[DocumentKey, int]
    wait_seconds: float | None


async def post_search(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    namespace = namespace_of(request.match_info["namespace"], services.settings)
    value = await read_json(request, services.settings)
    wanted = search_request_of(value, namespace, services.settings)
    began = time.perf_counter()
    with _waiting(services, request, wanted):
        hits = await _search(services, wanted)
    took = time.perf_counter() - began
    telemetry.SEARCH_SECONDS.observe(took)
    return web.json_response(
        {"hits": [_hit_of(hit) for hit in hits], "took_ms": round(took * 1000, 3)}
    )


def _waiting(
    services: Services, request: web.Request, wanted: SearchRequest
) -> AbstractContextManager[None]:
    if wanted.wait_seconds is None:
        return nullcontext()
    return services.limits.waiting(principal_of(request))


async def _search(services: Services, wanted: SearchRequest) -> list[Hit]:
    searcher = services.searcher
    if searcher is None:
        raise Problem(SEARCH_UNAVAILABLE, services.why_no_search)
    async with deadline(services.settings.request_timeout_seconds):
        if not await services.acceptor.is_bound(wanted.namespace):
            return []
    if wanted.wait_seconds is not None:
        await _wait(services, searcher, wanted, wanted.wait_seconds)
    async with deadline(services.settings.request_timeout_seconds):
        return await searcher.search(
            wanted.namespace, wanted.query, top_k=wanted.top_k, where=wanted.where
        )


async def _wait(
    services: Services, searcher: Searcher, wanted: SearchRequest, seconds: float
) -> None:
    versions = wanted.min_versions
    if not versions:
        async with deadline(services.settings.request_timeout_seconds):
            versions = await searcher.behind(wanted.namespace)
    if versions:
        seconds = min(seconds, services.most_wait_seconds())
        await searcher.wait_applied(versions, timeout_seconds=seconds)


def search_request_of(value: Any, namespace: str, limits: Settings) -> SearchRequest:
    """Raises Problem, and FilterError for the filter."""
    body = bodies_of(limits).search.read(value, limits, _REFUSALS)
    min_versions = _min_versions(body.min_version, namespace, limits)
    wait_seconds = body.wait
    if min_versions and wait_seconds is None:
        wait_seconds = DEFAULT_WAIT_SECONDS
    query, top_k = _query(body.query), body.top_k
    return SearchRequest(
        namespace=namespace,
        query=query,
        top_k=min(DEFAULT_TOP_K, limits.max_top_k) if top_k is None else top_k,
        where=None if body.filter is None else parse_filter(body.filter),
        min_versions=min_versions,
        wait_seconds=wait_seconds,
    )


def _query(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        refuse("query", "must be a string that is not blank")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        refuse("query", f"has a lone surrogate at position {error.start}")
    if size > MAX_QUERY_BYTES:
        detail = f"is {size} bytes long, the limit is {MAX_QUERY_BYTES}"
        refuse("query", detail, limit=MAX_QUERY_BYTES)
    return value


def _min_versions(value: Any, namespace: str, limits: Settings) -> dict[DocumentKey, int]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        refuse("min_version", "must be an object of document ids and versions")
    if len(value) > MAX_AWAITED_DOCUMENTS:
        limit = MAX_AWAITED_DOCUMENTS
        refuse("min_version", f"names {len(value)} documents, the limit is {limit}", limit=limit)
    versions = {}
    for name, version in value.items():
        try:
            key = document_key_of(namespace, name, limits)
        except Problem as problem:
            raise problem.within("min_version") from None
        if isinstance(version, bool) or not isinstance(version, int):
            refuse(f"min_version.{name}", "must be an integer")
        if not 0 <= version <= MAX_INTEGER:
            refuse(f"min_version.{name}", f"must be from 0 to {MAX_INTEGER}", limit=MAX_INTEGER)
        versions[key] = version
    return versions


def _hit_of(hit: Hit) -> dict[str, Any]:
    return {**asdict(hit), "heading_path": list(hit.heading_path)}


def _refuse_top_k(_: object, limits: Settings) -> None:
    highest = limits.max_top_k
    refuse("top_k", f"must be an integer from 1 to {highest}", limit=highest)


def _refuse_wait(*_: object) -> None:
    highest = MAX_WAIT_SECONDS
    refuse("wait", f"must be seconds from 0 to {highest:g}", limit=highest)


_REFUSALS: Refusals = {
    "query": lambda value, _: _query(value.get("query")),
    "top_k": _refuse_top_k,
    "filter": lambda value, _: parse_filter(value["filter"]),
    "wait": _refuse_wait,
}
