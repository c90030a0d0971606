"""Every setting, its default and what it is for. Read from BLOOMWEAVER_* and a .env file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from common.oidc_issuers import OidcIssuers
from common.origins import Origin
from common.scaling_policy import POLICY

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


def _default_visibility_seconds(given: dict[str, Any]) -> float:
    """Renewals of a lease are free on one machine, and requests that cost on SQS."""
    return 300.0 if str(given.get("queue_url", "")).startswith("sqs:") else 30.0


def _on_sqs(embedded: int, sqs: int) -> Callable[[dict[str, Any]], int]:
    """On SQS ten may wait to be sent on and ten to be deleted together, while ten are at work."""

    def default(given: dict[str, Any]) -> int:
        return sqs if str(given.get("queue_url", "")).startswith("sqs:") else embedded

    return default


def _default_namespaces(given: dict[str, Any]) -> int:
    """Each costs the embedded index some 5 MiB, a thread and 23 of the 65,530 memory maps that
    Linux gives a process. Servers and clouds have bounds of their own."""
    return 1000 if str(given.get("index_url", "qdrant-edge:")).startswith("qdrant-edge:") else 0


def _default_keys_url(given: dict[str, Any]) -> str:
    """Beside the rows: in the same folder, or in the same table."""
    return str(given.get("registry_url", "sqlite:"))


def _default_audit_url(given: dict[str, Any]) -> str:
    """On one machine beside the rows. A fleet has to say where."""
    embedded = str(given.get("registry_url", "sqlite:")).startswith("sqlite:")
    return "sqlite:" if embedded else "none:"


def _default_workers(given: dict[str, Any]) -> int:
    """`given`: the settings declared before."""
    device = given.get("device", "cpu")
    lanes = given.get("inference_lanes") or default_lanes(device)
    return 1 if device == "cuda" else math.ceil(cores() / lanes)


def _hosts(entries: list[str]) -> list[str]:
    """Raises ValueError for an entry that is no host."""
    if entries:
        from common.outbound_rules import host_pattern

        for entry in entries:
            host_pattern(entry)
    return entries


def mistakes_in(error: ValidationError | SettingsError) -> str:
    """In one line, each named by the variable that it came from.

    A default that is made of other settings cannot be made where one of them is wrong: no mistake.
    """
    if isinstance(error, SettingsError):  # a setting that has to be JSON
        return f"{error}: {error.__cause__}"
    return "; ".join(
        f"BLOOMWEAVER_{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}, not {e['input']!r}"
        for e in error.errors()
        if e["type"] != "default_factory_not_called"
    )


class EmbeddingVariant(BaseModel):
    """Namespaces that match one of the patterns are embedded with this model, from this queue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespaces: list[str] = Field(min_length=1)
    change_queue_name: str = Field(min_length=1)
    embedder_url: str = Field(min_length=1)


