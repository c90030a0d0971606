"""`bloomweaver audit`: who did what, and whether the trail is as it was written. Works on the trail
itself, also while services append to it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.cli import options
from common.cli.audit_trail import open_trail
from common.cli.output import Output, counted, run, time_of
from common.cli.problems import JSON, ExitCode, WrongUsageError

if TYPE_CHECKING:
    from common.audit import Verification, Wrong
    from common.ports.audit import AuditEntry, AuditQuery, ChainEnd
    from common.settings import Settings

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_PAGE = 1000

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=(
        "The audit trail: who did what to which document, from where, with which result.\n\n"
        "The entries form a chain of hashes. `verify` finds the first that was edited, removed or "
        "put in; keep what `head` prints elsewhere, and `verify --head` also finds a trail that "
        "was cut off or written anew. The commands work on the store that BLOOMWEAVER_AUDIT_URL "
        "names."
    ),
)


@app.command("list")
def list_entries(
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", show_default=False, help="Only of this one.")
    ] = None,
    document: Annotated[
        str | None, typer.Option("--document", show_default=False, help="Only of this document.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            show_default=False, help="2026-01-31T09:05:00Z, or as long ago as 90m, 24h, 7d."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Show at most so many.", min=1)] = 100,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """List entries, the newest first.

    **Example:** `bloomweaver audit list --namespace wiki --document handbook/a.md`
    """
    out = Output(as_json=as_json)

    async def listed() -> int:
        from common.ports.audit import AuditQuery

        wanted = AuditQuery(namespace=namespace, document_id=document, since=_since(since))
        return await list_command(wanted, limit, _settings(data_dir), out)

    run(listed)


@app.command()
def verify(
    *,
    head: Annotated[
        str | None,
        typer.Option(
            show_default=False, metavar="SEQ:HASH", help="What `audit head` printed before."
        ),
    ] = None,
    keyed_from: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="SEQ",
            show_default=False,
            help="The first entry that was made with BLOOMWEAVER_AUDIT_KEY, if it was set later.",
        ),
    ] = 0,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Compute the whole chain again, and name the first entry that is not as it was written.

    Without BLOOMWEAVER_AUDIT_KEY and without --head it finds mistakes, and changes by somebody who
    does not know the chain: who can write the store can also compute a chain of their own.

    Exit code 0 when the chain is whole, 1 when it is not.

    **Example:** `bloomweaver audit verify --head "$(cat kept-head)"`
    """
    out = Output(as_json=as_json)

    async def verified() -> int:
        return await verify_command(_head(head), keyed_from, _settings(data_dir), out)

    run(verified)


@app.command("head")
def print_head(data_dir: options.DataDir = None, as_json: options.Json = False) -> None:
    """Print the last entry's number and hash, to be kept where who can write the trail cannot.

    **Example:** `bloomweaver audit head >> heads-kept-elsewhere`
    """
    out = Output(as_json=as_json)
    run(lambda: head_command(_settings(data_dir), out))


def _settings(data_dir: Path | None) -> Settings:
    """Raises WrongUsageError; nothing is made where there is no trail yet."""
    from common.cli.configuration import load_settings

    settings = load_settings({"data_dir": data_dir})
    if settings.audit_url.startswith("sqlite:") and not (settings.data_dir / "FORMAT").exists():
        raise WrongUsageError(f"{settings.data_dir.absolute()} is not a data folder")
    return settings


def _head(text: str | None) -> ChainEnd | None:
    from common.audit import parse_head

    try:
        return None if text is None else parse_head(text)
    except ValueError as error:
        raise WrongUsageError(f"--head: {error}") from None


def _since(text: str | None) -> float | None:
    """Seconds since the epoch. Raises WrongUsageError."""
    from common.audit import moment_of
    from common.clock import system_clock

    if text is None:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return system_clock() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        return moment_of(text.strip())
    except (ValueError, OverflowError) as error:
        raise WrongUsageError(f"--since: {error}") from None


