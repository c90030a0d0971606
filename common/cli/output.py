"""What commands print, and the one place where they end.

People read stdout as text and tables; with `--json`, stdout holds JSON and nothing else.
Progress and errors always go to stderr.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from common.cli.problems import FAILURES, ExitCode, WrongUsageError, exit_code_of

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table


class Output:
    """One command's stdout and stderr."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    def say(self, text: str, style: str = "") -> None:
        """A line for people; nothing under --json."""
        if not self.as_json:
            self.out.print(Text(plain(text), style=style), soft_wrap=True)

    def table(self, table: Table) -> None:
        if not self.as_json:
            self.out.print(table)

    def note(self, text: str, style: str = "") -> None:
        """A line beside the result: on stderr, in both modes."""
        self.err.print(Text(plain(text), style=style), soft_wrap=True)

    def json(self, value: object) -> None:
        """One JSON document on one line; nothing without --json."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()

    def progress(self, *, in_bytes: bool = False) -> Progress:
        """A progress display on stderr. Elsewhere than on a terminal it prints its end only."""
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        count = DownloadColumn() if in_bytes else MofNCompleteColumn()
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            count,
            TimeElapsedColumn(),
            console=self.err,
        )


def plain(text: str) -> str:
    """Without control characters: what a document says must not drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def shorten(text: str, width: int) -> str:
    """On one line, at most `width` characters."""
    line = " ".join(plain(text).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def time_of(moment: datetime | str | None) -> str:
    """The API's time for people, to the second: `2026-01-31 09:05:00 UTC`."""
    if moment is None:
        return "an unknown time"
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def counted(number: int, noun: str) -> str:
    """`1 document`, `2 documents`, `1,200 documents`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def run(
    main: Callable[[], Coroutine[Any, Any, int]], *, interrupted: ExitCode = ExitCode.INTERRUPTED
) -> None:
    """Run a command to its end and leave with its exit code. Ctrl-C is an end like any other."""
    run_plain(lambda: asyncio.run(main()), interrupted=interrupted)


def run_plain(main: Callable[[], int], *, interrupted: ExitCode = ExitCode.INTERRUPTED) -> None:
    """As `run`, for what owns its event loop or needs none."""
    try:
        code = main()
    except KeyboardInterrupt:
        code = interrupted
    except FAILURES as error:
        Console(stderr=True, highlight=False).print(
            Text.assemble(("error: ", "bold red"), plain(_with_notes(error))), soft_wrap=True
        )
        code = exit_code_of(error)
    raise typer.Exit(int(code))


def _with_notes(error: BaseException) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", [])])


def service_url(url: str | None) -> str:
    """The --url option, or the setting (BLOOMWEAVER_URL, .env). Raises WrongUsageError."""
    if url is None:
        from common.cli.configuration import load_settings

        url = load_settings({}).url
    if not url.startswith(("http://", "https://")):
        raise WrongUsageError(f"the service's address must begin with http:// or https://: {url}")
    return url.rstrip("/")
