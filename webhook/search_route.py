"""POST …/search: the question, what it may be answered from, and what it has to have seen."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from aiohttp import web

from common import telemetry
from common.filters import parse_filter
from common.model import DocumentKey
from common.ports.index import MetadataFilter
from common.settings import Settings
from webhook.accept import ProfileMismatchError
from webhook.bodies import read_json
from webhook.documents import DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS
from webhook.problems import INVALID_FIELD, SEARCH_UNAVAILABLE, Problem, deadline
from webhook.search import Hit, Searcher
from webhook.services import SERVICES, Services
from webhook.validation import MAX_INTEGER, document_key_of, namespace_of, refuse_unknown

DEFAULT_TOP_K = 10
MAX_QUERY_BYTES = 64 * 1024
MAX_AWAITED_DOCUMENTS = 1000
FIELDS = ("query", "top_k", "filter", "min_version", "wait")


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
    hits = await _search(services, wanted)
    took = time.perf_counter() - began
    telemetry.SEARCH_SECONDS.observe(took)
    return web.json_response(
        {"hits": [_hit_of(hit) for hit in hits], "took_ms": round(took * 1000, 3)}
    )


async def _search(services: Services, wanted: SearchRequest) -> list[Hit]:
    searcher = services.searcher
    if searcher is None:
        raise Problem(SEARCH_UNAVAILABLE, services.why_no_search)
    if not await _is_bound(services, wanted.namespace):
        return []
    if wanted.wait_seconds is not None:
        await _wait(services, searcher, wanted, wanted.wait_seconds)
    async with deadline(services.settings.request_timeout_seconds):
        return await searcher.search(
            wanted.namespace, wanted.query, top_k=wanted.top_k, where=wanted.where
        )


async def _is_bound(services: Services, namespace: str) -> bool:
    """Whether anything was ever written there. Raises ProfileMismatchError."""
    if services.acceptor.is_bound(namespace):
        return True
    async with deadline(services.settings.request_timeout_seconds):
        bound = (await services.registry.namespaces()).get(namespace)
    ours = services.acceptor.profile_for(namespace)
    if bound is not None and bound.id != ours.id:
        raise ProfileMismatchError(namespace, bound, ours)
    if bound is not None:
        await services.acceptor.bind(namespace)
    return bound is not None


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
    refuse_unknown(value, frozenset(FIELDS))
    min_versions = _min_versions(value.get("min_version"), namespace, limits)
    wait_seconds = _wait_seconds(value.get("wait"))
    if min_versions and wait_seconds is None:
        wait_seconds = DEFAULT_WAIT_SECONDS
    where = value.get("filter")
    return SearchRequest(
        namespace=namespace,
        query=_query(value.get("query")),
        top_k=_top_k(value.get("top_k"), limits.max_top_k),
        where=None if where is None else parse_filter(where),
        min_versions=min_versions,
        wait_seconds=wait_seconds,
    )


def _query(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        _refuse("query", "must be a string that is not blank")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        _refuse("query", f"has a lone surrogate at position {error.start}")
    if size > MAX_QUERY_BYTES:
        _refuse("query", f"is {size} bytes long, the limit is {MAX_QUERY_BYTES}", MAX_QUERY_BYTES)
    return value


def _top_k(value: Any, highest: int) -> int:
    if value is None:
        return min(DEFAULT_TOP_K, highest)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        _refuse("top_k", f"must be an integer from 1 to {highest}", highest)
    return value


def _wait_seconds(value: Any) -> float | None:
    if value is None:
        return None
    highest = MAX_WAIT_SECONDS
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
        _refuse("wait", f"must be seconds from 0 to {highest:g}", highest)
    return float(value)


def _min_versions(value: Any, namespace: str, limits: Settings) -> dict[DocumentKey, int]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse("min_version", "must be an object of document ids and versions")
    if len(value) > MAX_AWAITED_DOCUMENTS:
        limit = MAX_AWAITED_DOCUMENTS
        _refuse("min_version", f"names {len(value)} documents, the limit is {limit}", limit)
    versions = {}
    for name, version in value.items():
        try:
            key = document_key_of(namespace, name, limits)
        except Problem as problem:
            raise problem.within("min_version") from None
        if isinstance(version, bool) or not isinstance(version, int):
            _refuse(f"min_version.{name}", "must be an integer")
        if not 0 <= version <= MAX_INTEGER:
            _refuse(f"min_version.{name}", f"must be from 0 to {MAX_INTEGER}", MAX_INTEGER)
        versions[key] = version
    return versions


def _hit_of(hit: Hit) -> dict[str, Any]:
    return {**asdict(hit), "heading_path": list(hit.heading_path)}


def _refuse(field: str, detail: str, limit: float | None = None) -> NoReturn:
    raise Problem(INVALID_FIELD, f"{field} {detail}", field=field, limit=limit)
