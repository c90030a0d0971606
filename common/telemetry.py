"""Metrics and logging. Counters of all processes of one machine meet in /metrics through
prometheus-client's multiprocess mode: `up` sets PROMETHEUS_MULTIPROC_DIR for itself and its
children before this module is imported."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from typing import TextIO, cast

import structlog
from prometheus_client import REGISTRY as PROCESS_REGISTRY
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    multiprocess,
)

_LATENCY_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
    1800,
)

ACCEPTED = Counter(
    "bloomweaver_changes_total", "Changes answered at accept", ["change_type", "outcome"]
)
REFUSED = Counter(
    "bloomweaver_changes_refused_total",
    "Changes answered with 503 because a queue is too long or a disk too full",
    ["reason"],
)
SOURCE_REFUSED = Counter(
    "bloomweaver_source_changes_refused_total",
    "Changes of deliveries that were refused for what they are, while their neighbours were worked",
    ["source"],
)
LIMITED = Counter(
    "bloomweaver_requests_limited_total",
    "Requests answered with 429 because their sender asks for too much in a time",
    ["limit"],
)
QUOTA_REFUSED = Counter(
    "bloomweaver_quota_refused_total",
    "Changes answered with 403 because their namespace holds as much as it may",
    ["quota"],
)
ACCEPT_SECONDS = Histogram(
    "bloomweaver_accept_seconds",
    "From a parsed change to its durable answer",
    buckets=_LATENCY_BUCKETS,
)
QUEUE_AGE_SECONDS = Histogram(
    "bloomweaver_queue_age_seconds",
    "From send to first receive",
    ["queue"],
    buckets=_LATENCY_BUCKETS,
)
HANDLED = Counter("bloomweaver_messages_total", "Messages by how they ended", ["queue", "outcome"])
HANDLE_SECONDS = Histogram(
    "bloomweaver_handle_seconds",
    "Time a message is worked on",
    ["queue"],
    buckets=_LATENCY_BUCKETS,
)
EMBED_SECONDS = Histogram(
    "bloomweaver_embed_seconds",
    "Time the model works for one document",
    buckets=_LATENCY_BUCKETS,
)
CHUNKS = Counter(
    "bloomweaver_chunks_total", "Chunks of new versions: embedded, or their vector reused", ["how"]
)
VECTORS_REUSED = Counter(
    "bloomweaver_vectors_reused_total",
    "Different chunks whose vector came from the applied pack, or from the cache",
    ["source"],
)
EMBEDDED_TOKENS = Counter(
    "bloomweaver_embedded_tokens_total",
    "Tokens of the chunks that were embedded, the model's special ones included",
)
APPLIED = Counter("bloomweaver_applied_total", "Versions made visible", ["kind"])
RECORDS = Counter("bloomweaver_records_total", "Index records by what was done", ["how"])
FRESHNESS_SECONDS = Histogram(
    "bloomweaver_freshness_seconds",
    "From accept to visible in search",
    buckets=_LATENCY_BUCKETS,
)
SEARCH_SECONDS = Histogram(
    "bloomweaver_search_seconds",
    "Searches, embedding the query included",
    buckets=_LATENCY_BUCKETS,
)
SEARCH_REQUERIES = Counter(
    "bloomweaver_search_requeries_total", "Second and third queries of a search", ["why"]
)
QUERY_CACHE = Counter(
    "bloomweaver_query_cache_total",
    "Queries by cache (embedding, index) and outcome (hit, miss, shared with one under way)",
    ["cache", "outcome"],
)
UNFORESEEN = Counter(
    "bloomweaver_unforeseen_errors_total",
    "Errors that no port promises, survived by going on; each is in the log",
    ["where"],
)
SCRUB_REPAIRED = Counter(
    "bloomweaver_scrub_repaired_total", "Findings of a scrub that were repaired", ["kind"]
)
OUTSIDE_CALLS = Counter(
    "bloomweaver_outside_calls_total",
    "Requests to services outside, each try counted",
    ["service", "operation"],
)
INTAKE = Counter(
    "bloomweaver_intake_total", "Files of the landing zone by what came of a look", ["outcome"]
)
SERVED = Counter("bloomweaver_embedding_requests_total", "Requests for embeddings", ["status"])
SERVED_TEXTS = Counter(
    "bloomweaver_embedding_texts_total", "Texts embedded for requests, not for documents"
)
SWEPT = Counter("bloomweaver_swept_total", "Rows the sweeper acted on", ["how"])


def _collecting_registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return PROCESS_REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def render_metrics() -> bytes:
    """All processes' metrics in the Prometheus text format. Reads files: call it in a thread."""
    return generate_latest(_collecting_registry())


def totals() -> dict[str, float]:
    """Sums since the start, by `name{label values}`; for /v1/stats. Call it in a thread."""
    sums: dict[str, float] = {}
    for metric in _collecting_registry().collect():
        for sample in metric.samples:
            if sample.name.endswith("_total"):
                labels = ",".join(v for k, v in sorted(sample.labels.items()) if k != "pid")
                name = f"{sample.name}{{{labels}}}"
                sums[name] = sums.get(name, 0.0) + sample.value
    return sums


class _UnfailingStream:
    """A log that cannot be written (its disk is full, its reader is gone) must end no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


_TRACEBACKS = structlog.processors.ExceptionRenderer(
    # Without the values of variables: they hold documents, vectors and secrets.
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logging(log_format: str, log_level: str) -> None:
    """structlog to standard error: one JSON object a line, or readable lines for a console."""
    renderer: structlog.types.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _TRACEBACKS if log_format == "json" else structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[log_level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _UnfailingStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def new_traceparent() -> str:
    """A W3C trace context for a change that came without one."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
