"""`bloomweaver demo`: the whole product on a small handbook, from an empty folder to answers."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from common.cli.client import connect
from common.cli.files import scan
from common.cli.output import Output, counted
from common.cli.problems import FAILURES, CommandError, ExitCode, WrongUsageError
from common.cli.push import PushOptions, push, show_trouble
from common.cli.replay import ReplayOptions, replay
from common.cli.search import show_hits
from common.cli.service_process import ServiceProcess
from common.client.async_client import AsyncClient
from common.client.results import Stats

QUESTIONS = (
    "why does a deleted document not come back?",
    "what happens when a worker dies in the middle of its work?",
    "how do I send a very large feed of changes?",
)
HITS = 3


@dataclass(frozen=True, slots=True)
class Handbook:
    """The packaged documents, and what happened to them later."""

    documents: Path
    edits: Path


async def demo_command(data_dir: Path | None, *, keep: bool, out: Output) -> int:
    with _data_folder(data_dir, keep, out) as folder, _handbook() as handbook:
        service = ServiceProcess(folder, log=folder.with_name(f"{folder.name}.log"))
        try:
            await _show(service, handbook, out)
        except FAILURES as error:
            out.note(f"the last lines of the service's log:\n{service.last_lines()}", "dim")
            # Whatever it was, the demo failed: its service is its own business.
            raise CommandError(str(error)) from error
        finally:
            await service.kill()
    return ExitCode.DONE


async def _show(service: ServiceProcess, handbook: Handbook, out: Output) -> None:
    began = time.monotonic()
    url = await service.start()
    out.say(f"service started at {url} in {time.monotonic() - began:.1f} s")
    async with connect(url) as client:
        working = time.monotonic()
        await _push(client, handbook, out)
        await _replay(client, handbook, out)
        stats = await client.stats()
        seconds = time.monotonic() - working
        _require_applied(stats)
        for question in QUESTIONS:
            out.say(f"\n? {question}", "bold")
            show_hits(await client.search(question, top_k=HITS), out)
        _show_numbers(stats, seconds, out)
    await service.stop()
    out.say("stopped cleanly", "green")


async def _push(client: AsyncClient, handbook: Handbook, out: Output) -> None:
    out.say("\npush: a handbook, as a folder of Markdown", "bold")
    paths = [str(handbook.documents)]
    pushed = await push(client, scan(paths), PushOptions(paths=paths), out)
    if pushed.exit_code or not pushed.applied:
        show_trouble(pushed.delivery, pushed.failures, out)
        raise CommandError("the handbook could not be pushed")
    out.say(f"{counted(pushed.applied, 'document')} applied in {pushed.seconds:.1f} s")


async def _replay(client: AsyncClient, handbook: Handbook, out: Output) -> None:
    out.say("\nreplay: its later edits and deletions", "bold")
    replayed = await replay(client, ReplayOptions(path=handbook.edits), out)
    if replayed.exit_code:
        show_trouble(replayed.delivery, replayed.failures, out, numbered=True)
        raise CommandError("the edits could not be replayed")
    out.say(
        f"{counted(replayed.delivery.answered, 'change')}: "
        f"{counted(replayed.applied or 0, 'document')} applied in {replayed.seconds:.1f} s"
    )


def _require_applied(stats: Stats) -> None:
    """The registry's own word, over all documents."""
    for item in stats.namespaces:
        counts = item.documents
        behind = {s: n for s in ("PENDING", "PROCESSING", "FAILED") if (n := counts.get(s))}
        if behind:
            raise CommandError(f"not every document is applied: {behind}")


def _show_numbers(stats: Stats, seconds: float, out: Output) -> None:
    documents = sum(item.documents.get("COMPLETED", 0) for item in stats.namespaces)
    chunks = sum(item.chunks for item in stats.namespaces)
    totals, workers = stats.totals, stats.workers
    out.say("\nwhat it did", "bold")
    out.say(f"{counted(documents, 'document')} alive, {counted(chunks, 'chunk')} in the index")
    out.say(
        f"{counted(int(totals['chunks_embedded']), 'chunk')} embedded, "
        f"{int(totals['chunks_reused']):,} reused from earlier versions"
    )
    out.say(f"{seconds:.1f} s, {counted(workers.peak if workers else 0, 'worker')} used at most")


@contextmanager
def _handbook() -> Iterator[Handbook]:
    with as_file(files("common.demo")) as folder:
        yield Handbook(folder / "documents", folder / "edits.jsonl")


@contextmanager
def _data_folder(given: Path | None, keep: bool, out: Output) -> Iterator[Path]:
    """An empty folder, its log beside it; both are removed afterwards."""
    if given is not None and given.exists() and (not given.is_dir() or any(given.iterdir())):
        raise WrongUsageError(f"{given} is not an empty folder; the demo begins from nothing")
    temporary = None
    if given is None:
        temporary = Path(tempfile.mkdtemp(prefix="bloomweaver-demo-"))
    folder = temporary / "data" if temporary else (given or Path()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if keep:
            out.say(f"kept: bloomweaver up --data-dir {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)
            if temporary:
                shutil.rmtree(temporary, ignore_errors=True)
