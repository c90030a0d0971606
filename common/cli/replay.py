"""`bloomweaver replay`: send a feed of changes from its first line to its last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.cli.client import connect
from common.cli.feed import Feed
from common.cli.output import Output, counted
from common.cli.problems import JSON, ExitCode
from common.cli.push import deliver, patience, show_trouble, wait_applied
from common.cli.sending import Delivery, Sender
from common.client.async_client import AsyncClient
from common.client.waiting import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What the command line says."""

    path: Path
    namespace: str = "default"
    wait: bool = True
    limit: int | None = None
    retry_seconds: float = 60.0


@dataclass(slots=True)
class Replayed:
    """What a replay did."""

    delivery: Delivery
    failures: list[Failure] = field(default_factory=list)
    applied: int | None = None
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        bad = self.delivery.refused or self.failures
        return ExitCode.FAILED if bad else ExitCode.DONE

    def as_json(self) -> JSON:
        return {
            "lines": self.delivery.answered,
            "outcomes": dict(self.delivery.outcomes),
            "applied": self.applied,
            "refused": [refusal.as_json() for refusal in self.delivery.refused],
            "failed": [failure.as_json() for failure in self.failures],
            "seconds": round(self.seconds, 3),
        }


async def replay_command(url: str, options: ReplayOptions, out: Output) -> int:
    """Send, wait, and report."""
    async with connect(url) as client:
        replayed = await replay(client, options, out)
    show_replayed(replayed, out)
    return replayed.exit_code


async def replay(client: AsyncClient, options: ReplayOptions, out: Output) -> Replayed:
    """Raises UnreachableError at once when the service is not there at the start; once lines
    flow, it is waited for."""
    began = time.monotonic()
    with _feed(options, out) as feed:
        await client.ping()
        sender = Sender(client, feed.lines, patience(out, options.retry_seconds))
        delivery = await deliver(sender)
    delivery.refused = sorted([*delivery.refused, *feed.bad.values()], key=lambda r: r.line)
    replayed = Replayed(delivery)
    if options.wait:
        replayed.applied, replayed.failures = await wait_applied(client, delivery.versions, out)
    replayed.seconds = time.monotonic() - began
    return replayed


@contextmanager
def _feed(options: ReplayOptions, out: Output) -> Iterator[Feed]:
    """The feed, with a progress bar that follows the position in the file."""
    feed = Feed(options.path, namespace=options.namespace, limit=options.limit)
    size = feed.size_bytes
    with out.progress(in_bytes=True) as progress:
        task = progress.add_task(options.path.name, total=size)
        feed.on_position = lambda position: progress.update(task, completed=position)
        yield feed


def show_replayed(replayed: Replayed, out: Output) -> None:
    out.json(replayed.as_json())
    outcomes = [f"{number:,} {name}" for name, number in sorted(replayed.delivery.outcomes.items())]
    refused = len(replayed.delivery.refused)
    if refused:
        outcomes.append(f"{refused:,} refused")
    out.say(f"{counted(replayed.delivery.answered, 'line')}: {', '.join(outcomes) or 'none'}")
    if replayed.applied is not None:
        out.say(
            f"{counted(replayed.applied, 'document')} applied, "
            f"{len(replayed.failures):,} FAILED, in {replayed.seconds:.1f} s"
        )
    show_trouble(replayed.delivery, replayed.failures, out, numbered=True)
