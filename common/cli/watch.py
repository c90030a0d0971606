"""`bloomweaver watch`: push once, then send every change of the files as it happens.

An event is a wake-up only. What changed is found by looking at the files again, so that moved
folders, coalesced and lost events need no special case.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path

from watchfiles import awatch

from common.cli.client import connect
from common.cli.files import Scan, as_prefix, scan
from common.cli.output import Output
from common.cli.plan import Plan
from common.cli.problems import FAILURES, CommandError, ExitCode, WrongUsageError
from common.cli.push import (
    Pushed,
    PushOptions,
    find,
    patience,
    push,
    show_left_out,
    show_pushed,
    show_trouble,
)
from common.cli.sending import Delivery, Sender
from common.client.async_client import AsyncClient
from common.client.errors import is_passing

LOOK_AGAIN_MS = 2000
"""After so long without an event, what could not be sent is tried again."""
APPLIED_WITHIN_SECONDS = 60.0

Signature = tuple[str, int, int]
"""Path, time of change and size: what tells that a file is another one now."""


@dataclass(slots=True)
class Watched:
    """The files as they were when they were last sent."""

    options: PushOptions
    folders: frozenset[str]
    """Those of the paths that are folders."""
    signatures: dict[str, Signature] = field(default_factory=dict)
    unnameable: dict[str, str] = field(default_factory=dict)
    """Files that were told of: looking again does not mend a name."""

    @classmethod
    def of(cls, options: PushOptions) -> Watched:
        """Raises WrongUsageError for a path that is not there."""
        for path in options.paths:
            if not Path(path).exists():
                raise WrongUsageError(f"no such file or folder: {path}")
        return cls(options, frozenset(path for path in options.paths if Path(path).is_dir()))

    @property
    def roots(self) -> list[str]:
        """What to watch. A file is watched through its folder: editors replace files, and the
        replacement would not be seen."""
        files = (path for path in self.options.paths if path not in self.folders)
        return sorted(self.folders | {str(Path(path).parent) for path in files})

    def look(self) -> tuple[Scan, dict[str, Signature]]:
        """The files now, and their signatures. Raises CommandError when a folder is gone: an
        unmounted disk must not delete its documents."""
        gone = [folder for folder in self.folders if not Path(folder).is_dir()]
        if gone:
            raise CommandError(f"the folder {gone[0]} is gone; its documents are kept")
        present = [path for path in self.options.paths if Path(path).exists()]
        found = scan(present, as_prefix(self.options.prefix))
        return found, {i: s for i, file in found.files.items() if (s := _signature(file.path))}

    def difference(self, found: Scan, now: dict[str, Signature]) -> Plan:
        """What to send so that the service has the files as they are now."""
        plan = Plan(self.options.namespace, self.options.metadata)
        for document_id, signature in now.items():
            # An update also makes what is new, and keeps the metadata of what came back.
            if self.signatures.get(document_id) != signature:
                plan.change.append(found.files[document_id])
        plan.delete = sorted(self.signatures.keys() - found.files.keys())
        return plan


def _signature(path: Path) -> Signature | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return str(path), stat.st_mtime_ns, stat.st_size


async def watch_command(url: str, options: PushOptions, debounce_ms: int, out: Output) -> int:
    """Runs until it is cancelled."""
    watched = Watched.of(options)
    async with connect(url) as client:
        # Signatures first: what changes during the push differs from them afterwards.
        found, watched.signatures = watched.look()
        watched.unnameable = found.unnameable
        pushed = await push(client, find(options), options, out)
        show_pushed(pushed, out)
        out.note("watching; Ctrl-C ends it", "dim")
        await _follow(client, watched, debounce_ms, out)
    return ExitCode.DONE


async def _follow(client: AsyncClient, watched: Watched, debounce_ms: int, out: Output) -> None:
    # A look is due without an event: files may have changed before watching began.
    behind = True
    async for changes in awatch(
        *watched.roots,
        debounce=debounce_ms,
        rust_timeout=LOOK_AGAIN_MS,
        yield_on_timeout=True,
        recursive=bool(watched.folders),
        watch_filter=None,
    ):
        if changes or behind:
            behind = not await _sent(client, watched, out)


async def _sent(client: AsyncClient, watched: Watched, out: Output) -> bool:
    """Send the difference; False if it has to be tried again."""
    try:
        found, now = watched.look()
        for name in found.unnameable.keys() - watched.unnameable.keys():
            out.note(f"cannot read {name}: {found.unnameable[name]}", "red")
        watched.unnameable = found.unnameable
        plan = watched.difference(found, now)
        if len(plan):
            await _send(client, watched, plan, out)
    except FAILURES as error:
        out.note(str(error), "red")
        return not is_passing(error)
    watched.signatures = {i: s for i, s in now.items() if i not in plan.unreadable}
    return not plan.unreadable


async def _send(client: AsyncClient, watched: Watched, plan: Plan, out: Output) -> None:
    # No patience here: the next look tries again, with the files as they are then.
    sender = Sender(client, plan.lines, patience(out, 0))
    delivery = await sender.send()
    for (_, document_id), version in delivery.versions.items():
        gone = document_id in plan.delete
        out.say(f"{'- deleted' if gone else '+ sent'} {document_id} (version {version})")
    pushed = Pushed(replace(plan), [], delivery)
    if watched.options.wait:
        await _wait(client, delivery, pushed, out)
    out.json(pushed.as_json())
    show_trouble(delivery, pushed.failures, out)
    show_left_out(plan, [], out)


async def _wait(client: AsyncClient, delivery: Delivery, pushed: Pushed, out: Output) -> None:
    """A document that takes its time must not hold up the next change."""
    waiter = client.waiter(delivery.versions, patience(out, APPLIED_WITHIN_SECONDS))
    try:
        async with asyncio.timeout(APPLIED_WITHIN_SECONDS):
            await waiter.wait()
    except TimeoutError:
        out.note(f"{waiter.total - waiter.done} still being applied", "yellow")
    pushed.failures = waiter.failures
    pushed.applied = waiter.done - len(waiter.failures)
    if pushed.applied:
        out.say(f"  {pushed.applied} applied", "dim")
