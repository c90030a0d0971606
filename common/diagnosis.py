"""What `bloomweaver doctor` looks at: everything the settings name, each with a real call.

Nothing is created: a data folder that is not there yet stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from common.checks import Check, Finding, Verdict, checked, readable, variable_of
from common.composition import connect
from common.door import needs_a_key, no_key, require_a_key_if_needed
from common.model import EmbeddingProfile, QueueName
from common.oidc_issuers import OidcIssuer
from common.ports.blobs import BlobStore
from common.ports.embedder import Embedder, ModelUnavailableError, Passage
from common.ports.errors import PermanentError, PortError, TransientError
from common.ports.index import Index, IndexUnavailableError
from common.ports.queue import Queue
from common.ports.registry import Registry
from common.ports.vectors import VectorCache
from common.secret_environment import PROCESS, SecretRead
from common.secrets import without_secrets
from common.settings import Settings
from common.storage.data_folder import DataFolder, DataFolderError, DataFolderInUseError
from common.storage.free_space import free_bytes_beside
from common.variants import own_variant, variants_of
from common.where_kept import EMBEDDED, scheme_of

AWS = frozenset({"sqs", "dynamodb", "s3"})
ADAPTERS = ("queue", "registry", "blobs", "vectors", "index", "landing", "keys", "audit")
PROFILE_ONLY = "profile"
NOTED_SKEW_SECONDS = 30.0
WRONG_SKEW_SECONDS = 240.0
"""AWS refuses signatures of five minutes before or after its own time."""
SENTENCE = "Retrieval finds the passages that answer a question."
MODEL_PATIENCE = 6
WEBHOOK_PATIENCE = 3
WEBHOOK_LATE = "as a function it loads its model first: ask again, or give it a --timeout"
MODEL_LATE = "a model that is downloaded for the first time takes longer: give it a --timeout"
PREFIX = "BLOOMWEAVER_"
NO_SETTINGS = frozenset({"BLOOMWEAVER_RECEIVER"})
"""Variables the product sets for its own children."""


def checks_of(settings: Settings) -> list[Check]:
    """In the order in which they are told; each may be carried out beside the others."""
    named = [name for name in ADAPTERS if getattr(settings, f"{name}_url")]
    schemes = {scheme_of(settings, name) for name in named}
    checks = [Check("settings", partial(_settings, os.environ))]
    if settings.secret_ids:
        checks.append(Check("secrets", partial(_secrets, PROCESS.read)))
    if schemes & EMBEDDED:
        checks.append(Check("data folder", partial(_data_folder, settings)))
    checks += [Check(name, partial(_adapter, name, settings)) for name in named]
    if "landing" in named:
        checks.append(Check("intake queue", partial(_intake_queue, settings)))
    checks += [
        Check(f"issuer {issuer.name}", partial(_issuer, issuer)) for issuer in settings.oidc_issuers
    ]
    if settings.sources_file.exists() or "sources_file" in settings.model_fields_set:
        checks.append(Check("sources", partial(_sources, settings)))
    if needs_a_key(settings):
        checks.append(Check("callers", partial(_callers, settings)))
    checks.append(Check("embedder", partial(_embedder, settings), MODEL_PATIENCE, MODEL_LATE))
    checks.append(Check("disk", partial(_disk, settings)))
    if schemes & AWS:
        checks.append(Check("clock", partial(_clock, (schemes & AWS))))
    checks.append(Check("webhook", partial(_webhook, settings), WEBHOOK_PATIENCE, WEBHOOK_LATE))
    return checks


# --- what is on this machine ---------------------------------------------------------------------


async def _settings(environment: Mapping[str, str]) -> Finding:
    unknown = unknown_variables(environment)
    if unknown:
        return Finding("settings", Verdict.NOTE, "; ".join(unknown))
    given = sum(name.startswith(PREFIX) for name in environment)
    return Finding("settings", Verdict.FINE, f"{given} given, the others at their defaults")


async def _secrets(read: Sequence[SecretRead]) -> str:
    """Whoever made the settings has read them before."""
    return "; ".join(map(_told, read)) or "none were read"


def _told(read: SecretRead) -> str:
    kept = f" (the environment itself has {', '.join(read.kept)})" if read.kept else ""
    return f"{read.secret_id}: {', '.join(read.placed) or 'nothing new'}{kept}"


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A misspelt setting would go unnoticed: it just is not one."""
    known = {name.upper() for name in Settings.model_fields}
    lines = []
    for variable in sorted(environment):
        name = variable.upper().removeprefix(PREFIX)
        if name == variable.upper() or name in known or variable in NO_SETTINGS:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": is it {PREFIX}{near[0]}?" if near else "; `bloomweaver settings` lists them all"
        lines.append(f"{variable} is no setting{hint}")
    return lines


