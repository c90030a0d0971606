"""What the service says of itself: stats, health, readiness and metrics."""

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
from common.access import Principal
from common.model import QueueName
from common.ports.errors import TransientError
from common.ports.queue import Depth
from common.ports.registry import NamespaceCounts
from common.scrubbing import FindingKind
from webhook.admission import REASONS
from webhook.authentication import principal_of, require_reach_of_all
from webhook.feed import STOPPING_SIGNAL
from webhook.problems import NOT_READY, Problem, deadline
from webhook.services import SERVICES, Services
from webhook.shared_counts import COUNTS, documents_in

DOCUMENTS_PER_REQUEST = 10_000
"""Counting so many costs about as much as a request does."""

log = structlog.get_logger(__name__)

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
    """Who is bound to namespaces is told of these, and nothing that sums over others."""
    services, principal = request.app[SERVICES], principal_of(request)
    if not principal.reaches_all:
        return web.json_response(await _stats_of_some(request, principal))
    async with deadline(services.settings.request_timeout_seconds):
        counts = await services.registry.counts()
        depths = await _depths(services)
        dead_letters = await services.queue.dead_letter_count()
        totals = await asyncio.to_thread(telemetry.totals)
        await services.admission.look()
    services.limits.charge_scanned(principal, documents_in(counts) / DOCUMENTS_PER_REQUEST)
    stats = {
        "namespaces": [_counts_of(count) for count in counts],
        "queues": {queue.value: asdict(depth) for queue, depth in depths.items()},
        "dead_letters": dead_letters,
        "admission": services.admission.as_json(),
        "workers": asdict(services.fleet()) if services.fleet else None,
        "totals": readable_totals(totals),
        "embedding_profile": services.profile.id,
        "version": program_version(),
    }
    return web.json_response(stats)


async def _stats_of_some(request: web.Request, principal: Principal) -> dict[str, Any]:
    """Everybody's documents are counted for it: at most once a second, whoever asks."""
    services = request.app[SERVICES]
    async with deadline(services.settings.request_timeout_seconds):
        counts, counted = await request.app[COUNTS].lately()
    services.limits.charge_scanned(principal, counted / DOCUMENTS_PER_REQUEST)
    return {
        "namespaces": [_counts_of(c) for c in counts if principal.reaches(c.namespace)],
        "version": program_version(),
    }


def _counts_of(count: NamespaceCounts) -> dict[str, Any]:
    return {
        "namespace": count.namespace,
        "documents": {status.value: number for status, number in count.documents.items()},
        "chunks": count.chunks,
        "bytes": count.size_bytes,
    }


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
    require_reach_of_all(principal_of(request))
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
    text += await _admission_gauges(services) + _worker_gauges(services)
    return text + _scrub_gauges(services)


async def _admission_gauges(services: Services) -> str:
    admission = services.admission
    await admission.look()
    refusal = admission.refusal()
    refusing = [
        (f'{{reason="{reason}"}}', float(refusal is not None and refusal.reason == reason))
        for reason in REASONS
    ]
    text = _gauge("bloomweaver_admission_refusing", "1: changes are answered with 503", refusing)
    free = admission.seen.free_disk_bytes
    if free is None:
        return text
    return text + _gauge("bloomweaver_free_disk_bytes", "Of the fullest disk", [("", float(free))])


def _worker_gauges(services: Services) -> str:
    if services.fleet is None:
        return ""
    samples = [
        (f'{{kind="{name}"}}', float(value))
        for name, value in asdict(services.fleet()).items()
        if name != "started_total"
    ]
    return _gauge("bloomweaver_workers", "Embedding workers of this machine", samples)


def _scrub_gauges(services: Services) -> str:
    """Of the last scrub of all namespaces; left out before there was one."""
    report = services.scrub.last_of_all if services.scrub else None
    if report is None:
        return ""
    left = [(f'{{kind="{kind}"}}', float(report.remaining.get(kind, 0))) for kind in FindingKind]
    ended = [("", report.started_at + report.took_seconds)]
    text = _gauge("bloomweaver_scrub_findings", "What the last scrub left unrepaired", left)
    return text + _gauge("bloomweaver_scrub_finished_timestamp_seconds", "When it ended", ended)


def _gauge(name: str, text: str, samples: Iterable[tuple[str, float]]) -> str:
    lines = [f"{name}{labels} {value}\n" for labels, value in samples]
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n" + "".join(lines)
