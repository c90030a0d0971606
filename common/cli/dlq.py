"""`bloomweaver dlq`: what could not be processed, and sending it round again."""

from __future__ import annotations

from typing import Annotated

import typer

from common.cli import options
from common.cli.output import Output, plain, run, service_url
from common.cli.problems import JSON, ExitCode, WrongUsageError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Dead letters: messages that failed too often. List them, look at one, send them again.",
)


@app.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(help="Show at most so many.", min=1)] = 100,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """List the dead letters: which document, and why it was given up.

    **Example:** `bloomweaver dlq list`
    """
    out = Output(as_json=as_json)
    run(lambda: _list(service_url(url), limit, out))


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
    message_ids: Annotated[
        list[str] | None, typer.Argument(help="As `dlq list` prints them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Send dead letters round again, after what stopped them was mended.

    A letter that fails again comes back. Nothing is lost by trying.

    **Example:** `bloomweaver dlq redrive --all`
    """
    out = Output(as_json=as_json)
    run(lambda: _redrive(service_url(url), message_ids or [], everything, out))


async def _list(url: str, limit: int, out: Output) -> int:
    from contextlib import aclosing

    from common.cli.client import Client

    letters: list[JSON] = []
    more = False
    async with Client(url) as client, aclosing(client.dead_letters()) as found:
        async for letter in found:
            more = len(letters) == limit
            if more:
                break
            letters.append(letter)
    out.json({"dead_letters": letters, "more": more})
    _show_list(letters, out)
    if more:
        out.note(f"more than {limit}; see them with --limit")
    return ExitCode.DONE


def _show_list(letters: list[JSON], out: Output) -> None:
    from rich.table import Table
    from rich.text import Text

    if not letters:
        out.say("no dead letters")
        return
    table = Table("message", "from", "document", "version", "reason", box=None, pad_edge=False)
    for letter in letters:
        cells = (
            letter["message_id"],
            letter["source"],
            letter["document_id"],
            letter["version"],
            letter["reason"],
        )
        table.add_row(*(Text(plain(str(cell)), overflow="fold") for cell in cells))
    out.table(table)


async def _show(url: str, message_id: str, out: Output) -> int:
    from common.cli.client import Client

    async with Client(url) as client:
        letter = await client.dead_letter(message_id)
    out.json(letter)
    for name, value in letter.items():
        out.say(f"{name}: {value}")
    return ExitCode.DONE


async def _redrive(url: str, message_ids: list[str], everything: bool, out: Output) -> int:
    from common.cli.client import Client

    if everything == bool(message_ids):
        raise WrongUsageError("name the messages to send again, or give --all")
    async with Client(url) as client:
        redriven = await client.redrive(None if everything else message_ids)
    out.json({"redriven": redriven})
    out.say(f"{redriven} sent again")
    missing = 0 if everything else len(set(message_ids)) - redriven
    if missing > 0:
        out.note(f"{missing} of them are no dead letters", "red")
    return ExitCode.FAILED if missing > 0 else ExitCode.DONE