async def _data_folder(settings: Settings) -> Finding:
    return await asyncio.to_thread(_data_folder_found, settings.data_dir.absolute())


def _data_folder_found(path: Path) -> Finding:
    """Raises DataFolderError."""
    if is_data_folder(path):
        DataFolder(path)
    elif path.is_dir() and any(path.iterdir()):
        raise DataFolderError(
            f"{path} is not empty and no data folder: set BLOOMWEAVER_DATA_DIR to another one"
        )
    above = next(p for p in (path, *path.parents) if p.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise DataFolderError(
            f"{above} may not be written by this user: give it to the user, or set "
            "BLOOMWEAVER_DATA_DIR to a folder that is"
        )
    if is_data_folder(path):
        return Finding("data folder", Verdict.FINE, str(path))
    line = f"{path} is not there yet: the first `bloomweaver up` makes it"
    return Finding("data folder", Verdict.NOTE, line)


def is_data_folder(path: Path) -> bool:
    return (path / "FORMAT").exists()


async def _sources(settings: Settings) -> Finding:
    return await asyncio.to_thread(_sources_found, settings)


def _sources_found(settings: Settings) -> Finding:
    """As the webhook reads them, secrets included. Raises PermanentError with every mistake."""
    if not settings.sources_file.exists():
        line = f"{settings.sources_file} is not there, so there are none (BLOOMWEAVER_SOURCES_FILE)"
        return Finding("sources", Verdict.NOTE, line)
    for entry in entry_points(group="bloomweaver.offline", name="sources"):
        commands = entry.load()(settings)
        names = [source["name"] for source in commands.sources()]
        if remarks := commands.remarks():
            return Finding("sources", Verdict.NOTE, "; ".join(remarks))
        told = f": {', '.join(names)}" if names else ""
        return Finding("sources", Verdict.FINE, f"{_counted(len(names), 'source')}{told}")
    raise PermanentError(
        "this installation knows no sources; install it again with `pip install -e .`"
    )


async def _disk(settings: Settings) -> Finding:
    return disk_finding(await free_bytes_beside(settings.data_dir), settings.min_free_disk_bytes)


def disk_finding(free: int, least: int) -> Finding:
    """`least` free bytes are needed for changes to be accepted (0: no limit)."""
    line = f"{free / 2**30:,.1f} GiB free"
    if free < least:
        mend = "make room, or lower BLOOMWEAVER_MIN_FREE_DISK_BYTES"
        line += f", less than the {least / 2**30:,.2f} below which changes are refused: {mend}"
        return Finding("disk", Verdict.WRONG, line)
    if free < 4 * least:
        return Finding("disk", Verdict.NOTE, f"{line}; changes are refused below {least:,} bytes")
    return Finding("disk", Verdict.FINE, line)


async def _embedder(settings: Settings) -> str:
    """Loads the model and embeds a sentence with it, unless this process is not to embed."""
    with _model_folder(settings) as placed:
        url = own_variant(settings).embedder_url
        embedder: Embedder = connect("embedder", url, placed, "doctor")
        try:
            return await _embedded(embedder, url.partition(":")[0])
        finally:
            await embedder.close()


async def _embedded(embedder: Embedder, scheme: str) -> str:
    profile = await asyncio.to_thread(lambda: embedder.profile)
    if scheme == PROFILE_ONLY:
        known = f"knows the profile of {profile.model} ({profile.dimension} dimensions)"
        return f"{known}, and cannot embed: others do"
    began = time.monotonic()
    (vector,) = await embedder.embed_documents([Passage(SENTENCE)])
    if len(vector) != profile.dimension:
        raise ModelUnavailableError(
            f"{profile.model} gives vectors of {len(vector)} dimensions, and its profile says "
            f"{profile.dimension}"
        )
    took = time.monotonic() - began
    return f"{profile.model}: {len(vector)} dimensions, loaded and tried in {took:.1f} s"


@contextlib.contextmanager
def _model_folder(settings: Settings) -> Iterator[Settings]:
    """What assembling a model leaves must not make half a data folder."""
    if settings.model_cache_dir or is_data_folder(settings.data_dir):
        yield settings
        return
    with TemporaryDirectory(prefix="bloomweaver-") as folder:
        yield settings.model_copy(update={"model_cache_dir": Path(folder)})


# --- adapters ------------------------------------------------------------------------------------


async def _adapter(name: str, settings: Settings) -> str | Finding:
    if scheme_of(settings, name) not in EMBEDDED:
        return await _tried(name, settings)
    if not is_data_folder(settings.data_dir):
        return Finding(name, Verdict.NOTE, "in the data folder, which is not there yet")
    if name == "index":
        return await _owned_index(settings)
    return await _tried(name, settings)


async def _owned_index(settings: Settings) -> str | Finding:
    """The embedded index lives in one process: in this one for a moment, if in no other."""
    try:
        with DataFolder(settings.data_dir).own():
            return await _tried("index", settings)
    except (DataFolderInUseError, IndexUnavailableError):
        return "in use by `bloomweaver up`, which owns it"


async def _tried(name: str, settings: Settings) -> str | Finding:
    url = getattr(settings, f"{name}_url")
    adapter = connect(name, url, settings, f"doctor-{os.getpid()}")
    try:
        found = await checked(name, adapter, partial(profiles_of, settings))
        if name == "registry":
            return await _registry_finding(adapter, settings, found.line)
        return found if found.line else await _light_call(name, adapter)
    finally:
        await adapter.close()


def profile_of(settings: Settings) -> EmbeddingProfile:
    """Of the configured model, of which nothing is loaded. May read files."""
    url = own_variant(settings).embedder_url
    embedder: Embedder = connect("embedder", url, settings, "doctor")
    return embedder.profile


def profiles_of(settings: Settings) -> Iterator[EmbeddingProfile]:
    """Of the configured model, and then of all variants', as `readable` says."""
    urls = [own_variant(settings).embedder_url, *(v.embedder_url for v in variants_of(settings))]
    return readable([connect("embedder", url, settings, "doctor") for url in dict.fromkeys(urls)])


async def _light_call(name: str, adapter: Any) -> str:
    line: str = await _LIGHT_CALLS[name](adapter)
    return line


async def _registry_finding(registry: Registry, settings: Settings, line: str) -> Finding:
    """With a note of namespaces that the configured model cannot add to."""
    bound = await registry.namespaces()
    line = line or _counted(len(bound), "namespace")
    with contextlib.suppress(PortError):  # what is wrong with the model is told by its own check
        ours = await asyncio.to_thread(profile_of, settings)
        others = sorted(name for name, profile in bound.items() if profile.id != ours.id)
        if others:
            kept = f"{', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
            line += (
                f", bound to another embedding profile than {ours.model}'s: {kept}; changes to "
                "them are refused under this BLOOMWEAVER_EMBEDDER_URL"
            )
            return Finding("registry", Verdict.NOTE, line)
    return Finding("registry", Verdict.FINE, line)


async def _queue(queue: Queue) -> str:
    depths = [await queue.depth(name) for name in QueueName]
    dead = await queue.dead_letter_count()
    waiting, in_hand = sum(d.waiting for d in depths), sum(d.in_flight for d in depths)
    return f"{waiting:,} waiting, {in_hand:,} in hand, {_counted(dead, 'dead letter')}"


async def _blobs(blobs: BlobStore) -> str:
    await blobs.exists("raw/doctor")
    return "can be read"


async def _vectors(vectors: VectorCache) -> str:
    await vectors.get_many("doctor", "doctor", ["0" * 64])
    return "can be read"


async def _index(index: Index) -> str:
    return _counted(len(await index.namespaces()), "namespace")


async def _landing(_: object) -> str:
    return "opened; this kind of landing zone cannot be checked"


_LIGHT_CALLS: Mapping[str, Callable[[Any], Any]] = {
    "queue": _queue,
    "blobs": _blobs,
    "vectors": _vectors,
    "index": _index,
    "landing": _landing,
}


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


async def _intake_queue(settings: Settings) -> str:
    """Where S3 tells of files in the landing zone, whatever queue the changes are in."""
    from common.aws.event_queue import SqsEventQueue

    queue = SqsEventQueue(
        settings.intake_queue_name,
        visibility_seconds=settings.visibility_timeout_seconds,
        timeout_seconds=settings.request_timeout_seconds,
    )
    try:
        return await queue.check()
    finally:
        await queue.close()


# --- over the network ----------------------------------------------------------------------------


async def _clock(schemes: frozenset[str] | set[str]) -> Finding:
    """By the Date header of any answer of the service; nothing is signed for it."""
    from common.aws.clients import shared_clients

    service = sorted(schemes)[0]
    clients = shared_clients()
    try:
        url = (await clients.client(service)).meta.endpoint_url
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            stated = answer.headers.get("Date", "")
    except (aiohttp.ClientError, PortError, OSError) as error:
        return Finding("clock", Verdict.NOTE, f"cannot be compared with AWS: {error}")
    finally:
        await clients.release()
    return clock_finding(stated, time.time())


def clock_finding(stated: str, now: float) -> Finding:
    """`stated`: an HTTP date; `now`: this machine's, in seconds since the epoch."""
    try:
        theirs = parsedate_to_datetime(stated)
    except ValueError:
        return Finding("clock", Verdict.NOTE, "cannot be compared with AWS: it states no date")
    ahead = (datetime.fromtimestamp(now, UTC) - theirs.astimezone(UTC)).total_seconds()
    line = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of AWS"
    if abs(ahead) > WRONG_SKEW_SECONDS:
        return Finding(
            "clock", Verdict.WRONG, f"{line}, which refuses such requests: set the clock"
        )
    verdict = Verdict.NOTE if abs(ahead) > NOTED_SKEW_SECONDS else Verdict.FINE
    return Finding("clock", verdict, line)


async def _issuer(issuer: OidcIssuer) -> Finding:
    """Its keys as they are fetched for people's tokens."""
    from common.oidc_keys import fetch_keys

    name = f"issuer {issuer.name}"
    found = await fetch_keys(issuer)
    offered = {algorithm for key in found.keys for algorithm in key.algorithms}
    taken = [algorithm for algorithm in issuer.algorithms if algorithm in offered]
    if not taken:
        raise PermanentError(
            f"no key at {found.url} is for {', '.join(issuer.algorithms)}: set `algorithms` in "
            f"BLOOMWEAVER_OIDC_ISSUERS, of {', '.join(sorted(offered))}"
        )
    keys = _counted(len(found.keys), "key")
    return Finding(name, Verdict.FINE, f"{keys} at {found.url}, for {', '.join(taken)}")


async def _callers(settings: Settings) -> str:
    """Raises ConfigurationError where the webhook would not start."""
    if scheme_of(settings, "keys") in EMBEDDED and not is_data_folder(settings.data_dir):
        raise no_key(settings.host)
    await require_a_key_if_needed(settings, receiver=f"doctor-{os.getpid()}")
    return f"on {settings.host} everybody is asked for an API key"


async def _webhook(settings: Settings) -> Finding:
    url = settings.url.rstrip("/")
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
            said = await answer.json(content_type=None)
            kind, state = str(said.get("type")), said.get("status")
    except (aiohttp.ClientConnectionError, OSError):
        line = f"nothing answers at {url}: `bloomweaver up` starts it, BLOOMWEAVER_URL names it"
        return Finding("webhook", Verdict.NOTE, line)
    except (aiohttp.ClientError, ValueError, AttributeError):
        raise _not_ours(url) from None
    if state == "ready":
        return Finding("webhook", Verdict.FINE, f"ready at {url}")
    if kind.startswith("urn:bloomweaver:"):
        raise TransientError(f"runs at {url} and is not ready: {said.get('detail')}")
    raise _not_ours(url)


def _not_ours(url: str) -> PermanentError:
    return PermanentError(
        f"what answers at {url} is no BloomWeaver: set BLOOMWEAVER_URL to where it is"
    )


def setting_of(name: str, settings: Settings) -> str:
    """The variable that the check `name` is about, with its value; empty for those of no one."""
    if name not in (*ADAPTERS, "embedder"):
        return ""
    url = without_secrets(str(getattr(settings, f"{name}_url")), settings)
    return f"{variable_of(name)}={url if len(url) <= 80 else url[:79] + '…'}"