# --- what is done --------------------------------------------------------------------------------


async def list_command(wanted: AuditQuery, limit: int, settings: Settings, out: Output) -> int:
    from common.audit import millis
    from common.ports.audit import AuditPlace

    entries: list[AuditEntry] = []
    before: AuditPlace | None = None
    async with open_trail(settings) as trail:
        while len(entries) <= limit:
            size = min(limit + 1 - len(entries), _PAGE)
            page = await trail.page(wanted, limit=size, before=before)
            entries += page
            if len(page) < size:
                break
            before = AuditPlace(millis(page[-1].event.at), page[-1].hash)
    shown = entries[:limit]
    out.json({"entries": [_as_json(entry) for entry in shown], "more": len(entries) > limit})
    for entry in shown:
        _show(entry, out)
    if not shown:
        out.say("no entries")
    if len(entries) > limit:
        out.note(f"more than {limit}; see them with --limit")
    return ExitCode.DONE


async def verify_command(
    kept: ChainEnd | None, keyed_from: int, settings: Settings, out: Output
) -> int:
    from common.audit_verification import verify as verify_trail

    secret = settings.audit_key
    key = secret.get_secret_value().encode() if secret else None
    async with open_trail(settings) as trail:
        done, wrong = await verify_trail(trail, key=key, kept=kept, keyed_from=keyed_from)
    out.json(_verdict(done, wrong))
    if wrong is not None:
        out.say(f"{wrong.fault}: {wrong.detail}", "bold red")
        return ExitCode.FAILED
    out.say(f"{counted(done.count, 'entry').replace('entrys', 'entries')} verified", "green")
    if done.anchor.sequence:
        out.say(f"entries up to {done.anchor.sequence} were dropped for their age")
    out.say(f"head {done.last}")
    if kept is None and key is None:
        out.note("compared with nothing: without --head and BLOOMWEAVER_AUDIT_KEY a trail that was "
                 "cut off or written anew passes, too")  # fmt: skip
    return ExitCode.DONE


async def head_command(settings: Settings, out: Output) -> int:
    async with open_trail(settings) as trail:
        head = await trail.head()
    out.json({"sequence": head.sequence, "hash": head.hash})
    out.say(str(head))
    return ExitCode.DONE


# --- what is told --------------------------------------------------------------------------------


def _verdict(done: Verification, wrong: Wrong | None) -> JSON:
    if wrong is not None:
        told = {"sequence": wrong.sequence, "fault": wrong.fault.value, "detail": wrong.detail}
        return {"whole": False, "wrong": told}
    head = {"sequence": done.last.sequence, "hash": done.last.hash}
    return {
        "whole": True, "entries": done.count, "dropped": done.anchor.sequence, "head": head,
    }  # fmt: skip


def _as_json(entry: AuditEntry) -> JSON:
    event = entry.event
    return {
        "sequence": entry.sequence,
        "at": _iso(event.at),
        "principal": event.principal,
        "action": event.action,
        "namespace": event.namespace,
        "document_id": event.document_id,
        "subject": event.subject,
        "result": event.result,
        "version": event.version,
        "count": event.count,
        "address": event.address,
        "request_id": event.request_id,
        "source": event.source,
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
    }


def _iso(seconds: float) -> str | None:
    """None for a time that no calendar has: somebody has edited it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _show(entry: AuditEntry, out: Output) -> None:
    event = entry.event
    what = event.document_id and f"{event.namespace}: {event.document_id}"
    words = [event.action, what or event.namespace, event.subject]
    times = f" ×{event.count}" if event.count != 1 else ""
    version = f" version {event.version}" if event.version else ""
    title = f"{entry.sequence}  {' '.join(filter(None, words))}"
    out.say(f"{title}  {event.result}{version}{times}", "bold")
    who = event.principal or "nobody known"
    where = f" from {event.address}" if event.address else ""
    request = f", request {event.request_id}" if event.request_id else ""
    out.say(f"  {time_of(_iso(event.at))}, {who}{where}{request}")
