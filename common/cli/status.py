"""`bloomweaver status`: where the service, or one document, stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from common.cli.client import connect, find_document
from common.cli.output import Output, plain, time_of
from common.cli.problems import JSON, CommandError, ExitCode, WrongUsageError
from common.client.results import Event, NamespaceCounts, Stats, Workers
from common.model import Status

EVENT_STYLES = {
    "applied": "green",
    "deleted": "green",
    "error": "yellow",
    "repaired": "yellow",
    "failed": "bold red",
}
STYLES = {"COMPLETED": "green", "FAILED": "bold red", "PROCESSING": "yellow", "PENDING": "yellow"}


async def history_command(url: str, document_id: str | None, namespace: str, out: Output) -> int:
    """What happened to the document, in the order in which it did."""
    if document_id is None:
        raise WrongUsageError("--history is of one document: name it")
    async with connect(url) as client:
        events = [event async for event in client.history(document_id, namespace=namespace)]
    events.reverse()
    told = [event.as_json() for event in events]
    out.json({"namespace": namespace, "document_id": document_id, "events": told})
    _show_history(events, out)
    if events and events[-1].event == "failed":
        name = shlex.quote(document_id)
        out.note(f"its dead letters: `bloomweaver dlq list -n {namespace} --document {name}`")
    return ExitCode.DONE


def _show_history(events: list[Event], out: Output) -> None:
    if not events:
        out.say("nothing is recorded of it")
        return
    table = Table("when (UTC)", "version", "what", "detail", box=None, pad_edge=False)
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    for event in events:
        what = event.event
        style = EVENT_STYLES.get(what, "")
        table.add_row(
            Text(time_of(event.at).removesuffix(" UTC"), style="dim"),
            Text(str(event.version), justify="right"),
            Text(plain(what.replace("_", " ")), style),
            Text(plain(event.detail), overflow="fold"),
        )
    out.table(table)


async def status_command(url: str, document_id: str | None, namespace: str, out: Output) -> int:
    async with connect(url) as client:
        if document_id is None:
            stats = await client.stats()
            out.json(stats.as_json())
            _show_stats(stats, out)
            return ExitCode.DONE
        row = await find_document(client, namespace, document_id)
    if row is None:
        raise CommandError(f"there is no document {document_id!r} in namespace {namespace!r}")
    out.json(row.as_json())
    _show_document(row.as_json(), out)
    return ExitCode.DONE


def _show_stats(stats: Stats, out: Output) -> None:
    _show_namespaces(stats.namespaces, out)
    if stats.queues is None:
        out.note("queues, workers and dead letters are told to keys that reach all namespaces")
        return
    out.say("")
    _show_queues(stats.as_json()["queues"], out)
    out.say(_workers(stats.workers))
    dead = stats.dead_letters
    hint = "; see `bloomweaver dlq list`" if dead else ""
    out.say(f"dead letters: {dead}{hint}", "bold red" if dead else "")
    out.say(f"embedding profile: {stats.embedding_profile}", "dim")


def _show_namespaces(namespaces: Sequence[NamespaceCounts], out: Output) -> None:
    if not namespaces:
        out.say("no documents yet; send some with `bloomweaver push FOLDER`")
        return
    table = Table("namespace", *Status, "chunks", "bytes", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for item in namespaces:
        counts = item.documents
        cells = [
            Text(str(counts.get(s, 0)), style=STYLES.get(s, "") if counts.get(s) else "dim")
            for s in Status
        ]
        table.add_row(plain(item.namespace), *cells, str(item.chunks), _bytes_of(item))
    out.table(table)


def _bytes_of(namespace: NamespaceCounts) -> str:
    """A service of an earlier release does not tell."""
    return "" if namespace.bytes is None else f"{namespace.bytes:,}"


def _show_queues(queues: JSON, out: Output) -> None:
    """Whatever the service says about each queue, one line each."""
    for name, queue in queues.items():
        facts = queue.items() if isinstance(queue, dict) else [("waiting", queue)]
        told = ", ".join(f"{fact.replace('_', ' ')} {_number(value)}" for fact, value in facts)
        out.say(f"queue {name}: {told}")


def _number(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _workers(workers: Workers | None) -> str:
    if workers is None:
        return "workers: none belong to this process"
    return (
        f"workers: {workers.running} running, at most {workers.maximum}, "
        f"peak {workers.peak}, {workers.started_total} started"
    )


def _show_document(row: JSON, out: Output) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _flat(row):
        style = STYLES.get(str(value), "") if name == "status" else ""
        style = "red" if name == "error" else style
        table.add_row(Text(name, style="dim"), Text(plain(str(value)), style, overflow="fold"))
    out.table(table)


def _flat(row: JSON, parents: str = "") -> Iterator[tuple[str, object]]:
    """What is said, one name each: `applied version`. Metadata stays together."""
    for name, value in row.items():
        words = f"{parents}{name.replace('_', ' ')}"
        if isinstance(value, dict) and name != "metadata":
            yield from _flat(value, f"{words} ")
        elif value not in (None, "", {}):
            yield words, value