class NamespaceQuota(BaseModel):
    """What a namespace may hold; None: as much as it likes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int | None = Field(None, ge=0)
    chunks: int | None = Field(None, ge=0)
    bytes: int | None = Field(None, ge=0)
    """Of content, as it was sent."""


class Settings(BaseSettings):
    """Units are the last word of a name. `bloomweaver settings` prints them all."""

    model_config = SettingsConfigDict(
        env_prefix="BLOOMWEAVER_", env_file=".env", extra="ignore", frozen=True
    )

    secret_ids: str = Field(
        "",
        description="Secrets of AWS Secrets Manager, names or ARNs with commas between them, each "
        "a JSON object of environment variables. Read at every start; what is set in the "
        "environment counts before them (docs/aws.md).",
    )
    data_dir: Path = Field(
        Path("bloomweaver-data"), description="Holds everything of the embedded adapters."
    )
    queue_url: str = Field(
        "sqlite:",
        description="sqlite: (queue.sqlite in the data folder) or sqs: (the queues named below).",
    )
    registry_url: str = Field(
        "sqlite:", description="sqlite: (registry.sqlite in the data folder) or dynamodb:TABLE."
    )
    blobs_url: str = Field(
        "folder:", description="folder: (blobs/ in the data folder) or s3://BUCKET/PREFIX."
    )
    blobs_kms_key_id: str | None = Field(
        None, description="On S3: encrypt with this KMS key. None: with S3's own keys."
    )
    index_url: str = Field(
        "qdrant-edge:",
        description="qdrant-edge: (index/ in the data folder), pinecone:NAME or "
        "pinecone:https://HOST, qdrant:http://HOST:6333, or chroma:http://HOST:8000.",
    )
    embedder_url: str = Field(
        "fastembed:all-MiniLM-L6-v2-int8",
        description="fastembed:NAME (packaged or known to fastembed), fastembed:/a/model/folder, "
        "or profile:JSON for a process that never embeds (`bloomweaver profile` prints it).",
    )
    landing_url: str = Field(
        "", description="s3://BUCKET: files put under incoming/NAMESPACE/ become documents."
    )
    change_queue_name: str = Field("ChangeQueue", description="On SQS: a name or a URL.")
    create_queue_name: str = Field("CreateQueue", description="On SQS: a name or a URL.")
    update_queue_name: str = Field("UpdateQueue", description="On SQS: a name or a URL.")
    delete_queue_name: str = Field("DeleteQueue", description="On SQS: a name or a URL.")
    dead_letter_queue_name: str = Field("DeadLetterQueue", description="On SQS: a name or a URL.")
    intake_queue_name: str = Field(
        "IntakeQueue", description="On SQS: where S3 tells of files in the landing zone."
    )
    sqs_send_wait_seconds: float = Field(
        0.005, ge=0, description="A request to SQS waits so long for others to share it with."
    )
    sqs_settle_wait_seconds: float = Field(
        2.0,
        ge=0,
        description="A busy worker's deletes and wake-ups wait so long for others, at most.",
    )
    pinecone_api_key: SecretStr | None = Field(
        None, description="Of Pinecone. None: PINECONE_API_KEY."
    )
    pinecone_control_url: str = Field(
        "", description="Where pinecone:NAME is looked up; empty: at Pinecone's own address."
    )
    qdrant_api_key: SecretStr | None = Field(None, description="Of a Qdrant server, if it asks.")
    chroma_token: SecretStr | None = Field(None, description="Of a Chroma server, if it asks.")
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
    embedding_variants: dict[str, EmbeddingVariant] = Field(
        default_factory=dict,
        description="Namespaces with another model, on SQS: JSON by name, the first that matches "
        'counts: {"large": {"namespaces": ["kb-*"], "change_queue_name": "ChangeQueue-large", '
        '"embedder_url": "fastembed:/models/large"}}.',
    )
    embedding_variant: str = Field(
        "", description="Which of them an embedding worker works; empty: the rest of all."
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

    auth: Literal["auto", "required", "off"] = Field(
        "auto",
        description="Who may call the webhook. auto: who has a key or a token; on loopback anybody "
        "on this machine until there is one. required: who has one. off: everybody.",
    )
    api_key: SecretStr | None = Field(None, description="Of the client commands, for the webhook.")
    oidc_issuers: OidcIssuers = Field(
        default_factory=list,
        description="Issuers of people's tokens, as JSON (docs/access.md): "
        '[{"issuer": "https://id.example", "audience": ["docs"], "role_claim": "roles", '
        '"roles": {"writers": "editor"}, "namespaces": ["*"]}].',
    )
    fetch_allowed_hosts: Annotated[list[str], AfterValidator(_hosts)] = Field(
        default_factory=list,
        description="Hosts that the content of a change may be fetched from by its URL "
        '(docs/access.md), as JSON: ["docs.example.com", "*.example.org", "cdn.example:8443"]. '
        "None by default. Never ones at a private address, whatever their name.",
    )
    receipts_url: str = Field(
        default_factory=_default_keys_url,
        description="Where deliveries that were answered are remembered: sqlite: (receipts.sqlite "
        "in the data folder) or dynamodb:TABLE. As BLOOMWEAVER_REGISTRY_URL by default.",
    )
    idempotency_hours: float = Field(
        24.0, gt=0, description="Answers to requests with an Idempotency-Key are kept for so long."
    )
    cors_origins: list[Origin] = Field(
        default_factory=list,
        description="Sites whose pages may call the webhook from a browser, as JSON: "
        '["https://app.example"], or ["*"] for all. On an open loopback those that are named are '
        "let in without a key.",
    )
    sources_file: Path = Field(
        Path("sources.yaml"),
        description="Which systems' webhooks become changes, and how (docs/sources.md). Read again "
        "when it changes; there need be none.",
    )
    keys_url: str = Field(
        default_factory=_default_keys_url,
        description="Where API keys are kept: sqlite: (access.sqlite in the data folder) or "
        "dynamodb:TABLE (the registry's own will do). As BLOOMWEAVER_REGISTRY_URL by default.",
    )
    audit_url: str = Field(
        default_factory=_default_audit_url,
        description="Who did what is written down here (docs/audit.md): sqlite: (audit.sqlite in "
        "the data folder), postgresql://USER:PASSWORD@HOST/DATABASE (for fleets; extra "
        "`postgres`), or none:. sqlite: by default where the registry is.",
    )
    audit_key: SecretStr | None = Field(
        None,
        description="Makes the audit trail's chain one that only who knows it can continue; keep "
        "it as long as the entries.",
    )
    audit_retention_days: float = Field(
        2557.0, gt=0, description="Older entries of the audit trail are dropped; 7 years."
    )

    chunk_target_tokens: int = Field(256, ge=16, description="Size chunks are packed to.")
    chunk_max_tokens: int = Field(
        512, ge=32, description="Never exceeded; capped by the model's window."
    )

    max_body_bytes: int = Field(64 * MEBIBYTE, description="A JSON request's body.")
    max_unverified_bytes: int = Field(
        64 * MEBIBYTE,
        ge=MEBIBYTE,
        description="Memory for signed deliveries to sources that are being read and not verified "
        "yet, all together; further ones are answered with 503. One may have a quarter of it.",
    )
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
        description="Waiting work beyond which changes are answered with 503 (deletes, and changes "
        "of namespaces of which hardly anything waits, at twice that); 0: no limit.",
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
    limit_requests_per_second: float = Field(
        1000.0,
        ge=0,
        description="Of each API key, person and source, beyond which they are answered with 429. "
        "0: no limit. Each process counts for itself (docs/access.md).",
    )
    limit_changes_per_second: float = Field(
        5000.0, ge=0, description="The same for changes; feeds are slowed down instead."
    )
    limit_bytes_per_second: float = Field(
        100.0 * MEBIBYTE, ge=0, description="The same for the content of changes, and for feeds."
    )
    limit_burst_seconds: float = Field(
        10.0, gt=0, description="What was not used of them for so long may be used at once."
    )
    limit_failed_logins_per_minute: float = Field(
        60.0,
        ge=0,
        description="Wrong keys and tokens from one address, after 20 at once; 0: no limit.",
    )
    namespace_quotas: dict[str, NamespaceQuota] = Field(
        default_factory=dict,
        description="What namespaces may hold, as JSON, the first that matches counts: "
        '{"team-a": {"documents": 100000, "chunks": 2000000, "bytes": 10000000000}, '
        '"*": {"documents": 1000}}.',
    )
    max_namespaces: int = Field(
        default_factory=_default_namespaces,
        ge=0,
        description="The first change of one more is answered with 403; 0: no limit. 1,000 with "
        "the embedded index, else 0.",
    )
    max_connections: int = Field(
        800,
        ge=0,
        description="Connections to the webhook at once, below the 1,024 files that a process may "
        "usually open; further ones are answered with 503. 0: no limit.",
    )
    max_connections_per_address: int = Field(
        200,
        ge=0,
        description="Of them from one address (of IPv6: one /64), this machine's own aside. Behind "
        "a proxy on another machine all share its address. 0: no limit.",
    )
    max_waiting_per_principal: int = Field(
        100,
        ge=0,
        description="Feeds and waiting requests of one API key or person at once, beyond which "
        "they are answered with 429; 0: no limit.",
    )
    connection_idle_seconds: float = Field(
        75.0,
        gt=0,
        description="A connection without a whole request's head is closed after so long; more "
        "than what a load balancer in front keeps them for.",
    )
    feed_idle_seconds: float = Field(
        60.0,
        ge=0,
        description="A feed of which nothing comes for so long is ended; 0: never.",
    )
    query_cache_entries: int = Field(
        1000,
        ge=0,
        description="Queries whose vectors, and whose answers from the embedded index, are kept "
        "until a write could change them (2 and 32 MB at most); 0: none.",
    )

    visibility_timeout_seconds: float = Field(
        default_factory=_default_visibility_seconds,
        gt=0,
        description="Renewed every third of it. 300 on SQS, 30 elsewhere.",
    )
    max_receives: int = Field(3, ge=1, description="Deliveries before a message is dead-lettered.")
    document_timeout_seconds: float = Field(
        7200.0, gt=0, description="A document that takes longer to read and embed is FAILED."
    )
    embed_concurrency: int = Field(
        default_factory=_on_sqs(4, 30),
        ge=1,
        description="Documents one embedding worker has in hand. 30 on SQS; 4 elsewhere, and as "
        "many again of other namespaces, one of each.",
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
    intake_concurrency: int = Field(
        4,
        ge=1,
        description="Files of the landing zone an intake has in hand; as many again while it "
        "looks for what no notification told of.",
    )
    intake_listing_interval_seconds: float = Field(
        900.0,
        ge=0,
        description="How often an intake looks for files in the landing zone that no notification "
        "told of, at its start first; 0: never.",
    )
    intake_listing_age_seconds: float = Field(
        900.0, ge=0, description="Only files that lie there for so long count as not told of."
    )
    apply_concurrency: int = Field(
        default_factory=_on_sqs(8, 30),
        ge=1,
        description="Documents each apply consumer has in hand. 30 on SQS, 8 elsewhere.",
    )
    drain_timeout_seconds: float = Field(
        25.0, gt=0, description="Work in hand may take this long at SIGTERM."
    )
    ec2_notices: Literal["auto", "on", "off"] = Field(
        "auto",
        description="An embedding worker on EC2 drains when its instance is about to be "
        "interrupted or terminated. auto: where there is a metadata service; on: wait for it.",
    )
    scale_in_protection: Literal["auto", "on", "off"] = Field(
        "auto",
        description="An embedding worker with documents in hand keeps its Auto Scaling group, if "
        "it is in one, from choosing its instance.",
    )
    lifecycle_hook_name: str = Field(
        "",
        description="Of the Auto Scaling group, for instances that terminate: completed once the "
        "worker has drained.",
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
    workers_min: int = Field(POLICY.workers_min, ge=0)
    workers_max: int = Field(
        default_factory=_default_workers,
        ge=1,
        description="Embedding workers at most. By default their lanes take every core once; "
        "1 with device cuda.",
    )
    worker_idle_seconds: float = Field(
        POLICY.worker_idle_seconds, ge=0, description="Idle time after which workers stop."
    )
    backlog_per_worker: int = Field(
        POLICY.backlog_per_worker,
        ge=1,
        description="Waiting messages that justify one more worker.",
    )

    serve_host: str = Field("127.0.0.1", description="Address `worker serve` listens on.")
    serve_port: int = Field(8090, ge=0, le=65535, description="Its port; 0 picks a free one.")
    serve_queue: bool = Field(
        True, description="Whether `worker serve` also works the change queue, as `worker embed`."
    )
    serve_max_waiting: int = Field(
        32, ge=1, description="Requests in hand beyond which `worker serve` answers with 429."
    )
    serve_max_inputs: int = Field(2048, ge=1, description="Texts in one request of its.")
    serve_max_body_bytes: int = Field(8 * MEBIBYTE, ge=1, description="A request's body.")

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

    start_checks: bool = Field(
        True,
        description="Before it starts, a role makes one real call to each service it is set to "
        "use, and ends with a line that says what is wrong.",
    )
    check_timeout_seconds: float = Field(
        10.0, gt=0, description="Deadline of one such call, and of one of `doctor`'s."
    )

    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def model_folder(self) -> Path:
        """Absolute, whether it exists or not."""
        return (self.model_cache_dir or self.data_dir / "run" / "models").absolute()
