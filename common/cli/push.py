"""`bloomweaver push`: send what changed, delete what is gone, wait until it is applied."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.cli.client import connect
from common.cli.files import Scan, as_prefix, scan
from common.cli.output import Output, counted
from common.cli.plan import Metadata, Plan, make_plan
from common.cli.problems import FAILURES, JSON, ExitCode, WrongUsageError
from common.cli.sending import Delivery, Sender, Source
from common.client.async_client import AsyncClient
from common.client.patience import Patience
from common.client.waiting import Failure, Key

RETRY_SECONDS = 60.0
SHOWN_AT_MOST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """What the command line says."""

    paths: Sequence[str]
    namespace: str = "default"
    prefix: str = ""
    metadata: Metadata | None = None
    delete_missing: bool = False
    force: bool = False
    dry_run: bool = False
    wait: bool = True


@dataclass(slots=True)
class Pushed:
    """What a push did."""

    plan: Plan
    unsupported: list[Path]
    delivery: Delivery = field(default_factory=Delivery)
    failures: list[Failure] = field(default_factory=list)
    applied: int | None = None
    """None: it was not waited for."""
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        bad = self.delivery.refused or self.failures or self.plan.unreadable
        return ExitCode.FAILED if bad else ExitCode.DONE

    def as_json(self) -> JSON:
        return {
            "namespace": self.plan.namespace,
            "sent": self.delivery.answered,
            "outcomes": dict(self.delivery.outcomes),
            "unchanged": self.plan.same,
            "deleted": len(self.plan.delete),
            "applied": self.applied,
            "refused": [refusal.as_json() for refusal in self.delivery.refused],
            "failed": [failure.as_json() for failure in self.failures],
            "unreadable": self.plan.unreadable,
            "unsupported": [str(path) for path in self.unsupported],
            "seconds": round(self.seconds, 3),
        }


async def push_command(url: str, options: PushOptions, out: Output) -> int:
    """Plan, send, wait, and report."""
    found = find(options)
    async with connect(url) as client:
        if options.dry_run:
            plan = await plan_push(client, found, options)
            show_plan(plan, found, out)
            return ExitCode.FAILED if plan.unreadable else ExitCode.DONE
        pushed = await push(client, found, options, out)
    show_pushed(pushed, out)
    return pushed.exit_code


def find(options: PushOptions) -> Scan:
    """The files; refuses what would delete more than was meant."""
    if options.delete_missing:
        for path in options.paths:
            if not Path(path).is_dir():
                raise WrongUsageError(f"--delete-missing takes folders only, and {path} is none")
    found = scan(options.paths, as_prefix(options.prefix))
    if options.delete_missing and not found.files and not options.force:
        raise WrongUsageError(
            "no file was found, so --delete-missing would delete every document; "
            "add --force if that is what you want"
        )
    return found


async def plan_push(client: AsyncClient, found: Scan, options: PushOptions) -> Plan:
    return await make_plan(
        client,
        found,
        namespace=options.namespace,
        prefix=as_prefix(options.prefix),
        metadata=options.metadata,
        delete_missing=options.delete_missing,
    )


async def push(client: AsyncClient, found: Scan, options: PushOptions, out: Output) -> Pushed:
    """Send what changed and, if asked to, wait until the registry says it is applied."""
    began = time.monotonic()
    plan = await plan_push(client, found, options)
    pushed = Pushed(plan, sorted(found.unsupported.values()))
    if len(plan):
        pushed.delivery = await send(client, plan.lines, len(plan), out)
    if options.wait:
        pushed.applied, pushed.failures = await wait_applied(client, pushed.delivery.versions, out)
    pushed.seconds = time.monotonic() - began
    return pushed


async def send(client: AsyncClient, source: Source, total: int, out: Output) -> Delivery:
    """Send with a progress bar that counts the results."""
    with out.progress() as progress:
        task = progress.add_task("sent", total=total)
        sender = Sender(
            client,
            source,
            patience(out, RETRY_SECONDS),
            on_result=lambda _line: progress.advance(task),
        )
        return await deliver(sender)


async def deliver(sender: Sender) -> Delivery:
    """Send; when it cannot be finished, the error says how far it came."""
    try:
        return await sender.send()
    except FAILURES as error:
        error.add_note(f"{counted(sender.delivery.answered, 'change')} had been answered")
        raise


async def wait_applied(
    client: AsyncClient, versions: dict[Key, int], out: Output
) -> tuple[int, list[Failure]]:
    """Wait with a progress bar. Returns how many are applied, and those that failed."""
    waiter = client.waiter(versions, patience(out, RETRY_SECONDS))
    if waiter.total:
        with out.progress() as progress:
            task = progress.add_task("applied", total=waiter.total)
            await waiter.wait(lambda done: progress.update(task, completed=done))
    return waiter.done - len(waiter.failures), waiter.failures


def patience(out: Output, seconds: float) -> Patience:
    return Patience(
        seconds, on_retry=lambda error: out.note(f"{error}; trying again for {seconds:g} s")
    )


def show_plan(plan: Plan, found: Scan, out: Output) -> None:
    out.json(
        {
            **plan.as_json(),
            "unreadable": plan.unreadable,
            "unsupported": sorted(map(str, found.unsupported.values())),
        }
    )
    for file in plan.add:
        out.say(f"+ {file.document_id}", "green")
    for file in plan.change:
        out.say(f"~ {file.document_id}", "yellow")
    for document_id in plan.delete:
        out.say(f"- {document_id}", "red")
    out.say(
        f"would add {len(plan.add)}, change {len(plan.change)}, delete {len(plan.delete)}; "
        f"{plan.same} unchanged (nothing was sent)"
    )
    show_left_out(plan, sorted(found.unsupported.values()), out)


def show_pushed(pushed: Pushed, out: Output) -> None:
    out.json(pushed.as_json())
    plan = pushed.plan
    out.say(
        f"sent {pushed.delivery.answered}: {len(plan.add)} new, {len(plan.change)} changed, "
        f"{len(plan.delete)} deleted; {plan.same} unchanged and not sent"
    )
    if pushed.applied:
        out.say(f"{counted(pushed.applied, 'document')} applied in {pushed.seconds:.1f} s")
    show_trouble(pushed.delivery, pushed.failures, out)
    show_left_out(plan, pushed.unsupported, out)


def show_trouble(
    delivery: Delivery, failures: list[Failure], out: Output, *, numbered: bool = False
) -> None:
    """Name what was refused, by line number if lines have one, and what failed; on stderr."""
    lines = [
        *(
            f"refused: {f'line {r.line}: ' if numbered else ''}{r.document_id}: {r.problem}"
            for r in delivery.refused
        ),
        *(f"FAILED: {f.document_id} (version {f.version}): {f.error}" for f in failures),
    ]
    _show_first(lines, out, "red")


def show_left_out(plan: Plan, unsupported: list[Path], out: Output) -> None:
    _show_first([f"cannot read {name}: {why}" for name, why in plan.unreadable.items()], out, "red")
    if unsupported:
        out.note(f"{counted(len(unsupported), 'file')} of no known type left out:", "yellow")
        _show_first([f"  {path}" for path in unsupported], out, "yellow")


def _show_first(lines: list[str], out: Output, style: str) -> None:
    for line in lines[:SHOWN_AT_MOST]:
        out.note(line, style)
    if len(lines) > SHOWN_AT_MOST:
        out.note(f"  … and {len(lines) - SHOWN_AT_MOST:,} more", style)
