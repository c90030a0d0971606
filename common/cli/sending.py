"""Changes as an NDJSON stream that survives interruptions.

Results come back in the order of the lines. After a lost connection the stream is taken up at
the first line that has no result. Lines after it may have been accepted before; they are sent
again in the same order, so each document ends where the feed leaves it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass, field

from common.cli.client import Client
from common.cli.patience import Patience
from common.cli.problems import JSON, ApiError, CommandError, Problem, UnreachableError

Key = tuple[str, str]
"""Namespace and document id."""


@dataclass(frozen=True, slots=True)
class Line:
    """One change. Numbers rise from line to line, and may have gaps."""

    number: int
    document_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A change that was not accepted, and why."""

    line: int
    document_id: str
    problem: Problem

    def as_json(self) -> JSON:
        return {"line": self.line, "document_id": self.document_id, "error": self.problem.as_json()}


@dataclass(slots=True)
class Delivery:
    """What became of the changes so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)
    versions: dict[Key, int] = field(default_factory=dict)
    """The newest version of each document that the changes led to."""

    @property
    def answered(self) -> int:
        return sum(self.outcomes.values()) + len(self.refused)

    def take(self, line: Line, result: JSON) -> None:
        if "error" in result:
            self.refused.append(
                Refusal(line.number, line.document_id, Problem.from_json(result["error"]))
            )
            return
        self.outcomes[str(result["outcome"])] += 1
        key = (str(result["namespace"]), str(result["document_id"]))
        self.versions[key] = max(self.versions.get(key, 0), int(result["version"]))


Source = Callable[[int], Generator[Line, None, None]]
"""Gives the lines from a number on; called again after each interruption."""


class Sender:
    """Sends a source to its end, line by line, through restarts of the service."""

    def __init__(
        self,
        client: Client,
        source: Source,
        patience: Patience,
        on_result: Callable[[Line], None] = lambda _line: None,
    ) -> None:
        self.delivery = Delivery()
        self._client = client
        self._source = source
        self._patience = patience
        self._on_result = on_result
        self._next = 1

    async def send(self) -> Delivery:
        """Raises UnreachableError or ApiError when patience ends, or when the request as a
        whole is refused; `delivery` then says how far it came."""
        self._patience.progress()
        async for attempt in self._patience.attempts():
            with attempt:
                await self._stream()
        return self.delivery

    async def _stream(self) -> None:
        """One connection: from the first line without a result to the end."""
        with closing(self._source(self._next)) as lines:
            first = next(lines, None)
            if first is None:
                return
            flight = _Flight(first, lines)
            async with aclosing(self._client.changes(flight.payloads())) as results:
                async for result in results:
                    self._take(flight, result)
        if flight.broken is not None:
            raise flight.broken
        if flight.unanswered or not flight.ended:
            raise UnreachableError(self._client.url, "the connection ended before the last result")

    def _take(self, flight: _Flight, result: JSON) -> None:
        if not flight.unanswered:
            # Not a line's result: the service says why it ends the feed.
            title = "the service answered a line that it was not sent"
            raise ApiError(Problem.from_json(result.get("error") or {"title": title}))
        line = flight.unanswered[0]
        if "error" in result and Problem.from_json(result["error"]).passing:
            raise ApiError(Problem.from_json(result["error"]))
        flight.unanswered.popleft()
        self.delivery.take(line, result)
        self._next = line.number + 1
        self._patience.progress()
        self._on_result(line)


class _Flight:
    """The lines of one connection: which were sent and have no result yet."""

    def __init__(self, first: Line, rest: Generator[Line, None, None]) -> None:
        self.unanswered: deque[Line] = deque()
        self.ended = False
        self.broken: CommandError | None = None
        """Why the source ended before its end. Kept until the lines before it are answered;
        raised inside the request it would look like a lost connection."""
        self._first = first
        self._rest = rest

    async def payloads(self) -> AsyncIterator[bytes]:
        yield self._sent(self._first)
        try:
            for line in self._rest:
                yield self._sent(line)
                # A socket that takes everything at once would else keep the results unread.
                await asyncio.sleep(0)
        except CommandError as error:
            self.broken = error
        else:
            self.ended = True

    def _sent(self, line: Line) -> bytes:
        # The payload is not kept: in flight is whatever the service reads ahead.
        self.unanswered.append(Line(line.number, line.document_id, b""))
        return line.payload + b"\n"


def encoded(change: JSON) -> bytes:
    """A change as one line of NDJSON, without its line feed."""
    return json.dumps(change, ensure_ascii=False, separators=(",", ":")).encode()
