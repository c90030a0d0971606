"""Every setting, its default and what it is for. Read from BLOOMWEAVER_* and a .env file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MEBIBYTE = 1024 * 1024


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_lanes(device: str) -> int:
    """Lanes share the weights and one memory arena; a GPU is kept busy by one, with its batches.

    Beyond 4 a machine has more processes, so that one that dies takes less work with it.
    """
    return 1 if device == "cuda" else min(4, cores())


def _default_workers(given: dict[str, Any]) -> int:
    """`given`: the settings declared before."""
    device = given.get("device", "cpu")
    lanes = given.get("inference_lanes") or default_lanes(device)
    return 1 if device == "cuda" else math.ceil(cores() / lanes)


class Settings(BaseSettings):
    """Units are the last word of a name. `bloomweaver settings` prints them all."""

    model_config = SettingsConfigDict(
        env_prefix="BLOOMWEAVER_", env_file=".env", extra="ignore", frozen=True
    )

    data_dir: Path = Field(
        Path("bloomweaver-data"), description="Holds everything of the embedded adapters."
    )
    queue_url: str = Field("sqlite:", description="sqlite: (queue.sqlite in the data folder).")
    registry_url: str = Field(
        "sqlite:", description="sqlite: (registry.sqlite in the data folder)."
    )
    blobs_url: str = Field("folder:", description="folder: (blobs/ in the data folder).")
    index_url: str = Field("qdrant-edge:", description="qdrant-edge: (index/ in the data folder).")
    embedder_url: str = Field(
        "fastembed:all-MiniLM-L6-v2-int8",
        description="fastembed:NAME (packaged or known to fastembed) or fastembed:/a/model/folder.",
    )
    vectors_url: str = Field(
        "sqlite:",
        description="Vectors of chunks embedded before, for reuse across documents and workers. "
        "sqlite: (vectors.sqlite in the data folder), memory: (of each worker) or none:.",
    )
    vector_cache_bytes: int = Field(
        512 * MEBIBYTE, ge=0, description="Beyond it the least recently used vectors are dropped."
    )
    vector_cache_days: float = Field(
        30.0, gt=0, description="Vectors that nobody asked for in so long are dropped."
    )
    query_prefix: str | None = Field(
        None, description="Put before every query; None: what the model's authors say."
    )
    document_prefix: str | None = Field(
        None, description="Put before every chunk; None: what the model's authors say."
    )

    host: str = Field("127.0.0.1", description="Address the webhook listens on.")
    port: int = Field(8080, ge=0, le=65535, description="0 picks a free port.")
    url: str = Field(
        "http://127.0.0.1:8080", description="Where the client commands find the webhook."
    )

    chunk_target_tokens: int = Field(256, ge=16, description="Size chunks are packed to.")
    chunk_max_tokens: int = Field(
        512, ge=32, description="Never exceeded; capped by the model's window."
    )

    max_body_bytes: int = Field(64 * MEBIBYTE, description="A JSON request's body.")
    max_document_bytes: int = Field(32 * MEBIBYTE, description="One document's content.")
    max_document_id_bytes: int = Field(1024, description="UTF-8 length of a document id.")
    max_namespace_bytes: int = Field(128, description="UTF-8 length of a namespace.")
    max_metadata_bytes: int = Field(8192, description="Canonical JSON of one document's metadata.")
    max_metadata_keys: int = Field(64, description="Fields of one document's metadata.")
    max_changes_per_request: int = Field(10_000, description='Changes in one {"changes": […]}.')
    max_top_k: int = Field(1000, ge=1)
    accept_concurrency: int = Field(
        64, ge=1, description="Changes of one request accepted at once."
    )
    max_backlog_messages: int = Field(
        1_000_000,
        ge=0,
        description="Waiting work beyond which changes are answered with 503 (deletes at twice "
        "that); 0: no limit.",
    )
    min_free_disk_bytes: int = Field(
        256 * MEBIBYTE,
        ge=0,
        description="Free space below which changes are answered with 503 (deletes at half of "
        "it), so that the consumers can still write; 0: no limit.",
    )
    request_timeout_seconds: float = Field(
        30.0, gt=0, description="Deadline of a call to an adapter."
    )
    query_cache_entries: int = Field(
        1000,
        ge=0,
        description="Queries whose vectors, and whose answers from the embedded index, are kept "
        "until a write could change them (2 and 32 MB at most); 0: none.",
    )

    visibility_timeout_seconds: float = Field(30.0, gt=0, description="Renewed every third of it.")
    max_receives: int = Field(3, ge=1, description="Deliveries before a message is dead-lettered.")
    document_timeout_seconds: float = Field(
        7200.0, gt=0, description="A document that takes longer to read and embed is FAILED."
    )
    embed_concurrency: int = Field(
        4, ge=1, description="Documents one embedding worker has in hand."
    )
    burst_quiet_seconds: float = Field(
        0.5,
        ge=0,
        description="An edit that came while its document was being embedded is embedded once no "
        "other came for so long; 0: at once.",
    )
    burst_wait_seconds: float = Field(
        10.0, ge=0, description="A burst of edits waits no longer than this to be over."
    )
    apply_concurrency: int = Field(
        8, ge=1, description="Documents each apply consumer has in hand."
    )
    drain_timeout_seconds: float = Field(
        25.0, gt=0, description="Work in hand may take this long at SIGTERM."
    )

    device: Literal["cpu", "cuda", "auto"] = Field(
        "cpu",
        description="Where models run. cuda needs bloomweaver[gpu]; auto: a GPU if there is one.",
    )
    fuse_graph: bool = Field(
        True,
        description="On a CPU, make a faster graph with the same vectors of the model's own, once.",
    )
    model_cache_dir: Path | None = Field(
        None,
        description="Assembled, fused and downloaded models, and what calibration found; "
        "made again when lost. None: run/models in the data folder.",
    )
    inference_lanes: int | None = Field(
        None,
        ge=1,
        description="Inferences side by side in one embedding worker, a core each. None: as many "
        "as there are cores, 4 at most; 1 on a GPU.",
    )
    workers_min: int = Field(0, ge=0)
    workers_max: int = Field(
        default_factory=_default_workers,
        ge=1,
        description="Embedding workers at most. By default their lanes take every core once; "
        "1 with device cuda.",
    )
    worker_idle_seconds: float = Field(
        300.0, ge=0, description="Idle time after which workers stop."
    )
    backlog_per_worker: int = Field(
        4, ge=1, description="Waiting messages that justify one more worker."
    )

    attempt_lease_seconds: float = Field(
        60.0, gt=0, description="An apply attempt's, extended on progress."
    )
    collect_grace_seconds: float = Field(
        60.0,
        ge=0,
        description="Kept between dooming a dead attempt's records and deleting them; "
        "longer than any write can be under way.",
    )
    sweep_interval_seconds: float = Field(5.0, gt=0)
    stale_after_seconds: float = Field(
        60.0, gt=0, description="A row behind for longer is woken again."
    )
    tombstone_retention_seconds: float = Field(
        15 * 86400.0, gt=0, description="Longer than any message lives (SQS: 14 days)."
    )
    blob_grace_seconds: float = Field(
        3600.0,
        gt=0,
        description="Unreferenced blobs younger than this are kept: an accept may be under way.",
    )
    blob_sweep_interval_seconds: float = Field(3600.0, gt=0)
    scrub_interval_seconds: float = Field(
        86400.0,
        ge=0,
        description="How often index, registry and packs are compared; 0: only on request.",
    )

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def model_folder(self) -> Path:
        """Absolute, whether it exists or not."""
        return (self.model_cache_dir or self.data_dir / "run" / "models").absolute()
