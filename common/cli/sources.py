"""`bloomweaver sources`: other systems' webhooks, looked at and tried before they come."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from common.cli import options
from common.cli.output import Output, counted, run_plain
from common.cli.problems import JSON, CommandError, ExitCode, WrongUsageError
from common.ports.errors import PortError

GROUP = "bloomweaver.offline"

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=(
        "Sources: other systems' webhooks that become changes, as sources.yaml names them. List "
        "them, check the file, or try a payload. No service is asked, and nothing is changed."
    ),
)

File = Annotated[
    Path | None,
    typer.Option("--file", show_default=False, help="Else BLOOMWEAVER_SOURCES_FILE."),
]


@dataclass(frozen=True, slots=True)
class Trial:
    """Of a payload. `headers`: each `Name: value`."""

    name: str
    payload: str
    headers: tuple[str, ...]
    sign: bool
    verify: bool


@app.command("list")
def list_sources(
    file: File = None,
    presets: Annotated[
        bool, typer.Option("--presets", help="List the ready-made mappings instead.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List the sources: address, verification, namespaces.

    **Example:** `bloomweaver sources list`
    """
    out = Output(as_json=as_json)
    run_plain(lambda: _list(file, presets, out))


@app.command()
def check(file: File = None, as_json: options.Json = False) -> None:
    """Read the file as the service does, and name every mistake with its line.

    Exit code 1 when there are any.

    **Example:** `bloomweaver sources check`
    """
    out = Output(as_json=as_json)
    run_plain(lambda: _check(file, out))


@app.command()
def tokens(
    name: Annotated[str, typer.Argument(help="Of a source of the kind notion-handshake.")],
    file: File = None,
    as_json: options.Json = False,
) -> None:
    """Show the verification tokens that were sent to a source in the last day. They are secrets.

    **Example:** `bloomweaver sources tokens notes`
    """
    out = Output(as_json=as_json)
    run_plain(lambda: _tokens(name, file, out))


@app.command("test")
def try_payload(
    name: Annotated[str, typer.Argument(help="Of the source.")],
    payload: Annotated[str, typer.Argument(help="A file with the body of a delivery; - is stdin.")],
    *,
    header: Annotated[
        list[str] | None,
        typer.Option(help="`Name: value`, as the sender would send it; repeat for more."),
    ] = None,
    sign: Annotated[
        bool, typer.Option("--sign", help="Sign it with the source's secret, and verify that.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Verify it with the headers that are given.")
    ] = False,
    file: File = None,
    as_json: options.Json = False,
) -> None:
    """Show what a delivery would change, and change nothing.

    Exit code 1 when it would be refused, or one of its changes would.

    **Example:** `bloomweaver sources test wiki page.json --header "X-Event: page.updated"`
    """
    out = Output(as_json=as_json)
    trial = Trial(name, payload, tuple(header or ()), sign=sign, verify=verify)
    run_plain(lambda: _test(trial, file, out))


def _list(file: Path | None, presets: bool, out: Output) -> int:
    commands = _commands(file)
    found = commands.presets() if presets else _read(commands.sources)
    out.json(found)
    for one in found:
        out.say(_preset_line(one) if presets else _source_line(one))
    if not found:
        out.say("No sources: BLOOMWEAVER_SOURCES_FILE names none.")
    return ExitCode.DONE


def _check(file: Path | None, out: Output) -> int:
    mistakes: list[str] = _commands(file).mistakes()
    out.json({"mistakes": mistakes})
    for mistake in mistakes:
        out.say(mistake, "red")
    if not mistakes:
        out.say("Nothing is wrong.")
    return ExitCode.FAILED if mistakes else ExitCode.DONE


def _tokens(name: str, file: Path | None, out: Output) -> int:
    commands = _commands(file)
    found: list[str] = _read(lambda: commands.tokens(name))
    out.json({"source": name, "tokens": found})
    for token in found:
        out.say(token)
    if not found:
        out.say("None came in the last day.")
    return ExitCode.DONE


def _test(trial: Trial, file: Path | None, out: Output) -> int:
    commands, body = _commands(file), _body(trial.payload)
    headers = dict(map(_header, trial.headers))
    told: JSON = _read(
        lambda: commands.attempt(trial.name, body, headers, sign=trial.sign, verify=trial.verify)
    )
    out.json(told)
    _say(told, out)
    refused = "problem" in told or told["refused"]
    refused = refused or any("problem" in change for change in told["changes"])
    return ExitCode.FAILED if refused else ExitCode.DONE


def _say(told: JSON, out: Output) -> None:
    verified = {True: "verified", False: "not verified", None: "not looked at (--sign, --verify)"}
    out.say(f"Signature: {verified[told['verified']]}")
    if "problem" in told:
        out.say(f"Refused with {_words(told['problem'])}", "red")
        return
    out.say(f"Delivery id: {told['delivery_id'] or 'none: it is worked whenever it comes'}")
    if told["ignored"]:
        out.say("Ignored: the source's condition to ignore a delivery holds.")
        return
    unmatched = f", {told['unmatched']} of them matched by no rule" if told["unmatched"] else ""
    out.say(f"{counted(len(told['changes']), 'change')} of {counted(told['items'], 'item')}"
            f"{unmatched}")  # fmt: skip
    for warning in told["warnings"]:
        out.say(f"Warning: {warning}", "yellow")
    for file in told["to_be_fetched"]:
        place = file["branch"] or file["ref"]
        out.say(f"To be fetched: {file['path']} of {file['repository']} at {place}")
    for change in told["changes"]:
        shown = {name: value for name, value in change.items() if name != "problem"}
        out.say(json.dumps(shown, ensure_ascii=False, indent=2))
        if "problem" in change:
            out.say(f"This change would be refused with {_words(change['problem'])}", "red")
    for problem in told["refused"]:
        out.say(f"No change: {_words(problem)}", "red")


def _words(problem: JSON) -> str:
    where = f" ({problem['field']})" if problem.get("field") else ""
    return f"{problem['status']}: {problem['detail']}{where}"


def _source_line(source: JSON) -> str:
    words = [f"{source['name']}: POST {source['address']}", f"verified by {source['verify']}"]
    words.append(f"into {', '.join(source['namespaces'])}")
    words += [f"preset {source['preset']}"] if source["preset"] else []
    words += ["stopped"] if source["stopped"] else []
    return ", ".join(words)


def _preset_line(preset: JSON) -> str:
    return f"{preset['preset']}: {preset['description']}"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise WrongUsageError(f"a header is given as `Name: value`, not {text!r}")
    return name.strip(), value.strip()


def _body(payload: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if payload == "-" else Path(payload).read_bytes()
    except OSError as error:
        raise WrongUsageError(f"{payload} cannot be read: {error.strerror}") from error


def _read(work: Callable[[], Any]) -> Any:
    """Raises CommandError for a file with mistakes, for a name that is none, and for a store that
    is out of reach."""
    try:
        return work()
    except PortError as error:
        raise CommandError(str(error)) from error
    except TimeoutError as error:
        raise CommandError("the store of receipts does not answer") from error


def _commands(file: Path | None) -> Any:
    """Found by name: `common` does not import the packages that import it."""
    from common.cli.configuration import load_settings

    settings = load_settings({"sources_file": file})
    for entry in entry_points(group=GROUP, name="sources"):
        return entry.load()(settings)
    raise WrongUsageError(
        "this installation knows no sources; install it again with `pip install -e .`"
    )
