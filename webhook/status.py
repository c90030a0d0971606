"""What the service says of itself: stats, health, readiness, metrics and the dead letters."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

import structlog
from aiohttp import web

from common import telemetry
from common.model import QueueName
from common.ports.errors import TransientError
from common.ports.queue import DeadLetter, Depth
from webhook.bodies import query_integer, read_json, refuse_unknown_parameters
from webhook.documents import DEFAULT_PAGE, MAX_PAGE, time_of
from webhook.feed import STOPPING_SIGNAL
from webhook.problems import INVALID_FIELD, NOT_FOUND, NOT_READY, Problem, deadline
from webhook.services import SERVICES, Services
from webhook.validation import refuse_unknown

log = structlog.get_logger(__name__)

MAX_REDRIVEN_IDS = 10_000
_TOTAL = re.compile(r"bloomweaver_(\w+)_total\{(.*)\}")
_LABELS = re.compile(r"[,.\s-]+")


# --- health --------------------------------------------------------------------------------------


async def get_health(_: web.Request) -> web.Response:
    """200 for as long as the event loop turns: what a supervisor restarts by."""
    return web.json_response({"status": "ok"})


async def get_readiness(request: web.Request) -> web.Response:
    """200, or 503 with what is missing: what a load balancer sends traffic by."""
    missing = request.app[SERVICES].unready()
    if request.app[STOPPING_SIGNAL].is_set():
        missing = [*missing, "the service is stopping"]
    if missing:
        raise Problem(NOT_READY, "; ".join(missing), missing=missing)
    return web.json_response({"status": "ready"})


# --- stats ---------------------------------------------------------------------------------------


async def get_stats(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    async with deadline(services.settings.request_timeout_seconds):
        counts = await services.registry.counts()
        depths = await _depths(services)
        dead_letters = await services.queue.dead_letter_count()
        totals = await asyncio.to_thread(telemetry.totals)
    namespaces = [
        {
            "namespace": count.namespace,
            "documents": {status.value: number for status, number in count.documents.items()},
            "chunks": count.chunks,
        }
        for count in counts
    ]
    stats = {
        "namespaces": namespaces,
        "queues": {queue.value: asdict(depth) for queue, depth in depths.items()},
        "dead_letters": dead_letters,
        "workers": asdict(services.fleet()) if services.fleet else None,
        "totals": readable_totals(totals),
        "embedding_profile": services.profile.id,
        "version": program_version(),
    }
    return web.json_response(stats)


async def _depths(services: Services) -> dict[QueueName, Depth]:
    return {queue: await services.queue.depth(queue) for queue in QueueName}


def readable_totals(totals: dict[str, float]) -> dict[str, float]:
    """`bloomweaver_chunks_total{embedded}` as `chunks_embedded`."""
    readable = {"chunks_embedded": 0.0, "chunks_reused": 0.0}
    for name, value in totals.items():
        if found := _TOTAL.fullmatch(name):
            labels = _LABELS.sub("_", found[2])
            readable[f"{found[1]}_{labels}" if labels else found[1]] = value
    return readable


def program_version() -> str:
    try:
        return version_of("bloomweaver")
    except PackageNotFoundError:
        return "unknown"


# --- metrics -------------------------------------------------------------------------------------


async def get_metrics(request: web.Request) -> web.Response:
    """The Prometheus text format: counters of all processes, and gauges as of now."""
    services = request.app[SERVICES]
    counters = await asyncio.to_thread(telemetry.render_metrics)
    gauges = await _gauges(services)
    return web.Response(
        body=counters + gauges.encode(),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def _gauges(services: Services) -> str:
    """Left out, with a line in the log, when the queue is out of reach: the counters still tell."""
    try:
        async with deadline(services.settings.request_timeout_seconds):
            depths = await _depths(services)
            dead_letters = await services.queue.dead_letter_count()
    except (TransientError, Problem) as error:
        log.warning("metrics.gauges_missing", error=str(error))
        return ""
    states = ("waiting", "in_flight", "delayed")
    messages = [
        (f'{{queue="{queue}",state="{state}"}}', float(getattr(depth, state)))
        for queue, depth in depths.items()
        for state in states
    ]
    ages = [(f'{{queue="{queue}"}}', depth.oldest_age_seconds) for queue, depth in depths.items()]
    text = _gauge("bloomweaver_queue_messages", "Messages by state", messages)
    text += _gauge("bloomweaver_queue_oldest_age_seconds", "Age of the oldest unstarted", ages)
    text += _gauge("bloomweaver_dead_letters", "Messages given up", [("", float(dead_letters))])
    return text + _worker_gauges(services)


def _worker_gauges(services: Services) -> str:
    if services.fleet is None:
        return ""
    samples = [
        (f'{{kind="{name}"}}', float(value))
        for name, value in asdict(services.fleet()).items()
        if name != "started_total"
    ]
    return _gauge("bloomweaver_workers", "Embedding workers of this machine", samples)


def _gauge(name: str, text: str, samples: Iterable[tuple[str, float]]) -> str:
    lines = [f"{name}{labels} {value}\n" for labels, value in samples]
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n" + "".join(lines)


# --- dead letters --------------------------------------------------------------------------------


async def list_dead_letters(request: web.Request) -> web.Response:
    refuse_unknown_parameters(request, frozenset({"cursor", "limit"}))
    services = request.app[SERVICES]
    limit = query_integer(request, "limit", default=DEFAULT_PAGE, lowest=1, highest=MAX_PAGE)
    after = request.query.get("cursor")
    async with deadline(services.settings.request_timeout_seconds):
        letters = await services.queue.dead_letters(limit=limit + 1, after=after)
    page = letters[:limit]
    cursor = page[-1].message_id if len(letters) > limit else None
    return web.json_response({"dead_letters": [_letter_of(x) for x in page], "cursor": cursor})


async def get_dead_letter(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    wanted = request.match_info["message_id"]
    after: str | None = None
    while True:
        async with deadline(services.settings.request_timeout_seconds):
            letters = await services.queue.dead_letters(limit=MAX_PAGE, after=after)
        for letter in letters:
            if letter.message_id == wanted:
                return web.json_response(_letter_of(letter))
        if len(letters) < MAX_PAGE:
            detail = f"there is no dead letter {wanted[:80]!r}; it may have been redriven"
            raise Problem(NOT_FOUND, detail, field="message_id")
        after = letters[-1].message_id


async def redrive_dead_letters(request: web.Request) -> web.Response:
    """Sends the named dead letters, or all of them, back to the queues they came from."""
    services = request.app[SERVICES]
    value = await read_json(request, services.settings)
    refuse_unknown(value, frozenset({"message_ids", "all"}))
    everything = value.get("all")
    if everything is True and value.get("message_ids") is None:
        return web.json_response({"redriven": await _redrive_all(services)})
    if everything not in (None, False):
        raise Problem(INVALID_FIELD, 'all must be true, without "message_ids"', field="all")
    message_ids = _message_ids(value.get("message_ids"))
    return web.json_response({"redriven": await _redrive(services, message_ids)})


def _message_ids(value: Any) -> list[str]:
    field, limit = "message_ids", MAX_REDRIVEN_IDS
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Problem(INVALID_FIELD, f'{field} must be a list of strings, or send "all": true',
                      field=field)  # fmt: skip
    if len(value) > limit:
        detail = f"{field} has {len(value)} ids, the limit is {limit}"
        raise Problem(INVALID_FIELD, detail, field=field, limit=limit)
    return value


async def _redrive(services: Services, message_ids: list[str]) -> int:
    async with deadline(services.settings.request_timeout_seconds):
        return await services.queue.redrive(message_ids)


async def _redrive_all(services: Services) -> int:
    """Each once: those that die again meanwhile come back behind the place reached."""
    redriven = 0
    after: str | None = None
    async with deadline(services.settings.request_timeout_seconds):
        count = await services.queue.dead_letter_count()
    while redriven < count:
        async with deadline(services.settings.request_timeout_seconds):
            letters = await services.queue.dead_letters(limit=MAX_PAGE, after=after)
        if not letters:
            break
        redriven += await _redrive(services, [letter.message_id for letter in letters])
        after = letters[-1].message_id
    return redriven


def _letter_of(letter: DeadLetter) -> dict[str, Any]:
    wake_up = letter.wake_up
    return {
        "message_id": letter.message_id,
        "source": letter.source.value,
        "namespace": wake_up.namespace,
        "document_id": wake_up.document_id,
        "version": wake_up.version,
        "traceparent": wake_up.traceparent,
        "reason": letter.reason,
        "receive_count": letter.receive_count,
        "died_at": time_of(letter.died_at),
    }
