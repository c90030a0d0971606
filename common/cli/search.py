"""`bloomweaver search`: ranked hits."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from common.cli.client import connect
from common.cli.output import Output, counted, plain, shorten
from common.cli.problems import JSON, ExitCode, WrongUsageError
from common.client.results import Hit, SearchAnswer

SNIPPET_WIDTH = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What the command line says."""

    query: str
    namespace: str
    top_k: int
    where: str | None
    wait_seconds: float | None


async def search_command(url: str, options: SearchOptions, out: Output) -> int:
    where = parse_filter(options.where)
    wait = False if options.wait_seconds is None else options.wait_seconds
    async with connect(url) as client:
        answer = await client.search(
            options.query,
            namespace=options.namespace,
            top_k=options.top_k,
            filter=where,
            wait=wait,
        )
    out.json(answer.as_json())
    show_hits(answer, out)
    return ExitCode.DONE


def parse_filter(text: str | None) -> JSON | None:
    """Raises WrongUsageError unless it is absent or a JSON object."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise WrongUsageError(f"--filter is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WrongUsageError('--filter must be a JSON object, as in {"language": "en"}')
    return value


def show_hits(answer: SearchAnswer, out: Output) -> None:
    hits = answer.hits
    if not hits:
        out.say("nothing found")
        return
    table = Table("#", "score", "source and passage", box=None, pad_edge=False)
    table.columns[0].justify = "right"
    for rank, hit in enumerate(hits, 1):
        table.add_row(str(rank), f"{hit.score:.3f}", _passage(hit))
    out.table(table)
    out.say(f"{counted(len(hits), 'hit')} in {answer.took_ms:.0f} ms", "dim")


def _passage(hit: Hit) -> Text:
    """The document and the way to the passage, then how it begins."""
    path = [plain(heading) for heading in hit.heading_path]
    source = Text(plain(hit.document_id), style="bold cyan", overflow="fold")
    if path:
        source.append(f"  {' › '.join(path)}", style="not bold magenta")
    return Text.assemble(source, "\n", shorten(_body(hit.text), SNIPPET_WIDTH))


def _body(text: str) -> str:
    """Without the Markdown headings it begins with: the path has said them."""
    lines = text.strip().splitlines()
    while len(lines) > 1 and (not lines[0].strip() or lines[0].startswith("#")):
        del lines[0]
    return "\n".join(lines)
