"""`bloomweaver dlq`: what could not be processed; sending it round again, or dropping it."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.cli import options
from common.cli.output import Output, counted, run, service_url, shorten, time_of
from common.cli.problems import JSON, ExitCode, WrongUsageError

if TYPE_CHECKING:
    from common.client.results import DeadLetter

REASON_CHARACTERS = 300
"""In the list; `show` has all of it."""
SHOWN_AS = {"sent_at": "first", "died_at": "last", "receive_count": "received"}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=(
        "Dead letters: messages that failed too often. List them, look at one, send them again "
        "or discard them."
    ),
)

MessageIds = Annotated[list[str] | None, typer.Argument(help="As `dlq list` prints them.")]
Everything = Annotated[bool, typer.Option("--all", help="All dead letters.")]
Document = Annotated[
    str | None, typer.Option("--document", show_default=False, help="Only those of this document.")
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", show_default=False, help="Only those of this namespace."),
]


@app.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(help="Show at most so many.", min=1)] = 100,
    document: Document = None,
    namespace: Namespace = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """List the dead letters: which document, how often and when it was tried, why it failed.

    **Example:** `bloomweaver dlq list`
    """
    out = Output(as_json=as_json)
    run(lambda: _list(service_url(url), limit, _filters(document, namespace), out))


@app.command()
def show(
    message_id: Annotated[str, typer.Argument(help="As `dlq list` prints it.")],
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Show all that is known about one dead letter.

    **Example:** `bloomweaver dlq show 3f2a`
    """
    out = Output(as_json=as_json)
    run(lambda: _show(service_url(url), message_id, out))


@app.command()
def redrive(
    message_ids: MessageIds = None,
    *,
    everything: Everything = False,
    document: Document = None,
    namespace: Namespace = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Send dead letters round again, after what stopped them was mended.

    Name them, or give --all, --document or --namespace. A letter that fails again comes back.
    Nothing is lost by trying.

    **Example:** `bloomweaver dlq redrive --all`
    """
    out = Output(as_json=as_json)
    filters = _filters(document, namespace)
    run(lambda: _redrive(service_url(url), _letters(message_ids, everything, filters), out))


@app.command()
def discard(
    message_ids: MessageIds = None,
    *,
    everything: Everything = False,
    document: Document = None,
    namespace: Namespace = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Remove dead letters for good, without trying again.

    Name them, or give --all, --document or --namespace, which asks first. A document whose
    letter is discarded stays FAILED, with its reason, until it is sent again or deleted.

    **Example:** `bloomweaver dlq discard --document broken.pdf`
    """
    out = Output(as_json=as_json)
    filters = _filters(document, namespace)

    def ask_and_discard() -> Coroutine[Any, Any, int]:
        letters = _letters(message_ids, everything, filters)
        if "everything" in letters and not yes:
            _confirm(filters)
        return _discard(service_url(url), letters, out)

    run(ask_and_discard)


def _filters(document: str | None, namespace: str | None) -> dict[str, str]:
    given = {"document_id": document, "namespace": namespace}
    return {name: value for name, value in given.items() if value is not None}


def _letters(message_ids: list[str] | None, everything: bool, filters: dict[str, str]) -> JSON:
    """What the client is asked to act on. Raises WrongUsageError unless it is said one way."""
    matching = everything or bool(filters)
    if matching == bool(message_ids):
        raise WrongUsageError("name messages, or give --all, --document or --namespace")
    return {"everything": True, **filters} if matching else {"message_ids": message_ids}


def _confirm(filters: dict[str, str]) -> None:
    """Where nobody can be asked, --yes has to say it."""
    which = "".join(f" of {name.removesuffix('_id')} {v!r}" for name, v in filters.items())
    if not _on_terminal():
        raise WrongUsageError("without a terminal to ask on, give --yes")
    typer.confirm(f"Discard all dead letters{which}?", abort=True, err=True)


def _on_terminal() -> bool:
    return sys.stdin.isatty()


async def _list(url: str, limit: int, filters: dict[str, str], out: Output) -> int:
    from contextlib import aclosing

    from common.cli.client import connect

    letters: list[DeadLetter] = []
    more = False
    async with connect(url) as client, aclosing(client.dead_letters(**filters)) as found:
        async for letter in found:
            more = len(letters) == limit
            if more:
                break
            letters.append(letter)
    out.json({"dead_letters": [letter.as_json() for letter in letters], "more": more})
    _show_list(letters, out)
    if more:
        out.note(f"more than {limit}; see them with --limit")
    return ExitCode.DONE


def _show_list(letters: list[DeadLetter], out: Output) -> None:
    """A few lines each: with id and times, a table of columns would not fit a terminal."""
    if not letters:
        out.say("no dead letters")
    for letter in letters:
        name = f"{letter.document_id} version {letter.version}"
        out.say(f"{letter.message_id}  {name}, namespace {letter.namespace}", "bold")
        first, last = time_of(letter.sent_at), time_of(letter.died_at)
        received = counted(letter.receive_count, "time")
        out.say(f"  received {received} from {letter.source}")
        out.say(f"  first {first}, last {last}")
        out.say(f"  {shorten(letter.reason, REASON_CHARACTERS)}", "red")


async def _show(url: str, message_id: str, out: Output) -> int:
    from common.cli.client import connect

    async with connect(url) as client:
        letter = (await client.dead_letter(message_id)).as_json()
    out.json(letter)
    times = {name: time_of(letter[name]) for name in ("sent_at", "died_at")}
    for name, value in (letter | times).items():
        out.say(f"{SHOWN_AS.get(name, name.replace('_', ' '))}: {value}")
    return ExitCode.DONE


async def _redrive(url: str, letters: JSON, out: Output) -> int:
    from common.cli.client import connect

    async with connect(url) as client:
        redriven = await client.redrive(**letters)
    out.json({"redriven": redriven})
    out.say(f"{redriven} sent again")
    return _all_found(letters, redriven, out)


async def _discard(url: str, letters: JSON, out: Output) -> int:
    from common.cli.client import connect

    async with connect(url) as client:
        discarded = await client.discard(**letters)
    out.json({"discarded": discarded})
    out.say(f"{discarded} discarded")
    return _all_found(letters, discarded, out)


def _all_found(letters: JSON, found: int, out: Output) -> ExitCode:
    missing = len(set(letters.get("message_ids", ()))) - found
    if missing > 0:
        out.note(f"{missing} of them are no dead letters", "red")
    return ExitCode.FAILED if missing > 0 else ExitCode.DONE
