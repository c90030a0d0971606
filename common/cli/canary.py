"""`bloomweaver canary`: a running service tried out with a document of its own."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from common.cli.canary_run import Canary, Flight, Step, Taken, reason_of
from common.cli.canary_search import Search
from common.cli.client import connect, own_key
from common.cli.output import Output
from common.cli.problems import ExitCode
from common.client.async_client import AsyncClient
from common.client.errors import UnreachableError

TERMINATED = 143
"""As a shell tells it: ended by SIGTERM."""
LONGEST_REQUEST_SECONDS = 30.0

TITLES = {
    Step.REACH: "reach the service",
    Step.INSERT: "put a document",
    Step.FOUND: "find it",
    Step.REPLACE: "replace it",
    Step.REPLACED: "find the new text only",
    Step.DELETE: "delete it",
    Step.GONE: "find it no more",
}

_KEY = "may BLOOMWEAVER_API_KEY read and write the namespace (`bloomweaver keys list`), and what \
does the webhook's log say?"
_FLEET = "does an embedding worker of this namespace's variant start and stay (`bloomweaver \
status`; a group at zero needs some minutes: --timeout-seconds), and what do its log and the \
create and update consumers' say?"
_REMOVAL = "what does the log of the delete consumer say, and is the index in reach \
(`bloomweaver doctor`)?"

LOOK_AT = {
    Step.REACH: "is the address right, and is the webhook running (`bloomweaver doctor`)?",
    Step.INSERT: _KEY,
    Step.FOUND: _FLEET,
    Step.REPLACE: _KEY,
    Step.REPLACED: _FLEET,
    Step.DELETE: _KEY,
    Step.GONE: _REMOVAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryOptions:
    """What the command line says."""

    namespace: str
    timeout_seconds: float
    search: Search


async def canary_command(url: str, options: CanaryOptions, out: Output) -> int:
    interruptions: list[BaseException] = []
    async with (
        connect(url) as looker,
        patient(url, options.timeout_seconds, interruptions) as writer,
    ):
        canary = Canary(
            writer, looker, options.namespace, lambda taken: _show(taken, out), options.search
        )
        with _ended_by_sigterm() as terminated:
            try:
                await canary.fly(options.timeout_seconds)
            except asyncio.CancelledError:
                _report(canary.flight, interruptions, out)
                if not terminated:
                    raise  # Ctrl-C: told as every command tells it
                return TERMINATED
    _report(canary.flight, interruptions, out)
    return exit_code_of(canary.flight)


def patient(url: str, seconds: float, interruptions: list[BaseException]) -> AsyncClient:
    """A client that tries again as long as the flight lasts, and remembers why it had to."""
    return AsyncClient(
        url, api_key=own_key(), timeout_seconds=min(seconds, LONGEST_REQUEST_SECONDS),
        retry_seconds=seconds, on_retry=interruptions.append,
    )  # fmt: skip


@contextmanager
def _ended_by_sigterm() -> Iterator[list[int]]:
    """SIGTERM cancels the current task, as Ctrl-C does; the list then tells so."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told: list[int] = []

    def end() -> None:
        told.append(signal.SIGTERM)
        if task is not None:
            task.cancel()

    # Elsewhere than in the main thread, and on Windows, there are no handlers.
    with suppress(RuntimeError, ValueError, NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield told
    finally:
        with suppress(RuntimeError, ValueError, NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)


def exit_code_of(flight: Flight) -> ExitCode:
    if flight.error is None:
        return ExitCode.DONE
    unreached = flight.step is Step.REACH and isinstance(flight.error, UnreachableError)
    return ExitCode.UNREACHABLE if unreached else ExitCode.FAILED


def _show(taken: Taken, out: Output) -> None:
    line = f"ok  {TITLES[taken.step]:<24}{taken.seconds:>8.2f} s  {taken.detail}"
    if out.as_json:
        out.note(line)
    else:
        out.say(line, "green")


def _report(flight: Flight, interruptions: list[BaseException], out: Output) -> None:
    out.json(flight.as_json())
    if flight.error is None:
        out.say(f"the canary is well: {len(flight.taken)} steps in {flight.seconds:.1f} s")
        return
    head, *more = told(flight, flight.error, interruptions)
    out.note(f"error: {head}", "bold red")
    for line in more:
        out.note(f"  {line}")


def told(flight: Flight, error: BaseException, interruptions: list[BaseException]) -> Iterator[str]:
    """What failed, what is known of it, and what to look at."""
    step = flight.step
    name = f"{flight.namespace}/{flight.document_id}"
    yield f"step `{TITLES[step]}` failed after {flight.seconds:.1f} s: {reason_of(error)}"
    if isinstance(error, TimeoutError) and interruptions:
        yield f"the last interruption: {interruptions[-1]}"
    if flight.refused:
        yield f"the last search was answered: {flight.refused}"
    if flight.standing:
        yield f"{name} stood at {flight.standing}"
    if not isinstance(error, asyncio.CancelledError):
        yield f"look at: {LOOK_AT[step]}"
    if step in (Step.FOUND, Step.REPLACED, Step.GONE):
        where = f"-n {shlex.quote(flight.namespace)}"
        yield f"its life: `bloomweaver status {flight.document_id} --history {where}`"
    if flight.left_behind:
        yield f"{name} could not be deleted ({flight.left_behind}): delete it by hand"
    if flight.cleaned_up:
        yield f"{name} was deleted"
